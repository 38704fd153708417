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
fn a_name_that_is_not_reached_from_the_internet_is_failing_although_its_upstream_works() {
    let name = json!({"name": "emby.example.com", "state": "ok", "seconds": 12, "reason": null,
        "certificate_days": null, "certificate": null, "fix": null, "visitor": {"state": "failing",
        "seconds": 60, "hop": "forward", "reason": "not_forwarded", "trusted": null, "fix": "forward it"}});
    let names = vec![serde_json::from_value(name).unwrap()];
    let said = sentence(vec![Service { names, ..service("https", "ok") }], vec![peer("up")], &[]);
    let expected = "emby.example.com from the internet: forward is failing for 1 minute (not_forwarded); fix: forward it";
    assert_eq!(said, ("failing", expected.to_owned()));
}

#[test]
fn the_parts_of_the_sentence_say_where_the_cause_is() {
    let at = |hop: &str, peers: &[&str]| {
        let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
        let service = Service { peers, ..failing("https", hop) };
        let shown = summary(&[side("edge", vec![service], vec![peer("up")], &[])]);
        let Headline { what, seconds, place, fix, .. } = shown.headline().clone();
        assert_eq!((what.as_str(), seconds), ("https is down for visitors", Some(12)));
        assert_eq!(fix.as_deref(), Some("start it"));
        place.unwrap()
    };
    assert_eq!(at("upstream", &["wroclaw"]), "upstream at wroclaw");
    assert_eq!(at("tunnel", &["wroclaw", "oracle"]), "tunnel to wroclaw and oracle");
    assert_eq!(at("route", &["wroclaw"]), "route at this edge");
    assert_eq!(at("service_entry", &[]), "service entry");
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
fn a_plain_peer_at_the_edge_may_be_idle_and_another_problem_is_not_its_cause() {
    let plain = |state: &str| Peer { rtt_seconds: None, name: "phone".to_owned(), ..peer(state) };
    for state in ["stale", "down", "never"] {
        let edge = side("edge", vec![service("https", "ok")], vec![peer("up"), plain(state)], &[]);
        let expected = ("ok", "https works; kyiv is up, 23 ms, phone is idle or off.".to_owned());
        assert_eq!(first(&[edge]), expected);
        // The origin has no peers but edges.
        let origin = side("origin", vec![service("https", "ok")], vec![plain(state)], &[]);
        assert!(first(&[origin]).1.starts_with(&format!("The tunnel to phone is {state}")));
    }
    let new = Peer { latest_handshake_age_seconds: None, ..plain("never") };
    let edge = side("edge", vec![service("https", "ok")], vec![new], &[]);
    assert_eq!(first(&[edge]).1, "https works; phone has not connected yet.");
    let other = "@cloudflare: kyiv-2 has a list that is 40 days old";
    let said = sentence(vec![], vec![peer("down")], &[other, "run it at kyiv."]);
    assert!(said.1.ends_with("41 seconds ago: run it at kyiv."), "{said:?}");
    let said = sentence(vec![], vec![peer("down")], &[other]);
    assert!(said.1.ends_with("41 seconds ago"), "{said:?}");
}

#[test]
fn what_the_origin_does_not_know_to_be_public_is_not_down_for_visitors() {
    let private = Service { is_public: None, ..failing("metrics-store", "upstream") };
    let said = sentence(vec![private.clone()], vec![peer("up")], &[]);
    assert!(said.1.starts_with("metrics-store is down: upstream is failing"), "{said:?}");
    let said = sentence(vec![private, failing("https", "upstream")], vec![peer("up")], &[]);
    assert!(
        said.1.starts_with("https is down for visitors: ") && said.1.ends_with("(1 more below)"),
        "{said:?}"
    );
}

#[test]
fn a_port_that_is_refused_is_named_unless_another_edge_opens_it() {
    let web = |publish| Service { publish, ..service("https", "ok") };
    let refused = |ports: &str, peer: &str| port(ports, peer, "refused");
    let said = |publish| sentence(vec![web(publish)], vec![peer("up")], &[]).1;
    assert_eq!(
        said(vec![port("443", "kyiv", "granted"), refused("443/udp", "kyiv")]),
        "443/udp of https is not open at kyiv; fix: add \"443/udp\" to may_publish"
    );
    assert_eq!(
        said(vec![refused("443", "oracle"), port("443", "kyiv", "granted")]),
        "https works; kyiv is up, 23 ms."
    );
    // The other edge has not replied yet.
    assert_eq!(
        said(vec![refused("443", "oracle"), port("443", "kyiv", "waiting")]),
        "https works; kyiv is up, 23 ms."
    );
    assert!(
        said(vec![refused("443", "oracle"), refused("443", "kyiv")]).starts_with("https is not published: ")
    );
}

#[test]
fn a_refused_port_and_a_problem_are_failing_as_well() {
    let mail = Service { publish: vec![port("25", "kyiv", "refused")], ..service("mail", "ok") };
    let said = sentence(vec![mail], vec![peer("up")], &[]);
    assert_eq!(
        said,
        ("failing", "mail is not published: kyiv refuses 25; fix: add \"25\" to may_publish".to_owned())
    );
    let said = sentence(vec![service("https", "ok")], vec![peer("up")], &["one", "two"]);
    assert_eq!(said, ("failing", "No service is failing, but: one (and 1 more)".to_owned()));
}

fn port(ports: &str, peer: &str, state: &str) -> Published {
    let is_refused = state == "refused";
    Published {
        ports: ports.to_owned(),
        peer: peer.to_owned(),
        state: state.to_owned(),
        reason: is_refused.then(|| "not_allowed".to_owned()),
        fix: is_refused.then(|| format!("add \"{ports}\" to may_publish")),
    }
}

fn sentence(services: Vec<Service>, peers: Vec<Peer>, problems: &[&str]) -> (&'static str, String) {
    first(&[side("origin", services, peers, problems)])
}

fn first(sides: &[Side]) -> (&'static str, String) {
    let summary = summary(sides);
    (summary.state, summary.summary)
}

fn side(role: &'static str, services: Vec<Service>, peers: Vec<Peer>, problems: &[&str]) -> Side {
    let problems = problems.iter().map(|line| (*line).to_owned()).collect();
    Side { role, version: "0.1.0".to_owned(), peers, services, problems, notes: vec![] }
}

fn service(name: &str, state: &str) -> Service {
    Service {
        name: name.to_owned(),
        is_public: Some(true),
        from: String::new(),
        to: String::new(),
        peers: Vec::new(),
        state: state.to_owned(),
        seconds: None,
        failing: None,
        names: Vec::new(),
        publish: Vec::new(),
        bytes_in: 0,
        bytes_out: 0,
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
