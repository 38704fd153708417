//! The ports that origins publish by themselves: requests taken one after the other, put into force,
//! kept and replied to.

use std::rc::Rc;

use daemon::link::links::Requested;
use daemon::link::publish::Answer;
use policy::Name;
use policy::gateway::{Policy, Requested as Port};
use tunnel::io::clock;

use super::Edge;
use super::blocking::blocking;
use super::in_force::granted_changes;
use crate::foreign::redirected_ports;
use crate::kernel::Listing;
use crate::listening::listeners;
use crate::state::KeptGrants;

/// Takes requests until the daemon ends.
pub(super) async fn serve(edge: Rc<Edge>) {
    loop {
        let requested = edge.links.next_requested().await;
        grant(&edge, &requested).await;
    }
}

/// Puts into force what of a request is granted, and replies.
async fn grant(edge: &Edge, requested: &Requested) {
    let _turn = edge.applying.lock().await;
    let ports: Vec<Port> = requested.asked.ports().iter().map(Port::from).collect();
    if edge.in_force.borrow().grants.is_nothing(&requested.peer, &ports) {
        return edge.links.answer(requested, Vec::new());
    }
    let is_withdrawal = ports.is_empty();
    let before = edge.in_force.borrow_mut().grants.replace(&requested.peer, ports);
    if !is_withdrawal {
        look(edge).await;
    }
    let followed = edge.follow_machine().await;
    edge.links.answer(requested, answers(edge, &requested.peer));
    if let Err(failure) = followed {
        tracing::warn!(peer = %requested.peer, "what a peer publishes stays as it was: {failure}");
        edge.in_force.borrow_mut().grants.put_back(before);
    }
    // What stays as it was is no news either: the origin asks again by itself.
    let known = answers(edge, &requested.peer);
    edge.in_force.borrow_mut().grants.handle_sent(&requested.peer, known);
    handle_change(edge);
}

/// Takes what peers request of the other edge of the pair; this edge's own file judges it.
pub(super) async fn take_over(edge: &Edge, kept: KeptGrants) {
    let _turn = edge.applying.lock().await;
    let ct_mark = edge.config().policy.kernel.ct_mark;
    let (requests, marks) = kept.read(ct_mark);
    let before = edge.in_force.borrow_mut().take_over(requests, marks);
    look(edge).await;
    if let Err(failure) = edge.follow_machine().await {
        tracing::warn!("what peers publish at the other edge is not open here: {failure}");
        edge.in_force.borrow_mut().grants.put_back(before);
    }
    handle_change(edge);
}

fn answers(edge: &Edge, peer: &Name) -> Vec<Answer> {
    let in_force = edge.in_force.borrow();
    in_force.grants.answers(in_force.policy(), peer)
}

/// Finds out which ports the edge uses itself, if a peer requests any.
pub(super) async fn look(edge: &Edge) {
    if !edge.in_force.borrow().grants.is_needed() {
        return;
    }
    let redirected = edge.reader.list(Listing::Ruleset).await.map(|listing| redirected_ports(&listing));
    let Ok(sockets) = blocking(|| Ok(listeners())).await else { return };
    edge.in_force.borrow_mut().grants.handle_look(sockets, redirected.ok());
}

/// Keeps what is granted now, and announces to the origins what is another than they know.
pub(super) fn handle_change(edge: &Edge) {
    let news = {
        let mut in_force = edge.in_force.borrow_mut();
        let policy = std::sync::Arc::clone(in_force.config());
        in_force.grants.take_news(&policy.policy)
    };
    news.iter().for_each(|peer| edge.links.announce_grants(clock::instant(), peer));
    edge.standby.handle_news();
    let in_force = edge.in_force.borrow();
    if let Err(error) =
        edge.state.keep_grants(in_force.grants.requests(), in_force.served(), in_force.ruleset())
    {
        tracing::warn!(
            "what peers publish cannot be written ({error}), so a restart of the machine closes it until they ask again; free \
             disk space or fix the state folder's permissions"
        );
    }
}

/// Logs what peers publish now and did not before, in one line however much that is.
pub(super) fn log_changes(before: &Policy, now: &Policy) {
    let lines: Vec<String> = granted_changes(before, now).map(|change| change.line).collect();
    if let Some(first) = lines.first() {
        let more = lines.len() - 1;
        tracing::info!(more, "what peers publish has changed: {first}");
    }
}
