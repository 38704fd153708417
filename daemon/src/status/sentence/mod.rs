//! The first line of `causeway status` and of the status page: what is down for visitors, since
//! when, why, and the fix; or that all is well.

use serde::Serialize;

use super::{Published, Service, Side};
use crate::health::{HopShown, NameShown};
use crate::peers::Peer;
use crate::text::period;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// `ok` or `failing`.
    state: &'static str,
    /// In one sentence.
    summary: String,
    /// The same in its parts.
    #[serde(skip)]
    headline: Headline,
}

/// The parts of the first line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headline {
    /// What is the matter.
    pub what: String,
    /// For how long, in seconds.
    pub seconds: Option<u64>,
    /// Where the cause is, such as `upstream at wroclaw`.
    pub place: Option<String>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// What was seen; it may be the other end's text, to be shown in quotes.
    pub evidence: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
    /// How much more is failing.
    pub more: usize,
}

impl Headline {
    fn of(what: &str) -> Self {
        Self { what: what.to_owned(), ..Self::default() }
    }
}

impl Summary {
    fn failing(summary: String, headline: Headline) -> Self {
        Self { state: "failing", summary, headline }
    }

    /// Whether something is failing.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state == "failing"
    }

    /// `ok` or `failing`.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        self.state
    }

    /// The sentence.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.summary
    }

    /// Its parts.
    #[must_use]
    pub const fn headline(&self) -> &Headline {
        &self.headline
    }
}

/// What is most important about the daemons of this machine.
#[must_use]
pub fn summary(sides: &[Side]) -> Summary {
    let services: Vec<&Service> = sides.iter().flat_map(|side| &side.services).collect();
    let peers: Vec<&Peer> = sides.iter().flat_map(|side| &side.peers).collect();
    let found = failing(&services)
        .or_else(|| failing_names(&services))
        .or_else(|| failing_paths(&services))
        .or_else(|| sides.iter().find_map(down))
        .or_else(|| refused(&services))
        .or_else(|| problem(sides));
    found.unwrap_or_else(|| {
        let summary = all_is_well(&services, &peers);
        Summary { state: "ok", headline: Headline::of(&summary), summary }
    })
}

/// A problem that no service shows.
fn problem(sides: &[Side]) -> Option<Summary> {
    let problems: Vec<&String> = sides.iter().flat_map(|side| &side.problems).collect();
    let (first, more) = problems.split_first()?;
    let count = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
    let what = "No service is failing, but there is a problem";
    let headline = Headline { evidence: Some((*first).clone()), more: more.len(), ..Headline::of(what) };
    Some(Summary::failing(format!("No service is failing, but: {first}{count}"), headline))
}

/// The failing services: those that visitors use first, all that fail at the same hop together.
fn failing(services: &[&Service]) -> Option<Summary> {
    let mut failing: Vec<_> = services.iter().filter(|service| service.is_failing()).collect();
    failing.sort_by_key(|service| match service.is_public {
        Some(true) => 0,
        None => 1,
        Some(false) => 2,
    });
    let first = failing.first()?;
    let hop = first.failing.as_ref()?;
    let is_alike = |service: &&&&Service| {
        let other = service.failing.as_ref();
        service.is_public == first.is_public
            && other.is_some_and(|other| other.hop == hop.hop && other.fix == hop.fix)
    };
    let names: Vec<&str> = failing.iter().filter(is_alike).map(|service| service.name.as_str()).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let whom = if first.is_public == Some(true) { " for visitors" } else { "" };
    let more = failing.len() - names.len();
    let what = format!("{} {verb} down{whom}", listed(&names));
    let line = format!("{what}: {}{}", hop.line(), more_below(more));
    let headline = Headline {
        seconds: Some(hop.seconds),
        place: Some(place(hop, first)),
        reason: hop.reason.clone(),
        evidence: hop.evidence.clone(),
        fix: hop.fix.clone(),
        more,
        what,
    };
    Some(Summary::failing(line, headline))
}

/// Where a hop is, as far as its service says.
fn place(hop: &HopShown, service: &Service) -> String {
    let name = hop.hop.replace('_', " ");
    let peers: Vec<&str> = service.peers.iter().map(String::as_str).collect();
    match hop.hop.as_str() {
        "ruleset" | "route" => format!("{name} at this edge"),
        _ if peers.is_empty() => name,
        "tunnel" | "link" => format!("{name} to {}", listed(&peers)),
        _ => format!("{name} at {}", listed(&peers)),
    }
}

fn more_below(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" ({more} more below)") }
}

/// The names that fail although their service works, at the upstream or on the way there.
fn failing_names(services: &[&Service]) -> Option<Summary> {
    let names = || services.iter().flat_map(|service| service.names.iter().map(move |name| (*service, name)));
    let failing = names().filter(|(_, name)| name.is_failing()).count();
    let (service, name) = names().find(|(_, name)| name.is_failing())?;
    let more = failing.saturating_sub(1);
    let line = name.line();
    let line =
        format!("Visitors do not get {}: it {}{}", name.name, rest_of(&line, &name.name), more_below(more));
    Some(Summary::failing(line, Headline { more, ..of_name(service, name) }))
}

/// The names that work at the upstream, and that the origin as its own visitor does not get.
fn failing_paths(services: &[&Service]) -> Option<Summary> {
    let names = services.iter().flat_map(|service| &service.names);
    let failing: Vec<_> = names.filter_map(|name| Some((name, name.path_line()?))).collect();
    let ((name, line), rest) = failing.split_first()?;
    let visitor = name.visitor.as_ref()?;
    let headline = Headline {
        seconds: Some(visitor.seconds),
        place: visitor.hop.as_ref().map(|hop| hop.replace('_', " ")),
        reason: visitor.reason.clone(),
        fix: visitor.fix.clone(),
        more: rest.len(),
        ..Headline::of(&format!("The path of visitors to {} is failing", name.name))
    };
    Some(Summary::failing(format!("{line}{}", more_below(rest.len())), headline))
}

fn of_name(service: &Service, name: &NameShown) -> Headline {
    let peers: Vec<&str> = service.peers.iter().map(String::as_str).collect();
    let at = if peers.is_empty() { String::new() } else { format!(" at {}", listed(&peers)) };
    Headline {
        seconds: Some(name.seconds),
        place: Some(format!("upstream of {}{at}", service.name)),
        reason: name.reason.clone(),
        fix: name.fix.clone(),
        ..Headline::of(&format!("Visitors do not get {}", name.name))
    }
}

/// A line without the name that it begins with.
fn rest_of<'l>(line: &'l str, name: &str) -> &'l str {
    line.strip_prefix(name).unwrap_or(line).trim_start()
}

/// A tunnel that should be up, with the problem that names its peer.
fn down(side: &Side) -> Option<Summary> {
    let peer = side.peers.iter().find(|peer| !peer.is_up() && is_expected(side, peer))?;
    let age = peer.latest_handshake_age_seconds;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let seconds = age.map(|age| age.max(0.0) as u64);
    let since = seconds.map(|seconds| format!(", the last handshake was {} ago", period(seconds)));
    let evidence = side.problems.iter().find(|problem| has_word(problem, &peer.name));
    let problem = evidence.map(|problem| format!(": {problem}")).unwrap_or_default();
    let what = format!("The tunnel to {} is {}", peer.name, peer.state);
    let line = format!("{what}{}{problem}", since.unwrap_or_default());
    Some(Summary::failing(line, Headline { seconds, evidence: evidence.cloned(), ..Headline::of(&what) }))
}

/// Whether a peer is down when it is not heard. At the edge a plain peer, such as a phone, may be
/// idle or off; the origin needs each of its edges.
fn is_expected(side: &Side, peer: &Peer) -> bool {
    side.role == "origin" || peer.rtt_seconds.is_some() || peer.link.is_some()
}

/// Whether a line has a name, not as a part of another one.
fn has_word(line: &str, name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    line.split(|c| !is_of_name(c)).any(|word| word == name || word.trim_end_matches('.') == name)
}

/// A port that a service requests, and that no edge has granted or may still grant.
fn refused(services: &[&Service]) -> Option<Summary> {
    services.iter().find_map(|service| {
        let is_refused = |port: &&Published| {
            let mut same = service.publish.iter().filter(|other| other.ports == port.ports);
            same.all(|other| other.state == "refused")
        };
        let Published { ports, peer, fix, reason, .. } = service.publish.iter().find(is_refused)?;
        let what = if service.publish.iter().all(|port| is_refused(&port)) {
            format!("{} is not published: {peer} refuses {ports}", service.name)
        } else {
            format!("{ports} of {} is not open at {peer}", service.name)
        };
        let end = fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        let headline = Headline { reason: reason.clone(), fix: fix.clone(), ..Headline::of(&what) };
        Some(Summary::failing(format!("{what}{end}"), headline))
    })
}

fn all_is_well(services: &[&Service], peers: &[&Peer]) -> String {
    let work = services.iter().filter(|service| service.is_ok()).count();
    let unknown = services.len() - work;
    let services = match (services.len(), unknown) {
        (0, _) => "Nothing is published yet: at the origin, run `causeway publish NAME PORT`".to_owned(),
        (1, 0) => {
            format!("{} works", services.iter().map(|service| service.name.as_str()).collect::<String>())
        }
        (all, 0) => format!("All {all} services work"),
        (all, _) => format!("{work} of {all} services work, of {unknown} nothing is known"),
    };
    let peers: Vec<String> = peers.iter().map(|peer| shown(peer)).collect();
    format!(
        "{services}; {}.",
        if peers.is_empty() { "no peer is configured".to_owned() } else { peers.join(", ") }
    )
}

/// How a peer is of which nothing is wrong.
fn shown(peer: &Peer) -> String {
    if !peer.is_up() {
        let has_connected = peer.latest_handshake_age_seconds.is_some();
        let state = if has_connected { "is idle or off" } else { "has not connected yet" };
        return format!("{} {state}", peer.name);
    }
    let rtt = peer.rtt_seconds.map(|rtt| format!(", {:.0} ms", rtt * 1e3)).unwrap_or_default();
    format!("{} is up{rtt}", peer.name)
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests;
