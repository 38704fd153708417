//! The key of a flow: the edge it came through and its two ends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An edge's number within the daemon: its index among the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeId(pub u32);

impl EdgeId {
    /// The number of the edge with this index.
    #[must_use]
    pub const fn from_index(index: usize) -> Self {
        Self(if index < u32::MAX as usize { index as u32 } else { u32::MAX })
    }

    /// Its index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A TCP flow as the tunnel sees it.
///
/// The edge is part of the key: two edges may carry the same addresses, and a reply leaves by the
/// edge its request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Through which edge.
    pub edge: EdgeId,
    /// Our end: the destination that packets out of the tunnel carry, or the source of a reached flow.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// A client as the limits count it: one IPv4 address, or one IPv6 /64 (one subscriber).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientPrefix(IpAddr);

impl From<IpAddr> for ClientPrefix {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self(IpAddr::V6(Ipv6Addr::from(network)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_addresses_of_one_subscriber_are_one_client() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
    }

    #[test]
    fn every_ipv4_address_is_a_client_of_its_own() {
        assert_ne!(client("203.0.113.10"), client("203.0.113.11"));
    }

    fn client(text: &str) -> ClientPrefix {
        text.parse::<IpAddr>().unwrap().into()
    }
}
