//! A change that goes back by itself unless it is confirmed in time, also over a restart of daemon or machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time as both clocks tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot of the machine; `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Since that boot, suspended time included.
    pub since_boot: Duration,
    /// Since the UNIX epoch.
    pub wall: Duration,
}

/// The change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The configuration that was applied.
    pub text: String,
    /// The configuration before it.
    pub previous: String,
    /// When it was applied.
    pub applied: Moment,
    /// How long it may stay without a confirmation.
    pub patience: Duration,
}

impl Pending {
    /// How long it may still stay; `None` when its time is over.
    ///
    /// After a reboot only the wall clock can tell. One that lies before the change cannot be right, as on a machine
    /// without a clock, and then the time counts as over: going back is what is safe.
    #[must_use]
    pub fn remaining(&self, now: &Moment) -> Option<Duration> {
        let gone = if now.boot == self.applied.boot {
            now.since_boot.checked_sub(self.applied.since_boot)
        } else {
            now.wall.checked_sub(self.applied.wall)
        };
        self.patience.checked_sub(gone?).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let pending = pending();
        assert_eq!(pending.remaining(&at("one", 120, 5)), Some(40 * SECOND));
        assert_eq!(pending.remaining(&at("one", 160, 1_020)), None);
    }

    #[test]
    fn after_a_reboot_the_wall_clock_tells() {
        let pending = pending();
        assert_eq!(pending.remaining(&at("two", 3, 1_050)), Some(10 * SECOND));
        assert_eq!(pending.remaining(&at("two", 3, 1_060)), None);
    }

    #[test]
    fn a_clock_before_the_change_takes_it_back() {
        assert_eq!(pending().remaining(&at("two", 3, 999)), None);
        assert_eq!(pending().remaining(&at("one", 99, 1_000)), None);
    }

    fn pending() -> Pending {
        Pending {
            text: "new".to_owned(),
            previous: "old".to_owned(),
            applied: at("one", 100, 1_000),
            patience: 60 * SECOND,
        }
    }

    fn at(boot: &str, since_boot: u32, wall: u32) -> Moment {
        Moment { boot: boot.to_owned(), since_boot: since_boot * SECOND, wall: wall * SECOND }
    }
}
