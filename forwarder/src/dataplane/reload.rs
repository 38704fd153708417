//! A new configuration while traffic flows: all of it or nothing, and unchanged flows are left
//! alone.
//!
//! This adds to [`DataPlane`], which calls it: a change touches every part of the data plane
//! between two rounds, so nothing smaller could own it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use policy::forwarder::{Policy, Reach, Service};
use policy::{Name, Protocol};
use tunnel::node::PeerConfig;
use tunnel::time::Now;

use super::{Change, DataPlane, Listeners, Owner};
use crate::flow::EdgeId;
use daemon::endpoint_name::EndpointName;

impl DataPlane {
    /// Applies a change between two rounds.
    pub(super) fn reload(&mut self, now: Now, change: Change) {
        if self.stop.is_some() {
            return;
        }
        let Change { policy, removed, keys, added, peers, bound } = change;
        removed.into_iter().for_each(|edge| self.remove_edge(now, edge));
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
            let endpoint = policy.peers.iter().find(|peer| peer.name == edge.name).map(|peer| &peer.endpoint);
            if let Some(endpoint) = endpoint.filter(|endpoint| *endpoint != edge.endpoint_name.endpoint()) {
                edge.endpoint_name = EndpointName::new(endpoint.clone());
            }
        }
        for edge in added {
            if let Err(error) = edge.watch(self.poll.registry()) {
                tracing::warn!(peer = %edge.name, %error, "the edge's socket cannot be watched");
            }
            self.edges.push(edge);
        }
        self.replace_listeners(&policy, bound);
        let old = Arc::clone(&self.flows.context().policy);
        let edges: HashMap<EdgeId, Name> =
            self.edges.iter().map(|edge| (edge.id, edge.name.clone())).collect();
        self.flows.abort(now, |edge, owner, _| has_changed(edges.get(&edge), owner, &old, &policy));
        self.flows.adopt(now, policy);
        tracing::info!("configuration applied");
    }

    /// Ends the flows of an edge, and closes its tunnel.
    fn remove_edge(&mut self, now: Now, id: EdgeId) {
        self.flows.end_flows_of(now, id, &mut self.edges);
        if let Some(mut edge) = self.edges.remove(id) {
            edge.flush();
            edge.unwatch(self.poll.registry());
            tracing::info!(peer = %edge.name, "the edge was removed");
        }
    }

    /// Keeps the listeners whose address is still listened on, closes the others and takes the new
    /// ones.
    fn replace_listeners(&mut self, policy: &Policy, bound: Listeners) {
        let mut kept = Vec::new();
        for mut listener in std::mem::take(&mut self.listeners) {
            let entry = reach_at(policy, listener.reach.listen, Protocol::Tcp);
            if entry != Some(&listener.reach) {
                listener.release_held(&self.stats);
            }
            if let Some(entry) = entry {
                listener.reach = entry.clone();
                kept.push(listener);
            }
        }
        kept.extend(bound.tcp);
        for (index, listener) in kept.iter_mut().enumerate() {
            if let Err(error) = listener.rewatch(self.poll.registry(), index, &self.edges) {
                tracing::warn!(reach = %listener.reach.name, %error, "the listener cannot be watched");
            }
        }
        self.listeners = kept;
        self.flows.keep_udp_listeners(policy, &self.edges);
        for listener in bound.udp {
            let name = listener.reach.name.clone();
            if let Err(error) = self.flows.add_udp_listener(listener, &self.edges) {
                tracing::warn!(reach = %name, %error, "the listener cannot be watched");
            }
        }
    }
}

/// The entry that listens there.
pub(super) fn reach_at(policy: &Policy, listen: SocketAddr, protocol: Protocol) -> Option<&Reach> {
    policy.reach.iter().find(|entry| entry.listen == listen && entry.protocols.contains(protocol))
}

/// Whether the entry of a flow through `edge` is another now; one that only leads elsewhere keeps
/// its flows, and its old upstreams drain. Which other edges it is for means nothing to the flow.
fn has_changed(edge: Option<&Name>, owner: &Owner, old: &Policy, new: &Policy) -> bool {
    match owner {
        Owner::Service(name, _) => {
            let old = old.services.iter().find(|entry| entry.name == *name);
            let new = new.services.iter().find(|entry| entry.name == *name);
            let is_alike = |old: &Service, new: &Service| {
                let is_for_its_edge = edge.is_some_and(|edge| new.peers.contains(edge));
                is_for_its_edge && Service { peers: new.peers.clone(), ..old.clone() }.is_alike(new)
            };
            !old.zip(new).is_some_and(|(old, new)| is_alike(old, new))
        }
        Owner::Reach(name) => {
            let entry = |policy: &Policy| policy.reach.iter().find(|entry| entry.name == *name).cloned();
            entry(old) != entry(new)
        }
        // Whoever dialled it ends it when its edge is another.
        Owner::Link => false,
    }
}
