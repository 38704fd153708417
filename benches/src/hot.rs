//! The hot loops, once each: what the micro benches time and what callgrind counts.

use tunnel::node::PeerId;
use tunnel::offload::{CoalesceOptions, Coalescer, Segments};
use tunnel::packet::Sum;
use tunnel::sink::InnerSink;

use crate::crowd::Crowd;
use crate::memory::Pair;
use crate::packets::{self, SEGMENT, Whole};

/// Segments of a full super-packet.
pub const SEGMENTS: usize = 44;

/// A hot loop with its data, ready to turn.
pub struct Loop {
    /// Its name in the baseline.
    pub name: &'static str,
    /// Payload bytes that one turn handles.
    pub bytes: usize,
    turn: Box<dyn FnMut() -> Option<usize>>,
}

impl Loop {
    /// One turn; a number that keeps the work from being optimised away, or `None` when something
    /// is broken.
    pub fn turn(&mut self) -> Option<usize> {
        (self.turn)()
    }

    /// A loop that handles so many bytes in a turn.
    pub fn new(name: &'static str, bytes: usize, turn: impl FnMut() -> Option<usize> + 'static) -> Self {
        Self { name, bytes, turn: Box::new(turn) }
    }
}

/// How a loop is made ready.
pub type Make = fn() -> Loop;

/// All loops that are counted. None is made yet, since some take a thousand handshakes.
pub const ALL: &[(&str, Make)] = &[
    ("checksum-1420", checksum),
    ("split-tcp4", || split("split-tcp4", full_tcp4())),
    ("split-tcp6", || split("split-tcp6", full_tcp6())),
    ("coalesce-tcp4", || coalesce("coalesce-tcp4", full_tcp4())),
    ("coalesce-tcp6", || coalesce("coalesce-tcp6", full_tcp6())),
    ("encrypt-super-packet", encrypt),
    ("node-to-node", node_to_node),
    ("small-packet", || small_packet("small-packet", 0)),
    ("small-packet-100000-prefixes", || small_packet("small-packet-100000-prefixes", 100_000)),
    ("send-to-1-peer", || send_to("send-to-1-peer", 1, 1)),
    ("send-to-1000-peers", || send_to("send-to-1000-peers", 1000, 100)),
    ("receive-from-1-peer", || receive_from("receive-from-1-peer", 1, 1)),
    ("receive-from-1000-peers", || receive_from("receive-from-1000-peers", 1000, 100)),
];

/// The checksum of a full packet.
#[must_use]
pub fn checksum() -> Loop {
    let bytes = vec![0xa5; 1420];
    Loop::new("checksum-1420", 1420, move || {
        Some(usize::from(Sum::new().bytes(std::hint::black_box(&bytes)).checksum()))
    })
}

/// A super-packet cut in place.
#[must_use]
pub fn split(name: &'static str, packet: Whole) -> Loop {
    let mut buffer = vec![0; packet.bytes.len()];
    Loop::new(name, packet.bytes.len(), move || {
        let mut segments = Segments::new(packet.copy_to(&mut buffer)?).ok()?;
        let mut bytes = 0;
        while let Some(segment) = segments.next_segment() {
            bytes += std::hint::black_box(segment).len();
        }
        Some(bytes)
    })
}

/// Its segments joined again.
#[must_use]
pub fn coalesce(name: &'static str, packet: Whole) -> Loop {
    let bytes = packet.bytes.len();
    let segments = packet.segments();
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: false });
    Loop::new(name, bytes, move || {
        for segment in &segments {
            // Room for the tag, as the node asks for it.
            coalescer.slot(segment.len() + 16)?.get_mut(..segment.len())?.copy_from_slice(segment);
            coalescer.commit(PeerId(1), segment.len(), 0);
        }
        let mut bytes = 0;
        while let Some((_, packet)) = coalescer.poll_packet() {
            bytes += std::hint::black_box(packet.bytes).len();
        }
        Some(bytes)
    })
}

/// A super-packet split and encrypted.
#[must_use]
pub fn encrypt() -> Loop {
    let (mut pair, packet) = (Pair::new(0), full_tcp4());
    Loop::new("encrypt-super-packet", packet.bytes.len(), move || Some(pair.encrypt(&packet)))
}

/// From one TUN to the other: split, encrypted, decrypted, joined.
#[must_use]
pub fn node_to_node() -> Loop {
    let (mut pair, packet) = (Pair::new(0), full_tcp4());
    Loop::new("node-to-node", packet.bytes.len(), move || Some(pair.carry(&packet).bytes))
}

/// A packet of 200 payload bytes, small enough for the look-ups to matter, while another peer has
/// that many prefixes.
#[must_use]
pub fn small_packet(name: &'static str, prefixes: u32) -> Loop {
    let (mut pair, packet) = (Pair::new(prefixes), packets::udp4(200));
    Loop::new(name, packet.bytes.len(), move || Some(pair.carry(&packet).bytes))
}

/// A full super-packet encrypted for the next of this many peers, with this many prefixes each, in
/// one of 100,000 flows.
#[must_use]
pub fn send_to(name: &'static str, peers: u32, prefixes: u32) -> Loop {
    let (mut crowd, packet) = (Crowd::new(peers, prefixes), full_tcp4());
    Loop::new(name, packet.bytes.len(), move || Some(crowd.send(&packet)))
}

/// The same the other way: encrypted by the peer, decrypted at the edge.
#[must_use]
pub fn receive_from(name: &'static str, peers: u32, prefixes: u32) -> Loop {
    let (mut crowd, packet) = (Crowd::new(peers, prefixes), full_tcp4());
    Loop::new(name, packet.bytes.len(), move || Some(crowd.receive(&packet)))
}

/// A full super-packet over IPv4.
#[must_use]
pub fn full_tcp4() -> Whole {
    packets::tcp4(SEGMENTS * usize::from(SEGMENT), 1)
}

/// A full super-packet over IPv6.
#[must_use]
pub fn full_tcp6() -> Whole {
    packets::tcp6(SEGMENTS * (usize::from(SEGMENT) - 20), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_turns() {
        for (name, make) in ALL {
            let mut hot = make();
            assert_eq!(*name, hot.name);
            assert!(hot.turn().is_some_and(|value| value > 0), "{}", hot.name);
            assert!(hot.turn().is_some(), "{}", hot.name);
        }
    }
}
