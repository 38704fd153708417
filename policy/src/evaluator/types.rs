//! Packets, surroundings and outcomes.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use crate::Protocol;
use crate::gateway::{Allow, Publish};

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub arrival: Arrival,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address, before any NAT.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// Whether the next hop of the interface's default route sent it, and not a host of the link
    /// itself.
    pub relayed: bool,
}

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// In by this interface; the tunnel's own among them.
    Interface(String),
    /// Out of a program on the edge.
    Edge,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP SYN.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A TCP segment that is no SYN, as in the middle of a flow.
    Stray {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An ICMP or ICMPv6 echo request.
    Echo,
}

/// What is around the edge and not in its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The edge's addresses outside the tunnel.
    pub addresses: Vec<IpAddr>,
    /// Networks that are directly reachable, with their interfaces.
    pub links: Vec<(String, IpNetwork)>,
    /// The interface of the default route, for each family that has one.
    pub default_routes: Vec<(String, bool)>,
    /// Those of uplinks that are not in the LAN.
    pub public: Vec<IpAddr>,
    /// Interfaces that were pinned as the LAN's when the policy was applied.
    pub pinned: Vec<String>,
    /// Bridges, with whether one of their ports is hardware.
    pub bridges: Vec<(String, bool)>,
    /// Ports of the edge that another program's DNAT redirects, as Docker does.
    pub redirects: Vec<Redirect>,
    /// Sources under a ban.
    pub banned: Vec<IpAddr>,
    /// Sockets of the link that the daemon owns.
    pub link: Vec<SocketAddr>,
}

/// A port that a container publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the edge, on every address of it of the container's family.
    pub port: u16,
    /// Where it leads.
    pub to: SocketAddr,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A program on the edge gets it.
    Delivered,
    /// It leaves by an interface.
    Forwarded {
        /// Which.
        interface: String,
        /// Its destination then.
        to: IpAddr,
        /// Its destination port then; `None` for an echo request.
        port: Option<u16>,
        /// Whether its source becomes the edge's own.
        masqueraded: bool,
    },
    /// It is dropped and counted.
    Dropped {
        /// Where: the `stage` of the counter.
        stage: &'static str,
        /// Why: the `reason` of the counter.
        reason: &'static str,
    },
    /// No route exists; the sender gets an ICMP error.
    Unroutable,
}

/// What happens to a packet, and by which entry of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'p> {
    /// What happens.
    pub outcome: Outcome,
    /// Whose counters count the flow; `None` when it needs no entry, or is dropped.
    pub entry: Option<Entry<'p>>,
}

/// An entry of the policy that lets flows pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'p> {
    /// `[[publish]]`
    Publish(&'p Publish),
    /// `[[allow]]`
    Allow(&'p Allow),
}

impl From<Outcome> for Judgement<'_> {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, entry: None }
    }
}
