//! What the node must know about the peers of a configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use policy::gateway::{Peer, Policy};
use policy::{Host, HostPort};
use tunnel::key::PublicKey;
use tunnel::node::{Node, PeerConfig};

use crate::config::Keys;
use crate::state::Endpoints;

/// The peers of a first start: at their configured address, else where they were last heard.
#[must_use]
pub(in crate::edge) fn at_start(policy: &Policy, keys: &Keys, last: &Endpoints) -> Vec<PeerConfig> {
    let endpoint = |peer: &Peer| {
        let heard = last.peers.get(&peer.public_key.to_string()).copied();
        // A roamed address is newer than the configured one, and a name is not resolved yet.
        heard.or_else(|| peer.endpoint.as_ref().and_then(literal))
    };
    policy.peers.iter().filter_map(|peer| config(peer, keys, endpoint(peer))).collect()
}

/// The peers of a later configuration: a peer that stays keeps its place, unless the file gives it
/// another.
#[must_use]
pub(in crate::edge) fn at_reload(new: &Policy, old: &Policy, keys: &Keys) -> Vec<PeerConfig> {
    let endpoint = |peer: &Peer| {
        let before = old.peers.iter().find(|old| old.public_key == peer.public_key);
        let moved = before.is_none_or(|before| before.endpoint != peer.endpoint);
        peer.endpoint.as_ref().filter(|_| moved).and_then(literal)
    };
    new.peers.iter().filter_map(|peer| config(peer, keys, endpoint(peer))).collect()
}

/// Keys of peers that the node has and the configuration has not, among them those that `wg set`
/// added, but not the temporary one.
#[must_use]
pub(in crate::edge) fn superfluous(
    node: &Node,
    policy: &Policy,
    temporary: Option<PublicKey>,
    now: tunnel::time::Now,
) -> Vec<PublicKey> {
    let wanted: BTreeSet<[u8; 32]> = policy.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
    let present = node.peers(now).into_iter().map(|peer| peer.public_key);
    present.filter(|key| !wanted.contains(key.as_bytes()) && Some(*key) != temporary).collect()
}

/// The name to resolve for a peer whose endpoint is not an address.
#[must_use]
pub(super) fn name_to_resolve(peer: &Peer) -> Option<&HostPort> {
    peer.endpoint.as_ref().filter(|endpoint| matches!(endpoint.host, Host::Name(_)))
}

fn config(peer: &Peer, keys: &Keys, endpoint: Option<SocketAddr>) -> Option<PeerConfig> {
    Some(PeerConfig {
        // Validation refused low-order keys already, so nothing is lost here.
        public_key: PublicKey::from_bytes(*peer.public_key.as_bytes()).ok()?,
        preshared_key: keys.preshared.get(&peer.public_key).cloned(),
        endpoint,
        keepalive: peer.keepalive,
        allowed_ips: peer.allowed_ips.clone(),
        probe: peer.probe,
        initiate: true,
    })
}

/// The endpoint as an address, if it is one.
#[must_use]
pub(super) fn literal(endpoint: &HostPort) -> Option<SocketAddr> {
    match endpoint.host {
        Host::Address(address) => Some(SocketAddr::new(address, endpoint.port)),
        Host::Name(_) => None,
    }
}
