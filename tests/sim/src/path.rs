//! The path: a NAT in front of the origin, and everything a network may do to a datagram.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{EDGE_AT, ORIGIN_AT, Side, at};

/// What happens to datagrams, as shares of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Lost.
    pub loss: f64,
    /// Delivered twice.
    pub duplication: f64,
    /// One bit flipped.
    pub corruption: f64,
    /// Held back by up to `jitter`, so that later ones overtake.
    pub reordering: f64,
    /// The longest extra delay of a reordered datagram.
    pub jitter: Duration,
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Where it will come out.
    pub to: Side,
    /// The sender's address as the receiver sees it.
    pub from: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

/// The network between the two.
pub struct Path {
    /// One way's delay.
    pub delay: Duration,
    /// What goes wrong.
    pub faults: Faults,
    /// Whether each direction drops everything: towards the edge, towards the origin.
    pub blackhole: [bool; 2],
    /// Where the edge is reached.
    pub edge: SocketAddr,
    /// Datagrams damaged so far.
    pub corrupted: u64,
    /// Datagrams doubled so far.
    pub duplicated: u64,
    /// Datagrams lost so far, on purpose or because there is no node at their target.
    pub lost: u64,
    /// Everything sent, when it is set: side and bytes.
    pub record: Option<Vec<(Side, Vec<u8>)>>,
    mapping: SocketAddr,
    flights: BTreeMap<(Duration, u64), Flight>,
    sequence: u64,
    chance: u64,
}

impl Path {
    /// A clean path of 15 ms each way.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            delay: Duration::from_millis(15),
            faults: Faults::default(),
            blackhole: [false; 2],
            edge: at(EDGE_AT),
            corrupted: 0,
            duplicated: 0,
            lost: 0,
            record: None,
            mapping: at(ORIGIN_AT),
            flights: BTreeMap::new(),
            sequence: 0,
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// The NAT forgets its mapping: the origin's next datagram leaves from another port, the old
    /// one is dead.
    pub fn rebind(&mut self) -> SocketAddr {
        let port = 40_000 + (self.mapping.port() + 1) % 10_000;
        self.mapping.set_port(port);
        self.mapping
    }

    /// Where the origin is seen.
    #[must_use]
    pub const fn mapping(&self) -> SocketAddr {
        self.mapping
    }

    /// Drops everything, or nothing.
    pub const fn set_blackhole(&mut self, on: bool) {
        self.blackhole = [on; 2];
    }

    /// Datagrams on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Takes the datagram that was sent last off the path.
    pub fn take_newest(&mut self) -> Option<Vec<u8>> {
        let newest = *self.flights.keys().max_by_key(|(_, sequence)| *sequence)?;
        self.flights.remove(&newest).map(|flight| flight.datagram)
    }

    /// Puts a datagram on its way.
    pub fn send(&mut self, side: Side, to: SocketAddr, datagram: &[u8], now: Duration) {
        if let Some(record) = &mut self.record {
            record.push((side, datagram.to_vec()));
        }
        let (target, from, hole) = match side {
            Side::Origin => (self.edge, self.mapping, self.blackhole[0]),
            Side::Edge => (self.mapping, self.edge, self.blackhole[1]),
        };
        if to != target || hole || self.happens(self.faults.loss) {
            self.lost += 1;
            return;
        }
        let copies = if self.happens(self.faults.duplication) { 2 } else { 1 };
        self.duplicated += copies - 1;
        for _ in 0..copies {
            let mut datagram = datagram.to_vec();
            if self.happens(self.faults.corruption) {
                self.corrupted += 1;
                let bit = self.random() as usize % (datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            let mut arrival = now + self.delay;
            if self.happens(self.faults.reordering) {
                arrival += self.faults.jitter.mul_f64(self.share());
            }
            self.sequence += 1;
            let flight = Flight { to: side.other(), from, datagram };
            self.flights.insert((arrival, self.sequence), flight);
        }
    }

    /// When the next datagram comes out.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Duration> {
        self.flights.keys().next().map(|(at, _)| *at)
    }

    /// The datagram that comes out at `now`.
    pub fn deliver(&mut self, now: Duration) -> Option<Flight> {
        let entry = self.flights.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }

    fn share(&mut self) -> f64 {
        (self.random() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// xorshift64.
    pub fn random(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }
}
