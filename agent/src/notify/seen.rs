//! What the daemon of this end says: its services, their names and its peers, as they are now.

use daemon::health::{NameShown, PathShown};
use daemon::history::{Record, What};
use daemon::peers::Peer;
use forwarder::control::report::Report;
use gateway::control::report::Service;
use serde::{Deserialize, Serialize};

/// So long ago a peer was heard last, at least, when it counts as silent; in milliseconds.
const SILENT: u64 = daemon::peers::LIVENESS.up_within.as_secs() * 1_000;

/// Which end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The machine with the public address.
    Edge,
    /// The machine with the services.
    Origin,
}

impl End {
    /// Its daemon.
    #[must_use]
    pub const fn daemon(self) -> &'static str {
        match self {
            Self::Edge => "gateway",
            Self::Origin => "forwarder",
        }
    }
}

/// What can be down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// The daemon of this end.
    Daemon,
    /// The tunnel to an edge; at an origin alone.
    Peer(String),
    /// A service.
    Service(String),
    /// A name of a service.
    Name {
        /// The service.
        service: String,
        /// The name.
        name: String,
    },
    /// The way of visitors to a name, as the origin found it.
    Visitor {
        /// The service.
        service: String,
        /// The name.
        name: String,
    },
}

impl Thing {
    /// The service that it is, or is a name of.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Service(service) | Self::Name { service, .. } | Self::Visitor { service, .. } => {
                Some(service)
            }
            Self::Daemon | Self::Peer(_) => None,
        }
    }
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It works.
    Ok,
    /// It does not.
    Failing,
    /// Nothing is known of it.
    Unknown,
}

impl Condition {
    /// From the word of a report or a record.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match word {
            "ok" | "up" | "proven" => Self::Ok,
            "failing" | "down" | "stale" => Self::Failing,
            _ => Self::Unknown,
        }
    }
}

/// Why a thing is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The hop: one of a path, `name`, one of a visitor's way, or `daemon`.
    pub hop: String,
    /// The peer that it belongs to.
    pub peer: Option<String>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// What was seen; it may be the other end's text, to be shown in quotes.
    pub evidence: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
}

/// One thing as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub thing: Thing,
    /// How it is.
    pub condition: Condition,
    /// Since when, in Unix milliseconds.
    pub since: u64,
    /// Why it is failing.
    pub fault: Fault,
    /// The hops of its path that work.
    pub works: Vec<String>,
    /// The names that are down with it.
    pub names: Vec<String>,
}

impl Row {
    /// What a record says of a service, a name or a peer.
    #[must_use]
    pub fn of_record(end: End, record: &Record) -> Option<Self> {
        let row = |thing, condition, fault, names| Self {
            thing,
            condition,
            since: record.at,
            fault,
            works: Vec::new(),
            names,
        };
        if let What::Service { service, name, state, hop, reason, evidence, peer, fix } = &record.what {
            let (of_name, thing) = match name {
                None => ("upstream", Thing::Service(service.clone())),
                Some(name) => ("name", Thing::Name { service: service.clone(), name: name.clone() }),
            };
            let hop = hop.clone().unwrap_or_else(|| of_name.to_owned());
            let peer = peer.clone().filter(|_| end == End::Edge && has_peer(&hop));
            let (reason, evidence, fix) = (reason.clone(), evidence.clone(), fix.clone());
            let fault = Fault { hop, peer, reason, evidence, fix };
            return Some(row(thing, Condition::of(state), fault, name.clone().into_iter().collect()));
        }
        if let (What::Peer { peer, to, .. }, End::Origin) = (&record.what, end) {
            let row = row(Thing::Peer(peer.clone()), Condition::of(to), no_tunnel("silent"), Vec::new());
            return Some(Self { since: record.at.saturating_sub(SILENT), ..row });
        }
        None
    }
}

/// Whether a hop belongs to a peer, and not to the edge itself.
fn has_peer(hop: &str) -> bool {
    !matches!(hop, "ruleset" | "route")
}

/// The fault of an origin whose tunnel to an edge is down.
fn no_tunnel(reason: &str) -> Fault {
    let fix = "see the problem lines of `forwarder status` here, and `gatewayctl status` at the edge";
    Fault {
        hop: "tunnel".to_owned(),
        reason: Some(reason.to_owned()),
        fix: Some(fix.to_owned()),
        ..Fault::default()
    }
}

/// What works, for the text of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Peers whose tunnel is up.
    pub tunnels: Vec<String>,
    /// Those whose link is up.
    pub links: Vec<String>,
    /// Those that have a link, or had one.
    pub linked: Vec<String>,
    /// Those that announced to be back soon.
    pub announced: Vec<String>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The things.
    pub rows: Vec<Row>,
    /// The peers.
    pub peers: Peers,
}

impl Seen {
    /// What the gateway reports, at `now`.
    #[must_use]
    pub fn of_edge(now: u64, services: &[Service], peers: &[Peer]) -> Self {
        let mut rows = Vec::new();
        // What peers and the edge allow each other is not for visitors.
        for service in services.iter().filter(|service| service.kind != "allow") {
            let peer = service.peers.first().cloned();
            rows.push(service_row(now, &service.name, peer.as_ref(), &service.health, &service.names));
            name_rows(now, &service.name, peer.as_ref(), &service.names, &mut rows);
        }
        Self { rows, peers: Peers::of(peers) }
    }

    /// What the forwarder reports, at `now`.
    #[must_use]
    pub fn of_origin(now: u64, report: &Report) -> Self {
        let mut rows = Vec::new();
        for peer in &report.peers {
            let is_new = peer.state == "never";
            rows.push(Row {
                thing: Thing::Peer(peer.name.clone()),
                condition: if is_new { Condition::Failing } else { Condition::of(&peer.state) },
                since: if is_new { now } else { now.saturating_sub(SILENT) },
                fault: no_tunnel(if is_new { "never_heard" } else { "silent" }),
                works: Vec::new(),
                names: Vec::new(),
            });
        }
        for entry in &report.services {
            let Some(health) = &entry.health else { continue };
            rows.push(service_row(now, &entry.name, None, health, &entry.names));
            name_rows(now, &entry.name, None, &entry.names, &mut rows);
        }
        Self { rows, peers: Peers::of(&report.peers) }
    }
}

impl Peers {
    fn of(peers: &[Peer]) -> Self {
        let named = |wanted: &dyn Fn(&Peer) -> bool| {
            peers.iter().filter(|peer| wanted(peer)).map(|peer| peer.name.clone()).collect()
        };
        Self {
            tunnels: named(&|peer| peer.state == "up"),
            links: named(&|peer| peer.link.as_ref().is_some_and(|link| link.up)),
            linked: named(&|peer| peer.link.is_some()),
            announced: named(&|peer| peer.link.as_ref().is_some_and(|it| it.back_within_seconds.is_some())),
        }
    }
}

fn before(now: u64, seconds: u64) -> u64 {
    now.saturating_sub(seconds.saturating_mul(1_000))
}

fn service_row(
    now: u64,
    service: &str,
    peer: Option<&String>,
    health: &PathShown,
    names: &[NameShown],
) -> Row {
    let works = health.hops.iter().filter(|hop| hop.state == "ok").map(|hop| hop.hop.clone()).collect();
    let failing = health.failing.as_ref();
    let fault = failing.map(|hop| Fault {
        hop: hop.hop.clone(),
        peer: peer.cloned().filter(|_| has_peer(&hop.hop)),
        reason: hop.reason.clone(),
        evidence: hop.evidence.clone(),
        fix: hop.fix.clone(),
    });
    Row {
        thing: Thing::Service(service.to_owned()),
        condition: Condition::of(&health.state),
        since: before(now, failing.map_or(0, |hop| hop.seconds)),
        fault: fault.unwrap_or_default(),
        works,
        names: names.iter().map(|name| name.name.clone()).collect(),
    }
}

/// A name has two rows: whether its site replies, and whether visitors get there.
fn name_rows(now: u64, service: &str, peer: Option<&String>, names: &[NameShown], rows: &mut Vec<Row>) {
    for shown in names {
        let (service, name) = (service.to_owned(), shown.name.clone());
        let row = |thing, condition, seconds, fault| Row {
            thing,
            condition,
            since: before(now, seconds),
            fault,
            works: Vec::new(),
            names: vec![shown.name.clone()],
        };
        let fault = Fault {
            hop: "name".to_owned(),
            peer: peer.cloned(),
            reason: shown.reason.clone(),
            evidence: None,
            fix: shown.fix.clone(),
        };
        let thing = Thing::Name { service: service.clone(), name: name.clone() };
        let condition = Condition::of(&shown.state);
        rows.push(row(thing, condition, shown.seconds, fault));
        let Some(visitor) = &shown.visitor else { continue };
        let fault = Fault {
            hop: visitor.hop.clone().unwrap_or_else(|| "public_name".to_owned()),
            peer: peer.cloned(),
            reason: visitor.reason.clone(),
            evidence: None,
            fix: visitor.fix.clone(),
        };
        // Where the site itself does not reply, visitors cannot get through.
        let visitor_condition =
            if condition == Condition::Failing { Condition::Unknown } else { Condition::of(&visitor.state) };
        rows.push(row(Thing::Visitor { service, name }, visitor_condition, visitor.seconds, fault));
    }
}
