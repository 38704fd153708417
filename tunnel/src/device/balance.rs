//! When one thread is enough for both directions, and when it is not.
//!
//! One thread carries a bulk transfer with a tenth less CPU than two: no thread is woken per
//! acknowledgement and no lock is waited for. Two are faster only while both directions are busy
//! and a processor is free for each.

use std::time::Duration;

use crate::time::Instant;

/// How long the load is watched before the work is divided.
const DIVIDE_AFTER: Duration = Duration::from_millis(20);
/// How long before it is joined again: longer, so that it does not flap.
const JOIN_AFTER: Duration = Duration::from_millis(250);
/// Percent of a processor from which on one thread is not enough, and below which two are too many.
const SATURATED: u128 = 90;
const SPARE: u128 = 50;
/// A direction counts as busy when it carries at least one byte for so many of the other.
const DIVIDE_SHARE: u64 = 4;
const JOIN_SHARE: u64 = 8;

/// What the thread that decides has done up to now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) now: Instant,
    /// Time that it ran on a processor.
    pub(super) cpu: Duration,
    /// Bytes carried by both directions, by whichever thread.
    pub(super) bytes: [u64; 2],
}

/// Watches the load and decides when to change.
#[derive(Debug)]
pub(super) struct Balance {
    since: Usage,
}

impl Balance {
    /// Watches from now on.
    pub(super) const fn new(since: Usage) -> Self {
        Self { since }
    }

    /// When [`judge`](Self::judge) has seen enough of work that is, or is not, divided now.
    pub(super) fn due(&self, is_divided: bool) -> Instant {
        self.since.now.after(if is_divided { JOIN_AFTER } else { DIVIDE_AFTER })
    }

    /// Whether the work is to be divided from now on.
    pub(super) fn judge(&mut self, usage: Usage, is_divided: bool) -> bool {
        let before = std::mem::replace(&mut self.since, usage);
        let elapsed = usage.now.since(before.now).as_nanos();
        let percent = usage.cpu.saturating_sub(before.cpu).as_nanos() * 100 / elapsed.max(1);
        let [one, other] = [0, 1].map(|side: usize| {
            let bytes = |usage: &Usage| usage.bytes.get(side).copied().unwrap_or(0);
            bytes(&usage).saturating_sub(bytes(&before))
        });
        let (less, more) = (one.min(other), one.max(other));
        if is_divided {
            percent >= SPARE && less.saturating_mul(JOIN_SHARE) >= more
        } else {
            percent >= SATURATED && less > 0 && less.saturating_mul(DIVIDE_SHARE) >= more
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_busy_both_ways_gets_a_helper_until_it_has_time_to_spare() {
        let mut watch = Watch::new();
        assert!(watch.pass(100, [50, 40]));
        assert!(watch.pass(80, [500, 400]), "still busy");
        assert!(!watch.pass(40, [500, 400]));
    }

    #[test]
    fn bulk_in_one_direction_stays_in_one_thread() {
        let mut watch = Watch::new();
        assert!(!watch.pass(100, [100, 6]));
        assert!(!watch.pass(100, [0, 100]));
        assert!(!watch.pass(100, [0, 0]));
    }

    #[test]
    fn a_thread_that_waits_for_a_processor_gets_no_help() {
        assert!(!Watch::new().pass(80, [50, 50]));
    }

    #[test]
    fn help_ends_with_the_second_direction() {
        let mut watch = Watch::new();
        assert!(watch.pass(95, [1, 1]));
        assert!(!watch.pass(100, [100, 5]));
    }

    #[test]
    fn help_is_given_back_later_than_it_is_given() {
        let balance = Watch::new().balance;
        assert!(balance.due(true) > balance.due(false));
    }

    struct Watch {
        balance: Balance,
        usage: Usage,
        is_divided: bool,
    }

    impl Watch {
        fn new() -> Self {
            let now = Instant::from_boot(Duration::from_secs(9));
            let usage = Usage { now, cpu: Duration::ZERO, bytes: [0; 2] };
            Self { balance: Balance::new(usage), usage, is_divided: false }
        }

        /// Lets time pass under a load in percent of a processor and bytes of both directions.
        fn pass(&mut self, percent: u32, bytes: [u64; 2]) -> bool {
            let due = self.balance.due(self.is_divided);
            self.usage.cpu += due.since(self.usage.now) * percent / 100;
            self.usage.now = due;
            self.usage.bytes = [0, 1].map(|side| self.usage.bytes[side] + bytes[side]);
            self.is_divided = self.balance.judge(self.usage, self.is_divided);
            self.is_divided
        }
    }
}
