//! How far a publication has come: what is shown to work, what is missing, and what the edge
//! refuses.

use std::net::IpAddr;

use daemon::link::names::MAX_NAMES;
use daemon::peers::Peer;
use forwarder::control::report::{Entry, Published, Report};
use forwarder::upstream::expected;
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
            let mut progress = Progress::proven(format!("{name} is served{certificate}"));
            if known.is_proven() {
                progress.proven.push(format!("{name} is reached from the internet"));
            }
            // What was found before the site was there may still be shown: it is no verdict.
            progress.notes.extend(known.path_line());
            progress
        }
        // A site that was just added is found by the next check, and its certificate may take a
        // while.
        Some(known) if known.is_failing() => {
            Progress { is_undecided: true, ..Progress::missing(known.line()) }
        }
        Some(_) | None => unchecked(report, service, name),
    }
}

/// What the daemon's report shows of port 80, which names on port 443 can do without.
pub(super) fn of_http(report: &Report, service: &Service) -> Progress {
    let mut progress = Progress::default();
    let Some(entry) = report.services.iter().find(|entry| entry.name == service.name.as_str()) else {
        progress.is_undecided = true;
        return progress;
    };
    for port in &entry.publish {
        match port.state.as_str() {
            "granted" => progress.proven.push(format!("{} grants {}", port.peer, port.ports)),
            "refused" => progress.notes.push(format!(
                "{}; until then certificates come by TLS-ALPN-01 or DNS-01 (docs/CERTIFICATES.md)",
                refusal(port)
            )),
            _ => progress.take_waiting(report, port),
        }
    }
    progress.take_health(entry);
    progress
}

/// Whether every edge refuses what a service requests.
pub(super) fn is_refused(report: &Report, service: &Service) -> bool {
    let entry = report.services.iter().find(|entry| entry.name == service.name.as_str());
    entry.is_some_and(|entry| {
        !entry.publish.is_empty() && entry.publish.iter().all(|port| port.state == "refused")
    })
}

/// A name that is not checked yet, or never.
fn unchecked(report: &Report, service: &Service, name: &str) -> Progress {
    let names: usize = report.services.iter().map(|entry| entry.names.len()).sum();
    let never = |why: &str| Progress::note(format!("{name} is not checked: {why}"));
    if service.health.is_none() {
        never(&format!("[[service]] {} has health = \"off\"", service.name))
    } else if names > MAX_NAMES {
        never(&format!("at most {MAX_NAMES} names are"))
    } else if expected(service).is_none() {
        // What its upstream speaks is found by trying, and it may be neither.
        let note = format!("{name} is not checked yet: its upstream may speak neither TLS nor HTTP");
        Progress { is_undecided: true, ..Progress::note(note) }
    } else {
        // The first check comes soon.
        Progress { is_undecided: true, ..Progress::missing(format!("{name} has not been checked yet")) }
    }
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

    /// One line of what cannot be judged here.
    pub(super) fn note(line: impl Into<String>) -> Self {
        Self { notes: vec![line.into()], ..Self::default() }
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
        if entry.publish.len() < publish.ports.len() * service.peers.len() {
            self.is_undecided = true;
            self.missing.push("the forwarder has not requested every port yet".to_owned());
        }
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
pub(super) fn record(name: &str, policy: &Policy, through: &[Name], peers: &[Peer]) -> Option<String> {
    let edge = policy.peers.iter().find(|peer| through.contains(&peer.name))?;
    let by_address = |address| match address {
        IpAddr::V4(address) => format!("A {address}"),
        IpAddr::V6(address) => format!("AAAA {address}"),
    };
    match &edge.endpoint.host {
        Host::Name(host) if is_same_host(host, name) => None,
        Host::Name(host) => {
            let found =
                peers.iter().find(|peer| peer.name == edge.name.as_str()).and_then(|peer| peer.endpoint);
            let address =
                found.map_or_else(|| format!("A and AAAA as {host} has"), |found| by_address(found.ip()));
            Some(format!("{name} CNAME {host} (a whole domain takes no CNAME: then {address})"))
        }
        Host::Address(address) => Some(format!("{name} {}", by_address(*address))),
    }
}

fn is_same_host(host: &str, name: &str) -> bool {
    host.trim_end_matches('.').eq_ignore_ascii_case(name)
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
        None => Progress::note(format!(
            "{name} leads to {first}, which is no edge's address: right only with a proxy such as Cloudflare in front"
        )),
    }
}

#[cfg(test)]
mod tests;
