use daemon::health::HopShown;
use forwarder::control::report::Published;
use serde_json::json;

use super::*;

#[test]
fn all_is_well_with_peers_and_round_trips() {
    let said = sentence(vec![service("https", "ok"), service("game", "ok")], vec![peer("up")], &[]);
    assert_eq!(said, ("ok", "All 2 services work; kyiv is up, 23 ms.".to_owned()));
    let said = sentence(vec![service("https", "ok")], vec![peer("up")], &[]);
    assert_eq!(said.1, "https works; kyiv is up, 23 ms.");
    let said = sentence(vec![service("https", "ok"), service("game", "unknown")], vec![peer("up")], &[]);
    assert_eq!(said, ("ok", "1 of 2 services work, of 1 nothing is known; kyiv is up, 23 ms.".to_owned()));
    assert!(sentence(vec![], vec![peer("up")], &[]).1.starts_with("Nothing is published yet"));
}

#[test]
fn what_visitors_miss_comes_first_with_since_reason_and_fix() {
    let private = Service { is_public: Some(false), ..failing("backup", "route") };
    let services =
        vec![service("ok", "ok"), private, failing("https", "upstream"), failing("bulk", "upstream")];
    let said = sentence(services, vec![peer("down")], &["a problem"]);
    assert_eq!(
        said,
        (
            "failing",
            "https and bulk are down for visitors: upstream is failing for 12 seconds (refused); fix: start it (1 more below)"
                .to_owned()
        )
    );
}

#[test]
fn a_name_without_a_site_is_failing_although_its_service_works() {
    let name = |name: &str, state: &str| {
        serde_json::from_value(json!({"name": name, "state": state, "seconds": 12, "reason": "no_site",
            "certificate_days": null, "certificate": null, "fix": "add it"}))
        .unwrap()
    };
    let names = vec![name("emby.example.com", "ok"), name("photos.example.com", "failing")];
    let said = sentence(vec![Service { names, ..service("https", "ok") }], vec![peer("up")], &[]);
    let expected =
        "Visitors do not get photos.example.com: it is failing for 12 seconds (no_site); fix: add it";
    assert_eq!(said, ("failing", expected.to_owned()));
}

#[test]
fn a_tunnel_that_is_down_is_failing_with_what_keeps_it_down() {
    let said =
        sentence(vec![service("game", "unknown")], vec![peer("down")], &["kyiv: no reply to handshakes"]);
    assert_eq!(said.0, "failing");
    assert_eq!(
        said.1,
        "The tunnel to kyiv is down, the last handshake was 41 seconds ago: kyiv: no reply to handshakes"
    );
}

#[test]
fn a_refused_port_and_a_problem_are_failing_as_well() {
    let refused = Published {
        ports: "25".to_owned(),
        peer: "kyiv".to_owned(),
        state: "refused".to_owned(),
        reason: Some("not_allowed".to_owned()),
        fix: Some("add \"25\" to may_publish".to_owned()),
    };
    let mail = Service { publish: vec![refused], ..service("mail", "ok") };
    let said = sentence(vec![mail], vec![peer("up")], &[]);
    assert_eq!(
        said,
        ("failing", "mail is not published: kyiv refuses 25; fix: add \"25\" to may_publish".to_owned())
    );
    let said = sentence(vec![service("https", "ok")], vec![peer("up")], &["one", "two"]);
    assert_eq!(said, ("failing", "No service is failing, but: one (and 1 more)".to_owned()));
}

fn sentence(services: Vec<Service>, peers: Vec<Peer>, problems: &[&str]) -> (&'static str, String) {
    let problems = problems.iter().map(|line| (*line).to_owned()).collect();
    let side = Side { role: "origin", version: "0.1.0".to_owned(), peers, services, problems };
    let summary = summary(&[side]);
    (summary.state, summary.summary)
}

fn service(name: &str, state: &str) -> Service {
    Service {
        name: name.to_owned(),
        is_public: Some(true),
        from: String::new(),
        to: String::new(),
        state: state.to_owned(),
        failing: None,
        names: Vec::new(),
        publish: Vec::new(),
    }
}

fn failing(name: &str, hop: &str) -> Service {
    let hop = HopShown {
        hop: hop.to_owned(),
        state: "failing".to_owned(),
        seconds: 12,
        reason: Some("refused".to_owned()),
        evidence: None,
        fix: Some("start it".to_owned()),
    };
    Service { failing: Some(hop), ..service(name, "failing") }
}

fn peer(state: &str) -> Peer {
    serde_json::from_value(json!({"name": "kyiv",
        "interface": {"name": "kyiv", "public_key": null, "listen_port": 1, "mtu": 1420}, "public_key": "",
        "endpoint": null, "allowed_ips": [], "state": state, "latest_handshake_age_seconds": 41.2,
        "latest_handshake_timestamp_seconds": null, "persistent_keepalive_seconds": null, "rx_bytes": 0,
        "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "rx_bytes_per_second": 0.0, "tx_bytes_per_second": 0.0,
        "rtt_seconds": 0.0234, "loss_ratio": null, "probes_lost": 0, "handshakes": 0, "endpoint_changes": 0,
        "recoveries": [0, 0, 0], "link": null}))
    .unwrap()
}
