//! The path of each service entry, as far as this end knows it: the tunnel, the link and the
//! upstream.

use std::sync::Arc;

use daemon::health::{Hop, HopName, Path, Place, Reason};
use daemon::link::message::{Evidence, State as Reported};
use policy::forwarder::{Policy, Service};
use tunnel::io::clock;
use tunnel::node::PeerState;

use super::{EdgeView, Shared};
use crate::link;
use crate::upstream::Pool;

/// The hops of an entry.
pub(super) fn path(shared: &Shared, policy: &Policy, entry: &Service, pool: &Pool) -> Path {
    let edges = shared.edges.load();
    let through: Vec<(&Arc<EdgeView>, _)> =
        edges.iter().zip(&policy.peers).filter(|(edge, _)| entry.peers.contains(&edge.name)).collect();
    let problem = || through.iter().find_map(|(edge, peer)| edge.problem(&peer.endpoint));
    let has_link = through.iter().any(|(edge, _)| edge.link.lock().far().is_some());
    let states: Vec<PeerState> = through.iter().filter_map(|(edge, _)| edge.state()).collect();
    let place = Place { peer: None, entry: Some(entry.name.to_string()), target: entry.ports.to_string() };
    Path { hops: vec![tunnel(&states, problem), link(has_link), upstream(pool)], place }
}

/// The tunnels to the edges of an entry: one that is up is enough.
fn tunnel(states: &[PeerState], problem: impl FnOnce() -> Option<String>) -> Hop {
    if states.contains(&PeerState::Up) {
        return Hop::ok(HopName::Tunnel);
    }
    let was_heard = states.iter().any(|state| *state != PeerState::Never);
    let reason = if was_heard { Reason::Silent } else { Reason::NeverHeard };
    Hop::failing(HopName::Tunnel, reason, problem().map(|text| Evidence::of(&text)))
}

const fn link(is_up: bool) -> Hop {
    if is_up { Hop::ok(HopName::Link) } else { Hop::unknown(HopName::Link, Reason::NoLink) }
}

fn upstream(pool: &Pool) -> Hop {
    match link::state(pool) {
        (Reported::Up, _) => Hop::ok(HopName::Upstream),
        (Reported::Unknown, _) => Hop::unknown(HopName::Upstream, Reason::NotChecked),
        (Reported::Failing, failure) => {
            let reason =
                failure.as_ref().map_or(daemon::link::message::Reason::Other, |failure| failure.reason);
            Hop::failing(HopName::Upstream, Reason::Probe(reason), failure.map(|failure| failure.evidence))
        }
    }
}

impl EdgeView {
    fn state(&self) -> Option<PeerState> {
        self.node.peers(clock::now()).first().map(|peer| peer.state)
    }
}

#[cfg(test)]
mod tests {
    use daemon::health::State;

    use super::*;

    #[test]
    fn one_tunnel_that_is_up_is_enough_and_none_shows_why() {
        let hop = |states: &[PeerState]| tunnel(states, || Some("the edge refuses".to_owned()));
        assert_eq!(hop(&[PeerState::Down, PeerState::Up]).state, State::Ok);
        let silent = hop(&[PeerState::Never, PeerState::Stale]);
        assert_eq!((silent.state, silent.reason), (State::Failing, Some(Reason::Silent)));
        assert_eq!(silent.evidence.unwrap().as_str(), "the edge refuses");
        assert_eq!(hop(&[PeerState::Never]).reason, Some(Reason::NeverHeard));
    }

    #[test]
    fn a_missing_link_is_unknown_and_never_failing() {
        assert_eq!((link(true).state, link(false).state), (State::Ok, State::Unknown));
    }
}
