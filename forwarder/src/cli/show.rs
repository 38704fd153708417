//! Reports as people read them, in the words and order of `wg show`.

use std::fmt::Write as _;

use policy::forwarder::Policy;
use serde::Serialize;

use crate::control::report::{Entry, Health, Interface, Peer, Report, SCHEMA};

/// What `peers --json` prints: the interface of the first peer, and every peer with its own.
#[derive(Serialize)]
pub(super) struct PeersDocument {
    schema: u32,
    interface: Option<Interface>,
    peers: Vec<Peer>,
}

/// What `health --json` prints.
#[derive(Serialize)]
pub(super) struct HealthDocument {
    schema: u32,
    health: Health,
    peers_up: usize,
    peers: usize,
}

pub(super) fn peers_document(report: &Report) -> PeersDocument {
    let interface = report.peers.first().map(|peer| peer.interface.clone());
    PeersDocument { schema: SCHEMA, interface, peers: report.peers.clone() }
}

pub(super) fn health_document(report: &Report) -> HealthDocument {
    HealthDocument { schema: SCHEMA, health: report.health, peers_up: up(report), peers: report.peers.len() }
}

pub(super) fn health(report: &Report) -> String {
    let word = match report.health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Broken => "broken",
    };
    format!("{word}: {} of {} peers up, {} flows", up(report), report.peers.len(), report.flows)
}

fn up(report: &Report) -> usize {
    report.peers.iter().filter(|peer| peer.state == "up").count()
}

pub(super) fn peers(report: &Report) -> String {
    report.peers.iter().map(peer).collect::<Vec<_>>().join("\n")
}

// Writing to a String cannot fail, so the results below are dropped.
fn peer(peer: &Peer) -> String {
    let mut text = String::new();
    let own = &peer.interface;
    let _ = writeln!(text, "interface: {}", own.name);
    let _ = writeln!(text, "  public key: {}", own.public_key);
    let _ = writeln!(text, "  listening port: {}", own.listen_port);
    let _ = writeln!(text, "  mtu: {}\n", own.mtu);
    let _ = writeln!(text, "peer: {} ({})", peer.name, peer.state);
    let _ = writeln!(text, "  public key: {}", peer.public_key);
    if let Some(endpoint) = &peer.endpoint {
        let _ = writeln!(text, "  endpoint: {endpoint}");
    }
    let _ = writeln!(text, "  allowed ips: {}", peer.allowed_ips.join(", "));
    if let Some(age) = peer.latest_handshake_age_seconds {
        let _ = writeln!(text, "  latest handshake: {}", ago(age));
    }
    let _ = writeln!(text, "  transfer: {} received, {} sent", bytes(peer.rx_bytes), bytes(peer.tx_bytes));
    let (received, sent) = (peer.rx_bytes_per_second as u64, peer.tx_bytes_per_second as u64);
    let _ = writeln!(text, "  now: {}/s in, {}/s out", bytes(received), bytes(sent));
    if let Some(seconds) = peer.persistent_keepalive_seconds {
        let _ = writeln!(text, "  persistent keepalive: every {seconds} seconds");
    }
    if let (Some(rtt), Some(loss)) = (peer.rtt_seconds, peer.loss_ratio) {
        let _ = writeln!(text, "  path: rtt {:.1} ms, loss {:.1} %", rtt * 1e3, loss * 1e2);
    }
    text
}

pub(super) fn status(report: &Report) -> String {
    let mut text = format!("{}\n", health(report));
    let stopping = if report.stopping { ", stopping" } else { "" };
    let _ = writeln!(text, "version {}, up {}{stopping}", report.version, span(report.uptime_seconds));
    let _ = writeln!(
        text,
        "{} flows, {} of UDP, {} dials pending, {} in buffers",
        report.flows,
        report.udp_flows,
        report.pending_dials,
        bytes(report.buffer_bytes)
    );
    for problem in &report.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    for (kind, entries) in [("inject", &report.inject), ("reach", &report.reach)] {
        for entry in entries {
            text.push_str(&line(kind, entry));
            for upstream in &entry.upstreams {
                let state = if upstream.up { "up" } else { "down" };
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

/// What the daemon would run by.
pub(super) fn effective(policy: &Policy) -> String {
    let mut text = String::from("the configuration is valid\n");
    for peer in &policy.peers {
        let own: Vec<String> = peer.address.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "peer {}: {} as {}", peer.name, peer.endpoint, own.join(", "));
    }
    for inject in &policy.inject {
        let address = inject.address.map_or("*".to_owned(), |address| address.to_string());
        let upstreams: Vec<String> = inject.upstreams.iter().map(ToString::to_string).collect();
        let to = upstreams.join(", ");
        let _ = writeln!(text, "inject {}: {address}:{} -> {to}", inject.name, inject.ports);
    }
    for reach in &policy.reach {
        let _ =
            writeln!(text, "reach {}: {} -> {} by {}", reach.name, reach.listen, reach.target, reach.peer);
    }
    text.trim_end().to_owned()
}

fn ago(seconds: f64) -> String {
    if seconds < 1.0 { "now".to_owned() } else { format!("{} ago", span(seconds)) }
}

fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    let parts = [(seconds / 86_400, "day"), (seconds / 3_600 % 24, "hour"), (seconds / 60 % 60, "minute")];
    let mut words: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if !seconds.is_multiple_of(60) || words.is_empty() {
        words.push(format!("{} second{}", seconds % 60, if seconds % 60 == 1 { "" } else { "s" }));
    }
    words.join(", ")
}

/// Bytes in the units of `wg show`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS.get(unit).unwrap_or(&"TiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_in_wg_show() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3_670_000_000), "3.42 GiB");
    }

    #[test]
    fn spans_name_only_what_is_there() {
        assert_eq!(span(41.7), "41 seconds");
        assert_eq!(span(3_661.0), "1 hour, 1 minute, 1 second");
        assert_eq!(span(0.0), "0 seconds");
        assert_eq!(span(172_800.0), "2 days");
    }
}
