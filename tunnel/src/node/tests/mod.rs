//! Two nodes in one process. Our own times are virtual; what happens inside `Tunn` runs on the
//! machine's clock and is tested on virtual time in `tests/sim`.

use std::net::SocketAddr;
use std::time::Duration;

use super::locked_peer::LockedPeer;
use super::*;
use crate::endpoint::Endpoint;
use crate::key::PresharedKey;
use crate::offload::{Offload, SuperPacket};
use crate::packet::icmp::Echo;
use crate::sink::InnerSink;
use crate::transmit::SendQueue;

#[test]
fn a_first_packet_waits_for_the_handshake_and_arrives() {
    let mut pair = Pair::new();

    let verdict = pair.send(Side::Origin, b"first");
    assert!(matches!(verdict, Verdict::Waiting { .. }));
    pair.exchange();

    assert_eq!(pair.edge.delivered, [packet(ORIGIN, EDGE, b"first")]);
    assert_eq!(pair.edge.node.peers(pair.now)[0].counts.handshakes, 1);
    assert_eq!(pair.origin.node.peers(pair.now)[0].counts.handshakes, 1);
}

#[test]
fn a_packet_for_a_peer_whose_handshake_was_just_answered_waits_without_another_one() {
    let mut pair = Pair::new();
    pair.timers();
    let (initiation, ..) = pair.origin.take().pop().expect("the origin opens");
    pair.edge.receive(pair.now, pair.origin.at, &initiation, 0);
    let answer = pair.edge.take();

    assert!(matches!(pair.send(Side::Edge, b"meanwhile"), Verdict::Waiting { .. }));
    assert_eq!(pair.edge.take(), []);

    for (datagram, ..) in answer {
        pair.origin.receive(pair.now, pair.edge.at, &datagram, 0);
    }
    pair.exchange();
    assert_eq!(pair.origin.delivered, [packet(EDGE, ORIGIN, b"meanwhile")]);
    assert_eq!(pair.edge.node.peers(pair.now)[0].counts.handshakes, 1);
}

#[test]
fn a_packet_is_sent_through_the_first_of_two_answered_handshakes_once_that_is_confirmed() {
    let mut pair = Pair::new();
    pair.timers();
    let (first, ..) = pair.origin.take().pop().expect("the origin opens");
    pair.edge.receive(pair.now, pair.origin.at, &first, 0);
    let answer = pair.edge.take().pop().expect("the edge answers").0;
    // The origin repeats its initiation before the answer is there.
    pair.advance(Duration::from_millis(300));
    let table = pair.origin.node.table.load();
    let mut locked = LockedPeer::lock(&pair.origin.node, table.peers.values().next().unwrap(), pair.now);
    let to = locked.endpoint;
    locked.initiate(to, &mut pair.origin.out);
    locked.release();
    let (second, ..) = pair.origin.take().pop().expect("the origin repeats it");
    pair.edge.receive(pair.now, pair.origin.at, &second, 0);
    pair.edge.take();

    pair.origin.receive(pair.now, pair.edge.at, &answer, 0);
    for (confirmation, ..) in pair.origin.take() {
        pair.edge.receive(pair.now, pair.origin.at, &confirmation, 0);
    }
    pair.send(Side::Edge, b"at once");
    pair.exchange();
    assert_eq!(pair.origin.delivered, [packet(EDGE, ORIGIN, b"at once")]);
}

#[test]
fn a_packet_for_a_peer_that_did_not_confirm_in_time_brings_a_handshake() {
    let mut pair = Pair::new();
    pair.timers();
    let (initiation, ..) = pair.origin.take().pop().expect("the origin opens");
    pair.edge.receive(pair.now, pair.origin.at, &initiation, 0);
    pair.edge.take();

    pair.advance(Duration::from_secs(5));
    pair.send(Side::Edge, b"late");
    pair.exchange();
    assert_eq!(pair.origin.delivered, [packet(EDGE, ORIGIN, b"late")]);
}

#[test]
fn packets_cross_both_ways_once_a_session_is_agreed() {
    let mut pair = Pair::connected();

    assert!(matches!(pair.send(Side::Origin, b"there"), Verdict::Sent { datagrams: 1, .. }));
    assert!(matches!(pair.send(Side::Edge, b"and back"), Verdict::Sent { datagrams: 1, .. }));
    pair.exchange();

    assert_eq!(pair.edge.delivered, [packet(ORIGIN, EDGE, b"there")]);
    assert_eq!(pair.origin.delivered, [packet(EDGE, ORIGIN, b"and back")]);
}

#[test]
fn a_peer_with_an_endpoint_and_a_keepalive_is_sent_a_handshake_at_once() {
    let mut pair = Pair::new();

    assert_eq!(pair.origin.node.poll_timeout(), Some(pair.now.instant));
    pair.timers();
    pair.exchange();

    assert_eq!(pair.origin.node.peers(pair.now)[0].state, PeerState::Up);
    assert_eq!(pair.edge.node.peers(pair.now)[0].state, PeerState::Up);
}

#[test]
fn the_edge_learns_the_origins_endpoint_and_replies_from_the_address_that_was_sent_to() {
    let mut pair = Pair::connected();
    pair.send(Side::Edge, b"to the origin");

    let endpoints: Vec<_> = pair.edge.out.transmits().map(|transmit| transmit.endpoint).collect();
    assert_eq!(endpoints, [Endpoint { remote: pair.origin.at, local: Some(local(EDGE_OUTER)) }]);
}

#[test]
fn a_local_side_is_forgotten_only_while_it_is_the_one_that_was_looked_at() {
    let mut pair = Pair::connected();
    let id = pair.edge.node.peers(pair.now)[0].id;
    let at = |pair: &Pair| pair.edge.node.peers(pair.now)[0].endpoint.and_then(|endpoint| endpoint.local);

    pair.edge.node.forget_local(id, local("192.0.2.99:1"));
    assert_eq!(at(&pair), Some(local(EDGE_OUTER)));
    pair.edge.node.forget_local(id, local(EDGE_OUTER));
    assert_eq!(at(&pair), None);

    pair.send(Side::Origin, b"heard again");
    pair.exchange();
    assert_eq!(at(&pair), Some(local(EDGE_OUTER)));
}

#[test]
fn padding_follows_the_mtu_of_the_interface() {
    let mut pair = Pair::connected();
    let length = |pair: &mut Pair| {
        pair.send(Side::Edge, &[0; 1_370]);
        pair.edge.take().iter().map(|(datagram, ..)| datagram.len()).max().unwrap()
    };

    let wide = length(&mut pair);
    pair.edge.node.set_mtu(1_280);
    let narrow = length(&mut pair);

    assert_eq!(wide % 16, 0);
    assert!(narrow < wide, "{narrow} and {wide}");
}

#[test]
fn a_peer_without_an_endpoint_cannot_be_reached() {
    let mut pair = Pair::new();

    assert_eq!(pair.send(Side::Edge, b"where to"), Verdict::Drop(DropReason::NoEndpoint));
    assert_eq!(pair.edge.node.dropped(DropReason::NoEndpoint), 1);
}

#[test]
fn what_no_peer_is_allowed_to_receive_is_dropped() {
    let pair = Pair::new();
    let mut bytes = packet(ORIGIN, "192.0.2.99", b"no owner");
    let mut out = SendQueue::with_capacity(4096);

    let verdict = pair.edge.node.handle_inner(pair.now, whole(&mut bytes), &mut out);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoPeer));
}

#[test]
fn what_is_no_packet_is_dropped() {
    let pair = Pair::new();
    let mut out = SendQueue::with_capacity(4096);

    for mut bytes in [vec![], vec![0x45; 10], vec![0x95; 100]] {
        let verdict = pair.origin.node.handle_inner(pair.now, whole(&mut bytes), &mut out);
        assert_eq!(verdict, Verdict::Drop(DropReason::MalformedInner));
    }
}

#[test]
fn a_node_without_a_key_neither_sends_nor_answers() {
    let mut pair = Pair::connected();
    pair.edge.node.set_private_key(None, pair.now);

    assert_eq!(pair.send(Side::Edge, b"mute"), Verdict::Drop(DropReason::NoSession));
    pair.send(Side::Origin, b"to the deaf");
    pair.exchange();
    assert!(pair.edge.delivered.is_empty());
    assert_eq!(pair.edge.node.poll_timeout(), None);
}

#[test]
fn a_new_private_key_ends_the_sessions_and_keeps_the_peers() {
    let mut pair = Pair::connected();
    let (key, public) = key(77);
    pair.origin.node.set_private_key(Some(key), pair.now);
    let removed_too =
        PeerConfig { public_key: public, ..pair.edge.node.peer_config(&pair.origin.key).unwrap() };
    pair.edge.node.update_peers(&[removed_too], &[pair.origin.key], pair.now).unwrap();

    pair.timers();
    pair.exchange();
    pair.send(Side::Origin, b"as a new peer");
    pair.exchange();

    assert_eq!(pair.edge.delivered, [packet(ORIGIN, EDGE, b"as a new peer")]);
}

#[test]
fn a_peer_that_gets_another_key_keeps_number_prefixes_endpoint_and_counters() {
    let mut pair = Pair::connected();
    pair.send(Side::Origin, b"before");
    pair.exchange();
    let before = pair.origin.node.peers(pair.now)[0].clone();
    let (private, public) = key(77);
    pair.edge.node.set_private_key(Some(private), pair.now);
    let taken = pair.origin.node.private_key().unwrap().public();
    let set = |key| pair.origin.node.set_peer_key(&before.public_key, key, pair.now);
    assert_eq!(set(taken), Err(PeerError::OwnKey));
    assert_eq!(set(before.public_key), Ok(()));
    assert_eq!(set(public), Ok(()));

    pair.timers();
    pair.exchange();
    pair.send(Side::Origin, b"after");
    pair.exchange();

    assert_eq!(pair.edge.delivered.last(), Some(&packet(ORIGIN, EDGE, b"after")));
    let after = pair.origin.node.peers(pair.now);
    assert_eq!(after.len(), 1);
    let after = &after[0];
    assert_eq!((after.id, after.public_key, &after.allowed_ips), (before.id, public, &before.allowed_ips));
    assert_eq!(after.endpoint, before.endpoint);
    assert_eq!(after.counts.handshakes, before.counts.handshakes + 1);
    assert!(after.tx_bytes > before.tx_bytes && after.rx_bytes > before.rx_bytes);
}

#[test]
fn a_handshake_is_unanswered_since_it_began_or_the_peer_was_heard() {
    let mut pair = Pair::new();
    let (began, edge) = (pair.now.instant, pair.edge.key);
    assert_eq!(pair.origin.node.unanswered_since(&edge), None);
    pair.timers();
    assert_eq!(pair.origin.node.unanswered_since(&edge), Some(began));
    pair.exchange();
    assert_eq!(pair.origin.node.unanswered_since(&edge), None);
}

#[test]
fn a_handshake_by_the_key_that_is_awaited_is_reported_and_not_answered() {
    let mut pair = Pair::connected();
    let (private, public) = key(77);
    pair.edge.node.set_private_key(Some(private), pair.now);
    let begin = |pair: &mut Pair| {
        pair.send(Side::Edge, b"by the new key");
        let initiation = pair.edge.take().pop().expect("the edge begins").0;
        while pair.origin.node.poll_event().is_some() {}
        pair.origin.receive(pair.now, pair.edge.at, &initiation, 0);
        assert_eq!(pair.origin.take(), []);
        std::iter::from_fn(|| pair.origin.node.poll_event()).collect::<Vec<_>>()
    };
    assert_eq!(begin(&mut pair), []);
    pair.origin.node.await_key(Some(key(78).1));
    pair.edge.node.set_private_key(Some(key(77).0), pair.now);
    assert_eq!(begin(&mut pair), [], "another key is awaited");
    pair.origin.node.await_key(Some(public));
    pair.edge.node.set_private_key(Some(key(77).0), pair.now);
    assert_eq!(begin(&mut pair), [Event::AwaitedKey { key: public }]);
}

#[test]
fn a_preshared_key_must_be_the_same_on_both_sides() {
    let mut pair = Pair::connected();
    let before = pair.origin.node.peers(pair.now)[0].clone();
    pair.preshare(Side::Origin, 5);
    pair.send(Side::Origin, b"only one side");
    pair.exchange();
    assert!(pair.edge.delivered.is_empty());

    pair.preshare(Side::Edge, 5);
    pair.preshare(Side::Origin, 6);
    pair.preshare(Side::Origin, 5);
    pair.send(Side::Origin, b"both");
    pair.exchange();

    assert_eq!(pair.edge.delivered, [packet(ORIGIN, EDGE, b"both")]);
    let after = pair.origin.node.peers(pair.now)[0].clone();
    assert!(
        after.has_preshared_key
            && after.tx_bytes > before.tx_bytes
            && after.counts.handshakes > before.counts.handshakes
    );
}

#[test]
fn own_keys_are_never_peers() {
    let pair = Pair::new();
    let own = pair.edge.node.private_key().unwrap().public();
    let config = PeerConfig { public_key: own, ..pair.edge.node.peer_config(&pair.origin.key).unwrap() };

    assert_eq!(pair.edge.node.update_peers(&[config], &[], pair.now), Err(PeerError::OwnKey));

    let theirs = key(1).0;
    assert_eq!(theirs.public(), pair.origin.key);
    pair.edge.node.set_private_key(Some(theirs), pair.now);
    assert!(pair.edge.node.peers(pair.now).is_empty());
}

#[test]
fn an_allowed_ip_given_to_a_later_peer_is_taken_from_the_earlier_one() {
    let pair = Pair::new();
    let (_, public) = key(33);
    let mut later = pair.edge.node.peer_config(&pair.origin.key).unwrap();
    later.public_key = public;
    later.allowed_ips = vec!["192.168.88.0/24".parse().unwrap()];

    pair.edge.node.update_peers(&[later], &[], pair.now).unwrap();

    let lists: Vec<_> = pair.edge.node.peers(pair.now).into_iter().map(|peer| peer.allowed_ips).collect();
    let nets =
        |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<ipnetwork::IpNetwork>>();
    assert_eq!(lists, [nets(&["10.77.88.2/32", "fd00::2/128"]), nets(&["192.168.88.0/24"])]);
}

#[test]
fn a_hundred_thousand_allowed_ips_are_set_at_once() {
    let pair = Pair::new();
    let mut config = pair.edge.node.peer_config(&pair.origin.key).unwrap();
    config.allowed_ips = (0..130_560u32)
        .map(|n| ipnetwork::IpNetwork::new(std::net::Ipv4Addr::from(0x0a00_0000 + n * 4).into(), 30).unwrap())
        .collect();

    let started = std::time::Instant::now();
    pair.edge.node.update_peers(&[config], &[], pair.now).unwrap();
    let took = started.elapsed();

    assert_eq!(pair.edge.node.peers(pair.now)[0].allowed_ips.len(), 130_560);
    // It takes a fifth of a second on one core in a debug build; the limit is for a machine that is
    // busy with other tests.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_sending_and_a_receiving_thread_share_a_node() {
    fn shared<T: Send + Sync>(_: &T) {}
    let mut pair = Pair::connected();
    shared(&pair.edge.node);
    let datagrams: Vec<_> = (0..200u32).map(|n| pair.seal(Side::Origin, &n.to_be_bytes())).collect();
    let (node, now, from) = (&pair.edge.node, pair.now, pair.origin.at);

    let received = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut out = SendQueue::with_capacity(1 << 16);
            for _ in 0..200 {
                out.clear();
                let mut bytes = packet(EDGE, ORIGIN, b"meanwhile");
                assert!(matches!(node.handle_inner(now, whole(&mut bytes), &mut out), Verdict::Sent { .. }));
            }
        });
        let receiver = scope.spawn(move || {
            let (mut out, mut sink) = (SendQueue::with_capacity(1 << 16), Sink::default());
            for mut datagram in datagrams {
                let stride = datagram.len();
                let received = Received { from, to: None, ecn: 0, stride, contents: &mut datagram };
                node.handle_received(now, received, &mut sink, &mut out);
            }
            sink.packets.len()
        });
        receiver.join().unwrap()
    });

    assert_eq!(received, 200);
}

#[test]
fn messages_are_counted_as_the_kernel_counts_them() {
    let mut pair = Pair::connected();
    let before = pair.origin.node.peers(pair.now)[0].tx_bytes;
    // A ping of 84 bytes is padded to 96 and wrapped in 32.
    let mut bytes = packet(ORIGIN, EDGE, &[0; 56]);
    pair.origin.node.handle_inner(pair.now, whole(&mut bytes), &mut pair.origin.out);
    pair.exchange();

    let (origin, edge) = (&pair.origin.node.peers(pair.now)[0], &pair.edge.node.peers(pair.now)[0]);
    assert_eq!(origin.tx_bytes - before, 128);
    // Initiation and data one way, response the other; the keepalive that confirms the session.
    assert_eq!((origin.tx_bytes, origin.rx_bytes), (edge.rx_bytes, edge.tx_bytes));
    assert_eq!((origin.tx_bytes, origin.rx_bytes), (148 + 32 + 128, 92));
    assert_eq!((origin.tx_packets, edge.rx_packets), (1, 1));
    assert_eq!(pair.edge.delivered[0].len(), 84);
}

#[test]
fn ecn_bits_go_out_with_the_packet_and_come_in_with_the_datagram() {
    let mut pair = Pair::connected();
    let mut bytes = packet(ORIGIN, EDGE, b"marked");
    bytes[1] = 0b10;
    fix_header(&mut bytes);
    pair.origin.node.handle_inner(pair.now, whole(&mut bytes), &mut pair.origin.out);
    assert_eq!(pair.origin.out.transmits().next().unwrap().ecn, 0b10);

    pair.exchange();
    assert_eq!(pair.edge.ecn, [0b10]);
}

mod lab;
mod limits;
mod services;
use lab::{EDGE, EDGE_OUTER, ORIGIN, Pair, Side, Sink, fix_header, key, local, packet, whole};
