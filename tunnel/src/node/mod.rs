//! The WireGuard node: peers, allowed-ips, handshake limits, timers and liveness, without a socket
//! or a clock.
//!
//! A packet from the inner network enters in `outbound`, one from the outer network in `inbound`;
//! `timeout` does what time alone brings, `update` changes keys and peers. All four work on a
//! `LockedPeer`. The other files are its parts, and know nothing of the node.

mod allowed_ips;
mod config;
mod core;
mod drops;
mod event_queue;
mod handshake;
mod handshake_limiter;
mod identity;
mod inbound;
mod interface;
mod liveness;
mod locked_peer;
mod old_timestamp;
mod outbound;
mod path_mtu;
mod path_mtu_search;
mod peer;
mod probe_closely;
mod probes;
mod random;
mod received;
mod receiver;
mod recovery;
mod refused;
mod schedule;
mod service_probes;
mod service_probing;
mod shared_key;
mod stats;
mod status;
mod table;
mod timeout;
mod update;
mod watermark;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

pub use crate::endpoint::PeerId;
pub use config::{Liveness, MtuRange, NodeConfig, PeerConfig};
pub use received::Received;
pub use refused::{Refused, RefusedKey};
pub use service_probes::{MAX_SERVICE_PROBES, NotProbed, ServiceReply};
pub use shared_key::SharedKey;
pub use stats::{Carried, PeerCounts};
pub use status::{Event, PeerError, PeerState, PeerStatus, RecoveryStep, Verdict};

use crate::endpoint::LocalSide;
use crate::key::{PrivateKey, PublicKey};
use crate::reason::DropReason;
use crate::time::{ClockFault, Instant, Now};
use drops::Drops;
use event_queue::EventQueue;
use identity::Identity;
use interface::Interface;
use refused::RefusedLog;
use schedule::Schedule;
use service_probes::Slots;
use table::{Indices, Table};
use watermark::Watermark;

/// A userspace WireGuard node. Every method takes `&self`: a sending and a receiving thread share
/// it. It has more methods than most types since it is all that a caller sees of the node; what they
/// do is in the parts next to this file.
///
/// # The caller's loop
/// The node owns no socket, starts no thread and reads no clock. Its caller drives it:
///
/// 1. Give it input, with the time: [`handle_inner`](Self::handle_inner) for a packet from the
///    inner network, [`handle_received`](Self::handle_received) for a datagram from the outer one,
///    or a change such as [`update_peers`](Self::update_peers),
///    [`set_endpoint`](Self::set_endpoint) or
///    [`handle_network_change`](Self::handle_network_change).
/// 2. Send what it queued: datagrams are in the [`SendQueue`](crate::transmit::SendQueue) that was
///    passed in, decrypted packets in the [`InnerSink`](crate::sink::InnerSink). A change queues
///    nothing; it makes a timer due.
/// 3. Ask [`poll_timeout`](Self::poll_timeout) after every input, and call
///    [`handle_timeout`](Self::handle_timeout) once that time has come; then send as in step 2.
/// 4. Take events with [`poll_event`](Self::poll_event) until there are none. Some require
///    work that only the caller can do: a new socket, a name look-up, a value to keep on
///    disk.
///
/// The order of steps 2 to 4 does not matter, and a timeout that is handled late does no harm
/// beyond the delay. (boringtun's `Tunn` reads the machine's boot-time clock itself: the caller
/// must pass times of the same clock.)
///
/// # Locks
/// Order: `indices` (one change of peers at a time), then one peer's `core`, then any one of the
/// short ones (`path`, `watermark`, the schedule, the event queue, ...), which are held for a load
/// or a store and under which no other lock is taken. No thread holds two cores. The data path
/// takes a peer's `core` once per batch; tables are immutable snapshots.
pub struct Node {
    table: ArcSwap<Table>,
    identity: ArcSwapOption<Identity>,
    indices: Mutex<Indices>,
    interface: Interface,
    mtu_range: Mutex<Option<MtuRange>>,
    liveness: Option<Liveness>,
    is_closely_probed: AtomicBool,
    watermark: Mutex<Watermark>,
    schedule: Schedule,
    service_slots: Slots,
    events: EventQueue,
    drops: Drops,
    refused: Mutex<RefusedLog>,
    /// A key that no peer has and that one is to get.
    awaited: ArcSwapOption<PublicKey>,
}

impl Node {
    /// A node without peers.
    #[must_use]
    pub fn new(config: NodeConfig, _now: Now) -> Self {
        let identity = config.private_key.map(|key| Arc::new(Identity::new(key)));
        Self {
            table: ArcSwap::default(),
            identity: ArcSwapOption::new(identity),
            indices: Mutex::new(Indices::new()),
            interface: Interface::new(config.addresses, config.mtu, config.listen_port),
            mtu_range: Mutex::new(None),
            liveness: config.liveness,
            is_closely_probed: AtomicBool::new(false),
            watermark: Mutex::new(Watermark::new(config.wall_watermark)),
            schedule: Schedule::default(),
            service_slots: Slots::default(),
            events: EventQueue::default(),
            drops: Drops::new(),
            refused: Mutex::default(),
            awaited: ArcSwapOption::empty(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must next be called; earlier is harmless.
    ///
    /// Any other call may bring it nearer, to now at the nearest: a caller that carries packets in
    /// another thread than the one that sleeps polls after each batch, which costs one load.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// The next event, oldest first; at most 1,024 wait, then the oldest are dropped and counted.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Whether [`poll_event`](Self::poll_event) has something; one load.
    pub fn has_events(&self) -> bool {
        self.events.any()
    }

    /// Events lost because they were not polled in time.
    pub fn events_dropped(&self) -> u64 {
        self.events.dropped()
    }

    /// The node's own key.
    pub fn private_key(&self) -> Option<PrivateKey> {
        self.identity.load().as_deref().map(|identity| identity.private.clone())
    }

    /// Sets the UDP port of the outer socket, for the guard against routing loops.
    pub fn set_listen_port(&self, port: u16) {
        self.interface.set_listen_port(port);
    }

    /// Sets the node's own addresses inside the tunnel.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.interface.set_addresses(addresses);
    }

    /// Sets the MTU of the inner interface, in bytes: padding never goes beyond it.
    pub fn set_mtu(&self, mtu: u16) {
        self.interface.set_mtu(mtu);
    }

    /// Lets the kernel choose what to send from towards a peer, if that is still `local`, until a
    /// packet of the peer arrives.
    ///
    /// For a caller that found the address gone, or the route to the peer by another interface.
    pub fn forget_local(&self, peer: PeerId, local: LocalSide) {
        if let Some(peer) = self.table.load().peers.get(&peer) {
            let mut path = peer.path.lock();
            if let Some(endpoint) = path.as_mut().filter(|endpoint| endpoint.local == Some(local)) {
                endpoint.local = None;
            }
        }
    }

    /// A peer's configuration as it is now (roamed endpoint included), for read-modify-write by the
    /// UAPI.
    pub fn peer_config(&self, key: &PublicKey) -> Option<PeerConfig> {
        self.table.load().by_key(key).map(|peer| peer.current_config())
    }

    /// The status of every peer, in order of [`PeerId`]; takes no lock of the data path for longer
    /// than a few loads.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let table = self.table.load();
        table.peers.values().map(|peer| peer.status(self.liveness.as_ref(), now)).collect()
    }

    /// Adds to a peer's totals what was carried with it before this node, so that they continue over
    /// a restart.
    pub fn add_carried(&self, key: &PublicKey, before: Carried) {
        if let Some(peer) = self.table.load().by_key(key) {
            let _core = peer.core.lock();
            peer.stats.add_carried(before);
        }
    }

    /// The number of a peer.
    pub fn peer_id(&self, key: &PublicKey) -> Option<PeerId> {
        self.table.load().by_key(key).map(|peer| peer.id)
    }

    /// The handshakes of the last minute that were made for another key than the node's, or with an
    /// unknown key, as far as they look like a mistake in a configuration and not like noise. A key
    /// that is a peer's by now is none.
    pub fn refused(&self, now: Now) -> Refused {
        let mut refused = self.refused.lock().report(now.instant);
        refused.unknown.retain(|refused| self.peer_id(&refused.key).is_none());
        refused
    }

    /// Takes the mark of another machine with the same key: peers know timestamps up to it.
    pub fn raise_watermark(&self, mark: std::time::Duration) {
        self.watermark.lock().raise(mark);
    }

    /// What is wrong with the wall clock, as far as this node can know.
    pub fn clock_fault(&self, now: Now) -> Option<ClockFault> {
        let behind = || self.watermark.lock().behind(now.wall).map(ClockFault::Behind);
        ClockFault::of(now.wall).or_else(behind)
    }

    /// Packets dropped for `reason` since the start.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.total(reason)
    }
}

#[cfg(test)]
mod tests;
