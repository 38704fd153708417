//! One edge: its WireGuard node, its UDP socket, and what waits to be sent to it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwap;
use daemon::endpoint_name::EndpointName;
use ipnetwork::IpNetwork;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use parking_lot::Mutex;
use policy::Name;
use policy::forwarder::Peer;
use tokio::sync::Notify;
use tunnel::io::Wait;
use tunnel::io::udp::{ReceiveBatch, UdpOptions, UdpSocket, UdpStats};
use tunnel::node::{Node, PeerState, Received, Verdict};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::sink::InnerSink;
use tunnel::time::Now;
use tunnel::transmit::SendQueue;

use super::key_switch::KeySwitch;
use super::token;
use crate::cell::Egress;
use crate::edge_keys::Keys;
use crate::flow::{EdgeId, SlotId};
use crate::handover::{Exchange, Message};
use crate::network;
use crate::outage::PathErrors;

/// Bytes of outgoing datagrams that may be gathered before they are sent.
const QUEUE: usize = 512 * 1024;
/// Bytes sent at once that are part of something large.
const LARGE: usize = 16 * 1024;
/// Room that any super-packet fits in once it is encrypted.
const SUPER_PACKET: usize = 72 * 1024;

/// An edge as the data thread holds it.
pub struct Edge {
    /// Its number.
    pub id: EdgeId,
    /// Its name in the configuration.
    pub name: Name,
    /// The name of its endpoint.
    pub endpoint_name: EndpointName,
    /// The device towards it.
    pub node: Arc<Node>,
    /// Our addresses in its tunnel.
    pub addresses: Vec<IpAddr>,
    /// Inner MTU; read by the control plane as well.
    pub mtu: Arc<AtomicU16>,
    /// How well it is connected.
    pub state: PeerState,
    /// The UDP port of the socket, for the control plane.
    pub port: Arc<AtomicU16>,
    /// What the socket has done since it was opened, for the control plane.
    pub udp: Arc<ArcSwap<UdpStats>>,
    /// What the system reports about datagrams to it, for the control plane.
    pub path_errors: Arc<PathErrors>,
    /// Notified when the peer comes up, for the control plane.
    pub came_up: Arc<Notify>,
    /// The edge's keys, of which one is in use.
    pub keys: KeySwitch,
    /// Flows that wait for room in the send queue.
    pub blocked: BTreeSet<SlotId>,
    /// Its number in the old process, as long as there is one.
    pub old_id: Option<EdgeId>,
    /// The way into the tunnel that the new process has, once this one has handed it over.
    relay: Option<Relay>,
    options: UdpOptions,
    socket: UdpSocket,
    queue: SendQueue,
    /// Runs of the queue that are sent already, while the rest waits for the socket.
    sent: usize,
    is_stuck: bool,
    is_readable: bool,
    /// Whether part of something large was received or sent since the last
    /// [`take_bulk`](Self::take_bulk).
    is_bulk: bool,
    /// The address that its name had last.
    remote: Option<SocketAddr>,
    /// The local address from which the peer was reached when that was last checked.
    source: Option<IpAddr>,
}

/// A tunnel that the new process has.
struct Relay {
    exchange: Arc<Mutex<Exchange>>,
    /// Whether the new process has a session; until then the one of this process is used.
    is_used: bool,
}

impl Edge {
    /// The edge of a `[[peer]]` with this socket, which can be opened again with these options.
    ///
    /// # Errors
    /// From the system.
    pub fn open(
        id: EdgeId,
        peer: &Peer,
        (node, keys): (Arc<Node>, Keys),
        mtu: u16,
        (socket, options): (UdpSocket, UdpOptions),
    ) -> io::Result<Self> {
        let port = socket.local_port()?;
        node.set_listen_port(port);
        report_errors(&socket, true);
        Ok(Self {
            path_errors: Arc::default(),
            came_up: Arc::default(),
            keys: KeySwitch::new(&node, keys),
            port: Arc::new(AtomicU16::new(port)),
            udp: Arc::new(ArcSwap::new(socket.shared_stats())),
            id,
            name: peer.name.clone(),
            endpoint_name: EndpointName::new(peer.endpoint.clone()),
            node,
            addresses: peer.address.iter().map(IpNetwork::ip).collect(),
            mtu: Arc::new(AtomicU16::new(mtu)),
            state: PeerState::Never,
            blocked: BTreeSet::new(),
            old_id: None,
            relay: None,
            options,
            socket,
            queue: SendQueue::with_capacity(QUEUE),
            sent: 0,
            is_stuck: false,
            is_readable: true,
            is_bulk: false,
            remote: None,
            source: None,
        })
    }

    /// Starts to watch the socket.
    ///
    /// # Errors
    /// From the system.
    pub(super) fn watch(&self, registry: &Registry) -> io::Result<()> {
        let fd = self.socket.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token::edge(self.id), Interest::READABLE | Interest::WRITABLE)
    }

    /// Stops watching the socket, before it is closed.
    pub fn unwatch(&self, registry: &Registry) {
        let fd = self.socket.as_fd().as_raw_fd();
        // A descriptor that is closed leaves the poll by itself.
        let _ = registry.deregister(&mut SourceFd(&fd));
    }

    /// Opens a new socket on another port, as the recovery ladder requires: a NAT's stale mapping
    /// of the old one is left behind.
    ///
    /// # Errors
    /// From the system; the old socket stays.
    pub fn rebind(&mut self, registry: &Registry) -> io::Result<()> {
        let socket = UdpSocket::open(&self.options)?;
        self.unwatch(registry);
        report_errors(&socket, self.state != PeerState::Up);
        self.socket = socket;
        let port = self.socket.local_port()?;
        self.node.set_listen_port(port);
        self.port.store(port, Ordering::Relaxed);
        self.udp.store(self.socket.shared_stats());
        self.is_readable = true;
        self.is_stuck = false;
        self.watch(registry)
    }

    /// The socket, for the new process.
    ///
    /// # Errors
    /// From the system.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Reads no more from the tunnel: the new process does. What is sent leaves as before, until that
    /// process has a session.
    pub(super) fn hand_over(&mut self, registry: &Registry, exchange: &Arc<Mutex<Exchange>>) {
        let fd = self.socket.as_fd().as_raw_fd();
        if let Err(error) = registry.reregister(&mut SourceFd(&fd), token::edge(self.id), Interest::WRITABLE)
        {
            tracing::debug!(peer = %self.name, %error, "the socket that was handed over is watched");
        }
        self.is_readable = false;
        self.relay = Some(Relay { exchange: Arc::clone(exchange), is_used: false });
    }

    /// The new process has a session: everything is sent by that.
    pub(super) fn use_relay(&mut self) {
        self.flush();
        if let Some(relay) = &mut self.relay {
            relay.is_used = true;
        }
    }

    fn used_relay(&self) -> Option<&Mutex<Exchange>> {
        self.relay.as_ref().filter(|relay| relay.is_used).map(|relay| &*relay.exchange)
    }

    /// Inner MTU now.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Uses the MTU that was found on the path from now on.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
        self.node.set_mtu(mtu);
    }

    /// Notes how well it is connected now; while it is not up, ICMP errors about it are read.
    pub fn set_state(&mut self, state: PeerState) {
        if (state == PeerState::Up) != (self.state == PeerState::Up) {
            report_errors(&self.socket, state != PeerState::Up);
            if state == PeerState::Up {
                self.came_up.notify_one();
            }
        }
        self.state = state;
    }

    /// Whether its socket can send what a search for the path's MTU needs.
    #[must_use]
    pub const fn can_search_mtu(&self) -> bool {
        self.socket.can_forbid_fragments()
    }

    /// Remembers what the poll reported; `true` when a queue that was stuck may go on.
    pub fn ready(&mut self, readable: bool, writable: bool) -> bool {
        self.is_readable |= readable && self.relay.is_none();
        writable && std::mem::take(&mut self.is_stuck)
    }

    /// Whether there may be something to receive.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Receives one batch of messages, for [`handle_received`](Self::handle_received). `false` when
    /// there was none.
    pub fn receive(&mut self, batch: &mut ReceiveBatch) -> bool {
        match self.socket.receive(batch, Wait::No) {
            Ok(_) => {
                self.is_bulk |= batch.was_long();
                true
            }
            Err(error) => {
                // Whatever it is, the next datagram brings another event. Only after a signal or an
                // ICMP error may a datagram wait already.
                self.is_readable =
                    error.kind() == io::ErrorKind::Interrupted || self.count_icmp_error(&error);
                false
            }
        }
    }

    /// Counts an ICMP error about a sent datagram, if that is what the error is.
    fn count_icmp_error(&self, error: &io::Error) -> bool {
        let kind = error.kind();
        let count = if kind == io::ErrorKind::ConnectionRefused {
            &self.path_errors.refused
        } else if [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable].contains(&kind) {
            &self.path_errors.unreachable
        } else {
            return false;
        };
        count.fetch_add(1, Ordering::Relaxed);
        // This empties the queue of errors, which is not read.
        report_errors(&self.socket, false);
        report_errors(&self.socket, self.state != PeerState::Up);
        true
    }

    /// Gives one received message to the node; decrypted packets go to `sink`, which must have room
    /// for them.
    pub fn handle_received(&mut self, now: Now, received: Received<'_>, sink: &mut impl InnerSink) {
        self.node.handle_received(now, received, sink, &mut self.queue);
    }

    /// Does what the node's timers require.
    pub fn handle_timeout(&mut self, now: Now) {
        self.node.handle_timeout(now, &mut self.queue);
    }

    /// Reads what the kernel dropped because the socket's buffer was full, for the control plane.
    pub fn sample_queue_drops(&self) {
        self.socket.sample_queue_drops();
    }

    /// Sends what is gathered; what the socket does not take waits for it.
    pub fn flush(&mut self) {
        if self.is_stuck || self.queue.is_empty() {
            return;
        }
        self.is_bulk |= QUEUE - self.queue.room() >= LARGE;
        let total = self.queue.transmits().len();
        self.sent += self.socket.send(self.queue.transmits().skip(self.sent), Wait::No);
        if self.sent >= total {
            self.queue.clear();
            self.sent = 0;
        } else {
            self.is_stuck = true;
        }
    }

    /// Whether part of something large was carried since the last call.
    pub const fn take_bulk(&mut self) -> bool {
        std::mem::replace(&mut self.is_bulk, false)
    }

    /// Sends what is gathered if a super-packet would not fit; whether one fits now.
    pub fn make_room(&mut self) -> bool {
        if !self.has_room() {
            self.flush();
        }
        self.has_room()
    }

    /// Whether a super-packet of any size fits into the send queue.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match self.used_relay() {
            Some(exchange) => exchange.lock().has_room(),
            None => self.queue.room() >= SUPER_PACKET,
        }
    }

    /// Sends one whole packet into the tunnel; dropped, and counted by the node, when it cannot go.
    pub fn send(&mut self, now: Now, mut packet: Vec<u8>) {
        self.outlet(now).send(SuperPacket { bytes: &mut packet, offload: Offload::None });
    }

    /// The entrance to this edge's tunnel for a cell.
    pub fn outlet(&mut self, now: Now) -> Outlet<'_> {
        let relay = self.relay.as_ref().filter(|relay| relay.is_used);
        let relay = relay.map(|relay| (self.id, &*relay.exchange));
        Outlet { node: &self.node, queue: &mut self.queue, relay, now }
    }

    /// Our address of the family of `of`, if this edge's tunnel has one.
    #[must_use]
    pub fn address_like(&self, of: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == of.is_ipv4())
    }

    /// Where it is, as far as is known.
    #[must_use]
    pub fn endpoint(&self, now: Now) -> Option<SocketAddr> {
        let peer = self.node.peers(now).into_iter().next()?;
        peer.endpoint.map(|endpoint| endpoint.remote)
    }

    /// Moves the endpoint to this address of its name.
    pub fn set_endpoint(&mut self, now: Now, endpoint: SocketAddr) {
        for peer in self.node.peers(now) {
            self.node.set_endpoint(peer.id, endpoint, now);
        }
        self.remote = Some(endpoint);
        self.update_source();
    }

    /// Notes from which local address the peer would be reached now; whether that is another than
    /// before.
    pub fn update_source(&mut self) -> bool {
        let source = self.remote.and_then(network::source_towards);
        // Without a route there is nothing to try.
        std::mem::replace(&mut self.source, source) != source && source.is_some()
    }
}

/// Where the system does not report ICMP errors, a refusal looks like silence.
fn report_errors(socket: &UdpSocket, on: bool) {
    if let Err(error) = socket.set_error_reports(on) {
        tracing::debug!(%error, "ICMP errors are not reported");
    }
}

/// A cell's entrance to the tunnel: encrypted at once into the edge's send queue.
pub struct Outlet<'a> {
    node: &'a Node,
    queue: &'a mut SendQueue,
    relay: Option<(EdgeId, &'a Mutex<Exchange>)>,
    now: Now,
}

impl Egress for Outlet<'_> {
    fn is_ready(&self) -> bool {
        match self.relay {
            Some((_, exchange)) => exchange.lock().has_room(),
            None => self.queue.room() >= SUPER_PACKET,
        }
    }

    fn send(&mut self, packet: SuperPacket<'_>) {
        if let Some((edge, exchange)) = self.relay {
            let SuperPacket { bytes, offload } = packet;
            exchange.lock().send_packet(&Message::Packet { edge, offload, bytes });
            return;
        }
        if let Verdict::Drop(reason) = self.node.handle_inner(self.now, packet, self.queue) {
            tracing::trace!(reason = reason.label(), "cell packet dropped");
        }
    }
}
