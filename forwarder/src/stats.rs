//! Counters that the data thread writes and any thread may read: plain atomics, no lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use policy::Name;
use policy::forwarder::Policy;
use tunnel::time::Instant;

macro_rules! labelled {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $($label:literal)/+,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every one, in declaration order: its index is its counter's.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The values of its metric labels.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),+],)+ }
            }
        }
    };
}

labelled! {
    /// Why the forwarder itself dropped a packet; the node counts its own reasons. Labels: stage,
    /// reason.
    Dropped {
        /// No IP packet, or its transport header does not fit.
        Malformed = "demux" / "malformed",
        /// The transport checksum is wrong.
        BadChecksum = "demux" / "bad_checksum",
        /// A fragment of something else than a UDP datagram.
        Fragment = "demux" / "fragment",
        /// A fragment that overlaps others of its datagram (RFC 5722), or one too many; all of it
        /// is given up.
        FragmentOverlap = "reassembly" / "overlap",
        /// A datagram whose other fragments did not come in time, or that made room for others.
        FragmentsMissing = "reassembly" / "incomplete",
        /// Any other protocol.
        UnknownProtocol = "demux" / "unknown_protocol",
        /// A segment of a flow that is not known; a reset is sent in reply, within limits.
        NoFlow = "demux" / "no_flow",
        /// An ICMP message that is about none of our flows.
        UnrelatedIcmp = "demux" / "unrelated_icmp",
        /// A SYN or datagram that no `[[service]]` matches; a reset or an ICMP error is sent in
        /// reply, within limits.
        NoService = "admission" / "no_service",
        /// A SYN or datagram from a source outside the entry's `allow`; with the same replies.
        NotAllowed = "admission" / "not_allowed",
        /// A SYN, or a datagram too many, of a flow that is being dialled already.
        DialPending = "admission" / "dial_pending",
        /// The first SYN of a flow while flows of silent clients take all the room they may; served
        /// when it is repeated.
        Greylisted = "admission" / "greylisted",
        /// A new flow beyond `[limits] flows`.
        ShedFlows = "admission" / "flows",
        /// A new flow beyond `flows_per_client`.
        ShedFlowsOfClient = "admission" / "flows_per_client",
        /// A new flow beyond `pending_dials`.
        ShedDials = "admission" / "pending_dials",
        /// A new flow beyond `pending_per_client`.
        ShedDialsOfClient = "admission" / "pending_per_client",
        /// A new flow while the buffers are full.
        ShedBuffers = "admission" / "buffers",
        /// A datagram of a new flow beyond `[limits] udp_flows`, all of which have proven
        /// themselves.
        ShedUdpFlows = "admission" / "udp_flows",
        /// A datagram of a new flow beyond `udp_flows_per_client`.
        ShedUdpFlowsOfClient = "admission" / "udp_flows_per_client",
        /// A new flow while the daemon stops.
        Stopping = "admission" / "stopping",
        /// A datagram that the local socket did not take.
        UpstreamFull = "upstream" / "full",
        /// A local client's datagram while the tunnel is down.
        TunnelDown = "reach" / "down",
        /// A packet of a flow of the old process, while the socket between the two processes is full.
        HandoverFull = "handover" / "full",
        /// A reply to an unauthenticated source beyond the rate for such replies.
        ReplyLimited = "answer" / "rate_limited",
    }
}

labelled! {
    /// How a dial ended. Label: result.
    Dialled {
        /// Connected.
        Connected = "ok",
        /// The other end refused.
        Refused = "refused",
        /// No route to it.
        Unreachable = "unreachable",
        /// It did not answer in time.
        TimedOut = "timeout",
        /// Its name has no address.
        Unresolved = "unresolved",
        /// No descriptor, port or memory of our own was free.
        Exhausted = "exhausted",
        /// The tunnel was down and the entry refuses then.
        Down = "down",
        /// The client gave up first.
        Abandoned = "abandoned",
    }
}

/// One counter per variant of a labelled enum.
#[derive(Debug)]
pub struct Counters<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Counters<N> {
    fn bump(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// What one `[[service]]` or `[[reach]]` entry has carried.
#[derive(Debug, Default)]
pub struct EntryStats {
    /// Flows open now.
    pub flows: AtomicU64,
    /// Payload bytes out of the tunnel.
    pub received: AtomicU64,
    /// Payload bytes into the tunnel.
    pub sent: AtomicU64,
    dials: Counters<{ Dialled::ALL.len() }>,
}

impl EntryStats {
    /// Counts the end of a dial.
    pub fn dialled(&self, result: Dialled) {
        self.dials.bump(result as usize);
    }

    /// How many dials ended so.
    #[must_use]
    pub fn dials(&self, result: Dialled) -> u64 {
        self.dials.read(result as usize)
    }
}

/// The entries of one kind by name; names that left the configuration keep their counters.
pub type Entries = BTreeMap<Name, Arc<EntryStats>>;

/// What is shown of the old process after an upgrade.
#[derive(Debug, Default)]
pub struct OldProcessStats {
    /// Its flows.
    pub flows: AtomicU64,
    /// When the last of them ends, in milliseconds since boot; 0 when there is no old process.
    ends_at: AtomicU64,
}

impl OldProcessStats {
    /// Shows it: how many flows it has, and when they end at the latest.
    pub fn show(&self, flows: usize, ends: Instant) {
        let millis = u64::try_from(ends.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.flows.store(flows as u64, Ordering::Relaxed);
        self.ends_at.store(millis.max(1), Ordering::Relaxed);
    }

    /// There is no old process any more.
    pub fn end(&self) {
        self.flows.store(0, Ordering::Relaxed);
        self.ends_at.store(0, Ordering::Relaxed);
    }

    /// When its flows end at the latest; `None` when there is no old process.
    #[must_use]
    pub fn ends(&self) -> Option<Instant> {
        let millis = self.ends_at.load(Ordering::Relaxed);
        (millis > 0).then(|| Instant::from_boot(Duration::from_millis(millis)))
    }
}

/// Everything the data thread counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// By `[[service]]`.
    pub services: ArcSwap<Entries>,
    /// By `[[reach]]`.
    pub reach: ArcSwap<Entries>,
    /// Flows in the table, dials included.
    pub flows: AtomicU64,
    /// Flows whose client never finished the handshake and that made room for others.
    pub half_open_evicted: AtomicU64,
    /// UDP flows open now.
    pub udp_flows: AtomicU64,
    /// UDP flows that made room for others before their time.
    pub udp_evicted: AtomicU64,
    /// Bytes of datagrams whose fragments have not all come.
    pub reassembly_bytes: AtomicU64,
    /// Flows that are not open: their upstream or their client has not answered.
    pub pending_dials: AtomicU64,
    /// Bytes of flow buffers in use.
    pub buffer_bytes: AtomicU64,
    /// Payload bytes that flows sent into the tunnel again.
    pub resent: AtomicU64,
    /// How often a flow's scoreboard was full.
    pub scoreboard_full: AtomicU64,
    /// Echo requests answered.
    pub echoes: AtomicU64,
    /// Resets sent in reply to segments of no flow.
    pub resets: AtomicU64,
    /// Rounds of the data loop: what an idle daemon must not do.
    pub rounds: AtomicU64,
    /// Waits that began by busy-polling.
    pub busy_polls: AtomicU64,
    /// Busy-polls that ended without work, after which the thread slept.
    pub busy_poll_misses: AtomicU64,
    /// The old process, as long as it has flows after an upgrade.
    pub old: OldProcessStats,
    /// Connections refused because no descriptor was free.
    pub no_descriptor: AtomicU64,
    /// When the last of them was, in milliseconds since boot; 0 before the first.
    no_descriptor_at: AtomicU64,
    dropped: Counters<{ Dropped::ALL.len() }>,
}

impl Stats {
    /// Counts a connection that was refused because no descriptor was free.
    pub fn lack_descriptor(&self, now: Instant) {
        let millis = u64::try_from(now.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.no_descriptor_at.store(millis.max(1), Ordering::Relaxed);
        add(&self.no_descriptor, 1);
    }

    /// When a connection was last refused because no descriptor was free.
    #[must_use]
    pub fn no_descriptor_at(&self) -> Option<Instant> {
        let millis = self.no_descriptor_at.load(Ordering::Relaxed);
        (millis > 0).then(|| Instant::from_boot(Duration::from_millis(millis)))
    }

    /// Makes sure that every entry of a policy has its counters.
    pub fn adopt(&self, policy: &Policy) {
        let grown = |entries: &ArcSwap<Entries>, names: &mut dyn Iterator<Item = &Name>| {
            let mut grown = Entries::clone(&entries.load());
            for name in names {
                grown.entry(name.clone()).or_default();
            }
            entries.store(Arc::new(grown));
        };
        grown(&self.services, &mut policy.services.iter().map(|entry| &entry.name));
        grown(&self.reach, &mut policy.reach.iter().map(|entry| &entry.name));
    }

    /// Counts a dropped packet.
    pub fn refuse(&self, reason: Dropped) {
        self.dropped.bump(reason as usize);
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped.read(reason as usize)
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Takes from a gauge.
pub fn take(gauge: &AtomicU64, less: u64) {
    gauge.fetch_sub(less, Ordering::Relaxed);
}
