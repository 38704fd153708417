//! Which addresses of the tunnel a new peer and its temporary one get.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::gateway::{Peer, Policy};

/// The most addresses of one network that are looked at: more than peers there can be.
const MOST: u128 = 1 << 16;

/// Addresses for one pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The peer's, with the lengths of their networks: one in each of the edge's.
    pub(super) peer: Vec<IpNetwork>,
    /// The temporary peer's.
    pub(super) temporary: IpNetwork,
    /// The edge's own in the network of the temporary peer.
    pub(super) edge: IpAddr,
}

/// Why there are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// Every address of the network is taken.
    #[error(
        "the tunnel's network {network} has no free address for {what}; widen it in [interface] address of \
         gateway.toml, such as \"{wider}\", and in the other machines' files, reload, and pair again"
    )]
    NoRoom {
        /// The network.
        network: IpNetwork,
        /// For whom.
        what: &'static str,
        /// The edge's address with a shorter prefix.
        wider: IpNetwork,
    },
    /// The address that was requested is another's, or outside the tunnel's networks.
    #[error("--address {address}: {why}")]
    NotFree {
        /// The address.
        address: IpAddr,
        /// What it is.
        why: String,
    },
    /// A peer that is paired again has no address of its own in the tunnel.
    #[error(
        "[[peer]] {0} has no single address in the tunnel's network, so it is no forwarder that can join"
    )]
    NoOwnAddress(String),
}

/// Chooses addresses for a new peer, by default the lowest free ones; the temporary peer gets the
/// highest free one.
///
/// # Errors
/// [`AddressError`]
pub(super) fn for_new(policy: &Policy, wanted: Option<IpAddr>) -> Result<Addresses, AddressError> {
    let mut peer = Vec::new();
    for &own in &policy.interface.address {
        let chosen = match wanted {
            Some(address) if own.contains(address) => wanted_in(policy, own, address)?,
            Some(_) => continue,
            None => {
                hosts(own).find(|address| is_free(policy, *address)).ok_or_else(|| no_room(own, "a peer"))?
            }
        };
        peer.extend(IpNetwork::new(chosen, own.prefix()));
    }
    if let Some(address) = wanted.filter(|_| peer.is_empty()) {
        let networks =
            policy.interface.address.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(AddressError::NotFree {
            address,
            why: format!("it is not in the tunnel's network ({networks})"),
        });
    }
    with_temporary(policy, peer)
}

/// The addresses that a peer has already.
///
/// # Errors
/// [`AddressError`]
pub(super) fn for_known(policy: &Policy, known: &Peer) -> Result<Addresses, AddressError> {
    let network_of = |address: IpAddr| policy.interface.address.iter().find(|own| own.contains(address));
    let single = known.allowed_ips.iter().filter(|prefix| is_single(**prefix)).map(IpNetwork::ip);
    let peer: Vec<_> =
        single.filter_map(|address| IpNetwork::new(address, network_of(address)?.prefix()).ok()).collect();
    if peer.is_empty() {
        return Err(AddressError::NoOwnAddress(known.name.to_string()));
    }
    with_temporary(policy, peer)
}

fn with_temporary(policy: &Policy, peer: Vec<IpNetwork>) -> Result<Addresses, AddressError> {
    let is_open =
        |address: &IpAddr| is_free(policy, *address) && !peer.iter().any(|own| own.ip() == *address);
    // The other machine dials the edge in this network, so that it needs an address there.
    let is_peers = |own: &&IpNetwork| peer.iter().any(|address| own.contains(address.ip()));
    for &own in policy.interface.address.iter().filter(is_peers) {
        if let Some(address) = hosts(own).rev().find(is_open)
            && let Ok(temporary) = IpNetwork::new(address, own.prefix())
        {
            return Ok(Addresses { peer, temporary, edge: own.ip() });
        }
    }
    let own = policy.interface.address.iter().find(is_peers).copied();
    let own = own.unwrap_or(IpNetwork::from(IpAddr::from([0_u8; 4])));
    Err(no_room(own, "the time of pairing"))
}

fn wanted_in(policy: &Policy, own: IpNetwork, address: IpAddr) -> Result<IpAddr, AddressError> {
    let not_free = |why: String| AddressError::NotFree { address, why };
    if !is_host(own, address) {
        return Err(not_free(format!("it is no address of a host in {own}")));
    }
    if address == own.ip() {
        return Err(not_free("it is the edge's own".to_owned()));
    }
    match policy.peers.iter().find(|peer| holds(peer, address)) {
        Some(peer) => Err(not_free(format!("it is in the allowed_ips of [[peer]] {}", peer.name))),
        None => Ok(address),
    }
}

fn no_room(own: IpNetwork, what: &'static str) -> AddressError {
    let usual = if own.is_ipv4() { 24 } else { 64 };
    let length = if own.prefix() > usual { usual } else { own.prefix().saturating_sub(1) };
    let wider = IpNetwork::new(own.ip(), length).unwrap_or(own);
    AddressError::NoRoom { network: own, what, wider }
}

fn is_free(policy: &Policy, address: IpAddr) -> bool {
    let is_own = policy.interface.address.iter().any(|own| own.ip() == address);
    let is_lan = policy.lan.iter().any(|lan| lan.contains(address));
    !is_own && !is_lan && !policy.peers.iter().any(|peer| holds(peer, address))
}

/// Whether packets for the address go to the peer.
fn holds(peer: &Peer, address: IpAddr) -> bool {
    peer.allowed_ips.iter().any(|prefix| policy::prefix::routes(*prefix, address))
}

fn is_single(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

/// The addresses that hosts of a network can have; of a large network the lowest ones.
fn hosts(network: IpNetwork) -> impl DoubleEndedIterator<Item = IpAddr> {
    let (base, bits) = (number(network.network()), bits_of(network));
    let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX).min(MOST);
    let address = move |number: u128| match network {
        IpNetwork::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpNetwork::V6(_) => IpAddr::V6(number.into()),
    };
    (base..base.saturating_add(all)).map(address).filter(move |address| is_host(network, *address))
}

/// Whether a host of the network can have the address: not the first, and with IPv4 not the last,
/// unless the network has no more than two.
fn is_host(network: IpNetwork, address: IpAddr) -> bool {
    let is_end = address == network.network() || (network.is_ipv4() && address == network.broadcast());
    network.contains(address) && (bits_of(network) < 2 || !is_end)
}

fn bits_of(network: IpNetwork) -> u32 {
    u32::from(if network.is_ipv4() { 32 } else { 128 } - network.prefix())
}

const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;

    #[test]
    fn a_new_peer_gets_the_lowest_free_address_and_the_temporary_one_the_highest() {
        let addresses =
            for_new(&edge("\"10.77.88.1/24\"", &["10.77.88.2/32", "10.77.88.254/32"]), None).unwrap();
        assert_eq!(addresses.peer, ["10.77.88.3/24".parse().unwrap()]);
        assert_eq!(addresses.temporary, "10.77.88.253/24".parse().unwrap());
        assert_eq!(addresses.edge, "10.77.88.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_peer_gets_an_address_of_each_family() {
        let addresses = for_new(&edge("\"10.77.88.1/24\", \"fd00::1/64\"", &[]), None).unwrap();
        assert_eq!(addresses.peer, ["10.77.88.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()]);
        let addresses = for_new(&edge("\"fd00::1/64\"", &[]), None).unwrap();
        assert_eq!(addresses.peer, ["fd00::2/64".parse().unwrap()]);
        assert!(addresses.temporary.contains(addresses.edge));
    }

    #[test]
    fn a_network_without_room_names_the_wider_one() {
        for (own, peers, what) in [
            ("\"10.77.88.1/30\"", &["10.77.88.2/32"][..], "a peer"),
            ("\"10.77.88.1/30\"", &[], "the time of pairing"),
            ("\"10.77.88.0/31\"", &[], "the time of pairing"),
            ("\"10.77.88.1/24\"", &["10.77.88.0/24"], "a peer"),
        ] {
            let error = for_new(&edge(own, peers), None).unwrap_err();
            let AddressError::NoRoom { what: found, wider, .. } = error else { panic!("{error}") };
            assert_eq!(found, what, "{own} {peers:?}");
            assert_eq!(wider.prefix(), if own.contains("/24") { 23 } else { 24 });
        }
    }

    #[test]
    fn an_address_that_was_requested_must_be_free() {
        let policy = edge("\"10.77.88.1/24\"", &["10.77.88.2/32"]);
        let chosen = |address: &str| for_new(&policy, Some(address.parse().unwrap()));
        assert_eq!(chosen("10.77.88.9").unwrap().peer, ["10.77.88.9/24".parse().unwrap()]);
        let temporary = chosen("10.77.88.254").unwrap().temporary;
        assert_eq!(temporary, "10.77.88.253/24".parse().unwrap(), "not the peer's own");
        for (address, why) in [
            ("10.77.88.1", "edge's own"),
            ("10.77.88.2", "[[peer]] peer0"),
            ("10.77.88.255", "no address of a host"),
            ("10.77.89.2", "not in the tunnel's network"),
        ] {
            let error = chosen(address).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_known_peer_keeps_its_address() {
        let policy = edge("\"10.77.88.1/24\"", &["10.77.88.7/32"]);
        let addresses = for_known(&policy, policy.peers.first().unwrap()).unwrap();
        assert_eq!(addresses.peer, ["10.77.88.7/24".parse().unwrap()]);
        let policy = edge("\"10.77.88.1/24\"", &["192.168.88.0/24"]);
        let error = for_known(&policy, policy.peers.first().unwrap()).unwrap_err();
        assert_eq!(error, AddressError::NoOwnAddress("peer0".to_owned()));
    }

    #[test]
    fn the_time_of_pairing_needs_room_in_a_network_that_the_peer_is_in() {
        let policy = edge("\"10.77.88.1/30\", \"fd00::1/64\"", &["10.77.88.2/32"]);
        let error = for_known(&policy, policy.peers.first().unwrap()).unwrap_err();
        assert!(error.to_string().contains("10.77.88.1/24"), "{error}");
        let policy = edge("\"10.77.88.1/30\", \"fd00::1/64\"", &["fd00::2/128"]);
        let addresses = for_known(&policy, policy.peers.first().unwrap()).unwrap();
        assert_eq!(addresses.edge, "fd00::1".parse::<IpAddr>().unwrap());
    }

    /// An edge with these addresses, and a peer for each of these prefixes.
    fn edge(own: &str, peers: &[&str]) -> Policy {
        let mut text = format!("[interface]\naddress = [{own}]\nprivate_key_file = \"k\"\n");
        for (place, prefix) in peers.iter().enumerate() {
            let key = tunnel::key::PrivateKey::from_bytes([u8::try_from(place).unwrap() + 1; 32]).public();
            text += &format!(
                "[[peer]]\nname = \"peer{place}\"\npublic_key = \"{key}\"\nallowed_ips = [\"{prefix}\"]\n"
            );
        }
        policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap()
    }
}
