//! How cost grows with peers, allowed-ips, flows and services: what is counted, for each number of
//! them.

mod flows;
mod services;

use benches::crowd::{Crowd, network};
use benches::hot::{self, Loop};
use benches::memory::{NOW, lone_node, unknown_peer};
use benches::packets;
use tunnel::key::PrivateKey;
use tunnel::node::PeerConfig;

/// What there is more and more of.
pub(crate) struct Subject {
    /// As in the tables.
    pub(crate) name: &'static str,
    /// How many there are, each time.
    pub(crate) numbers: &'static [u32],
    /// What is counted for each number.
    pub(crate) costs: &'static [Cost],
}

/// Something that is counted.
pub(crate) struct Cost {
    /// As in the tables.
    pub(crate) name: &'static str,
    /// What a count is divided by.
    pub(crate) per: Per,
    /// How it is counted.
    pub(crate) kind: Kind,
}

/// What a count is divided by, so that a cost that does not grow is a level line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Per {
    /// Nothing: one turn is one packet, handshake or flow.
    Turn,
    /// The number there is: one turn does something with all of them.
    Each,
}

/// How something is counted.
pub(crate) enum Kind {
    /// Instructions of a turn, once that many are there.
    Instructions(fn(u32) -> Loop),
    /// Bytes of the heap that so many take.
    Memory(fn(u32) -> Kept),
}

/// Something that is kept while its memory is counted.
pub(crate) struct Kept {
    _value: Box<dyn std::any::Any>,
    outside: u64,
}

impl Cost {
    /// The unit of its values.
    #[must_use]
    pub(crate) fn unit(&self, subject: &Subject) -> String {
        let what = match self.kind {
            Kind::Instructions(_) => "instructions",
            Kind::Memory(_) => "bytes",
        };
        match self.per {
            Per::Turn => what.to_owned(),
            Per::Each => format!("{what} for each of the {}", subject.name),
        }
    }
}

impl Kept {
    /// Something all of whose memory is in the heap.
    pub(crate) fn in_heap(value: impl std::any::Any) -> Self {
        Self::new(value, 0)
    }

    fn new(value: impl std::any::Any, outside: u64) -> Self {
        Self { _value: Box::new(value), outside }
    }

    /// Bytes that it has outside of the heap.
    #[must_use]
    pub(crate) fn outside(&self) -> u64 {
        self.outside
    }
}

const SMALL: &[u32] = &[1, 10, 100, 1_000];
const LARGE: &[u32] = &[1, 10, 100, 1_000, 10_000, 100_000];

/// Everything that is counted.
pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "peers",
        numbers: SMALL,
        costs: &[
            Cost { name: "packet", per: Per::Turn, kind: Kind::Instructions(packet_among_peers) },
            Cost { name: "handshake", per: Per::Turn, kind: Kind::Instructions(handshake_among_peers) },
            Cost { name: "memory", per: Per::Each, kind: Kind::Memory(memory_of_peers) },
            Cost { name: "apply", per: Per::Each, kind: Kind::Instructions(apply_peers) },
        ],
    },
    Subject {
        name: "allowed-ips",
        numbers: LARGE,
        costs: &[
            Cost { name: "packet", per: Per::Turn, kind: Kind::Instructions(packet_among_prefixes) },
            Cost { name: "memory", per: Per::Each, kind: Kind::Memory(memory_of_prefixes) },
            Cost { name: "apply", per: Per::Each, kind: Kind::Instructions(apply_prefixes) },
        ],
    },
    Subject {
        name: "flows",
        numbers: LARGE,
        costs: &[
            Cost { name: "packet", per: Per::Turn, kind: Kind::Instructions(flows::packet) },
            Cost { name: "new flow", per: Per::Turn, kind: Kind::Instructions(flows::open) },
            Cost { name: "memory", per: Per::Each, kind: Kind::Memory(flows::memory) },
        ],
    },
    Subject {
        name: "services",
        numbers: SMALL,
        costs: &[
            Cost { name: "new flow", per: Per::Turn, kind: Kind::Instructions(services::find) },
            Cost { name: "memory", per: Per::Each, kind: Kind::Memory(services::memory) },
            Cost { name: "apply", per: Per::Each, kind: Kind::Instructions(services::apply) },
        ],
    },
];

/// A small packet to one of so many peers, and one from it.
fn packet_among_peers(peers: u32) -> Loop {
    let (mut crowd, packet) = (Crowd::new(peers, 1), packets::udp4(200));
    Loop::new("packet", packet.bytes.len(), move || Some(crowd.send(&packet) + crowd.receive(&packet)))
}

fn handshake_among_peers(peers: u32) -> Loop {
    let mut crowd = Crowd::new(peers, 1);
    Loop::new("handshake", 1, move || Some(crowd.shake_hands(|| std::time::Duration::ZERO).0))
}

fn memory_of_peers(peers: u32) -> Kept {
    let edge = lone_node();
    // Keys and prefixes are all different, so nothing is refused.
    let _ = edge.update_peers(&configured(peers), &[], NOW);
    Kept::in_heap(edge)
}

/// All peers given to a node, and taken away again.
fn apply_peers(peers: u32) -> Loop {
    let (edge, peers) = (lone_node(), configured(peers));
    let keys: Vec<_> = peers.iter().map(|peer| peer.public_key).collect();
    Loop::new("apply", 1, move || {
        edge.update_peers(&peers, &[], NOW).ok()?;
        edge.update_peers(&[], &keys, NOW).ok()?;
        Some(peers.len())
    })
}

fn configured(peers: u32) -> Vec<PeerConfig> {
    let config = |number: u32| {
        let mut key = [0x77; 32];
        for (place, byte) in key.iter_mut().zip(number.to_be_bytes()) {
            *place = byte;
        }
        let public_key = PrivateKey::from_bytes(key).public();
        PeerConfig { public_key, allowed_ips: network(number).into_iter().collect(), ..unknown_peer() }
    };
    (0..peers).map(config).collect()
}

fn packet_among_prefixes(prefixes: u32) -> Loop {
    hot::small_packet("packet", prefixes)
}

fn memory_of_prefixes(prefixes: u32) -> Kept {
    let edge = lone_node();
    let _ = edge.update_peers(&[with_prefixes(prefixes)], &[], NOW);
    Kept::in_heap(edge)
}

/// A peer with so many prefixes given to a node, and taken away again.
fn apply_prefixes(prefixes: u32) -> Loop {
    let (edge, peer) = (lone_node(), with_prefixes(prefixes));
    Loop::new("apply", 1, move || {
        edge.update_peers(std::slice::from_ref(&peer), &[], NOW).ok()?;
        edge.update_peers(&[], &[peer.public_key], NOW).ok()?;
        Some(1)
    })
}

fn with_prefixes(prefixes: u32) -> PeerConfig {
    PeerConfig { allowed_ips: (0..prefixes).filter_map(network).collect(), ..unknown_peer() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_counted_works_for_one_and_for_ten() {
        for (subject, cost) in
            SUBJECTS.iter().flat_map(|subject| subject.costs.iter().map(move |cost| (subject, cost)))
        {
            for number in [1, 10] {
                match cost.kind {
                    Kind::Instructions(make) => {
                        let mut hot = make(number);
                        for _ in 0..20 {
                            assert!(
                                hot.turn().is_some_and(|value| value > 0),
                                "{} {}",
                                subject.name,
                                cost.name
                            );
                        }
                    }
                    Kind::Memory(make) => drop(make(number)),
                }
            }
        }
    }
}
