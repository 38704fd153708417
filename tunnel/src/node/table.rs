//! The node's tables: an immutable snapshot that the data path reads without a lock.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::PeerId;
use super::peer::Peer;
use crate::allowed_ips::AllowedIps;
use crate::key::PublicKey;

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

    /// The peer a receiver index was given to: its upper 24 bits name the peer, the lower 8 the session.
    #[inline]
    pub(super) fn by_index(&self, receiver: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&(receiver >> 8))
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    /// Whether the upper 24 bits of an index are free.
    pub(super) fn index_is_free(&self, index: u32) -> bool {
        !self.by_index.contains_key(&index)
    }
}
