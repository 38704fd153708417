//! What the daemon of this machine reports, as findings: pure.

use daemon::diagnosis::{Cause, Diagnosis, Problem};
use daemon::health::{HopName, HopShown, NameShown};
use daemon::peers::Peer;
use daemon::text::period;

use super::finding::Finding;
use daemon::status::{Service, Side};

/// The share of lost probes that is a fault, and how many must have been lost.
const LOSS: f64 = 0.12;
const LOST: u64 = 4;

/// What a daemon reported, and which services are looked at.
pub(super) struct Near<'n> {
    /// Its peers and services.
    pub(super) side: &'n Side,
    /// What is wrong; `None` from a release that does not say it by its kind.
    pub(super) diagnosis: Option<&'n Diagnosis>,
    /// The services, or the one that was asked for.
    pub(super) services: Vec<&'n Service>,
    /// The name that was asked for; `None` for all.
    pub(super) name: Option<&'n str>,
}

/// What it knows of every hop.
pub(super) fn findings(near: &Near<'_>) -> Vec<Finding> {
    let mut found = vec![daemon(near)];
    found.extend(problems(near));
    found.extend(near.side.peers.iter().flat_map(|peer| of_peer(near.side, peer)));
    for service in &near.services {
        found.extend(service.hops.iter().filter_map(|hop| of_hop(near.side.role, service, hop)));
        let names = service.names.iter().filter(|name| near.name.is_none_or(|only| only == name.name));
        found.extend(names.flat_map(|name| of_name(near.side.role, service, name)));
        found.extend(published(service));
    }
    found.extend(unvisited(near));
    found.extend(if near.side.role == "edge" { of_edge(near) } else { not_here() });
    found
}

fn daemon(near: &Near<'_>) -> Finding {
    let Side { role, version, .. } = near.side;
    let up = near.diagnosis.map(|diagnosis| format!(", up for {}", period(diagnosis.uptime_seconds)));
    Finding::ok(HopName::Daemon, role, format!("version {version}{}", up.unwrap_or_default()))
}

/// What is wrong besides the hops of services. That a peer is not up is judged by its state: at the
/// edge a plain peer may be idle.
fn problems(near: &Near<'_>) -> Vec<Finding> {
    let role = near.side.role;
    let Some(diagnosis) = near.diagnosis else {
        let unsorted = |text: &String| Problem::new(Cause::Other, text.as_str());
        return near.side.problems.iter().map(|text| problem(role, &unsorted(text))).collect();
    };
    let is_judged = |problem: &&Problem| role == "edge" && problem.cause == Cause::PeerDown;
    diagnosis.problems.iter().filter(|one| !is_judged(one)).map(|one| problem(role, one)).collect()
}

fn problem(role: &str, problem: &Problem) -> Finding {
    let (hop, reason) = (problem.cause.hop(), problem.cause.label());
    Finding::failing(hop, role, reason, problem.text.as_str()).in_two()
}

fn of_peer(side: &Side, peer: &Peer) -> Vec<Finding> {
    vec![tunnel(side, peer), link(side.role, peer)]
}

fn tunnel(side: &Side, peer: &Peer) -> Finding {
    let (hop, role, name) = (HopName::Tunnel, side.role, peer.name.as_str());
    if !peer.is_up() {
        return silent(side, peer);
    }
    let lost = peer.loss_ratio.unwrap_or_default();
    if lost >= LOSS && peer.probes_lost >= LOST {
        let what = format!("{:.0} % of the probes to {name} are lost", lost * 100.0);
        return Finding::failing(hop, role, Cause::Loss.label(), what).of(name).fix(Cause::Loss.fix());
    }
    if let Some(size) = peer.lost_size_bytes {
        let what = format!("packets of {size} bytes do not come through to {name}, and small ones do");
        return Finding::failing(hop, role, Cause::PathMtu.label(), what).of(name).fix(path_mtu_fix(role));
    }
    let mut what = format!("{name} replies");
    what.extend(peer.rtt_seconds.map(|rtt| format!(" after {:.1} ms", rtt * 1e3)));
    what.extend(peer.loss_ratio.map(|lost| format!(", {:.0} % lost", lost * 100.0)));
    what.extend(peer.path_mtu_bytes.map(|mtu| format!(", packets of {mtu} bytes pass")));
    if peer.endpoint_changes > 0 {
        let times = if peer.endpoint_changes == 1 {
            "once".to_owned()
        } else {
            format!("{} times", peer.endpoint_changes)
        };
        what.push_str(&format!(", its address changed {times}"));
    }
    Finding::ok(hop, role, what).of(name)
}

/// Each end sets the size of its own direction.
fn path_mtu_fix(role: &str) -> &'static str {
    if role == "edge" {
        Cause::PathMtu.fix()
    } else {
        "write mtu = \"auto\" in [interface] of forwarder.toml, then restart the forwarder"
    }
}

/// A tunnel that is not up. At the edge, handshakes that arrive again and again and lead to nothing
/// are those of another preshared key, or of an end that hears no reply.
fn silent(side: &Side, peer: &Peer) -> Finding {
    let (hop, role, name) = (HopName::Tunnel, side.role, peer.name.as_str());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let age = peer.latest_handshake_age_seconds.map(|age| period(age.max(0.0) as u64));
    let last = age.map_or_else(
        || "it has not connected since the start".to_owned(),
        |age| format!("its last handshake was {age} ago"),
    );
    let what = format!("{name} is {}: {last}", peer.state);
    if !is_expected(side, peer) {
        return Finding::unknown(hop, role, "idle", format!("{what}; a plain peer may be idle or off"))
            .of(name);
    }
    let failing = |reason: &str, what: String| Finding::failing(hop, role, reason, what).of(name);
    let back = peer.link.as_ref().and_then(|link| link.back_within_seconds);
    if let Some(seconds) = back {
        let what = format!("{what}; it announced that it stops, and to be back within {}", period(seconds));
        return failing("stopping", what).fix(format!("wait, or start the daemon at {name}"));
    }
    if role == "edge" && peer.rx_bytes_per_second > 0.0 {
        let what = format!("{what}; handshakes arrive from it, and none is completed");
        return failing("not_completed", what).fix(format!(
            "preshared_key_file of {name} must hold the same key at both ends, or be absent at both; if it does, \
             {name} hears no reply: run `causeway doctor` there"
        ));
    }
    let fix = match role {
        "edge" => format!(
            "see that {name} runs and is online, that its endpoint leads here, and that udp/{} is forwarded to \
             this machine; then run `causeway doctor` there: it names what keeps the tunnel down",
            peer.interface.listen_port
        ),
        _ => format!("run `causeway doctor` at {name}, and see that its UDP port is reached"),
    };
    let reason = if peer.latest_handshake_age_seconds.is_some() { "silent" } else { "never_heard" };
    failing(reason, what).fix(fix)
}

/// Whether a peer is down when it is not heard. The origin needs each of its edges; at the edge a
/// peer that never was there is, while something is published behind it.
fn is_expected(side: &Side, peer: &Peer) -> bool {
    let is_published = || {
        let failing = side.services.iter().filter(|service| service.is_public == Some(true));
        failing.flat_map(|service| &service.hops).any(|hop| hop.hop == "tunnel" && hop.state == "failing")
    };
    side.role == "origin" || peer.rtt_seconds.is_some() || peer.link.is_some() || is_published()
}

fn link(role: &str, peer: &Peer) -> Finding {
    let (hop, name) = (HopName::Link, peer.name.as_str());
    let unknown = |reason: &str, what: String| {
        let fix = format!("run `causeway doctor` at {name} for its half");
        Finding::unknown(hop, role, reason, what).of(name).fix(fix)
    };
    match &peer.link {
        None => unknown(
            "no_link",
            format!("{name} has no link: a plain WireGuard peer, or one that never was up"),
        ),
        Some(link) if link.up => {
            let time =
                link.seconds.map(|seconds| format!(", up for {}", period(seconds))).unwrap_or_default();
            let version = link.version.as_deref().unwrap_or("-");
            Finding::ok(hop, role, format!("with {name} (version {version}){time}")).of(name)
        }
        Some(link) => {
            let reason = link.reason.as_deref().unwrap_or("down");
            unknown(reason, format!("the link to {name} is down ({reason})"))
        }
    }
}

/// A hop of a service's path; tunnels and links are those of peers.
fn of_hop(role: &str, service: &Service, shown: &HopShown) -> Option<Finding> {
    let hop = HopName::of_label(&shown.hop).filter(|hop| !matches!(hop, HopName::Tunnel | HopName::Link))?;
    let reason = shown.reason.as_deref().unwrap_or("other");
    let evidence = shown.evidence.as_deref().map(|text| format!("{text:?}"));
    let finding = match shown.state.as_str() {
        "ok" => Finding::ok(hop, role, works(hop)),
        "failing" => {
            Finding::failing(hop, role, reason, evidence.unwrap_or_else(|| reason.replace('_', " ")))
        }
        _ => Finding::unknown(hop, role, reason, evidence.unwrap_or_else(|| not_known(reason).to_owned())),
    };
    let seconds = Some(shown.seconds);
    Some(Finding { seconds, fix: shown.fix.clone(), ..finding.of(&service.name) })
}

const fn works(hop: HopName) -> &'static str {
    match hop {
        HopName::Ruleset => "the edge's rules are in force",
        HopName::Route => "packets for the target go into the tunnel",
        HopName::ServiceEntry => "a [[service]] of the origin takes it",
        HopName::Upstream => "it replies",
        HopName::Daemon
        | HopName::PublicName
        | HopName::Forward
        | HopName::WanPort
        | HopName::Tunnel
        | HopName::Link
        | HopName::WayBack => "works",
    }
}

fn not_known(reason: &str) -> &'static str {
    match reason {
        "no_link" => "without a link the other end does not report it",
        "not_checked" => "nothing checks it, as for UDP, or no check has ended",
        _ => "not known",
    }
}

/// A name at the upstream, and on its way from the internet.
fn of_name(role: &str, service: &Service, name: &NameShown) -> Vec<Finding> {
    let mut found = Vec::new();
    let with = |finding: Finding| Finding { seconds: Some(name.seconds), ..finding.of(&name.name) };
    if name.is_failing() {
        let reason = name.reason.as_deref().unwrap_or("other");
        let what = format!("{} of {} fails at the upstream", name.name, service.name);
        let failing = with(Finding::failing(HopName::Upstream, role, reason, what));
        found.push(Finding { fix: name.fix.clone(), ..failing });
    } else if let Some(text) = name.certificate_text() {
        found.push(with(Finding::ok(HopName::Upstream, role, format!("{}: {text}", name.name))));
    }
    let Some(visitor) = &name.visitor else { return found };
    let reason = visitor.reason.as_deref().unwrap_or("other");
    if visitor.is_proven() {
        let proven = "a visit from the internet came out of the tunnel";
        for hop in [HopName::PublicName, HopName::Forward, HopName::WanPort, HopName::WayBack] {
            found.push(Finding::ok(hop, role, proven).of(&name.name).of(&service.name));
        }
    } else if visitor.is_failing() {
        let label = visitor.hop.as_deref().unwrap_or_default();
        let hop = HopName::of_label(label).unwrap_or(HopName::Upstream);
        let what = format!("{} from the internet: {}", name.name, reason.replace('_', " "));
        let failing = Finding::failing(hop, role, reason, what).of(&name.name);
        found.push(Finding { fix: visitor.fix.clone(), seconds: Some(visitor.seconds), ..failing });
    } else {
        let what = format!("{} was not visited from the internet ({})", name.name, reason.replace('_', " "));
        for hop in [HopName::PublicName, HopName::Forward] {
            found.push(Finding::unknown(hop, role, reason, what.clone()).of(&name.name));
        }
    }
    found
}

/// The public ports that a service of an origin requests; refusals are problems.
fn published(service: &Service) -> Vec<Finding> {
    let state = |port: &forwarder::control::report::Published| {
        let what = format!("{} of {} is {} by {}", port.ports, service.name, port.state, port.peer);
        match port.state.as_str() {
            "granted" => Some(Finding::ok(HopName::WanPort, "origin", what).of(&service.name)),
            "waiting" => {
                Some(Finding::unknown(HopName::WanPort, "origin", "waiting", what).of(&service.name))
            }
            _ => None,
        }
    };
    service.publish.iter().filter_map(state).collect()
}

/// Without names nothing visits this path from the internet.
fn unvisited(near: &Near<'_>) -> Vec<Finding> {
    if near.services.iter().flat_map(|service| &service.names).any(|name| name.visitor.is_some()) {
        return Vec::new();
    }
    let what = "no name is visited from the internet";
    let fix = "to see it, write names = [\"…\"] into the [[service]] of the origin";
    let hop = |hop| Finding::unknown(hop, near.side.role, "no_names", what).fix(fix);
    vec![hop(HopName::PublicName), hop(HopName::Forward)]
}

/// What the edge alone knows of itself, where no problem says otherwise.
fn of_edge(near: &Near<'_>) -> Vec<Finding> {
    let Some(diagnosis) = near.diagnosis else { return Vec::new() };
    let is_wrong = |hop| diagnosis.problems.iter().any(|problem| problem.cause.hop() == hop);
    let ports = near.services.iter().filter(|service| service.is_public == Some(true)).count();
    [
        (HopName::WanPort, format!("{ports} published; no other firewall is in the way")),
        (HopName::WayBack, "replies leave as requests come".to_owned()),
    ]
    .into_iter()
    .filter(|(hop, _)| !is_wrong(*hop))
    .map(|(hop, what)| Finding::ok(hop, "edge", what))
    .collect()
}

/// What the edge alone knows; it replaces this when it replies.
fn not_here() -> Vec<Finding> {
    let what = "the edge knows it, and has not reported it";
    let hop =
        |hop| Finding::unknown(hop, "origin", "not_here", what).fix("run `causeway doctor` at the edge");
    [HopName::WanPort, HopName::Ruleset, HopName::Route, HopName::WayBack].map(hop).into()
}
