//! Reports as text for people: the field words and their order are those of `wg show`, further
//! facts come after.

use std::fmt::Write as _;

use daemon::health::{NameShown, VisitorShown};
use daemon::text::{Style, bytes, period, table};

use super::report::{Bans, Flow, Flows, Offloads, Service, Services, Status};

/// `gatewayctl services`
#[must_use]
pub fn services(report: &Services, style: Style) -> String {
    let header = ["NAME", "KIND", "PROTOCOL", "FROM", "TO", "PEERS", "IN", "OUT", "STATE", "HEALTH"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.services.iter().flat_map(service_rows));
    let mut lines = table(&rows).into_iter();
    let mut text = lines.next().map(|line| style.bold(&line) + "\n").unwrap_or_default();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    for service in &report.services {
        if let Some(failing) = &service.health.failing {
            let _ = writeln!(text, "{} {}", style.paint("33", &format!("{}:", service.name)), failing.line());
        }
        let failing = service.names.iter().filter(|name| name.is_failing()).map(NameShown::line);
        for line in failing.chain(service.names.iter().filter_map(NameShown::path_line)) {
            let _ = writeln!(text, "{} {line}", style.paint("33", &format!("{}:", service.name)));
        }
    }
    text
}

/// A service, and below it the names that its visitors ask for.
fn service_rows(service: &Service) -> Vec<Vec<String>> {
    let none = || "-".to_owned();
    let name = |name: &NameShown| {
        let certificate = name.certificate_text().unwrap_or_else(none);
        let path = name.visitor.as_ref().map_or_else(none, VisitorShown::text);
        let empty = std::iter::repeat_with(none).take(5);
        let first = [format!("  {}", name.name), "name".to_owned()];
        first.into_iter().chain(empty).chain([path, certificate, name.state.clone()]).collect()
    };
    std::iter::once(service_row(service)).chain(service.names.iter().map(name)).collect()
}

fn service_row(service: &Service) -> Vec<String> {
    vec![
        service.name.clone(),
        service.kind.clone(),
        service.protocol.clone(),
        service.from.clone(),
        service.to.clone(),
        if service.peers.is_empty() { "-".to_owned() } else { service.peers.join(",") },
        bytes(service.bytes_in),
        bytes(service.bytes_out),
        service.state.clone(),
        service.health.state.clone(),
    ]
}

/// `gatewayctl status`
#[must_use]
pub fn status(report: &Status, style: Style) -> String {
    let applied =
        if report.last_apply_ok { "" } else { " (the last apply failed; the one before is in force)" };
    let mut text = format!(
        "{} {}\n  version: {}        up: {}\n  config: {}, generation {}{applied}\n  interface: {}        peers: {} of {} up        links: {} up\n  leaked packets stopped: {}\n",
        style.bold("gateway:"),
        style.state(report.health.label()),
        report.version,
        period(report.uptime_seconds),
        report.config,
        report.generation,
        report.interface,
        report.peers_up,
        report.peers,
        report.links_up,
        report.leaked_packets,
    );
    if let Some(role) = &report.standby {
        let _ = writeln!(text, "  pair: {role}");
    }
    if !report.config_in_force {
        text.push_str("  the file holds another text than is in force: gatewayctl reload applies it\n");
    }
    if let Some(seconds) = report.confirm_within_seconds {
        let left = period(seconds);
        let _ = writeln!(text, "  the last change goes back in {left}, unless: gatewayctl confirm");
    }
    for line in &report.trusted {
        let _ = writeln!(text, "  trusted: {line}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  {} {problem}", style.paint("33", "problem:"));
    }
    for note in &report.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

/// `gatewayctl bans`
#[must_use]
pub fn bans(report: &Bans) -> String {
    if report.bans.is_empty() {
        return "no source is banned\n".to_owned();
    }
    let line = |ban: &super::report::Ban| {
        let expiry = ban
            .expires_in_seconds
            .map_or_else(|| "permanent".to_owned(), |left| format!("for {}", period(left)));
        format!("{}  {expiry}\n", ban.address)
    };
    report.bans.iter().map(line).collect()
}

/// `gatewayctl flows`
#[must_use]
pub fn flows(report: &Flows, style: Style) -> String {
    let header = ["SERVICE", "PROTOCOL", "CLIENT", "TO", "TARGET", "PEER", "IN", "OUT", "AGE", "STATE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.flows.iter().map(flow_row));
    let mut lines = table(&rows).into_iter();
    let mut text = lines.next().map(|line| style.bold(&line) + "\n").unwrap_or_default();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    if report.truncated {
        let _ = writeln!(text, "{} of {} flows; --limit for more", report.flows.len(), report.total);
    }
    text
}

fn flow_row(flow: &Flow) -> Vec<String> {
    let none = || "-".to_owned();
    let target =
        if flow.masqueraded { format!("{} (masqueraded)", flow.target) } else { flow.target.clone() };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let age = flow.age_seconds.map(|seconds| period(seconds.max(0.0) as u64));
    vec![
        flow.service.clone(),
        flow.protocol.clone(),
        flow.client.clone(),
        flow.listen.clone(),
        target,
        flow.peer.clone().unwrap_or_else(none),
        bytes(flow.bytes_in),
        bytes(flow.bytes_out),
        age.unwrap_or_else(none),
        flow.state.clone().unwrap_or_else(none),
    ]
}

/// `gatewayctl offload`
#[must_use]
pub fn offloads(report: &Offloads) -> String {
    let word = |on| if on { "on" } else { "off" };
    let line = |offload: &super::report::Offload| {
        let other = if offload.on == offload.configured {
            String::new()
        } else {
            format!(" (configured: {})", word(offload.configured))
        };
        let kernel = match (offload.kernel, &offload.needs) {
            (Some(true), _) => ", kernel: yes".to_owned(),
            (Some(false), Some(needs)) => format!(", kernel: no, needs {needs}"),
            (Some(false), None) => ", kernel: no".to_owned(),
            (None, _) => String::new(),
        };
        format!("{} {}{other}{kernel}\n", offload.name, word(offload.on))
    };
    report.offloads.iter().map(line).collect()
}
