//! What a bad path does to packets: some may be lost, none is doubled, damaged or invented.

use sim::path::Faults;
use sim::{Pair, Setup, Side, ms, secs};
use tunnel::node::{Event, PeerState};
use tunnel::reason::DropReason;

const BOTH: [Side; 2] = [Side::Edge, Side::Origin];

#[test]
fn a_session_is_opened_at_once_and_packets_cross_both_ways() {
    let mut pair = Pair::new(Setup::default());

    let took = pair.run_until(secs(5), |pair| BOTH.iter().all(|side| pair.state(*side) == PeerState::Up));
    assert!(took.is_some_and(|took| took <= ms(100)), "{took:?}");

    pair.run_sending(&BOTH, ms(10), secs(10));
    pair.run(secs(1));
    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (1000, 1000));
}

#[test]
fn rekeys_without_losing_a_packet() {
    let mut pair = Pair::connected(Setup::default());

    pair.run_sending(&BOTH, ms(20), secs(600));
    pair.run(secs(1));

    let handshakes = pair.peer(Side::Origin).counts.handshakes;
    assert!((5..=7).contains(&handshakes), "{handshakes}");
    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (30_000, 30_000));
}

#[test]
fn a_plain_pair_rekeys_without_losing_a_packet_whoever_began() {
    for side in BOTH {
        let mut pair = Pair::connected(Setup::plain());
        pair.run_sending(&[side], ms(50), secs(600));
        pair.run(secs(1));

        assert_eq!(pair.arrived(side.other()), 12_000);
        let handshakes = pair.peer(side).counts.handshakes;
        assert!((4..=8).contains(&handshakes), "{handshakes}");
    }
}

#[test]
fn corrupted_datagrams_are_counted_and_never_delivered() {
    let mut pair = Pair::connected(Setup::plain());
    let drops_before = drops(&pair, Side::Edge);
    pair.path.faults = Faults { corruption: 0.05, ..Faults::default() };

    for _ in 0..4000 {
        pair.send(Side::Origin);
        pair.run(ms(20));
    }
    pair.path.faults = Faults::default();
    pair.run(secs(20));

    assert!(pair.path.corrupted > 100);
    let arrived = pair.arrived(Side::Edge) as u64;
    let dropped = drops(&pair, Side::Edge) - drops_before;
    assert!(arrived + dropped >= 4000 && arrived > 3500, "{arrived} and {dropped}");
}

#[test]
fn duplicated_datagrams_are_delivered_once_and_counted_exactly() {
    let mut pair = Pair::connected(Setup::plain());
    pair.path.faults = Faults { duplication: 0.1, ..Faults::default() };

    for _ in 0..2000 {
        pair.send(Side::Origin);
        pair.run(ms(2));
    }
    pair.run(secs(5));

    assert_eq!(pair.arrived(Side::Edge), 2000);
    assert_eq!(replays(&pair), pair.path.duplicated);
    assert!(pair.path.duplicated > 100);
}

#[test]
fn reordered_datagrams_are_all_delivered_once() {
    let mut pair = Pair::connected(Setup::default());
    pair.path.faults = Faults { reordering: 0.3, jitter: ms(400), ..Faults::default() };

    pair.run_sending(&BOTH, ms(1), secs(20));
    pair.run(secs(1));

    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (20_000, 20_000));
}

#[test]
fn every_fault_at_once_loses_only_what_the_path_lost() {
    for seed in 1..=5 {
        let mut pair = Pair::connected(Setup { seed, ..Setup::default() });
        pair.path.faults =
            Faults { loss: 0.05, duplication: 0.05, corruption: 0.02, reordering: 0.2, jitter: ms(50) };

        pair.run_sending(&BOTH, ms(10), secs(300));
        pair.path.faults = Faults::default();
        pair.run(secs(2));

        for side in BOTH {
            let share = pair.arrived(side) as f64 / 30_000.0;
            assert!(share > 0.91, "{share} arrived with seed {seed}");
        }
    }
}

#[test]
fn a_path_that_loses_a_fifth_stays_usable() {
    let mut pair = Pair::connected(Setup::default());
    pair.path.faults = Faults { loss: 0.2, ..Faults::default() };

    pair.run_sending(&BOTH, ms(50), secs(1200));
    pair.run(secs(1));

    assert!(pair.arrived(Side::Edge) as f64 / 24_000.0 > 0.78);
    let downs = pair.origin.count(|event| matches!(event, Event::StateChanged { to: PeerState::Down, .. }));
    assert_eq!(downs, 0);
    assert!(pair.peer(Side::Origin).loss_ratio.is_some_and(|loss| loss > 0.1));
}

fn drops(pair: &Pair, side: Side) -> u64 {
    DropReason::ALL.iter().map(|reason| pair.dropped(side, *reason)).sum()
}

fn replays(pair: &Pair) -> u64 {
    pair.dropped(Side::Edge, DropReason::Replayed) + pair.dropped(Side::Origin, DropReason::Replayed)
}
