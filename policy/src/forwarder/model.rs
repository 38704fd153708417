//! What `forwarder.toml` means, as types that cannot be invalid.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::caddy::Caddy;
use super::steer::Steer;
use super::upstream::{Health, Upstream};
use crate::sections::{Link, List, Log, Metrics, Notify, Offload, Page};
use crate::{
    AllowList, FileRef, HostPort, Mtu, Name, PortRange, Protocol, Protocols, PublicKey, PublicPorts, Warning,
    prefix,
};

/// The most names of services that are watched; more are allowed, with a warning.
pub const MAX_WATCHED_NAMES: usize = 256;

/// Everything `forwarder.toml` says, valid by construction; every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What every tunnel shares.
    pub interface: Interface,
    /// The edges, in the order of the file; names are unique, and so are keys and prefixes within
    /// one device.
    pub peers: Vec<Peer>,
    /// Tunnel → upstream, most specific match first: the first that matches decides.
    pub services: Vec<Service>,
    /// Local listener → tunnel, in the order of the file.
    pub reach: Vec<Reach>,
    /// Named prefix lists, in the order of the file.
    pub lists: Vec<List>,
    /// To whom `causeway-agent` reports outages.
    pub notify: Vec<Notify>,
    /// Where metrics are served; none by default.
    pub metrics: Metrics,
    /// Where the status page is served.
    pub page: Page,
    /// The control socket.
    pub control: Control,
    /// The control channel to the edges.
    pub link: Link,
    /// Bounds on what flows may take.
    pub limits: Limits,
    /// Folder of the daemon's own state (the clock mark); `None` leaves it to the daemon.
    pub state_directory: Option<PathBuf>,
    /// What is logged, and how.
    pub log: Log,
    /// Which offloads are used.
    pub offload: Offload,
    /// Where the sites of published names are written; the forwarder does not use it.
    pub caddy: Option<Caddy>,
    /// The name that `causeway-agent` leads to the edges that are there.
    pub steer: Option<Steer>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Warning>,
}

/// `[interface]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Own addresses in the tunnel with their prefix lengths; at least one.
    pub address: Vec<IpNetwork>,
    /// The private key of every peer that has none of its own.
    pub private_key_file: FileRef,
    /// Inner MTU.
    pub mtu: Mtu,
    /// UDP port to bind; `None` lets the system choose.
    pub listen_port: Option<u16>,
}

/// `[[peer]]`: one edge, a WireGuard device of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique name.
    pub name: Name,
    /// The edge's public key.
    pub public_key: PublicKey,
    /// The public key that the edge is to have next.
    pub next_public_key: Option<PublicKey>,
    /// Preshared key, if any.
    pub preshared_key_file: Option<FileRef>,
    /// Where the edge is.
    pub endpoint: HostPort,
    /// Whose addresses may come through this edge; a filter, not a route.
    pub allowed_ips: Vec<IpNetwork>,
    /// Persistent keepalive, whole seconds, 1 to 65,535; `None` when turned off.
    pub keepalive: Option<Duration>,
    /// Own addresses in this tunnel: its own, or those of `[interface]`.
    pub address: Vec<IpNetwork>,
    /// Own private key for this tunnel: its own, or that of `[interface]`.
    pub private_key_file: FileRef,
    /// Its public address, which `[steer]` leads visitors to; `None` where it is not known.
    pub public_address: Option<Ipv4Addr>,
    /// The edge's address inside the tunnel, asked for an ICMP echo; `None` when it is not probed.
    pub probe: Option<IpAddr>,
}

/// `[[service]]`: flows out of the tunnel, carried to a local upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: Name,
    /// Transport protocols.
    pub protocols: Protocols,
    /// The destination addresses that packets carry; none is any.
    pub addresses: Vec<IpNetwork>,
    /// The destination ports that packets carry.
    pub ports: PortRange,
    /// The public ports that the edge is requested to open for it.
    pub publish: Option<Publish>,
    /// The names that its visitors use, in lower case; each is watched.
    pub names: Vec<Arc<str>>,
    /// Whether the forwarder visits the names from the internet, to see whether visitors get through.
    pub visitor: bool,
    /// Where flows are carried to, at least one: each to the one that has the fewest.
    pub upstreams: Vec<Upstream>,
    /// How upstreams are asked whether they work; `None` when they are not: turned off, or no single TCP port.
    pub health: Option<Health>,
    /// The header written before the client's first byte.
    pub proxy_protocol: ProxyProtocol,
    /// Through which peers; every one is named.
    pub peers: Vec<Name>,
    /// Which clients may connect; [`Policy::admits`] asks it.
    pub allow: AllowList,
}

/// Public ports that a service requests from its edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The ports, as many in each entry as the service has.
    pub ports: Vec<PublicPorts>,
    /// Which clients may connect; lists are the edge's.
    pub from: AllowList,
}

/// The PROXY protocol header that an upstream is given (HAProxy's `proxy-protocol.txt`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// The text line of version 1; TCP only.
    V1,
    /// The binary header of version 2; TCP only.
    V2,
}

/// `[[reach]]`: a local listener whose connections go into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Unique among reaches.
    pub name: Name,
    /// Transport protocols.
    pub protocols: Protocols,
    /// Local address and port.
    pub listen: SocketAddr,
    /// Address and port beyond the tunnel, inside the peer's allowed-ips.
    pub target: SocketAddr,
    /// Through which peer.
    pub peer: Name,
    /// Which port the target sees as source.
    pub source_port: SourcePort,
    /// What a client gets while the tunnel is down.
    pub on_down: OnDown,
}

/// The source port of a reached flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePort {
    /// Any port above 1023.
    #[default]
    Any,
    /// A port below 1024, as NFS servers expect.
    Privileged,
}

/// What a client of a `[[reach]]` listener gets while the tunnel is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// Its connection is closed at once.
    #[default]
    Refuse,
    /// Its connection waits for the tunnel.
    Hold,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the Unix socket; `None` leaves it to the daemon.
    pub socket: Option<PathBuf>,
}

/// `[limits]`: bounds on what flows may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows at the same time.
    pub flows: u32,
    /// Dials to upstreams that have not been answered.
    pub pending_dials: u32,
    /// Flows at the same time from one client (/32 or /64).
    pub flows_per_client: u32,
    /// Unanswered dials from one client (/32 or /64).
    pub pending_per_client: u32,
    /// UDP flows at the same time.
    pub udp_flows: u32,
    /// UDP flows at the same time from one client (/32 or /64).
    pub udp_flows_per_client: u32,
    /// How long a UDP flow is kept after the side that opened it last spoke; at least two minutes
    /// (RFC 4787 REQ-5).
    pub udp_timeout: Duration,
    /// Bytes that the buffers of all flows may take together.
    pub buffer_bytes: u64,
    /// How long a dial to an upstream may take.
    pub dial_timeout: Duration,
    /// How long flows may go on after the daemon has been asked to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 16_384,
            pending_dials: 1_024,
            flows_per_client: 4_096,
            pending_per_client: 256,
            udp_flows: 4_096,
            udp_flows_per_client: 256,
            udp_timeout: Duration::from_secs(300),
            buffer_bytes: 256 << 20,
            dial_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// The entry that decides about a new flow out of the tunnel; `None` when none matches.
    ///
    /// The client's address is not part of the match: [`AllowList::admits`] decides about it
    /// afterwards, so that a client that is not allowed at one entry cannot fall through to
    /// another.
    #[must_use]
    pub fn service_for(&self, peer: &Name, protocol: Protocol, destination: SocketAddr) -> Option<&Service> {
        self.services.iter().find(|service| service.matches(peer, protocol, destination))
    }

    /// Whether a client may use an entry of this policy; a list whose file was not loaded admits no
    /// client.
    #[must_use]
    pub fn admits(&self, service: &Service, client: IpAddr) -> bool {
        service.allow.admits(client, |name| {
            let list = self.lists.iter().find(|list| list.name == *name);
            list.map_or(&[], |list| list.prefixes.as_slice())
        })
    }
}

impl Peer {
    /// Whether this is the edge's key, or the one that it is to have next.
    #[must_use]
    pub fn has_key(&self, key: PublicKey) -> bool {
        self.public_key == key || self.next_public_key == Some(key)
    }
}

fn takes(addresses: &[IpNetwork], address: IpAddr) -> bool {
    addresses.is_empty() || addresses.iter().any(|prefix| prefix.contains(address))
}

/// [`Service::publish_targets`] of an entry that takes these addresses.
pub(super) fn publish_targets(addresses: &[IpNetwork], own: &[IpNetwork]) -> Vec<IpAddr> {
    let taken: Vec<_> = own.iter().map(IpNetwork::ip).filter(|own| takes(addresses, *own)).collect();
    if !taken.is_empty() {
        return taken;
    }
    addresses.iter().filter_map(|prefix| prefix::host(*prefix)).collect()
}

impl Service {
    /// Whether a flow through `peer` to `destination` is this entry's.
    #[must_use]
    pub fn matches(&self, peer: &Name, protocol: Protocol, destination: SocketAddr) -> bool {
        self.protocols.contains(protocol)
            && self.ports.contains(destination.port())
            && self.takes_address(destination.ip())
            && self.peers.contains(peer)
    }

    /// Whether visitors use it by this public TCP port: it requests the port of its edges, or takes
    /// that port alone, which an edge may publish by its own file.
    #[must_use]
    pub fn is_on(&self, port: u16) -> bool {
        match &self.publish {
            Some(publish) => publish.ports.iter().any(|open| open.is_tcp(port)),
            None => {
                let is_single = self.ports.first() == port && self.ports.count() == 1;
                is_single && self.protocols.contains(Protocol::Tcp)
            }
        }
    }

    /// Whether packets to this address are this entry's.
    #[must_use]
    pub fn takes_address(&self, address: IpAddr) -> bool {
        takes(&self.addresses, address)
    }

    /// Where the edge is to send what it opens for this entry: the own addresses in its tunnel that
    /// the entry takes, else the single addresses of its match.
    #[must_use]
    pub fn publish_targets(&self, own: &[IpNetwork]) -> Vec<IpAddr> {
        publish_targets(&self.addresses, own)
    }

    /// What it takes, as it is written: `ADDRESS:PORTS`.
    #[must_use]
    pub fn matched(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let address = if addresses.is_empty() { "*".to_owned() } else { addresses.join(", ") };
        format!("{address}:{}", self.ports)
    }

    /// Whether flows of this entry can go on under `other`: it differs in nothing but where it leads,
    /// how that is watched and published, and further peers.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        let led = |entry: &Self| Self {
            upstreams: Vec::new(),
            health: None,
            publish: None,
            names: Vec::new(),
            visitor: false,
            peers: Vec::new(),
            ..entry.clone()
        };
        led(self) == led(other) && self.peers.iter().all(|peer| other.peers.contains(peer))
    }
}
