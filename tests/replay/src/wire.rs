//! Bytes from the outer network, before anything is authenticated.

use std::net::SocketAddr;
use std::time::Duration;

use tunnel::io::clock;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{Liveness, Node, NodeConfig, PeerConfig, PeerId, Received};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::sink::InnerSink;
use tunnel::transmit::SendQueue;

/// A sink that keeps everything.
#[derive(Default)]
pub(crate) struct Kept {
    slot: Vec<u8>,
    pub(crate) packets: Vec<Vec<u8>>,
}

impl InnerSink for Kept {
    fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot.clear();
        self.slot.resize(len, 0);
        Some(&mut self.slot)
    }

    fn commit(&mut self, _peer: PeerId, len: usize, _ecn: u8) {
        self.packets.push(self.slot.get(..len).unwrap_or_default().to_vec());
    }
}

/// A stride of two bytes, then what a socket received: an unknown peer is never answered, and
/// nothing is delivered.
pub(crate) fn datagram(input: &[u8]) {
    let Some((stride, contents)) = input.split_first_chunk() else { return };
    let node = edge(private(2).public());
    let (mut sink, mut out) = (Kept::default(), SendQueue::with_capacity(1 << 16));
    let stride = usize::from(u16::from_be_bytes(*stride)).max(1);
    let mut contents = contents.to_vec();
    let received = Received { from: at(7), to: None, ecn: 0, stride, contents: &mut contents };
    node.handle_received(clock::now(), received, &mut sink, &mut out);
    assert!(sink.packets.is_empty(), "an unknown peer's packet was delivered");
    assert!(out.is_empty(), "an unknown peer was answered");
}

/// A real datagram of a session, with the input XORed onto it: unless it is unchanged, it is never
/// delivered.
pub(crate) fn damaged_datagram(input: &[u8]) {
    let (one, other) = (edge(private(2).public()), origin(private(1).public()));
    let (mut up, mut down, mut sink) =
        (SendQueue::with_capacity(1 << 16), SendQueue::with_capacity(1 << 16), Kept::default());
    other.handle_timeout(clock::now(), &mut up);
    hand_over(&mut up, 7, &one, &mut sink, &mut down);
    hand_over(&mut down, 5, &other, &mut sink, &mut up);
    hand_over(&mut up, 7, &one, &mut sink, &mut down);
    let mut packet = icmp_echo();
    other.handle_inner(clock::now(), SuperPacket { bytes: &mut packet, offload: Offload::None }, &mut up);
    let sealed: Vec<u8> = up.transmits().flat_map(|transmit| transmit.contents.to_vec()).collect();
    assert!(!sealed.is_empty(), "a session was agreed");
    let mut damaged = sealed.clone();
    for (byte, damage) in damaged.iter_mut().zip(input) {
        *byte ^= damage;
    }
    let is_same = damaged == sealed;
    let stride = damaged.len();
    let received = Received { from: at(7), to: None, ecn: 0, stride, contents: &mut damaged };
    let mut sink = Kept::default();
    one.handle_received(clock::now(), received, &mut sink, &mut down);
    assert_eq!(!sink.packets.is_empty(), is_same, "damage was delivered, or a whole packet was not");
}

pub(crate) fn edge(peer: PublicKey) -> Node {
    node(private(1), peer, None)
}

fn origin(peer: PublicKey) -> Node {
    node(private(2), peer, Some(at(5)))
}

fn node(own: PrivateKey, peer: PublicKey, endpoint: Option<SocketAddr>) -> Node {
    let liveness = Liveness {
        interval: Duration::from_secs(5),
        interval_lost: Duration::from_secs(1),
        tolerated: 3,
        up_within: Duration::from_secs(15),
        plain_up_within: Duration::from_secs(180),
    };
    let config = NodeConfig {
        private_key: Some(own),
        addresses: vec![[10, 77, 88, 1].into()],
        mtu: 1420,
        listen_port: 51820,
        liveness: Some(liveness),
        wall_watermark: Duration::ZERO,
    };
    let now = clock::now();
    let node = Node::new(config, now);
    let allowed_ips = ["10.77.88.2/32", "192.168.88.0/24", "fd00::2/128", "10.77.88.1/32"];
    let peer = PeerConfig {
        public_key: peer,
        preshared_key: None,
        endpoint,
        keepalive: None,
        allowed_ips: allowed_ips.iter().filter_map(|net| net.parse().ok()).collect(),
        probe: None,
        initiate: endpoint.is_some(),
    };
    node.update_peers(&[peer], &[], now).expect("another's key");
    node
}

pub(crate) fn hand_over(from: &mut SendQueue, who: u8, to: &Node, sink: &mut Kept, answers: &mut SendQueue) {
    for transmit in from.transmits() {
        let mut contents = transmit.contents.to_vec();
        let stride = transmit.segment_size;
        let received = Received { from: at(who), to: None, ecn: 0, stride, contents: &mut contents };
        to.handle_received(clock::now(), received, sink, answers);
    }
    from.clear();
}

pub(crate) fn private(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

pub(crate) fn at(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 51820).into()
}

/// A packet that the edge lets in and does not answer by itself.
fn icmp_echo() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 253, 0, 0, 10, 77, 88, 2, 10, 77, 88, 1];
    packet.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    packet
}
