//! Checks of the kernel that fail: what is reported, and when the next check follows.

use std::time::Duration;

/// The time until the check after the first one that failed; it doubles with each further one.
pub(in crate::edge) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two checks while they fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A check that takes so long before it fails does not fail over something temporary.
const LONG: Duration = Duration::from_secs(2);

/// The failed checks since the last one that succeeded.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// Checks that failed since the start.
    pub(super) total: u64,
    /// Those in a row.
    in_row: u32,
    /// Why the last one failed.
    reason: String,
    is_warned: bool,
}

impl Failing {
    /// Counts a check that failed after `lasted`; whether to warn of it, once until one does not
    /// fail.
    ///
    /// The first may fail over something temporary, such as a link that is removed during the
    /// check.
    pub(super) fn handle_failure(&mut self, reason: String, lasted: Duration) -> bool {
        self.total += 1;
        self.in_row = self.in_row.saturating_add(1);
        self.reason = reason;
        let is_due = !self.is_warned && (self.in_row > 1 || lasted > LONG);
        self.is_warned |= is_due;
        is_due
    }

    /// Whether to log that checks work again.
    pub(super) fn handle_success(&mut self) -> bool {
        self.in_row = 0;
        std::mem::take(&mut self.is_warned)
    }

    /// Whether the last check failed.
    pub(super) const fn is_on(&self) -> bool {
        self.in_row > 0
    }

    /// The time until the next check; `None` when the last one did not fail.
    pub(super) fn pause(&self) -> Option<Duration> {
        let doublings = self.in_row.checked_sub(1)?;
        Some((FIRST_PAUSE * (1 << doublings.min(8))).min(LONGEST_PAUSE))
    }

    /// What is wrong, while it is.
    pub(super) fn problem(&self) -> Option<String> {
        self.is_on().then(|| {
            format!(
                "rules, routes or switches of the edge cannot be checked or put back: {}; the edge tries again every {} s at least",
                self.reason,
                LONGEST_PAUSE.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_follows_after_1_2_4_8_and_then_every_10_seconds_until_one_works() {
        let mut failing = Failing::default();
        assert_eq!(failing.pause(), None);
        for seconds in [1, 2, 4, 8, 10, 10] {
            failing.handle_failure("nft hangs".to_owned(), Duration::ZERO);
            assert_eq!(failing.pause(), Some(Duration::from_secs(seconds)));
        }
        for _ in 0..1000 {
            failing.handle_failure("nft hangs".to_owned(), Duration::ZERO);
        }
        assert_eq!(failing.pause(), Some(LONGEST_PAUSE));
        assert!(failing.problem().unwrap().contains("nft hangs"));
        failing.handle_success();
        assert_eq!((failing.pause(), failing.problem(), failing.total), (None, None, 1006));
        failing.handle_failure("nft hangs".to_owned(), Duration::ZERO);
        assert_eq!(failing.pause(), Some(FIRST_PAUSE));
    }

    #[test]
    fn it_is_warned_of_once_when_it_does_not_pass_and_logged_once_when_it_is_over() {
        let mut failing = Failing::default();
        let fail = |failing: &mut Failing, seconds| {
            failing.handle_failure("no".to_owned(), Duration::from_secs(seconds))
        };
        assert!(!fail(&mut failing, 0));
        assert!(!failing.handle_success(), "the end of what was not warned of is not logged");
        let warnings: Vec<_> = (0..5).map(|_| fail(&mut failing, 0)).collect();
        assert_eq!(warnings, [false, true, false, false, false]);
        assert!(failing.handle_success() && !failing.handle_success());
        assert!(fail(&mut failing, 20), "a check that hung is warned of at once");
    }
}
