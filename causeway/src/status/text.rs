//! `causeway status` for people.

use std::fmt::Write as _;

use daemon::health::{NameShown, VisitorShown};
use daemon::link::shown::Link;
use daemon::peers::Peer;
use daemon::status::{Published, Service, Side, Summary};
use daemon::text::{Style, table};

/// The first line, then each daemon with its peers and services.
pub(super) fn text(summary: &Summary, sides: &[Side], style: Style) -> String {
    let code = if summary.is_failing() { "31" } else { "32" };
    let mut text = format!("{}\n", style.paint(code, summary.sentence()));
    for side in sides {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{} version {}", style.bold(&format!("{}:", side.role)), side.version);
        for problem in &side.problems {
            let _ = writeln!(text, "  {} {problem}", style.paint("33", "problem:"));
        }
        for note in &side.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        let header = ["PEER", "TUNNEL", "ROUND TRIP", "LINK"].map(str::to_owned).to_vec();
        lines(&mut text, style, header, side.peers.iter().map(peer).collect());
        let header = ["SERVICE", "STATE", "FROM", "TO", "PUBLISHED"].map(str::to_owned).to_vec();
        lines(&mut text, style, header, side.services.iter().map(service).collect());
        for service in &side.services {
            if let Some(hop) = &service.failing {
                let _ =
                    writeln!(text, "  {} {}", style.paint("33", &format!("{}:", service.name)), hop.line());
            }
            for name in &service.names {
                let _ = writeln!(text, "  {}: {}", service.name, named(name, style));
                if let Some(line) = name.path_line() {
                    let _ = writeln!(text, "  {}: {}", service.name, style.paint("33", &line));
                }
            }
        }
    }
    text
}

fn lines(text: &mut String, style: Style, header: Vec<String>, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let mut shown = table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()).into_iter();
    text.extend(shown.next().map(|header| format!("  {}\n", style.bold(&header))));
    text.extend(shown.map(|line| format!("  {line}\n")));
}

fn named(name: &NameShown, style: Style) -> String {
    if name.is_failing() {
        return style.paint("33", &name.line());
    }
    let further = [name.certificate_text(), name.visitor.as_ref().map(VisitorShown::text)];
    let further: String = further.into_iter().flatten().map(|text| format!(", {text}")).collect();
    format!("{} is {}{further}", name.name, name.state)
}

fn peer(peer: &Peer) -> Vec<String> {
    let rtt = peer.rtt_seconds.map_or_else(|| "-".to_owned(), |rtt| format!("{:.1} ms", rtt * 1e3));
    vec![peer.name.clone(), peer.state.clone(), rtt, link(peer.link.as_ref())]
}

fn link(link: Option<&Link>) -> String {
    let Some(link) = link else { return "none".to_owned() };
    let reason = link.reason.as_deref().filter(|_| !link.up);
    let state = if link.up { "up" } else { "down" };
    reason.map_or_else(|| state.to_owned(), |reason| format!("{state} ({reason})"))
}

fn service(service: &Service) -> Vec<String> {
    let port = |port: &Published| {
        let reason = port.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {} by {}{reason}", port.ports, port.state, port.peer)
    };
    let published: Vec<String> = service.publish.iter().map(port).collect();
    let published = if published.is_empty() { "-".to_owned() } else { published.join(", ") };
    let Service { name, state, from, to, .. } = service;
    vec![name.clone(), state.clone(), from.clone(), to.clone(), published]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_is_shown_with_its_service() {
        let name = |state: &str| {
            let name = json!({"name": "emby.example.com", "state": state, "seconds": 12, "reason": "no_site",
                "certificate_days": null, "certificate": null, "fix": "add it"});
            serde_json::from_value(name).unwrap()
        };
        let service = |service: &str, state: &str| Service {
            name: service.to_owned(),
            is_public: Some(true),
            from: String::new(),
            to: String::new(),
            peers: Vec::new(),
            state: state.to_owned(),
            seconds: None,
            failing: None,
            hops: vec![],
            names: vec![name(state)],
            publish: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
        };
        let services = vec![service("https", "ok"), service("http", "failing")];
        let side = Side {
            role: "origin",
            version: String::new(),
            peers: vec![],
            services,
            problems: vec![],
            notes: vec!["for some only".to_owned()],
        };
        let sides = [side];
        let shown = text(&daemon::status::summary(&sides), &sides, Style::Plain);
        assert!(shown.contains("\n  https: emby.example.com is ok\n"), "{shown}");
        let failing = "\n  http: emby.example.com is failing for 12 seconds (no_site); fix: add it\n";
        assert!(shown.contains(failing) && shown.contains("\n  note: for some only\n"), "{shown}");
    }
}
