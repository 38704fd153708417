//! What happened: a ring of records of a fixed size, which a restart and a power cut leave as it
//! is.
//!
//! - [`record`]: the records, and how they are asked for. [`recent`]: the newest of them, in
//!   memory.

pub mod recent;
pub mod record;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunnel::io::clock;

pub use record::{Page, Query, Record, What};

use recent::Recent;

/// The history of this daemon; all clones are one.
#[derive(Clone, Debug)]
pub struct History(Arc<Mutex<Recent>>);

impl History {
    /// One in memory alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(Mutex::new(Recent::new(random_name(), 0))))
    }

    /// Takes what happened just now. It never waits for a disk.
    pub fn note(&self, what: What) {
        let at = u64::try_from(clock::now().wall.as_millis()).unwrap_or(u64::MAX);
        self.recent().push(at, what);
    }

    /// The records that are wanted. It may wait for the disk: not to be called by a thread that
    /// others wait for.
    #[must_use]
    pub fn read(&self, query: &Query) -> Page {
        self.recent().page(query)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a new ring.
fn random_name() -> String {
    let mut bytes = [0; 8];
    // Without randomness the name is the same one: a reader then goes on, which is right as well.
    let _ = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}
