//! Two nodes with a session, joined in memory: the engine without a kernel.

use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{Node, NodeConfig, PeerConfig, Received, Verdict};
use tunnel::offload::{CoalesceOptions, Coalescer};
use tunnel::time::{Instant, Now};
use tunnel::transmit::SendQueue;

use crate::packets::Whole;

/// Room for a super-packet, encrypted.
pub(crate) const ROOM: usize = 72 * 1024;
/// The fixed time of every run: the nodes read no clock, so that two runs do the same.
pub const NOW: Now =
    Now { instant: Instant::from_boot(Duration::from_secs(1000)), wall: Duration::from_secs(1_800_000_000) };

/// A sending and a receiving node that have agreed on a session.
pub struct Pair {
    sender: End,
    receiver: End,
    buffer: Box<[u8]>,
    datagrams: Box<[u8]>,
    coalescer: Coalescer,
}

/// One node, its address, and its send queue.
pub(crate) struct End {
    pub(crate) node: Node,
    pub(crate) public: PublicKey,
    pub(crate) at: SocketAddr,
    pub(crate) out: SendQueue,
}

/// The result of one super-packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams between the nodes.
    pub datagrams: usize,
    /// Packets and super-packets that came out.
    pub packets: usize,
    /// Bytes that came out.
    pub bytes: usize,
}

impl Pair {
    /// Two nodes; the receiver has `other_prefixes` prefixes of other peers in addition to the
    /// sender's own.
    #[must_use]
    pub fn new(other_prefixes: u32) -> Self {
        let (here, there) =
            (SocketAddr::from(([100, 64, 0, 2], 40213)), SocketAddr::from(([192, 0, 2, 2], 51820)));
        let (one, two) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
        let (one_public, two_public) = (one.public(), two.public());
        let everything = networks(["0.0.0.0/0", "::/0"]);
        let sender = End::new(one, here, Some(there), two_public, everything);
        let receiver = End::new(two, there, None, one_public, networks(["192.168.88.0/24", "fd00::2/128"]));
        receiver.burden(other_prefixes);
        let mut pair = Self {
            sender,
            receiver,
            buffer: vec![0; ROOM].into_boxed_slice(),
            datagrams: vec![0; ROOM].into_boxed_slice(),
            coalescer: Coalescer::new(CoalesceOptions { tcp: true, udp: false }),
        };
        pair.shake_hands();
        pair
    }

    /// Encrypts a packet into the sender's queue; the datagrams it became.
    pub fn encrypt(&mut self, packet: &Whole) -> usize {
        self.sender.out.clear();
        let Some(packet) = packet.copy_to(&mut self.buffer) else { return 0 };
        match self.sender.node.handle_inner(NOW, packet, &mut self.sender.out) {
            Verdict::Sent { datagrams, .. } => datagrams,
            Verdict::Waiting { .. } | Verdict::Drop(_) => 0,
        }
    }

    /// Carries a packet from one TUN to the other, with the copies that the kernel would make.
    pub fn carry(&mut self, packet: &Whole) -> Carried {
        let mut carried = Carried { datagrams: self.encrypt(packet), ..Carried::default() };
        for transmit in self.sender.out.transmits() {
            let Some(contents) = self.datagrams.get_mut(..transmit.contents.len()) else { continue };
            contents.copy_from_slice(transmit.contents);
            let received =
                Received { from: self.sender.at, to: None, ecn: 0, stride: transmit.segment_size, contents };
            self.receiver.node.handle_received(NOW, received, &mut self.coalescer, &mut self.receiver.out);
        }
        self.receiver.out.clear();
        while let Some((_, packet)) = self.coalescer.poll_packet() {
            carried.packets += 1;
            carried.bytes += packet.bytes.len();
        }
        carried
    }

    fn shake_hands(&mut self) {
        for _ in 0..4 {
            self.sender.node.handle_timeout(NOW, &mut self.sender.out);
            self.receiver.node.handle_timeout(NOW, &mut self.receiver.out);
            hand_over(
                NOW,
                &mut self.sender,
                &self.receiver.node,
                &mut self.receiver.out,
                &mut self.coalescer,
            );
            hand_over(NOW, &mut self.receiver, &self.sender.node, &mut self.sender.out, &mut self.coalescer);
        }
        hand_over(NOW, &mut self.sender, &self.receiver.node, &mut self.receiver.out, &mut self.coalescer);
        self.receiver.out.clear();
    }
}

impl End {
    /// A node without peers.
    pub(crate) fn alone(key: PrivateKey, at: SocketAddr) -> Self {
        let public = key.public();
        let config = NodeConfig {
            private_key: Some(key),
            addresses: Vec::new(),
            mtu: 1420,
            listen_port: at.port(),
            liveness: None,
            wall_watermark: Duration::ZERO,
        };
        Self { node: Node::new(config, NOW), public, at, out: SendQueue::with_capacity(2 * ROOM) }
    }

    /// A node with one peer, to which it opens a session when it knows where that is.
    pub(crate) fn new(
        key: PrivateKey,
        at: SocketAddr,
        endpoint: Option<SocketAddr>,
        peer: PublicKey,
        allowed_ips: Vec<IpNetwork>,
    ) -> Self {
        let end = Self::alone(key, at);
        let initiate = endpoint.is_some();
        let peer = PeerConfig { endpoint, allowed_ips, initiate, ..PeerConfig::of(peer) };
        // The one error is a node's own key, and these two differ.
        let _ = end.node.update_peers(&[peer], &[], NOW);
        end
    }

    /// Adds one more peer, with about this many /28s spread over all addresses but those of
    /// 192.168.88.0/24.
    fn burden(&self, prefixes: u32) {
        let prefix = |number: u32| {
            // Odd multiples never repeat: the prefixes are spread without random numbers.
            let address = std::net::Ipv4Addr::from(number.wrapping_mul(0x9e37_79b1) & !15);
            let is_other = !address.octets().starts_with(&[192, 168, 88]);
            let network = ipnetwork::Ipv4Network::new(address, 28).ok().map(IpNetwork::V4);
            network.filter(|_| is_other)
        };
        let allowed_ips = (0..prefixes).filter_map(prefix).collect();
        let _ = self.node.update_peers(&[PeerConfig { allowed_ips, ..unknown_peer() }], &[], NOW);
    }
}

/// A node without peers, at the edge's address.
#[must_use]
pub fn lone_node() -> Node {
    End::alone(PrivateKey::from_bytes([0xed; 32]), SocketAddr::from(([192, 0, 2, 2], 51820))).node
}

/// A peer without addresses, whose key has no other peer.
#[must_use]
pub fn unknown_peer() -> PeerConfig {
    PeerConfig::of(PrivateKey::from_bytes([3; 32]).public())
}

fn networks<const N: usize>(texts: [&str; N]) -> Vec<IpNetwork> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

pub(crate) fn hand_over(now: Now, from: &mut End, to: &Node, answers: &mut SendQueue, sink: &mut Coalescer) {
    for transmit in from.out.transmits() {
        let mut contents = transmit.contents.to_vec();
        let stride = transmit.segment_size;
        let received = Received { from: from.at, to: None, ecn: 0, stride, contents: &mut contents };
        to.handle_received(now, received, sink, answers);
    }
    from.out.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets;

    #[test]
    fn a_super_packet_goes_in_and_comes_out_whole() {
        let mut pair = Pair::new(100);
        let packet = packets::tcp4(44 * usize::from(packets::SEGMENT), 1);

        let carried = pair.carry(&packet);

        assert_eq!(carried, Carried { datagrams: 44, packets: 1, bytes: packet.bytes.len() });
    }

    #[test]
    fn a_small_packet_goes_in_and_comes_out() {
        let packet = packets::udp4(200);
        assert_eq!(Pair::new(0).carry(&packet), Carried { datagrams: 1, packets: 1, bytes: 228 });
    }
}
