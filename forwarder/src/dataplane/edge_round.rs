//! What an edge needs in every round: its timers, its events, its endpoint's name.

use std::sync::atomic::Ordering;

use mio::Registry;
use parking_lot::Mutex;
use tunnel::node::{Event, PeerState, RecoveryStep};
use tunnel::time::Now;

use super::edge::Edge;
use super::flows::Flows;
use crate::control::problems;
use crate::handover::{Exchange, Message};
use crate::state::MarkWriter;

/// One round of the edges, at one moment.
pub(super) struct EdgeRound<'a> {
    pub(super) now: Now,
    pub(super) registry: &'a Registry,
    pub(super) flows: &'a mut Flows,
    pub(super) state: &'a MarkWriter,
    /// The socket to the old process, as long as that has flows.
    pub(super) old: Option<&'a Mutex<Exchange>>,
}

impl EdgeRound<'_> {
    /// Does what is due for an edge.
    pub(super) fn run(&mut self, edge: &mut Edge) {
        if edge.node.poll_timeout().is_some_and(|at| at <= self.now.instant) {
            edge.handle_timeout(self.now);
            edge.sample_queue_drops();
        }
        while let Some(event) = edge.node.poll_event() {
            self.handle_event(edge, event);
        }
        edge.keys.handle_timeout(&edge.node, &edge.name, self.now);
        let name = &mut edge.endpoint_name;
        edge.path_errors.is_unresolved.store(name.is_unresolved(), Ordering::Relaxed);
        if name.is_due(self.now) {
            self.flows.context().resolver.request_endpoint(edge.id, name.endpoint().clone());
        }
    }

    fn handle_event(&mut self, edge: &mut Edge, event: Event) {
        match event {
            Event::StateChanged { from, to, .. } => {
                tracing::info!(peer = %edge.name, from = from.label(), to = to.label(), "peer state changed");
                edge.set_state(to);
                if to == PeerState::Up {
                    edge.endpoint_name.handle_reply();
                }
            }
            Event::Recover { step: RecoveryStep::Rebind, .. } => match edge.rebind(self.registry) {
                Ok(()) => tracing::info!(peer = %edge.name, "opened a new UDP socket to recover"),
                Err(error) => {
                    tracing::info!(peer = %edge.name, %error, "could not open a new UDP socket to recover")
                }
            },
            Event::Recover { step: RecoveryStep::Resolve, .. } => edge.endpoint_name.handle_silence(self.now),
            Event::Recover { step: RecoveryStep::Handshake, .. } | Event::EndpointChanged { .. } => {}
            Event::Handshake { .. } => {
                tracing::debug!(peer = %edge.name, "session agreed");
                edge.keys.handle_session(&edge.name);
                edge.endpoint_name.handle_reply();
                self.flows.tcp(self.now).resume(edge.id);
                if let (Some(old), Some(id)) = (self.old, edge.old_id) {
                    old.lock().send(&Message::Session(id));
                }
            }
            Event::PathMtu { mtu, .. } => {
                tracing::info!(peer = %edge.name, mtu, "path MTU discovered");
                edge.set_mtu(mtu);
                self.flows.tcp(self.now).shrink(edge.id, mtu);
            }
            Event::Watermark { wall } => self.state.save(wall),
            Event::ClockBehind { by } => tracing::info!(
                behind_seconds = by.as_secs(),
                "the wall clock is behind the latest one used here: an edge may reply with a handshake of its own"
            ),
            Event::AwaitedKey { key } => {
                edge.keys.handle_initiation(&edge.node, &edge.name, key, self.now);
            }
            Event::SharedKey { .. } => tracing::warn!("{}", problems::shared_key(&edge.name)),
            // An origin probes no services through its edges.
            Event::ServiceProbed { .. } => {}
            Event::OldTimestamp { .. } => tracing::info!(
                peer = %edge.name,
                "a handshake of the peer is older than the one before: its clock went back, or it is a replay"
            ),
        }
    }
}
