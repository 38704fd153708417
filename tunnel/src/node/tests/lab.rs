//! Two nodes and the path between them.

use super::*;

pub(super) const EDGE: &str = "10.77.88.1";
pub(super) const ORIGIN: &str = "10.77.88.2";
pub(super) const EDGE_OUTER: &str = "192.0.2.2:51820";
const ORIGIN_OUTER: &str = "198.51.100.7:40213";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Edge,
    Origin,
}

/// One end: a node, its send queue, and the packets that it delivered.
pub(super) struct End {
    pub(super) node: Node,
    pub(super) key: PublicKey,
    pub(super) at: SocketAddr,
    pub(super) out: SendQueue,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) ecn: Vec<u8>,
}

/// The edge and the origin; the origin dials.
pub(super) struct Pair {
    pub(super) edge: End,
    pub(super) origin: End,
    pub(super) now: Now,
}

pub(super) const RULES: Liveness = Liveness {
    interval: Duration::from_secs(5),
    interval_lost: Duration::from_secs(1),
    tolerated: 3,
    up_within: Duration::from_secs(15),
    plain_up_within: Duration::from_secs(180),
};

#[derive(Default)]
pub(super) struct Sink {
    pub(super) slot: Vec<u8>,
    pub(super) packets: Vec<(Vec<u8>, u8)>,
    pub(super) room: Option<usize>,
}

impl InnerSink for Sink {
    fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.room.is_some_and(|room| self.packets.len() >= room) {
            return None;
        }
        self.slot.resize(len, 0);
        Some(&mut self.slot)
    }

    fn commit(&mut self, _peer: PeerId, len: usize, ecn: u8) {
        self.packets.push((self.slot[..len].to_vec(), ecn));
    }
}

impl Pair {
    /// Both know each other; nothing was sent.
    pub(super) fn new() -> Self {
        Self::with_liveness(None)
    }

    pub(super) fn with_liveness(liveness: Option<Liveness>) -> Self {
        let now = Now {
            instant: Instant::from_boot(Duration::from_secs(1000)),
            wall: Duration::from_secs(1_800_000_000),
        };
        let ((edge_key, edge_public), (origin_key, origin_public)) = (key(2), key(1));
        let edge = End::new(edge_key, edge_public, EDGE, EDGE_OUTER, liveness, now);
        let origin = End::new(origin_key, origin_public, ORIGIN, ORIGIN_OUTER, liveness, now);
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        let for_edge = PeerConfig {
            public_key: origin_public,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            allowed_ips: nets(&["10.77.88.2/32", "192.168.88.0/24", "fd00::2/128"]),
            probe: liveness.map(|_| ORIGIN.parse().unwrap()),
            initiate: false,
        };
        let for_origin = PeerConfig {
            public_key: edge_public,
            endpoint: Some(EDGE_OUTER.parse().unwrap()),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: nets(&["10.77.88.1/32", "fd00::1/128"]),
            probe: liveness.map(|_| EDGE.parse().unwrap()),
            ..for_edge.clone()
        };
        edge.node.update_peers(&[for_edge], &[], now).unwrap();
        origin.node.update_peers(&[for_origin], &[], now).unwrap();
        Self { edge, origin, now }
    }

    /// A session is agreed, nothing else was sent.
    pub(super) fn connected() -> Self {
        let mut pair = Self::new();
        pair.timers();
        pair.exchange();
        pair
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Edge => &mut self.edge,
            Side::Origin => &mut self.origin,
        }
    }

    /// Sends a UDP-less test packet from one side's tunnel address to the other's.
    pub(super) fn send(&mut self, side: Side, data: &[u8]) -> Verdict {
        let (now, end) = (self.now, self.end(side));
        let (from, to) = if side == Side::Edge { (EDGE, ORIGIN) } else { (ORIGIN, EDGE) };
        end.node.handle_inner(now, whole(&mut packet(from, to, data)), &mut end.out)
    }

    /// One sealed datagram, taken from the send queue.
    pub(super) fn seal(&mut self, side: Side, data: &[u8]) -> Vec<u8> {
        self.send(side, data);
        self.end(side).take().pop().expect("a datagram was sent").0
    }

    /// A datagram of the origin whose content was changed before it was encrypted, as only the peer
    /// itself can.
    pub(super) fn seal_raw(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = packet(ORIGIN, EDGE, b"changed inside");
        change(&mut bytes);
        let table = self.origin.node.table.load();
        let peer = table.peers.values().next().unwrap();
        let mut locked = LockedPeer::lock(&self.origin.node, peer, self.now);
        let sealed = {
            let mut slot = [0; 256];
            let tunn = locked.core.tunn.as_mut().unwrap();
            let boringtun::noise::TunnResult::WriteToNetwork(datagram) = tunn.encapsulate(&bytes, &mut slot)
            else {
                panic!("not sealed");
            };
            datagram.to_vec()
        };
        locked.release();
        sealed
    }

    pub(super) fn timers(&mut self) {
        self.edge.node.handle_timeout(self.now, &mut self.edge.out);
        self.origin.node.handle_timeout(self.now, &mut self.origin.out);
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now.instant = self.now.instant.after(by);
        self.now.wall += by;
    }

    /// Carries datagrams both ways until there are none left.
    pub(super) fn exchange(&mut self) {
        self.exchange_up_to(usize::MAX);
    }

    /// As [`exchange`](Self::exchange) on a path that loses longer datagrams; answers the longest
    /// that was sent up and down.
    pub(super) fn exchange_up_to(&mut self, limit: usize) -> (usize, usize) {
        let mut longest = (0, 0);
        loop {
            let (mut up, mut down) = (self.origin.take(), self.edge.take());
            if up.is_empty() && down.is_empty() {
                return longest;
            }
            longest.0 = up.iter().map(|sent| sent.0.len()).fold(longest.0, usize::max);
            longest.1 = down.iter().map(|sent| sent.0.len()).fold(longest.1, usize::max);
            up.retain(|sent| sent.0.len() <= limit);
            down.retain(|sent| sent.0.len() <= limit);
            for (datagram, to, ecn) in up {
                if to == self.edge.at {
                    let from = self.origin.at;
                    self.edge.receive(self.now, from, &datagram, ecn);
                }
            }
            for (datagram, to, ecn) in down {
                if to == self.origin.at {
                    let from = self.edge.at;
                    self.origin.receive(self.now, from, &datagram, ecn);
                }
            }
        }
    }

    pub(super) fn preshare(&mut self, side: Side, byte: u8) {
        let now = self.now;
        let other = if side == Side::Edge { self.origin.key } else { self.edge.key };
        let end = self.end(side);
        let mut config = end.node.peer_config(&other).unwrap();
        config.preshared_key = Some(PresharedKey::from_bytes([byte; 32]));
        end.node.update_peers(&[config], &[], now).unwrap();
    }
}

impl End {
    pub(super) fn new(
        private: PrivateKey,
        key: PublicKey,
        inner: &str,
        at: &str,
        liveness: Option<Liveness>,
        now: Now,
    ) -> Self {
        let config = NodeConfig {
            private_key: Some(private),
            addresses: vec![inner.parse().unwrap()],
            mtu: 1420,
            listen_port: 51820,
            liveness,
            wall_watermark: Duration::ZERO,
        };
        Self {
            node: Node::new(config, now),
            key,
            at: at.parse().unwrap(),
            out: SendQueue::with_capacity(1 << 18),
            delivered: Vec::new(),
            ecn: Vec::new(),
        }
    }

    /// Everything that waits to be sent, one datagram at a time, with its target and ECN bits.
    pub(super) fn take(&mut self) -> Vec<(Vec<u8>, SocketAddr, u8)> {
        let datagrams = self
            .out
            .transmits()
            .flat_map(|transmit| {
                let (to, ecn) = (transmit.endpoint.remote, transmit.ecn);
                transmit
                    .contents
                    .chunks(transmit.segment_size)
                    .map(move |datagram| (datagram.to_vec(), to, ecn))
            })
            .collect();
        self.out.clear();
        datagrams
    }

    pub(super) fn receive(&mut self, now: Now, from: SocketAddr, datagram: &[u8], ecn: u8) {
        let mut contents = datagram.to_vec();
        let mut sink = Sink::default();
        let to = Some(local(&self.at.to_string()));
        let stride = contents.len().max(1);
        let received = Received { from, to, ecn, stride, contents: &mut contents };
        self.node.handle_received(now, received, &mut sink, &mut self.out);
        for (packet, ecn) in sink.packets {
            self.delivered.push(packet);
            self.ecn.push(ecn);
        }
    }
}

pub(super) fn key(seed: u8) -> (PrivateKey, PublicKey) {
    let key = PrivateKey::from_bytes([seed; 32]);
    let public = key.public();
    (key, public)
}

pub(super) fn local(at: &str) -> LocalSide {
    LocalSide { address: at.parse::<SocketAddr>().unwrap().ip(), interface: 0 }
}

pub(super) fn whole(bytes: &mut [u8]) -> SuperPacket<'_> {
    SuperPacket { bytes, offload: Offload::None }
}

/// An IP packet of an experimental protocol.
pub(super) fn packet(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    let echo = Echo { is_reply: false, id: 0, sequence: 0, data };
    let mut bytes = echo.build(from.parse().unwrap(), to.parse().unwrap()).unwrap();
    let protocol = if bytes[0] >> 4 == 4 { 9 } else { 6 };
    bytes[protocol] = 253;
    fix_header(&mut bytes);
    bytes
}

/// Corrects the header checksum.
pub(super) fn fix_header(bytes: &mut [u8]) {
    if bytes[0] >> 4 == 4 {
        bytes[10..12].fill(0);
        let sum = crate::packet::Sum::new().bytes(&bytes[..20]).checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An IPv6 packet of an experimental protocol.
pub(super) fn ipv6_packet(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    packet(from, to, data)
}

/// A TCP packet of `length` payload bytes as the kernel gives it, with the checksum still to be
/// computed.
pub(super) fn tcp_super_packet(from: &str, to: &str, segment_size: usize, length: usize) -> Vec<u8> {
    assert!(segment_size <= length);
    let mut bytes = packet(from, to, &vec![0; 12 + length]);
    bytes[9] = 6;
    bytes[20..40].fill(0);
    (bytes[20], bytes[22], bytes[32], bytes[33]) = (0x1b, 0x50, 0x50, 0x10);
    fix_header(&mut bytes);
    bytes
}
