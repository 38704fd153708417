//! Reports as people read them, in the words and order of `wg show`.

use std::fmt::Write as _;

use serde::Serialize;

use daemon::health::{NameShown, VisitorShown};
use daemon::peers::{Health, Peers};
use daemon::text::{bytes, period};

use crate::control::report::{Entry, Report, SCHEMA};

/// What `health --json` prints.
#[derive(Serialize)]
pub(super) struct HealthDocument {
    schema: u32,
    health: Health,
    peers_up: usize,
    peers: usize,
}

pub(super) fn peers(report: &Report) -> Peers {
    let interface = report.peers.first().map(|peer| peer.interface.clone());
    Peers { schema: SCHEMA, interface, peers: report.peers.clone() }
}

pub(super) fn health_document(report: &Report) -> HealthDocument {
    HealthDocument { schema: SCHEMA, health: report.health, peers_up: up(report), peers: report.peers.len() }
}

pub(super) fn health(report: &Report) -> String {
    let word = report.health.label();
    format!("{word}: {} of {} peers up, {} flows", up(report), report.peers.len(), report.flows)
}

fn up(report: &Report) -> usize {
    report.peers.iter().filter(|peer| peer.is_up()).count()
}

pub(super) fn status(report: &Report) -> String {
    let mut text = format!("{}\n", health(report));
    let stopping = if report.stopping { ", stopping" } else { "" };
    let _ =
        writeln!(text, "version {}, up {}{stopping}", report.version, period(report.uptime_seconds as u64));
    let _ = writeln!(
        text,
        "{} flows, {} of UDP, {} dials pending, {} in buffers",
        report.flows,
        report.udp_flows,
        report.pending_dials,
        bytes(report.buffer_bytes)
    );
    if let Some(old) = &report.handover {
        let _ = writeln!(text, "{}", old.line());
    }
    for (peer, link) in report.peers.iter().filter_map(|peer| Some((&peer.name, peer.link.as_ref()?))) {
        for line in link.lines() {
            let _ = writeln!(text, "{peer}: {line}");
        }
    }
    for keys in &report.edge_keys {
        let _ = writeln!(text, "{}", keys.line());
    }
    for problem in &report.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for (kind, entries) in [("service", &report.services), ("reach", &report.reach)] {
        for entry in entries {
            text.push_str(&line(kind, entry));
            if let Some(failing) = entry.health.as_ref().and_then(|health| health.failing.as_ref()) {
                let _ = writeln!(text, "  {}", failing.line());
            }
            for published in &entry.publish {
                let _ = writeln!(text, "  {}", published.line());
            }
            for name in &entry.names {
                text.push_str(&name_line(name));
            }
            for upstream in &entry.upstreams {
                let state = match upstream.state.as_str() {
                    "ok" => "up",
                    "failing" => "down",
                    _ => "not checked",
                };
                let (flows, failures) = (upstream.flows, upstream.failures);
                let _ =
                    writeln!(text, "  {}: {state}, {flows} flows, {failures} dials failed", upstream.address);
            }
        }
    }
    for (reason, count) in &report.dropped {
        let _ = writeln!(text, "dropped {reason}: {count}");
    }
    text
}

/// A name is not checked, up with its certificate, or failing with its fix; and how its path from the
/// internet is.
fn name_line(name: &NameShown) -> String {
    let path = name.path_line().map(|line| format!("  {line}\n")).unwrap_or_default();
    if name.is_failing() {
        return format!("  {}\n{path}", name.line());
    }
    let state = if name.state == "ok" { "up" } else { "not checked" };
    let further = [name.certificate_text(), name.visitor.as_ref().map(VisitorShown::text)];
    let further: String = further.into_iter().flatten().map(|text| format!(", {text}")).collect();
    format!("  {}: {state}{further}\n{path}", name.name)
}

fn line(kind: &str, entry: &Entry) -> String {
    let failed: u64 = entry.dials.iter().filter(|(result, _)| *result != "ok").map(|(_, count)| count).sum();
    format!(
        "{kind} {}: {} -> {}, {} flows, {} in, {} out, {failed} dials failed\n",
        entry.name,
        entry.from,
        entry.to,
        entry.flows,
        bytes(entry.rx_bytes),
        bytes(entry.tx_bytes)
    )
}
