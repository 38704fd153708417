//! The first line of `causeway status`: what is down for visitors, since when, why, and the fix; or
//! that all is well.

use daemon::peers::Peer;
use daemon::text::period;
use forwarder::control::report::Published;
use serde::Serialize;

use super::side::{Service, Side};

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    /// `ok` or `failing`.
    state: &'static str,
    /// In one sentence.
    summary: String,
}

impl Summary {
    fn failing(summary: String) -> Self {
        Self { state: "failing", summary }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state == "failing"
    }

    pub(super) fn sentence(&self) -> &str {
        &self.summary
    }
}

/// What is most important about the daemons of this machine.
pub(super) fn summary(sides: &[Side]) -> Summary {
    let services: Vec<&Service> = sides.iter().flat_map(|side| &side.services).collect();
    let peers: Vec<&Peer> = sides.iter().flat_map(|side| &side.peers).collect();
    let problems: Vec<&String> = sides.iter().flat_map(|side| &side.problems).collect();
    if let Some(line) = failing(&services) {
        return Summary::failing(line);
    }
    if let Some(line) = failing_names(&services) {
        return Summary::failing(line);
    }
    if let Some(line) = sides.iter().find_map(down) {
        return Summary::failing(line);
    }
    if let Some(line) = refused(&services) {
        return Summary::failing(line);
    }
    match problems.as_slice() {
        [] => Summary { state: "ok", summary: all_is_well(&services, &peers) },
        [one] => Summary::failing(format!("No service is failing, but: {one}")),
        [one, more @ ..] => {
            Summary::failing(format!("No service is failing, but: {one} (and {} more)", more.len()))
        }
    }
}

/// The failing services: those that visitors use first, all that fail at the same hop together.
fn failing(services: &[&Service]) -> Option<String> {
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
    let rest = failing.len() - names.len();
    let rest = if rest == 0 { String::new() } else { format!(" ({rest} more below)") };
    Some(format!("{} {verb} down{whom}: {}{rest}", listed(&names), hop.line()))
}

/// The names that fail although their service works.
fn failing_names(services: &[&Service]) -> Option<String> {
    let names = services.iter().flat_map(|service| &service.names);
    let failing: Vec<_> = names.filter(|name| name.is_failing()).collect();
    let (first, more) = failing.split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" ({} more below)", more.len()) };
    Some(format!("Visitors do not get {}: it {}{more}", first.name, rest_of(&first.line(), &first.name)))
}

/// A line without the name that it begins with.
fn rest_of<'l>(line: &'l str, name: &str) -> &'l str {
    line.strip_prefix(name).unwrap_or(line).trim_start()
}

/// A tunnel that should be up, with the problem that names its peer.
fn down(side: &Side) -> Option<String> {
    let peer = side.peers.iter().find(|peer| !peer.is_up() && is_expected(side, peer))?;
    let age = peer.latest_handshake_age_seconds;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let since = age.map(|age| format!(", the last handshake was {} ago", period(age.max(0.0) as u64)));
    let problem = side.problems.iter().find(|problem| has_word(problem, &peer.name));
    let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
    Some(format!("The tunnel to {} is {}{}{problem}", peer.name, peer.state, since.unwrap_or_default()))
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
fn refused(services: &[&Service]) -> Option<String> {
    services.iter().find_map(|service| {
        let is_refused = |port: &&Published| {
            let mut same = service.publish.iter().filter(|other| other.ports == port.ports);
            same.all(|other| other.state == "refused")
        };
        let Published { ports, peer, fix, .. } = service.publish.iter().find(is_refused)?;
        let fix = fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        Some(if service.publish.iter().all(|port| is_refused(&port)) {
            format!("{} is not published: {peer} refuses {ports}{fix}", service.name)
        } else {
            format!("{ports} of {} is not open at {peer}{fix}", service.name)
        })
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
