//! How the calls of one kind end: a single error is logged at most, errors that continue are a
//! problem.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use super::clock;
use crate::time::Instant;

/// Failures in a row, without a success between them, from which on calls may count as failing.
const MANY: u64 = 16;
/// How long they must have continued.
const LONG: Duration = Duration::from_secs(1);
/// After so long without another failure nothing is known to be wrong any more: no call was made.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Errors of a call that works: there is nothing to do, or the call reports an ICMP error about an
/// earlier datagram.
const PASSED_ON: [io::ErrorKind; 4] = [
    io::ErrorKind::WouldBlock,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::HostUnreachable,
    io::ErrorKind::NetworkUnreachable,
];

/// How the calls of one kind have ended, for example reads of a device. The threads that make them
/// write it, any thread reads it.
#[derive(Debug, Default)]
pub struct Outcomes {
    errors: AtomicU64,
    /// Failures since the last success.
    in_a_row: AtomicU64,
    /// When the first and the last of those were, in nanoseconds since boot.
    first: AtomicU64,
    last: AtomicU64,
    code: AtomicI32,
}

/// Calls that keep failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The last error, as the system numbers it.
    pub code: i32,
    /// Failures in a row.
    pub in_a_row: u64,
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.code))
    }
}

impl Outcomes {
    /// Notes a call that did its work.
    #[inline]
    pub fn record_success(&self) {
        // A load of what is not written while all is well costs nothing; a store would.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a call that failed. That there is nothing to do is a success, and so is the report of
    /// a far end that refuses or cannot be reached; a signal is neither.
    pub fn record_error(&self, error: &io::Error) {
        let kind = error.kind();
        if PASSED_ON.contains(&kind) {
            self.record_success();
        } else if kind != io::ErrorKind::Interrupted {
            self.record_failure(error.raw_os_error().unwrap_or(0), clock::instant());
        }
    }

    #[cold]
    fn record_failure(&self, code: i32, now: Instant) {
        let now = u64::try_from(now.since_boot().as_nanos()).unwrap_or(u64::MAX);
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.code.store(code, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        if self.in_a_row.load(Ordering::Relaxed) == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that failed since the beginning.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The last error as the system numbers it, 0 when there was none.
    #[must_use]
    pub fn last_error(&self) -> i32 {
        self.code.load(Ordering::Relaxed)
    }

    /// Whether the calls keep failing: at least 16 in a row, over a second or more, the last of
    /// them within a minute.
    #[must_use]
    pub fn failing(&self, now: Instant) -> Option<Failing> {
        let at = |time: &AtomicU64| Instant::from_boot(Duration::from_nanos(time.load(Ordering::Relaxed)));
        let (first, last) = (at(&self.first), at(&self.last));
        let in_a_row = self.in_a_row.load(Ordering::Relaxed);
        let is_failing = in_a_row >= MANY && last.since(first) >= LONG && now.since(last) < FORGOTTEN;
        is_failing.then(|| Failing { code: self.code.load(Ordering::Relaxed), in_a_row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_now_and_then_is_no_problem() {
        let outcomes = Outcomes::default();
        for second in 0..100 {
            outcomes.record_failure(libc::EIO, at(second * 1000));
            outcomes.record_success();
        }
        assert_eq!((outcomes.failing(at(100_000)), outcomes.errors()), (None, 100));
    }

    #[test]
    fn many_errors_at_once_are_none_yet() {
        let outcomes = Outcomes::default();
        for _ in 0..1000 {
            outcomes.record_failure(libc::EIO, at(5));
        }
        assert_eq!(outcomes.failing(at(6)), None);
    }

    #[test]
    fn errors_that_go_on_are_a_problem_until_a_call_succeeds() {
        let outcomes = failing_from(0);
        let failing = outcomes.failing(at(1500)).unwrap();
        assert_eq!((failing.code, failing.in_a_row), (libc::EOPNOTSUPP, MANY));
        assert!(failing.to_string().contains("not supported"));

        outcomes.record_error(&io::ErrorKind::Interrupted.into());
        assert!(outcomes.failing(at(1500)).is_some(), "a signal is no success");
        outcomes.record_error(&io::ErrorKind::WouldBlock.into());
        assert_eq!(outcomes.failing(at(1500)), None, "the call works, there is only nothing to read");
    }

    #[test]
    fn a_problem_is_over_when_no_call_was_made_for_a_minute() {
        let outcomes = failing_from(0);
        assert!(outcomes.failing(at(61_000)).is_some());
        assert_eq!(outcomes.failing(at(61_500)), None);
    }

    #[test]
    fn a_far_end_that_refuses_is_no_failing_call() {
        for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            let outcomes = failing_from(0);
            outcomes.record_error(&io::Error::from_raw_os_error(code));
            assert_eq!((outcomes.failing(at(1500)), outcomes.errors()), (None, MANY));
        }
    }

    fn failing_from(begin: u64) -> Outcomes {
        let outcomes = Outcomes::default();
        for number in 0..MANY {
            outcomes.record_failure(libc::EOPNOTSUPP, at(begin + number * 100));
        }
        outcomes
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }
}
