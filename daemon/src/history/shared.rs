//! What those who note, those who read and the writer share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::recent::Recent;
use super::record::{Page, Query, Record, What};
use super::store::{Index, Store, find};

/// Numbers that are left out at a start: a reader may know records that a power cut took, and
/// theirs are not given to others.
const LEFT_OUT: u64 = 1_000;

/// Behind one lock, which nobody holds while it waits for the disk.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Something is to be written, or was.
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    recent: Recent,
    /// Records up to this number are on the disk.
    written: u64,
    /// Where there is a disk at all.
    has_writer: bool,
    index: Index,
    counts: Counts,
    problem: Option<String>,
    is_closed: bool,
}

/// What is counted of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records since the start.
    pub records: u64,
    /// Those of them that were given up before they were on the disk.
    pub lost: u64,
    /// Bytes written since the start, without what the file system adds.
    pub written_bytes: u64,
    /// Bytes of all files now.
    pub bytes: u64,
}

impl Shared {
    /// Without a disk, or with the ring that is on it.
    pub(super) fn new(store: Option<&Store>, has_writer: bool, random: u64) -> Self {
        let (ring, newest) = store.map_or((random, 0), |store| (store.ring(), first_after(store)));
        let latest = store.map(Store::latest_events).unwrap_or_default();
        let inner = Inner {
            recent: Recent::new(name(ring), newest, latest),
            written: newest,
            has_writer,
            index: store.map(Store::index).unwrap_or_default(),
            counts: Counts { bytes: store.map_or(0, Store::bytes), ..Counts::default() },
            problem: None,
            is_closed: false,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    pub(super) fn push(&self, at: u64, what: What) {
        let mut inner = self.lock();
        inner.counts.records += 1;
        let gone = inner.recent.push(at, what);
        if inner.has_writer && gone.is_some_and(|number| number > inner.written) {
            inner.counts.lost += 1;
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// What is wanted, from memory where all of it is there.
    pub(super) fn read(&self, query: &Query) -> Page {
        let (page, in_memory, index) = {
            let inner = self.lock();
            if inner.recent.covers(query) {
                return inner.recent.page(query);
            }
            let nothing = Query { limit: Some(0), ..*query };
            (inner.recent.page(&nothing), inner.recent.wanted(query), inner.index.clone())
        };
        // Those on the disk may be in memory as well, and may be there twice after a failed write.
        let mut records = find(&index, query);
        records.extend(in_memory);
        records.sort_by_key(|record| record.number);
        records.dedup_by_key(|record| record.number);
        records.truncate(query.most());
        Page { records, ..page }
    }

    /// What happened lately, from memory alone: at most [`recent::MOST`](super::recent::MOST)
    /// records, no minutes.
    pub(super) fn lately(&self, query: &Query) -> Vec<Record> {
        self.lock().recent.wanted(&Query { no_minutes: true, ..*query })
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Waits until everything is on the disk that was noted so far, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let began = Instant::now();
        let mut inner = self.lock();
        let newest = inner.recent.newest();
        while inner.has_writer && inner.problem.is_none() && inner.written < newest {
            let Some(left) = limit.checked_sub(began.elapsed()) else { return };
            inner = self.wait(inner, Some(left));
        }
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// The records that are not on the disk, once there are some; `None` when the history is
    /// closed.
    pub(super) fn wait_for_records(&self) -> Option<Vec<Record>> {
        let mut inner = self.lock();
        loop {
            let records = inner.recent.wanted(&Query { after: Some(inner.written), ..Query::default() });
            if !records.is_empty() {
                return Some(records);
            }
            if inner.is_closed {
                return None;
            }
            inner = self.wait(inner, None);
        }
    }

    pub(super) fn wait_until_closed(&self, limit: Duration) {
        let began = Instant::now();
        let mut inner = self.lock();
        while !inner.is_closed {
            let Some(left) = limit.checked_sub(began.elapsed()) else { return };
            inner = self.wait(inner, Some(left));
        }
        // Nothing can be written any more.
        inner.written = inner.recent.newest();
    }

    /// Takes a ring that was opened after the start. Where it is another one than that in memory,
    /// what is in memory is numbered again, after what is on the disk.
    pub(super) fn adopt(&self, store: &Store) {
        let mut inner = self.lock();
        let ring = name(store.ring());
        if inner.recent.ring() != ring {
            let newest = first_after(store);
            let written = inner.written;
            inner.recent.renumber(written, ring, newest);
            inner.written = newest;
        }
        inner.index = store.index();
        inner.counts.bytes = store.bytes();
    }

    pub(super) fn handle_written(&self, last: u64, store: &Store) {
        let mut inner = self.lock();
        inner.written = inner.written.max(last);
        inner.index = store.index();
        inner.counts.bytes = store.bytes();
        inner.counts.written_bytes = store.written_bytes();
        let was_failing = inner.problem.take().is_some();
        drop(inner);
        self.changed.notify_all();
        if was_failing {
            tracing::info!("the history is on the disk again");
        }
    }

    /// What could not be written stays in memory, as far as there is room.
    pub(super) fn handle_failure(&self, problem: String) {
        let mut inner = self.lock();
        let was_failing = inner.problem.replace(problem.clone()).is_some();
        drop(inner);
        self.changed.notify_all();
        if !was_failing {
            tracing::warn!("{problem}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'i>(&self, inner: MutexGuard<'i, Inner>, limit: Option<Duration>) -> MutexGuard<'i, Inner> {
        match limit {
            None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => self.changed.wait_timeout(inner, limit).unwrap_or_else(PoisonError::into_inner).0,
        }
    }
}

fn first_after(store: &Store) -> u64 {
    match store.newest() {
        0 => 0,
        newest => newest.saturating_add(LEFT_OUT),
    }
}

fn name(ring: u64) -> String {
    format!("{ring:016x}")
}
