//! What is another than at the look before, as records: states of services, names, peers and
//! links, and one record a minute of each peer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tunnel::time::Instant;

use super::record::What;
use crate::health::{NameShown, PathShown};
use crate::peers::Peer;

/// A subject that changed so often within [`WINDOW`] is recorded every [`DAMPED`] at most, as it is
/// then: a service that flaps must not take the place of everything else.
const MOST_CHANGES: usize = 20;
const WINDOW: Duration = Duration::from_secs(3_600);
const DAMPED: Duration = Duration::from_secs(300);
/// The most services, names, peers and links that are watched.
const MAX_SUBJECTS: usize = 4_096;
/// How often a peer is measured.
const MINUTE: Duration = Duration::from_secs(60);

/// A service as it is now.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSeen<'s> {
    /// Its name.
    pub name: &'s str,
    /// Whether it works, hop by hop.
    pub path: &'s PathShown,
    /// Its names.
    pub names: &'s [NameShown],
    /// The peer that it is behind.
    pub peer: Option<&'s str>,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Service(String),
    Name(String, String),
    Visitor(String, String),
    Peer(String),
    Link(String),
}

/// What a subject is: a change of any part is one.
type Condition = (String, Option<String>, Option<String>);

#[derive(Debug, Default)]
struct Last {
    condition: Condition,
    /// When it was recorded, at most [`MOST_CHANGES`] times.
    recorded: VecDeque<Instant>,
}

/// The looks so far.
#[derive(Debug, Default)]
pub struct Observer {
    subjects: BTreeMap<Subject, Last>,
    /// Changes of each peer's endpoint, and whether it was heard by then.
    roams: BTreeMap<String, (u64, bool)>,
    next_minute: Option<Instant>,
    bytes: BTreeMap<String, (u64, u64)>,
}

impl Observer {
    /// Takes how services and peers are now; what changed, causes first: tunnels, links, services,
    /// names.
    pub fn handle_look(&mut self, now: Instant, peers: &[Peer], services: &[ServiceSeen<'_>]) -> Vec<What> {
        let mut changes = Vec::new();
        self.subjects.retain(|subject, _| is_there(subject, peers, services));
        self.roams.retain(|name, _| peers.iter().any(|peer| peer.name == *name));
        for peer in peers {
            self.look_at_peer(now, peer, &mut changes);
        }
        for service in services {
            self.look_at_service(now, service, &mut changes);
        }
        changes.extend(self.measure(now, peers));
        changes
    }

    fn look_at_peer(&mut self, now: Instant, peer: &Peer, changes: &mut Vec<What>) {
        let name = &peer.name;
        let condition = (peer.state.clone(), None, None);
        if let Some((from, ..)) = self.changed(now, Subject::Peer(name.clone()), condition, "never") {
            changes.push(What::Peer { peer: name.clone(), from, to: peer.state.clone() });
        }
        if let Some(link) = &peer.link {
            let state = if link.up { "up" } else { "down" };
            let condition = (state.to_owned(), None, None);
            if self.changed(now, Subject::Link(name.clone()), condition, "down").is_some() {
                let reason = link.reason.clone().filter(|_| !link.up);
                changes.push(What::Link { peer: name.clone(), up: link.up, reason });
            }
        }
        // The first endpoint of a peer that was not heard before is no move.
        let (moves, is_heard) = (peer.endpoint_changes, peer.state != "never");
        let before = self.roams.insert(name.clone(), (moves, is_heard));
        if before.is_some_and(|(before, was_heard)| was_heard && moves > before) {
            changes.push(What::Roamed { peer: name.clone() });
        }
    }

    fn look_at_service(&mut self, now: Instant, seen: &ServiceSeen<'_>, changes: &mut Vec<What>) {
        let (service, failing) = (seen.name.to_owned(), seen.path.failing.as_ref());
        let condition = (
            seen.path.state.clone(),
            failing.map(|hop| hop.hop.clone()),
            failing.and_then(|hop| hop.reason.clone()),
        );
        if self.changed(now, Subject::Service(service.clone()), condition, "unknown").is_some() {
            changes.push(What::Service {
                service: service.clone(),
                name: None,
                state: seen.path.state.clone(),
                hop: failing.map(|hop| hop.hop.clone()),
                reason: failing.and_then(|hop| hop.reason.clone()),
                evidence: failing.and_then(|hop| hop.evidence.clone()),
                peer: seen.peer.map(str::to_owned),
                fix: failing.and_then(|hop| hop.fix.clone()),
            });
        }
        for name in seen.names {
            self.look_at_name(now, seen, name, changes);
        }
    }

    fn look_at_name(
        &mut self,
        now: Instant,
        seen: &ServiceSeen<'_>,
        shown: &NameShown,
        changes: &mut Vec<What>,
    ) {
        let (service, name) = (seen.name.to_owned(), shown.name.clone());
        let condition = (shown.state.clone(), None, shown.reason.clone());
        let subject = Subject::Name(service.clone(), name.clone());
        if self.changed(now, subject, condition, "unknown").is_some() {
            changes.push(What::Service {
                service: service.clone(),
                name: Some(name.clone()),
                state: shown.state.clone(),
                hop: None,
                reason: shown.reason.clone(),
                evidence: None,
                peer: seen.peer.map(str::to_owned),
                fix: shown.fix.clone(),
            });
        }
        let Some(visitor) = &shown.visitor else { return };
        let condition = (visitor.state.clone(), visitor.hop.clone(), visitor.reason.clone());
        let subject = Subject::Visitor(service.clone(), name.clone());
        if self.changed(now, subject, condition, "unknown").is_some() {
            let (state, reason) = (visitor.state.clone(), visitor.reason.clone());
            changes.push(What::Visitor { service, name, state, reason });
        }
    }

    /// What a subject was before, when it is to be recorded that it is another; one that was not
    /// looked at before counts as `first`.
    fn changed(
        &mut self,
        now: Instant,
        subject: Subject,
        condition: Condition,
        first: &str,
    ) -> Option<Condition> {
        if !self.subjects.contains_key(&subject) && self.subjects.len() >= MAX_SUBJECTS {
            return None;
        }
        let begins = || Last { condition: (first.to_owned(), None, None), recorded: VecDeque::new() };
        let last = self.subjects.entry(subject).or_insert_with(begins);
        if last.condition == condition {
            return None;
        }
        last.recorded.retain(|at| now.since(*at) < WINDOW);
        let is_damped = last.recorded.len() >= MOST_CHANGES;
        if is_damped && last.recorded.back().is_some_and(|at| now.since(*at) < DAMPED) {
            return None;
        }
        if is_damped {
            last.recorded.pop_front();
        }
        last.recorded.push_back(now);
        Some(std::mem::replace(&mut last.condition, condition))
    }

    /// What peers did in the minute that is over.
    fn measure(&mut self, now: Instant, peers: &[Peer]) -> Vec<What> {
        let is_first = self.next_minute.is_none();
        if self.next_minute.is_some_and(|due| now < due) {
            return Vec::new();
        }
        self.next_minute = Some(now.after(MINUTE));
        let before = std::mem::take(&mut self.bytes);
        self.bytes = peers.iter().map(|peer| (peer.name.clone(), (peer.rx_bytes, peer.tx_bytes))).collect();
        // A peer that was never heard has nothing to measure.
        let measured = peers.iter().filter(|peer| !is_first && peer.state != "never");
        let minute = |peer: &Peer| {
            let (received, sent) = before.get(&peer.name).copied().unwrap_or_default();
            What::Minute {
                peer: peer.name.clone(),
                round_trip_ms: peer.rtt_seconds.map(|seconds| seconds * 1_000.0),
                loss: peer.loss_ratio.unwrap_or(0.0),
                // A peer that was removed and added again starts from zero.
                received: peer.rx_bytes.checked_sub(received).unwrap_or(peer.rx_bytes),
                sent: peer.tx_bytes.checked_sub(sent).unwrap_or(peer.tx_bytes),
            }
        };
        measured.map(minute).collect()
    }
}

fn is_there(subject: &Subject, peers: &[Peer], services: &[ServiceSeen<'_>]) -> bool {
    let service = |name: &str| services.iter().find(|service| service.name == name);
    match subject {
        Subject::Peer(name) | Subject::Link(name) => peers.iter().any(|peer| peer.name == *name),
        Subject::Service(name) => service(name).is_some(),
        Subject::Name(of, name) | Subject::Visitor(of, name) => {
            service(of).is_some_and(|service| service.names.iter().any(|shown| shown.name == *name))
        }
    }
}

#[cfg(test)]
mod tests;
