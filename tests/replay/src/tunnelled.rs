//! Bytes from an authenticated peer that attacks.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use tunnel::io::clock;
use tunnel::node::Received;
use tunnel::offload::{CoalesceOptions, Coalescer, virtio};
use tunnel::packet::Ip;
use tunnel::packet::icmp_error::IcmpError;
use tunnel::transmit::SendQueue;

use crate::wire::{Kept, at, edge, private};

/// Plaintexts, each with two bytes of length before it, sealed by a real peer: nothing panics, and
/// what is delivered is a packet from a source that this peer may use.
pub(crate) fn inner_packet(input: &[u8]) {
    let node = edge(private(2).public());
    let mut peer = handshake(&node);
    let (mut kept, mut out) = (Kept::default(), SendQueue::with_capacity(1 << 18));
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true });
    let mut rest = input;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (plain, after) = tail.split_at(length);
        rest = after;
        let mut sealed = vec![0; (plain.len() + 32).max(148)];
        let TunnResult::WriteToNetwork(message) = peer.encapsulate(plain, &mut sealed) else { continue };
        for second in [false, true] {
            // The same message twice: the second is a replay, and must be dropped.
            let mut contents = message.to_vec();
            let stride = contents.len();
            let received = Received { from: at(7), to: None, ecn: 3, stride, contents: &mut contents };
            let before = kept.packets.len();
            node.handle_received(clock::now(), received, &mut kept, &mut out);
            assert!(!second || kept.packets.len() == before, "a replay was delivered");
        }
        out.clear();
    }
    for packet in &kept.packets {
        let allowed = matches!(packet.first().map(|first| first >> 4), Some(4 | 6));
        assert!(allowed, "something else than IP was delivered");
        use tunnel::sink::InnerSink;
        if !coalescer.has_room() {
            drain(&mut coalescer);
        }
        if let Some(slot) = coalescer.slot(packet.len()) {
            slot.copy_from_slice(packet);
            coalescer.commit(tunnel::node::PeerId(1), packet.len(), 3);
        }
        if let Ok(ip) = Ip::parse(packet) {
            let _ = IcmpError::parse(&ip, packet);
        }
    }
    drain(&mut coalescer);
}

fn drain(coalescer: &mut Coalescer) {
    while let Some((_, packet)) = coalescer.poll_packet() {
        let _ = virtio::encode(&packet);
    }
}

/// A peer with a session, as another WireGuard program would have it.
fn handshake(node: &tunnel::node::Node) -> Tunn {
    let secret = x25519::StaticSecret::from(*private(2).as_bytes());
    let public = x25519::PublicKey::from(*private(1).public().as_bytes());
    let mut peer = Tunn::new(secret, public, None, None, 9, None);
    let (mut buffer, mut out, mut kept) = ([0; 2048], SendQueue::with_capacity(1 << 12), Kept::default());
    let TunnResult::WriteToNetwork(initiation) = peer.format_handshake_initiation(&mut buffer, false) else {
        panic!("no initiation");
    };
    let mut contents = initiation.to_vec();
    let stride = contents.len();
    let received = Received { from: at(7), to: None, ecn: 0, stride, contents: &mut contents };
    node.handle_received(clock::now(), received, &mut kept, &mut out);
    let response: Vec<u8> = out.transmits().flat_map(|transmit| transmit.contents.to_vec()).collect();
    let TunnResult::WriteToNetwork(_) = peer.decapsulate(None, &response, &mut buffer) else {
        panic!("the node did not answer its peer");
    };
    peer
}
