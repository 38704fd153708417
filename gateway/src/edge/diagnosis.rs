//! What is wrong, for `causeway doctor`: at this edge in words, at the origins as they reply over
//! their links; and what an origin that asks is replied.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use daemon::diagnosis::{
    Cause, Diagnosis, Far, FarAnswer, Found, Half, MAX_FOUND, MAX_PROBES, Probed, Problem, SCHEMA,
};
use daemon::health::{HopName, Lead, Path, leads_to};
use daemon::link::message::{Evidence, Reply, Request};
use policy::Name;
use policy::gateway::{Policy, Publish};
use tunnel::io::clock;

use super::{Edge, health};

/// How long an origin may take to say what is wrong.
const WITHIN: Duration = Duration::from_secs(3);
/// How long it may take to try a service: its own limits are below.
const PROBE_WITHIN: Duration = Duration::from_secs(12);

/// What is wrong with the edge, and with what its peers see.
pub(super) async fn diagnosis(edge: &Rc<Edge>, service: Option<&str>) -> Diagnosis {
    let problems = edge.wrong().await.problems;
    let peers: Vec<Name> = edge.config().policy.peers.iter().map(|peer| peer.name.clone()).collect();
    let linked = edge.links.linked();
    let mut entries = entries(edge, service);
    entries.truncate(MAX_PROBES);
    let mut far = Vec::new();
    for peer in peers {
        far.push(if linked.contains(&peer) {
            ask(edge, &peer, &entries).await
        } else {
            Far::without(peer.to_string(), FarAnswer::NoLink)
        });
    }
    let uptime_seconds = edge.meter.borrow().uptime_seconds();
    Diagnosis { schema: SCHEMA, uptime_seconds, problems, probed: Vec::new(), far }
}

/// The service entries that are tried: those that published ports lead to, by their peers.
fn entries(edge: &Edge, service: Option<&str>) -> Vec<(Name, Name)> {
    let reported = edge.links.reported(clock::instant());
    let in_force = edge.in_force.borrow();
    let is_wanted = |publish: &&Publish| service.is_none_or(|service| publish.name.to_string() == service);
    let of_publish = |publish: &Publish| {
        let at = |target: &policy::gateway::Target| {
            let reported = reported.get(target.peer.as_str())?;
            let wanted = health::wanted(publish, target);
            match leads_to(&reported.services, reported.is_whole, &wanted) {
                Lead::Entries(entries) => {
                    Some(entries.into_iter().map(|entry| (target.peer.clone(), entry.name)).collect())
                }
                Lead::Nowhere(..) | Lead::Unknown => None,
            }
        };
        let entries: Vec<Vec<(Name, Name)>> = publish.targets.iter().filter_map(at).collect();
        entries.into_iter().flatten()
    };
    let found: BTreeSet<_> =
        in_force.served().publish.iter().filter(is_wanted).flat_map(of_publish).collect();
    found.into_iter().collect()
}

async fn ask(edge: &Edge, peer: &Name, entries: &[(Name, Name)]) -> Far {
    let found = match edge.links.ask(peer, Request::Diagnose, WITHIN).await {
        Ok(Reply::Diagnosis { half }) => half.found,
        Ok(_) => return Far::without(peer.to_string(), FarAnswer::TooOld),
        Err(answer) => return Far::without(peer.to_string(), answer),
    };
    let mut probed: Vec<Probed> = Vec::new();
    for (_, entry) in entries.iter().filter(|(owner, _)| owner == peer) {
        let request = Request::Probe { service: entry.clone() };
        if let Ok(Reply::Probed { probed: found }) = edge.links.ask(peer, request, PROBE_WITHIN).await
            && found.service == *entry
        {
            probed.push(found);
        }
    }
    Far { peer: peer.to_string(), answer: FarAnswer::Answered, found, probed }
}

/// Replies to origins that ask what is wrong, one after the other.
pub(super) async fn serve(edge: Rc<Edge>) {
    loop {
        let (peer, question) = edge.links.next_question().await;
        let mut problems = edge.wrong().await.problems;
        let is_shared = edge.has_shared_key(&peer);
        problems.retain(|problem| problem.cause != Cause::SharedKey || is_shared);
        let paths = health::paths(&edge);
        let half = half(&edge.config().policy, &peer, &problems, &paths);
        edge.links.reply(&question, Reply::Diagnosis { half });
    }
}

/// What concerns a peer: of the edge only the kinds of what is wrong, and of services its own.
fn half(policy: &Policy, peer: &Name, problems: &[Problem], paths: &[(String, Path)]) -> Half {
    let is_its = |publish: &&Publish| publish.targets.iter().any(|target| target.peer == *peer);
    let its: BTreeSet<String> =
        policy.publish.iter().filter(is_its).map(|publish| publish.name.to_string()).collect();
    let of_edge = problems.iter().map(|problem| problem.cause).filter(|cause| concerns_all(*cause));
    let of_edge = of_edge.map(|cause| Found { cause, service: None, evidence: None });
    let of_services = paths.iter().filter(|(name, _)| its.contains(name)).filter_map(|(name, path)| {
        let (cause, evidence) = cause(path)?;
        Some(Found { cause, service: Name::new(name), evidence })
    });
    let mut found: Vec<Found> = Vec::new();
    for one in of_edge.chain(of_services) {
        if !found.contains(&one) && found.len() < MAX_FOUND {
            found.push(one);
        }
    }
    Half { found }
}

/// What of the edge keeps the flows of every peer from passing; a shared key is left only where it is
/// the peer's own.
const fn concerns_all(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ForeignInput
            | Cause::ForeignForward
            | Cause::TableMissing
            | Cause::NotRepaired
            | Cause::Contention
            | Cause::Switch
            | Cause::FlowTable
            | Cause::ReplyRoute
            | Cause::Clock
            | Cause::Socket
            | Cause::SharedKey
    )
}

/// The kind of the hop of the edge that fails; which port has no entry is the origin's own matter.
fn cause(path: &Path) -> Option<(Cause, Option<Evidence>)> {
    let hop = path.failing()?;
    let known = [
        (HopName::Ruleset, Cause::TableMissing, None),
        (HopName::Route, Cause::OtherRoute, None),
        (HopName::ServiceEntry, Cause::NoEntry, hop.evidence.clone()),
    ];
    known.into_iter().find(|(name, ..)| *name == hop.name).map(|(_, cause, evidence)| (cause, evidence))
}

#[cfg(test)]
mod tests {
    use daemon::health::{Hop, Reason};

    use super::*;
    use crate::edge::example::{TEXT, policy};

    #[test]
    fn an_origin_learns_what_concerns_it_and_nothing_of_the_edges_configuration() {
        let problems = [
            Problem::new(Cause::ForeignForward, "the foreign chain ip filter FORWARD blocks the tunnel"),
            Problem::new(Cause::ForeignForward, "the foreign chain inet mine fwd blocks the tunnel"),
            Problem::new(Cause::Configuration, "/etc/causeway/gateway.toml was not taken"),
            Problem::new(Cause::PeerDown, "peer gdansk is down"),
        ];
        let stolen =
            || Path { hops: vec![Hop::failing(HopName::Route, Reason::OtherRoute, None)], ..Path::default() };
        let paths = [("https".to_owned(), stolen()), ("another".to_owned(), stolen())];
        let half = half(&policy(TEXT), &Name::new("wroclaw").unwrap(), &problems, &paths);
        let found: Vec<_> = half
            .found
            .iter()
            .map(|found| (found.cause, found.service.as_ref().map(Name::as_str), found.evidence.is_some()))
            .collect();
        assert_eq!(found, [(Cause::ForeignForward, None, false), (Cause::OtherRoute, Some("https"), false)]);
        let other = super::half(&policy(TEXT), &Name::new("gdansk").unwrap(), &[], &paths);
        assert_eq!(other, Half::default());
    }
}
