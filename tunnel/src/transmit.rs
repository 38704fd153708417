//! Outgoing datagrams, gathered into runs that one segmented send can carry.

use crate::endpoint::Endpoint;

/// One run of datagrams to one endpoint: equal sizes, except that the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to, and from which local side.
    pub endpoint: Endpoint,
    /// ECN bits for the outer header.
    pub ecn: u8,
    /// Size of every datagram but the last; equals `contents.len()` for a single one.
    pub segment_size: usize,
    /// Whether neither routers nor our own system may fragment it: a probe of the path's size.
    /// Always a single datagram.
    pub dont_fragment: bool,
    /// The datagrams back to back, at most 65 507 bytes and 64 datagrams.
    pub contents: &'a [u8],
}

/// A bounded arena of outgoing datagrams; the node writes ciphertext straight into it.
///
/// Datagrams are appended in order. Consecutive ones to the same endpoint with equal size (a
/// shorter one closes the run) become one [`Transmit`].
#[derive(Debug)]
pub struct SendQueue {
    arena: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    endpoint: Endpoint,
    ecn: u8,
    segment_size: usize,
    start: usize,
    end: usize,
    datagrams: usize,
    open: bool,
    dont_fragment: bool,
}

/// Most bytes one segmented UDP send may carry over IPv4 (65 535 - 20 - 8).
pub const MAX_RUN_BYTES: usize = 65_507;
/// Most datagrams one segmented UDP send may carry (`UDP_MAX_SEGMENTS`).
pub const MAX_RUN_DATAGRAMS: usize = 64;

impl SendQueue {
    /// A queue of `capacity` bytes, allocated once.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { arena: vec![0; capacity].into_boxed_slice(), used: 0, runs: Vec::with_capacity(64) }
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.arena.len() - self.used
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// A place to write one datagram of up to `len` bytes, or `None` when it does not fit.
    pub fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.arena.get_mut(self.used..self.used.checked_add(len)?)
    }

    /// Queues the first `len` bytes of the last slot as one datagram to `endpoint`.
    ///
    /// A `len` of zero, or one past the arena, queues nothing.
    pub fn commit(&mut self, endpoint: Endpoint, ecn: u8, len: usize) {
        let end = self.used.saturating_add(len);
        if len == 0 || end > self.arena.len() {
            return;
        }
        match self.runs.last_mut() {
            Some(run) if run.takes(endpoint, ecn, len) => {
                run.end = end;
                run.datagrams += 1;
                run.open = len == run.segment_size;
            }
            _ => self.runs.push(Run {
                endpoint,
                ecn,
                segment_size: len,
                start: self.used,
                end,
                datagrams: 1,
                open: true,
                dont_fragment: false,
            }),
        }
        self.used = end;
    }

    /// As [`commit`](Self::commit), for a datagram that goes alone, so that what is lost with it is
    /// lost for its size; routers may fragment it unless `dont_fragment` is set.
    pub fn commit_alone(&mut self, endpoint: Endpoint, len: usize, dont_fragment: bool) {
        let before = self.runs.len();
        if let Some(run) = self.runs.last_mut() {
            run.open = false;
        }
        self.commit(endpoint, 0, len);
        if self.runs.len() > before
            && let Some(run) = self.runs.last_mut()
        {
            (run.open, run.dont_fragment) = (false, dont_fragment);
        }
    }

    /// The runs in order.
    pub fn transmits(&self) -> impl ExactSizeIterator<Item = Transmit<'_>> {
        self.runs.iter().map(|run| Transmit {
            endpoint: run.endpoint,
            ecn: run.ecn,
            segment_size: run.segment_size,
            dont_fragment: run.dont_fragment,
            contents: self.arena.get(run.start..run.end).unwrap_or_default(),
        })
    }

    /// The size of the datagrams that the last run still has room for, or `None` when it is full,
    /// or closed by a shorter one.
    #[must_use]
    pub fn open_segment(&self) -> Option<usize> {
        let run = self.runs.last()?;
        run.takes(run.endpoint, run.ecn, run.segment_size).then_some(run.segment_size)
    }

    /// Forgets the first `count` runs; what follows them moves to the front, so that their room is
    /// free again.
    pub fn discard(&mut self, count: usize) {
        self.runs.drain(..count.min(self.runs.len()));
        let Some(start) = self.runs.first().map(|run| run.start) else { return self.clear() };
        self.arena.copy_within(start..self.used, 0);
        self.used -= start;
        for run in &mut self.runs {
            run.start -= start;
            run.end -= start;
        }
    }

    /// Forgets everything queued.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }
}

impl Run {
    fn takes(&self, endpoint: Endpoint, ecn: u8, len: usize) -> bool {
        self.open
            && self.endpoint == endpoint
            && self.ecn == ecn
            && len <= self.segment_size
            && self.datagrams < MAX_RUN_DATAGRAMS
            && self.end - self.start + len <= MAX_RUN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_to_one_endpoint_make_one_run_and_a_shorter_one_closes_it() {
        let mut queue = SendQueue::with_capacity(1 << 16);
        for len in [100, 100, 60, 60] {
            queue.commit(to(1), 0, len);
        }

        let runs: Vec<_> = queue.transmits().map(|run| (run.segment_size, run.contents.len())).collect();
        assert_eq!(runs, [(100, 260), (60, 60)]);
    }

    #[test]
    fn another_endpoint_another_mark_or_a_longer_datagram_opens_a_new_run() {
        let mut queue = SendQueue::with_capacity(1 << 16);
        for (endpoint, ecn, len) in [(1, 0, 100), (2, 0, 100), (2, 1, 100), (2, 1, 101)] {
            queue.commit(to(endpoint), ecn, len);
        }

        assert_eq!(queue.transmits().len(), 4);
    }

    #[test]
    fn a_run_holds_at_most_64_datagrams_and_65507_bytes() {
        let mut queue = SendQueue::with_capacity(1 << 20);
        (0..130).for_each(|_| queue.commit(to(1), 0, 100));
        let lens: Vec<_> = queue.transmits().map(|run| run.contents.len()).collect();
        assert_eq!(lens, [6400, 6400, 200]);

        queue.clear();
        (0..50).for_each(|_| queue.commit(to(1), 0, 1452));
        let lens: Vec<_> = queue.transmits().map(|run| run.contents.len()).collect();
        assert_eq!(lens, [45 * 1452, 5 * 1452]);
        assert!(lens[0] <= MAX_RUN_BYTES);
    }

    #[test]
    fn a_run_that_is_kept_back_continues_where_it_was() {
        let mut queue = SendQueue::with_capacity(1 << 20);
        for (len, fill) in (0..50).map(|i| (1452, i)) {
            queue.slot(len).unwrap().fill(fill);
            queue.commit(to(1), 0, len);
        }
        assert_eq!(queue.open_segment(), Some(1452));
        queue.discard(1);
        assert_eq!(queue.room(), (1 << 20) - 5 * 1452);
        queue.slot(1452).unwrap().fill(50);
        queue.commit(to(1), 0, 1452);

        let run = queue.transmits().next().unwrap();
        let fills: Vec<_> = run.contents.chunks(1452).map(|datagram| (datagram[0], datagram[1451])).collect();
        assert_eq!((queue.transmits().len(), fills), (1, (45..51).map(|i| (i, i)).collect()));

        queue.commit(to(1), 0, 10);
        assert_eq!(queue.open_segment(), None, "closed by a shorter one");
        queue.discard(9);
        assert!(queue.is_empty() && queue.room() == 1 << 20);
        (0..45).for_each(|_| queue.commit(to(1), 0, 1452));
        assert_eq!(queue.open_segment(), None, "full");
    }

    #[test]
    fn a_datagram_that_must_not_be_fragmented_goes_alone() {
        let mut queue = SendQueue::with_capacity(1 << 16);
        queue.commit(to(1), 0, 100);
        queue.commit_alone(to(1), 100, true);
        queue.commit(to(1), 0, 100);

        let runs: Vec<_> = queue.transmits().map(|run| (run.contents.len(), run.dont_fragment)).collect();
        assert_eq!(runs, [(100, false), (100, true), (100, false)]);
    }

    #[test]
    fn the_arena_is_the_limit() {
        let mut queue = SendQueue::with_capacity(250);
        assert!(queue.slot(100).is_some());
        queue.commit(to(1), 0, 200);

        assert_eq!(queue.room(), 50);
        assert!(queue.slot(51).is_none());
        assert!(queue.slot(usize::MAX).is_none());
        queue.commit(to(1), 0, 51);
        queue.commit(to(1), 0, 0);
        assert_eq!(queue.transmits().len(), 1);
        queue.clear();
        assert!(queue.is_empty() && queue.room() == 250);
    }

    fn to(host: u8) -> Endpoint {
        Endpoint { remote: ([192, 0, 2, host], 51820).into(), local: None }
    }
}
