//! Where decrypted inner packets go.

use crate::endpoint::PeerId;

/// Takes the inner packets a node decrypts, without a copy: the node decrypts straight into the
/// slot it is given.
pub trait InnerSink {
    /// A place for a packet of up to `len` bytes, or `None` when the sink is full and must be
    /// drained first.
    ///
    /// The slot's contents are lost until [`commit`](Self::commit); another call forgets an
    /// uncommitted slot.
    fn slot(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Keeps the first `len` bytes of the last slot as a packet of `peer`, already checked against
    /// its allowed-ips.
    ///
    /// `ecn` holds the two ECN bits of the outer header (RFC 6040 decapsulation is the sink's to
    /// apply).
    fn commit(&mut self, peer: PeerId, len: usize, ecn: u8);
}
