//! An edge with many origins, on virtual time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use policy::PortRange;

use super::*;
use crate::diagnosis::Half;
use crate::link::frame::{MAX_FRAME, frame};
use crate::link::message::{Bytes, Health, Ports, READS_HEALTH, Reply, Request, Service, State};
use crate::link::publish::{Answer, Port};

/// An origin's end with its connection at the edge.
struct Origin {
    session: Session,
    id: LinkId,
}

#[test]
fn a_peer_that_proves_its_key_has_a_link_and_another_key_has_none() {
    let mut links = edge(2);
    let origin = connect(&mut links, at(0), 0, 1);
    assert!(origin.session.is_open());
    assert!(matches!(changes(&mut links).as_slice(), [(name, Change::Up(_))] if name.as_str() == "peer-0"));

    // Peer 1's key from the address of peer 0: what a local program or another peer could do.
    let id = links.accept(at(1), address(0), [9; 32]).unwrap();
    let mut thief = session(at(1), 1, 2);
    links.handle_input(at(1), id, thief.poll_output());
    let greeting = thief.poll_output().len();
    let edges = links.poll_output(id).to_vec();
    thief.handle_input(at(1), &edges[..first_frame(&edges)]);
    links.handle_input(at(1), id, &thief.poll_output()[greeting..]);
    assert!(links.is_over(id));
    assert_eq!(links.refused().get("wrong_key"), Some(&1));
    assert!(is_up(&links, 0) && !is_up(&links, 1));
    assert!(!links.is_over(origin.id), "the link of the owner goes on");
}

#[test]
fn a_source_that_is_no_peers_own_address_is_refused() {
    let mut links = edge(1);
    for source in ["10.77.0.1", "10.77.200.200", "192.168.1.50", "203.0.113.10", "127.0.0.1"] {
        assert_eq!(links.accept(at(0), source.parse().unwrap(), [1; 32]), Err(Refused::NotAPeer), "{source}");
    }
    assert_eq!(links.refused().get("not_a_peer"), Some(&5));
}

#[test]
fn a_peer_has_four_connections_and_the_fifth_is_refused_while_others_connect() {
    let mut links = edge(2);
    let ids: Vec<_> = (0..4).map(|_| links.accept(at(0), address(0), [1; 32]).unwrap()).collect();
    assert_eq!(links.accept(at(0), address(0), [1; 32]), Err(Refused::TooMany));
    assert!(links.accept(at(0), address(1), [1; 32]).is_ok());
    links.forget(at(0), ids[0]);
    assert!(links.accept(at(0), address(0), [1; 32]).is_ok());
}

#[test]
fn a_peer_that_connects_and_leaves_in_a_loop_is_slowed_to_one_a_second() {
    let mut links = edge(1);
    let mut accepted = 0;
    for millis in 0..60_000 {
        let now = at(0).after(Duration::from_millis(millis));
        if let Ok(id) = links.accept(now, address(0), [1; 32]) {
            accepted += 1;
            links.forget(now, id);
        }
    }
    assert!((60..=68).contains(&accepted), "{accepted} in a minute");
    assert_eq!(links.held(), 0);
}

#[test]
fn a_second_link_that_proved_itself_replaces_the_first_and_one_that_did_not_leaves_it() {
    let mut links = edge(1);
    let first = connect(&mut links, at(0), 0, 1);
    let unproven = links.accept(at(1), address(0), [7; 32]).unwrap();
    assert!(!links.is_over(first.id));
    links.handle_timeout(at(6), unproven);
    assert!(links.is_over(unproven) && !links.is_over(first.id) && is_up(&links, 0));
    links.forget(at(6), unproven);

    let second = connect(&mut links, at(7), 0, 1);
    assert!(links.is_over(first.id) && !links.is_over(second.id));
    assert!(links.take_touched().contains(&first.id), "its owner has to close it");
    links.forget(at(7), first.id);
    assert!(is_up(&links, 0));
    links.handle_hangup(at(8), second.id);
    assert!(!is_up(&links, 0));
}

#[test]
fn two_machines_with_one_key_are_reported_once_they_alternate() {
    let mut links = edge(1);
    for (second, instance) in [(0, 1), (10, 2), (20, 1)] {
        connect(&mut links, at(second), 0, instance);
    }
    let shared = changes(&mut links).into_iter().filter(|(_, change)| *change == Change::SharedKey).count();
    assert_eq!(shared, 1);
    assert!(links.remote(&name(0)).unwrap().has_shared_key(at(20)));
}

#[test]
fn one_peer_causes_at_most_ten_reports_an_hour() {
    let mut links = edge(2);
    for second in 0..3_600 {
        let origin = connect(&mut links, at(second), 0, (second % 5) as u8);
        links.forget(at(second), origin.id);
    }
    let count = changes(&mut links).len();
    assert!((5..=10).contains(&count), "{count}");
    connect(&mut links, at(3_600), 1, 1);
    assert_eq!(changes(&mut links).len(), 1, "another peer's are its own");
}

#[test]
fn a_change_of_key_preshared_key_or_prefixes_ends_that_peers_link_and_no_other() {
    let psk = || Some(PresharedKey::from_bytes([7; 32]));
    let more = || ["10.77.1.0/32", "192.168.88.0/24"].map(|prefix| prefix.parse().unwrap()).to_vec();
    let changed = [
        LinkPeer { public_key: key(77).public(), ..peer(0) },
        LinkPeer { preshared_key: psk(), ..peer(0) },
        LinkPeer { allowed_ips: more(), ..peer(0) },
    ];
    for changed in changed {
        let mut links = edge(2);
        let (first, second) = (connect(&mut links, at(0), 0, 1), connect(&mut links, at(0), 1, 1));
        changes(&mut links);
        links.configure(at(1), key(EDGE), own_addresses(), vec![changed, peer(1)]);
        assert!(links.is_over(first.id) && !links.is_over(second.id));
        assert_eq!(changes(&mut links), [(name(0), Change::Down(Ended::Reconfigured))]);
    }
}

#[test]
fn a_peer_that_left_and_a_new_key_of_the_edge_end_links_and_an_equal_configuration_ends_none() {
    let mut links = edge(2);
    let (first, second) = (connect(&mut links, at(0), 0, 1), connect(&mut links, at(0), 1, 1));
    links.configure(at(1), key(EDGE), own_addresses(), vec![peer(1), peer(0)]);
    assert!(!links.is_over(first.id) && !links.is_over(second.id));
    links.configure(at(1), key(EDGE), own_addresses(), vec![peer(1)]);
    assert!(links.is_over(first.id) && !links.is_over(second.id));
    assert_eq!(links.accept(at(1), address(0), [1; 32]), Err(Refused::NotAPeer));
    links.configure(at(2), key(EDGE + 1), own_addresses(), vec![peer(1)]);
    assert!(links.is_over(second.id));
}

#[test]
fn a_thousand_peers_that_send_what_they_like_hold_eight_mebibytes() {
    let mut links = edge(1_000);
    let quiet = connect(&mut links, at(0), 999, 1);
    let half = [&u32::try_from(MAX_FRAME).unwrap().to_be_bytes()[..], &[b' '; MAX_FRAME - 1]].concat();
    let mut highest = 0;
    for number in 0..999 {
        for _ in 0..MAX_PER_PEER {
            let Ok(id) = links.accept(at(1), address(number), [1; 32]) else { continue };
            let mut origin = Origin { session: session(at(1), number, 1), id };
            run(&mut links, at(1), &mut origin);
            links.handle_input(at(1), id, &half);
            highest = highest.max(links.held());
        }
    }
    assert!(highest > MAX_HELD / 2 && links.held() <= MAX_HELD, "{highest}, {}", links.held());
    assert!(is_up(&links, 999) && !links.is_over(quiet.id), "who holds little keeps its link");
    assert!(links.refused().get("memory").is_some_and(|count| *count > 0));
}

#[test]
fn a_thousand_origins_have_their_links_at_the_same_time() {
    let mut links = edge(1_000);
    let origins: Vec<_> = (0..1_000).map(|number| connect(&mut links, at(0), number, 1)).collect();
    assert!(origins.iter().all(|origin| !links.is_over(origin.id)));
    assert!(links.held() < MAX_HELD * 3 / 4, "{} bytes", links.held());
}

#[test]
fn what_origins_report_counts_as_memory_and_ends_with_their_link() {
    let mut links = edge(1);
    let mut origin = connect(&mut links, at(0), 0, 1);
    let before = links.held();
    let service = |number| Service {
        name: Name::new(&format!("service-{number}")).unwrap(),
        state: State::Up,
        seconds: 1,
        reason: None,
        evidence: None,
        matches: None,
    };
    let services = (0..50).map(service).collect();
    origin.session.send_health(at(1), Health { begins: true, ends: true, services, ..Health::default() });
    run(&mut links, at(1), &mut origin);
    assert!(links.held() > before + 50 * Name::MAX, "{} of {before}", links.held());
    assert_eq!(links.remote(&name(0)).unwrap().shown(at(2)).unwrap().services.len(), 50);
    links.forget(at(3), origin.id);
    assert_eq!(links.held(), 0);
    assert_eq!(links.remote(&name(0)).unwrap().shown(at(3)).unwrap().services, []);
}

#[test]
fn an_edge_that_stops_announces_it_on_every_open_link_and_takes_no_other() {
    let mut links = edge(2);
    let mut open = connect(&mut links, at(0), 0, 1);
    let unproven = links.accept(at(0), address(1), [1; 32]).unwrap();
    links.stop(at(1), Duration::from_secs(30));
    assert!(links.is_over(unproven) && !links.is_over(open.id));
    assert!(links.take_touched().contains(&open.id));
    run(&mut links, at(1), &mut open);
    assert_eq!(open.session.poll_event(), Some(Event::Notice(Notice::Stopping { seconds: 30 })));
    assert!(links.is_over(open.id));
    assert_eq!(links.accept(at(1), address(0), [1; 32]), Err(Refused::NotAPeer));
}

#[test]
fn a_link_whose_origin_is_gone_is_down_after_thirteen_seconds() {
    let mut links = edge(1);
    let origin = connect(&mut links, at(0), 0, 1);
    for second in 1..=12 {
        links.handle_timeout(at(second), origin.id);
        assert!(is_up(&links, 0), "{second}");
    }
    links.handle_timeout(at(13), origin.id);
    assert!(!is_up(&links, 0));
    let shown = links.remote(&name(0)).unwrap().shown(at(13)).unwrap();
    assert_eq!((shown.up, shown.reason.as_deref()), (false, Some("silent")));
}

#[test]
fn bytes_are_counted_both_ways() {
    let mut links = edge(1);
    let mut origin = connect(&mut links, at(0), 0, 1);
    let (rx, tx) = links.remote(&name(0)).unwrap().bytes;
    assert!(rx > 100 && tx > 100, "{rx} {tx}");
    let sent = frame(br#"{"type":"request","id":1,"request":{"ask":"ping"}}"#).unwrap();
    links.handle_input(at(1), origin.id, &sent);
    run(&mut links, at(1), &mut origin);
    assert_eq!(links.remote(&name(0)).unwrap().bytes.0, rx + sent.len() as u64);
}

#[test]
fn of_what_a_peer_requests_in_a_second_only_the_last_list_is_taken_and_replied_to() {
    let mut links = edge(2);
    let (mut origin, mut other) = (connect(&mut links, at(0), 0, 1), connect(&mut links, at(0), 1, 1));
    assert!(!links.take_asked() && links.poll_requested(at(1)).is_none());
    origin.session.ask(at(1), asked(&[80]));
    run(&mut links, at(1), &mut origin);
    assert!(links.take_asked());
    assert_eq!(links.poll_requested(at(1)).unwrap().asked, asked(&[80]));
    for port in 1..=30 {
        origin.session.ask(at(1), asked(&[port]));
        run(&mut links, at(1), &mut origin);
        assert_eq!(links.poll_requested(at(1)), None, "more than one in a second");
    }
    other.session.ask(at(1), asked(&[81]));
    run(&mut links, at(1), &mut other);
    assert_eq!(links.poll_requested(at(1)).unwrap().peer, name(1), "another peer waits for no one");

    other.session.ask(at(1), asked(&[82]));
    run(&mut links, at(1), &mut other);
    origin.session.ask(at(2), asked(&[30]));
    run(&mut links, at(2), &mut origin);
    assert_eq!(links.next_requested(), Some(at(2)));
    let requested = links.poll_requested(at(9)).unwrap();
    origin.session.ask(at(9), asked(&[30]));
    run(&mut links, at(9), &mut origin);
    assert_eq!(links.poll_requested(at(20)).unwrap().peer, name(1), "who asks again waits for the others");
    assert_eq!((&requested.asked, links.poll_requested(at(2))), (&asked(&[30]), None));
    links.answer(at(2), &requested, vec![Answer::Granted]);
    run(&mut links, at(2), &mut origin);
    let replies: Vec<Event> = std::iter::from_fn(|| origin.session.poll_event()).collect();
    assert!(
        matches!(replies.as_slice(), [Event::Answers(_, answers)] if *answers == [Answer::Granted]),
        "{replies:?}"
    );
}

#[test]
fn peers_that_request_without_end_keep_no_other_waiting_however_long_each_request_takes() {
    let mut links = edge(3);
    let mut origins = [0, 1, 2].map(|peer| connect(&mut links, at(0), peer, 1));
    let mut served = Vec::new();
    for turn in 0..9 {
        // Longer than the second after which a peer may be served again.
        let now = at(2 + 2 * turn);
        for origin in &mut origins {
            origin.session.ask(now, asked(&[80]));
            run(&mut links, now, origin);
        }
        let requested = links.poll_requested(now).unwrap();
        links.answer(now, &requested, vec![Answer::Granted]);
        served.push(requested.peer);
    }
    for peer in 0..3 {
        let count = served.iter().filter(|served| **served == name(peer)).count();
        assert_eq!(count, 3, "{served:?}");
    }
}

#[test]
fn a_request_is_replied_to_on_its_own_link_alone_and_news_reach_the_open_one() {
    let mut links = edge(2);
    let (mut first, mut other) = (connect(&mut links, at(0), 0, 1), connect(&mut links, at(0), 1, 1));
    first.session.ask(at(1), asked(&[80]));
    run(&mut links, at(1), &mut first);
    let requested = links.poll_requested(at(1)).unwrap();
    links.forget(at(1), first.id);
    let mut second = connect(&mut links, at(2), 0, 1);
    links.answer(at(2), &requested, vec![Answer::Granted]);
    links.announce_grants(at(2), &name(0));
    for origin in [&mut second, &mut other] {
        run(&mut links, at(2), origin);
    }
    assert_eq!(second.session.poll_event(), Some(Event::Notice(Notice::Grants)));
    assert!(second.session.poll_event().is_none() && other.session.poll_event().is_none());
}

#[test]
fn a_peer_is_asked_on_its_open_link_and_a_reply_that_was_not_asked_for_is_dropped() {
    let mut links = edge(2);
    let mut origin = connect(&mut links, at(0), 0, 1);
    assert_eq!(links.ask(at(1), &name(1), Request::Diagnose), None, "there is no link to it");
    let question = links.ask(at(1), &name(0), Request::Diagnose).unwrap();
    run(&mut links, at(1), &mut origin);
    let Some(Event::Question(id, Request::Diagnose)) = origin.session.poll_event() else {
        panic!("not asked")
    };
    let reply = || Reply::Diagnosis { half: Half::default() };
    for id in [id, id, id + 9] {
        origin.session.reply(at(1), id, reply());
    }
    run(&mut links, at(1), &mut origin);
    assert_eq!(links.poll_reply(), Some((question, reply())));
    assert_eq!(links.poll_reply(), None);
}

#[test]
fn questions_that_are_never_replied_to_are_bounded() {
    let mut links = edge(1);
    connect(&mut links, at(0), 0, 1);
    let mut asked = Vec::new();
    while let Some(question) = links.ask(at(1), &name(0), Request::Diagnose) {
        asked.push(question);
        assert!(asked.len() <= 64, "without end");
    }
    assert_eq!(asked.len(), 64);
    links.forget_question(&asked[0]);
    assert!(links.ask(at(1), &name(0), Request::Diagnose).is_some());
}

#[test]
fn a_peer_that_asks_is_replied_to_on_its_own_link() {
    let mut links = edge(1);
    let mut origin = connect(&mut links, at(0), 0, 1);
    let id = origin.session.ask_question(at(1), Request::Diagnose).unwrap();
    run(&mut links, at(1), &mut origin);
    let (peer, question) = links.poll_question().unwrap();
    assert_eq!(peer, name(0));
    links.reply(at(1), &question, Reply::Busy);
    run(&mut links, at(1), &mut origin);
    assert_eq!(origin.session.poll_event(), Some(Event::Replied(id, Reply::Busy)));
}

#[test]
fn what_a_peer_requests_counts_as_memory_until_it_is_taken() {
    let mut links = edge(1);
    let mut origin = connect(&mut links, at(0), 0, 1);
    let before = links.held();
    let ports: Vec<u16> = (1..=64).collect();
    origin.session.ask(at(1), asked(&ports));
    run(&mut links, at(1), &mut origin);
    assert!(links.held() >= before + 64 * 64, "{} of {before}", links.held());
    links.poll_requested(at(1)).unwrap();
    run(&mut links, at(1), &mut origin);
    links.handle_timeout(at(1), origin.id);
    assert!(links.held() < before + 64 * 64);
}

fn asked(ports: &[u16]) -> Asked {
    let port = |port: &u16| Port {
        service: Name::new("web").unwrap(),
        ports: Ports(PortRange::new(*port, *port).unwrap()),
        udp: false,
        target: [10, 77, 1, 0].into(),
        target6: None,
        target_ports: None,
        from: None,
    };
    Asked::first_of(&ports.iter().map(port).collect::<Vec<_>>())
}

/// The number of the edge's key.
const EDGE: u16 = 2_000;

/// An edge with so many peers, each with one address.
fn edge(peers: u16) -> Links {
    let mut links = Links::new(key(EDGE), about(0));
    links.configure(at(0), key(EDGE), own_addresses(), (0..peers).map(peer).collect());
    links
}

/// Connects an origin and lets both ends prove themselves.
fn connect(links: &mut Links, now: Instant, number: u16, instance: u8) -> Origin {
    let id = links.accept(now, address(number), [instance.wrapping_add(100); 32]).unwrap();
    let mut origin = Origin { session: session(now, number, instance), id };
    run(links, now, &mut origin);
    assert!(matches!(origin.session.poll_event(), Some(Event::Opened(_))));
    origin
}

/// Carries everything both ways until nothing waits.
fn run(links: &mut Links, now: Instant, origin: &mut Origin) {
    loop {
        let out = origin.session.poll_output().to_vec();
        let taken = links.handle_input(now, origin.id, &out);
        origin.session.handle_sent(now, taken);
        let back = links.poll_output(origin.id).to_vec();
        let count = origin.session.handle_input(now, &back);
        links.handle_sent(now, origin.id, count);
        if taken == 0 && count == 0 {
            return;
        }
    }
}

/// The length of the first frame, with its header.
fn first_frame(bytes: &[u8]) -> usize {
    4 + u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize
}

fn changes(links: &mut Links) -> Vec<(Name, Change)> {
    std::iter::from_fn(|| links.poll_change()).collect()
}

fn is_up(links: &Links, number: u16) -> bool {
    links.remote(&name(number)).unwrap().far().is_some()
}

fn session(now: Instant, number: u16, instance: u8) -> Session {
    let identity = Identity::new(&key(number), &key(EDGE).public(), None);
    Session::new(now, Role::Origin, identity, about(instance), [instance; 32])
}

fn peer(number: u16) -> LinkPeer {
    let allowed_ips = vec![IpNetwork::from(address(number))];
    LinkPeer { name: name(number), public_key: key(number).public(), preshared_key: None, allowed_ips }
}

fn name(number: u16) -> Name {
    Name::new(&format!("peer-{number}")).unwrap()
}

fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high + 1, low).into()
}

fn own_addresses() -> Vec<IpNetwork> {
    vec!["10.77.0.1/16".parse().unwrap()]
}

fn key(number: u16) -> PrivateKey {
    let mut bytes = [1; 32];
    bytes[1..3].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_bytes(bytes)
}

fn about(instance: u8) -> About {
    let name = |text: &str| Name::new(text).unwrap();
    About {
        version: name("0.1.0"),
        name: name("wroclaw"),
        capabilities: BTreeSet::from([name(READS_HEALTH)]),
        instance: Bytes([instance; 16]),
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1_000 + seconds))
}
