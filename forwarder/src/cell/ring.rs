//! The transmit ring: bytes written and not yet acknowledged.

use std::fmt;

/// Where the bytes of a ring lie.
pub(super) enum Storage {
    /// In memory that the owner of the ring keeps alive.
    Pages(&'static mut [u8]),
    /// On the heap.
    Heap(Vec<u8>),
}

/// A ring of bytes; begins again at its start whenever it is empty, so that a small flow touches few pages.
pub(super) struct Ring {
    storage: Storage,
    front: usize,
    len: usize,
    /// The highest place ever written.
    touched: usize,
}

impl Ring {
    pub(super) fn new(storage: Storage) -> Self {
        Self { storage, front: 0, len: 0, touched: 0 }
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
    }

    /// Free room in one piece, `limit` bytes at most; empty when there is none.
    pub(super) fn room(&mut self, limit: usize) -> &mut [u8] {
        let (capacity, front, len) = (self.capacity(), self.front, self.len);
        let (start, end) =
            if front + len < capacity { (front + len, capacity) } else { (front + len - capacity, front) };
        let end = end.min(start.saturating_add(limit));
        self.bytes_mut().get_mut(start..end).unwrap_or_default()
    }

    /// Takes what was written into [`room`](Self::room).
    pub(super) fn commit(&mut self, len: usize) {
        self.len = (self.len + len).min(self.capacity());
        self.touched = self.touched.max((self.front + self.len).min(self.capacity()));
    }

    /// Copies `into.len()` bytes from `at` bytes behind the front; `false` when there are not as many.
    pub(super) fn copy(&self, at: usize, into: &mut [u8]) -> bool {
        if at + into.len() > self.len {
            return false;
        }
        let capacity = self.capacity();
        let start = (self.front + at) % capacity.max(1);
        let (first, rest) = into.split_at_mut(into.len().min(capacity - start));
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
        self.front = if self.len == 0 { 0 } else { (self.front + len) % self.capacity().max(1) };
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

    proptest! {
        #[test]
        fn it_holds_what_was_written_in_order(steps in prop::collection::vec((0_usize..90, 0_usize..90), 1..60)) {
            let mut ring = Ring::new(Storage::Heap(vec![0; 64]));
            let (mut model, mut next) = (VecDeque::new(), 0_u8);
            for (write, release) in steps {
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
            }
        }
    }
}
