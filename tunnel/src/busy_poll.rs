//! Whether to busy-poll for a moment before sleeping.
//!
//! A wake-up costs more than carrying a small packet: on a virtual machine, or from a deep sleep
//! state of the processor, tens of microseconds, which a request and its response pay at every hop.
//! A thread whose last waits were short therefore polls for as long as one more such wait. A thread
//! that carries bulk sleeps at once: what comes meanwhile is joined, which saves more than busy
//! polling would, and makes no difference to a bulk transfer.

use std::time::Duration;

/// Waits remembered.
const REMEMBERED: u32 = 8;
/// How many of those must have been short.
const MOSTLY: u32 = 6;
/// A wait of this length ends the request/response traffic, whatever was before.
const PAUSE: Duration = Duration::from_millis(1);
/// Busy polling that took so long shows that another thread had the processor meanwhile.
const CROWDED: Duration = Duration::from_micros(500);
/// Waits without busy polling after that: the scheduler prefers a thread that slept to those that
/// keep a processor busy.
const ABSTAIN: u8 = 255;

/// How long a thread's last waits were, and whether to busy-poll in the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyPoll {
    /// A bit for each wait, the newest lowest: set when it was short.
    short: u8,
    /// Waits that are left without busy polling.
    abstains: u8,
}

const _: () = assert!(u8::BITS == REMEMBERED);

impl BusyPoll {
    /// The longest busy poll before a sleep. Each pause costs it once at most, after
    /// request/response traffic of at least six packets.
    pub const LIMIT: Duration = Duration::from_micros(100);

    /// How long to busy-poll before sleeping; zero for not at all.
    #[must_use]
    pub const fn window(self) -> Duration {
        if self.abstains == 0 && self.short.count_ones() >= MOSTLY { Self::LIMIT } else { Duration::ZERO }
    }

    /// Something came after so long, whether polling or asleep.
    pub fn handle_wait(&mut self, waited: Duration) {
        self.abstains = self.abstains.saturating_sub(1);
        self.short = match waited {
            _ if waited >= PAUSE => 0,
            _ => self.short << 1 | u8::from(waited <= Self::LIMIT),
        };
    }

    /// The busy poll at the beginning of a wait took so long, whatever it found.
    pub fn handle_poll(&mut self, took: Duration) {
        if took >= CROWDED {
            self.abstains = ABSTAIN;
        }
    }

    /// What was just carried is part of something large.
    pub const fn handle_bulk(&mut self) {
        self.short = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(40);
    const LONGER: Duration = Duration::from_micros(400);

    #[test]
    fn after_short_waits_it_busy_polls() {
        let mut poll = BusyPoll::default();
        for _ in 0..MOSTLY {
            assert_eq!(poll.window(), Duration::ZERO);
            poll.handle_wait(SHORT);
        }
        assert_eq!(poll.window(), BusyPoll::LIMIT);
        poll.handle_wait(LONGER);
        assert_eq!(poll.window(), BusyPoll::LIMIT, "one wait in eight may be longer");
    }

    #[test]
    fn a_thread_that_waits_long_every_other_time_sleeps_at_once() {
        let mut poll = BusyPoll::default();
        for _ in 0..100 {
            poll.handle_wait(SHORT);
            poll.handle_wait(LONGER);
            assert_eq!(poll.window(), Duration::ZERO);
        }
    }

    #[test]
    fn where_other_threads_want_the_processor_it_sleeps_for_the_next_255_waits() {
        let mut poll = BusyPoll::default();
        (0..20).for_each(|_| poll.handle_wait(SHORT));
        poll.handle_poll(SHORT);
        assert_eq!(poll.window(), BusyPoll::LIMIT);
        poll.handle_poll(CROWDED);
        for _ in 0..ABSTAIN {
            assert_eq!(poll.window(), Duration::ZERO);
            poll.handle_wait(SHORT);
        }
        assert_eq!(poll.window(), BusyPoll::LIMIT);
    }

    #[test]
    fn a_pause_and_a_bulk_transfer_each_end_it_at_once() {
        for end in [|poll: &mut BusyPoll| poll.handle_wait(PAUSE), BusyPoll::handle_bulk] {
            let mut poll = BusyPoll::default();
            (0..20).for_each(|_| poll.handle_wait(SHORT));
            end(&mut poll);
            assert_eq!(poll, BusyPoll::default());
        }
    }
}
