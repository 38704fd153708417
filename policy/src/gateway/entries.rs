//! Entries of `gateway.toml` as they are read, each with the places that a later check may report.

use std::net::{IpAddr, SocketAddr};

use super::model::{Accept, Allow, Interface, Party, Peer, Publish, Target, Wan};
use super::standby::StandbyAt;
use crate::fields::At;
use crate::sections::PageListen;
use crate::{InterfaceName, Name, PortRange, Position, PublicPorts};

/// Places of values that other sections may contradict.
pub(super) struct Places {
    pub(super) mtu: Position,
    pub(super) accept: Vec<At<Accept>>,
    pub(super) metrics: Vec<At<SocketAddr>>,
    pub(super) page: Vec<At<PageListen>>,
    /// Where the port of WireGuard or of the link is written.
    pub(super) tunnel_port: Position,
    /// What each peer may publish.
    pub(super) may_publish: Vec<MayPublishAt>,
    pub(super) standby: Option<StandbyAt>,
    /// Whether interface, LAN and peers were read without an error: else where a flow leads cannot
    /// be judged.
    pub(super) are_ends_known: bool,
}

pub(super) struct InterfaceAt {
    pub(super) value: Interface,
    pub(super) mtu_at: Position,
    pub(super) listen_port_at: Position,
}

pub(super) struct PeerAt {
    pub(super) value: Peer,
    pub(super) key_at: Position,
    pub(super) prefixes_at: Vec<Position>,
    pub(super) may_publish: Vec<At<PublicPorts>>,
}

/// `may_publish` of one peer.
pub(super) struct MayPublishAt {
    pub(super) peer: Name,
    pub(super) entries: Vec<At<PublicPorts>>,
}

pub(super) struct PublishAt {
    pub(super) value: Publish,
    pub(super) listen_at: Position,
    pub(super) source_at: Position,
    pub(super) targets: Vec<TargetAt>,
}

pub(super) struct AllowAt {
    pub(super) value: Allow,
    pub(super) at: Position,
    pub(super) from: Vec<At<Party>>,
    pub(super) to: Vec<At<Party>>,
    pub(super) source_at: Position,
}

/// `[wan]` with the places of its interfaces and ports.
pub(super) type WanAt = (Wan, Vec<At<InterfaceName>>, Vec<At<Accept>>);

pub(super) type TargetAt = At<(IpAddr, PortRange)>;

impl TargetAt {
    pub(super) fn resolved(&self, peer: Name) -> Target {
        Target { address: self.value.0, ports: self.value.1, peer }
    }
}
