//! Which peer an address inside the tunnel belongs to.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::Name;

use super::LinkPeer;

/// The peer that has this source to itself: one of its prefixes is exactly this address, inside a
/// network of this machine's tunnel addresses and none of them.
///
/// A single address is the longest prefix there is, so no other peer can own it as well. A host
/// behind a routing peer is no peer, and whoever connects from an address of this machine is a
/// program of it.
#[must_use]
pub fn owner<'p>(
    addresses: &[IpNetwork],
    peers: impl IntoIterator<Item = &'p LinkPeer>,
    source: IpAddr,
) -> Option<&'p Name> {
    let source = source.to_canonical();
    let is_inside = addresses.iter().any(|address| address.contains(source));
    if !is_inside || addresses.iter().any(|address| address.ip() == source) {
        return None;
    }
    let has_it = |peer: &&LinkPeer| peer.allowed_ips.contains(&IpNetwork::from(source));
    peers.into_iter().find(has_it).map(|peer| &peer.name)
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn only_a_single_address_of_a_peer_inside_the_tunnels_network_is_that_peer() {
        let peers = [
            peer("site", &["10.77.88.0/24", "192.168.88.0/24", "192.168.88.2/32", "fd77::/64"]),
            peer("wroclaw", &["10.77.88.2/32", "fd77::2/128"]),
            peer("greedy", &["0.0.0.0/0", "10.77.88.1/32"]),
        ];
        let networks = ["10.77.88.1/24", "fd77::1/64"].map(|text| text.parse::<IpNetwork>().unwrap());
        let cases = [
            ("10.77.88.2", Some("wroclaw"), "its own address"),
            ("fd77::2", Some("wroclaw"), "its own address of the other family"),
            ("::ffff:10.77.88.2", Some("wroclaw"), "as a socket of both families shows it"),
            ("10.77.88.3", None, "an address of a prefix only"),
            ("192.168.88.2", None, "a peer's single address outside the tunnel's network"),
            ("10.77.88.1", None, "an own address, although a peer has it in its prefixes"),
            ("fd77::1", None, "an own address"),
            ("203.0.113.10", None, "an address of a default prefix"),
            ("127.0.0.1", None, "loopback"),
        ];
        for (source, expected, what) in cases {
            let found = owner(&networks, &peers, source.parse().unwrap());
            assert_eq!(found.map(Name::as_str), expected, "{what}");
        }
    }

    fn peer(name: &str, allowed_ips: &[&str]) -> LinkPeer {
        LinkPeer {
            name: Name::new(name).unwrap(),
            public_key: PrivateKey::from_bytes([1; 32]).public(),
            preshared_key: None,
            allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        }
    }
}
