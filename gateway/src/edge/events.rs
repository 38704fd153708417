//! Events of the data plane, and what is done about them.

use std::net::SocketAddr;
use std::rc::Rc;

use daemon::endpoint_name::EndpointName;
use policy::HostPort;
use policy::gateway::Peer;
use tokio::task;
use tunnel::device::DeviceEvent;
use tunnel::key::PublicKey;
use tunnel::node::{Event, PeerId, PeerState, RecoveryStep};

use super::{Edge, peers};

impl Edge {
    /// Takes one event; whether the edge can go on.
    pub fn handle_event(self: &Rc<Self>, event: DeviceEvent) -> bool {
        match event {
            DeviceEvent::TunGone => {
                tracing::error!(
                    "the TUN device was deleted; the daemon ends so that the device is created again"
                );
                return false;
            }
            // Logged where it was found.
            DeviceEvent::ThreadFailed(_) => return false,
            DeviceEvent::Node(event) => self.handle_node_event(event),
        }
        true
    }

    fn handle_node_event(self: &Rc<Self>, event: Event) {
        match event {
            Event::Handshake { peer } => {
                tracing::debug!(peer = self.name_of_id(peer), "session established")
            }
            Event::EndpointChanged { peer, endpoint } => {
                tracing::debug!(peer = self.name_of_id(peer), endpoint = %endpoint.remote, "peer endpoint changed");
                self.note_endpoints();
            }
            Event::StateChanged { peer, from, to } => self.log_state(peer, from, to),
            Event::Recover { peer, step: RecoveryStep::Resolve } => self.resolve(peer),
            // The handshake is the node's own work, and another socket on the same fixed port would be the same.
            Event::Recover { peer, step } => {
                tracing::debug!(peer = self.name_of_id(peer), ?step, "recovering")
            }
            Event::PathMtu { peer, mtu } => {
                tracing::info!(peer = self.name_of_id(peer), mtu, "path MTU discovered");
                self.follow_path_mtu();
            }
            Event::Watermark { wall } => {
                if let Err(error) = self.state.clock_mark().write(wall) {
                    tracing::warn!(
                        "the clock mark cannot be written ({error}); free disk space or fix the state folder's permissions"
                    );
                }
            }
            Event::ClockBehind { by } => {
                let behind_seconds = by.as_secs();
                tracing::info!(
                    behind_seconds,
                    "the wall clock is behind the latest one used here: a peer may answer by a handshake of its own"
                );
            }
            Event::SharedKey { peer, is_the_peers } => {
                tracing::warn!("{}", shared_key(&self.name_of_id(peer), is_the_peers));
            }
            Event::OldTimestamp { peer } => {
                tracing::info!(
                    peer = self.name_of_id(peer),
                    "a handshake of the peer is older than the one before: its clock went back, or it is a replay"
                );
            }
        }
    }

    fn log_state(&self, peer: PeerId, from: PeerState, to: PeerState) {
        tracing::info!(
            peer = self.name_of_id(peer),
            from = from.label(),
            to = to.label(),
            "peer state changed"
        );
        if to == PeerState::Up {
            self.note_endpoints();
            self.note_reply(peer);
        }
    }

    /// Has the endpoints written at once after a quiet second, so that even a crash finds them; else the tick does.
    fn note_endpoints(&self) {
        if !self.endpoints_noted.replace(true) {
            self.keep_endpoints();
        }
    }

    /// Writes the endpoints if they changed; to be called at every look.
    pub fn keep_endpoints_again(&self) {
        self.endpoints_noted.set(false);
        self.keep_endpoints();
    }

    /// Follows the endpoints that are names in the configuration, as after a start or a change.
    pub fn resolve_all(self: &Rc<Self>) {
        {
            let current = self.current.borrow();
            let mut names = self.names.borrow_mut();
            let mut before = std::mem::take(&mut *names);
            for peer in &current.policy.peers {
                let Some(endpoint) = peers::name_to_resolve(peer) else { continue };
                let kept = before.remove(&peer.public_key).filter(|name| name.endpoint() == endpoint);
                let name = kept.unwrap_or_else(|| EndpointName::new(endpoint.clone()));
                names.insert(peer.public_key, name);
            }
        }
        self.resolve_due();
    }

    /// Resolves the names whose time has come, in the background; to be called every few seconds.
    pub fn resolve_due(self: &Rc<Self>) {
        let now = Self::now();
        let due: Vec<_> = {
            let mut names = self.names.borrow_mut();
            let due = |(key, name): (&policy::PublicKey, &mut EndpointName)| {
                name.is_due(now).then(|| (*key, name.endpoint().clone()))
            };
            names.iter_mut().filter_map(due).collect()
        };
        for (key, endpoint) in due {
            let edge = Rc::clone(self);
            task::spawn_local(async move {
                let addresses = tokio::net::lookup_host(endpoint.to_string()).await;
                edge.handle_addresses(&key, addresses.map(Iterator::collect).unwrap_or_default());
            });
        }
    }

    fn handle_addresses(&self, key: &policy::PublicKey, addresses: Vec<SocketAddr>) {
        let (node, now) = (self.device.node(), Self::now());
        let status = node.peers(now).into_iter().find(|peer| peer.public_key.as_bytes() == key.as_bytes());
        let Some(status) = status else { return };
        let current = status.endpoint.map(|endpoint| endpoint.remote);
        let mut names = self.names.borrow_mut();
        let Some(name) = names.get_mut(key) else { return };
        if addresses.is_empty() {
            tracing::info!(
                peer = self.name_of_id(status.id),
                "the peer's name does not resolve; trying again"
            );
        }
        if let Some(address) = name.handle_resolved(now, &addresses, current) {
            node.set_endpoint(status.id, address, now);
            self.device.wake();
        }
    }

    /// A silent peer: one whose endpoint is an address is tried there at once, as a packet from elsewhere may have led away
    /// from it; else each address of its name is tried in turn until it answers.
    fn resolve(self: &Rc<Self>, id: PeerId) {
        let Some((key, endpoint)) = self.configured_endpoint(id) else { return };
        if let Some(address) = peers::literal(&endpoint) {
            self.device.node().set_endpoint(id, address, Self::now());
            return self.device.wake();
        }
        if let Some(name) = self.names.borrow_mut().get_mut(&key) {
            name.handle_silence(Self::now());
        }
        self.resolve_due();
    }

    fn note_reply(&self, id: PeerId) {
        if let Some((key, _)) = self.configured_endpoint(id)
            && let Some(name) = self.names.borrow_mut().get_mut(&key)
        {
            name.handle_reply();
        }
    }

    fn configured_endpoint(&self, id: PeerId) -> Option<(policy::PublicKey, HostPort)> {
        let status = self.device.node().peers(Self::now()).into_iter().find(|peer| peer.id == id)?;
        let current = self.current.borrow();
        let is_it = |peer: &&Peer| peer.public_key.as_bytes() == status.public_key.as_bytes();
        let peer = current.policy.peers.iter().find(is_it)?;
        Some((peer.public_key, peer.endpoint.clone()?))
    }

    /// Writes the endpoints of the peers heard since the start; others keep the place they had.
    pub fn keep_endpoints(&self) {
        let status = self.device.node().peers(Self::now());
        let heard = status.into_iter().filter(|peer| peer.latest_handshake.is_some());
        let heard = heard.filter_map(|peer| Some((peer.public_key.to_string(), peer.endpoint?.remote)));
        let mut endpoints = self.endpoints.borrow().clone();
        endpoints.peers.extend(heard);
        endpoints.peers.retain(|key, _| self.is_configured(key));
        if endpoints == *self.endpoints.borrow() {
            return;
        }
        if let Err(error) = self.state.keep_endpoints(&endpoints) {
            // Once: the next second would only say it again.
            tracing::warn!(
                "the peers' endpoints cannot be written ({error}); free disk space or fix the state folder's permissions"
            );
        }
        self.endpoints.replace(endpoints);
    }

    fn is_configured(&self, key: &str) -> bool {
        self.current.borrow().policy.peers.iter().any(|peer| peer.public_key.to_string() == key)
    }

    fn name_of_id(&self, id: PeerId) -> String {
        let status = self.device.node().peers(Self::now()).into_iter().find(|peer| peer.id == id);
        status.map_or_else(|| format!("{}", id.0), |status| self.name_of(&status.public_key))
    }

    /// The peer's name in the configuration, or the beginning of its key.
    pub(super) fn name_of(&self, key: &PublicKey) -> String {
        let current = self.current.borrow();
        let named = current.policy.peers.iter().find(|peer| peer.public_key.as_bytes() == key.as_bytes());
        named.map_or_else(|| key.to_string().chars().take(8).collect(), |peer| peer.name.to_string())
    }
}

/// That two machines use one key in turn, with the fix.
pub(super) fn shared_key(peer: &str, is_the_peers: bool) -> String {
    match is_the_peers {
        true => format!(
            "two machines use the key of peer {peer} in turn: stop one of them, or give it a key and a [[peer]] of its own"
        ),
        false => format!(
            "the session with peer {peer} works and is lost every few seconds: another edge uses this edge's key; stop one \
             of them, or give it a key of its own"
        ),
    }
}
