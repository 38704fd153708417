//! Two nodes, an edge and an origin behind a NAT, and the path between them, on virtual time.
//!
//! Time does not pass while the nodes compute, and jumps to what is due next. Every run of a test
//! with the same seed loses, delays and damages the same datagrams. boringtun's clock is the mock
//! one, which belongs to the test's thread.

pub mod packet;
pub mod path;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mock_instant::MockClock;
use path::{Flight, Path};
use tunnel::endpoint::LocalSide;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{
    Event, Liveness, Node, NodeConfig, PeerConfig, PeerId, PeerState, PeerStatus, Received, Verdict,
};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::reason::DropReason;
use tunnel::sink::InnerSink;
use tunnel::time::{Instant, Now};
use tunnel::transmit::SendQueue;

/// The edge's public address.
pub const EDGE_AT: &str = "192.0.2.2:51820";
/// Where the origin's NAT lets it out at first.
pub const ORIGIN_AT: &str = "198.51.100.7:40213";
/// The edge's tunnel address.
pub const EDGE: &str = "10.77.88.1";
/// The origin's tunnel address.
pub const ORIGIN: &str = "10.77.88.2";

/// Boot of both machines is before the tests' start, the wall clock in 2027.
const BOOT: Duration = Duration::from_secs(10_000);
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The machine with the public address.
    Edge,
    /// The machine behind the NAT, which dials.
    Origin,
}

impl Side {
    /// The one at the far end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Edge => Self::Origin,
            Self::Origin => Self::Edge,
        }
    }
}

/// How a test sets up a pair.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Probes and the whole recovery ladder, as in the product; plain WireGuard when unset.
    pub liveness: bool,
    /// The origin's persistent keepalive.
    pub keepalive: Option<Duration>,
    /// Whether the origin opens the session by itself.
    pub initiate: bool,
    /// The path's seed.
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { liveness: true, keepalive: Some(Duration::from_secs(25)), initiate: true, seed: 1 }
    }
}

impl Setup {
    /// Two plain WireGuard interfaces; neither sends by itself.
    #[must_use]
    pub fn plain() -> Self {
        Self { liveness: false, keepalive: None, initiate: false, seed: 1 }
    }
}

/// The liveness rules as the product documents them.
#[must_use]
pub const fn rules() -> Liveness {
    Liveness {
        interval: Duration::from_secs(5),
        interval_lost: Duration::from_secs(1),
        tolerated: 3,
        up_within: Duration::from_secs(15),
        plain_up_within: Duration::from_secs(180),
    }
}

/// One end of the tunnel.
pub struct End {
    /// The node under test.
    pub node: Node,
    /// Its key.
    pub key: PublicKey,
    /// Identities of the packets it delivered, with how often each came.
    pub delivered: BTreeMap<u64, u32>,
    /// Delivered packets that were not as sent.
    pub damaged: u64,
    /// Events it reported, with the time since the start.
    pub events: Vec<(Duration, Event)>,
    /// How often its timers woke it.
    pub wakes: u64,
    /// Datagrams it sent.
    pub sent: u64,
    /// While set it neither computes nor receives.
    pub suspended: bool,
    /// How far its wall clock is from the true one, in seconds.
    pub wall_error: i64,
    out: SendQueue,
}

/// An edge, an origin, and the path between them.
pub struct Pair {
    /// The edge.
    pub edge: End,
    /// The origin.
    pub origin: End,
    /// The path.
    pub path: Path,
    setup: Setup,
    elapsed: Duration,
    next_id: u64,
}

impl Pair {
    /// Two nodes that know each other; nothing was sent.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        MockClock::set_time(BOOT);
        let now = Now { instant: Instant::from_boot(BOOT), wall: WALL };
        let liveness = setup.liveness.then(rules);
        let edge = End::new(key(2), EDGE, liveness, Duration::ZERO, now);
        let origin = End::new(key(1), ORIGIN, liveness, Duration::ZERO, now);
        let pair =
            Self { edge, origin, path: Path::new(setup.seed), setup, elapsed: Duration::ZERO, next_id: 0 };
        pair.introduce(Side::Edge);
        pair.introduce(Side::Origin);
        pair
    }

    /// A pair whose session is agreed and whose datagrams have all arrived.
    #[must_use]
    pub fn connected(setup: Setup) -> Self {
        let mut pair = Self::new(setup);
        pair.send(Side::Origin);
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.edge.delivered.len(), 1, "the first packet arrives");
        pair.edge.delivered.clear();
        pair
    }

    /// The configuration of one side's peer.
    #[must_use]
    pub fn peer_config(&self, side: Side) -> PeerConfig {
        let origin = side == Side::Origin;
        let (inner, other) = if origin { (EDGE, &self.edge) } else { (ORIGIN, &self.origin) };
        PeerConfig {
            public_key: other.key,
            preshared_key: None,
            endpoint: origin.then(|| at(EDGE_AT)),
            keepalive: self.setup.keepalive.filter(|_| origin),
            allowed_ips: vec![format!("{inner}/32").parse().expect("a prefix")],
            probe: self.setup.liveness.then(|| inner.parse().expect("an address")),
            initiate: origin && self.setup.initiate,
        }
    }

    fn introduce(&self, side: Side) {
        let config = self.peer_config(side);
        self.end_ref(side).node.update_peers(&[config], &[], self.now(side)).expect("a peer");
    }

    /// Starts one side's node again, as after a crash: it remembers nothing but what is in
    /// `config`.
    pub fn restart(&mut self, side: Side, config: PeerConfig, watermark: Duration) {
        let (now, liveness) = (self.now(side), self.setup.liveness.then(rules));
        let (private, inner) = if side == Side::Edge { (key(2), EDGE) } else { (key(1), ORIGIN) };
        let mut end = End::new(private, inner, liveness, watermark, now);
        end.wall_error = self.end_ref(side).wall_error;
        end.node.update_peers(&[config], &[], now).expect("a peer");
        *self.end(side) = end;
    }

    /// One side.
    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Edge => &mut self.edge,
            Side::Origin => &mut self.origin,
        }
    }

    /// One side, to read.
    #[must_use]
    pub const fn end_ref(&self, side: Side) -> &End {
        match side {
            Side::Edge => &self.edge,
            Side::Origin => &self.origin,
        }
    }

    /// Time since the start.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Both clocks of one side.
    #[must_use]
    pub fn now(&self, side: Side) -> Now {
        let error = self.end_ref(side).wall_error;
        let true_wall = WALL + self.elapsed;
        let shift = Duration::from_secs(error.unsigned_abs());
        let wall = if error < 0 { true_wall - shift } else { true_wall + shift };
        Now { instant: Instant::from_boot(BOOT + self.elapsed), wall }
    }

    /// How one side sees the other.
    #[must_use]
    pub fn peer(&self, side: Side) -> PeerStatus {
        self.end_ref(side).node.peers(self.now(side)).remove(0)
    }

    /// The number one side gave the other.
    #[must_use]
    pub fn peer_id(&self, side: Side) -> PeerId {
        self.peer(side).id
    }

    /// How well one side sees the other connected.
    #[must_use]
    pub fn state(&self, side: Side) -> PeerState {
        self.peer(side).state
    }

    /// Drops one side counted for `reason`.
    #[must_use]
    pub fn dropped(&self, side: Side, reason: DropReason) -> u64 {
        self.end_ref(side).node.dropped(reason)
    }

    /// Sends one packet of its own identity from `side` to the other.
    pub fn send(&mut self, side: Side) -> Verdict {
        let id = self.next_id;
        self.next_id += 1;
        let (from, to) = if side == Side::Edge { (EDGE, ORIGIN) } else { (ORIGIN, EDGE) };
        self.send_bytes(side, packet::numbered(from, to, id))
    }

    /// Sends an inner packet.
    pub fn send_bytes(&mut self, side: Side, bytes: Vec<u8>) -> Verdict {
        self.send_offloaded(side, bytes, Offload::None)
    }

    /// Sends an inner packet whose offload is still to be done.
    pub fn send_offloaded(&mut self, side: Side, mut bytes: Vec<u8>, offload: Offload) -> Verdict {
        let now = self.now(side);
        let end = self.end(side);
        let packet = SuperPacket { bytes: &mut bytes, offload };
        let verdict = end.node.handle_inner(now, packet, &mut end.out);
        self.post(side);
        verdict
    }

    /// One sealed datagram of `side`, taken before it reaches the path.
    pub fn seal(&mut self, side: Side) -> Vec<u8> {
        let before = self.path.in_flight();
        self.send(side);
        assert_eq!(self.path.in_flight(), before + 1, "exactly one datagram was sent");
        self.path.take_newest().expect("a datagram")
    }

    /// Gives a datagram to a node as if it came from `from`.
    pub fn inject(&mut self, side: Side, from: SocketAddr, mut datagram: Vec<u8>) {
        let now = self.now(side);
        let end = self.end(side);
        let local = if side == Side::Edge { EDGE_AT } else { "100.64.0.2:51820" };
        let to = Some(LocalSide { address: at(local).ip(), interface: 2 });
        let stride = datagram.len().max(1);
        let received = Received { from, to, ecn: 0, stride, contents: &mut datagram };
        let mut sink = Sink::default();
        end.node.handle_received(now, received, &mut sink, &mut end.out);
        for delivered in sink.packets {
            match packet::number(&delivered) {
                Some(id) => *end.delivered.entry(id).or_default() += 1,
                None => end.damaged += 1,
            }
        }
        self.post(side);
    }

    /// Lets time pass, doing everything when it is due.
    pub fn run(&mut self, span: Duration) {
        let end = self.elapsed + span;
        while self.step(end) {}
        self.set_elapsed(end);
    }

    /// Lets time pass while each side that is named sends a packet every `gap`.
    pub fn run_sending(&mut self, sides: &[Side], gap: Duration, span: Duration) {
        let end = self.elapsed + span;
        while self.elapsed < end {
            for side in sides {
                if !self.end(*side).suspended {
                    self.send(*side);
                }
            }
            self.run(gap.min(end - self.elapsed));
        }
    }

    /// Lets time pass until `done`; the time that took, or `None` when it did not happen within
    /// `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let started = self.elapsed;
        while self.elapsed - started <= limit {
            if done(self) {
                return Some(self.elapsed - started);
            }
            self.run(Duration::from_millis(10));
        }
        None
    }

    /// Packets that arrived at `side`, each once and unchanged.
    #[must_use]
    pub fn arrived(&self, side: Side) -> usize {
        let end = self.end_ref(side);
        assert_eq!(end.damaged, 0, "nothing damaged is delivered");
        assert!(end.delivered.values().all(|times| *times == 1), "nothing is delivered twice");
        end.delivered.len()
    }

    /// Notifies a side's node that its network changed.
    pub fn network_change(&mut self, side: Side) {
        let now = self.now(side);
        self.end(side).node.handle_network_change(now);
    }

    /// Does the next thing that is due before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let timers =
            [Side::Edge, Side::Origin].into_iter().filter_map(|side| Some((self.timer(side)?, side)));
        let timer = timers.min();
        let flight = self.path.next_arrival();
        let due = timer.map(|(at, _)| at).into_iter().chain(flight).min();
        let Some(due) = due.filter(|due| *due <= end) else { return false };
        self.set_elapsed(due.max(self.elapsed));
        if flight == Some(due) {
            if let Some(Flight { to, from, datagram }) = self.path.deliver(self.elapsed)
                && !self.end_ref(to).suspended
            {
                self.inject(to, from, datagram);
            }
        } else if let Some((_, side)) = timer {
            self.wake(side);
        }
        true
    }

    fn timer(&self, side: Side) -> Option<Duration> {
        let end = self.end_ref(side);
        let at = end.node.poll_timeout()?.since_boot().saturating_sub(BOOT);
        (!end.suspended).then_some(at.max(self.elapsed))
    }

    fn wake(&mut self, side: Side) {
        let now = self.now(side);
        let end = self.end(side);
        end.wakes += 1;
        assert!(end.wakes < 5_000_000, "the timers spin");
        end.node.handle_timeout(now, &mut end.out);
        self.post(side);
        let again = self.end_ref(side).node.poll_timeout();
        assert!(again.is_none_or(|at| at > now.instant), "a deadline that has passed stays due");
    }

    /// Puts what a node sends on the path, and records its events.
    fn post(&mut self, side: Side) {
        let elapsed = self.elapsed;
        let end = match side {
            Side::Edge => &mut self.edge,
            Side::Origin => &mut self.origin,
        };
        for transmit in end.out.transmits() {
            for datagram in transmit.contents.chunks(transmit.segment_size) {
                end.sent += 1;
                self.path.send(side, transmit.endpoint.remote, datagram, elapsed);
            }
        }
        end.out.clear();
        while let Some(event) = end.node.poll_event() {
            end.events.push((elapsed, event));
        }
    }

    fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
        MockClock::set_time(BOOT + elapsed);
    }
}

impl End {
    fn new(
        private: PrivateKey,
        inner: &str,
        liveness: Option<Liveness>,
        watermark: Duration,
        now: Now,
    ) -> Self {
        let key = private.public();
        let config = NodeConfig {
            private_key: Some(private),
            addresses: vec![inner.parse().expect("an address")],
            mtu: 1420,
            listen_port: 51820,
            liveness,
            wall_watermark: watermark,
        };
        Self {
            node: Node::new(config, now),
            key,
            delivered: BTreeMap::new(),
            damaged: 0,
            events: Vec::new(),
            wakes: 0,
            sent: 0,
            suspended: false,
            wall_error: 0,
            out: SendQueue::with_capacity(1 << 20),
        }
    }

    /// How many events match `wanted`.
    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }
}

#[derive(Default)]
struct Sink {
    slot: Vec<u8>,
    packets: Vec<Vec<u8>>,
}

impl InnerSink for Sink {
    fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot.resize(len, 0);
        Some(&mut self.slot)
    }

    fn commit(&mut self, _peer: PeerId, len: usize, _ecn: u8) {
        self.packets.push(self.slot[..len].to_vec());
    }
}

/// The key of a seed.
#[must_use]
pub fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

/// An outer address.
#[must_use]
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// Whole seconds.
#[must_use]
pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Milliseconds.
#[must_use]
pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
