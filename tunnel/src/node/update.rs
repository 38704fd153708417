//! Changes of keys and peers. One change at a time, under `admin`; the data path sees it as one new table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::core::Core;
use super::identity::Identity;
use super::peer::{Peer, Vitals, canonical};
use super::table::Table;
use super::turn::Turn;
use super::{Node, PeerConfig, PeerError, PeerId, PeerState};
use crate::allowed_ips::masked;
use crate::dice::Dice;
use crate::endpoint::Endpoint;
use crate::key::{PrivateKey, PublicKey};
use crate::liveness::Prober;
use crate::reason::DropReason;
use crate::time::Now;

/// Peers of one node: far below the 2^24 receiver indices, so that a free one is found at once.
const MAX_PEERS: usize = 1 << 16;

/// What only changes of peers touch.
pub(super) struct Admin {
    next_id: u32,
    dice: Dice,
}

impl Admin {
    pub(super) fn new() -> Self {
        Self { next_id: 0, dice: Dice::new() }
    }

    /// A free upper part of receiver indices.
    fn index(&mut self, table: &Table) -> u32 {
        loop {
            let bytes = self.dice.roll().to_le_bytes();
            let index = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
            if index != 0 && table.index_is_free(index) {
                return index;
            }
        }
    }
}

impl Node {
    pub(super) fn change_private_key(&self, key: Option<PrivateKey>, now: Now) {
        let _admin = self.admin.lock();
        let identity = key.map(|key| Arc::new(Identity::new(key)));
        let own = identity.as_ref().map(|identity| identity.public);
        self.identity.store(identity);
        let mut table = Table::clone(&self.table.load());
        if let Some(peer) = own.and_then(|own| table.by_key(&own).cloned()) {
            self.retire(&mut table, &peer);
            self.table.store(Arc::new(table.clone()));
        }
        for peer in table.peers.values() {
            let mut turn = Turn::new(self, peer, now);
            self.rebuild(peer, &mut turn.core, now);
            turn.finish();
        }
    }

    /// Puts a fresh `Tunn` into a peer: every session with it ends, its configuration and counters stay.
    pub(super) fn rebuild(&self, peer: &Peer, core: &mut Core, now: Now) {
        let identity = self.identity.load();
        let preshared = peer.config.load().preshared_key.clone();
        let tunn = identity.as_deref().map(|own| own.tunn(&peer.key, preshared.as_ref(), peer.index));
        self.count_drops(DropReason::NoSession, core.waiting);
        core.replace_tunn(tunn, now);
    }

    pub(super) fn change_peers(
        &self,
        upsert: &[PeerConfig],
        remove: &[PublicKey],
        now: Now,
    ) -> Result<(), PeerError> {
        let mut admin = self.admin.lock();
        let own = self.identity.load().as_deref().map(|identity| identity.public);
        if upsert.iter().any(|config| Some(config.public_key) == own) {
            return Err(PeerError::OwnKey);
        }
        let mut table = Table::clone(&self.table.load());
        let leaving: Vec<_> = remove.iter().filter_map(|key| table.by_key(key).cloned()).collect();
        let stays = |config: &&PeerConfig| table.by_key(&config.public_key).is_some();
        let new = upsert.len() - upsert.iter().filter(stays).count();
        if table.peers.len().saturating_sub(leaving.len()) + new > MAX_PEERS {
            return Err(PeerError::TooMany);
        }
        for peer in leaving {
            self.retire(&mut table, &peer);
        }
        let mut routes = Routes::default();
        for config in upsert {
            let peer = match table.by_key(&config.public_key) {
                Some(peer) => Arc::clone(peer),
                None => self.add_peer(&mut admin, &mut table, config, now),
            };
            routes.assign(&mut table, &peer, config);
        }
        routes.settle(&table);
        self.table.store(Arc::new(table.clone()));
        for config in upsert {
            if let Some(peer) = table.by_key(&config.public_key) {
                self.apply(peer, config, now);
            }
        }
        Ok(())
    }

    fn add_peer(&self, admin: &mut Admin, table: &mut Table, config: &PeerConfig, now: Now) -> Arc<Peer> {
        let index = admin.index(table);
        let id = PeerId(admin.next_id);
        admin.next_id = admin.next_id.saturating_add(1);
        let identity = self.identity.load();
        let tunn =
            identity.as_deref().map(|own| own.tunn(&config.public_key, config.preshared_key.as_ref(), index));
        let prober = self.prober(config, &mut admin.dice);
        let peer = Arc::new(Peer {
            id,
            key: config.public_key,
            index,
            core: Mutex::new(Core::new(config, tunn, prober, now)),
            path: Mutex::new(
                config.endpoint.map(|remote| Endpoint { remote: canonical(remote), local: None }),
            ),
            config: ArcSwap::from_pointee(PeerConfig { allowed_ips: Vec::new(), ..config.clone() }),
            vitals: Vitals::default(),
        });
        table.insert(&peer);
        peer
    }

    fn prober(&self, config: &PeerConfig, dice: &mut Dice) -> Option<Prober> {
        let rules = self.liveness.filter(|_| config.probe.is_some())?;
        Some(Prober::new(rules, dice))
    }

    /// Takes a peer out of the table and ends its sessions.
    fn retire(&self, table: &mut Table, peer: &Peer) {
        table.remove(peer);
        for network in &peer.config.load().allowed_ips {
            table.allowed_ips.remove(*network, peer.id);
        }
        let mut core = peer.core.lock();
        core.tunn = None;
        core.session = None;
        self.schedule.set(peer.id, core.scheduled.take(), None);
    }

    /// Brings what the peer's lock guards in line with its configuration.
    fn apply(&self, peer: &Peer, config: &PeerConfig, now: Now) {
        let previous = peer.config.load_full();
        peer.config
            .store(Arc::new(PeerConfig { allowed_ips: previous.allowed_ips.clone(), ..config.clone() }));
        let mut turn = Turn::new(self, peer, now);
        if let Some(remote) = config.endpoint.map(canonical) {
            turn.place(remote);
        }
        if previous.preshared_key != config.preshared_key {
            self.rebuild(peer, &mut turn.core, now);
        }
        if previous.probe != config.probe {
            let core = &mut *turn.core;
            core.prober = self.prober(config, &mut core.dice);
            if let (Some(prober), Some(_)) = (&mut core.prober, core.session) {
                prober.activate(now.instant);
            }
        }
        turn.prepare_search();
        turn.core.keepalive = config.keepalive_interval();
        turn.core.initiate = config.initiate;
        turn.finish();
    }

    pub(super) fn move_endpoint(&self, peer: &Peer, remote: SocketAddr, now: Now) {
        let mut turn = Turn::new(self, peer, now);
        let remote = canonical(remote);
        let elsewhere = turn.endpoint.is_none_or(|endpoint| endpoint.remote != remote);
        let up = peer.vitals.state(self.liveness.as_ref(), now.instant) == PeerState::Up;
        if elsewhere && !(up && turn.core.session.is_some() && !turn.core.recovery.is_climbing()) {
            turn.place(remote);
            if turn.core.opens() || turn.core.wanted {
                turn.core.urge = Some(now.instant);
            }
        }
        turn.finish();
    }
}

impl Turn<'_> {
    /// Sets the endpoint by configuration; the local side is the kernel's to choose again.
    fn place(&mut self, remote: SocketAddr) {
        if self.endpoint.is_none_or(|endpoint| endpoint.remote != remote) {
            let path = Endpoint { remote, local: None };
            self.endpoint = Some(path);
            *self.peer.path.lock() = Some(path);
            if let Some(search) = &mut self.core.search {
                search.restart();
            }
        }
    }
}

/// Allowed-ips on their way to their owners: lists are written once, however many prefixes move.
#[derive(Default)]
struct Routes {
    lists: HashMap<PeerId, Vec<ipnetwork::IpNetwork>>,
    taken: HashMap<PeerId, Vec<ipnetwork::IpNetwork>>,
}

impl Routes {
    /// Gives a peer its prefixes, from whoever has them.
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
