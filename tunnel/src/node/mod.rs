//! The WireGuard node: peers, allowed-ips, admission, timers and liveness, without a socket or a clock.
//!
//! Order of locks: `admin`, then one peer's `core`, then any one of the short ones (`path`, `watermark`, the schedule, the
//! event queue), which are held for a load or a store and under which nothing else is taken. Nobody holds two cores.

mod config;
mod core;
mod identity;
mod inbound;
mod old_stamp;
mod outbound;
mod peer;
mod refused;
mod rivals;
mod sizes;
mod status;
mod table;
mod timeout;
mod turn;
mod update;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

pub use config::{Liveness, MtuRange, NodeConfig, PeerConfig, PeerId};
pub use refused::{Refused, RefusedKey};
pub use rivals::SharedKey;
pub use status::{Event, PeerState, PeerStatus, RecoveryStep, Verdict};

use crate::endpoint::LocalSide;
use crate::event_queue::EventQueue;
use crate::key::{PrivateKey, PublicKey};
use crate::offload::SuperPacket;
use crate::reason::DropReason;
use crate::schedule::Schedule;
use crate::sink::InnerSink;
use crate::time::{ClockFault, Instant, Now};
use crate::transmit::SendQueue;
use crate::watermark::Watermark;
use identity::Identity;
use table::Table;
use turn::Turn;
use update::Admin;

/// Silence after which a peer no longer proves that the socket works.
const HEARD_LATELY: Duration = Duration::from_secs(15);

/// One received UDP message: one datagram, or several of `stride` bytes that the kernel joined (UDP_GRO).
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address and interface it came to, when the socket knows.
    pub to: Option<LocalSide>,
    /// ECN bits of the outer header.
    pub ecn: u8,
    /// Length of every datagram but the last, which may be shorter; at least 1.
    pub stride: usize,
    /// The datagrams back to back.
    pub contents: &'a mut [u8],
}

/// Why a change of peers was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A node cannot be its own peer.
    #[error("the peer's public key is this node's own")]
    OwnKey,
    /// There are as many peers as receiver indices allow.
    #[error("too many peers")]
    TooMany,
}

/// A userspace WireGuard node: every method takes `&self`, so that a sending and a receiving thread share it.
///
/// Locks: one per peer, taken once per batch; the tables are immutable snapshots. It reads no clock and owns no socket.
/// (Inside boringtun the `Tunn` reads the machine's boot-time clock; the shell must use the same one.)
pub struct Node {
    table: ArcSwap<Table>,
    identity: ArcSwapOption<Identity>,
    admin: Mutex<Admin>,
    addresses: ArcSwap<Vec<IpAddr>>,
    mtu: AtomicU16,
    listen_port: AtomicU16,
    sizes: Mutex<Option<MtuRange>>,
    liveness: Option<Liveness>,
    watermark: Mutex<Watermark>,
    schedule: Schedule,
    events: EventQueue,
    drops: Vec<AtomicU64>,
    refused: Mutex<refused::Log>,
}

impl Node {
    /// A node without peers.
    #[must_use]
    pub fn new(config: NodeConfig, _now: Now) -> Self {
        let identity = config.private_key.map(|key| Arc::new(Identity::new(key)));
        Self {
            table: ArcSwap::default(),
            identity: ArcSwapOption::new(identity),
            admin: Mutex::new(Admin::new()),
            addresses: ArcSwap::from_pointee(config.addresses),
            mtu: AtomicU16::new(config.mtu),
            listen_port: AtomicU16::new(config.listen_port),
            sizes: Mutex::new(None),
            liveness: config.liveness,
            watermark: Mutex::new(Watermark::new(config.wall_watermark)),
            schedule: Schedule::default(),
            events: EventQueue::default(),
            drops: DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            refused: Mutex::default(),
        }
    }

    /// Encrypts an inner packet or super-packet for the peer that owns its destination.
    ///
    /// `out` needs room for the packet plus 48 bytes for each of its segments (and 148 for a handshake);
    /// the packet is split in place, its bytes are gone afterwards.
    pub fn handle_inner(&self, now: Now, packet: SuperPacket<'_>, out: &mut SendQueue) -> Verdict {
        self.send_inner(now, packet, out)
    }

    /// Takes one received message: decrypted packets go to `sink`, answers (handshakes, cookies, keepalives) to `out`.
    ///
    /// Datagrams of one peer that lie next to each other are decrypted under one lock, in order. Without a private key
    /// nothing is answered.
    pub fn handle_received(
        &self,
        now: Now,
        received: Received<'_>,
        sink: &mut impl InnerSink,
        out: &mut SendQueue,
    ) {
        self.receive(now, received, sink, out);
    }

    /// When [`handle_timeout`](Self::handle_timeout) must next be called; earlier is harmless.
    ///
    /// Any other call may bring it nearer, to now at the nearest: a shell that carries packets in another thread than the
    /// one that sleeps asks after each batch, which costs one load.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Does what is due: handshakes, keepalives, probes, recovery.
    ///
    /// Peers that find less than 444 bytes of room in `out` stay due.
    pub fn handle_timeout(&self, now: Now, out: &mut SendQueue) {
        self.run_timers(now, out);
    }

    /// The next event, oldest first; at most 1,024 wait, then the oldest are dropped and counted.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Whether [`poll_event`](Self::poll_event) has something; one load.
    pub fn has_events(&self) -> bool {
        self.events.any()
    }

    /// Events lost because nobody polled.
    pub fn events_dropped(&self) -> u64 {
        self.events.dropped()
    }

    /// Tells the node that the network changed or the machine woke: sessions are tried at once, from the first rung.
    pub fn handle_network_change(&self, now: Now) {
        for peer in self.table.load().peers.values() {
            let mut turn = Turn::new(self, peer, now);
            turn.urge_recovery();
            turn.finish();
        }
    }

    /// Replaces the node's own key (all sessions end), or removes it; a peer with the same key is removed.
    pub fn set_private_key(&self, key: Option<PrivateKey>, now: Now) {
        self.change_private_key(key, now);
    }

    /// The node's own key.
    pub fn private_key(&self) -> Option<PrivateKey> {
        self.identity.load().as_deref().map(|identity| identity.private.clone())
    }

    /// Tells the loop guard which UDP port the outer socket has now.
    pub fn set_listen_port(&self, port: u16) {
        self.listen_port.store(port, Ordering::Relaxed);
    }

    /// Tells the node which addresses are its own inside the tunnel now.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// Tells the node which MTU the inner interface has now, in bytes: padding never goes beyond it.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Searches the MTU of every path to a peer that answers probes, or stops doing so; the shell learns each result by
    /// [`Event::PathMtu`]. Without this call nothing is searched.
    ///
    /// For sockets that can forbid fragments only: elsewhere every size would seem to pass.
    pub fn search_path_mtu(&self, sizes: Option<MtuRange>, now: Now) {
        if std::mem::replace(&mut *self.sizes.lock(), sizes) != sizes {
            for peer in self.table.load().peers.values() {
                let mut turn = Turn::new(self, peer, now);
                turn.prepare_search();
                turn.finish();
            }
        }
    }

    /// Lets the kernel choose what to send from towards a peer, if that is still `local`, until it is heard again.
    ///
    /// For a shell that found the address gone, or the way to the peer by another interface.
    pub fn forget_local(&self, peer: PeerId, local: LocalSide) {
        if let Some(peer) = self.table.load().peers.get(&peer) {
            let mut path = peer.path.lock();
            if let Some(endpoint) = path.as_mut().filter(|endpoint| endpoint.local == Some(local)) {
                endpoint.local = None;
            }
        }
    }

    /// Adds or changes peers and removes others in one step: no packet ever sees half of it.
    ///
    /// A peer already there keeps its session unless its preshared key changed; its endpoint stays where
    /// it roamed to when `endpoint` is `None`. An allowed-ip given to a later peer is taken from the earlier one.
    /// Removal comes first: a key in both lists is a new peer.
    ///
    /// # Errors
    /// [`PeerError`]; then nothing changed.
    pub fn update_peers(
        &self,
        upsert: &[PeerConfig],
        remove: &[PublicKey],
        now: Now,
    ) -> Result<(), PeerError> {
        self.change_peers(upsert, remove, now)
    }

    /// A peer's configuration as it stands (roamed endpoint included), for read-modify-write by the UAPI.
    pub fn peer_config(&self, key: &PublicKey) -> Option<PeerConfig> {
        self.table.load().by_key(key).map(|peer| peer.current_config())
    }

    /// Moves a peer's endpoint, as after a name was resolved: only if it is not `up` at another one.
    pub fn set_endpoint(&self, peer: PeerId, endpoint: SocketAddr, now: Now) {
        if let Some(peer) = self.table.load().peers.get(&peer) {
            self.move_endpoint(peer, endpoint, now);
        }
    }

    /// Every peer as it stands, in order of [`PeerId`]; takes no lock of the data path for longer than a few loads.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let table = self.table.load();
        table.peers.values().map(|peer| peer.status(self.liveness.as_ref(), now)).collect()
    }

    /// The number of a peer.
    pub fn peer_id(&self, key: &PublicKey) -> Option<PeerId> {
        self.table.load().by_key(key).map(|peer| peer.id)
    }

    /// The handshakes of the last minute that were made for another key than the node's, or with a key that is no
    /// peer's, as far as they look like a mistake in a configuration and not like noise.
    pub fn refused(&self, now: Now) -> Refused {
        self.refused.lock().report(now.instant)
    }

    /// What is wrong with the wall clock, as far as this node can know.
    pub fn clock_fault(&self, now: Now) -> Option<ClockFault> {
        let behind = || self.watermark.lock().behind(now.wall).map(ClockFault::Behind);
        ClockFault::of(now.wall).or_else(behind)
    }

    /// Packets dropped for `reason` since the start.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    fn count_drops(&self, reason: DropReason, count: usize) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    fn listen_port(&self) -> u16 {
        self.listen_port.load(Ordering::Relaxed)
    }

    fn mtu(&self) -> usize {
        usize::from(self.mtu.load(Ordering::Relaxed))
    }

    /// Whether `address` is one of the node's own.
    fn owns(&self, address: IpAddr) -> bool {
        self.addresses.load().contains(&address)
    }

    /// An address of the node's own of the same family as `target`.
    fn address_beside(&self, target: IpAddr) -> Option<IpAddr> {
        self.addresses.load().iter().copied().find(|own| own.is_ipv4() == target.is_ipv4())
    }

    /// Whether another peer was heard lately: then the socket works, and a new one would help nobody.
    fn hears_another(&self, peer: PeerId, now: Instant) -> bool {
        let lately = |heard: Instant| now.since(heard) < HEARD_LATELY;
        let table = self.table.load();
        table.peers.values().any(|other| other.id != peer && other.vitals.facts().heard.is_some_and(lately))
    }
}

#[cfg(test)]
mod tests;
