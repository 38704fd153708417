//! Reports as text for people: the field words and their order are those of `wg show`, further facts come after.

use std::fmt::Write as _;

use super::report::{Bans, Changes, Flow, Flows, Health, Offloads, Peer, Peers, Service, Services, Status};

/// How text is dressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// With terminal colours.
    Colour,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn state(self, state: &str) -> String {
        let code = match state {
            "up" | "ok" => "32",
            "stale" | "degraded" => "33",
            _ => "31",
        };
        self.paint(code, &state.to_uppercase())
    }
}

/// `gatewayctl peers`
#[must_use]
pub fn peers(report: &Peers, style: Style) -> String {
    let interface = &report.interface;
    let key = interface.public_key.as_deref().unwrap_or("(none)");
    let mut text = format!(
        "{} {}\n  public key: {key}        listening port: {}        mtu: {}\n",
        style.bold("interface:"),
        interface.name,
        interface.listen_port,
        interface.mtu,
    );
    for entry in &report.peers {
        text.push_str(&peer(entry, style));
    }
    text
}

fn peer(peer: &Peer, style: Style) -> String {
    let mut text = String::new();
    let title = format!("{} {}", style.bold("peer:"), peer.name);
    // Escapes take no room on the screen, so the column is reckoned from the plain name.
    let gap = " ".repeat(52_usize.saturating_sub(peer.name.chars().count()).max(2));
    let endpoint = peer.endpoint.map_or_else(|| "(none)".to_owned(), |endpoint| endpoint.to_string());
    let allowed: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    let allowed = if allowed.is_empty() { "(none)".to_owned() } else { allowed.join(", ") };
    let handshake = peer.latest_handshake_age_seconds.map_or_else(|| "never".to_owned(), ago);
    let keepalive = peer.persistent_keepalive_seconds.map(|seconds| format!("every {}", period(seconds)));
    let lines = [
        format!("{title}{gap}{}", style.state(&peer.state)),
        format!("  public key: {}", peer.public_key),
        format!("  endpoint: {endpoint}        allowed ips: {allowed}"),
        match keepalive {
            Some(keepalive) => {
                format!("  latest handshake: {handshake}        persistent keepalive: {keepalive}")
            }
            None => format!("  latest handshake: {handshake}"),
        },
        format!(
            "  transfer: {} received, {} sent        now: {}/s in, {}/s out",
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
            rate(peer.rx_bytes_per_second),
            rate(peer.tx_bytes_per_second),
        ),
    ];
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    if let Some(loss) = peer.loss_ratio {
        let rtt = peer.rtt_seconds.map_or_else(|| "unknown".to_owned(), |rtt| format!("{:.1} ms", rtt * 1e3));
        let mtu = peer.path_mtu_bytes.map_or_else(String::new, |mtu| format!(", mtu {mtu}"));
        let _ = writeln!(text, "  path: rtt {rtt}, loss {:.1} %{mtu}", loss * 100.0);
    }
    text
}

/// `gatewayctl services`
#[must_use]
pub fn services(report: &Services, style: Style) -> String {
    let header = ["NAME", "KIND", "PROTOCOL", "FROM", "TO", "PEERS", "IN", "OUT", "STATE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.services.iter().map(service_row));
    let mut lines = table(&rows).into_iter();
    let mut text = lines.next().map(|line| style.bold(&line) + "\n").unwrap_or_default();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
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
    ]
}

/// `gatewayctl status`
#[must_use]
pub fn status(report: &Status, style: Style) -> String {
    let health = match report.health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Broken => "broken",
    };
    let applied =
        if report.last_apply_ok { "" } else { " (the last apply failed; the one before is in force)" };
    let mut text = format!(
        "{} {}\n  version: {}        up: {}\n  config: {}, generation {}{applied}\n  interface: {}        peers: {} of {} up\n  leaked packets stopped: {}\n",
        style.bold("gateway:"),
        style.state(health),
        report.version,
        period(report.uptime_seconds),
        report.config,
        report.generation,
        report.interface,
        report.peers_up,
        report.peers,
        report.leaked_packets,
    );
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
    text
}

/// `gatewayctl bans`
#[must_use]
pub fn bans(report: &Bans) -> String {
    if report.bans.is_empty() {
        return "nobody is banned\n".to_owned();
    }
    let line = |ban: &super::report::Ban| {
        let expiry = ban
            .expires_in_seconds
            .map_or_else(|| "for good".to_owned(), |left| format!("for {}", period(left)));
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

/// `gatewayctl plan`
#[must_use]
pub fn changes(report: &Changes, style: Style) -> String {
    if report.changes.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let line = |change: &super::report::Change| {
        let code = match change.line.as_bytes().first() {
            Some(b'+') => "32",
            Some(b'-') => "31",
            _ => "33",
        };
        format!("{:<8} {}\n", change.part, style.paint(code, &change.line))
    };
    report.changes.iter().map(line).collect()
}

/// A number of bytes as `wg` writes it.
#[must_use]
pub fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn rate(per_second: f64) -> String {
    // A rate is never negative and far below 2^53: nothing is lost.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole bytes are wanted")]
    let whole = per_second.max(0.0) as u64;
    scaled(whole, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

fn scaled(count: u64, step: f64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    if value < step {
        return format!("{count} {unit}");
    }
    for next in units {
        if value < step {
            break;
        }
        value /= step;
        unit = next;
    }
    format!("{value:.2} {unit}")
}

fn ago(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let whole = seconds.max(0.0) as u64;
    if whole == 0 { "now".to_owned() } else { format!("{} ago", period(whole)) }
}

/// A length of time in words, the two largest units of it.
#[must_use]
pub fn period(seconds: u64) -> String {
    let units = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, length) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(", ") }
}

fn table(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::{Interface, SCHEMA};
    use super::*;

    #[test]
    fn peers_read_like_wg_show_with_more() {
        insta::assert_snapshot!(peers(&example(), Style::Plain), @r"
        interface: gw0
          public key: pQ1=        listening port: 51820        mtu: 1420
        peer: wroclaw                                             UP
          public key: 8kF=
          endpoint: 198.51.100.7:40213        allowed ips: 10.77.88.2/32, 192.168.88.0/24
          latest handshake: 41 seconds ago
          transfer: 3.42 GiB received, 18.10 GiB sent        now: 1.20 MB/s in, 9.80 MB/s out
          path: rtt 23.4 ms, loss 0.0 %
        ");
    }

    #[test]
    fn the_json_of_a_peer_has_the_documented_fields() {
        let json = serde_json::to_value(&example().peers[0]).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut documented = vec![
            "name",
            "public_key",
            "endpoint",
            "allowed_ips",
            "state",
            "latest_handshake_age_seconds",
            "persistent_keepalive_seconds",
            "rx_bytes",
            "tx_bytes",
            "rx_bytes_per_second",
            "tx_bytes_per_second",
            "rtt_seconds",
            "loss_ratio",
            "path_mtu_bytes",
        ];
        documented.sort_unstable();
        assert_eq!(fields, documented);
    }

    #[test]
    fn colours_only_when_asked_for() {
        assert!(!peers(&example(), Style::Plain).contains('\x1b'));
        assert!(peers(&example(), Style::Colour).contains("\x1b[32mUP"));
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(period(0), "0 seconds");
        assert_eq!(period(61), "1 minute, 1 second");
        assert_eq!(period(90_061), "1 day, 1 hour");
    }

    fn example() -> Peers {
        Peers {
            schema: SCHEMA,
            interface: Interface {
                name: "gw0".to_owned(),
                public_key: Some("pQ1=".to_owned()),
                listen_port: 51820,
                mtu: 1420,
            },
            peers: vec![Peer {
                name: "wroclaw".to_owned(),
                public_key: "8kF=".to_owned(),
                endpoint: Some("198.51.100.7:40213".parse().unwrap()),
                allowed_ips: vec!["10.77.88.2/32".parse().unwrap(), "192.168.88.0/24".parse().unwrap()],
                state: "up".to_owned(),
                latest_handshake_age_seconds: Some(41.2),
                persistent_keepalive_seconds: None,
                rx_bytes: 3_672_197_038,
                tx_bytes: 19_434_727_014,
                rx_bytes_per_second: 1.2e6,
                tx_bytes_per_second: 9.8e6,
                rtt_seconds: Some(0.0234),
                loss_ratio: Some(0.0),
                path_mtu_bytes: None,
            }],
        }
    }
}
