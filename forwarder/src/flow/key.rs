//! The key of a flow: the edge it came through and its two ends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An edge's number within the daemon. It has nothing to do with the edge's place in the
/// configuration, and is never given to another edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeId(pub u32);

/// Gives each edge its number, in ascending order.
#[derive(Debug, Default)]
pub struct EdgeIds {
    next: u32,
}

impl EdgeIds {
    /// A number that no edge has had; `None` once there is none left.
    pub fn take(&mut self) -> Option<EdgeId> {
        let id = EdgeId(self.next);
        self.next = self.next.checked_add(1)?;
        Some(id)
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

    #[test]
    fn no_number_of_an_edge_is_given_twice() {
        let mut ids = EdgeIds::default();
        assert_eq!([ids.take(), ids.take()], [Some(EdgeId(0)), Some(EdgeId(1))]);
        let mut last = EdgeIds { next: u32::MAX };
        assert_eq!([last.take(), last.take()], [None, None]);
    }

    fn client(text: &str) -> ClientPrefix {
        text.parse::<IpAddr>().unwrap().into()
    }
}
