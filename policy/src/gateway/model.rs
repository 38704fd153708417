//! What `gateway.toml` means, as types that cannot be invalid.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::dns::Dns;
use super::standby::Standby;
use crate::sections::{Link, List, Log, Metrics, Notify, Offload, Page};
use crate::{
    AllowList, Bandwidth, FileRef, Host, HostPort, InterfaceName, Mtu, Name, PortRange, Protocol, Protocols,
    PublicKey, PublicPorts, Rate, Warning, prefix,
};

/// Everything `gateway.toml` says, valid by construction; every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The WireGuard interface.
    pub interface: Interface,
    /// What unauthenticated sources may open.
    pub wan: Wan,
    /// Prefixes of the local network, trusted to reach the edge itself where they arrive by a LAN
    /// interface.
    pub lan: Vec<IpNetwork>,
    /// The LAN's interfaces; empty for those that carry a prefix of it and are no uplink.
    pub lan_interfaces: Vec<InterfaceName>,
    /// WireGuard peers, in the order of the file; names, keys and prefixes are unique.
    pub peers: Vec<Peer>,
    /// Public services, in the order of the file; no two claim the same address, protocol and port.
    pub publish: Vec<Publish>,
    /// Private flows, in the order of the file.
    pub allow: Vec<Allow>,
    /// Named prefix lists, in the order of the file.
    pub lists: Vec<List>,
    /// Names whose records `causeway-agent` keeps.
    pub dns: Option<Dns>,
    /// To whom `causeway-agent` reports outages.
    pub notify: Vec<Notify>,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// Where the status page is served.
    pub page: Page,
    /// The control socket.
    pub control: Control,
    /// The control channel to the peers; no other section has its port.
    pub link: Link,
    /// The pair that this edge is one of, if it is.
    pub standby: Option<Standby>,
    /// Folder of the daemon's own state (endpoints, clock mark, applied policy).
    pub state_directory: PathBuf,
    /// What is logged, and how.
    pub log: Log,
    /// Which offloads are used.
    pub offload: Offload,
    /// Numbers that the daemon claims in the kernel.
    pub kernel: Kernel,
    /// Container networks whose containers count as `"self"` when their packets are forwarded; a
    /// final `*` matches any rest.
    pub container_interfaces: Vec<InterfacePattern>,
    /// Whether the configuration file is watched and applied when it changes.
    pub watch: bool,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Warning>,
}

impl Policy {
    /// Every file that the configuration names for the daemon: keys, then lists. The secrets of
    /// `[dns]` and `[[notify]]` are not for the daemon.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let preshared = self.peers.iter().filter_map(|peer| peer.preshared_key_file.as_ref());
        let lists = self.lists.iter().map(|list| &list.file);
        std::iter::once(&self.interface.private_key_file).chain(preshared).chain(lists)
    }

    /// Every prefix that belongs to the tunnel: its own networks and what is routed into it.
    pub fn tunnel_prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        let own = self.interface.address.iter().map(|&address| prefix::network(address));
        let routed = self.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        own.chain(routed.filter(|prefix| prefix.prefix() > 0))
    }

    /// The addresses from which a peer begins its link: single addresses in its `allowed_ips` that
    /// are inside a network of the edge's tunnel addresses and none of them.
    pub fn link_sources(&self) -> impl Iterator<Item = IpAddr> {
        let own = &self.interface.address;
        let single = self.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let single = single.filter(|prefix| IpNetwork::from(prefix.ip()) == **prefix).map(IpNetwork::ip);
        single.filter(|&source| {
            own.iter().any(|network| network.contains(source)) && own.iter().all(|at| at.ip() != source)
        })
    }

    /// The addresses of those `sockets` that are at the link's port and at an own address in the
    /// tunnel.
    pub fn link_addresses(&self, sockets: &[SocketAddr]) -> Vec<IpAddr> {
        let is_own = |at: &SocketAddr| self.interface.address.iter().any(|own| own.ip() == at.ip());
        let of_link = sockets.iter().filter(|at| at.port() == self.link.port && is_own(at));
        of_link.map(SocketAddr::ip).collect()
    }

    /// The prefixes of the LAN.
    pub fn lan_prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.lan.iter().map(|&prefix| prefix::network(prefix))
    }
}

/// `[interface]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the TUN device.
    pub name: InterfaceName,
    /// The edge's own addresses in the tunnel with their prefix lengths; at least one.
    pub address: Vec<IpNetwork>,
    /// UDP port for WireGuard, never 0.
    pub listen_port: u16,
    /// The edge's private key.
    pub private_key_file: FileRef,
    /// Inner MTU.
    pub mtu: Mtu,
}

/// `[wan]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wan {
    /// The edge's public name or address, by which other machines find it; used by pairing alone.
    pub name: Option<Host>,
    /// Interfaces towards the internet; they do not decide what is trusted, only which interfaces'
    /// kernel settings are set.
    pub interfaces: Vec<InterfaceName>,
    /// Ports of the edge itself that unauthenticated sources may open.
    pub accept: Vec<Accept>,
}

/// One entry of `[wan] accept`, written `tcp/22`, `udp/60000-60010` or `tcp+udp/53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Transport protocols.
    pub protocols: Protocols,
    /// Ports.
    pub ports: PortRange,
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.protocols.iter().map(Protocol::as_str).collect();
        write!(f, "{}/{}", names.join("+"), self.ports)
    }
}

/// `[[peer]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique name.
    pub name: Name,
    /// Unique public key.
    pub public_key: PublicKey,
    /// Preshared key, if any.
    pub preshared_key_file: Option<FileRef>,
    /// Prefixes the peer may send from and is sent; no other peer has an identical one.
    pub allowed_ips: Vec<IpNetwork>,
    /// Where the peer is, when the edge should dial it.
    pub endpoint: Option<HostPort>,
    /// Persistent keepalive, whole seconds, 1 to 65,535; none by default at the edge.
    pub keepalive: Option<Duration>,
    /// Public ports that the peer may open by itself; no other peer has one of them.
    pub may_publish: Vec<PublicPorts>,
    /// Address inside the tunnel that gets ICMP echo requests; `None` for a peer that gets none.
    pub probe: Option<IpAddr>,
    /// Whether anything at the peer is probed, services behind it too: not with `probe = "off"`.
    pub is_probed: bool,
}

impl Peer {
    /// What `probe` says, as it is written.
    #[must_use]
    pub fn probe_text(&self) -> String {
        match self.probe {
            Some(address) => address.to_string(),
            None if self.is_probed => "auto".to_owned(),
            None => "off".to_owned(),
        }
    }
}

/// A public port that a peer requests for one of its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The service at the peer.
    pub service: Name,
    /// Public ports.
    pub port: PublicPorts,
    /// Where the packets go: one address, or one of each family.
    pub targets: Vec<IpAddr>,
    /// As many ports as are published, in the same order.
    pub target_ports: PortRange,
    /// Which clients may connect; lists are the edge's.
    pub allow: AllowList,
}

/// A public port that a peer has published by itself; it is open on the WAN side only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub peer: Name,
    /// The service at the peer.
    pub service: Name,
    /// Public ports.
    pub port: PublicPorts,
    /// Addresses that the tunnel routes to the peer: one, or one of each family.
    pub targets: Vec<IpAddr>,
    /// As many ports as are published, in the same order.
    pub target_ports: PortRange,
    /// Which clients may connect.
    pub allow: AllowList,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer, self.service)
    }
}

/// Why a request for a public port is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `may_publish` does not have the ports.
    NotAllowed,
    /// The edge uses one of the ports itself.
    InUse,
    /// An earlier request of the peer has one of the ports.
    RequestedTwice,
    /// The tunnel leads no address of the target to this peer.
    TargetElsewhere,
    /// There are more or fewer ports at the target.
    OtherCount,
    /// The edge has no list of that name.
    UnknownList,
    /// The peer has as many as it may have.
    TooMany,
}

/// `[[publish]]`: a public port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Name, unique among publishes and allows.
    pub name: Name,
    /// Transport protocols.
    pub protocols: Protocols,
    /// Public address, or `None` for every address of the edge.
    pub address: Option<IpAddr>,
    /// Public ports.
    pub ports: PortRange,
    /// Whether only unauthenticated sources get it; the LAN and containers then get the edge's own
    /// service on that port.
    pub wan_only: bool,
    /// Where the packets go: one target, or one of each family.
    pub targets: Vec<Target>,
    /// What source address the target sees.
    pub source: SourceHandling,
    /// Which clients may connect.
    pub allow: AllowList,
    /// What one service may take.
    pub limits: Limits,
}

/// Where a published port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// An address that the tunnel routes to `peer`.
    pub address: IpAddr,
    /// As many ports as are published, in the same order.
    pub ports: PortRange,
    /// The peer whose allowed-ips hold the address.
    pub peer: Name,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}", self.ports),
            IpAddr::V6(address) => write!(f, "[{address}]:{}", self.ports),
        }
    }
}

/// What source address the far end sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceHandling {
    /// The client's own.
    #[default]
    Preserve,
    /// The edge's own; ports below 1024 stay below 1024.
    Masquerade,
}

/// Limits of one published service; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// New connections per source address.
    pub new_per_source: Option<Rate>,
    /// Connections at the same time per source address.
    pub flows_per_source: Option<u32>,
    /// Bytes per second of the whole service, both directions together.
    pub bandwidth: Option<Bandwidth>,
}

/// `[[allow]]`: a private flow between peers, the edge and the LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Name, unique among publishes and allows.
    pub name: Name,
    /// Who may open it; at least one.
    pub from: Vec<Party>,
    /// To where; at least one.
    pub to: Vec<Party>,
    /// What may be opened.
    pub service: Service,
    /// What source address the target sees.
    pub source: SourceHandling,
}

/// One end of a private flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// A peer: whatever its allowed-ips hold.
    Peer(Name),
    /// The edge itself: any of its addresses; as a source its containers too, as a target ports
    /// they publish.
    Edge,
    /// Addresses inside `[lan]`; the edge's own LAN address among them.
    Lan(IpNetwork),
    /// Addresses inside the allowed-ips of one peer; only as a target.
    Behind {
        /// The addresses.
        prefix: IpNetwork,
        /// The peer.
        peer: Name,
    },
    /// The internet: every address that is global, not the edge's own, and in neither `[lan]` nor
    /// the tunnel. Only as the one target of flows of peers, which leave by the edge's address.
    Wan,
}

/// What a private flow may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Transport ports; at least one range, no two overlap.
    Ports {
        /// Transport protocols.
        protocols: Protocols,
        /// Ports, sorted.
        ports: Vec<PortRange>,
    },
    /// ICMP and ICMPv6 echo requests.
    Echo,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that may read; ignored when it does not exist.
    pub group: String,
}

/// `[kernel]`: numbers that the daemon uses in the kernel; the defaults are used by no common tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Firewall mark of the outer socket, by which its packets stay out of the tunnel.
    pub fwmark: u32,
    /// Upper half of the conntrack marks of published and allowed flows; the lower 16 bits are
    /// zero.
    pub ct_mark: u32,
    /// Routing table that holds the tunnel's routes.
    pub route_table: u32,
    /// Priority of the first routing rule; this and the next two are claimed.
    pub rule_priority: u32,
    /// Protocol number of the routes and rules, by which `gateway down` knows its own.
    pub route_protocol: u8,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            fwmark: 0x4357,
            ct_mark: 0x4357_0000,
            route_table: 4357,
            rule_priority: 4357,
            route_protocol: 157,
        }
    }
}

/// An interface name that may end in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePattern(String);

impl InterfacePattern {
    /// Takes an interface name of safe characters, with or without a final `*`.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        InterfaceName::new(stem).map(|_| Self(text.to_owned()))
    }

    /// The text, with its `*`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an interface of this name is meant.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => interface.starts_with(stem),
            None => interface == self.0,
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
