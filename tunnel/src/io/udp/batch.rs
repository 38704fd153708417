//! Room for received messages.

use std::net::SocketAddr;

use crate::endpoint::LocalSide;
use crate::io::BUFFER;
use crate::node::Received;

/// Room for the messages of one receive call, allocated once: each has room for the longest.
///
/// While messages are long, two are taken at a time, which stay in the processor's cache; short
/// ones come by the batch.
pub struct ReceiveBatch {
    pub(super) slots: Vec<Slot>,
    pub(super) filled: usize,
    is_long: bool,
}

/// Messages taken by one call while they are long.
const LONG_LIMIT: usize = 2;
/// Bytes from which on a message is long.
const LONG: usize = 8192;

/// One message with its control data.
pub(super) struct Slot {
    pub(super) bytes: Box<[u8]>,
    pub(super) len: usize,
    pub(super) stride: usize,
    pub(super) from: SocketAddr,
    pub(super) to: Option<LocalSide>,
    pub(super) ecn: u8,
}

impl ReceiveBatch {
    /// Room for `messages` messages, at least one and at most 64.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let slot = || Slot {
            bytes: vec![0; BUFFER].into_boxed_slice(),
            len: 0,
            stride: 1,
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
            to: None,
            ecn: 0,
        };
        Self { slots: (0..messages.clamp(1, 64)).map(|_| slot()).collect(), filled: 0, is_long: false }
    }

    /// The slots to fill next.
    #[inline]
    pub(super) fn free_slots(&mut self) -> &mut [Slot] {
        let most = if self.is_long { LONG_LIMIT } else { usize::MAX };
        let count = self.slots.len().min(most);
        self.slots.get_mut(..count).unwrap_or_default()
    }

    /// Keeps what was received, which decides how much to take next.
    #[inline]
    pub(super) fn keep(&mut self, filled: usize) {
        self.filled = filled;
        self.is_long = self.slots.iter().take(filled).any(|slot| slot.len >= LONG);
    }

    /// Whether a message of the last receive call was long: then one that continues it may be there
    /// already.
    #[must_use]
    pub fn was_long(&self) -> bool {
        self.filled > 0 && self.is_long
    }

    /// The messages of the last receive call, in order; empty ones are left out.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        self.slots.iter_mut().take(self.filled).filter(|slot| slot.len > 0).map(|slot| Received {
            from: slot.from,
            to: slot.to,
            ecn: slot.ecn,
            stride: slot.stride,
            contents: slot.bytes.get_mut(..slot.len).unwrap_or_default(),
        })
    }
}
