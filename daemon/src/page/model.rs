//! What the page shows, in its order: `/status.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::past::{Day, Event, Past};
use crate::health::NameShown;
use crate::peers::Peer;
use crate::status::{self, Published, Service, Side};

/// The version of [`Document`]; it rises when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;
/// Certificates are listed apart when they expire in fewer days.
const SOON: i32 = 14;
/// How many events are listed.
const EVENTS: usize = 10;

/// `/status.json`: no address of a visitor or of a peer is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `edge` or `origin`.
    pub role: &'static str,
    /// The name of the machine.
    pub machine: String,
    /// The daemon's version.
    pub version: String,
    /// When this was true, in Unix milliseconds by this machine's clock.
    pub at: u64,
    /// `ok` or `failing`.
    pub state: &'static str,
    /// What is most important, in one sentence: the first line of `causeway status`.
    pub summary: String,
    /// The same in its parts.
    pub headline: Headline,
    /// What visitors ask for.
    pub names: Vec<Name>,
    /// Certificates that expire within 14 days, the first one first.
    pub certificates: Vec<Certificate>,
    /// Ports and private flows, in the order of the configuration.
    pub services: Vec<Port>,
    /// The other ends.
    pub peers: Vec<Tunnel>,
    /// The last 30 days, today last; empty while there is no history.
    pub days: Vec<Day>,
    /// What is wrong besides, each with its fix.
    pub problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    pub notes: Vec<String>,
    /// The last events, the newest first.
    pub events: Vec<Event>,
}

/// What is most important.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Headline {
    /// What is the matter.
    pub what: String,
    /// Since when, in Unix milliseconds.
    pub since: Option<u64>,
    /// For how long, in seconds.
    pub seconds: Option<u64>,
    /// Where the cause is.
    pub place: Option<String>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// What was seen; it may be the other end's text.
    pub evidence: Option<String>,
    /// What changed shortly before.
    pub before: Option<Event>,
    /// How to fix it.
    pub fix: Option<String>,
    /// How much more is failing.
    pub more: usize,
}

/// A name that visitors ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// `ok`, `failing` or `unknown`: the worst of service, name and path.
    pub state: &'static str,
    /// For how long, in seconds.
    pub seconds: Option<u64>,
    /// Why it is failing or not proven, in one word.
    pub reason: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
    /// Its path from the internet: `proven`, `failing` or `unknown`; `None` where it is not probed.
    pub path: Option<String>,
    /// Whole days until its certificate expires, negative afterwards.
    pub certificate_days: Option<i32>,
}

/// A certificate that expires soon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Certificate {
    /// Whole days until it expires, negative afterwards.
    pub days: i32,
    /// The name.
    pub name: String,
    /// The same in words.
    pub text: String,
}

/// A service with what it carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Whether visitors of the internet use it; `None` where this end does not know.
    pub is_public: Option<bool>,
    /// What is taken.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// `ok`, `failing` or `unknown`.
    pub state: &'static str,
    /// For how long, in seconds.
    pub seconds: Option<u64>,
    /// The hop that fails.
    pub hop: Option<String>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// What was seen; it may be the other end's text.
    pub evidence: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
    /// The public ports that it requests.
    pub publish: Vec<Published>,
    /// Bytes towards the target.
    pub bytes_in: u64,
    /// Bytes back.
    pub bytes_out: u64,
    /// Bytes per second towards the target and back, since the page was made before; `None` the
    /// first time.
    pub bytes_per_second: Option<(f64, f64)>,
}

/// The tunnel to another end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// `up`, `stale`, `down` or `never`.
    pub state: String,
    /// `up` or `down`; `None` for a plain WireGuard peer.
    pub link: Option<&'static str>,
    /// The other end's version, as it says.
    pub version: Option<String>,
    /// Round trip in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Share of lost probes, 0 to 1.
    pub loss: Option<f64>,
    /// Bytes received per second.
    pub rx_bytes_per_second: f64,
    /// Bytes sent per second.
    pub tx_bytes_per_second: f64,
}

/// The moment and the machine that a document is about.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'s> {
    /// Unix milliseconds.
    pub at: u64,
    /// The name of the machine.
    pub machine: &'s str,
    /// Bytes per second of services, in and out.
    pub rates: &'s BTreeMap<String, (f64, f64)>,
}

/// The document.
#[must_use]
pub fn document(side: &Side, past: &Past, seen: Seen<'_>) -> Document {
    let summary = status::summary(std::slice::from_ref(side));
    let public = side.services.iter().filter(|service| service.is_public != Some(false));
    let public: BTreeSet<&str> = public.map(|service| service.name.as_str()).collect();
    let names: Vec<Name> = side.services.iter().flat_map(names).collect();
    Document {
        schema: SCHEMA,
        role: side.role,
        machine: seen.machine.to_owned(),
        version: side.version.clone(),
        at: seen.at,
        state: summary.state(),
        headline: headline(summary.headline(), past, seen.at),
        summary: summary.sentence().to_owned(),
        certificates: certificates(side),
        names,
        services: side.services.iter().map(|service| port(service, seen.rates)).collect(),
        peers: side.peers.iter().map(tunnel).collect(),
        days: past.days(seen.at, &public),
        problems: side.problems.clone(),
        notes: side.notes.clone(),
        events: past.events(EVENTS),
    }
}

fn headline(headline: &status::Headline, past: &Past, now: u64) -> Headline {
    let since = headline.seconds.map(|seconds| now.saturating_sub(seconds.saturating_mul(1_000)));
    Headline {
        what: headline.what.clone(),
        since,
        seconds: headline.seconds,
        place: headline.place.clone(),
        reason: headline.reason.clone(),
        evidence: headline.evidence.clone(),
        before: since.and_then(|since| past.change_before(since)).cloned(),
        fix: headline.fix.clone(),
        more: headline.more,
    }
}

/// The states that there are, so that no other word of a report is shown.
fn known(state: &str) -> &'static str {
    match state {
        "ok" => "ok",
        "failing" => "failing",
        _ => "unknown",
    }
}

fn names(service: &Service) -> Vec<Name> {
    service.names.iter().map(|name| of_service(name, service)).collect()
}

fn of_service(name: &NameShown, service: &Service) -> Name {
    let visitor = name.visitor.as_ref();
    let mut shown = Name {
        name: name.name.clone(),
        service: service.name.clone(),
        state: known(&name.state),
        seconds: Some(name.seconds),
        reason: name.reason.clone(),
        fix: name.fix.clone(),
        path: visitor.map(|visitor| visitor.state.clone()),
        certificate_days: name.certificate_days,
    };
    if name.is_failing() {
        return shown;
    }
    // A name works only if its service does, and is reached.
    if let Some(hop) = &service.failing {
        shown.state = "failing";
        (shown.seconds, shown.reason) = (Some(hop.seconds), hop.reason.clone());
        shown.fix.clone_from(&hop.fix);
    } else if let Some(failing) = visitor.filter(|visitor| visitor.is_failing()) {
        shown.state = "failing";
        (shown.seconds, shown.reason) = (Some(failing.seconds), failing.reason.clone());
        shown.fix.clone_from(&failing.fix);
    }
    shown
}

fn certificates(side: &Side) -> Vec<Certificate> {
    let names = side.services.iter().flat_map(|service| &service.names);
    let soon = names.filter_map(|name| {
        let days = name.certificate_days.filter(|days| *days < SOON)?;
        Some(Certificate { days, name: name.name.clone(), text: name.certificate_text()? })
    });
    let mut soon: Vec<_> = soon.collect();
    soon.sort();
    soon.dedup();
    soon
}

fn port(service: &Service, rates: &BTreeMap<String, (f64, f64)>) -> Port {
    let hop = service.failing.as_ref();
    Port {
        name: service.name.clone(),
        is_public: service.is_public,
        from: service.from.clone(),
        to: service.to.clone(),
        state: known(&service.state),
        seconds: service.seconds,
        hop: hop.map(|hop| hop.hop.clone()),
        reason: hop.and_then(|hop| hop.reason.clone()),
        evidence: hop.and_then(|hop| hop.evidence.clone()),
        fix: hop.and_then(|hop| hop.fix.clone()),
        publish: service.publish.clone(),
        bytes_in: service.bytes_in,
        bytes_out: service.bytes_out,
        bytes_per_second: rates.get(&service.name).copied(),
    }
}

fn tunnel(peer: &Peer) -> Tunnel {
    Tunnel {
        name: peer.name.clone(),
        state: peer.state.clone(),
        link: peer.link.as_ref().map(|link| if link.up { "up" } else { "down" }),
        version: peer.link.as_ref().and_then(|link| link.version.clone()),
        round_trip_ms: peer.rtt_seconds.map(|seconds| seconds * 1e3),
        loss: peer.loss_ratio,
        rx_bytes_per_second: peer.rx_bytes_per_second,
        tx_bytes_per_second: peer.tx_bytes_per_second,
    }
}
