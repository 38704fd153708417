//! Which temporary peers are refused: a code gives nothing of what a peer, the LAN or the edge has.

use std::net::IpAddr;

use daemon::pairing::relay::TemporaryPeer;
use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use tunnel::key::PublicKey;

/// A peer that the configuration or the node has.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) key: [u8; 32],
    pub(super) allowed_ips: Vec<IpNetwork>,
}

/// Why a temporary peer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the one-time key is no key that WireGuard takes; make another one")]
    NoKey,
    #[error("the one-time key is this edge's own key; make another one")]
    OwnKey,
    #[error("the one-time key is the key of peer {0}; make another one")]
    KnownKey(String),
    #[error("{0} is an address of this edge; take a free address of the tunnel")]
    OwnAddress(IpAddr),
    #[error("{address} lies in {prefix} of peer {peer}; take an address that no peer has in its allowed_ips")]
    OfPeer { address: IpAddr, prefix: IpNetwork, peer: String },
    #[error("{address} lies in {prefix} of the LAN; take a free address of the tunnel")]
    OfLan { address: IpAddr, prefix: IpNetwork },
    #[error(
        "{address} lies outside the tunnel's networks ({networks}); take a free address of one, or write a wider prefix in \
         [interface] address"
    )]
    Outside { address: IpAddr, networks: String },
    #[error(
        "{0} is the first or the last address of the tunnel's network, which no host has; take another one"
    )]
    NoHost(IpAddr),
}

/// Checks a temporary peer of an edge with this policy and these keys.
pub(super) fn check(
    peer: &TemporaryPeer,
    policy: &Policy,
    own: &PublicKey,
    known: &[Known],
) -> Result<(), Refused> {
    let key = PublicKey::from_bytes(*peer.key.as_bytes()).map_err(|_| Refused::NoKey)?;
    if key == *own {
        return Err(Refused::OwnKey);
    }
    if let Some(same) = known.iter().find(|known| known.key == *key.as_bytes()) {
        return Err(Refused::KnownKey(same.name.clone()));
    }
    check_address(peer.address, policy)?;
    let prefixes =
        known.iter().flat_map(|known| known.allowed_ips.iter().map(move |prefix| (known, *prefix)));
    match prefixes.into_iter().find(|(_, prefix)| policy::prefix::routes(*prefix, peer.address)) {
        Some((of, prefix)) => Err(Refused::OfPeer { address: peer.address, prefix, peer: of.name.clone() }),
        None => Ok(()),
    }
}

/// Whether a host of the tunnel's networks may have the address, as far as only the edge and its
/// LAN decide.
fn check_address(address: IpAddr, policy: &Policy) -> Result<(), Refused> {
    let networks = &policy.interface.address;
    if networks.iter().any(|own| own.ip() == address) {
        return Err(Refused::OwnAddress(address));
    }
    if let Some(prefix) = policy.lan_prefixes().find(|prefix| prefix.contains(address)) {
        return Err(Refused::OfLan { address, prefix });
    }
    let Some(network) = networks.iter().find(|network| network.contains(address)) else {
        let networks = networks.iter().map(|&network| policy::prefix::network(network).to_string());
        return Err(Refused::Outside { address, networks: networks.collect::<Vec<_>>().join(", ") });
    };
    let is_edge_of_it = address == network.network() || address == network.broadcast();
    // Two addresses, or one, are all for hosts (RFC 3021, RFC 6164).
    match policy::prefix::host_bits(*network) {
        0 | 1 => Ok(()),
        _ if address.is_ipv4() && is_edge_of_it || address == network.network() => {
            Err(Refused::NoHost(address))
        }
        _ => Ok(()),
    }
}

/// The peers of a policy.
pub(super) fn of_policy(policy: &Policy) -> impl Iterator<Item = Known> {
    policy.peers.iter().map(|peer| Known {
        name: peer.name.to_string(),
        key: *peer.public_key.as_bytes(),
        allowed_ips: peer.allowed_ips.clone(),
    })
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;
    use crate::edge::example;

    #[test]
    fn a_free_address_of_the_tunnel_is_taken_and_every_other_is_refused_for_its_own_reason() {
        let text = example::TEXT.replace("10.77.88.1/30\"", "10.77.88.1/24\", \"fd77:88::1/64\"")
            + "[lan]\nprefixes = [\"10.77.88.128/25\"]\n[[peer]]\nname = \"second\"\n\
               public_key = \"qwCXLtXVvyxe3B1Ox/9Azg4oTn0NiFnmh3PcSFbBjDo=\"\nallowed_ips = [\"10.77.88.64/26\"]\n";
        let policy = example::policy(&text);
        let check = |address: &str| check_with(&policy, key(7), address);
        for free in ["10.77.88.3", "10.77.88.63", "fd77:88::2"] {
            assert_eq!(check(free), Ok(()), "{free}");
        }
        let of_peer = |address: &str, prefix: &str, peer: &str| Refused::OfPeer {
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            peer: peer.to_owned(),
        };
        let at = |address: &str| address.parse::<IpAddr>().unwrap();
        let networks = || "10.77.88.0/24, fd77:88::/64".to_owned();
        for (address, refused) in [
            ("10.77.88.1", Refused::OwnAddress(at("10.77.88.1"))),
            ("fd77:88::1", Refused::OwnAddress(at("fd77:88::1"))),
            ("10.77.88.2", of_peer("10.77.88.2", "10.77.88.2/32", "wroclaw")),
            ("10.77.88.70", of_peer("10.77.88.70", "10.77.88.64/26", "second")),
            (
                "10.77.88.130",
                Refused::OfLan { address: at("10.77.88.130"), prefix: "10.77.88.128/25".parse().unwrap() },
            ),
            ("10.77.89.3", Refused::Outside { address: at("10.77.89.3"), networks: networks() }),
            ("203.0.113.10", Refused::Outside { address: at("203.0.113.10"), networks: networks() }),
            ("10.77.88.0", Refused::NoHost(at("10.77.88.0"))),
            ("fd77:88::", Refused::NoHost(at("fd77:88::"))),
        ] {
            assert_eq!(check(address), Err(refused), "{address}");
        }
    }

    #[test]
    fn a_peer_that_may_send_from_any_address_takes_none() {
        let everything = "\"0.0.0.0/0\", \"::/0\", \"10.77.88.2/32\"";
        let text = example::TEXT.replace("10.77.88.1/30\"", "10.77.88.1/24\", \"fd77:88::1/64\"").replacen(
            "\"10.77.88.2/32\"",
            everything,
            1,
        );
        let policy = example::policy(&text);
        assert!(policy.peers.iter().any(|peer| peer.allowed_ips.iter().any(|prefix| prefix.prefix() == 0)));
        for free in ["10.77.88.3", "fd77:88::2"] {
            assert_eq!(check_with(&policy, key(7), free), Ok(()), "{free}");
        }
        let own = check_with(&policy, key(7), "10.77.88.2");
        assert!(matches!(own, Err(Refused::OfPeer { .. })), "{own:?}");
    }

    #[test]
    fn the_smallest_network_has_no_address_for_another_peer() {
        let policy = example::policy(example::TEXT);
        for (address, is_host) in [("10.77.88.2", true), ("10.77.88.3", false)] {
            let refused = check_with(&policy, key(7), address).unwrap_err();
            assert_eq!(matches!(refused, Refused::OfPeer { .. }), is_host, "{refused}");
        }
    }

    #[test]
    fn a_key_that_the_edge_or_a_peer_has_is_refused_and_so_is_one_that_is_none() {
        let policy = example::policy(&example::TEXT.replace("10.77.88.1/30", "10.77.88.1/24"));
        let check = |key| check_with(&policy, key, "10.77.88.9");
        let own = policy::PublicKey::new(*own().as_bytes()).unwrap();
        assert_eq!(check(own), Err(Refused::OwnKey));
        assert_eq!(check(policy.peers[0].public_key), Err(Refused::KnownKey("wroclaw".to_owned())));
        assert_eq!(check(key(7)), Ok(()));
    }

    #[test]
    fn a_peer_that_only_the_node_has_counts_as_well() {
        let policy = example::policy(&example::TEXT.replace("10.77.88.1/30", "10.77.88.1/24"));
        let known = Known {
            name: "AAAA".to_owned(),
            key: *key(8).as_bytes(),
            allowed_ips: vec!["10.77.88.0/28".parse().unwrap()],
        };
        let peer = TemporaryPeer { key: key(7), address: [10, 77, 88, 9].into() };
        let refused = check(&peer, &policy, &own(), &[known]).unwrap_err();
        assert!(refused.to_string().contains("10.77.88.0/28 of peer AAAA"), "{refused}");
    }

    fn check_with(policy: &Policy, key: policy::PublicKey, address: &str) -> Result<(), Refused> {
        let peer = TemporaryPeer { key, address: address.parse().unwrap() };
        check(&peer, policy, &own(), &of_policy(policy).collect::<Vec<_>>())
    }

    fn own() -> PublicKey {
        PrivateKey::from_bytes([1; 32]).public()
    }

    fn key(number: u8) -> policy::PublicKey {
        let public = PrivateKey::from_bytes([number; 32]).public();
        policy::PublicKey::new(*public.as_bytes()).unwrap()
    }
}
