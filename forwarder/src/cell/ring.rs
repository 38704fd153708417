//! The transmit ring: bytes written and not yet acknowledged.

use std::fmt;

/// Where the bytes of a ring are.
pub(super) enum Storage {
    /// In memory that the owner of the ring keeps alive.
    Pages(&'static mut [u8]),
    /// On the heap.
    Heap(Vec<u8>),
}

/// The smallest span, and how much free room a span should have; see [`Ring`].
const ROOM: usize = 64 * 1024;

/// A ring of bytes that wraps early: it uses only the first bytes of its storage, its span, which
/// is as short as what it holds allows. A flow thus touches as few pages as its path needs, however
/// large the storage is. An empty ring begins at its start again.
pub(super) struct Ring {
    storage: Storage,
    front: usize,
    len: usize,
    /// How many bytes of the storage, from its start, are in use; a power of two, or all.
    span: usize,
    /// The highest place ever written.
    touched: usize,
    /// The most bytes held at once since the last [`trim`](Self::trim).
    most: usize,
}

impl Ring {
    pub(super) fn new(storage: Storage) -> Self {
        let mut ring = Self { storage, front: 0, len: 0, span: 0, touched: 0, most: 0 };
        ring.span = ring.capacity().min(ROOM);
        ring
    }

    fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Pages(bytes) => bytes,
            Storage::Heap(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Pages(bytes) => bytes,
            Storage::Heap(bytes) => bytes,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes().len()
    }

    /// Bytes written and not released.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes from the start of the ring that have been used so far.
    pub(super) fn touched(&self) -> usize {
        self.touched
    }

    /// The pages were given back.
    pub(super) fn untouch(&mut self) {
        self.touched = 0;
        self.most = 0;
        if self.len == 0 {
            self.span = self.capacity().min(ROOM);
        }
    }

    /// Whether anything more fits.
    pub(super) fn has_room(&self) -> bool {
        self.len < self.capacity()
    }

    /// Free room in one piece, `limit` bytes at most; empty when there is none.
    pub(super) fn room(&mut self, limit: usize) -> &mut [u8] {
        if self.span - self.len < limit.min(ROOM) {
            self.widen();
        }
        let Self { front, len, span, .. } = *self;
        let (start, end) = if front + len < span { (front + len, span) } else { (front + len - span, front) };
        let end = end.min(start.saturating_add(limit));
        self.bytes_mut().get_mut(start..end).unwrap_or_default()
    }

    /// Doubles the span, as far as the storage allows; what is before the front moves behind the
    /// rest.
    fn widen(&mut self) {
        let span = (self.span * 2).min(self.capacity());
        let turned = (self.front + self.len).saturating_sub(self.span);
        if span == self.span || turned > span - self.span {
            return;
        }
        let old = self.span;
        self.bytes_mut().copy_within(..turned, old);
        self.span = span;
        self.touched = self.touched.max(old + turned);
    }

    /// Shortens the span to twice what was held at most since the last call; returns the offset of
    /// the pages that are no longer needed, if there are any. To be called about once per second.
    pub(super) fn trim(&mut self) -> Option<usize> {
        let most = std::mem::replace(&mut self.most, self.len);
        let span = (most * 2).max(ROOM).next_power_of_two();
        if span > self.span / 2 || self.front + self.len > span {
            return None;
        }
        self.span = span;
        let is_touched = self.touched > span;
        self.touched = self.touched.min(span);
        is_touched.then_some(span)
    }

    /// Takes what was written into [`room`](Self::room).
    pub(super) fn commit(&mut self, len: usize) {
        self.len = (self.len + len).min(self.span);
        self.most = self.most.max(self.len);
        self.touched = self.touched.max((self.front + self.len).min(self.span));
    }

    /// Copies `into.len()` bytes from `at` bytes behind the front; `false` when there are not as
    /// many.
    pub(super) fn copy(&self, at: usize, into: &mut [u8]) -> bool {
        if at + into.len() > self.len {
            return false;
        }
        let start = (self.front + at) % self.span.max(1);
        let (first, rest) = into.split_at_mut(into.len().min(self.span - start));
        let bytes = self.bytes();
        if let (Some(head), Some(tail)) = (bytes.get(start..start + first.len()), bytes.get(..rest.len())) {
            first.copy_from_slice(head);
            rest.copy_from_slice(tail);
        }
        true
    }

    /// Forgets bytes at the front.
    pub(super) fn release(&mut self, len: usize) {
        let len = len.min(self.len);
        self.len -= len;
        self.front = if self.len == 0 { 0 } else { (self.front + len) % self.span.max(1) };
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { front, len, .. } = self;
        formatter.debug_struct("Ring").field("front", front).field("len", len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn an_empty_ring_begins_at_its_start_again() {
        let mut ring = Ring::new(Storage::Heap(vec![0; 100]));
        for _ in 0..10 {
            ring.room(40)[..40].fill(7);
            ring.commit(40);
            ring.release(40);
        }
        assert_eq!((ring.touched(), ring.len()), (40, 0));
    }

    #[test]
    fn a_full_ring_has_no_room_and_a_ring_of_nothing_never_has() {
        let mut ring = Ring::new(Storage::Heap(vec![0; 10]));
        ring.commit(10);
        assert!(ring.room(100).is_empty());
        let mut none = Ring::new(Storage::Heap(Vec::new()));
        assert!(none.room(1).is_empty() && none.copy(0, &mut []) && !none.copy(0, &mut [0]));
    }

    #[test]
    fn a_flow_that_keeps_little_walks_over_little_of_a_large_ring() {
        let mut ring = Ring::new(Storage::Heap(vec![0; 4 << 20]));
        let mut held = 0;
        for _ in 0..1_000 {
            let len = ring.room(30_000).len();
            ring.commit(len);
            held += len;
            while held > 110_000 {
                ring.release(30_000);
                held -= 30_000;
            }
        }
        assert_eq!(ring.touched(), 256 << 10);
    }

    #[test]
    fn a_ring_grows_to_its_capacity_for_who_needs_it_and_shrinks_again() {
        let mut ring = Ring::new(Storage::Heap(vec![0; 1 << 20]));
        let fill = |ring: &mut Ring| {
            while !ring.room(50_000).is_empty() {
                let len = ring.room(50_000).len();
                ring.commit(len);
                ring.release(len / 8);
            }
        };
        fill(&mut ring);
        assert_eq!((ring.len(), ring.touched()), (1 << 20, 1 << 20));
        assert_eq!(ring.trim(), None, "it was full a moment ago");
        ring.release((1 << 20) - 10_000);
        ring.room(10);
        assert_eq!(ring.trim(), None, "it was full since");
        ring.release(10_000);
        ring.room(5_000);
        ring.commit(5_000);
        assert_eq!((ring.trim(), ring.touched()), (Some(64 << 10), 64 << 10));
        fill(&mut ring);
        assert_eq!(ring.len(), 1 << 20);
    }

    proptest! {
        #[test]
        fn it_holds_what_was_written_in_order_while_its_lap_changes(
            steps in prop::collection::vec((0_usize..90_000, 0_usize..90_000, any::<bool>()), 1..60),
            capacity in prop::sample::select(vec![64_usize, 65_536, 100_000, 262_144, 1 << 20]),
        ) {
            let mut ring = Ring::new(Storage::Heap(vec![0; capacity]));
            let (mut model, mut next) = (VecDeque::new(), 0_u8);
            for (write, release, trims) in steps {
                let room = ring.room(write);
                let len = room.len();
                for byte in room {
                    *byte = next;
                    model.push_back(next);
                    next = next.wrapping_add(1);
                }
                ring.commit(len);
                let at = release % (model.len() + 1);
                let mut copied = vec![0; model.len() - at];
                prop_assert!(ring.copy(at, &mut copied));
                prop_assert!(copied.iter().eq(model.iter().skip(at)));
                model.drain(..release.min(model.len()));
                ring.release(release);
                prop_assert_eq!(ring.len(), model.len());
                if trims {
                    ring.trim();
                }
                prop_assert!(ring.touched() <= capacity);
            }
        }
    }
}
