//! Recovery from silence, from restarts and from suspends.

use sim::path::Faults;
use sim::{ORIGIN_AT, Pair, Setup, Side, at, ms, secs};
use tunnel::node::{Event, PeerConfig, PeerState, RecoveryStep, Verdict};

const BOTH: [Side; 2] = [Side::Edge, Side::Origin];

#[test]
fn recovers_for_ever_after_the_session_expired() {
    for (liveness, limit) in [(true, secs(20)), (false, secs(80))] {
        let mut pair = Pair::connected(Setup { liveness, ..Setup::default() });
        pair.path.set_blackhole(true);
        pair.run(secs(6 * 3600));
        assert_eq!(pair.state(Side::Origin), PeerState::Down);
        assert!(pair.peer(Side::Origin).counts.handshake_failures > 0, "liveness {liveness}");

        pair.path.set_blackhole(false);
        let took = pair.run_until(limit, |pair| pair.state(Side::Origin) == PeerState::Up);
        assert!(took.is_some(), "liveness {liveness}");
        pair.send(Side::Edge);
        pair.send(Side::Origin);
        pair.run(secs(1));
        assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (1, 1));
    }
}

#[test]
fn ten_minutes_of_blackhole_are_over_within_twenty_seconds() {
    for seed in 1..=10 {
        let mut pair = Pair::connected(Setup { seed, ..Setup::default() });
        pair.path.set_blackhole(true);
        pair.run_sending(&BOTH, secs(1), secs(600));
        pair.path.set_blackhole(false);

        let up = |pair: &Pair| BOTH.iter().all(|side| pair.state(*side) == PeerState::Up);
        assert!(pair.run_until(secs(20), up).is_some());
    }
}

#[test]
fn a_waiting_peer_tries_at_a_bounded_rate() {
    let mut pair = Pair::connected(Setup::default());
    pair.path.set_blackhole(true);
    let (sent, wakes) = (pair.origin.sent, pair.origin.wakes);

    pair.run(secs(3600));

    let (sent, wakes) = (pair.origin.sent - sent, pair.origin.wakes - wakes);
    assert!((360..=1200).contains(&sent), "{sent} datagrams in an hour");
    assert!(wakes < 3600, "{wakes} wakes in an hour");
}

#[test]
fn an_edge_that_starts_a_moment_later_is_found_within_a_second() {
    for (seed, late) in [(1, ms(100)), (2, ms(400)), (3, ms(700))] {
        let mut pair = Pair::new(Setup { seed, ..Setup::default() });
        pair.path.set_blackhole(true);
        pair.run(late);
        pair.path.set_blackhole(false);
        let took = pair.run_until(ms(1_100), |pair| pair.state(Side::Origin) == PeerState::Up);
        assert!(took.is_some(), "{late:?}");
    }
}

#[test]
fn the_first_handshake_is_repeated_three_times_and_then_waits_for_the_ladder() {
    let mut pair = Pair::new(Setup::default());
    pair.path.set_blackhole(true);
    let mut sent_by = |elapsed| {
        pair.run(elapsed - pair.elapsed());
        pair.origin.sent
    };

    // The pauses are 250 ms, 500 ms and a second, each and up to a fifth more.
    assert_eq!([sent_by(ms(249)), sent_by(ms(300))], [1, 2]);
    assert_eq!([sent_by(ms(749)), sent_by(ms(900))], [2, 3]);
    assert_eq!([sent_by(ms(1_749)), sent_by(ms(2_100))], [3, 4]);
    assert_eq!(sent_by(ms(6_700)), 4);
}

#[test]
fn an_edge_that_has_answered_waits_for_the_confirmation_before_it_initiates() {
    let mut pair = Pair::new(Setup::default());
    let config = PeerConfig { keepalive: Some(secs(25)), ..pair.peer_config(Side::Edge) };
    let now = pair.now(Side::Edge);
    pair.edge.node.update_peers(std::slice::from_ref(&config), &[], now).expect("a peer");
    pair.path.record = Some(Vec::new());
    pair.run(secs(4));
    assert_eq!(initiations(&mut pair, Side::Edge), 0);
    assert_eq!((pair.peer(Side::Edge).counts.handshakes, pair.peer(Side::Origin).counts.handshakes), (1, 1));

    // The response is never confirmed, because the origin is gone.
    let mut pair = Pair::new(Setup::default());
    let now = pair.now(Side::Edge);
    pair.edge.node.update_peers(&[config], &[], now).expect("a peer");
    pair.path.record = Some(Vec::new());
    pair.run(ms(20));
    pair.end(Side::Origin).suspended = true;
    pair.run(ms(4_900));
    assert_eq!(initiations(&mut pair, Side::Edge), 0);
    pair.run(ms(200));
    assert_eq!(initiations(&mut pair, Side::Edge), 1);
}

#[test]
fn a_plain_peer_backs_off() {
    let mut pair = Pair::new(Setup { liveness: false, ..Setup::default() });
    pair.path.set_blackhole(true);

    pair.run(secs(3600));

    let retries =
        pair.origin.count(|event| matches!(event, Event::Recover { step: RecoveryStep::Handshake, .. }));
    assert!((30..=70).contains(&retries), "{retries}");
    assert!(
        pair.origin.count(|event| matches!(event, Event::Recover { step: RecoveryStep::Rebind, .. })) == 0
    );
}

#[test]
fn two_origins_do_not_dial_at_the_same_times() {
    let calls = |_: u64| {
        let mut pair = Pair::new(Setup::default());
        pair.path.set_blackhole(true);
        pair.run(secs(600));
        pair.origin.events.iter().map(|(at, _)| *at).collect::<Vec<_>>()
    };
    let (one, other) = (calls(1), calls(2));

    let same = one.iter().filter(|at| **at > secs(60) && other.contains(at)).count();
    assert!(same * 10 < one.len(), "{same} of {}", one.len());
}

#[test]
fn three_lost_probes_start_the_recovery_ladder_step_by_step() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    pair.origin.events.clear();
    let cut = pair.elapsed();
    pair.path.set_blackhole(true);
    pair.run(secs(20));

    let steps: Vec<_> = pair
        .origin
        .events
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Recover { step, .. } => Some((*at - cut, *step)),
            _ => None,
        })
        .collect();
    let order: Vec<_> = steps.iter().take(3).map(|(_, step)| *step).collect();
    assert_eq!(order, [RecoveryStep::Handshake, RecoveryStep::Rebind, RecoveryStep::Resolve]);
    assert!(steps[0].0 <= secs(8) + ms(100), "{:?}", steps[0]);
    assert!(steps[2].0 <= secs(13), "{:?}", steps[2]);
}

#[test]
fn a_short_outage_ends_with_the_first_step() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    pair.path.set_blackhole(true);
    pair.run_until(secs(10), |pair| pair.peer(Side::Origin).counts.recoveries[0] == 1)
        .expect("the first step");
    pair.path.set_blackhole(false);

    pair.run(secs(60));

    assert_eq!(pair.state(Side::Origin), PeerState::Up);
    assert!(
        pair.peer(Side::Origin).counts.recoveries[0] <= 2,
        "{:?}",
        pair.peer(Side::Origin).counts.recoveries
    );
    assert_eq!(pair.peer(Side::Origin).counts.recoveries[2], 0);
}

#[test]
fn the_resolved_address_is_tried_at_once() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(30));
    let moved = at("192.0.2.200:51820");
    pair.path.edge = moved;
    let config = pair.peer_config(Side::Edge);
    pair.restart(Side::Edge, config, secs(0));

    pair.run_until(secs(15), |pair| pair.peer(Side::Origin).counts.recoveries[2] == 1)
        .expect("the name is to be resolved");
    let (id, now) = (pair.peer_id(Side::Origin), pair.now(Side::Origin));
    pair.origin.node.set_endpoint(id, moved, now);

    let took = pair.run_until(secs(5), |pair| pair.state(Side::Origin) == PeerState::Up).expect("it is back");
    assert!(took <= ms(200), "{took:?}");
    assert_eq!(pair.peer(Side::Origin).endpoint.map(|endpoint| endpoint.remote), Some(moved));
}

#[test]
fn a_resolved_address_does_not_override_one_that_works() {
    let pair = Pair::connected(Setup::default());
    let (id, now) = (pair.peer_id(Side::Origin), pair.now(Side::Origin));
    pair.origin.node.set_endpoint(id, at("192.0.2.200:51820"), now);

    assert_eq!(pair.peer(Side::Origin).endpoint.map(|endpoint| endpoint.remote), Some(at(sim::EDGE_AT)));
}

#[test]
fn an_edge_that_restarts_initiates_to_the_last_known_endpoint_and_is_up_within_five_seconds() {
    let mut pair = Pair::connected(Setup::default());
    pair.run_sending(&BOTH, ms(100), secs(30));
    let mut config = pair.peer_config(Side::Edge);
    config.endpoint = Some(at(ORIGIN_AT));
    config.initiate = true;
    pair.restart(Side::Edge, config, secs(0));

    let took = pair.run_until(secs(5), |pair| pair.state(Side::Edge) == PeerState::Up);
    assert!(took.is_some());
    // The origin changes to the new session with the first packet through it.
    pair.run(ms(50));
    pair.run_sending(&BOTH, ms(100), secs(5));
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), 50);
}

#[test]
fn an_edge_that_remembers_nothing_is_found_by_the_origins_probes() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(30));
    let config = pair.peer_config(Side::Edge);
    pair.restart(Side::Edge, config, secs(0));

    let took = pair.run_until(secs(15), |pair| pair.state(Side::Edge) == PeerState::Up).expect("it is back");
    assert!(took <= secs(9), "{took:?}");
}

#[test]
fn an_origin_that_restarts_dials_at_once() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(ms(500));
    let config = pair.peer_config(Side::Origin);
    pair.restart(Side::Origin, config, secs(0));
    // A process that starts later has a later clock; here boringtun's wall clock does not move.
    let took = pair.run_until(secs(15), |pair| pair.state(Side::Origin) == PeerState::Up);
    assert!(took.is_some());
}

#[test]
fn a_suspend_of_200_seconds_is_over_with_the_first_packet() {
    for side in BOTH {
        let mut pair = Pair::connected(Setup::default());
        pair.run_sending(&BOTH, ms(100), secs(10));
        pair.run(ms(500));
        let arrived = pair.arrived(side.other());
        pair.end(side).suspended = true;
        pair.run(secs(200));
        pair.end(side).suspended = false;
        let sent = pair.end(side).sent;
        pair.path.record = Some(Vec::new());

        pair.send(side);
        pair.run(ms(100));
        let burst = pair.end(side).sent - sent;
        // The other side's own handshake may cross this one: then two are answered, confirmed and
        // probed, which are eight datagrams.
        assert!(burst <= 8, "{burst} datagrams of {side:?} at once after waking");
        assert!(initiations(&mut pair, side) <= 1, "{side:?} begins once");
        let took = pair.run_until(secs(6), |pair| pair.arrived(side.other()) > arrived);
        assert!(took.is_some(), "{side:?}");
    }
}

#[test]
fn a_session_past_its_life_carries_nothing_even_right_after_a_suspend() {
    let mut pair = Pair::connected(Setup::plain());
    pair.run(secs(1));
    let old = pair.seal(Side::Origin);
    pair.edge.suspended = true;
    pair.origin.suspended = true;
    pair.run(secs(181));
    pair.edge.suspended = false;
    pair.origin.suspended = false;

    assert!(matches!(pair.send(Side::Origin), Verdict::Waiting { .. }));
    pair.inject(Side::Edge, at(ORIGIN_AT), old);
    assert_eq!(pair.arrived(Side::Edge), 0);
}

#[test]
fn a_change_of_network_tries_the_path_at_once() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    let handshakes = pair.peer(Side::Origin).counts.handshakes;
    pair.path.rebind();
    pair.network_change(Side::Origin);

    let took = pair.run_until(secs(5), |pair| pair.peer(Side::Origin).counts.handshakes > handshakes);
    assert!(took.is_some_and(|took| took <= ms(50)), "{took:?}");
    assert_eq!(pair.peer(Side::Edge).endpoint.map(|endpoint| endpoint.remote), Some(pair.path.mapping()));
}

#[test]
fn a_plain_peer_with_waiting_data_is_tried_while_data_is_offered_and_then_left_alone() {
    let mut pair = Pair::new(Setup::plain());
    pair.path.set_blackhole(true);
    pair.run_sending(&[Side::Origin], secs(1), secs(300));
    let while_offered = pair.origin.sent;
    assert!(while_offered >= 50, "{while_offered}");

    pair.run(secs(600));
    assert_eq!(
        pair.dropped(Side::Origin, tunnel::reason::DropReason::NoSession),
        300,
        "each that waited is counted"
    );
    let after = pair.origin.sent;
    pair.run(secs(3600));
    assert_eq!(pair.origin.sent, after, "no handshake is sent any more");

    pair.path.set_blackhole(false);
    pair.send(Side::Origin);
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), 1);
}

#[test]
fn at_most_256_packets_wait_for_a_session() {
    let mut pair = Pair::new(Setup::plain());
    for _ in 0..300 {
        pair.send(Side::Origin);
    }
    pair.run(secs(2));

    assert_eq!(pair.arrived(Side::Edge), 256);
    assert_eq!(pair.dropped(Side::Origin, tunnel::reason::DropReason::SendQueueFull), 44);
}

#[test]
fn a_one_way_failure_is_seen_and_tried() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(20));
    pair.path.blackhole = [true, false];
    pair.run(secs(30));
    assert!(
        pair.peer(Side::Origin).counts.recoveries[1] >= 1,
        "{:?}",
        pair.peer(Side::Origin).counts.recoveries
    );

    pair.path.blackhole = [false, false];
    pair.path.faults = Faults::default();
    assert!(pair.run_until(secs(20), |pair| pair.state(Side::Edge) == PeerState::Up).is_some());
}

#[test]
fn a_peer_that_stops_answering_probes_is_not_sent_ever_more_handshakes() {
    let mut pair = Pair::connected(Setup::default());
    pair.run(secs(30));
    // The far end becomes a plain WireGuard interface with the same key, whose system answers no
    // echo.
    let plain = Pair::new(Setup::plain());
    let now = pair.now(Side::Edge);
    pair.edge = plain.edge;
    let config = pair.peer_config(Side::Edge);
    pair.edge.node.update_peers(&[config], &[], now).expect("a peer");
    pair.run(secs(900));

    let handshakes = pair.peer(Side::Origin).counts.handshakes;
    assert!(handshakes < 80, "{handshakes} in fifteen minutes");
    pair.run(secs(3600));
    let later = pair.peer(Side::Origin).counts.handshakes - handshakes;
    assert!(later <= 40, "{later} in the hour after that");
    assert_eq!(pair.state(Side::Origin), PeerState::Up);
}

/// How many handshakes `side` has begun or repeated since the last call.
fn initiations(pair: &mut Pair, side: Side) -> usize {
    let record = pair.path.record.replace(Vec::new()).expect("a record");
    record.iter().filter(|(from, datagram)| *from == side && datagram.first() == Some(&1)).count()
}
