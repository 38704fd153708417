//! The I/O for names of endpoints: asks the resolver, and gives its addresses to the node.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use policy::gateway::{Peer, Policy};
use tokio::net::lookup_host;
use tokio::task::spawn_local;
use tunnel::device::Device;
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::node::PeerId;

use super::{Peers, config};

/// Resolves the names whose time has come, in the background; to be called every few seconds,
/// inside a `LocalSet`.
pub(in crate::edge) fn resolve_due(peers: &Rc<RefCell<Peers>>, device: &Arc<Device>) {
    let due = peers.borrow_mut().due(clock::now());
    for (key, endpoint) in due {
        let (peers, device) = (Rc::clone(peers), Arc::clone(device));
        spawn_local(async move {
            let addresses = lookup_host(endpoint.to_string()).await;
            let addresses: Vec<_> = addresses.map(Iterator::collect).unwrap_or_default();
            handle_addresses(&mut peers.borrow_mut(), &device, &key, &addresses);
        });
    }
}

fn handle_addresses(peers: &mut Peers, device: &Device, key: &PublicKey, addresses: &[SocketAddr]) {
    let (node, now) = (device.node(), clock::now());
    let status = node.peers(now).into_iter().find(|peer| peer.public_key == *key);
    let Some(status) = status else { return };
    let current = status.endpoint.map(|endpoint| endpoint.remote);
    if let Some(address) = peers.handle_addresses(now, key, addresses, current) {
        node.set_endpoint(status.id, address, now);
        device.wake();
    }
}

/// A peer is silent. If its endpoint is an address, that is tried at once, since a packet from
/// elsewhere may have moved the endpoint; else each address of its name is tried in turn until it
/// replies.
pub(in crate::edge) fn handle_silence(
    peers: &Rc<RefCell<Peers>>,
    device: &Arc<Device>,
    policy: &Policy,
    id: PeerId,
) {
    let now = clock::now();
    let Some(status) = device.node().peers(now).into_iter().find(|peer| peer.id == id) else { return };
    let is_it = |peer: &&Peer| peer.public_key.as_bytes() == status.public_key.as_bytes();
    let Some(peer) = policy.peers.iter().find(is_it) else { return };
    if let Some(address) = peer.endpoint.as_ref().and_then(config::literal) {
        device.node().set_endpoint(id, address, now);
        return device.wake();
    }
    peers.borrow_mut().handle_silence(now, &status.public_key);
    resolve_due(peers, device);
}
