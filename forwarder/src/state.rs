//! What the daemon remembers across restarts: the clock mark, written off the data thread.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use daemon::clock_mark::ClockMark;

/// Marks that may wait to be written; each replaces those before it.
const MAX_WAITING: usize = 4;

/// The thread that writes marks.
pub struct MarkWriter {
    marks: SyncSender<Duration>,
}

impl MarkWriter {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mark: ClockMark) -> io::Result<Self> {
        let (marks, waiting) = sync_channel::<Duration>(MAX_WAITING);
        thread::Builder::new().name("fw-state".into()).spawn(move || {
            while let Ok(wall) = waiting.recv() {
                let latest = waiting.try_iter().last().unwrap_or(wall);
                if let Err(error) = mark.write(latest) {
                    tracing::warn!(%error, "the clock mark could not be written");
                }
            }
        })?;
        Ok(Self { marks })
    }

    /// Keeps a new mark; it lies ahead of the clock, so that writing it may take its time.
    pub fn save(&self, wall: Duration) {
        // A full queue holds older marks; the next one comes soon.
        let _ = self.marks.try_send(wall);
    }
}
