//! What a `set` request changes in the peers a node has.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::{AllowedIp, Errno, Set, SetPeer};
use crate::key::PublicKey;
use crate::node::{Node, PeerConfig, PeerError};
use crate::time::Now;

/// Peers to add or change, and keys to remove; [`Node::update_peers`] makes both in one step.
#[derive(Default)]
pub struct Change {
    /// Peers to add or change, with their new configuration.
    pub upsert: Vec<PeerConfig>,
    /// Keys of peers to remove.
    pub remove: Vec<PublicKey>,
}

impl Change {
    /// The change that `set` requests, given the peers there are.
    ///
    /// `own` is the node's public key as it will be: a peer of that key is left out, or removed
    /// when it is there. A peer that `replace_peers` names again keeps its session, since its keys
    /// are the same.
    #[must_use]
    pub fn of(set: &Set, own: Option<PublicKey>, current: &[PeerConfig]) -> Self {
        let mut peers = Working::new(set, current);
        for change in set.peers.iter().filter(|change| Some(change.public_key) != own) {
            peers.take(change);
        }
        let mut remove: Vec<_> = peers.removed.into_iter().collect();
        remove.extend(own.filter(|own| current.iter().any(|peer| peer.public_key == *own)));
        let owner = &peers.owner;
        let upsert = peers.order.iter().filter_map(|key| {
            let mut config = peers.changed.get(key)?.clone();
            let mut seen = HashSet::new();
            config
                .allowed_ips
                .retain(|prefix| owner.get(prefix).is_none_or(|owner| owner == key) && seen.insert(*prefix));
            Some(config)
        });
        Self { upsert: upsert.collect(), remove }
    }
}

/// Peers while the request is processed line by line.
struct Working<'a> {
    current: HashMap<PublicKey, &'a PeerConfig>,
    changed: HashMap<PublicKey, PeerConfig>,
    order: Vec<PublicKey>,
    removed: HashSet<PublicKey>,
    /// The peer that a prefix was given to last.
    owner: HashMap<IpNetwork, PublicKey>,
}

impl<'a> Working<'a> {
    fn new(set: &Set, current: &'a [PeerConfig]) -> Self {
        let keys = current.iter().map(|peer| peer.public_key);
        Self {
            removed: if set.replace_peers { keys.collect() } else { HashSet::new() },
            current: current.iter().map(|peer| (peer.public_key, peer)).collect(),
            changed: HashMap::new(),
            order: Vec::new(),
            owner: HashMap::new(),
        }
    }

    fn take(&mut self, change: &SetPeer) {
        let key = change.public_key;
        let is_known = self.changed.contains_key(&key)
            || (self.current.contains_key(&key) && !self.removed.contains(&key));
        if change.remove {
            self.changed.remove(&key);
            if self.current.contains_key(&key) {
                self.removed.insert(key);
            }
            return;
        }
        if change.update_only && !is_known {
            return;
        }
        let before = self.current.get(&key).filter(|_| !self.removed.contains(&key));
        let config = self
            .changed
            .entry(key)
            .or_insert_with(|| before.map_or_else(|| PeerConfig::of(key), |config| (*config).clone()));
        self.removed.remove(&key);
        if !self.order.contains(&key) {
            self.order.push(key);
        }
        if let Some(preshared_key) = &change.preshared_key {
            config.preshared_key.clone_from(preshared_key);
        }
        if change.endpoint.is_some() {
            config.endpoint = change.endpoint;
        }
        if let Some(seconds) = change.keepalive {
            config.keepalive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        }
        if change.replace_allowed_ips {
            config.allowed_ips.clear();
        }
        take_allowed_ips(config, &change.allowed_ips, &mut self.owner);
    }
}

fn take_allowed_ips(
    config: &mut PeerConfig,
    changes: &[AllowedIp],
    owner: &mut HashMap<IpNetwork, PublicKey>,
) {
    let mut gone = HashSet::new();
    for change in changes {
        match *change {
            AllowedIp::Add(prefix) => {
                gone.remove(&prefix);
                owner.insert(prefix, config.public_key);
                config.allowed_ips.push(prefix);
            }
            AllowedIp::Remove(prefix) => {
                gone.insert(prefix);
                // A prefix that this peer gives up is free again; one of another peer stays.
                if owner.get(&prefix) == Some(&config.public_key) {
                    owner.remove(&prefix);
                }
            }
        }
    }
    if !gone.is_empty() {
        config.allowed_ips.retain(|prefix| !gone.contains(prefix));
    }
}

/// Makes the changes of keys and peers that `set` requests; port and mark are the caller's to
/// change.
///
/// # Errors
/// [`Errno::TooBig`] when there would be more peers than a node can have; then nothing changed.
pub fn apply_to_node(node: &Node, set: &Set, now: Now) -> Result<(), Errno> {
    let current: Vec<_> =
        node.peers(now).iter().filter_map(|peer| node.peer_config(&peer.public_key)).collect();
    let old = node.private_key().map(|key| key.public());
    let new = match &set.private_key {
        Some(key) => key.as_ref().map(crate::key::PrivateKey::public),
        None => old,
    };
    let mut change = Change::of(set, new, &current);
    if new != old {
        // A peer that has the new key must be gone before the node has it, one that has the old key
        // can only come after.
        let is_old = |key: &PublicKey| Some(*key) == old;
        let (later, sooner) = change.upsert.into_iter().partition(|peer| is_old(&peer.public_key));
        change.upsert = sooner;
        update(node, &change, now)?;
        node.set_private_key(set.private_key.clone().flatten(), now);
        change = Change { upsert: later, remove: Vec::new() };
    }
    update(node, &change, now)
}

fn update(node: &Node, change: &Change, now: Now) -> Result<(), Errno> {
    if change.upsert.is_empty() && change.remove.is_empty() {
        return Ok(());
    }
    node.update_peers(&change.upsert, &change.remove, now).map_err(|error| match error {
        PeerError::OwnKey | PeerError::KeyTaken => Errno::Invalid,
        PeerError::TooMany => Errno::TooBig,
    })
}
