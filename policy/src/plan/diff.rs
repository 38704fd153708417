//! Differences between two plans, as lines.

use std::collections::BTreeSet;
use std::fmt;

use super::{Change, Plan, PlannedPeer, Route, RouteKind, Rule, Selector, Sysctl, UplinkTable};

pub(super) fn diff(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    device(old, new, &mut changes);
    peers(old, new, &mut changes);
    lines("route", texts(&old.routing.routes), &texts(&new.routing.routes), &mut changes);
    lines("rule", texts(&old.routing.rules), &texts(&new.routing.rules), &mut changes);
    lines("uplink", texts(&old.routing.uplinks), &texts(&new.routing.uplinks), &mut changes);
    lines("sysctl", texts(&old.routing.sysctls), &texts(&new.routing.sysctls), &mut changes);
    lines("ruleset", old.ruleset.lines(), &new.ruleset.lines(), &mut changes);
    changes
}

fn texts<T: fmt::Display>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// Lines that only one side has, in the order of their side; removals first.
fn lines(part: &'static str, old: Vec<String>, new: &[String], changes: &mut Vec<Change>) {
    let before: BTreeSet<&str> = old.iter().map(String::as_str).collect();
    let after: BTreeSet<&str> = new.iter().map(String::as_str).collect();
    let gone = old.iter().filter(|line| !after.contains(line.as_str())).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !before.contains(line.as_str())).map(|line| format!("+ {line}"));
    changes.extend(gone.chain(come).map(|line| Change { part, line }));
    let same = before == after && old != new;
    if same {
        changes.push(Change { part, line: "~ order or number of equal entries".to_owned() });
    }
}

fn device(old: &Plan, new: &Plan, changes: &mut Vec<Change>) {
    let (before, after) = (&old.routing.device, &new.routing.device);
    let mut field = |what: &str, before: String, after: String| {
        if before != after {
            changes.push(Change { part: "device", line: format!("~ {what} {before} → {after}") });
        }
    };
    field("name", before.name.to_string(), after.name.to_string());
    field("addresses", joined(&before.addresses), joined(&after.addresses));
    field("mtu", before.mtu.to_string(), after.mtu.to_string());
    field("queue length", before.tx_queue_length.to_string(), after.tx_queue_length.to_string());
}

fn peers(old: &Plan, new: &Plan, changes: &mut Vec<Change>) {
    let mut change = |line: String| changes.push(Change { part: "peer", line });
    for peer in &old.peers {
        match new.peers.iter().find(|other| other.name == peer.name) {
            None => change(format!("- {peer}")),
            Some(other) if other != peer => change(format!("~ {peer} → {other}")),
            Some(_) => {}
        }
    }
    for peer in new.peers.iter().filter(|peer| !old.peers.iter().any(|other| other.name == peer.name)) {
        change(format!("+ {peer}"));
    }
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    texts(items).join(", ")
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Tunnel => "into the tunnel",
            RouteKind::Unreachable => "unreachable",
        };
        write!(f, "{} {kind}, table {} metric {}", self.destination, self.table, self.metric)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.ipv6 { "IPv6" } else { "IPv4" };
        write!(f, "{version} {}: ", self.priority)?;
        match self.selector {
            Selector::Fwmark(mark) => write!(f, "fwmark {mark:#x}")?,
            Selector::To(prefix) => write!(f, "to {prefix}")?,
            Selector::All => write!(f, "all")?,
        }
        write!(f, " table {}", self.table)
    }
}

impl fmt::Display for UplinkTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, table, mark, priority } = self;
        write!(f, "replies with mark {mark:#x} by interface {link}: rule {priority}, table {table}")
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.path, self.value)
    }
}

impl fmt::Display for PlannedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} allowed-ips {}", self.name, self.public_key, joined(&self.allowed_ips))?;
        if self.preshared {
            write!(f, " with a preshared key")?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, " endpoint {endpoint}")?;
        }
        if let Some(seconds) = self.keepalive_seconds {
            write!(f, " keepalive {seconds}s")?;
        }
        Ok(())
    }
}
