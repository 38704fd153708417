use std::path::Path;

use daemon::health::NameShown;
use policy::Source;
use policy::forwarder::parse;
use serde_json::{Value, json};

use super::*;

#[test]
fn a_granted_port_with_an_upstream_that_answers_is_proven() {
    let progress = seen(json!([port("kyiv", "granted")]), true, json!("ok"));
    assert_eq!(progress.proven, ["kyiv grants 443", "127.0.0.1:8443 accepts connections"]);
    assert!(progress.missing.is_empty() && progress.refused.is_empty() && !progress.is_undecided);
}

#[test]
fn a_refusal_has_the_reason_and_what_to_do_at_the_edge() {
    let progress = seen(json!([port("kyiv", "refused")]), true, json!("ok"));
    assert_eq!(progress.refused, ["kyiv refuses 443 (not allowed): add it to may_publish"]);
}

#[test]
fn one_refused_port_refuses_the_service_unless_it_is_not_needed() {
    let udp =
        json!({"ports": "443/udp", "peer": "kyiv", "state": "refused", "reason": "not_allowed", "fix": null});
    let report = report(json!([port("kyiv", "granted"), udp]), true, json!("ok"));
    let policy = policy("");
    let judged = |is_needed: &dyn Fn(&Published) -> bool| of_service(&report, &policy.services[0], is_needed);
    assert_eq!(judged(&|_| true).refused, ["kyiv refuses 443/udp (not allowed)"]);
    let name = judged(&|port| port.ports == "443");
    assert!(name.refused.is_empty() && name.missing == ["kyiv refuses 443/udp (not allowed)"], "{name:?}");
}

#[test]
fn without_a_link_the_port_is_missing_and_nothing_is_waited_for() {
    let progress = seen(json!([port("kyiv", "waiting")]), false, json!("unknown"));
    assert!(progress.missing[0].contains("no link to kyiv") && !progress.is_undecided, "{progress:?}");
    let linked = seen(json!([port("kyiv", "waiting")]), true, json!("unknown"));
    assert!(linked.is_undecided && linked.missing[0].contains("has not replied"), "{linked:?}");
}

#[test]
fn a_request_that_was_not_sent_yet_is_undecided() {
    let progress = seen(json!([]), true, json!("ok"));
    assert!(progress.is_undecided);
    assert_eq!(progress.missing, ["the forwarder has not requested every port yet"]);
}

#[test]
fn what_one_edge_refuses_and_another_grants_is_published_and_something_is_missing() {
    let text = policy(
        "[[peer]]\nname = \"oracle\"\npublic_key = \"mTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
                       endpoint = \"192.0.2.9:51820\"\naddress = [\"10.88.99.2/30\"]\n",
    );
    let service = text.services.first().unwrap();
    let ports = json!([port("kyiv", "granted"), port("oracle", "refused")]);
    let progress = of_service(&report(ports, true, json!("ok")), service, &|_| true);
    assert!(
        progress.refused.is_empty() && progress.missing[0].starts_with("oracle refuses 443"),
        "{progress:?}"
    );
}

#[test]
fn a_refused_port_80_is_a_note_with_the_fix_and_nothing_is_missing() {
    let policy = policy("");
    let service = policy.services.first().unwrap();
    let of = |ports: Value| {
        let report = report(ports, true, json!("ok"));
        (of_http(&report, service), is_refused(&report, service))
    };
    let (granted, refused) = of(json!([port("kyiv", "granted")]));
    assert!(granted.proven.contains(&"kyiv grants 443".to_owned()) && !refused, "{granted:?}");
    let (progress, refused) = of(json!([port("kyiv", "refused")]));
    assert!(progress.refused.is_empty() && progress.missing.is_empty() && refused, "{progress:?}");
    let note =
        "kyiv refuses 443 (not allowed): add it to may_publish; until then certificates come by TLS-ALPN-01";
    assert!(progress.notes[0].starts_with(note), "{progress:?}");
    let (waiting, refused) = of(json!([port("kyiv", "refused"), port("oracle", "requested")]));
    assert!(!waiting.missing.is_empty() && !refused, "{waiting:?}");
    assert!(!of(json!([])).1);
}

#[test]
fn a_name_that_is_served_is_proven_and_one_without_a_site_is_missing() {
    let judged =
        |state: &str, reason: Value| named(&policy(""), vec![name("emby.example.com", state, reason)]);
    assert_eq!(judged("ok", Value::Null).proven, ["emby.example.com is served, certificate for 89 days"]);
    let mut visited = name("emby.example.com", "ok", Value::Null);
    let path =
        json!({"state": "proven", "seconds": 3, "hop": null, "reason": null, "trusted": true, "fix": null});
    visited.visitor = serde_json::from_value(path).unwrap();
    let proven = named(&policy(""), vec![visited]).proven;
    assert_eq!(proven.last().unwrap(), "emby.example.com is reached from the internet");
    let failing = judged("failing", json!("no_certificate_for_name"));
    assert!(failing.is_undecided && failing.missing[0].contains("no_certificate_for_name"), "{failing:?}");
    assert!(judged("unknown", Value::Null).is_undecided);
}

#[test]
fn a_name_that_no_check_has_judged_yet_is_missing() {
    for names in [vec![], vec![name("emby.example.com", "unknown", Value::Null)]] {
        let progress = named(&policy(""), names);
        assert!(progress.is_undecided, "{progress:?}");
        assert_eq!(progress.missing, ["emby.example.com has not been checked yet"]);
    }
}

#[test]
fn a_name_that_no_check_can_judge_is_a_note_and_nothing_is_missing() {
    // As a daemon lists it whether it checks it or not.
    let unknown = || name("emby.example.com", "unknown", Value::Null);
    let mut unwatched = policy("");
    unwatched.services[0].health = None;
    let many: Vec<_> =
        (0..300).map(|number| name(&format!("{number}.example.com"), "ok", Value::Null)).collect();
    let mut other_port = policy("");
    other_port.services[0].publish = None;
    other_port.services[0].ports = policy::PortRange::new(9443, 9443).unwrap();
    for (policy, names, expected, is_undecided) in [
        (&unwatched, vec![unknown()], "is not checked: [[service]] https has health = \"off\"", false),
        (&policy(""), [many, vec![unknown()]].concat(), "is not checked: at most 256 names are", false),
        (
            &other_port,
            vec![unknown()],
            "is not checked yet: its upstream may speak neither TLS nor HTTP",
            true,
        ),
    ] {
        let progress = named(policy, names);
        assert_eq!(progress.notes, [format!("emby.example.com {expected}")]);
        assert!(progress.missing.is_empty() && progress.is_undecided == is_undecided, "{progress:?}");
    }
}

#[test]
fn the_record_leads_to_the_edge_by_its_name_or_address() {
    let with = |endpoint: &str| {
        let text = text("").replace("192.0.2.2:51820", endpoint);
        let policy = parse(&Source { name: Path::new("f"), text: &text }).unwrap();
        let mut peers = report(json!([]), true, json!("ok")).peers;
        let shown = record("emby.example.com", &policy, &policy.services[0].peers, &peers);
        peers.clear();
        (shown, record("emby.example.com", &policy, &policy.services[0].peers, &peers))
    };
    let (resolved, unresolved) = with("kyiv.example.com:51820");
    let cname = "emby.example.com CNAME kyiv.example.com (a whole domain takes no CNAME: then";
    assert_eq!(resolved, Some(format!("{cname} A 192.0.2.2)")));
    assert_eq!(unresolved, Some(format!("{cname} A and AAAA as kyiv.example.com has)")));
    let with = |endpoint: &str| with(endpoint).0;
    assert_eq!(with("192.0.2.2:51820").as_deref(), Some("emby.example.com A 192.0.2.2"));
    assert_eq!(with("[2001:db8::2]:51820").as_deref(), Some("emby.example.com AAAA 2001:db8::2"));
    assert_eq!(with("Emby.example.com.:51820"), None);
}

#[test]
fn a_name_without_an_address_names_the_record_and_one_that_leads_elsewhere_is_said() {
    let peers = report(json!([]), true, json!("ok")).peers;
    let judged = |found: &[&str]| {
        let found: Vec<IpAddr> = found.iter().map(|address| address.parse().unwrap()).collect();
        of_addresses("a.example.com", &found, &peers, Some("a.example.com A 192.0.2.2"))
    };
    assert_eq!(
        judged(&[]).missing,
        ["a.example.com has no address: set the DNS record a.example.com A 192.0.2.2"]
    );
    assert_eq!(judged(&["192.0.2.2"]).proven, ["a.example.com leads to kyiv"]);
    assert!(judged(&["198.51.100.1"]).notes[0].contains("no edge's address"));
}

fn named(policy: &Policy, names: Vec<NameShown>) -> Progress {
    let mut report = report(json!([]), true, json!("ok"));
    report.services[0].names = names;
    of_name(&report, &policy.services[0], "emby.example.com")
}

fn name(name: &str, state: &str, reason: Value) -> NameShown {
    let name = json!({"name": name, "state": state, "seconds": 3, "reason": reason,
        "certificate_days": 89, "certificate": {"hours": 2136, "lifetime": 2160}, "fix": null});
    serde_json::from_value(name).unwrap()
}

fn seen(ports: Value, linked: bool, state: Value) -> Progress {
    of_service(&report(ports, linked, state), policy("").services.first().unwrap(), &|_| true)
}

fn port(peer: &str, state: &str) -> Value {
    let (reason, fix) = match state {
        "refused" => (Some("not_allowed"), Some("add it to may_publish")),
        _ => (None, None),
    };
    json!({"ports": "443", "peer": peer, "state": state, "reason": reason, "fix": fix})
}

fn report(ports: Value, linked: bool, state: Value) -> Report {
    let link = json!({"up": linked, "seconds": 1, "reason": null, "name": null, "version": null, "schema": null,
        "rx_bytes": 0, "tx_bytes": 0, "back_within_seconds": null, "services": []});
    let peer = json!({"name": "kyiv", "interface": {"name": "kyiv", "public_key": null, "listen_port": 1, "mtu": 1420},
        "public_key": "", "endpoint": "192.0.2.2:51820", "allowed_ips": [], "state": "up",
        "latest_handshake_age_seconds": null, "latest_handshake_timestamp_seconds": null,
        "persistent_keepalive_seconds": null, "rx_bytes": 0, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0,
        "rx_bytes_per_second": 0.0, "tx_bytes_per_second": 0.0, "rtt_seconds": null, "loss_ratio": null,
        "probes_lost": 0, "handshakes": 0, "endpoint_changes": 0, "recoveries": [0, 0, 0], "link": link});
    let service = json!({"name": "https", "protocols": "tcp", "peer": null, "from": "", "to": "127.0.0.1:8443",
        "flows": 0, "rx_bytes": 0, "tx_bytes": 0, "dials": {}, "upstreams": [], "publish": ports,
        "health": {"state": state, "failing": null, "hops": []}});
    serde_json::from_value(json!({"schema": 1, "version": "0.1.0", "uptime_seconds": 1.0, "stopping": false,
        "health": "ok", "flows": 0, "udp_flows": 0, "pending_dials": 0, "buffer_bytes": 0, "peers": [peer],
        "services": [service], "reach": [], "dropped": {}, "problems": []}))
    .unwrap()
}

fn policy(more: &str) -> Policy {
    parse(&Source { name: Path::new("f"), text: &text(more) }).unwrap()
}

fn text(more: &str) -> String {
    format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n{more}\
         [[service]]\nname = \"https\"\npublish = 443\nupstream = \"127.0.0.1:8443\"\n"
    )
}
