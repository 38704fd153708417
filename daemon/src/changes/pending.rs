//! A change that is rolled back automatically unless it is confirmed in time, even if the daemon or
//! the machine restarts meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tunnel::time::Now;

use crate::files;

/// A point in time as both clocks have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot of the machine; empty where the system has no name for it.
    pub boot: String,
    /// Since that boot, suspended time included.
    pub since_boot: Duration,
    /// Since the UNIX epoch.
    pub wall: Duration,
}

/// The change, as the operator's command keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// A name that no other change has.
    pub id: String,
    /// The configuration that was applied.
    pub text: String,
    /// The configuration before it.
    pub previous: String,
    /// When it was applied.
    pub applied: Moment,
    /// How long it may stay without a confirmation.
    #[serde(alias = "patience")]
    pub confirm_within: Duration,
}

/// The outcome of a change that needs a confirmation, as the daemon keeps it in its own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The change.
    pub id: String,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The outcome of a change that needs a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in force, or about to be.
    Begun,
    /// It was confirmed.
    Confirmed,
    /// It was rolled back.
    #[serde(alias = "taken_back")]
    RolledBack,
}

/// Where the daemon keeps the outcome of the last such change.
#[derive(Clone, Debug)]
pub struct Trials {
    file: PathBuf,
}

impl Trials {
    /// Those of a state folder.
    #[must_use]
    pub fn of(state_folder: &Path) -> Self {
        Self { file: state_folder.join("trial.json") }
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<Trial> {
        files::read_json(&self.file)
    }

    /// Notes one.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep(&self, trial: &Trial) -> io::Result<()> {
        if self.last().as_ref() == Some(trial) {
            return Ok(());
        }
        files::replace_json(&self.file, trial)
    }

    /// Forgets a change that never began.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn forget(&self) -> io::Result<()> {
        files::remove(&self.file)
    }
}

impl Moment {
    /// Now, by both clocks.
    #[must_use]
    pub fn now() -> Self {
        let Now { instant, wall } = tunnel::io::clock::now();
        let boot = boot_id();
        Self { boot: boot.trim().to_owned(), since_boot: instant.since_boot(), wall }
    }
}

/// The name of this boot; empty where there is none, and then every start counts as the same boot.
fn boot_id() -> String {
    #[cfg(target_os = "linux")]
    return std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    #[cfg(not(target_os = "linux"))]
    return String::new();
}

impl Pending {
    /// How long it may still stay; `None` when its time is over.
    ///
    /// After a reboot only the wall clock is left. A wall clock before the change cannot be right,
    /// as on a machine without a clock; the time then counts as over, since rolling back is safe.
    #[must_use]
    pub fn remaining(&self, now: &Moment) -> Option<Duration> {
        let gone = if now.boot == self.applied.boot {
            now.since_boot.checked_sub(self.applied.since_boot)
        } else {
            now.wall.checked_sub(self.applied.wall)
        };
        self.confirm_within.checked_sub(gone?).filter(|left| !left.is_zero())
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
    fn after_a_reboot_the_wall_clock_decides() {
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
            id: "1".to_owned(),
            text: "new".to_owned(),
            previous: "old".to_owned(),
            applied: at("one", 100, 1_000),
            confirm_within: 60 * SECOND,
        }
    }

    fn at(boot: &str, since_boot: u32, wall: u32) -> Moment {
        Moment { boot: boot.to_owned(), since_boot: since_boot * SECOND, wall: wall * SECOND }
    }
}
