//! What the daemon remembers across restarts: the clock mark.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tunnel::time::is_believable;

/// Where the highest wall clock ever used in a handshake is kept; written off the data thread.
pub struct StateFile {
    marks: SyncSender<Duration>,
}

/// Marks that may wait to be written; each replaces those before it.
const MAX_WAITING: usize = 4;

impl StateFile {
    /// Reads the mark in `folder` and starts the thread that writes the next ones. Zero when there is none, or none that
    /// can be read: a session does not depend on it.
    ///
    /// # Errors
    /// When the folder cannot be made, or no thread can be started.
    pub fn open(folder: &Path) -> io::Result<(Self, Duration)> {
        fs::create_dir_all(folder)?;
        let file = folder.join("clock");
        let mark = read(&file);
        let (marks, waiting) = sync_channel::<Duration>(MAX_WAITING);
        thread::Builder::new().name("fw-state".into()).spawn(move || {
            while let Ok(mark) = waiting.recv() {
                let latest = waiting.try_iter().last().unwrap_or(mark);
                if let Err(error) = write(&file, latest) {
                    tracing::warn!(file = %file.display(), %error, "the clock mark could not be written");
                }
            }
        })?;
        Ok((Self { marks }, mark))
    }

    /// Keeps a new mark; it lies ahead of the clock, so that writing it may take its time.
    pub fn save_watermark(&self, wall: Duration) {
        // A full queue holds older marks; the next one comes soon.
        let _ = self.marks.try_send(wall);
    }
}

/// Replaces the file in one step: it holds the old mark or the new one, whatever happens.
fn write(file: &PathBuf, mark: Duration) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = fs::File::create(&new)?;
    writeln!(written, "{}.{:09}", mark.as_secs(), mark.subsec_nanos())?;
    written.sync_all()?;
    fs::rename(&new, file)
}

fn read(file: &Path) -> Duration {
    let error = match fs::read_to_string(file) {
        Ok(text) => match parse(&text).filter(|mark| is_believable(*mark)) {
            Some(mark) => return mark,
            None => io::Error::new(io::ErrorKind::InvalidData, "it holds no time"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Duration::ZERO,
        Err(error) => error,
    };
    tracing::info!(file = %file.display(), %error, "the clock mark is damaged and counts as none");
    Duration::ZERO
}

fn parse(text: &str) -> Option<Duration> {
    let (seconds, nanos) = text.trim().split_once('.')?;
    let nanos: u32 = nanos.parse().ok()?;
    (nanos < 1_000_000_000).then_some(())?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Duration::new(1_790_000_000, 42);
        write(&folder.path().join("clock"), mark).unwrap();
        assert_eq!(StateFile::open(folder.path()).unwrap().1, mark);
    }

    #[test]
    fn without_a_file_the_mark_is_zero() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(StateFile::open(&folder.path().join("new")).unwrap().1, Duration::ZERO);
    }

    #[test]
    fn a_damaged_mark_counts_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock");
        let past_all_clocks = "18446744073709551615.999999999";
        for text in ["", "yesterday", "12", "1.9999999999", past_all_clocks, "9223372036854775808.0"] {
            fs::write(&file, text).unwrap();
            assert_eq!(StateFile::open(folder.path()).unwrap().1, Duration::ZERO, "{text:?}");
        }
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert_eq!(StateFile::open(folder.path()).unwrap().1, Duration::ZERO, "no text");
        write(&file, Duration::from_secs(1_790_000_000)).unwrap();
        assert_eq!(StateFile::open(folder.path()).unwrap().1, Duration::from_secs(1_790_000_000));
    }
}
