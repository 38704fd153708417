//! What waits to be sent, within a bound.

use std::time::Duration;

use tunnel::time::Instant;

/// The most that waits for another end that does not read.
pub const MAX_OUTPUT: usize = 64 << 10;

/// Bytes to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// When the other end last took something, or the first byte came.
    moved: Instant,
}

impl Output {
    /// What is to be sent next.
    pub(super) fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Adds to it; `false` when there is no room.
    pub(super) fn push(&mut self, now: Instant, bytes: &[u8]) -> bool {
        let waiting = self.pending().len();
        if waiting + bytes.len() > MAX_OUTPUT {
            return false;
        }
        if waiting == 0 {
            self.moved = now;
        }
        self.bytes.drain(..self.sent);
        self.sent = 0;
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// So many of the bytes were sent.
    pub(super) fn advance(&mut self, now: Instant, count: usize) {
        self.moved = now;
        self.sent = self.sent.saturating_add(count).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            // Most of the time nothing waits: then nothing is held.
            *self = Self { moved: now, ..Self::default() };
        }
    }

    /// When something has waited for so long that the other end does not read.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        (!self.pending().is_empty()).then(|| self.moved.after(timeout))
    }

    /// Bytes of memory that it holds.
    pub(super) const fn held(&self) -> usize {
        self.bytes.capacity()
    }
}
