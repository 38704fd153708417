//! How a node and its peers are configured.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// What a node starts with.
pub struct NodeConfig {
    /// The node's own key; a node without one neither sends nor answers (as `wg` leaves a new
    /// interface).
    pub private_key: Option<PrivateKey>,
    /// The node's own tunnel addresses: probes to them are answered, probes leave from them.
    pub addresses: Vec<IpAddr>,
    /// Inner MTU in bytes.
    pub mtu: u16,
    /// The UDP port the outer socket has, for the routing-loop guard.
    pub listen_port: u16,
    /// Probes and recovery; `None` for a plain WireGuard interface (`causeway-wg`).
    pub liveness: Option<Liveness>,
    /// The highest wall clock that a timestamp of this node ever used (kept on disk by the caller),
    /// zero when unknown.
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
    /// Age of the last authenticated packet up to which a probed peer is `up` (15 s).
    pub up_within: Duration,
    /// Age of the handshake up to which an unprobed peer is `up` (180 s).
    pub plain_up_within: Duration,
}

/// The inner sizes between which a path's MTU is searched, in bytes; both multiples of 4 where
/// they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtuRange {
    /// The least it may end at; 1280 where the tunnel carries IPv6 (RFC 8200 §5).
    pub least: u16,
    /// The most it may end at; 1440 is what Ethernet carries with IPv4 outside.
    pub most: u16,
    /// Whether routers may fragment the probes, as they may all other packets: then one size is
    /// given, and only whether it passes is found.
    pub may_fragment: bool,
}

impl MtuRange {
    /// What paths of 1280 to 1500 bytes can carry, inside IPv4 and IPv6.
    #[must_use]
    pub const fn new(carries_ipv6: bool) -> Self {
        Self { least: if carries_ipv6 { 1280 } else { 1200 }, most: 1440, may_fragment: false }
    }

    /// One size, of which only whether it passes is wanted; `None` for one above
    /// [`MOST_CHECKED`](Self::MOST_CHECKED).
    #[must_use]
    pub const fn fixed(mtu: u16) -> Option<Self> {
        if mtu > Self::MOST_CHECKED {
            return None;
        }
        Some(Self { least: mtu, most: mtu, may_fragment: true })
    }

    /// The largest size that is checked, in bytes: what Ethernet's jumbo frames carry.
    pub const MOST_CHECKED: u16 = 9_216;
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
    /// Sources that may come from, and destinations that go to, this peer. A prefix belongs to one
    /// peer of a node.
    pub allowed_ips: Vec<IpNetwork>,
    /// The peer's tunnel address to probe; `None` leaves liveness to the handshake's age.
    pub probe: Option<IpAddr>,
    /// Whether the node opens the session itself as soon as it has an endpoint, and opens it again
    /// whenever it ends.
    pub initiate: bool,
}

impl PeerConfig {
    /// A peer of which only the key is known: it is sent nothing until there is a packet for it, or
    /// a keepalive.
    #[must_use]
    pub const fn of(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            allowed_ips: Vec::new(),
            probe: None,
            initiate: false,
        }
    }

    /// The keepalive, unless it is zero, which turns it off (as `wg` has it).
    pub(super) fn keepalive_interval(&self) -> Option<Duration> {
        self.keepalive.filter(|keepalive| !keepalive.is_zero())
    }
}
