//! From a loaded configuration to everything the data plane begins with.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::peers::LIVENESS;
use ipnetwork::IpNetwork;
use policy::forwarder::{Policy, Reach};
use policy::{Mtu, Protocol, Switch};
use tunnel::io::clock;
use tunnel::io::udp::{Backend, UdpOptions, UdpSocket};
use tunnel::node::{MtuRange, Node, NodeConfig};

use crate::config::Loaded;
use crate::dataplane::edge::Edge;
use crate::dataplane::{Listeners, tcp, udp};
use crate::flow::EdgeIds;
use crate::handover::{self, Descriptors, PassedEdge};

/// Inner MTU for `mtu = "auto"` until the path's own is found: what a path through carriers that
/// wrap IPv4 in IPv6 still takes.
const AUTO_MTU: u16 = 1380;
/// Wanted kernel buffer of the outer socket, each way.
const SOCKET_BUFFER: usize = 7 << 20;

/// Opens one edge per `[[peer]]`, by the sockets of an old process where it passed some.
///
/// # Errors
/// In words: a port that is taken, a key the tunnel refuses.
pub fn edges(
    loaded: &Loaded,
    ids: &mut EdgeIds,
    at_start: (Duration, Backend),
    passed: &mut Descriptors,
) -> Result<Vec<Edge>, String> {
    let mut passed = handover::take_edges(passed);
    let peers = loaded.policy.peers.iter().enumerate();
    peers.map(|(place, peer)| edge(loaded, place, ids, at_start, passed.remove(peer.name.as_str()))).collect()
}

/// Opens the edge of the `[[peer]]` at this place of the configuration, with the socket of an old
/// process if that passed it.
///
/// # Errors
/// As for [`edges`].
pub fn edge(
    loaded: &Loaded,
    place: usize,
    ids: &mut EdgeIds,
    (watermark, backend): (Duration, Backend),
    passed: Option<PassedEdge>,
) -> Result<Edge, String> {
    let policy = &loaded.policy;
    let (Some(peer), Some(keys)) = (policy.peers.get(place), loaded.keys.get(place)) else {
        return Err("no such peer".to_owned());
    };
    let mtu = mtu(policy);
    let config = NodeConfig {
        private_key: Some(keys.private.clone()),
        addresses: peer.address.iter().map(IpNetwork::ip).collect(),
        mtu,
        listen_port: 0,
        liveness: Some(LIVENESS),
        wall_watermark: watermark,
    };
    let now = clock::now();
    let node = Arc::new(Node::new(config, now));
    node.probe_closely(policy.steer.is_some(), now);
    node.update_peers(&[loaded.peer_config(place)?], &[], now)
        .map_err(|error| format!("{}: {error}", peer.name))?;
    let id = ids.take().ok_or("edges were added too often; restart the daemon")?;
    let keyed = (node, loaded.edge_keys(place)?);
    let not_opened = |error: io::Error| format!("{}: the UDP socket cannot be opened: {error}", peer.name);
    let old_id = passed.as_ref().map(|passed| passed.id);
    let known_at = passed.as_ref().and_then(|passed| passed.endpoint);
    let options = udp_options(policy, place, backend);
    let socket = socket(passed, &options).map_err(not_opened)?;
    let mut edge = Edge::open(id, peer, keyed, mtu, (socket, options)).map_err(not_opened)?;
    edge.old_id = old_id;
    // The name of an endpoint need not be resolved first.
    if let Some(endpoint) = known_at.filter(|_| edge.endpoint(now).is_none()) {
        edge.set_endpoint(now, endpoint);
    }
    let range = if policy.interface.mtu == Mtu::Auto && edge.can_search_mtu() {
        Some(MtuRange::new(edge.addresses.iter().any(IpAddr::is_ipv6)))
    } else {
        MtuRange::fixed(mtu)
    };
    edge.node.search_path_mtu(range, now);
    Ok(edge)
}

/// The socket that the old process had, unless another port is configured now; or a new one.
fn socket(passed: Option<PassedEdge>, options: &UdpOptions) -> io::Result<UdpSocket> {
    let Some(passed) = passed else { return UdpSocket::open(options) };
    let socket = UdpSocket::from_fd(passed.socket, options)?;
    let is_another = options.port != 0 && socket.local_port()? != options.port;
    if is_another { UdpSocket::open(options) } else { Ok(socket) }
}

/// Inner MTU of every tunnel.
#[must_use]
pub const fn mtu(policy: &Policy) -> u16 {
    match policy.interface.mtu {
        Mtu::Fixed(mtu) => mtu,
        Mtu::Auto => AUTO_MTU,
    }
}

fn udp_options(policy: &Policy, place: usize, backend: Backend) -> UdpOptions {
    UdpOptions {
        // The port that the configuration names can be bound once; the other edges take any.
        port: policy.interface.listen_port.filter(|_| place == 0).unwrap_or(0),
        mark: 0,
        backend,
        gso: policy.offload.udp_gso == Switch::Auto,
        gro: policy.offload.udp_gro == Switch::Auto,
        buffer: SOCKET_BUFFER,
    }
}

/// Every `[[reach]]` entry with each of its protocols: a listener each.
pub fn listened(policy: &Policy) -> impl Iterator<Item = (&Reach, Protocol)> {
    policy.reach.iter().flat_map(|entry| entry.protocols.iter().map(move |protocol| (entry, protocol)))
}

/// Binds these listeners, or takes them from an old process.
///
/// # Errors
/// In words, naming the entry.
pub fn listeners<'a>(
    listened: impl Iterator<Item = (&'a Reach, Protocol)>,
    passed: &mut Descriptors,
) -> Result<Listeners, String> {
    let mut listeners = Listeners::default();
    for (entry, protocol) in listened {
        let not_bound =
            |error: io::Error| format!("[[reach]] {}: {} cannot be bound: {error}", entry.name, entry.listen);
        match protocol {
            Protocol::Tcp => listeners.tcp.push(match passed.take(&handover::reach("tcp", entry.listen)) {
                Some(descriptor) => tcp::Listener::from_fd(entry.clone(), descriptor),
                None => tcp::Listener::bind(entry.clone()).map_err(not_bound)?,
            }),
            Protocol::Udp => listeners.udp.push(match passed.take(&handover::reach("udp", entry.listen)) {
                Some(descriptor) => udp::Listener::from_fd(entry.clone(), descriptor),
                None => udp::Listener::bind(entry.clone()).map_err(not_bound)?,
            }),
        }
    }
    Ok(listeners)
}

/// Descriptors that any process of macOS may have (`OPEN_MAX`).
const OPEN_MAX: u64 = 10_240;

/// Lets the process open as many descriptors as it may: one per flow.
///
/// # Errors
/// From the system; the limit then stays as it was.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raise = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).map(|()| current);
    // macOS names no maximum, and yet refuses more than this many (setrlimit(2)).
    let raised =
        raise(maximum).or_else(|_| raise(maximum.map(|most| most.min(OPEN_MAX)).or(Some(OPEN_MAX))))?;
    Ok(raised.unwrap_or(u64::MAX))
}
