//! Changes of keys and peers, one at a time; the data path sees each as one new table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use fastrand::Rng;
use parking_lot::Mutex;

use super::allowed_ips::masked;
use super::config::{Liveness, PeerConfig};
use super::core::Core;
use super::identity::Identity;
use super::liveness::Prober;
use super::locked_peer::LockedPeer;
use super::peer::{Peer, canonical};
use super::stats::PeerStats;
use super::status::{PeerError, PeerState};
use super::table::{Indices, Table};
use super::{Node, path_mtu_search};
use crate::endpoint::{Endpoint, PeerId};
use crate::key::{PrivateKey, PublicKey};
use crate::time::{Instant, Now};

/// Peers of one node: far below the 2^24 receiver indices, so that a free one is found at once.
const MAX_PEERS: usize = 1 << 16;

impl Node {
    /// Replaces the node's own key (all sessions end), or removes it; a peer with the same key is
    /// removed.
    pub fn set_private_key(&self, key: Option<PrivateKey>, now: Now) {
        let _indices = self.indices.lock();
        let identity = key.map(|key| Arc::new(Identity::new(key)));
        let own = identity.as_ref().map(|identity| identity.public);
        self.identity.store(identity);
        let mut change = Change::begin(self, now);
        if let Some(peer) = own.and_then(|own| change.table.by_key(&own).cloned()) {
            change.remove(&peer);
            change.publish();
        }
        for peer in change.table.peers.values() {
            let mut peer = LockedPeer::lock(self, peer, now);
            peer.rebuild_tunn();
            peer.release();
        }
    }

    /// Adds or changes peers and removes others in one step: no packet ever sees half of it.
    ///
    /// A peer already there keeps its session unless its preshared key changed; its endpoint stays
    /// where it roamed to when `endpoint` is `None`. An allowed-ip given to a later peer is taken
    /// from the earlier one. Removal comes first: a key in both lists is a new peer.
    ///
    /// # Errors
    /// [`PeerError`]; then nothing changed.
    pub fn update_peers(
        &self,
        upsert: &[PeerConfig],
        remove: &[PublicKey],
        now: Now,
    ) -> Result<(), PeerError> {
        let mut indices = self.indices.lock();
        let own = self.identity.load().as_deref().map(|identity| identity.public);
        if upsert.iter().any(|config| Some(config.public_key) == own) {
            return Err(PeerError::OwnKey);
        }
        let mut change = Change::begin(self, now);
        let table = &change.table;
        let leaving: Vec<_> = remove.iter().filter_map(|key| table.by_key(key).cloned()).collect();
        let stays = |config: &&PeerConfig| table.by_key(&config.public_key).is_some();
        let new = upsert.len() - upsert.iter().filter(stays).count();
        if table.peers.len().saturating_sub(leaving.len()) + new > MAX_PEERS {
            return Err(PeerError::TooMany);
        }
        for peer in leaving {
            change.remove(&peer);
        }
        let mut routes = Routes::default();
        for config in upsert {
            let peer = match change.table.by_key(&config.public_key) {
                Some(peer) => Arc::clone(peer),
                None => change.add(&mut indices, config),
            };
            routes.assign(&mut change.table, &peer, config);
        }
        routes.settle(&change.table);
        change.publish();
        for config in upsert {
            if let Some(peer) = change.table.by_key(&config.public_key) {
                change.apply(peer, config);
            }
        }
        Ok(())
    }

    /// Gives a peer another key, as when the machine at the other end changes its own: the sessions
    /// end, and a handshake begins at once; number, settings, endpoint and counters stay. A peer
    /// that is not there is none afterwards.
    ///
    /// # Errors
    /// [`PeerError`]; then nothing changed.
    pub fn set_peer_key(&self, old: &PublicKey, new: PublicKey, now: Now) -> Result<(), PeerError> {
        let mut indices = self.indices.lock();
        if self.identity.load().as_deref().is_some_and(|identity| identity.public == new) {
            return Err(PeerError::OwnKey);
        }
        let mut change = Change::begin(self, now);
        let Some(before) = change.table.by_key(old).cloned() else { return Ok(()) };
        if change.table.by_key(&new).is_some() {
            return if *old == new { Ok(()) } else { Err(PeerError::KeyTaken) };
        }
        let keyless = before.core.lock().take_keyless();
        change.retire(&before);
        let config = PeerConfig { public_key: new, ..PeerConfig::clone(&before.config.load()) };
        let peer = change.make(&mut indices, before.id, &config, Arc::clone(&before.stats));
        *peer.path.lock() = before.endpoint();
        peer.config.store(Arc::new(config));
        change.table.insert(&peer);
        change.publish();
        let mut locked = LockedPeer::lock(self, &peer, now);
        locked.core.continue_from(keyless, self.liveness.is_some(), now.instant);
        path_mtu_search::prepare(&mut locked);
        locked.release();
        Ok(())
    }

    /// Since when the handshake that is under way with a peer has no answer, or nothing authentic
    /// came from it; `None` while no handshake is under way.
    pub fn unanswered_since(&self, key: &PublicKey) -> Option<Instant> {
        let table = self.table.load();
        let peer = table.by_key(key)?;
        let began = peer.core.lock().attempt?.began;
        Some(peer.stats.facts().heard.map_or(began, |heard| heard.max(began)))
    }

    /// Reports handshakes that are begun with this key, which no peer has, as
    /// [`Event::AwaitedKey`](super::Event::AwaitedKey); they are not answered.
    pub fn await_key(&self, key: Option<PublicKey>) {
        self.awaited.store(key.map(Arc::new));
    }

    /// Moves a peer's endpoint, as after a name was resolved: only if it is not `up` at another
    /// one.
    pub fn set_endpoint(&self, peer: PeerId, endpoint: SocketAddr, now: Now) {
        let table = self.table.load();
        let Some(peer) = table.peers.get(&peer) else { return };
        let mut locked = LockedPeer::lock(self, peer, now);
        let remote = canonical(endpoint);
        let is_other = locked.endpoint.is_none_or(|endpoint| endpoint.remote != remote);
        let up = peer.stats.state(self.liveness.as_ref(), now.instant) == PeerState::Up;
        if is_other && !(up && locked.core.session.is_some() && !locked.core.recovery.is_running()) {
            locked.place(Endpoint { remote, local: None });
            if locked.core.opens() || locked.core.wanted {
                locked.core.handshake_at = Some(now.instant);
            }
        }
        locked.release();
    }
}

/// One change of the peers: the next table, not in use before it is published.
struct Change<'n> {
    node: &'n Node,
    table: Table,
    now: Now,
}

impl<'n> Change<'n> {
    fn begin(node: &'n Node, now: Now) -> Self {
        Self { node, table: Table::clone(&node.table.load()), now }
    }

    /// Puts the new table in use.
    fn publish(&self) {
        self.node.table.store(Arc::new(self.table.clone()));
    }

    fn add(&mut self, indices: &mut Indices, config: &PeerConfig) -> Arc<Peer> {
        let id = indices.next_id();
        let peer = self.make(indices, id, config, Arc::default());
        self.table.insert(&peer);
        peer
    }

    /// A peer that is not in the table, without prefixes.
    fn make(
        &self,
        indices: &mut Indices,
        id: PeerId,
        config: &PeerConfig,
        stats: Arc<PeerStats>,
    ) -> Arc<Peer> {
        let index = indices.next_index(&self.table);
        let identity = self.node.identity.load();
        let (key, preshared) = (&config.public_key, config.preshared_key.as_ref());
        let tunn = identity.as_deref().map(|own| own.tunn(key, preshared, index));
        let prober = prober(self.node.probing(), config, &mut indices.random);
        let endpoint = config.endpoint.map(|remote| Endpoint { remote: canonical(remote), local: None });
        Arc::new(Peer {
            id,
            key: config.public_key,
            index,
            core: Mutex::new(Core::new(config, tunn, prober, self.now)),
            path: Mutex::new(endpoint),
            config: ArcSwap::from_pointee(PeerConfig { allowed_ips: Vec::new(), ..config.clone() }),
            stats,
        })
    }

    /// Takes a peer and its prefixes out of the table, and ends its sessions.
    fn remove(&mut self, peer: &Peer) {
        for network in &peer.config.load().allowed_ips {
            self.table.allowed_ips.remove(*network, peer.id);
        }
        self.retire(peer);
    }

    /// Takes a peer out of the table and ends its sessions; its prefixes stay with its number.
    fn retire(&mut self, peer: &Peer) {
        self.table.remove(peer);
        let mut core = peer.core.lock();
        core.tunn = None;
        core.session = None;
        self.node.schedule.set(peer.id, core.scheduled.take(), None);
    }

    /// Brings what the peer's lock guards in line with its configuration.
    fn apply(&self, peer: &Peer, config: &PeerConfig) {
        let previous = peer.config.load_full();
        peer.config
            .store(Arc::new(PeerConfig { allowed_ips: previous.allowed_ips.clone(), ..config.clone() }));
        let mut locked = LockedPeer::lock(self.node, peer, self.now);
        if let Some(remote) = config.endpoint.map(canonical)
            && locked.endpoint.is_none_or(|endpoint| endpoint.remote != remote)
        {
            // The local side is the kernel's to choose again.
            locked.place(Endpoint { remote, local: None });
        }
        if previous.preshared_key != config.preshared_key {
            locked.rebuild_tunn();
        }
        if previous.probe != config.probe {
            let core = &mut *locked.core;
            core.probes.prober = prober(self.node.probing(), config, &mut core.random);
            if let (Some(prober), Some(_)) = (&mut core.probes.prober, core.session) {
                prober.activate(self.now.instant);
            }
        }
        path_mtu_search::prepare(&mut locked);
        locked.core.keepalive = config.keepalive_interval();
        locked.core.initiate = config.initiate;
        locked.release();
    }
}

/// What probes a peer, if it is to be probed and the node watches liveness.
fn prober(rules: Option<Liveness>, config: &PeerConfig, random: &mut Rng) -> Option<Prober> {
    let rules = rules.filter(|_| config.probe.is_some())?;
    Some(Prober::new(rules, random))
}

/// Allowed-ips on their way to their owners: lists are written once, however many prefixes move.
#[derive(Default)]
struct Routes {
    lists: HashMap<PeerId, Vec<ipnetwork::IpNetwork>>,
    taken: HashMap<PeerId, Vec<ipnetwork::IpNetwork>>,
}

impl Routes {
    /// Gives a peer its prefixes, which another peer may have had.
    fn assign(&mut self, table: &mut Table, peer: &Peer, config: &PeerConfig) {
        let before = self.lists.remove(&peer.id).unwrap_or_else(|| peer.config.load().allowed_ips.clone());
        for network in before {
            table.allowed_ips.remove(network, peer.id);
        }
        let mut list = Vec::with_capacity(config.allowed_ips.len());
        for network in &config.allowed_ips {
            let network = masked(*network);
            match table.allowed_ips.insert(network, peer.id) {
                Some(owner) if owner == peer.id => continue,
                Some(owner) => self.taken.entry(owner).or_default().push(network),
                None => {}
            }
            list.push(network);
        }
        self.lists.insert(peer.id, list);
    }

    /// Writes every list that changed; what was taken away on the way is left out.
    fn settle(mut self, table: &Table) {
        for (id, taken) in &self.taken {
            if let Some(peer) = table.peers.get(id) {
                self.lists.entry(*id).or_insert_with(|| peer.config.load().allowed_ips.clone());
            }
            if let Some(list) = self.lists.get_mut(id) {
                let taken: std::collections::HashSet<_> = taken.iter().collect();
                list.retain(|network| !taken.contains(network) || table.allowed_ips.belongs(*network, *id));
            }
        }
        for (id, list) in self.lists {
            if let Some(peer) = table.peers.get(&id) {
                let config = PeerConfig { allowed_ips: list, ..PeerConfig::clone(&peer.config.load()) };
                peer.config.store(Arc::new(config));
            }
        }
    }
}
