//! Batches, limits, and a peer's mistakes.

use super::*;
use crate::node::wire::DATA_OVERHEAD;
use lab::{End, ipv6_packet};

#[test]
fn joined_datagrams_of_several_peers_are_separated_and_stay_in_order() {
    let mut pair = Pair::connected();
    let mut joined = Vec::new();
    for n in 0..10u8 {
        joined.extend(pair.seal(Side::Origin, &[n; 20]));
        if n == 4 {
            // A datagram of an unknown peer, of the same length, in the middle.
            let mut unknown = pair.seal(Side::Origin, &[99; 20]);
            unknown[4..8].copy_from_slice(&[1, 2, 3, 4]);
            joined.extend(unknown);
        }
    }
    let stride = joined.len() / 11;
    let received = Received { from: pair.origin.at, to: None, ecn: 1, stride, contents: &mut joined };
    let mut sink = Sink::default();
    pair.edge.node.handle_received(pair.now, received, &mut sink, &mut pair.edge.out);

    let packets: Vec<_> = (0..10u8).map(|n| (packet(ORIGIN, EDGE, &[n; 20]), 1)).collect();
    assert_eq!(sink.packets, packets);
    assert_eq!(pair.edge.node.dropped(DropReason::UnknownIndex), 1);
}

#[test]
fn a_shorter_last_datagram_is_taken_and_a_stride_of_zero_does_no_harm() {
    let mut pair = Pair::connected();
    let mut joined = pair.seal(Side::Origin, &[1; 60]);
    let stride = joined.len();
    joined.extend(pair.seal(Side::Origin, &[2; 8]));
    let mut sink = Sink::default();
    let received = Received { from: pair.origin.at, to: None, ecn: 0, stride, contents: &mut joined };
    pair.edge.node.handle_received(pair.now, received, &mut sink, &mut pair.edge.out);
    assert_eq!(sink.packets.len(), 2);

    let mut bytes = [0; 3];
    let received = Received { from: pair.origin.at, to: None, ecn: 0, stride: 0, contents: &mut bytes };
    pair.edge.node.handle_received(pair.now, received, &mut sink, &mut pair.edge.out);
    assert_eq!(pair.edge.node.dropped(DropReason::NotWireGuard), 3);
}

#[test]
fn a_full_sink_drops_and_counts() {
    let mut pair = Pair::connected();
    let datagrams: Vec<_> = (0..5u8).map(|n| pair.seal(Side::Origin, &[n; 20])).collect();
    let mut sink = Sink { room: Some(3), ..Sink::default() };
    for mut datagram in datagrams {
        let stride = datagram.len();
        let received = Received { from: pair.origin.at, to: None, ecn: 0, stride, contents: &mut datagram };
        pair.edge.node.handle_received(pair.now, received, &mut sink, &mut pair.edge.out);
    }

    assert_eq!(sink.packets.len(), 3);
    assert_eq!(pair.edge.node.dropped(DropReason::SinkFull), 2);
}

#[test]
fn a_super_packet_leaves_as_segments_of_one_run() {
    let mut pair = Pair::connected();
    let mut bytes = lab::tcp_super_packet(ORIGIN, EDGE, 1380, 10 * 1380 + 7);
    let offload = Offload::Tcp4 { segment_size: 1380 };
    let now = pair.now;
    let verdict =
        pair.origin.node.handle_inner(now, SuperPacket { bytes: &mut bytes, offload }, &mut pair.origin.out);

    assert_eq!(verdict, Verdict::Sent { peer: PeerId(0), datagrams: 11 });
    let runs: Vec<_> =
        pair.origin.out.transmits().map(|run| (run.segment_size, run.contents.len())).collect();
    assert_eq!(runs, [(1420 + DATA_OVERHEAD, 10 * (1420 + DATA_OVERHEAD) + 48 + DATA_OVERHEAD)]);
    pair.exchange();
    assert_eq!(pair.edge.delivered.len(), 11);
    assert_eq!(pair.edge.delivered.iter().map(|packet| packet.len() - 40).sum::<usize>(), 10 * 1380 + 7);
}

#[test]
fn a_full_send_queue_drops_what_does_not_fit_and_counts_each_segment() {
    let pair = Pair::connected();
    let mut small = SendQueue::with_capacity(4 * 1500);
    let mut bytes = lab::tcp_super_packet(ORIGIN, EDGE, 1380, 10 * 1380);
    let offload = Offload::Tcp4 { segment_size: 1380 };
    let now = pair.now;
    let verdict = pair.origin.node.handle_inner(now, SuperPacket { bytes: &mut bytes, offload }, &mut small);

    assert_eq!(verdict, Verdict::Sent { peer: PeerId(0), datagrams: 4 });
    assert_eq!(pair.origin.node.dropped(DropReason::SendQueueFull), 6);
    let mut none = SendQueue::with_capacity(100);
    let verdict = pair.origin.node.handle_inner(now, whole(&mut packet(ORIGIN, EDGE, b"x")), &mut none);
    assert_eq!(verdict, Verdict::Drop(DropReason::SendQueueFull));
}

#[test]
fn timers_that_find_no_room_stay_due() {
    let pair = Pair::new();
    let mut none = SendQueue::with_capacity(100);
    pair.origin.node.handle_timeout(pair.now, &mut none);

    assert!(none.is_empty());
    assert_eq!(pair.origin.node.poll_timeout(), Some(pair.now.instant));
}

#[test]
fn a_packet_that_lies_about_its_length_is_refused_after_decryption() {
    for length in [0u16, 5, 19, 500] {
        let mut pair = Pair::connected();
        let datagram = pair.seal_raw(|bytes| bytes[2..4].copy_from_slice(&length.to_be_bytes()));
        let from = pair.origin.at;
        pair.edge.receive(pair.now, from, &datagram, 0);

        assert!(pair.edge.delivered.is_empty(), "length {length}");
        assert_eq!(pair.edge.node.dropped(DropReason::MalformedDecrypted), 1, "length {length}");
    }
}

#[test]
fn v6_packets_cross_a_v4_path() {
    let mut pair = Pair::connected();
    let mut bytes = ipv6_packet("fd00::2", "fd00::1", b"six in four");
    let expected = bytes.clone();
    pair.origin.node.handle_inner(pair.now, whole(&mut bytes), &mut pair.origin.out);
    pair.exchange();

    assert_eq!(pair.edge.delivered, [expected]);
}

#[test]
fn a_peer_cannot_speak_for_another_peers_network_even_with_a_wider_one() {
    let mut pair = Pair::connected();
    let mut wide = pair.edge.node.peer_config(&pair.origin.key).unwrap();
    wide.allowed_ips = vec!["0.0.0.0/0".parse().unwrap()];
    let mut narrow = wide.clone();
    (narrow.public_key, narrow.allowed_ips) = (key(33).1, vec!["10.77.88.2/32".parse().unwrap()]);
    pair.edge.node.update_peers(&[wide, narrow], &[], pair.now).unwrap();

    pair.send(Side::Origin, b"as 10.77.88.2");
    pair.exchange();

    assert!(pair.edge.delivered.is_empty());
    assert_eq!(pair.edge.node.dropped(DropReason::SpoofedSource), 1);
}

#[test]
fn v4_mapped_addresses_are_held_as_v4() {
    let mut pair = Pair::connected();
    let datagram = pair.seal(Side::Origin, b"mapped");
    pair.edge.receive(pair.now, "[::ffff:203.0.113.9]:4500".parse().unwrap(), &datagram, 0);

    let endpoint = pair.edge.node.peers(pair.now)[0].endpoint.unwrap();
    assert_eq!(endpoint.remote, "203.0.113.9:4500".parse().unwrap());
}

#[test]
fn a_removed_peer_is_neither_heard_nor_woken() {
    let mut pair = Pair::connected();
    let datagram = pair.seal(Side::Origin, b"too late");
    pair.edge.node.update_peers(&[], &[pair.origin.key], pair.now).unwrap();
    let from = pair.origin.at;
    pair.edge.receive(pair.now, from, &datagram, 0);

    assert_eq!(pair.edge.node.dropped(DropReason::UnknownIndex), 1);
    assert_eq!(pair.edge.node.poll_timeout(), None);
    assert_eq!(pair.send(Side::Edge, b"gone"), Verdict::Drop(DropReason::NoPeer));
}

#[test]
fn a_keepalive_of_zero_is_none() {
    let pair = Pair::new();
    let mut config = pair.origin.node.peer_config(&pair.edge.key).unwrap();
    config.keepalive = Some(Duration::ZERO);
    pair.origin.node.update_peers(&[config], &[], pair.now).unwrap();
    let mut out = SendQueue::with_capacity(4096);
    pair.origin.node.handle_timeout(pair.now, &mut out);

    assert_eq!(pair.origin.node.poll_timeout(), None);
}

#[test]
fn many_peers_sleep_and_are_found() {
    let pair = Pair::new();
    let template = pair.edge.node.peer_config(&pair.origin.key).unwrap();
    let peers: Vec<_> = (0..250u32)
        .map(|n| {
            let mut seed = [200; 32];
            seed[8..12].copy_from_slice(&n.to_le_bytes());
            let network = std::net::Ipv4Addr::from(0x0b00_0000 + n * 256);
            PeerConfig {
                public_key: PrivateKey::from_bytes(seed).public(),
                allowed_ips: vec![ipnetwork::IpNetwork::new(network.into(), 24).unwrap()],
                ..template.clone()
            }
        })
        .collect();
    pair.edge.node.update_peers(&peers, &[], pair.now).unwrap();

    assert_eq!(pair.edge.node.peers(pair.now).len(), 251);
    assert_eq!(pair.edge.node.poll_timeout(), None);
    let mut bytes = packet(EDGE, "11.0.249.9", b"the last");
    let mut out = SendQueue::with_capacity(4096);
    let verdict = pair.edge.node.handle_inner(pair.now, whole(&mut bytes), &mut out);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoEndpoint));
}

#[test]
fn probes_are_answered_by_the_node_itself() {
    let mut pair = Pair::with_liveness(Some(lab::RULES));
    pair.timers();
    pair.exchange();
    pair.timers();
    pair.exchange();

    for end in [&pair.edge, &pair.origin] {
        let peer = &end.node.peers(pair.now)[0];
        assert!(peer.rtt.is_some() && peer.loss_ratio == Some(0.0));
        assert!(end.delivered.is_empty());
    }
    pair.advance(Duration::from_secs(14));
    assert_eq!(pair.edge.node.peers(pair.now)[0].state, PeerState::Up);
    pair.advance(Duration::from_secs(2));
    assert_eq!(pair.edge.node.peers(pair.now)[0].state, PeerState::Stale);
}

#[test]
fn a_peer_that_is_probed_closely_has_lost_three_probes_within_three_seconds() {
    for (closely, within) in [(true, 2_500), (false, 9_000)] {
        let mut pair = Pair::with_liveness(Some(lab::RULES));
        pair.timers();
        pair.exchange();
        // It may be asked for while a session is there.
        pair.origin.node.probe_closely(closely, pair.now);
        for _ in 0..200 {
            pair.timers();
            pair.exchange();
            pair.advance(Duration::from_millis(100));
        }
        let mut silent_for = 0;
        while pair.origin.node.peers(pair.now)[0].counts.probes_lost < 3 {
            pair.timers();
            // Nothing arrives any more.
            drop((pair.origin.take(), pair.edge.take()));
            pair.advance(Duration::from_millis(100));
            silent_for += 100;
        }
        assert!(silent_for <= within && (closely || silent_for > 3_000), "{closely}: {silent_for} ms");
    }
}

#[test]
fn datagrams_that_are_not_wireguard_are_dropped_silently() {
    let mut pair = Pair::connected();
    let end: &mut End = &mut pair.edge;
    for datagram in [vec![], vec![4, 0, 0, 0], vec![9; 148], vec![0; 2000]] {
        end.receive(pair.now, "203.0.113.66:4500".parse().unwrap(), &datagram, 0);
    }

    assert!(end.out.is_empty());
    assert_eq!(end.node.dropped(DropReason::NotWireGuard), 4);
}

#[test]
fn the_size_of_the_path_is_found_through_the_tunnel_and_reported_once() {
    let mut pair = Pair::with_liveness(Some(lab::RULES));
    // What an outer packet of 1392 bytes carries over IPv4.
    let (inner, longest) = (1392 - 60, 1392 - 28);
    pair.edge.node.search_path_mtu(Some(MtuRange::new(false)), pair.now);
    for _ in 0..400 {
        pair.timers();
        pair.exchange_up_to(longest);
        pair.advance(Duration::from_millis(100));
    }

    assert_eq!(pair.edge.node.peers(pair.now)[0].path_mtu, Some(inner));
    assert_eq!(pair.origin.node.peers(pair.now)[0].path_mtu, None, "it is not set to search");
    let reported =
        |node: &Node| std::iter::from_fn(|| node.poll_event()).filter_map(size_of).collect::<Vec<_>>();
    assert_eq!(reported(&pair.edge.node), [inner]);
    assert!(
        pair.origin.delivered.is_empty() && pair.edge.delivered.is_empty(),
        "probes stay inside the node"
    );

    pair.edge.node.search_path_mtu(None, pair.now);
    assert_eq!(pair.edge.node.peers(pair.now)[0].path_mtu, None);
}

#[test]
fn an_answer_to_a_padded_probe_is_short_so_that_one_direction_is_measured_alone() {
    let mut pair = Pair::with_liveness(Some(lab::RULES));
    pair.edge.node.search_path_mtu(Some(MtuRange::new(false)), pair.now);
    let mut longest = (0, 0);
    for _ in 0..100 {
        pair.timers();
        let (up, down) = pair.exchange_up_to(usize::MAX);
        longest = (longest.0.max(up), longest.1.max(down));
        pair.advance(Duration::from_millis(100));
    }

    assert_eq!(longest.1, 1440 + DATA_OVERHEAD);
    assert!(longest.0 <= 148, "an answer of {} bytes", longest.0);
}

#[test]
fn a_given_size_that_does_not_come_through_is_shown_and_is_no_size_that_was_found() {
    let mut pair = Pair::with_liveness(Some(lab::RULES));
    pair.edge.node.search_path_mtu(MtuRange::fixed(1420), pair.now);
    for _ in 0..100 {
        pair.timers();
        pair.exchange_up_to(1_400);
        pair.advance(Duration::from_millis(100));
    }

    let peer = &pair.edge.node.peers(pair.now)[0];
    assert_eq!((peer.lost_size, peer.path_mtu), (Some(1420), None));
    assert!(pair.origin.delivered.is_empty(), "probes stay inside the node");
    pair.edge.node.search_path_mtu(Some(MtuRange::new(false)), pair.now);
    assert_eq!(pair.edge.node.peers(pair.now)[0].lost_size, None);
}

#[test]
fn the_first_address_of_a_peer_is_no_change_of_it() {
    let pair = Pair::connected();
    for end in [&pair.edge, &pair.origin] {
        assert_eq!(end.node.peers(pair.now)[0].counts.endpoint_changes, 0);
    }
}

#[test]
fn an_unknown_key_that_is_a_peers_by_now_is_no_mistake_any_more() {
    let pair = Pair::new();
    let (later, unknown) = (|second| pair.now.instant.after(Duration::from_secs(second)), key(9).1);
    for key in [pair.origin.key, unknown] {
        for second in [0, 10, 20] {
            pair.edge.node.refused.lock().note_unknown(key, later(second));
        }
    }
    let now = Now { instant: later(20), ..pair.now };
    let keys: Vec<_> = pair.edge.node.refused(now).unknown.into_iter().map(|refused| refused.key).collect();
    assert_eq!(keys, [unknown]);
}

fn size_of(event: Event) -> Option<u16> {
    if let Event::PathMtu { mtu, .. } = event { Some(mtu) } else { None }
}
