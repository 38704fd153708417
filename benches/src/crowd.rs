//! An edge with many peers, prefixes and flows: what a packet costs then, and what a handshake
//! costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{PeerConfig, Verdict};
use tunnel::offload::{CoalesceOptions, Coalescer, SuperPacket};
use tunnel::time::Now;
use tunnel::transmit::SendQueue;

use crate::memory::{End, NOW, ROOM, hand_over};
use crate::packets::Whole;

/// Flows that packets are spread over, whatever the number of peers.
const FLOWS: u32 = 100_000;
/// Virtual time between handshakes: above 200 a second the edge would reply with a cookie first.
const PAUSE: Duration = Duration::from_millis(10);

/// An edge and the far ends of all its peers, each with a session.
pub struct Crowd {
    edge: End,
    far: Vec<End>,
    /// Prefixes of each peer, /28s in a row.
    prefixes: u32,
    coalescer: Coalescer,
    buffer: Vec<u8>,
    /// The queue through which all far ends send: otherwise a thousand arenas would be measured.
    wire: SendQueue,
    turn: u32,
    now: Now,
}

impl Crowd {
    /// `peers` peers with `prefixes` allowed-ips each.
    #[must_use]
    pub fn new(peers: u32, prefixes: u32) -> Self {
        let key = PrivateKey::from_bytes([0xed; 32]);
        let (public, at) = (key.public(), SocketAddr::from(([192, 0, 2, 2], 51820)));
        let edge = End::alone(key, at);
        let config = |peer: u32| PeerConfig {
            allowed_ips: (0..prefixes).filter_map(|prefix| network(peer * prefixes + prefix)).collect(),
            ..PeerConfig::of(far_key(peer).public())
        };
        // Keys and prefixes are all different, so nothing is refused.
        let _ = edge.node.update_peers(&(0..peers).map(config).collect::<Vec<_>>(), &[], NOW);
        let mut crowd = Self {
            far: (0..peers).map(|peer| far_end(peer, peer, public, at)).collect(),
            edge,
            prefixes,
            coalescer: Coalescer::new(CoalesceOptions { tcp: true, udp: true }),
            buffer: Vec::new(),
            wire: SendQueue::with_capacity(ROOM),
            turn: 0,
            now: NOW,
        };
        for far in &mut crowd.far {
            agree(&mut crowd.edge, far, &mut crowd.coalescer, crowd.now);
            crowd.now.instant = crowd.now.instant.after(PAUSE);
        }
        crowd
    }

    /// A packet for an address of the next peer, encrypted; the datagrams it became.
    pub fn send(&mut self, packet: &Whole) -> usize {
        let (peer, prefix) = self.next();
        let target = address(peer * self.prefixes + prefix);
        let Self { edge, buffer, .. } = self;
        edge.out.clear();
        match edge.node.handle_inner(
            self.now,
            addressed(buffer, packet, 16, target, self.turn),
            &mut edge.out,
        ) {
            Verdict::Sent { datagrams, .. } => datagrams,
            Verdict::Waiting { .. } | Verdict::Drop(_) => 0,
        }
    }

    /// A packet from an address of the next peer, encrypted there and decrypted here; the bytes
    /// that came out.
    pub fn receive(&mut self, packet: &Whole) -> usize {
        let (peer, prefix) = self.next();
        let source = address(peer * self.prefixes + prefix);
        let mut buffer = std::mem::take(&mut self.buffer);
        let inner = addressed(&mut buffer, packet, 12, source, self.turn);
        let mut bytes = 0;
        if let Some(far) = usize::try_from(peer).ok().and_then(|peer| self.far.get_mut(peer)) {
            std::mem::swap(&mut far.out, &mut self.wire);
            far.node.handle_inner(self.now, inner, &mut far.out);
            hand_over(self.now, far, &self.edge.node, &mut self.edge.out, &mut self.coalescer);
            std::mem::swap(&mut far.out, &mut self.wire);
        }
        self.buffer = buffer;
        self.edge.out.clear();
        while let Some((_, packet)) = self.coalescer.poll_packet() {
            bytes += packet.bytes.len();
        }
        bytes
    }

    /// A handshake of the next peer; the datagrams that the edge answered with, and what `clock`
    /// says the edge took.
    pub fn shake_hands(&mut self, clock: impl Fn() -> Duration) -> (usize, Duration) {
        let (peer, _) = self.next();
        // Each from another address, as from a thousand peers after a power cut: there is a limit
        // per source.
        let mut far = far_end(peer, self.turn, self.edge.public, self.edge.at);
        self.edge.out.clear();
        self.now.instant = self.now.instant.after(PAUSE);
        far.node.handle_timeout(self.now, &mut far.out);
        let begin = clock();
        hand_over(self.now, &mut far, &self.edge.node, &mut self.edge.out, &mut self.coalescer);
        (self.edge.out.transmits().len(), clock().saturating_sub(begin))
    }

    /// The next peer and prefix, in an order that the cache cannot foresee.
    fn next(&mut self) -> (u32, u32) {
        self.turn = self.turn.wrapping_add(1);
        let mixed = self.turn.wrapping_mul(0x9e37_79b1) >> 8;
        (mixed % u32::try_from(self.far.len()).unwrap_or(1).max(1), mixed / 7 % self.prefixes)
    }
}

/// The packet with an address in place of its own, the ports of one of all flows, and no checksum
/// if it is UDP.
fn addressed<'a>(
    buffer: &'a mut Vec<u8>,
    packet: &Whole,
    at: usize,
    address: Ipv4Addr,
    turn: u32,
) -> SuperPacket<'a> {
    buffer.clear();
    buffer.extend_from_slice(&packet.bytes);
    let flow = (turn.wrapping_mul(0x85eb_ca6b) % FLOWS).to_be_bytes();
    let no_checksum: &[u8] = if packet.offload.is_super() { &[] } else { &[0, 0] };
    for (place, bytes) in [(at, &address.octets()[..]), (20, &flow), (26, no_checksum)] {
        if let Some(field) = buffer.get_mut(place..place + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    SuperPacket { bytes: buffer, offload: packet.offload }
}

fn agree(edge: &mut End, far: &mut End, sink: &mut Coalescer, now: Now) {
    for _ in 0..3 {
        far.node.handle_timeout(now, &mut far.out);
        hand_over(now, far, &edge.node, &mut edge.out, sink);
        hand_over(now, edge, &far.node, &mut far.out, sink);
    }
    hand_over(now, far, &edge.node, &mut edge.out, sink);
    edge.out.clear();
}

fn far_end(peer: u32, place: u32, edge: PublicKey, at: SocketAddr) -> End {
    let own = SocketAddr::from((Ipv4Addr::from(0x6440_0000 | place & 0x003f_ffff), 40213));
    let everything = "0.0.0.0/0".parse().into_iter().collect();
    End::new(far_key(peer), own, Some(at), edge, everything)
}

fn far_key(peer: u32) -> PrivateKey {
    let mut bytes = [0x5a; 32];
    for (place, byte) in bytes.iter_mut().zip(peer.to_be_bytes()) {
        *place = byte;
    }
    PrivateKey::from_bytes(bytes)
}

/// The first address of the prefix with this number, out of 10.0.0.0/8 and what follows.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number * 16)
}

/// The /28 with this number.
#[must_use]
pub fn network(number: u32) -> Option<IpNetwork> {
    Ipv4Network::new(address(number), 28).ok().map(IpNetwork::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets;

    #[test]
    fn every_peer_of_a_crowd_sends_receives_and_rehandshakes() {
        let mut crowd = Crowd::new(20, 50);
        let packet = packets::udp4(200);
        for _ in 0..100 {
            assert_eq!(crowd.send(&packet), 1);
            assert_eq!(crowd.receive(&packet), packet.bytes.len());
        }
        assert!((0..100).all(|_| crowd.shake_hands(|| Duration::ZERO).0 == 1));
        let many = packets::tcp4(10 * usize::from(packets::SEGMENT), 1);
        assert_eq!((crowd.send(&many), crowd.receive(&many)), (10, many.bytes.len()));
    }
}
