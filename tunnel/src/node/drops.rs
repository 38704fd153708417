//! How many packets were dropped, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reason::DropReason;

/// One counter for each reason; every thread may add to it.
pub(super) struct Drops(Vec<AtomicU64>);

impl Drops {
    pub(super) fn new() -> Self {
        Self(DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn count(&self, reason: DropReason) {
        self.count_many(reason, 1);
    }

    pub(super) fn count_many(&self, reason: DropReason, count: usize) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Packets dropped for `reason` since the start.
    pub(super) fn total(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
