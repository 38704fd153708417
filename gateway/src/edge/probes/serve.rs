//! Sends the probes when they are due.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::sleep;
use tunnel::io::clock;
use tunnel::node::{PeerState, ServiceReply};
use tunnel::time::Instant;

use super::super::Edge;
use super::{PeerNow, Probes};

/// The probes of an edge.
#[derive(Default)]
pub(in crate::edge) struct Probing {
    pub(in crate::edge) probes: RefCell<Probes>,
    /// Notified when the next probe may be due earlier.
    touched: Notify,
}

/// Takes what is published now, and how the peers are.
pub(in crate::edge) fn follow(edge: &Edge) {
    let (now, in_force) = (clock::instant(), edge.in_force.borrow());
    let linked = edge.links.linked();
    let peer = |peer: tunnel::node::PeerStatus| {
        let name = in_force.name_of(&peer.public_key);
        let is_up = matches!(peer.state, PeerState::Up | PeerState::Stale);
        PeerNow { has_link: linked.iter().any(|linked| linked.as_str() == name), is_up, name }
    };
    let peers: Vec<_> = edge.plane.peers().into_iter().map(peer).collect();
    edge.probing.probes.borrow_mut().follow(now, in_force.served(), &peers);
    let due = edge.probing.probes.borrow().poll_timeout();
    if due.is_some_and(|at| at <= now) {
        edge.probing.touched.notify_one();
    }
}

/// Takes the result of a probe.
pub(in crate::edge) fn handle_reply(edge: &Edge, target: SocketAddr, reply: ServiceReply) {
    tracing::debug!(%target, reply = reply.label(), "a service was probed");
    edge.probing.probes.borrow_mut().handle_reply(clock::instant(), target, reply);
    edge.probing.touched.notify_one();
}

/// Probes until the daemon ends.
pub(in crate::edge) async fn serve(edge: Rc<Edge>) {
    loop {
        let (now, due) = (clock::instant(), send_due(&edge));
        tokio::select! {
            () = edge.probing.touched.notified() => {}
            () = sleep(due.unwrap_or(now).since(now)), if due.is_some() => {}
        }
    }
}

/// Sends every probe that is due; when the next one is.
fn send_due(edge: &Edge) -> Option<Instant> {
    let (node, now) = (edge.plane.device().node(), clock::now());
    let mut probes = edge.probing.probes.borrow_mut();
    let mut is_sent = false;
    while let Some(target) = probes.poll(now.instant) {
        match node.probe_service(target, now) {
            Ok(()) => is_sent = true,
            Err(why) => {
                tracing::debug!(%target, "a service is not probed: {why}");
                probes.handle_not_probed(now.instant, target, why);
            }
        }
    }
    if is_sent {
        edge.plane.device().wake();
    }
    probes.poll_timeout()
}
