//! Which peer must be looked at when: one entry per peer, so that sleeping ones cost nothing.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::node::PeerId;
use crate::time::Instant;

/// Deadlines in order; at most one for each peer.
#[derive(Default)]
pub(crate) struct Schedule {
    due: Mutex<BTreeSet<(Instant, PeerId)>>,
}

impl Schedule {
    /// Moves a peer's deadline from `old` to `new`.
    pub(crate) fn set(&self, peer: PeerId, old: Option<Instant>, new: Option<Instant>) {
        let mut due = self.due.lock();
        if let Some(old) = old {
            due.remove(&(old, peer));
        }
        if let Some(new) = new {
            due.insert((new, peer));
        }
    }

    /// The peers whose deadline has come, earliest first; they stay until their deadline is moved.
    pub(crate) fn due(&self, now: Instant) -> Vec<PeerId> {
        self.due.lock().iter().take_while(|(at, _)| *at <= now).map(|(_, peer)| *peer).collect()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.lock().first().map(|(at, _)| *at)
    }
}
