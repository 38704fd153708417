//! When each peer's timers are due: one entry per peer, so that idle ones cost nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::endpoint::PeerId;
use crate::time::Instant;

/// [`Schedule::next`] while nothing is due.
const NEVER: u64 = u64::MAX;

/// Deadlines in order; at most one for each peer.
pub(super) struct Schedule {
    due: Mutex<BTreeSet<(Instant, PeerId)>>,
    /// The earliest, in nanoseconds since boot: a thread that carries packets reads it after every
    /// batch.
    next: AtomicU64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { due: Mutex::default(), next: AtomicU64::new(NEVER) }
    }
}

impl Schedule {
    /// Moves a peer's deadline from `old` to `new`.
    pub(super) fn set(&self, peer: PeerId, old: Option<Instant>, new: Option<Instant>) {
        let mut due = self.due.lock();
        if let Some(old) = old {
            due.remove(&(old, peer));
        }
        if let Some(new) = new {
            due.insert((new, peer));
        }
        let next = due.first().map_or(NEVER, |(at, _)| nanos(*at));
        self.next.store(next, Ordering::SeqCst);
    }

    /// The peers whose deadline has come, earliest first; they stay until their deadline is moved.
    pub(super) fn due(&self, now: Instant) -> Vec<PeerId> {
        self.due.lock().iter().take_while(|(at, _)| *at <= now).map(|(_, peer)| *peer).collect()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        let nanos = self.next.load(Ordering::SeqCst);
        (nanos != NEVER).then(|| Instant::from_boot(Duration::from_nanos(nanos)))
    }
}

/// Nanoseconds since boot; the end of time is never.
fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(NEVER)
}
