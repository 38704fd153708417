//! The thread that writes the history: nothing else of the daemon waits for the disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use super::shared::Shared;
use super::store::{SIZE, Store};
use crate::files::fix_of_write;

/// How long after a failed write the next one is tried.
const RETRY: Duration = Duration::from_secs(60);

/// The writer's own state.
pub(super) struct Writer {
    folder: PathBuf,
    shared: Arc<Shared>,
    store: Option<Store>,
}

impl Writer {
    pub(super) const fn new(folder: PathBuf, shared: Arc<Shared>, store: Option<Store>) -> Self {
        Self { folder, shared, store }
    }

    /// Writes what is noted until the history is dropped.
    pub(super) fn run(mut self) {
        while let Some(records) = self.shared.wait_for_records() {
            if let Err(error) = self.write(&records) {
                self.store = None;
                self.shared.handle_failure(problem(&self.folder, &error));
                self.shared.wait_until_closed(RETRY);
            }
        }
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let Some(store) = &mut self.store else {
            let store = self.store.insert(Store::open(&self.folder, SIZE, super::random())?);
            // The records may be others now: they are asked for again.
            self.shared.adopt(store);
            return Ok(());
        };
        store.write(records)?;
        let last = records.last().map_or(0, |record| record.number);
        self.shared.handle_written(last, store);
        Ok(())
    }
}

/// What is wrong with the folder, and how to fix it.
pub(super) fn problem(folder: &std::path::Path, error: &io::Error) -> String {
    let fix = fix_of_write(error, "give the daemon's user permission to write it");
    let folder = folder.display();
    format!("the history is kept in memory alone: {folder} cannot be written: {error}; {fix}")
}
