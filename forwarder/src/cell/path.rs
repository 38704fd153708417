//! The ends of a flow, and what its headers take.

use std::net::SocketAddr;

/// Bytes of IPv4 and TCP header without options; the label header has the IPv4 size for both
/// families.
pub(super) const HEADERS: usize = 40;
/// The smallest segment a peer may impose (Linux's `TCP_MIN_SND_MSS`).
pub(super) const MIN_SEGMENT: usize = 48;

/// The two ends of a flow as the tunnel sees them; both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl Path {
    /// Bytes by which the real IP header is longer than the label's.
    pub(super) const fn extra_header(&self) -> usize {
        if self.local.is_ipv4() { 0 } else { 20 }
    }
}

/// Whether sequence number `a` is after `b` (RFC 9293 §3.4).
pub(super) const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
