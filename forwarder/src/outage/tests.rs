use super::*;

#[test]
fn nothing_is_reported_before_fifteen_seconds_and_each_reason_once() {
    let mut outage = Outage::default();
    let look = look();
    let reasons: Vec<_> = (0..12).filter_map(|n| outage.handle_observation(&look, at(n * 5))).collect();

    assert_eq!(reasons, [Reason::Silent]);
    assert_eq!(outage.reason(), Some(Reason::Silent));
    assert_eq!(Outage::default().handle_observation(&look, at(0)), None);
    let mut early = Outage::default();
    assert!((0..15).all(|second| early.handle_observation(&look, at(second)).is_none()));
    assert_eq!(early.handle_observation(&look, at(15)), Some(Reason::Silent));
}

#[test]
fn a_peer_that_is_up_again_has_no_reason_and_the_next_outage_begins_from_nothing() {
    let mut outage = Outage::default();
    for second in [0, 15] {
        outage.handle_observation(&look(), at(second));
    }
    outage.handle_observation(&Observation { is_up: true, ..look() }, at(20));
    assert_eq!(outage.reason(), None);

    let counts = Counts { refused: 3, handshakes: 1, ..Counts::default() };
    let later = Observation { counts, ..look() };
    outage.handle_observation(&later, at(100));
    assert_eq!(outage.handle_observation(&later, at(115)), Some(Reason::Lost), "those refusals were before");
}

#[test]
fn each_sign_has_its_reason() {
    let grown = |change: fn(&mut Counts)| {
        let mut counts = Counts::default();
        change(&mut counts);
        Observation { counts, ..look() }
    };
    let key = tunnel::key::PrivateKey::from_bytes([1; 32]).public();
    let proxy = Some("104.16.0.1:51820".parse().unwrap());
    for (look, expected) in [
        (look(), Reason::Silent),
        (Observation { is_unresolved: true, remote: None, ..look() }, Reason::Unresolved),
        (Observation { remote: proxy, ..look() }, Reason::Proxied),
        (Observation { is_for_another_key: true, ..look() }, Reason::ForAnotherKey),
        (Observation { unknown_key: Some(key), ..look() }, Reason::UnknownKey(key)),
        (Observation { is_unsent: true, ..look() }, Reason::Unsent),
        (grown(|counts| counts.refused = 1), Reason::Refused),
        (grown(|counts| counts.unreachable = 1), Reason::Unreachable),
        (grown(|counts| (counts.unauthentic, counts.dropped) = (1, 1)), Reason::Unauthentic),
        (grown(|counts| counts.dropped = 1), Reason::Answered),
        (grown(|counts| counts.handshakes = 1), Reason::Lost),
    ] {
        let mut outage = Outage::default();
        outage.handle_observation(&self::look(), at(0));
        assert_eq!(outage.handle_observation(&look, at(15)), Some(expected));
        let endpoint = HostPort { host: Host::Name("kyiv.example.com".into()), port: 51820 };
        let text = expected.text("kyiv", &endpoint, look.remote, "OWN");
        assert!(text.starts_with("peer kyiv: ") && text.contains("; "), "no fix: {text}");
    }
}

#[test]
fn silence_names_where_it_was_tried_and_which_key_the_edge_must_have() {
    let endpoint = HostPort { host: Host::Name("kyiv.example.com".into()), port: 51820 };
    let text = Reason::Silent.text("kyiv", &endpoint, look().remote, "OWN");

    for part in ["192.0.2.2:51820", "address", "port", "key", "OWN", "gatewayctl status"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn an_agent_of_a_mac_that_cannot_send_to_an_edge_of_the_lan_names_the_setting() {
    let text = |program: Program, remote: &str| {
        let endpoint = HostPort { host: Host::Name("kyiv.example.com".into()), port: 51820 };
        Reason::Unsent.text_for(program, "kyiv", &endpoint, (Some(remote.parse().unwrap()), "OWN"))
    };
    let agent = Program { is_mac: true, uid: 501 };
    let on_lan = text(agent, "192.168.88.7:51820");
    assert!(
        on_lan.contains("try: route -n get 192.168.88.7") && on_lan.contains("> Local Network"),
        "{on_lan}"
    );
    for other in
        [text(agent, "192.0.2.2:51820"), text(Program { is_mac: false, uid: 1000 }, "192.168.88.7:51820")]
    {
        assert!(!other.contains("Local Network"), "{other}");
    }
}

#[test]
fn an_edge_that_is_lost_may_have_another_address_and_the_fix_is_where_the_old_one_is_written() {
    let text = |host| {
        let endpoint = HostPort { host, port: 51820 };
        Reason::Lost.text("kyiv", &endpoint, look().remote, "OWN")
    };
    let name = text(Host::Name("kyiv.example.com".into()));
    assert!(name.contains("(else correct the DNS record of kyiv.example.com)"), "{name}");
    let address = text(Host::Address("192.0.2.2".parse().unwrap()));
    assert!(address.contains("(else write its new one in `endpoint`)"), "{address}");
}

#[test]
fn only_a_mistake_is_one_for_a_person_to_fix() {
    assert!(Reason::Silent.is_mistake(0) && Reason::Unauthentic.is_mistake(3));
    assert!(!Reason::Lost.is_mistake(1) && !Reason::Refused.is_mistake(1));
}

fn look() -> Observation {
    Observation {
        is_up: false,
        counts: Counts::default(),
        is_unresolved: false,
        is_unsent: false,
        is_for_another_key: false,
        unknown_key: None,
        remote: Some("192.0.2.2:51820".parse().unwrap()),
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1_000 + seconds))
}
