//! What a node reports: verdicts, events, and the status of its peers.

use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::service_probes::ServiceReply;
use super::shared_key::SharedKey;
use super::stats::{Carried, PeerCounts};
use crate::endpoint::{Endpoint, PeerId};
use crate::key::PublicKey;
use crate::reason::DropReason;
use crate::time::Now;

/// What became of an inner packet given to [`Node::handle_inner`](super::Node::handle_inner).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Encrypted into the send queue as this many datagrams.
    Sent {
        /// The peer it goes to.
        peer: PeerId,
        /// Datagrams written.
        datagrams: usize,
    },
    /// Waits inside the peer for a session (at most 256 packets do); a handshake was started.
    Waiting {
        /// The peer it goes to.
        peer: PeerId,
    },
    /// Dropped and counted.
    Drop(DropReason),
}

/// Why a change of peers was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A node cannot be its own peer.
    #[error("the peer's public key is this node's own")]
    OwnKey,
    /// Another peer has the key.
    #[error("another peer has this public key")]
    KeyTaken,
    /// There are as many peers as receiver indices allow.
    #[error("too many peers")]
    TooMany,
}

/// How well a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Authenticated packet within [`Liveness::up_within`](super::Liveness::up_within), or a fresh
    /// handshake for a plain peer.
    Up,
    /// Heard once, silent for longer than `up` allows, the session not yet expired.
    Stale,
    /// Silent past every session's life (180 s), or its session failed.
    Down,
    /// Never heard since the node started.
    Never,
}

impl PeerState {
    /// The word the CLI and the metrics use.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stale => "stale",
            Self::Down => "down",
            Self::Never => "never",
        }
    }
}

/// A step of the recovery ladder; the steps are taken in order, again and again, with back-off and
/// jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryStep {
    /// A new handshake with the endpoint as it is: the node does it itself.
    Handshake,
    /// A new UDP socket: the caller's to do.
    Rebind,
    /// Resolve the endpoint's name again: the caller's to do, with
    /// [`Node::set_endpoint`](super::Node::set_endpoint) as the result.
    Resolve,
}

/// Something the caller should act on, log or count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session was agreed.
    Handshake {
        /// The peer.
        peer: PeerId,
    },
    /// The peer's authenticated address changed.
    EndpointChanged {
        /// The peer.
        peer: PeerId,
        /// The new one.
        endpoint: Endpoint,
    },
    /// A peer's state changed.
    StateChanged {
        /// The peer.
        peer: PeerId,
        /// From.
        from: PeerState,
        /// To.
        to: PeerState,
    },
    /// A recovery step; the caller does `Rebind` and `Resolve`.
    Recover {
        /// The peer.
        peer: PeerId,
        /// Which step.
        step: RecoveryStep,
    },
    /// The search for the MTU of the path to a peer came to another result.
    PathMtu {
        /// The peer.
        peer: PeerId,
        /// The largest inner packet that the path carries, in bytes.
        mtu: u16,
    },
    /// The watermark moved: keep this wall clock on disk.
    Watermark {
        /// Time since the UNIX epoch.
        wall: Duration,
    },
    /// The wall clock is before the watermark: peers may take our handshakes for replays, and
    /// initiate to us instead.
    ClockBehind {
        /// By how much.
        by: Duration,
    },
    /// Two machines seem to use one key in turn: the peer's, or our own. Reported again only after
    /// ten minutes without a sign of it.
    SharedKey {
        /// The peer whose sessions show it.
        peer: PeerId,
        /// Whether the key is the peer's; else it is our own.
        is_the_peers: bool,
    },
    /// A probe of a service ended ([`Node::probe_service`](super::Node::probe_service)); or its
    /// target replied later, after it was reported as silent.
    ServiceProbed {
        /// What was probed.
        target: SocketAddr,
        /// What came of it.
        reply: ServiceReply,
    },
    /// The holder of the key that is awaited begins a handshake, as
    /// [`Node::await_key`](super::Node::await_key) has it: authentic, but it may be a replay.
    AwaitedKey {
        /// The key.
        key: PublicKey,
    },
    /// An authentic handshake of a peer without a session has an old timestamp: its clock went
    /// back, or it is a replay. We initiated a handshake in return.
    OldTimestamp {
        /// The peer.
        peer: PeerId,
    },
}

/// The status of a peer: what `wg show`, `gatewayctl peers` and the metrics print.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its number.
    pub id: PeerId,
    /// Its key.
    pub public_key: PublicKey,
    /// Whether a preshared key is set.
    pub has_preshared_key: bool,
    /// Its endpoint.
    pub endpoint: Option<Endpoint>,
    /// Its allowed-ips in the order given.
    pub allowed_ips: Vec<IpNetwork>,
    /// How well it is connected.
    pub state: PeerState,
    /// When the last handshake was agreed, on both clocks.
    pub latest_handshake: Option<Now>,
    /// Its persistent keepalive.
    pub keepalive: Option<Duration>,
    /// Bytes received from it: whole authenticated messages, as kernel WireGuard counts.
    pub rx_bytes: u64,
    /// Bytes sent to it, likewise.
    pub tx_bytes: u64,
    /// Inner data packets received and sent.
    pub rx_packets: u64,
    /// Inner data packets sent.
    pub tx_packets: u64,
    /// Smoothed round trip of the probes.
    pub rtt: Option<Duration>,
    /// Share of the last probes that were lost, 0 to 1, without those of an interruption; `None` when
    /// it is not probed.
    pub loss_ratio: Option<f64>,
    /// The largest inner packet that the path carries, once that was searched and found.
    pub path_mtu: Option<u16>,
    /// The MTU that it has without a search, while packets of that size do not come through to it
    /// and small ones do.
    pub lost_size: Option<u16>,
    /// What happened to it since the start.
    pub counts: PeerCounts,
    /// That two machines use one key, if a sign of it was seen within the last minute.
    pub shared_key: Option<SharedKey>,
}

impl PeerStatus {
    /// What was carried with it.
    #[must_use]
    pub const fn carried(&self) -> Carried {
        let Self { rx_bytes, tx_bytes, rx_packets, tx_packets, .. } = *self;
        Carried { rx_bytes, tx_bytes, rx_packets, tx_packets }
    }
}
