//! Events of the data plane, and what is done about them.

use std::rc::Rc;

use tunnel::device::DeviceEvent;
use tunnel::node::{Event, PeerId, PeerState, RecoveryStep};

use super::{Edge, path_mtu, peers, probes};

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
        let name = |id: PeerId| match self.plane.peer(id) {
            Some(_) if self.plane.is_temporary(id) => "(pairing)".to_owned(),
            Some(peer) => self.in_force.borrow().name_of(&peer.public_key),
            None => id.0.to_string(),
        };
        match event {
            Event::Handshake { peer } => {
                tracing::debug!(peer = name(peer), "session established")
            }
            Event::EndpointChanged { peer, endpoint } => {
                tracing::debug!(peer = name(peer), endpoint = %endpoint.remote, "peer endpoint changed");
                if self.peers.borrow_mut().note() {
                    self.keep_endpoints();
                }
            }
            Event::StateChanged { peer, from, to } => {
                let (from, state) = (from.label(), to.label());
                tracing::info!(peer = name(peer), from, to = state, "peer state changed");
                if to == PeerState::Up {
                    self.handle_reply(peer);
                }
            }
            Event::Recover { peer, step: RecoveryStep::Resolve } => {
                peers::handle_silence(&self.peers, self.plane.device(), &self.config().policy, peer);
            }
            // The handshake is the node's own work, and another socket on the same fixed port would
            // be the same.
            Event::Recover { peer, step } => {
                tracing::debug!(peer = name(peer), ?step, "recovering")
            }
            Event::PathMtu { peer, mtu } => {
                tracing::info!(peer = name(peer), mtu, "path MTU discovered");
                path_mtu::follow(self);
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
            Event::SharedKey { peer, .. } if self.plane.is_temporary(peer) => {
                tracing::info!("two machines use the code of the pairing in turn");
            }
            Event::SharedKey { peer, is_the_peers } => {
                tracing::warn!("{}", shared_key(&name(peer), is_the_peers));
            }
            Event::ServiceProbed { target, reply } => probes::handle_reply(self, target, reply),
            // Only a forwarder awaits one.
            Event::AwaitedKey { .. } => {}
            Event::OldTimestamp { peer } => {
                tracing::info!(
                    peer = name(peer),
                    "a handshake of the peer is older than the one before: its clock went back, or it is a replay"
                );
            }
        }
    }

    fn handle_reply(&self, id: PeerId) {
        if self.peers.borrow_mut().note() {
            self.keep_endpoints();
        }
        if let Some(status) = self.plane.peer(id) {
            self.peers.borrow_mut().handle_reply(&status.public_key);
        }
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
