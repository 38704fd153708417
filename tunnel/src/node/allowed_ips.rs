//! Cryptokey routing: which peer owns an address, by longest prefix, for the whole device
//! (WireGuard paper §2).

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use prefix_trie::PrefixMap;

use crate::endpoint::PeerId;

/// One trie per address family; a prefix belongs to one peer.
#[derive(Clone, Default)]
pub(super) struct AllowedIps {
    v4: PrefixMap<Ipv4Network, PeerId>,
    v6: PrefixMap<Ipv6Network, PeerId>,
}

impl AllowedIps {
    /// Gives `network` to `peer`; returns whose it was.
    pub(super) fn insert(&mut self, network: IpNetwork, peer: PeerId) -> Option<PeerId> {
        match masked(network) {
            IpNetwork::V4(network) => self.v4.insert(network, peer),
            IpNetwork::V6(network) => self.v6.insert(network, peer),
        }
    }

    /// Takes `network` from `peer`; another peer's stays.
    pub(super) fn remove(&mut self, network: IpNetwork, peer: PeerId) {
        match masked(network) {
            IpNetwork::V4(network) if self.v4.get(&network) == Some(&peer) => drop(self.v4.remove(&network)),
            IpNetwork::V6(network) if self.v6.get(&network) == Some(&peer) => drop(self.v6.remove(&network)),
            IpNetwork::V4(_) | IpNetwork::V6(_) => {}
        }
    }

    /// Whether exactly `network` is `peer`'s.
    pub(super) fn belongs(&self, network: IpNetwork, peer: PeerId) -> bool {
        let owner = match network {
            IpNetwork::V4(network) => self.v4.get(&network),
            IpNetwork::V6(network) => self.v6.get(&network),
        };
        owner == Some(&peer)
    }

    /// The peer with the longest prefix that holds `address`.
    #[inline]
    pub(super) fn owner(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Network::from(address)).map(|(_, peer)| *peer),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Network::from(address)).map(|(_, peer)| *peer),
        }
    }
}

/// `network` without host bits.
pub(super) fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_longest_prefix_owns_an_address() {
        let mut table = AllowedIps::default();
        table.insert(net("0.0.0.0/0"), PeerId(1));
        table.insert(net("10.0.0.0/8"), PeerId(2));
        table.insert(net("10.77.88.2/32"), PeerId(3));

        assert_eq!(table.owner(ip("192.0.2.1")), Some(PeerId(1)));
        assert_eq!(table.owner(ip("10.77.88.1")), Some(PeerId(2)));
        assert_eq!(table.owner(ip("10.77.88.2")), Some(PeerId(3)));
        assert_eq!(table.owner(ip("2001:db8::1")), None);
    }

    #[test]
    fn host_bits_do_not_matter() {
        let mut table = AllowedIps::default();
        table.insert(net("10.77.88.9/30"), PeerId(1));

        assert_eq!(table.insert(net("10.77.88.8/30"), PeerId(2)), Some(PeerId(1)));
    }

    #[test]
    fn a_peer_cannot_remove_what_is_anothers() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.0/8"), PeerId(1));
        table.remove(net("10.0.0.0/8"), PeerId(2));

        assert_eq!(table.owner(ip("10.1.1.1")), Some(PeerId(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_trie_answers_as_a_plain_list_does(
            steps in prop::collection::vec((any::<bool>(), network(), 0..6u32), 1..80),
            probes in prop::collection::vec(address(), 40),
        ) {
            let mut trie = AllowedIps::default();
            let mut list: Vec<(IpNetwork, PeerId)> = Vec::new();
            for (add, network, peer) in steps {
                let (network, peer) = (masked(network), PeerId(peer));
                if add {
                    list.retain(|(other, _)| *other != network);
                    list.push((network, peer));
                    trie.insert(network, peer);
                } else {
                    list.retain(|entry| *entry != (network, peer));
                    trie.remove(network, peer);
                }
            }
            for address in probes {
                let expected = list.iter().filter(|(network, _)| network.contains(address))
                    .max_by_key(|(network, _)| network.prefix()).map(|(_, peer)| *peer);
                prop_assert_eq!(trie.owner(address), expected);
            }
        }
    }

    /// Few distinct bits, so that prefixes nest and meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4u8, 0..4u8, 0..4u8).prop_map(|(a, b, c)| Ipv4Addr::new(10, a, b << 6, c).into()),
            (0..4u16, 0..4u16).prop_map(|(a, b)| Ipv6Addr::new(0x2001, a, b << 14, 0, 0, 0, 0, b).into()),
        ]
    }

    fn network() -> impl Strategy<Value = IpNetwork> {
        (address(), 0..=128u8).prop_map(|(address, prefix)| {
            IpNetwork::new(address, prefix.min(if address.is_ipv4() { 32 } else { 128 })).unwrap()
        })
    }

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
