//! What reports of daemons come to.

use daemon::diagnosis::{Cause, Far, FarAnswer, Found, Problem};
use daemon::health::{HopShown, State};
use daemon::peers::Peer;
use daemon::status::Side;
use serde_json::{Value, json};

use super::*;

#[test]
fn a_socket_that_does_not_answer_is_of_the_daemon_that_its_name_or_the_machine_says() {
    let roles = |socket: &str, configured: &str| {
        let is_its = |role: &&str| is_its_socket(role, Path::new(socket), |role| role == configured);
        ["edge", "origin"].into_iter().filter(is_its).collect::<Vec<_>>()
    };
    assert_eq!(roles("/run/causeway/gateway.sok", "origin"), ["edge"]);
    assert_eq!(roles("/run/causeway-forwarder/none.sock", "edge"), ["origin"]);
    assert_eq!(roles("/run/causeway/none.sock", "edge"), ["edge"]);
    assert_eq!(roles("/run/causeway/none.sock", "origin"), ["origin"]);
    assert_eq!(roles("/run/causeway/none.sock", ""), ["origin"]);
}

#[test]
fn a_pair_that_is_well_has_every_hop_in_order_and_nothing_failing() {
    let (findings, _) = examined(reports("edge", peer(&json!({}))), None);
    let states: Vec<_> = findings.iter().map(|finding| (finding.hop.label(), finding.state)).collect();
    let (ok, unknown) = (State::Ok, State::Unknown);
    let expected = [
        ("daemon", ok),
        ("public_name", unknown),
        ("forward", unknown),
        ("wan_port", ok),
        ("ruleset", ok),
        ("tunnel", ok),
        ("link", ok),
        ("upstream", ok),
        ("way_back", ok),
    ];
    assert_eq!(states, expected);
    assert_eq!(Verdict::of(&findings), Verdict::Well);
}

#[test]
fn a_problem_with_a_fix_comes_before_what_fails_because_of_it() {
    let mut reports = reports("edge", peer(&json!({"state": "down", "link": null})));
    let text = "5 handshakes came with another key; write it as the public_key";
    let diagnosis = reports.diagnosis.as_mut().unwrap();
    diagnosis.problems =
        vec![Problem::new(Cause::PeerDown, "peer wroclaw is down"), Problem::new(Cause::Handshakes, text)];
    let (findings, _) = examined(reports, None);
    let Verdict::Failing(first) = Verdict::of(&findings) else { panic!("{findings:?}") };
    assert_eq!((first.hop, first.reason.as_deref()), (HopName::Tunnel, Some("handshakes")));
    assert_eq!(first.fix.as_deref(), Some("write it as the public_key"));
}

#[test]
fn a_plain_peer_that_is_silent_may_be_idle_unless_something_is_published_behind_it() {
    let silent = || peer(&json!({"state": "down", "rtt_seconds": null, "link": null}));
    let mut reports = reports("edge", silent());
    let first = |reports: Reports| first_failing(&examined(reports, None).0);
    assert_eq!(first(Reports { side: reports.side.clone(), diagnosis: None, config: None }), None);
    reports.side.services[0].hops.push(hop("tunnel", "failing", "never_heard"));
    assert_eq!(first(reports), Some(("tunnel", "silent".to_owned())));
}

#[test]
fn large_packets_that_are_lost_are_named_with_the_line_of_this_ends_file_and_after_losses() {
    let fields = json!({"lost_size_bytes": 1420});
    for (role, file) in [("edge", "gateway.toml"), ("origin", "forwarder.toml")] {
        let (findings, _) = examined(reports(role, peer(&fields)), None);
        let Verdict::Failing(first) = Verdict::of(&findings) else { panic!("{findings:?}") };
        assert_eq!((first.hop, first.reason.as_deref()), (HopName::Tunnel, Some("path_mtu")));
        let fix = first.fix.as_deref().unwrap_or_default();
        assert!(fix.starts_with(&format!("write mtu = \"auto\" in [interface] of {file}, then")), "{fix}");
    }
    let lossy = json!({"lost_size_bytes": 1420, "loss_ratio": 0.3, "probes_lost": 9});
    let first = first_failing(&examined(reports("edge", peer(&lossy)), None).0);
    assert_eq!(first, Some(("tunnel", "loss".to_owned())));
}

#[test]
fn losses_count_once_there_are_some_and_handshakes_that_lead_to_nothing_are_no_silence() {
    let first = |fields: Value| first_failing(&examined(reports("edge", peer(&fields)), None).0);
    assert_eq!(first(json!({"loss_ratio": 0.3, "probes_lost": 1})), None);
    let lossy = first(json!({"loss_ratio": 0.3, "probes_lost": 9}));
    assert_eq!(lossy, Some(("tunnel", "loss".to_owned())));
    assert_eq!(first(json!({"state": "stale"})), Some(("tunnel", "silent".to_owned())));
    let unconfirmed = first(json!({"state": "down", "rx_bytes_per_second": 30.0}));
    assert_eq!(unconfirmed, Some(("tunnel", "not_completed".to_owned())));
}

#[test]
fn at_the_origin_the_edges_half_shows_what_the_origin_cannot_see() {
    let mut reports = reports("origin", peer(&json!({"name": "kyiv"})));
    let state = |reports: &Reports, hop| {
        let found = ordered(of_reports(reports, None).0);
        found.iter().find(|finding| finding.hop == hop).map(|finding| finding.state)
    };
    assert_eq!(state(&reports, HopName::Route), Some(State::Unknown));
    let far = Far::without("kyiv".to_owned(), FarAnswer::Answered);
    let stolen = Found { cause: Cause::OtherRoute, service: None, evidence: None };
    let diagnosis = reports.diagnosis.as_mut().unwrap();
    diagnosis.far = vec![far.clone()];
    assert_eq!(state(&reports, HopName::Route), Some(State::Ok));
    let diagnosis = reports.diagnosis.as_mut().unwrap();
    diagnosis.far = vec![Far { found: vec![stolen], ..far }];
    assert_eq!(state(&reports, HopName::Route), Some(State::Failing));
}

#[test]
fn one_service_or_name_is_looked_at_alone() {
    let mut reports = reports("edge", peer(&json!({})));
    let mut mail = reports.side.services[0].clone();
    mail.name = "mail".to_owned();
    mail.hops = vec![hop("upstream", "failing", "refused")];
    reports.side.services.push(mail);
    let of = |only: Option<&str>| of_reports(&reports, only);
    assert_eq!(first_failing(&ordered(of(Some("https")).0)), None);
    assert_eq!(first_failing(&ordered(of(Some("mail")).0)), Some(("upstream", "refused".to_owned())));
    assert!(of(Some("https")).1 && !of(Some("moon")).1);
}

#[test]
fn a_daemon_of_an_older_release_has_its_problems_shown_all_the_same() {
    let mut reports = reports("edge", peer(&json!({})));
    reports.diagnosis = None;
    reports.side.problems = vec!["x is wrong; do y".to_owned()];
    let (findings, _) = examined(reports, None);
    let Verdict::Failing(first) = Verdict::of(&findings) else { panic!("{findings:?}") };
    assert_eq!((first.hop, first.fix.as_deref()), (HopName::Daemon, Some("do y")));
}

#[test]
fn a_daemon_that_does_not_answer_is_failing_and_one_that_may_not_be_asked_is_unknown() {
    let finding = |exit| unanswered("edge", &ExitError::new(exit, "no socket"));
    assert_eq!(finding(Exit::Unreachable).state, State::Failing);
    assert!(finding(Exit::Unreachable).fix.unwrap().starts_with("run: systemctl start gateway"));
    assert_eq!(finding(Exit::Permission).state, State::Unknown);
}

fn examined(reports: Reports, only: Option<&str>) -> (Vec<Finding>, bool) {
    let (findings, is_known) = of_reports(&reports, only);
    (ordered(findings), is_known)
}

fn first_failing(findings: &[Finding]) -> Option<(&'static str, String)> {
    let first = findings.iter().find(|finding| finding.state == State::Failing)?;
    Some((first.hop.label(), first.reason.clone().unwrap_or_default()))
}

fn reports(role: &'static str, peer: Peer) -> Reports {
    let hops = match role {
        "edge" => vec![hop("ruleset", "ok", ""), hop("upstream", "ok", "")],
        _ => vec![hop("upstream", "ok", "")],
    };
    let service = Service {
        name: "https".to_owned(),
        is_public: Some(true),
        from: String::new(),
        to: String::new(),
        peers: Vec::new(),
        seconds: None,
        bytes_in: 0,
        bytes_out: 0,
        state: "ok".to_owned(),
        failing: None,
        hops,
        names: Vec::new(),
        publish: Vec::new(),
    };
    let side = Side {
        role,
        version: "0.1.0".to_owned(),
        peers: vec![peer],
        services: vec![service],
        problems: Vec::new(),
        notes: Vec::new(),
    };
    Reports { side, diagnosis: Some(daemon::diagnosis::Diagnosis::default()), config: None }
}

fn hop(hop: &str, state: &str, reason: &str) -> HopShown {
    HopShown {
        hop: hop.to_owned(),
        state: state.to_owned(),
        seconds: 12,
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        evidence: None,
        fix: None,
    }
}

fn peer(fields: &Value) -> Peer {
    let mut peer = json!({"name": "wroclaw",
        "interface": {"name": "gw0", "public_key": null, "listen_port": 51820, "mtu": 1420}, "public_key": "",
        "endpoint": null, "allowed_ips": [], "state": "up", "latest_handshake_age_seconds": 41.2,
        "latest_handshake_timestamp_seconds": null, "persistent_keepalive_seconds": null, "rx_bytes": 0,
        "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "rx_bytes_per_second": 0.0, "tx_bytes_per_second": 0.0,
        "rtt_seconds": 0.0234, "loss_ratio": 0.0, "probes_lost": 0, "handshakes": 0, "endpoint_changes": 0,
        "recoveries": [0, 0, 0],
        "link": {"up": true, "seconds": 9, "reason": null, "name": "x", "version": "0.1.0", "schema": 1,
            "rx_bytes": 0, "tx_bytes": 0, "back_within_seconds": null, "services": []}});
    for (key, value) in fields.as_object().into_iter().flatten() {
        peer[key] = value.clone();
    }
    serde_json::from_value(peer).unwrap()
}
