//! Which records are failures, of what, and which of them is first on the path of packets.

use super::{Entry, Side};
use crate::history::record::What;

/// What a failure concerns: the wider ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Everything of the edge.
    Edge,
    /// Everything behind a peer.
    Tunnel,
    /// A service.
    Service,
}

/// What fails, or works again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Peer(String),
    Link(String),
    Service(String),
    Name(String, String),
    Visitor(String, String),
}

impl Subject {
    /// The peer whose tunnel or link it is.
    pub(super) fn peer(&self) -> Option<&str> {
        match self {
            Self::Peer(peer) | Self::Link(peer) => Some(peer),
            Self::Service(_) | Self::Name(..) | Self::Visitor(..) => None,
        }
    }
}

/// What two failures may have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The end that saw it.
    Side(Side),
    /// The service; what a peer publishes by itself has the name that it has there.
    Service(String),
    /// The host name.
    Host(String),
    /// The hop with the reason.
    Reason(String),
}

/// What a failure has that another may have as well.
pub(super) fn kinds(entry: &Entry) -> Vec<Kind> {
    let own = |service: &str| Kind::Service(service.rsplit('/').next().unwrap_or(service).to_owned());
    let mut kinds = vec![Kind::Side(entry.side.clone())];
    match &entry.record.what {
        What::Service { service, name, hop, reason, .. } => {
            kinds.push(own(service));
            kinds.extend(name.clone().map(Kind::Host));
            let hop = hop.as_deref().filter(|_| name.is_none());
            kinds.extend(
                hop.map(|hop| Kind::Reason(format!("{hop} {}", reason.as_deref().unwrap_or_default()))),
            );
        }
        What::Visitor { service, name, .. } => kinds.extend([own(service), Kind::Host(name.clone())]),
        _ => {}
    }
    kinds
}

/// What a record says of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Fails(Subject, Scope),
    /// It works, or nothing is known of it any more: that is no alarm.
    Works(Subject),
    None,
}

pub(super) fn change(what: &What) -> Change {
    match what {
        What::Peer { peer, to, .. } => {
            let subject = Subject::Peer(peer.clone());
            if to == "up" { Change::Works(subject) } else { Change::Fails(subject, Scope::Tunnel) }
        }
        What::Link { peer, up, .. } => {
            let subject = Subject::Link(peer.clone());
            if *up { Change::Works(subject) } else { Change::Fails(subject, Scope::Tunnel) }
        }
        What::Service { service, name, state, hop, .. } => {
            let subject = match name {
                Some(name) => Subject::Name(service.clone(), name.clone()),
                None => Subject::Service(service.clone()),
            };
            let scope = match hop.as_deref() {
                Some("ruleset" | "route") => Scope::Edge,
                Some("tunnel" | "link") => Scope::Tunnel,
                _ => Scope::Service,
            };
            if state == "failing" { Change::Fails(subject, scope) } else { Change::Works(subject) }
        }
        What::Visitor { service, name, state, .. } => {
            let subject = Subject::Visitor(service.clone(), name.clone());
            if state == "failing" { Change::Fails(subject, Scope::Service) } else { Change::Works(subject) }
        }
        What::Started { .. }
        | What::Stopping { .. }
        | What::Roamed { .. }
        | What::Notice { .. }
        | What::Applied { .. }
        | What::Repaired { .. }
        | What::Stack { .. }
        | What::Steered { .. }
        | What::Minute { .. }
        | What::Unknown => Change::None,
    }
}

/// The place of a failure on the path of packets; of two in one place, the end that is nearer to
/// it comes first.
pub(super) fn rank(entry: &Entry) -> (u8, bool) {
    let is_far = |near: &str| entry.side.role != near;
    match &entry.record.what {
        What::Service { hop: Some(hop), name: None, .. } => match hop.as_str() {
            "ruleset" => (0, is_far("edge")),
            "route" => (1, is_far("edge")),
            "tunnel" => (4, is_far("edge")),
            "link" => (5, is_far("edge")),
            "service_entry" => (6, is_far("origin")),
            _ => (7, is_far("origin")),
        },
        What::Peer { .. } => (2, is_far("edge")),
        What::Link { .. } => (3, is_far("edge")),
        What::Service { .. } => (8, is_far("origin")),
        _ => (9, is_far("origin")),
    }
}
