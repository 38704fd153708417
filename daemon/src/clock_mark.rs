//! The highest wall clock that a handshake was ever stamped with, kept across restarts.
//!
//! A peer refuses a handshake that is stamped earlier than the last one it saw, so stamps never go
//! back. A mark that is missing or damaged counts as none: it is never a reason not to start.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tunnel::time::is_believable;

use crate::files;

/// The file's name in a state folder.
const NAME: &str = "clock.json";
/// Its name in the forwarder's folder until 0.1, where it was a text: seconds, a point,
/// nanoseconds.
const OLD_NAME: &str = "clock";

/// The mark of one state folder.
#[derive(Clone, Debug)]
pub struct ClockMark {
    folder: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    highest_seconds: u64,
    highest_nanoseconds: u32,
}

impl ClockMark {
    /// The mark in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The mark; zero when there is none, or none that a clock can have reached.
    #[must_use]
    pub fn read(&self) -> Duration {
        for (name, parse) in [(NAME, stored as fn(&[u8]) -> Option<Duration>), (OLD_NAME, old)] {
            let file = self.folder.join(name);
            let bytes = match files::read(&file) {
                Ok(None) => continue,
                Ok(Some(bytes)) => bytes,
                Err(_) => Vec::new(),
            };
            return parse(&bytes).filter(|mark| is_believable(*mark)).unwrap_or_else(|| {
                tracing::info!(file = %file.display(), "the clock mark is damaged and counts as none");
                Duration::ZERO
            });
        }
        Duration::ZERO
    }

    /// Keeps the mark.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, wall: Duration) -> io::Result<()> {
        let stored = Stored { highest_seconds: wall.as_secs(), highest_nanoseconds: wall.subsec_nanos() };
        files::replace_json(&self.folder.join(NAME), &stored)
    }
}

fn stored(bytes: &[u8]) -> Option<Duration> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let nanoseconds = Duration::from_nanos(stored.highest_nanoseconds.into());
    Duration::from_secs(stored.highest_seconds).checked_add(nanoseconds)
}

fn old(bytes: &[u8]) -> Option<Duration> {
    let (seconds, nanoseconds) = std::str::from_utf8(bytes).ok()?.trim().split_once('.')?;
    let nanoseconds = nanoseconds.parse().ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
    Some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mark = ClockMark::of(folder.path());
        assert_eq!(mark.read(), Duration::ZERO, "without a file");
        mark.write(Duration::new(1_790_000_000, 42)).unwrap();
        assert_eq!(mark.read(), Duration::new(1_790_000_000, 42));
    }

    #[test]
    fn the_mark_of_an_older_forwarder_counts_until_a_new_one_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mark = ClockMark::of(folder.path());
        fs::write(folder.path().join(OLD_NAME), "1790000000.000000042\n").unwrap();
        assert_eq!(mark.read(), Duration::new(1_790_000_000, 42));
        mark.write(Duration::from_secs(1_790_000_100)).unwrap();
        assert_eq!(mark.read(), Duration::from_secs(1_790_000_100));
    }

    #[test]
    fn a_damaged_mark_counts_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mark = ClockMark::of(folder.path());
        let past_all_clocks = r#"{"highest_seconds":18446744073709551615,"highest_nanoseconds":4294967295}"#;
        let centuries = r#"{"highest_seconds":9223372036854775808,"highest_nanoseconds":0}"#;
        for text in ["", "{", "[]", r#"{"highest_seconds":-1}"#, past_all_clocks, centuries] {
            fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(mark.read(), Duration::ZERO, "{text}");
        }
        mark.write(Duration::from_secs(1_790_000_000)).unwrap();
        assert_eq!(mark.read(), Duration::from_secs(1_790_000_000));
        fs::remove_file(folder.path().join(NAME)).unwrap();
        fs::create_dir(folder.path().join(NAME)).unwrap();
        assert_eq!(mark.read(), Duration::ZERO, "a folder");
        fs::remove_dir(folder.path().join(NAME)).unwrap();
        for text in ["yesterday", "12", "1.9999999999", "18446744073709551615.999999999"] {
            fs::write(folder.path().join(OLD_NAME), text).unwrap();
            assert_eq!(mark.read(), Duration::ZERO, "{text}");
        }
    }
}
