//! What happened: a ring of records of a fixed size, which a restart and a power cut leave as it
//! is.
//!
//! - [`record`]: the records, and how they are asked for. [`recent`]: the newest of them, in
//!   memory.
//! - [`frame`] and [`minute`]: records as bytes. [`store`]: the files, of 8 MiB in all.
//! - [`observer`]: what is another than before, as records.
//! - [`outages`]: records of both ends, causes before symptoms. [`text`]: records for people.
//! - `shared` and `writer`: the thread that alone waits for the disk, and what it shares.
//!
//! What happened is on the disk at once, a minute of measurements when it is over: a power cut
//! takes the last minute at most. A disk that cannot be written is a problem to show; nothing waits
//! for it.

pub mod frame;
pub mod minute;
pub mod observer;
pub mod outages;
pub mod recent;
pub mod record;
mod shared;
pub mod store;
pub mod text;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tunnel::io::clock;

pub use record::{Page, Query, Record, UPGRADE, What};
pub use shared::Counts;

use crate::metrics::Number;
use shared::Shared;
use store::{SIZE, Store};
use writer::Writer;

/// The folder of the history in a state folder.
const FOLDER: &str = "history";
/// How long the end of the daemon waits for the disk.
const FLUSH: Duration = Duration::from_secs(2);

/// The history of this daemon; all clones are one.
#[derive(Clone, Debug)]
pub struct History(Arc<Handle>);

/// Ends the writer with the last clone.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl History {
    /// One in memory alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(Handle(Arc::new(Shared::new(None, false, random())))))
    }

    /// The history in a state folder. Where that cannot be written, it is in memory until it can.
    #[must_use]
    pub fn open(state: &Path) -> Self {
        let folder = state.join(FOLDER);
        let opened = Store::open(&folder, SIZE, random());
        let shared = Arc::new(Shared::new(opened.as_ref().ok(), true, random()));
        let store = opened.map_err(|error| shared.handle_failure(writer::problem(&folder, &error))).ok();
        let writer = Writer::new(folder.clone(), Arc::clone(&shared), store);
        let thread = thread::Builder::new().name("history".into()).spawn(move || writer.run());
        if let Err(error) = thread {
            shared.handle_failure(writer::problem(&folder, &error));
        }
        Self(Arc::new(Handle(shared)))
    }

    /// Takes what happened just now. It never waits for the disk.
    pub fn note(&self, what: What) {
        self.0.0.push(wall_millis(), what);
    }

    /// The records that are wanted. It may wait for the disk: not to be called by a thread that
    /// others wait for.
    #[must_use]
    pub fn read(&self, query: &Query) -> Page {
        self.0.0.read(query)
    }

    /// What happened lately, without minutes, oldest first: at most 512 records, from memory.
    #[must_use]
    pub fn lately(&self, query: &Query) -> Vec<Record> {
        self.0.0.lately(query)
    }

    /// Waits until what was noted is on the disk, two seconds at most.
    pub fn flush(&self) {
        self.0.0.flush(FLUSH);
    }

    /// Writes nothing more: another process of the same daemon does. What is noted from now on is in
    /// memory alone.
    pub fn close(&self) {
        self.0.0.close();
    }

    /// What is wrong with the files, and how to fix it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.0.0.problem()
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.0.counts()
    }

    /// Its metrics; their names begin with `role`.
    #[must_use]
    pub fn numbers(&self, role: &str) -> Vec<Number> {
        let Counts { records, lost, written_bytes, bytes } = self.counts();
        let name = |rest| format!("{role}_history_{rest}");
        let counter = |rest, help, value| Number::counter(name(rest), help, value);
        vec![
            counter("records_total", "Records of the history since the start.", records),
            counter("lost_total", "Records that were given up before they were on the disk.", lost),
            counter("written_bytes_total", "Bytes that the history wrote since the start.", written_bytes),
            Number::count(name("bytes"), "Bytes of the history's files; 8 MiB at most.", bytes),
            Number::flag(name("failing"), "Whether the history cannot be written.", self.problem().is_some()),
        ]
    }
}

/// The record of a change of the configuration, as its plan lists it.
#[must_use]
pub fn applied(how: &str, changes: &[policy::plan::Change]) -> What {
    What::Applied {
        how: how.to_owned(),
        changes: u32::try_from(changes.len()).unwrap_or(u32::MAX),
        summary: changes.iter().take(record::MAX_SUMMARY).map(|change| change.line.clone()).collect(),
    }
}

/// This machine's clock, in Unix milliseconds.
#[must_use]
pub fn wall_millis() -> u64 {
    u64::try_from(clock::now().wall.as_millis()).unwrap_or(u64::MAX)
}

/// The name of a new ring.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the name is the same one: a reader then goes on, which is right as well.
    let _ = getrandom::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
