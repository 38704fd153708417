//! Wall clocks that are wrong, jump, or stand in the past.

use std::time::Duration;

use sim::{ORIGIN_AT, Pair, Setup, Side, at, ms, secs};
use tunnel::node::{Event, PeerState, Verdict};
use tunnel::reason::DropReason;

const BOTH: [Side; 2] = [Side::Edge, Side::Origin];
const MONTH: u64 = 30 * 86_400;

#[test]
fn an_edge_with_a_clock_in_the_past_only_answers() {
    let mut pair = Pair::connected(Setup::plain());
    restart_edge_in_the_past(&mut pair);

    assert_eq!(pair.send(Side::Edge), Verdict::Drop(DropReason::NoSession));
    pair.run(secs(60));
    assert_eq!(pair.edge.sent, 0, "it does not initiate");
    assert_eq!(pair.edge.count(|event| matches!(event, Event::ClockBehind { .. })), 1, "it says so once");

    pair.send(Side::Origin);
    let took = pair.run_until(secs(30), |pair| pair.state(Side::Edge) == PeerState::Up);
    assert!(took.is_some(), "it answers");
    pair.send(Side::Edge);
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Origin), 1);
}

#[test]
fn it_initiates_as_soon_as_its_clock_is_set() {
    let mut pair = Pair::connected(Setup::plain());
    restart_edge_in_the_past(&mut pair);
    pair.run(secs(60));
    assert_eq!(pair.edge.sent, 0);

    pair.edge.wall_error = 0;
    let took = pair.run_until(secs(5), |pair| pair.state(Side::Edge) == PeerState::Up).expect("it initiates");
    assert!(took <= ms(1200), "{took:?}");
    assert!(pair.edge.count(|event| matches!(event, Event::Watermark { .. })) >= 1);
}

#[test]
fn every_stamp_lies_below_the_watermark_that_was_told_before() {
    let mut pair = Pair::new(Setup::default());
    pair.run_sending(&BOTH, secs(1), secs(3600));

    let mut mark = Duration::ZERO;
    for (at, event) in &pair.origin.events {
        match event {
            Event::Watermark { wall } => mark = *wall,
            Event::Handshake { .. } => assert!(Duration::from_secs(1_800_000_000) + *at <= mark + ms(50)),
            _ => {}
        }
    }
    let told = pair.origin.count(|event| matches!(event, Event::Watermark { .. }));
    assert!((20..=40).contains(&told), "{told} in an hour with thirty handshakes");
}

#[test]
fn a_restart_right_after_the_watermark_was_kept_is_not_behind() {
    let mut pair = Pair::connected(Setup::default());
    let mark = pair.origin.events.iter().rev().find_map(|(_, event)| match event {
        Event::Watermark { wall } => Some(*wall),
        _ => None,
    });
    let config = pair.peer_config(Side::Origin);
    pair.run(secs(1));
    pair.restart(Side::Origin, config, mark.expect("a watermark"));
    pair.run(ms(1));

    assert_eq!(pair.origin.count(|event| matches!(event, Event::ClockBehind { .. })), 0);
    assert_eq!(pair.origin.sent, 1, "it initiates at once");
}

#[test]
fn an_authentic_but_old_stamp_makes_the_other_side_initiate_once_in_five_seconds() {
    // An hour of life, in which the edge initiates; then it loses its clock: its stamps start where they once did.
    let mut pair = Pair::new(Setup::plain());
    pair.run(secs(3600));
    let mut config = pair.peer_config(Side::Edge);
    config.endpoint = Some(at(ORIGIN_AT));
    let now = pair.now(Side::Edge);
    pair.edge.node.update_peers(&[config.clone()], &[], now).expect("a peer");
    pair.send(Side::Edge);
    pair.run(secs(200));
    assert_eq!(pair.peer(Side::Origin).handshakes, 1);

    pair.restart(Side::Edge, config, Duration::ZERO);
    pair.send(Side::Edge);
    pair.run(secs(2));

    assert_eq!(pair.dropped(Side::Origin, DropReason::OldStamp), 1);
    assert_eq!(pair.state(Side::Edge), PeerState::Up, "the origin initiated");
    assert_eq!(pair.arrived(Side::Origin), 2);
}

#[test]
fn old_stamps_replayed_while_the_peer_is_heard_provoke_nothing() {
    let mut pair = Pair::new(Setup::default());
    pair.path.record = Some(Vec::new());
    pair.run(secs(1));
    let sent = pair.path.record.take().expect("a record");
    let (_, initiation) = sent.into_iter().find(|(side, _)| *side == Side::Origin).expect("an initiation");
    let handshakes = pair.peer(Side::Edge).handshakes;

    for _ in 0..100 {
        pair.inject(Side::Edge, at("203.0.113.66:4500"), initiation.clone());
        pair.run(secs(1));
    }

    assert_eq!(pair.dropped(Side::Edge, DropReason::OldStamp), 100);
    assert_eq!(pair.peer(Side::Edge).handshakes, handshakes);
    assert_eq!(pair.peer(Side::Edge).endpoint.map(|endpoint| endpoint.remote), Some(at(ORIGIN_AT)));
}

#[test]
fn a_wall_clock_that_jumps_by_years_loses_no_packet() {
    for error in [10 * 365 * 86_400, -10 * 365 * 86_400] {
        let mut pair = Pair::connected(Setup::default());
        pair.run_sending(&BOTH, ms(50), secs(30));
        pair.origin.wall_error = error;
        pair.edge.wall_error = error;
        pair.run_sending(&BOTH, ms(50), secs(400));
        pair.run(secs(1));

        assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (8600, 8600), "{error}");
    }
}

#[test]
fn handshakes_are_told_on_both_clocks() {
    let pair = Pair::connected(Setup::default());
    let now = pair.now(Side::Edge);
    let handshake = pair.peer(Side::Edge).latest_handshake.expect("a handshake");

    assert!(now.instant.since(handshake.instant) < secs(2));
    assert!(now.wall - handshake.wall < secs(2));
}

fn restart_edge_in_the_past(pair: &mut Pair) {
    let mut config = pair.peer_config(Side::Edge);
    config.endpoint = Some(at(ORIGIN_AT));
    config.initiate = true;
    pair.run(secs(200));
    let mark = pair.now(Side::Edge).wall;
    pair.edge.wall_error = -(MONTH as i64);
    pair.origin.delivered.clear();
    pair.restart(Side::Edge, config, mark);
}
