//! The first line of `causeway status`: what is down for visitors, since when, why, and the fix; or
//! that all is well.

use daemon::peers::Peer;
use daemon::text::period;
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
    if let Some(peer) = peers.iter().find(|peer| !peer.is_up()) {
        return Summary::failing(down(peer, problems.first().map(|line| line.as_str())));
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
    failing.sort_by_key(|service| service.is_public == Some(false));
    let first = failing.first()?;
    let hop = first.failing.as_ref()?;
    let is_alike = |service: &&&&Service| {
        let other = service.failing.as_ref();
        service.is_public == first.is_public
            && other.is_some_and(|other| other.hop == hop.hop && other.fix == hop.fix)
    };
    let names: Vec<&str> = failing.iter().filter(is_alike).map(|service| service.name.as_str()).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let whom = if first.is_public == Some(false) { "" } else { " for visitors" };
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

fn down(peer: &Peer, problem: Option<&str>) -> String {
    let age = peer.latest_handshake_age_seconds;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let since = age.map(|age| format!(", the last handshake was {} ago", period(age.max(0.0) as u64)));
    let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
    format!("The tunnel to {} is {}{}{problem}", peer.name, peer.state, since.unwrap_or_default())
}

/// A port that a service requests and no edge opens.
fn refused(services: &[&Service]) -> Option<String> {
    let service =
        services.iter().find(|service| service.publish.iter().any(|port| port.state == "refused"))?;
    let port = service.publish.iter().find(|port| port.state == "refused")?;
    let fix = port.fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
    Some(format!("{} is not published: {} refuses {}{fix}", service.name, port.peer, port.ports))
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
    let peers: Vec<String> = peers.iter().map(|peer| up(peer)).collect();
    format!(
        "{services}; {}.",
        if peers.is_empty() { "no peer is configured".to_owned() } else { peers.join(", ") }
    )
}

fn up(peer: &Peer) -> String {
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
