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
    /// The datagrams back to back, at most 65 507 bytes and 64 datagrams.
    pub contents: &'a [u8],
}

/// A bounded arena of outgoing datagrams; the node writes ciphertext straight into it.
///
/// Datagrams are appended in order. Consecutive ones to the same endpoint with equal size (a shorter one closes the
/// run) become one [`Transmit`].
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
            }),
        }
        self.used = end;
    }

    /// The runs in order.
    pub fn transmits(&self) -> impl ExactSizeIterator<Item = Transmit<'_>> {
        self.runs.iter().map(|run| Transmit {
            endpoint: run.endpoint,
            ecn: run.ecn,
            segment_size: run.segment_size,
            contents: self.arena.get(run.start..run.end).unwrap_or_default(),
        })
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
