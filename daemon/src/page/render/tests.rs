use std::collections::BTreeMap;

use serde_json::json;

use super::super::model::{Seen, document};
use super::super::past::Past;
use super::*;
use crate::history::{Page, Query, Record, What};
use crate::status::Side;

const NOW: u64 = 1_796_050_800_000;
const HOSTILE: &str =
    "\"><img src=x onerror=alert(1)><script>document.title='seized'</script>'&amp;\u{202e}\u{7}";

#[test]
fn what_is_down_comes_first_with_since_cause_evidence_what_changed_before_and_the_fix() {
    let html = page(&shown("wroclaw", "no \"answer\""));
    let first = html.find("<h1 id=\"what\">https is down for visitors</h1>").expect("a headline");
    assert!(first < html.find("<h2 id=\"names\">").expect("names"));
    for part in [
        "<title>Failing: https is down for visitors – Causeway edge</title>",
        "<dt>Since</dt><dd><time datetime=\"2026-11-30T14:58:00Z\">2026-11-30 14:58 UTC</time>, for 2 minutes</dd>",
        "<dt>Cause</dt><dd>upstream at wroclaw: refused</dd>",
        "<dt>Seen</dt><dd><q>no &quot;answer&quot;</q></dd>",
        "<dt>Before</dt><dd><time datetime=\"2026-11-30T14:55:00Z\">",
        "the configuration was read again (1 change): ~ https target</dd>",
        "<dt>Fix</dt><dd class=\"fix\">start it</dd>",
        "1 day with one: 2026-11-30 for 2 minutes",
        "29 days not recorded.",
    ] {
        assert!(html.contains(part), "no {part} in\n{html}");
    }
}

#[test]
fn every_text_from_outside_is_only_text() {
    let html = page(&shown(HOSTILE, HOSTILE));
    let (main, plain) = (inside(&html), inside(&page(&shown("w", "e"))).matches('<').count());
    assert_eq!(main.matches('<').count(), plain, "elements came in:\n{main}");
    for part in ["<img", "<script", "onerror=alert(1)>", "&amp;amp;\u{202e}", "\u{7}"] {
        assert!(!main.contains(part), "{part} in\n{main}");
    }
    assert!(main.contains("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;"), "{main}");
}

#[test]
fn a_text_with_a_place_of_the_page_in_it_is_only_text() {
    let html = page(&shown("{main}{version}", "{title}"));
    assert!(html.contains("upstream at {main}{version}"), "{html}");
    assert_eq!(html.matches("<main>").count(), 1);
}

#[test]
fn the_state_is_a_word_next_to_the_symbol_and_the_strip_has_its_text() {
    let html = page(&shown("wroclaw", "e"));
    assert!(html.contains("<use href=\"#failing\"/></svg>failing</span>"), "{html}");
    assert!(html.contains("role=\"img\" aria-label=\"0 days without an outage"), "{html}");
}

#[test]
fn nothing_is_loaded_and_no_style_or_script_is_outside_those_with_a_hash() {
    let html = page(&shown("wroclaw", "e"));
    assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
    for part in [" style=", "<link rel=\"stylesheet\"", " src=", "http://", "https://", "javascript:"] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains(&format!("<script>{}</script>", script())));
    assert!(html.contains(&format!("<style>{}</style>", style())));
}

#[test]
fn an_edge_without_anything_says_so_in_one_sentence() {
    let side = Side { peers: vec![], services: vec![], ..side("wroclaw", "e") };
    let seen = Seen { at: NOW, machine: "pi", rates: &BTreeMap::new() };
    let html = page(&document(&side, &Past::default(), seen));
    assert!(html.contains("<h1 id=\"what\">Nothing is published yet"), "{html}");
    assert!(html.contains("No history yet.") && !html.contains("<table"), "{html}");
}

#[test]
fn a_hundred_services_are_shown_completely() {
    let one = side("wroclaw", "e");
    let services = (0..100).map(|number| {
        let mut service = one.services.first().cloned().expect("a service");
        service.name = format!("service-{number}");
        service
    });
    let side = Side { services: services.collect(), ..one };
    let seen = Seen { at: NOW, machine: "pi", rates: &BTreeMap::new() };
    let html = page(&document(&side, &Past::default(), seen));
    assert_eq!(html.matches("<td role=\"cell\">service-").count(), 100);
    assert!(html.len() < 256 << 10, "{} bytes", html.len());
}

/// From `<main>` to its end.
fn inside(html: &str) -> String {
    let main = html.split("<main>").nth(1).and_then(|rest| rest.split("</main>").next());
    main.expect("a main").to_owned()
}

fn shown(peer: &str, evidence: &str) -> Document {
    let mut past = Past::default();
    let applied =
        What::Applied { how: "reload".to_owned(), changes: 1, summary: vec!["~ https target".to_owned()] };
    let failing = What::Service {
        service: "https".to_owned(),
        name: None,
        state: "failing".to_owned(),
        hop: Some("upstream".to_owned()),
        reason: Some("refused".to_owned()),
        evidence: Some(evidence.to_owned()),
        peer: Some(peer.to_owned()),
        fix: None,
    };
    let records = vec![
        Record { number: 1, at: NOW - 300_000, what: applied },
        Record { number: 2, at: NOW - 120_000, what: failing },
    ];
    past.handle_page(&Page { records, newest: 2, ring: "a".to_owned() }, &Query::default());
    let rates = BTreeMap::from([("https".to_owned(), (1_000.0, 2_000_000.0))]);
    document(&side(peer, evidence), &past, Seen { at: NOW, machine: "pi", rates: &rates })
}

fn side(peer: &str, evidence: &str) -> Side {
    let hop = json!({"hop": "upstream", "state": "failing", "seconds": 120, "reason": "refused",
        "evidence": evidence, "fix": "start it"});
    let name = json!({"name": "emby.example.com", "state": "ok", "seconds": 7200, "reason": null,
        "certificate_days": 9, "certificate": {"hours": 220, "lifetime": 2160}, "fix": null});
    let tunnel = json!({"name": peer, "interface": {"name": "gw0", "public_key": null, "listen_port": 1,
        "mtu": 1420}, "public_key": "", "endpoint": "198.51.100.7:1", "allowed_ips": [], "state": "up",
        "latest_handshake_age_seconds": 41.2, "latest_handshake_timestamp_seconds": 1.0,
        "persistent_keepalive_seconds": null, "rx_bytes": 1, "tx_bytes": 1, "rx_packets": 1, "tx_packets": 1,
        "rx_bytes_per_second": 0.0, "tx_bytes_per_second": 0.0, "rtt_seconds": 0.023, "loss_ratio": 0.0,
        "probes_lost": 0, "handshakes": 1, "endpoint_changes": 0, "recoveries": [0, 0, 0]});
    Side {
        role: "edge",
        version: "0.1.0".to_owned(),
        peers: vec![serde_json::from_value(tunnel).expect("a peer")],
        services: vec![crate::status::Service {
            name: "https".to_owned(),
            is_public: Some(true),
            from: "443".to_owned(),
            to: "192.168.88.2:443".to_owned(),
            peers: vec![peer.to_owned()],
            state: "failing".to_owned(),
            seconds: Some(120),
            hops: Vec::new(),
            failing: Some(serde_json::from_value(hop).expect("a hop")),
            names: vec![serde_json::from_value(name).expect("a name")],
            publish: Vec::new(),
            bytes_in: 1,
            bytes_out: 2,
        }],
        problems: Vec::new(),
        notes: Vec::new(),
    }
}
