//! The WireGuard node: peers, allowed-ips, admission, timers and liveness, without a socket or a clock.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::endpoint::{Endpoint, LocalSide};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::offload::SuperPacket;
use crate::reason::DropReason;
use crate::sink::InnerSink;
use crate::time::{Instant, Now};
use crate::transmit::SendQueue;

/// A peer's number within its node: small, never reused while the node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What a node starts with.
pub struct NodeConfig {
    /// The node's own key; a node without one neither sends nor answers (as `wg` leaves a new interface).
    pub private_key: Option<PrivateKey>,
    /// The node's own tunnel addresses: probes to them are answered, probes leave from them.
    pub addresses: Vec<IpAddr>,
    /// Inner MTU in bytes.
    pub mtu: u16,
    /// The UDP port the outer socket has, for the routing-loop guard.
    pub listen_port: u16,
    /// Probes and recovery; `None` for a plain WireGuard interface (`causeway-wg`).
    pub liveness: Option<Liveness>,
    /// The highest wall clock this node's stamps ever used (kept on disk by the shell), zero when unknown.
    pub wall_watermark: Duration,
}

/// How the node watches its peers (defaults as the product documents them).
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// Time between probes while they are answered (5 s).
    pub interval: Duration,
    /// Time between probes once one was lost (1 s).
    pub interval_lost: Duration,
    /// Lost probes in a row that start the recovery ladder (3).
    pub tolerated: u32,
    /// Age of the last authenticated answer up to which a probed peer is `up` (15 s).
    pub up_within: Duration,
    /// Age of the handshake up to which an unprobed peer is `up` (180 s).
    pub plain_up_within: Duration,
}

/// What a node knows of a peer by configuration.
#[derive(Clone)]
pub struct PeerConfig {
    /// The peer's key, its identity.
    pub public_key: PublicKey,
    /// The optional preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// A configured or last known endpoint; authenticated packets move it.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive; only the side behind a NAT needs it.
    pub keepalive: Option<Duration>,
    /// Sources that may come from, and destinations that go to, this peer. A prefix belongs to one peer of a node.
    pub allowed_ips: Vec<IpNetwork>,
    /// The peer's tunnel address to probe; `None` leaves liveness to the handshake's age.
    pub probe: Option<IpAddr>,
    /// Whether the node opens the session itself as soon as it has an endpoint, and opens it again for ever.
    pub initiate: bool,
}

/// One received UDP message: one datagram, or several of `stride` bytes that the kernel joined (UDP_GRO).
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address and interface it came to, when the socket knows.
    pub to: Option<LocalSide>,
    /// ECN bits of the outer header.
    pub ecn: u8,
    /// Length of every datagram but the last, which may be shorter; at least 1.
    pub stride: usize,
    /// The datagrams back to back.
    pub contents: &'a mut [u8],
}

/// What became of an inner packet given to [`Node::handle_inner`].
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

/// How well a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Authenticated answer within [`Liveness::up_within`], or a fresh handshake for a plain peer.
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

/// A rung of the recovery ladder, climbed one at a time, for ever, with back-off and jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryStep {
    /// A new handshake with the endpoint as it is: the node does it itself.
    Handshake,
    /// A new UDP socket: the shell's to do.
    Rebind,
    /// Resolve the endpoint's name again: the shell's to do, answer by [`Node::set_endpoint`].
    Resolve,
}

/// Something the shell should act on, log or count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session was agreed.
    Handshake {
        /// With whom.
        peer: PeerId,
    },
    /// The peer's authenticated address changed.
    EndpointChanged {
        /// Whose.
        peer: PeerId,
        /// The new one.
        endpoint: Endpoint,
    },
    /// A peer's state changed.
    StateChanged {
        /// Whose.
        peer: PeerId,
        /// From.
        from: PeerState,
        /// To.
        to: PeerState,
    },
    /// A rung of the ladder; the shell does `Rebind` and `Resolve`.
    Recover {
        /// For whom.
        peer: PeerId,
        /// Which rung.
        step: RecoveryStep,
    },
    /// The watermark rose: keep this wall clock on disk before it is used.
    Watermark {
        /// Time since the UNIX epoch.
        wall: Duration,
    },
    /// The wall clock lies before the watermark: the node answers but does not initiate until it has passed.
    ClockBehind {
        /// By how much.
        by: Duration,
    },
}

/// A peer as it stands: what `wg show`, `gatewayctl peers` and the metrics print.
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
    /// Share of the last probes that were lost, 0 to 1; `None` when it is not probed.
    pub loss_ratio: Option<f64>,
    /// Probes lost since the start.
    pub probes_lost: u64,
    /// Handshakes agreed since the start.
    pub handshakes: u64,
    /// Endpoint changes since the start.
    pub endpoint_changes: u64,
    /// Rungs of the ladder climbed, by [`RecoveryStep`] in declaration order.
    pub recoveries: [u64; 3],
}

/// Why a change of peers was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A node cannot be its own peer.
    #[error("the peer's public key is this node's own")]
    OwnKey,
    /// There are as many peers as receiver indices allow.
    #[error("too many peers")]
    TooMany,
}

/// A userspace WireGuard node: every method takes `&self`, so that a sending and a receiving thread share it.
///
/// Locks: one per peer, taken once per batch; the tables are immutable snapshots. It reads no clock and owns no socket.
pub struct Node {
    _stub: (),
}

#[expect(clippy::todo, clippy::missing_panics_doc, unused_variables, reason = "the interface is laid down before the body")]
impl Node {
    /// A node without peers.
    #[must_use]
    pub fn new(config: NodeConfig, now: Now) -> Self {
        todo!()
    }

    /// Encrypts an inner packet or super-packet for the peer that owns its destination.
    ///
    /// `out` needs room for the packet plus 32 bytes for each of its segments (and 148 for a handshake);
    /// the packet is split in place, its bytes are gone afterwards.
    pub fn handle_inner(&self, now: Now, packet: SuperPacket<'_>, out: &mut SendQueue) -> Verdict {
        todo!()
    }

    /// Takes one received message: decrypted packets go to `sink`, answers (handshakes, cookies, keepalives) to `out`.
    ///
    /// Datagrams of one peer that lie next to each other are decrypted under one lock, in order.
    pub fn handle_received(&self, now: Now, received: Received<'_>, sink: &mut impl InnerSink, out: &mut SendQueue) {
        todo!()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must next be called; earlier is harmless.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Does what is due: handshakes, keepalives, probes, recovery.
    pub fn handle_timeout(&self, now: Now, out: &mut SendQueue) {
        todo!()
    }

    /// The next event, oldest first; at most 1,024 wait, then the oldest are dropped and counted.
    pub fn poll_event(&self) -> Option<Event> {
        todo!()
    }

    /// Tells the node that the network changed or the machine woke: sessions are tried at once, from the first rung.
    pub fn handle_network_change(&self, now: Now) {
        todo!()
    }

    /// Replaces the node's own key (all sessions end), or removes it.
    pub fn set_private_key(&self, key: Option<PrivateKey>, now: Now) {
        todo!()
    }

    /// The node's own key.
    pub fn private_key(&self) -> Option<PrivateKey> {
        todo!()
    }

    /// Tells the loop guard which UDP port the outer socket has now.
    pub fn set_listen_port(&self, port: u16) {
        todo!()
    }

    /// Adds or changes peers and removes others in one step: no packet ever sees half of it.
    ///
    /// A peer already there keeps its session unless its preshared key changed; its endpoint stays where
    /// it roamed to when `endpoint` is `None`. An allowed-ip given to a later peer is taken from the earlier one.
    ///
    /// # Errors
    /// [`PeerError`]; then nothing changed.
    pub fn update_peers(&self, upsert: &[PeerConfig], remove: &[PublicKey], now: Now) -> Result<(), PeerError> {
        todo!()
    }

    /// A peer's configuration as it stands (roamed endpoint included), for read-modify-write by the UAPI.
    pub fn peer_config(&self, key: &PublicKey) -> Option<PeerConfig> {
        todo!()
    }

    /// Moves a peer's endpoint, as after a name was resolved: only if it is not `up` at another one.
    pub fn set_endpoint(&self, peer: PeerId, endpoint: SocketAddr, now: Now) {
        todo!()
    }

    /// Every peer as it stands, in order of [`PeerId`]; takes no lock of the data path for longer than a few loads.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        todo!()
    }

    /// The number of a peer.
    pub fn peer_id(&self, key: &PublicKey) -> Option<PeerId> {
        todo!()
    }

    /// Packets dropped for `reason` since the start.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        todo!()
    }
}
