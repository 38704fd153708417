use super::*;
use crate::health::HopShown;

#[test]
fn a_change_is_recorded_once_and_tunnels_come_before_what_is_behind_them() {
    let mut observer = Observer::default();
    let (up, down) = (peer("up", true), peer("down", false));
    let (works, fails) = (path("ok", None), path("failing", Some(("tunnel", "silent"))));
    let started = observer.handle_look(at(0), std::slice::from_ref(&up), &[seen(&works)]);
    assert_eq!(kinds(&started), ["peer never up", "link up", "service web ok"]);
    assert!(observer.handle_look(at(5), std::slice::from_ref(&up), &[seen(&works)]).is_empty());
    let lost = observer.handle_look(at(10), std::slice::from_ref(&down), &[seen(&fails)]);
    assert_eq!(kinds(&lost), ["peer up down", "link down", "service web failing"]);
    let What::Service { hop, reason, evidence, peer, fix, .. } = &lost[2] else { panic!("another kind") };
    assert_eq!((hop.as_deref(), reason.as_deref()), (Some("tunnel"), Some("silent")));
    assert_eq!((evidence.as_deref(), fix.as_deref()), (Some("no reply"), Some("start it")));
    assert_eq!(peer.as_deref(), Some("wroclaw"));
    assert!(observer.handle_look(at(15), &[down], &[seen(&fails)]).is_empty());
    let another = path("failing", Some(("upstream", "refused")));
    let changed = observer.handle_look(at(20), &[up], &[seen(&another)]);
    assert_eq!(kinds(&changed), ["peer down up", "link up", "service web failing"], "another cause");
}

#[test]
fn what_was_never_known_is_no_change() {
    let mut observer = Observer::default();
    let never = Peer { link: None, ..peer("never", false) };
    let unknown = path("unknown", None);
    assert!(observer.handle_look(at(0), &[never], &[seen(&unknown)]).is_empty());
}

#[test]
fn names_and_visits_are_records_of_their_own() {
    let mut observer = Observer::default();
    let works = path("ok", None);
    let names: Vec<NameShown> = [name("failing", "no_site", "failing", "not_forwarded")].into();
    let with_name = ServiceSeen { names: &names, ..seen(&works) };
    let started = observer.handle_look(at(0), &[], &[with_name]);
    assert_eq!(
        kinds(&started),
        ["service web ok", "name a.example.com failing", "visitor a.example.com failing"]
    );
}

#[test]
fn a_subject_that_flaps_is_recorded_every_five_minutes_as_it_is_then() {
    let mut observer = Observer::default();
    let (works, fails) = (path("ok", None), path("failing", Some(("upstream", "refused"))));
    let mut recorded = Vec::new();
    for look in 0..720 {
        let path = if look % 2 == 0 { &works } else { &fails };
        recorded.extend(observer.handle_look(at(look * 5), &[], &[seen(path)]));
    }
    assert!(recorded.len() < 2 * MOST_CHANGES, "{}", recorded.len());
    let settled: Vec<What> =
        (720..800).flat_map(|look| observer.handle_look(at(look * 5), &[], &[seen(&works)])).collect();
    let states = recorded.iter().chain(&settled);
    assert_eq!(kinds(states.last()), ["service web ok"], "the state that stays is recorded");
}

#[test]
fn a_peer_that_was_heard_and_has_another_endpoint_roamed() {
    let mut observer = Observer::default();
    let moved = |state, endpoint_changes| Peer { endpoint_changes, link: None, ..peer(state, false) };
    observer.handle_look(at(0), &[moved("never", 0)], &[]);
    assert_eq!(kinds(&observer.handle_look(at(5), &[moved("up", 1)], &[])), ["peer never up"]);
    assert_eq!(kinds(&observer.handle_look(at(10), &[moved("up", 2)], &[])), ["roamed"]);
    assert!(observer.handle_look(at(15), &[moved("up", 2)], &[]).is_empty());
}

#[test]
fn each_minute_has_what_moved_in_it_and_the_first_look_is_none() {
    let mut observer = Observer::default();
    let moved = |rx_bytes, tx_bytes| Peer { rx_bytes, tx_bytes, ..peer("up", true) };
    let mut minutes = |second, rx, tx| {
        let looked = observer.handle_look(at(second), &[moved(rx, tx)], &[]);
        looked.into_iter().filter(What::is_minute).collect::<Vec<_>>()
    };
    assert!(minutes(0, 1_000, 10).is_empty());
    assert!(minutes(55, 1_500, 20).is_empty());
    let minute = |received, sent| What::Minute {
        peer: "wroclaw".to_owned(),
        round_trip_ms: Some(25.0),
        loss: 0.5,
        received,
        sent,
    };
    assert_eq!(minutes(60, 2_000, 30), [minute(1_000, 20)]);
    assert_eq!(minutes(120, 700, 5), [minute(700, 5)], "it was removed and added again");
}

fn kinds<'w>(changes: impl IntoIterator<Item = &'w What>) -> Vec<String> {
    let kind = |what: &What| match what {
        What::Peer { from, to, .. } => format!("peer {from} {to}"),
        What::Link { up, .. } => format!("link {}", if *up { "up" } else { "down" }),
        What::Service { name: Some(name), state, .. } => format!("name {name} {state}"),
        What::Service { service, state, .. } => format!("service {service} {state}"),
        What::Visitor { name, state, .. } => format!("visitor {name} {state}"),
        What::Roamed { .. } => "roamed".to_owned(),
        _ => "another".to_owned(),
    };
    changes.into_iter().filter(|what| !what.is_minute()).map(kind).collect()
}

fn seen(path: &PathShown) -> ServiceSeen<'_> {
    ServiceSeen { name: "web", path, names: &[], peer: Some("wroclaw") }
}

fn path(state: &str, failing: Option<(&str, &str)>) -> PathShown {
    let failing = failing.map(|(hop, reason)| HopShown {
        hop: hop.to_owned(),
        state: "failing".to_owned(),
        seconds: 3,
        reason: Some(reason.to_owned()),
        evidence: Some("no reply".to_owned()),
        fix: Some("start it".to_owned()),
    });
    PathShown { state: state.to_owned(), failing, hops: Vec::new() }
}

fn name(state: &str, reason: &str, visitor: &str, cause: &str) -> NameShown {
    let text = format!(
        r#"{{"name":"a.example.com","state":"{state}","seconds":1,"reason":"{reason}","certificate_days":null,
        "certificate":null,"fix":null,"visitor":{{"state":"{visitor}","seconds":1,"hop":"forward",
        "reason":"{cause}","trusted":null,"fix":null}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn peer(state: &str, has_link: bool) -> Peer {
    let text = format!(
        r#"{{"name":"wroclaw","interface":{{"name":"wg0","public_key":null,"listen_port":1,"mtu":1420}},
        "public_key":"k","endpoint":"203.0.113.77:1","allowed_ips":[],"state":"{state}",
        "latest_handshake_age_seconds":null,"latest_handshake_timestamp_seconds":null,
        "persistent_keepalive_seconds":null,"rx_bytes":0,"tx_bytes":0,"rx_packets":0,"tx_packets":0,
        "rx_bytes_per_second":0,"tx_bytes_per_second":0,"rtt_seconds":0.025,"loss_ratio":0.5,
        "probes_lost":0,"handshakes":1,"endpoint_changes":0,"recoveries":[0,0,0],
        "link":{{"up":{has_link},"seconds":1,"reason":null,"name":null,"version":null,"schema":null,
        "rx_bytes":0,"tx_bytes":0,"back_within_seconds":null,"services":[]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1_000 + seconds))
}
