//! What the daemon remembers across restarts: the clock mark.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Where the highest wall clock ever used in a handshake is kept; written off the data thread.
pub struct StateFile {
    marks: SyncSender<Duration>,
}

/// Marks that may wait to be written; each replaces those before it.
const MAX_WAITING: usize = 4;

impl StateFile {
    /// Reads the mark in `folder` and starts the thread that writes the next ones. Zero when there is none.
    ///
    /// # Errors
    /// When the folder cannot be made, the file holds something else, or no thread can be started.
    pub fn open(folder: &Path) -> io::Result<(Self, Duration)> {
        fs::create_dir_all(folder)?;
        let file = folder.join("clock");
        let mark = match fs::read_to_string(&file) {
            Ok(text) => parse(&text).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no clock mark", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Duration::ZERO,
            Err(error) => return Err(error),
        };
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
    fn anything_else_in_the_file_is_an_error() {
        for text in ["", "yesterday", "12", "1.9999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
