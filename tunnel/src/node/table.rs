//! The node's tables: an immutable snapshot that the data path reads without a lock.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::allowed_ips::AllowedIps;
use super::peer::Peer;
use crate::endpoint::PeerId;
use crate::key::PublicKey;
use crate::time::Instant;

/// Silence after which a peer no longer proves that the socket works.
const HEARD_RECENTLY: Duration = Duration::from_secs(15);

/// Peers by every way in which a packet names one. A change makes a new snapshot.
#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) peers: BTreeMap<PeerId, Arc<Peer>>,
    pub(super) allowed_ips: AllowedIps,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
}

impl Table {
    pub(super) fn insert(&mut self, peer: &Arc<Peer>) {
        self.peers.insert(peer.id, Arc::clone(peer));
        self.by_key.insert(peer.key, Arc::clone(peer));
        self.by_index.insert(peer.index, Arc::clone(peer));
    }

    pub(super) fn remove(&mut self, peer: &Peer) {
        self.peers.remove(&peer.id);
        self.by_key.remove(&peer.key);
        self.by_index.remove(&peer.index);
    }

    /// The peer that owns the destination of an inner packet.
    #[inline]
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.peers.get(&self.allowed_ips.owner(address)?)
    }

    /// The peer a receiver index was given to: its upper 24 bits name the peer, the lower 8 the
    /// session.
    #[inline]
    pub(super) fn by_index(&self, receiver: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&(receiver >> 8))
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    /// Whether a peer's endpoint is `target`; a scan of all peers.
    pub(super) fn has_endpoint(&self, target: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.endpoint().is_some_and(|at| at.remote == target))
    }

    /// Whether a packet of another peer arrived within the last 15 seconds: then the socket works,
    /// and a new one would help no peer.
    pub(super) fn hears_another(&self, peer: PeerId, now: Instant) -> bool {
        let recently = |heard: Instant| now.since(heard) < HEARD_RECENTLY;
        self.peers.values().any(|other| other.id != peer && other.stats.facts().heard.is_some_and(recently))
    }

    /// Whether the upper 24 bits of an index are free.
    fn index_is_free(&self, index: u32) -> bool {
        !self.by_index.contains_key(&index)
    }
}

/// Numbers for new peers.
pub(super) struct Indices {
    next_id: u32,
    pub(super) random: Rng,
}

impl Indices {
    pub(super) fn new() -> Self {
        Self { next_id: 0, random: Rng::new() }
    }

    /// A number that no peer ever had.
    pub(super) fn next_id(&mut self) -> PeerId {
        let id = PeerId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        id
    }

    /// The upper 24 bits of receiver indices, not in use in `table`.
    pub(super) fn next_index(&mut self, table: &Table) -> u32 {
        loop {
            let index = self.random.u32(1..1 << 24);
            if table.index_is_free(index) {
                return index;
            }
        }
    }
}
