//! How far a publication has come: what is shown to work, what is missing, and what the edge
//! refuses.

use std::net::IpAddr;

use daemon::peers::Peer;
use forwarder::control::report::{Entry, Published, Report};
use policy::forwarder::{Policy, Service};
use policy::{Host, Name};

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// What was seen to work, a line each.
    pub(super) proven: Vec<String>,
    /// What cannot be judged here.
    pub(super) notes: Vec<String>,
    /// What visitors still need; each can become true later.
    pub(super) missing: Vec<String>,
    /// Needed ports that every edge refuses, with what to do there.
    pub(super) refused: Vec<String>,
    /// Whether an edge's reply, or another check, is expected soon.
    pub(super) is_undecided: bool,
}

/// What the daemon's report shows of a service; without the ports that are needed, it is of no use.
pub(super) fn of_service(
    report: &Report,
    service: &Service,
    is_needed: &dyn Fn(&Published) -> bool,
) -> Progress {
    let mut progress = Progress::default();
    let found = report.services.iter().find(|entry| entry.name == service.name.as_str());
    let Some(entry) = found else {
        progress.missing.push(format!("the forwarder does not have [[service]] {} yet", service.name));
        progress.is_undecided = true;
        return progress;
    };
    progress.take_tunnels(report, service);
    progress.take_ports((report, entry), service, is_needed);
    progress.take_health(entry);
    progress
}

/// What the daemon's report shows of one name of a service.
pub(super) fn of_name(report: &Report, service: &Service, name: &str) -> Progress {
    let entry = report.services.iter().find(|entry| entry.name == service.name.as_str());
    let found = entry.and_then(|entry| entry.names.iter().find(|known| known.name == name));
    match found {
        Some(known) if known.state == "ok" => {
            let certificate = known.certificate_text().map(|text| format!(", {text}")).unwrap_or_default();
            Progress::proven(format!("{name} is served{certificate}"))
        }
        // A site that was just added is found by the next check, and its certificate may take a while.
        Some(known) if known.is_failing() => {
            Progress { is_undecided: true, ..Progress::missing(known.line()) }
        }
        // The first check comes soon, where there is one.
        Some(_) => unchecked(name),
        // Nothing of an entry without checks is checked, nor are its names.
        None if service.health.is_none() => Progress::default(),
        None => unchecked(name),
    }
}

fn unchecked(name: &str) -> Progress {
    Progress { is_undecided: true, ..Progress::missing(format!("{name} has not been checked yet")) }
}

impl Progress {
    /// Adds what another look found.
    pub(super) fn add(&mut self, other: Self) {
        self.proven.extend(other.proven);
        self.notes.extend(other.notes);
        self.missing.extend(other.missing);
        self.refused.extend(other.refused);
        self.is_undecided |= other.is_undecided;
    }

    /// One line of what is missing.
    pub(super) fn missing(line: impl Into<String>) -> Self {
        Self { missing: vec![line.into()], ..Self::default() }
    }

    /// One line of what works.
    pub(super) fn proven(line: impl Into<String>) -> Self {
        Self { proven: vec![line.into()], ..Self::default() }
    }

    fn take_tunnels(&mut self, report: &Report, service: &Service) {
        let its = |peer: &&Peer| service.peers.iter().any(|name| name.as_str() == peer.name);
        for peer in report.peers.iter().filter(its).filter(|peer| !peer.is_up()) {
            self.missing
                .push(format!("the tunnel to {} is {}: see `forwarder status`", peer.name, peer.state));
        }
    }

    fn take_ports(
        &mut self,
        (report, entry): (&Report, &Entry),
        service: &Service,
        is_needed: &dyn Fn(&Published) -> bool,
    ) {
        let Some(publish) = &service.publish else {
            let port = service.ports;
            self.notes.push(format!("it has no `publish`: the edge's own file has to publish {port}"));
            return;
        };
        self.is_undecided |= entry.publish.len() < publish.ports.len() * service.peers.len();
        // A port that one edge refuses and another grants is published there.
        let is_open = |port: &Published| {
            entry.publish.iter().any(|other| other.ports == port.ports && other.state != "refused")
        };
        for port in &entry.publish {
            match port.state.as_str() {
                "granted" => self.proven.push(format!("{} grants {}", port.peer, port.ports)),
                "refused" if is_open(port) || !is_needed(port) => self.missing.push(refusal(port)),
                "refused" => self.refused.push(refusal(port)),
                _ => self.take_waiting(report, port),
            }
        }
    }

    fn take_waiting(&mut self, report: &Report, port: &Published) {
        let peer = report.peers.iter().find(|peer| peer.name == port.peer);
        let is_linked = peer.is_some_and(|peer| peer.link.as_ref().is_some_and(|link| link.up));
        self.is_undecided |= is_linked;
        let Published { ports, peer: name, .. } = port;
        self.missing.push(if is_linked {
            format!("{name} has not replied about {ports} yet")
        } else {
            format!("there is no link to {name}, by which {ports} is requested: see `forwarder peers`")
        });
    }

    fn take_health(&mut self, entry: &Entry) {
        let Some(health) = &entry.health else { return };
        match &health.failing {
            // The peers' lines say it.
            Some(hop) if hop.hop == "tunnel" => {}
            Some(hop) => {
                // A site that was just added is found by the next check.
                self.is_undecided = true;
                self.missing.push(hop.line());
            }
            None if health.state == "ok" => self.proven.push(format!("{} accepts connections", entry.to)),
            None => {}
        }
    }
}

fn refusal(port: &Published) -> String {
    let Published { ports, peer, reason, fix, .. } = port;
    let reason = reason.as_ref().map(|reason| format!(" ({})", reason.replace('_', " "))).unwrap_or_default();
    let fix = fix.as_ref().map(|fix| format!(": {fix}")).unwrap_or_default();
    format!("{peer} refuses {ports}{reason}{fix}")
}

/// The DNS record that leads a name to the first edge of a service; `None` for the edge's own name.
pub(super) fn record(name: &str, policy: &Policy, through: &[Name]) -> Option<String> {
    let edge = policy.peers.iter().find(|peer| through.contains(&peer.name))?;
    match &edge.endpoint.host {
        Host::Name(host) if **host == *name => None,
        Host::Name(host) => Some(format!("{name} CNAME {host}")),
        Host::Address(IpAddr::V4(address)) => Some(format!("{name} A {address}")),
        Host::Address(IpAddr::V6(address)) => Some(format!("{name} AAAA {address}")),
    }
}

/// What the addresses of a name show.
pub(super) fn of_addresses(name: &str, found: &[IpAddr], peers: &[Peer], record: Option<&str>) -> Progress {
    let Some(first) = found.first() else {
        let fix = record.map(|record| format!(": set the DNS record {record}")).unwrap_or_default();
        return Progress::missing(format!("{name} has no address{fix}"));
    };
    let leads = |peer: &&Peer| peer.endpoint.is_some_and(|endpoint| found.contains(&endpoint.ip()));
    match peers.iter().find(leads) {
        Some(peer) => Progress::proven(format!("{name} leads to {}", peer.name)),
        None => {
            let note = format!(
                "{name} leads to {first}, which is no edge's address: right only with a proxy such as Cloudflare in front"
            );
            Progress { notes: vec![note], ..Progress::default() }
        }
    }
}

#[cfg(test)]
mod tests;
