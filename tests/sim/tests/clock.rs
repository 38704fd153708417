//! Wall clocks that are wrong, jump, or are in the past.

use std::time::Duration;

use sim::{ORIGIN_AT, Pair, Setup, Side, at, ms, secs};
use tunnel::node::{Event, PeerConfig, PeerState};
use tunnel::reason::DropReason;
use tunnel::time::ClockFault;

const BOTH: [Side; 2] = [Side::Edge, Side::Origin];
const TEN_YEARS: u64 = 3_653 * 86_400;
const ELSEWHERE: &str = "203.0.113.66:4500";

#[test]
fn a_side_whose_clock_ran_ten_years_ahead_is_up_again_within_ten_seconds_after_a_restart() {
    for side in BOTH {
        for mark in [Mark::Kept, Mark::Missing, Mark::Damaged] {
            for rebound in [false, true] {
                let mut pair = ten_years_ahead(&[side]);
                if rebound {
                    pair.path.rebind();
                }
                restart_in_the_present(&mut pair, side, mark);
                let took = pair.run_until(secs(10), is_up_again);
                assert!(took.is_some(), "{side:?} {mark:?} rebound {rebound}");
                assert_carries(&mut pair);
            }
        }
    }
}

#[test]
fn both_sides_whose_clocks_ran_ahead_are_up_again_whatever_order_they_restart_in() {
    for order in [[Side::Edge, Side::Origin], [Side::Origin, Side::Edge]] {
        for pause in [ms(0), secs(3), secs(20)] {
            let mut pair = ten_years_ahead(&BOTH);
            restart_in_the_present(&mut pair, order[0], Mark::Kept);
            pair.run(pause);
            restart_in_the_present(&mut pair, order[1], Mark::Kept);
            assert!(pair.run_until(secs(10), is_up_again).is_some(), "{order:?} {pause:?}");
            assert_carries(&mut pair);
        }
    }
}

#[test]
fn a_clock_that_is_set_back_by_ten_years_without_a_restart_costs_nothing() {
    for side in BOTH {
        let mut pair = ten_years_ahead(&[side]);
        pair.end(side).wall_error = -(TEN_YEARS as i64);
        pair.path.set_blackhole(true);
        pair.run(secs(200));
        pair.path.set_blackhole(false);
        assert!(pair.run_until(secs(20), is_up_again).is_some(), "{side:?}");
        pair.run_sending(&BOTH, ms(100), secs(300));
        assert_carries(&mut pair);
    }
}

#[test]
fn a_clock_behind_is_reported_once_and_the_mark_follows_it_once_a_session_is_agreed() {
    let mut pair = ten_years_ahead(&[Side::Origin]);
    restart_in_the_present(&mut pair, Side::Origin, Mark::Kept);
    let now = pair.now(Side::Origin);
    assert!(
        matches!(pair.origin.node.clock_fault(now), Some(ClockFault::Behind(by)) if by > secs(TEN_YEARS - 60))
    );
    pair.run(secs(60));

    assert_eq!(pair.origin.count(|event| matches!(event, Event::ClockBehind { .. })), 1);
    assert_eq!(pair.edge.count(|event| matches!(event, Event::OldTimestamp { .. })), 1);
    let now = pair.now(Side::Origin);
    assert_eq!(pair.origin.node.clock_fault(now), None);
    assert!(last_mark(&pair).is_some_and(|mark| mark < now.wall + secs(61)));
}

#[test]
fn an_initiation_recorded_while_the_clock_was_ahead_keeps_no_peer_out_after_a_restart() {
    let mut pair = Pair::new(Setup { initiate: false, keepalive: None, ..Setup::default() });
    pair.run(secs(TEN_YEARS));
    pair.path.record = Some(Vec::new());
    dial(&mut pair, Side::Edge);
    pair.run(ms(10));
    let from_edge = recorded_initiation(&mut pair, Side::Edge);
    pair.path.record = Some(Vec::new());
    dial(&mut pair, Side::Origin);
    pair.run(secs(10));
    let from_origin = recorded_initiation(&mut pair, Side::Origin);
    for poisoned in [&[Side::Edge][..], &BOTH] {
        for side in BOTH {
            restart_in_the_present(&mut pair, side, Mark::Kept);
        }
        for side in poisoned {
            let initiation = if *side == Side::Edge { &from_origin } else { &from_edge };
            pair.inject(*side, at(ELSEWHERE), initiation.clone());
        }
        // Each recorded initiation makes its receiver wait for a confirmation. Both sides then
        // initiate at the same time.
        assert!(pair.run_until(secs(20), is_up_again).is_some(), "{poisoned:?}");
        assert_eq!(pair.peer(Side::Edge).endpoint.map(|endpoint| endpoint.remote), Some(at(ORIGIN_AT)));
        assert_carries(&mut pair);
    }
}

#[test]
fn an_old_stamp_is_answered_by_one_initiation_in_five_seconds_to_its_source_and_the_endpoint_stays() {
    let mut pair = Pair::new(Setup::plain());
    pair.path.record = Some(Vec::new());
    pair.send(Side::Origin);
    pair.run(secs(1));
    let old = recorded_initiation(&mut pair, Side::Origin);
    pair.run(secs(300));
    pair.path.set_blackhole(true);
    let sent = pair.edge.sent;
    pair.path.record = Some(Vec::new());

    for _ in 0..100 {
        pair.inject(Side::Edge, at(ELSEWHERE), old.clone());
        pair.run(ms(200));
    }

    let initiations =
        pair.path.record.take().expect("a record").iter().filter(|(_, bytes)| bytes[0] == 1).count();
    // The edge may repeat its last initiation to the peer's old address in between.
    assert!((4..=5).contains(&initiations), "{initiations} in twenty seconds");
    assert_eq!(pair.edge.sent - sent, initiations as u64, "nothing else was sent");
    assert_eq!(pair.peer(Side::Edge).endpoint.map(|endpoint| endpoint.remote), Some(at(ORIGIN_AT)));
}

#[test]
fn every_stamp_lies_below_the_watermark_that_was_reported_before() {
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
    let reported = pair.origin.count(|event| matches!(event, Event::Watermark { .. }));
    assert!((20..=40).contains(&reported), "{reported} in an hour with thirty handshakes");
}

#[test]
fn a_restart_right_after_the_watermark_was_kept_is_not_behind() {
    let mut pair = Pair::connected(Setup::default());
    let mark = last_mark(&pair);
    let config = pair.peer_config(Side::Origin);
    pair.run(secs(1));
    pair.restart(Side::Origin, config, mark.expect("a watermark"));
    pair.run(ms(1));

    assert_eq!(pair.origin.count(|event| matches!(event, Event::ClockBehind { .. })), 0);
    assert_eq!(pair.origin.sent, 1, "it initiates at once");
}

#[test]
fn an_authentic_but_old_stamp_makes_the_other_side_initiate_once_in_five_seconds() {
    // The edge runs for an hour and initiates; then it loses its clock, and its timestamps start
    // again where they started first.
    let mut pair = Pair::new(Setup::plain());
    pair.run(secs(3600));
    let mut config = pair.peer_config(Side::Edge);
    config.endpoint = Some(at(ORIGIN_AT));
    let now = pair.now(Side::Edge);
    pair.edge.node.update_peers(&[config.clone()], &[], now).expect("a peer");
    pair.send(Side::Edge);
    pair.run(secs(200));
    assert_eq!(pair.peer(Side::Origin).counts.handshakes, 1);

    pair.restart(Side::Edge, config, Duration::ZERO);
    pair.send(Side::Edge);
    pair.run(secs(2));

    assert_eq!(pair.dropped(Side::Origin, DropReason::OldTimestamp), 1);
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
    let handshakes = pair.peer(Side::Edge).counts.handshakes;

    for _ in 0..100 {
        pair.inject(Side::Edge, at("203.0.113.66:4500"), initiation.clone());
        pair.run(secs(1));
    }

    assert_eq!(pair.dropped(Side::Edge, DropReason::OldTimestamp), 100);
    assert_eq!(pair.peer(Side::Edge).counts.handshakes, handshakes);
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
fn handshakes_are_reported_on_both_clocks() {
    let pair = Pair::connected(Setup::default());
    let now = pair.now(Side::Edge);
    let handshake = pair.peer(Side::Edge).latest_handshake.expect("a handshake");

    assert!(now.instant.since(handshake.instant) < secs(2));
    assert!(now.wall - handshake.wall < secs(2));
}

/// What a side has on its disk.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Kept,
    Missing,
    Damaged,
}

/// A connected pair in which the other end of each of `sides` has seen a timestamp of it that is
/// ten years ahead.
fn ten_years_ahead(sides: &[Side]) -> Pair {
    let mut pair = Pair::new(Setup { initiate: false, keepalive: None, ..Setup::default() });
    // The timestamps of a `Tunn` start when it was made: new ones are in the present again.
    pair.run(secs(TEN_YEARS));
    for side in BOTH.into_iter().filter(|side| !sides.contains(side)) {
        let mut config = pair.peer_config(side);
        config.endpoint = None;
        pair.restart(side, config, Duration::ZERO);
    }
    for side in sides {
        dial(&mut pair, *side);
        assert!(pair.run_until(secs(1), is_up_again).is_some());
        pair.run(secs(6));
    }
    dial(&mut pair, Side::Origin);
    pair.run(secs(10));
    pair
}

/// Lets `side` open the session itself, as the product's ends do that know an endpoint.
fn dial(pair: &mut Pair, side: Side) {
    let (config, now) = (dialling(pair, side), pair.now(side));
    pair.end(side).node.update_peers(&[config], &[], now).expect("a peer");
    let id = pair.peer_id(side);
    let endpoint = if side == Side::Edge { at(ORIGIN_AT) } else { at(sim::EDGE_AT) };
    pair.end(side).node.set_endpoint(id, endpoint, now);
    pair.network_change(side);
}

fn dialling(pair: &Pair, side: Side) -> PeerConfig {
    let endpoint = if side == Side::Edge { at(ORIGIN_AT) } else { at(sim::EDGE_AT) };
    let keepalive = (side == Side::Origin).then(|| secs(25));
    PeerConfig { endpoint: Some(endpoint), keepalive, initiate: true, ..pair.peer_config(side) }
}

/// Starts `side` again with a clock that is right.
fn restart_in_the_present(pair: &mut Pair, side: Side, mark: Mark) {
    let mark = match mark {
        Mark::Kept => pair.now(side).wall + secs(60),
        Mark::Missing => Duration::ZERO,
        Mark::Damaged => Duration::MAX,
    };
    pair.end(side).wall_error = -(TEN_YEARS as i64);
    let config = dialling(pair, side);
    pair.restart(side, config, mark);
}

/// Whether both sides have heard the other within the last moments, through a session they both
/// know.
fn is_up_again(pair: &Pair) -> bool {
    BOTH.iter().all(|side| {
        let (peer, now) = (pair.peer(*side), pair.now(*side));
        peer.state == PeerState::Up
            && peer.latest_handshake.is_some_and(|at| now.instant.since(at.instant) < secs(11))
    })
}

fn assert_carries(pair: &mut Pair) {
    let before = [pair.arrived(Side::Edge), pair.arrived(Side::Origin)];
    pair.send(Side::Edge);
    pair.send(Side::Origin);
    pair.run(secs(1));
    assert_eq!([pair.arrived(Side::Edge), pair.arrived(Side::Origin)], before.map(|count| count + 1));
}

fn recorded_initiation(pair: &mut Pair, from: Side) -> Vec<u8> {
    let sent = pair.path.record.take().expect("a record");
    let initiation = sent.into_iter().rev().find(|(side, bytes)| *side == from && bytes[0] == 1);
    initiation.expect("an initiation").1
}

fn last_mark(pair: &Pair) -> Option<Duration> {
    pair.origin.events.iter().rev().find_map(|(_, event)| match event {
        Event::Watermark { wall } => Some(*wall),
        _ => None,
    })
}
