//! What an attacker on the path, or with a peer's key, can send.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use sim::path::Faults;
use sim::{EDGE_AT, ORIGIN_AT, Pair, Setup, Side, at, key, ms, secs};
use tunnel::offload::Offload;
use tunnel::reason::DropReason;

const ATTACKER: &str = "203.0.113.66:4500";

#[test]
fn random_datagrams_never_get_an_answer() {
    let count = datagrams(100_000);
    let mut pair = Pair::connected(Setup::plain());
    let sent = pair.edge.sent;
    let mut bytes = vec![0; 1500];

    for n in 0..count {
        let length = (pair.path.random() % 1500) as usize;
        let datagram = match n % 4 {
            // Every kind, with the right length for it and what follows at random.
            0 => [148, 92, 64][(n / 4 % 3) as usize],
            _ => length,
        };
        for chunk in bytes[..datagram].chunks_mut(8) {
            chunk.copy_from_slice(&pair.path.random().to_le_bytes()[..chunk.len()]);
        }
        if n % 4 != 1 && datagram >= 4 {
            let kind = match datagram {
                148 => 1,
                92 => 2,
                64 => 3,
                _ => 4,
            };
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        pair.inject(Side::Edge, at(ATTACKER), bytes[..datagram].to_vec());
    }

    assert_eq!(pair.edge.sent, sent);
    assert_eq!(pair.arrived(Side::Edge), 0);
    assert_eq!(drops(&pair), count, "each is counted once");
    pair.send(Side::Origin);
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), 1, "the session is unharmed");
}

#[test]
fn malformed_packets_of_a_hostile_peer_are_counted_and_do_no_harm() {
    let count = datagrams(20_000);
    let mut pair = Pair::new(Setup { initiate: false, keepalive: None, ..Setup::default() });
    let mut peer = hostile_origin(&mut pair);
    let (before, empty) = (drops(&pair), pair.peer(Side::Edge).rx_packets);

    let (mut keepalives, mut sealed) = (0, [0; 2048]);
    for _ in 0..count {
        let inner = random_inner(&mut pair);
        keepalives += u64::from(inner.is_empty());
        let TunnResult::WriteToNetwork(datagram) = peer.encapsulate(&inner, &mut sealed) else {
            panic!("not sealed");
        };
        let datagram = datagram.to_vec();
        pair.inject(Side::Edge, at(ORIGIN_AT), datagram);
        while pair.path.take_newest().is_some() {}
    }

    let taken = pair.peer(Side::Edge).rx_packets - empty;
    assert_eq!(taken + keepalives + drops(&pair) - before, count, "each is taken or counted");
    assert!(pair.dropped(Side::Edge, DropReason::MalformedDecrypted) > count / 10);
    assert!(pair.dropped(Side::Edge, DropReason::SpoofedSource) > count / 20);
    assert!(pair.edge.damaged > count / 20);
}

#[test]
fn malformed_packets_from_inside_do_no_harm() {
    let mut pair = Pair::connected(Setup::plain());
    for n in 0..datagrams(20_000) {
        let inner = random_inner(&mut pair);
        let segment_size = pair.path.random() as u16;
        let offload = match n % 6 {
            0 => Offload::None,
            1 => Offload::Checksum { start: segment_size % 64, offset: (segment_size >> 8) % 64 },
            2 => Offload::Tcp4 { segment_size: segment_size % 1400 },
            3 => Offload::Tcp6 { segment_size: segment_size % 1400 },
            4 => Offload::Udp4 { segment_size: segment_size % 1400 },
            _ => Offload::Udp6 { segment_size: segment_size % 1400 },
        };
        pair.send_offloaded(Side::Edge, inner, offload);
        while pair.path.take_newest().is_some() {}
    }

    pair.send(Side::Edge);
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Origin), 1);
}

#[test]
fn damaged_copies_of_real_datagrams_do_no_harm() {
    let mut pair = Pair::new(Setup::default());
    pair.path.record = Some(Vec::new());
    pair.run_sending(&[Side::Origin, Side::Edge], ms(100), secs(130));
    let record = pair.path.record.take().expect("a record");
    let arrived = (pair.arrived(Side::Edge), pair.arrived(Side::Origin));

    for (side, mut datagram) in record {
        let at_bit = pair.path.random() as usize % (datagram.len() * 8);
        datagram[at_bit / 8] ^= 1 << (at_bit % 8);
        pair.inject(side.other(), at(ATTACKER), datagram);
    }

    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), arrived);
    pair.run_sending(&[Side::Origin, Side::Edge], ms(100), secs(5));
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), arrived.0 + 50);
}

#[test]
fn replayed_datagrams_are_never_delivered() {
    let mut pair = Pair::new(Setup::default());
    pair.path.record = Some(Vec::new());
    pair.run_sending(&[Side::Origin, Side::Edge], ms(10), secs(100));
    pair.run(secs(1));
    let record = pair.path.record.take().expect("a record");
    let arrived = (pair.arrived(Side::Edge), pair.arrived(Side::Origin));
    let endpoint = pair.peer(Side::Edge).endpoint;

    for _ in 0..3 {
        for (side, datagram) in &record {
            pair.inject(side.other(), at(ATTACKER), datagram.clone());
        }
    }

    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), arrived);
    assert_eq!(pair.peer(Side::Edge).endpoint, endpoint);
    pair.send(Side::Origin);
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), arrived.0 + 1);
}

#[test]
fn counters_near_the_end_are_refused_before_they_reach_the_session() {
    let mut pair = Pair::connected(Setup::plain());
    let genuine = pair.seal(Side::Origin);
    let limit = u64::MAX - (1 << 13) + 1;

    for counter in [limit, limit + 1, u64::MAX - 1024, u64::MAX - 1, u64::MAX] {
        let mut forged = genuine.clone();
        forged[8..16].copy_from_slice(&counter.to_le_bytes());
        pair.inject(Side::Edge, at(ATTACKER), forged);
    }
    assert_eq!(pair.dropped(Side::Edge, DropReason::CounterExhausted), 5);

    let mut below = genuine.clone();
    below[8..16].copy_from_slice(&(limit - 1).to_le_bytes());
    pair.inject(Side::Edge, at(ATTACKER), below);
    assert_eq!(pair.dropped(Side::Edge, DropReason::BadTag), 1);

    pair.inject(Side::Edge, at(ORIGIN_AT), genuine);
    assert_eq!(pair.arrived(Side::Edge), 1);
}

#[test]
fn a_flood_from_one_source_is_held_to_its_bucket_and_the_tunnel_goes_on() {
    let mut pair = Pair::connected(Setup::default());
    let mut unknown = caller(99);
    let mut answers = 0;

    for _ in 0..1000 {
        let message = initiation(&mut unknown);
        let sent = pair.edge.sent;
        pair.inject(Side::Edge, at(ATTACKER), message);
        answers += pair.edge.sent - sent;
        pair.run(ms(1));
    }

    let unknown = pair.dropped(Side::Edge, DropReason::UnknownPeer);
    let limited = pair.dropped(Side::Edge, DropReason::RateLimited);
    assert!((20..=26).contains(&unknown), "{unknown}");
    assert_eq!(unknown + limited, 1000);
    assert_eq!(answers, limited, "at most one cookie for each, smaller than what it answers");
    pair.run_sending(&[Side::Origin], ms(10), secs(1));
    pair.run(secs(1));
    assert_eq!(pair.arrived(Side::Edge), 100);
}

#[test]
fn an_honest_origin_connects_through_a_flood_of_spoofed_sources() {
    let mut pair = Pair::new(Setup { liveness: false, ..Setup::default() });
    pair.path.faults = Faults::default();
    let message = initiation(&mut caller(99));
    let started = pair.elapsed();

    let mut connected = None;
    for n in 0..10_000u32 {
        for k in 0..2 {
            let source = std::net::Ipv4Addr::from(0x0a00_0000 + (n * 2 + k) % 10_000);
            pair.inject(Side::Edge, (source, 4500).into(), message.clone());
        }
        pair.run(ms(1));
        if connected.is_none() && pair.peer(Side::Edge).counts.handshakes > 0 {
            connected = Some(pair.elapsed() - started);
        }
    }

    let took = connected.expect("it connects while the flood continues");
    assert!(took <= secs(10), "{took:?}");
}

#[test]
fn a_peer_that_sends_many_initiations_does_not_cut_its_own_session() {
    let mut pair = Pair::connected(Setup::plain());
    for _ in 0..50 {
        let now = pair.now(Side::Origin);
        pair.origin.node.handle_network_change(now);
        pair.run(ms(20));
    }
    pair.run(secs(5));
    pair.edge.delivered.clear();

    pair.run_sending(&[Side::Origin, Side::Edge], ms(20), secs(10));
    pair.run(secs(1));
    assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (500, 500));
}

#[test]
fn both_sides_may_begin_at_the_same_moment() {
    for seed in 1..=20 {
        let mut pair = Pair::new(Setup { seed, ..Setup::default() });
        let mut config = pair.peer_config(Side::Edge);
        config.endpoint = Some(at(ORIGIN_AT));
        config.initiate = true;
        let now = pair.now(Side::Edge);
        pair.edge.node.update_peers(&[config], &[], now).expect("a peer");
        pair.path.faults = Faults { loss: 0.1, ..Faults::default() };
        pair.run(secs(30));
        pair.path.faults = Faults::default();
        pair.run(secs(10));

        pair.run_sending(&[Side::Origin, Side::Edge], ms(100), secs(300));
        pair.run(secs(1));
        assert_eq!((pair.arrived(Side::Edge), pair.arrived(Side::Origin)), (3000, 3000), "seed {seed}");
        assert!(pair.peer(Side::Edge).counts.handshakes <= 12, "{}", pair.peer(Side::Edge).counts.handshakes);
    }
}

#[test]
fn own_outer_packets_are_not_wrapped_again() {
    let mut pair = Pair::new(Setup::plain());
    let mut config = pair.peer_config(Side::Origin);
    config.allowed_ips = vec!["0.0.0.0/0".parse().expect("a prefix")];
    let now = pair.now(Side::Origin);
    pair.origin.node.update_peers(&[config], &[], now).expect("a peer");
    let edge = at(EDGE_AT);
    let mut own = sim::packet::numbered("100.64.0.2", &edge.ip().to_string(), 1);
    own[9] = 17;
    own[20..28].copy_from_slice(&[0xca, 0x6c, 0xca, 0x6c, 0, 16, 0, 0]);

    let verdict = pair.send_bytes(Side::Origin, own.clone());
    assert_eq!(verdict, tunnel::node::Verdict::Drop(DropReason::RoutingLoop));
    assert_eq!(pair.origin.sent, 0);

    // From another port it belongs to another source.
    own[20] ^= 1;
    assert!(matches!(pair.send_bytes(Side::Origin, own), tunnel::node::Verdict::Waiting { .. }));
}

/// How many datagrams a test sends: `SIM_DATAGRAMS`, which a soak sets, or fewer.
fn datagrams(default: u64) -> u64 {
    std::env::var("SIM_DATAGRAMS").ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

fn drops(pair: &Pair) -> u64 {
    DropReason::ALL.iter().map(|reason| pair.dropped(Side::Edge, *reason)).sum()
}

/// An attacker with the origin's key, who encrypts any content.
fn hostile_origin(pair: &mut Pair) -> Tunn {
    let edge = PublicKey::from(*key(2).public().as_bytes());
    let mut peer = Tunn::new(StaticSecret::from(*key(1).as_bytes()), edge, None, None, 7, None);
    let first = initiation(&mut peer);
    pair.inject(Side::Edge, at(ORIGIN_AT), first);
    let response = pair.path.take_newest().expect("a response");
    let mut buffer = [0; 256];
    let TunnResult::WriteToNetwork(keepalive) = peer.decapsulate(None, &response, &mut buffer) else {
        panic!("no session");
    };
    let keepalive = keepalive.to_vec();
    pair.inject(Side::Edge, at(ORIGIN_AT), keepalive);
    peer
}

/// Bytes that are nearly an IP packet of the origin's.
fn random_inner(pair: &mut Pair) -> Vec<u8> {
    let (choice, length) = (pair.path.random(), pair.path.random() as usize % 1400);
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&pair.path.random().to_le_bytes()[..chunk.len()]);
    }
    if length >= 28 && choice % 4 != 0 {
        bytes[0] = if choice & 16 == 0 { 0x45 } else { 0x65 };
        if choice & 32 == 0 {
            bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        }
        if choice & 64 == 0 {
            bytes[12..16].copy_from_slice(&[10, 77, 88, 2]);
        }
        bytes[16..20].copy_from_slice(&[10, 77, 88, if choice & 128 == 0 { 1 } else { 2 }]);
        bytes[9] = [1, 6, 17, 58][choice as usize >> 8 & 3];
    }
    bytes
}

fn caller(seed: u8) -> Tunn {
    let edge = PublicKey::from(*key(2).public().as_bytes());
    Tunn::new(StaticSecret::from([seed; 32]), edge, None, None, 1, None)
}

fn initiation(caller: &mut Tunn) -> Vec<u8> {
    let mut buffer = [0; 148];
    match caller.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("no initiation: {other:?}"),
    }
}
