//! Whether to look again for a moment before going to sleep.
//!
//! To be woken costs more than to carry a small packet: on a virtual machine, or from a deep sleep of the processor, tens
//! of microseconds, which a question and its answer pay at every hop. Whoever has had short waits of late therefore looks
//! on for one more such wait. A thread that carries bulk sleeps at once: what comes meanwhile is joined, which saves more
//! than being there would, and nobody feels the difference.

use std::time::Duration;

/// Waits remembered.
const REMEMBERED: u32 = 8;
/// How many of those must have been short.
const MOSTLY: u32 = 6;
/// A wait of this length says that the conversation is over, whatever was before.
const PAUSE: Duration = Duration::from_millis(1);
/// Looking that took so long says that somebody else had the processor meanwhile.
const CROWDED: Duration = Duration::from_micros(500);
/// Waits without looking after that: a sleeper is let in before those who keep a processor busy, who looks on is not.
const ABSTAIN: u8 = 255;

/// How a thread's last waits were, and what follows for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyPoll {
    /// A bit for each wait, the newest lowest: set when it was short.
    short: u8,
    /// Waits that are left without looking.
    abstains: u8,
}

const _: () = assert!(u8::BITS == REMEMBERED);

impl BusyPoll {
    /// The longest time spent looking before a sleep. Each pause costs it once at most, after a conversation of at least six
    /// packets.
    pub const LIMIT: Duration = Duration::from_micros(100);

    /// How long to look for something before sleeping; zero for not at all.
    #[must_use]
    pub const fn window(self) -> Duration {
        if self.abstains == 0 && self.short.count_ones() >= MOSTLY { Self::LIMIT } else { Duration::ZERO }
    }

    /// Something came after so long, looked for or slept for.
    pub fn handle_wait(&mut self, waited: Duration) {
        self.abstains = self.abstains.saturating_sub(1);
        self.short = match waited {
            _ if waited >= PAUSE => 0,
            _ => self.short << 1 | u8::from(waited <= Self::LIMIT),
        };
    }

    /// The look at the beginning of a wait took so long, whatever it found.
    pub fn handle_look(&mut self, took: Duration) {
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
    fn a_conversation_of_short_waits_is_followed_closely() {
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
    fn who_waits_long_as_often_as_not_sleeps_at_once() {
        let mut poll = BusyPoll::default();
        for _ in 0..100 {
            poll.handle_wait(SHORT);
            poll.handle_wait(LONGER);
            assert_eq!(poll.window(), Duration::ZERO);
        }
    }

    #[test]
    fn where_others_want_the_processor_it_sleeps_for_the_next_255_waits() {
        let mut poll = BusyPoll::default();
        (0..20).for_each(|_| poll.handle_wait(SHORT));
        poll.handle_look(SHORT);
        assert_eq!(poll.window(), BusyPoll::LIMIT);
        poll.handle_look(CROWDED);
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
