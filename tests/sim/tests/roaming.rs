//! Where a peer is: endpoints follow authenticated packets and nothing else.

use boringtun::noise::Tunn;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;
use sim::path::Faults;
use sim::{ORIGIN_AT, Pair, Setup, Side, at, key, ms, secs};
use tunnel::node::{Event, PeerState};
use tunnel::reason::DropReason;

const ELSEWHERE: &str = "203.0.113.66:4500";

#[test]
fn roams_only_after_an_authenticated_packet() {
    let mut pair = Pair::connected(Setup::plain());
    let genuine = pair.seal(Side::Origin);
    let mut forged = genuine.clone();
    forged[20] ^= 1;

    pair.inject(Side::Edge, at(ELSEWHERE), forged);
    assert_eq!(endpoint(&pair), at(ORIGIN_AT));
    assert_eq!(pair.dropped(Side::Edge, DropReason::BadTag), 1);

    pair.inject(Side::Edge, at(ELSEWHERE), genuine);
    assert_eq!(endpoint(&pair), at(ELSEWHERE));
    let moved = |event: &Event| matches!(event, Event::EndpointChanged { endpoint, .. } if endpoint.remote == at(ELSEWHERE));
    assert_eq!(pair.edge.count(moved), 1);
}

#[test]
fn a_replayed_datagram_never_moves_the_endpoint() {
    let mut pair = Pair::connected(Setup::plain());
    let genuine = pair.seal(Side::Origin);
    pair.inject(Side::Edge, at(ORIGIN_AT), genuine.clone());

    pair.inject(Side::Edge, at(ELSEWHERE), genuine);
    assert_eq!(endpoint(&pair), at(ORIGIN_AT));
    assert_eq!(pair.dropped(Side::Edge, DropReason::Replayed), 1);
}

#[test]
fn a_delayed_packet_from_the_old_path_does_not_move_the_endpoint_back() {
    let mut pair = Pair::connected(Setup::plain());
    let (delayed, newer) = (pair.seal(Side::Origin), pair.seal(Side::Origin));

    pair.inject(Side::Edge, at(ELSEWHERE), newer);
    pair.inject(Side::Edge, at(ORIGIN_AT), delayed);

    assert_eq!(endpoint(&pair), at(ELSEWHERE));
    assert_eq!(pair.arrived(Side::Edge), 2);
}

#[test]
fn a_packet_with_a_spoofed_inner_source_is_dropped_but_its_sender_is_followed() {
    let mut pair = Pair::connected(Setup::plain());
    let spoofed = sim::packet::numbered("10.77.88.99", sim::EDGE, 7);
    pair.send_bytes(Side::Origin, spoofed);
    let datagram = pair.path.take_newest().expect("a datagram");

    pair.inject(Side::Edge, at(ELSEWHERE), datagram);

    assert_eq!(pair.arrived(Side::Edge), 0);
    assert_eq!(pair.dropped(Side::Edge, DropReason::SpoofedSource), 1);
    assert_eq!(endpoint(&pair), at(ELSEWHERE));
}

#[test]
fn a_cookie_reply_never_moves_the_endpoint() {
    let mut pair = Pair::new(Setup::default());
    pair.path.set_blackhole(true);
    pair.path.record = Some(Vec::new());
    pair.run(ms(10));
    let (_, initiation) =
        pair.path.record.take().and_then(|sent| sent.into_iter().next()).expect("an initiation");
    // A cookie reply by the edge's own key, as it would send it under load.
    let public = x25519::PublicKey::from(*key(2).public().as_bytes());
    let mut reply = [0; 64];
    let limiter = RateLimiter::new(&public, 0);
    assert!(limiter.verify_packet(Some(at(ORIGIN_AT).ip()), &initiation, &mut reply).is_err());
    assert!(Tunn::parse_incoming_packet(&reply).is_ok());

    let before = pair.peer(Side::Origin);
    pair.inject(Side::Origin, at(ELSEWHERE), reply.to_vec());

    let after = pair.peer(Side::Origin);
    assert_eq!(after.endpoint, before.endpoint);
    assert_eq!(after.rx_bytes, before.rx_bytes + 64, "it was taken as authentic");
    assert_eq!(after.state, PeerState::Never);
}

#[test]
fn replies_leave_from_the_address_the_packet_came_to() {
    let pair = Pair::connected(Setup::plain());
    let local = pair.peer(Side::Edge).endpoint.and_then(|endpoint| endpoint.local).expect("a local side");

    assert_eq!((local.address, local.interface), (at(sim::EDGE_AT).ip(), 2));
}

#[test]
fn a_rebinding_while_busy_is_followed_at_once() {
    for seed in 1..=50 {
        let mut pair = Pair::connected(Setup { seed, ..Setup::default() });
        let handshakes = pair.peer(Side::Origin).counts.handshakes;
        pair.run_sending(&[Side::Origin, Side::Edge], ms(10), secs(2));
        let mapping = pair.path.rebind();

        pair.send(Side::Origin);
        let took = pair.run_until(secs(1), |pair| endpoint(pair) == mapping).expect("it is followed");
        assert!(took <= ms(30), "{took:?}");
        assert_eq!(pair.peer(Side::Origin).counts.handshakes, handshakes);
    }
}

#[test]
fn a_rebinding_while_idle_is_followed_within_the_keepalive() {
    for seed in 1..=50 {
        let mut pair = Pair::connected(Setup { liveness: false, seed, ..Setup::default() });
        pair.run(ms(700 * seed));
        let mapping = pair.path.rebind();

        let took = pair.run_until(secs(30), |pair| endpoint(pair) == mapping).expect("it is followed");
        assert!(took <= secs(25) + ms(100), "{took:?} with seed {seed}");

        pair.send(Side::Edge);
        pair.run(secs(1));
        assert_eq!(pair.arrived(Side::Origin), 1);
    }
}

#[test]
fn a_nat_that_rebinds_every_few_seconds_never_stops_the_traffic() {
    let mut pair = Pair::connected(Setup::default());
    pair.path.faults = Faults { loss: 0.01, ..Faults::default() };
    for _ in 0..100 {
        pair.run_sending(&[Side::Origin, Side::Edge], ms(50), secs(7));
        pair.path.rebind();
    }

    // What the edge sends in the moment after a rebinding is lost on the way, nothing else.
    assert!(pair.arrived(Side::Edge) > 13_700, "{}", pair.arrived(Side::Edge));
    assert!(pair.arrived(Side::Origin) > 13_300, "{}", pair.arrived(Side::Origin));
}

#[test]
fn an_old_initiation_replayed_after_a_restart_does_not_move_the_endpoint() {
    let mut pair = Pair::new(Setup::plain());
    pair.path.record = Some(Vec::new());
    pair.send(Side::Origin);
    pair.run(secs(1));
    let sent = pair.path.record.take().expect("a record");
    let (_, initiation) = sent.into_iter().find(|(side, _)| *side == Side::Origin).expect("an initiation");
    let mut config = pair.peer_config(Side::Edge);
    config.endpoint = Some(at(ORIGIN_AT));
    pair.restart(Side::Edge, config, secs(0));

    pair.inject(Side::Edge, at(ELSEWHERE), initiation);

    assert_eq!(endpoint(&pair), at(ORIGIN_AT));
    assert_eq!(pair.peer(Side::Edge).counts.handshakes, 0);
}

fn endpoint(pair: &Pair) -> std::net::SocketAddr {
    pair.peer(Side::Edge).endpoint.expect("an endpoint").remote
}
