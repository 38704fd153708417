use std::net::UdpSocket;
use std::time::Duration;

use crate::{
    Answer, Counters, Direction, Faults, InvalidFaults, Path, QUEUE_LIMIT, RECORD_LIMIT, Relay, Window,
    answer,
};

const START: Duration = Duration::ZERO;
const LATE: Duration = Duration::from_secs(3600);

#[test]
fn a_perfect_path_delivers_everything_at_once_and_in_order() {
    let mut path = Path::new(1);
    send_numbers(&mut path, 100);
    assert_eq!(delivered_numbers(&mut path, START), (0..100).collect::<Vec<u32>>());
    assert_eq!(path.poll_timeout(), None);
}

#[test]
fn the_same_seed_does_the_same_and_another_seed_does_not() {
    let run = |seed| {
        let faults =
            Faults { drop: 0.2, duplicate: 0.1, reorder: 0.2, reorder_depth: 3, ..Faults::default() };
        let mut path = faulty(seed, faults);
        send_numbers(&mut path, 500);
        delivered_numbers(&mut path, LATE)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_path_that_is_reseeded_does_what_a_new_one_does() {
    let faults = Faults { drop: 0.2, duplicate: 0.1, ..Faults::default() };
    let run = |mut path: Path| {
        send_numbers(&mut path, 500);
        delivered_numbers(&mut path, LATE)
    };
    let mut used = faulty(7, faults.clone());
    send_numbers(&mut used, 123);
    delivered_numbers(&mut used, LATE);
    used.reseed(8);
    assert_eq!(run(used), run(faulty(8, faults)));
}

#[test]
fn losses_are_counted_exactly_and_near_their_probability() {
    let mut path = faulty(3, Faults { drop: 0.3, ..Faults::default() });
    for _ in 0..10_000 {
        path.handle_datagram(START, b"x");
        while path.poll_datagram(START).is_some() {}
    }
    let Counters { received, delivered, dropped, .. } = path.counters();
    assert_eq!((received, delivered + dropped), (10_000, 10_000));
    assert!((2_850..=3_150).contains(&dropped), "{dropped} of 10000");
}

#[test]
fn a_setting_of_one_fault_does_not_change_the_fate_another_gives() {
    let lost = |faults| {
        let mut path = faulty(5, faults);
        send_numbers(&mut path, 200);
        let mut numbers = delivered_numbers(&mut path, LATE);
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let alone = Faults { drop: 0.3, ..Faults::default() };
    assert_eq!(lost(alone.clone()), lost(Faults { duplicate: 1.0, ..alone }));
}

#[test]
fn a_held_datagram_is_overtaken_by_exactly_the_depth() {
    let mut path = faulty(1, Faults { reorder: 1.0, reorder_depth: 2, ..Faults::default() });
    path.handle_datagram(START, &0_u32.to_be_bytes());
    path.set_faults(Faults { reorder_depth: 2, ..Faults::default() });
    for number in 1..5_u32 {
        path.handle_datagram(START, &number.to_be_bytes());
    }
    assert_eq!(delivered_numbers(&mut path, START), [1, 2, 0, 3, 4]);
}

#[test]
fn a_held_datagram_that_nothing_overtakes_comes_after_a_tenth_of_a_second() {
    let mut path = faulty(1, Faults { reorder: 1.0, reorder_depth: 9, ..Faults::default() });
    path.handle_datagram(START, b"x");
    assert_eq!(path.poll_datagram(START), None);
    let due = path.poll_timeout().unwrap();
    assert_eq!(due, Duration::from_millis(100));
    assert!(path.poll_datagram(due).is_some());
}

#[test]
fn delay_and_jitter_stay_inside_their_bounds() {
    let mut path = faulty(2, Faults { delay_ms: 50, jitter_ms: 10, ..Faults::default() });
    send_numbers(&mut path, 100);
    assert_eq!(path.poll_datagram(Duration::from_millis(49)), None);
    let early = delivered_numbers(&mut path, Duration::from_millis(54)).len();
    assert!((1..100).contains(&early));
    assert_eq!(delivered_numbers(&mut path, Duration::from_millis(60)).len() + early, 100);
}

#[test]
fn a_flip_changes_one_bit_and_a_cut_leaves_a_prefix() {
    let mut path = faulty(4, Faults { flip: 1.0, ..Faults::default() });
    path.handle_datagram(START, &[0; 64]);
    let flipped = path.poll_datagram(START).unwrap();
    assert_eq!(flipped.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);

    path.set_faults(Faults { truncate: 1.0, ..Faults::default() });
    path.handle_datagram(START, &[7; 64]);
    let cut = path.poll_datagram(START).unwrap();
    assert!((1..64).contains(&cut.len()) && cut.iter().all(|byte| *byte == 7));
    path.handle_datagram(START, &[]);
    assert_eq!(path.poll_datagram(START), Some(Vec::new()));
    assert_eq!((path.counters().flipped, path.counters().truncated), (1, 1));
}

#[test]
fn a_datagram_at_the_mtu_passes_and_one_byte_more_vanishes() {
    let mut path = faulty(1, Faults { mtu: Some(1280), ..Faults::default() });
    path.handle_datagram(START, &[0; 1280]);
    path.handle_datagram(START, &[0; 1281]);
    assert_eq!(path.poll_datagram(START).map(|datagram| datagram.len()), Some(1280));
    assert_eq!(path.poll_datagram(START), None);
    assert_eq!(path.counters().too_long, 1);
}

#[test]
fn a_rate_spreads_datagrams_over_time() {
    let mut path = faulty(1, Faults { rate: Some(1000), ..Faults::default() });
    for _ in 0..10 {
        path.handle_datagram(START, &[0; 100]);
    }
    let arrived = |path: &mut Path, millis| {
        std::iter::from_fn(|| path.poll_datagram(Duration::from_millis(millis))).count()
    };
    assert_eq!((arrived(&mut path, 99), arrived(&mut path, 500), arrived(&mut path, 1000)), (0, 5, 5));
}

#[test]
fn a_black_hole_swallows_inside_its_windows_only() {
    let window = Window { from_ms: 100, to_ms: 200 };
    let mut path = faulty(1, Faults { blackhole_windows: vec![window], ..Faults::default() });
    for millis in [99, 100, 199, 200] {
        path.handle_datagram(Duration::from_millis(millis), b"x");
    }
    assert_eq!((path.counters().swallowed, std::iter::from_fn(|| path.poll_datagram(LATE)).count()), (2, 2));
}

#[test]
fn the_queue_and_the_record_stop_at_their_limits() {
    let mut path = faulty(1, Faults { delay_ms: 1000, ..Faults::default() });
    path.record(true);
    for _ in 0..QUEUE_LIMIT + 3 {
        path.handle_datagram(START, b"x");
    }
    assert_eq!(path.counters().queue_full, 3);
    while path.poll_datagram(LATE).is_some() {}
    assert_eq!(path.replay(LATE, usize::MAX), RECORD_LIMIT);
}

#[test]
fn a_replay_repeats_the_last_datagrams_oldest_first() {
    let mut path = Path::new(1);
    path.record(true);
    send_numbers(&mut path, 5);
    assert_eq!(delivered_numbers(&mut path, START).len(), 5);
    assert_eq!(path.replay(START, 2), 2);
    assert_eq!(delivered_numbers(&mut path, START), [3, 4]);
}

#[test]
fn faults_that_cannot_be_meant_are_refused() {
    let refused = |faults: Faults| faults.check();
    assert_eq!(refused(Faults { drop: 1.5, ..Faults::default() }), Err(InvalidFaults::Probability));
    assert_eq!(refused(Faults { flip: f64::NAN, ..Faults::default() }), Err(InvalidFaults::Probability));
    assert_eq!(refused(Faults { rate: Some(0), ..Faults::default() }), Err(InvalidFaults::Rate));
    assert_eq!(refused(Faults { delay_ms: 3_600_001, ..Faults::default() }), Err(InvalidFaults::Delay));
}

#[test]
fn a_relay_between_sockets_carries_both_ways_and_rebinds_to_a_new_port() -> anyhow::Result<()> {
    let (relay, near, target) = relay_on_loopback()?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    let exchange = || -> anyhow::Result<u16> {
        let mut buffer = [0; 16];
        client.send_to(b"ping", near)?;
        let (length, from) = target.recv_from(&mut buffer)?;
        target.send_to(&buffer[..length], from)?;
        assert_eq!(client.recv(&mut buffer)?, 4);
        Ok(from.port())
    };
    let first = exchange()?;
    let rebound = relay.rebind()?.port();
    assert_ne!(first, rebound);
    assert_eq!(exchange()?, rebound);
    assert_eq!(relay.counters(Direction::Back).delivered, 2);
    Ok(())
}

#[test]
fn the_control_protocol_sets_counts_and_refuses() -> anyhow::Result<()> {
    let (relay, near, target) = relay_on_loopback()?;
    let set = r#"{"faults": {"direction": "forward", "faults": {"drop": 1.0}}}"#;
    assert_eq!(answer(&relay, set), Answer::Done);
    target.set_read_timeout(Some(Duration::from_millis(100)))?;
    UdpSocket::bind("127.0.0.1:0")?.send_to(b"lost", near)?;
    assert!(target.recv(&mut [0; 16]).is_err());
    let Answer::Counters { forward, .. } = answer(&relay, r#"{"counters": {}}"#) else {
        panic!("no counters")
    };
    assert_eq!((forward.received, forward.dropped), (1, 1));
    let unknown = r#"{"faults": {"direction": "forward", "faults": {"dorp": 1.0}}}"#;
    assert!(matches!(answer(&relay, unknown), Answer::Error(text) if text.contains("dorp")));
    Ok(())
}

fn faulty(seed: u64, faults: Faults) -> Path {
    let mut path = Path::new(seed);
    path.set_faults(faults);
    path
}

fn send_numbers(path: &mut Path, count: u32) {
    for number in 0..count {
        path.handle_datagram(START, &number.to_be_bytes());
    }
}

fn delivered_numbers(path: &mut Path, now: Duration) -> Vec<u32> {
    let number = |datagram: Vec<u8>| u32::from_be_bytes(datagram.try_into().unwrap());
    std::iter::from_fn(|| path.poll_datagram(now)).map(number).collect()
}

fn relay_on_loopback() -> anyhow::Result<(Relay, std::net::SocketAddr, UdpSocket)> {
    let target = UdpSocket::bind("127.0.0.1:0")?;
    target.set_read_timeout(Some(Duration::from_secs(2)))?;
    let near = UdpSocket::bind("127.0.0.1:0")?;
    let address = near.local_addr()?;
    let relay = Relay::start(near, target.local_addr()?, 1, || UdpSocket::bind("127.0.0.1:0"))?;
    Ok((relay, address, target))
}
