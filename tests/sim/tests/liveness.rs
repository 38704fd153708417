//! How well a peer is connected, and what the probes cost.

use sim::path::Faults;
use sim::{EDGE, ORIGIN, Pair, Setup, Side, ms, secs};
use tunnel::node::{Event, PeerState};
use tunnel::packet::Ip;
use tunnel::packet::icmp::Echo;

const BOTH: [Side; 2] = [Side::Edge, Side::Origin];

#[test]
fn round_trip_and_loss_come_from_the_probes() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(120));

    for side in BOTH {
        let peer = pair.peer(side);
        let rtt = peer.rtt.expect("a round trip");
        assert!(rtt >= ms(29) && rtt <= ms(31), "{rtt:?}");
        assert_eq!((peer.loss_ratio, peer.counts.probes_lost), (Some(0.0), 0));
    }

    pair.path.faults = Faults { loss: 0.3, ..Faults::default() };
    pair.run(secs(120));
    let loss = pair.peer(Side::Origin).loss_ratio.expect("a loss ratio");
    assert!((0.3..=0.75).contains(&loss), "{loss}: either way may lose a probe");
}

#[test]
fn probes_and_their_answers_never_reach_the_inner_network() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(120));

    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (0, 0));
    assert!(pair.peer(Side::Edge).rx_packets >= 40);
}

#[test]
fn other_echo_requests_go_through_to_the_inner_network() {
    let mut pair = Pair::connected(Setup::default());
    let ping = |data: &[u8], to: &str| {
        let echo = Echo { is_reply: false, id: 1, sequence: 1, data };
        echo.build(ORIGIN.parse().expect("an address"), to.parse().expect("an address")).expect("a packet")
    };
    assert!(Ip::parse(&ping(&[0; 16], EDGE)).is_ok());

    pair.send_bytes(Side::Origin, ping(&[0; 16], EDGE));
    pair.send_bytes(Side::Origin, ping(&[0; 56], EDGE));
    pair.run(ms(500));

    // The simulation counts a delivered packet without a number as damaged.
    assert_eq!(pair.edge.damaged, 2);
}

#[test]
fn the_state_goes_from_up_to_stale_to_down_and_back() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    pair.edge.events.clear();
    pair.path.set_blackhole(true);

    pair.run(secs(10));
    assert_eq!(pair.state(Side::Edge), PeerState::Up);
    pair.run(secs(10));
    assert_eq!(pair.state(Side::Edge), PeerState::Stale);
    pair.run(secs(170));
    assert_eq!(pair.state(Side::Edge), PeerState::Down);
    pair.path.set_blackhole(false);
    pair.run(secs(30));
    assert_eq!(pair.state(Side::Edge), PeerState::Up);

    let reported: Vec<_> = pair
        .edge
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::StateChanged { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .collect();
    let states = [PeerState::Up, PeerState::Stale, PeerState::Down, PeerState::Up];
    let expected: Vec<_> = states.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(reported, expected, "each change is reported once");
}

#[test]
fn stale_is_reported_fifteen_seconds_after_the_last_answer() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    pair.origin.events.clear();
    let cut = pair.elapsed();
    pair.path.set_blackhole(true);
    pair.run(secs(30));

    let stale = |event: &Event| matches!(event, Event::StateChanged { to: PeerState::Stale, .. });
    let reported = pair.origin.events.iter().find(|(_, event)| stale(event)).expect("it is reported").0 - cut;
    assert!(reported > secs(9) && reported <= secs(15) + ms(50), "{reported:?}");
}

#[test]
fn a_peer_never_heard_is_never_probed() {
    let mut pair = Pair::new(Setup { initiate: false, keepalive: None, ..Setup::default() });
    pair.run(secs(3600));

    assert_eq!((pair.edge.sent, pair.origin.sent), (0, 0));
    assert_eq!((pair.edge.wakes, pair.origin.wakes), (0, 0));
    assert_eq!(pair.state(Side::Origin), PeerState::Never);
}

#[test]
fn a_plain_peer_that_answers_no_probe_is_judged_by_its_handshake_and_left_to_sleep() {
    let mut pair = Pair::new(Setup { keepalive: None, initiate: false, ..Setup::default() });
    // The origin is plain: it has no liveness, so its system would answer the echo, and here there
    // is none.
    let plain = Pair::new(Setup::plain());
    pair.origin = plain.origin;
    pair.send(Side::Origin);
    pair.run(secs(2));
    assert_eq!(pair.state(Side::Edge), PeerState::Up);
    assert!(pair.origin.damaged > 0, "the probes went to the inner network");

    pair.run(secs(170));
    assert_eq!(pair.state(Side::Edge), PeerState::Up);
    pair.run(secs(1200));
    assert_eq!(pair.state(Side::Edge), PeerState::Down);

    let (sent, wakes) = (pair.edge.sent, pair.edge.wakes);
    pair.run(secs(3600));
    assert_eq!((pair.edge.sent, pair.edge.wakes), (sent, wakes), "it sleeps");
}

#[test]
fn a_plain_peer_is_up_while_its_handshake_is_younger_than_three_minutes() {
    let mut pair = Pair::connected(Setup::plain());

    pair.run(secs(178));
    assert_eq!(pair.state(Side::Edge), PeerState::Up);
    pair.run(secs(3));
    assert_eq!(pair.state(Side::Edge), PeerState::Down);
}

#[test]
fn an_idle_plain_pair_never_wakes_again() {
    let mut pair = Pair::connected(Setup::plain());
    pair.run(secs(600));
    let wakes = (pair.edge.wakes, pair.origin.wakes);

    pair.run(secs(24 * 3600));

    assert_eq!((pair.edge.wakes, pair.origin.wakes), wakes);
    assert_eq!(pair.edge.node.poll_timeout(), None);
}

#[test]
fn an_idle_node_with_one_watched_peer_wakes_less_than_once_a_second() {
    let mut pair = Pair::connected(Setup::default());
    let (edge, origin) = (pair.edge.wakes, pair.origin.wakes);

    pair.run(secs(3600));

    for wakes in [pair.edge.wakes - edge, pair.origin.wakes - origin] {
        assert!(wakes < 3600, "{wakes} in an hour");
    }
}

#[test]
fn a_keepalive_leaves_after_so_long_without_a_packet_and_no_sooner() {
    let mut pair = Pair::connected(Setup { liveness: false, initiate: false, ..Setup::default() });
    pair.run_sending(&[Side::Origin], secs(1), secs(60));
    pair.run(secs(1));
    let sent = pair.origin.sent;

    // The edge's own keepalive comes up to ten seconds after the last packet, and counts.
    pair.run(secs(23));
    assert_eq!(pair.origin.sent, sent);
    pair.run(secs(13));
    assert_eq!(pair.origin.sent, sent + 1);
}

#[test]
fn a_keepalive_alone_keeps_the_session_for_ever() {
    let mut pair = Pair::connected(Setup { liveness: false, initiate: false, ..Setup::default() });

    for _ in 0..120 {
        pair.run(secs(61));
        assert!(matches!(pair.send(Side::Edge), tunnel::node::Verdict::Sent { .. }));
    }
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Origin), 120);
    let handshakes = pair.peer(Side::Origin).counts.handshakes;
    assert!(handshakes <= 65, "{handshakes}");
}

#[test]
fn received_data_is_answered_by_a_keepalive_within_ten_seconds() {
    let mut pair = Pair::connected(Setup::plain());
    pair.run(secs(5));
    pair.send(Side::Origin);
    pair.run(ms(100));
    let sent = pair.edge.sent;

    pair.run(secs(11));

    assert_eq!(pair.edge.sent, sent + 1);
    assert_eq!(pair.peer(Side::Origin).counts.handshakes, 1, "no needless handshake");
}
