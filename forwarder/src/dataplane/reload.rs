//! A new configuration while traffic flows: all of it or nothing, and unchanged flows are left
//! alone.
//!
//! This adds to [`DataPlane`], which calls it: a change touches every part of the data plane
//! between two rounds, so nothing smaller could own it.

use std::sync::Arc;

use policy::forwarder::Policy;
use tunnel::node::PeerConfig;
use tunnel::time::Now;

use super::{Change, DataPlane, Listeners, Owner};
use daemon::endpoint_name::EndpointName;

impl DataPlane {
    /// Applies a change between two rounds.
    pub(super) fn reload(&mut self, now: Now, change: Change) {
        if self.stop.is_some() {
            return;
        }
        let Change { policy, keys, added, peers, bound } = change;
        for (edge, key) in keys {
            if let Some(edge) = self.edges.get_mut(edge) {
                edge.node.set_private_key(Some(key), now);
            }
        }
        for (edge, keys, config) in peers {
            let Some(edge) = self.edges.get_mut(edge) else { continue };
            let switched = edge.keys.configure(&edge.node, keys, now);
            let config = PeerConfig { public_key: edge.keys.in_use(), ..config };
            let changed = switched.and_then(|()| edge.node.update_peers(&[config], &[], now));
            if let Err(error) = changed {
                tracing::warn!(peer = %edge.name, %error, "the peer's new settings were refused");
            }
        }
        for (name, peer) in self.names.iter_mut().zip(&policy.peers) {
            if *name.endpoint() != peer.endpoint {
                *name = EndpointName::new(peer.endpoint.clone());
            }
        }
        let known = self.names.len();
        for (edge, peer) in added.into_iter().zip(policy.peers.iter().skip(known)) {
            self.edges.push(edge);
            let edge = self.edges.iter().next_back();
            if let Some(Err(error)) = edge.map(|edge| edge.watch(self.poll.registry())) {
                tracing::warn!(peer = %peer.name, %error, "the edge's socket cannot be watched");
            }
            self.names.push(EndpointName::new(peer.endpoint.clone()));
        }
        self.replace_listeners(&policy, bound);
        let old = Arc::clone(&self.flows.context().policy);
        self.flows.abort(now, |owner, _| has_changed(owner, &old, &policy));
        self.flows.adopt(now, policy);
        tracing::info!("configuration applied");
    }

    /// Keeps the listeners that are as they were, closes the others and takes the new ones.
    fn replace_listeners(&mut self, policy: &Policy, bound: Listeners) {
        let mut kept = Vec::new();
        for mut listener in std::mem::take(&mut self.listeners) {
            if policy.reach.contains(&listener.reach) {
                kept.push(listener);
            } else {
                listener.release_held(&self.stats);
            }
        }
        kept.extend(bound.tcp);
        for (index, listener) in kept.iter_mut().enumerate() {
            if let Err(error) = listener.rewatch(self.poll.registry(), index, &self.edges) {
                tracing::warn!(reach = %listener.reach.name, %error, "the listener cannot be watched");
            }
        }
        self.listeners = kept;
        self.flows.keep_udp_listeners(policy);
        for listener in bound.udp {
            let name = listener.reach.name.clone();
            if let Err(error) = self.flows.add_udp_listener(listener, &self.edges) {
                tracing::warn!(reach = %name, %error, "the listener cannot be watched");
            }
        }
    }
}

/// Whether a flow's entry is another now; one that only leads elsewhere keeps its flows, and its
/// old upstreams drain.
fn has_changed(owner: &Owner, old: &Policy, new: &Policy) -> bool {
    match owner {
        Owner::Service(name, _) => {
            let old = old.services.iter().find(|entry| entry.name == *name);
            let new = new.services.iter().find(|entry| entry.name == *name);
            !old.zip(new).is_some_and(|(old, new)| old.is_alike(new))
        }
        Owner::Reach(name) => {
            let entry = |policy: &Policy| policy.reach.iter().find(|entry| entry.name == *name).cloned();
            entry(old) != entry(new)
        }
        // Whoever dialled it ends it when its edge is another.
        Owner::Link => false,
    }
}
