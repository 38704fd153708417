//! Which peer, and where its datagrams come from and go to.

use std::net::{IpAddr, SocketAddr};

/// A peer's number within its node: small, never reused while the node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// The local side of a path: the address (and interface) a datagram came to, so that the reply
/// leaves from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalSide {
    /// The address the peer sent to.
    pub address: IpAddr,
    /// The interface index it came in by; 0 when unknown.
    pub interface: u32,
}

/// A peer's outer address with the local side last used towards it.
///
/// IPv4 addresses are always held as IPv4, never as IPv4-mapped IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's address and UDP port.
    pub remote: SocketAddr,
    /// What to send from; `None` lets the kernel choose (sticky source cleared).
    pub local: Option<LocalSide>,
}
