//! What must happen to a packet that opens a flow, worked out from the configuration's documents.
//!
//! This is the reference that the compiled rules are held against in a real kernel. It shares no code with the
//! compiler: it reads the policy entry by entry, in the words of `configs/gateway.toml`. Rates, counts and bandwidths
//! are not part of it, since they depend on what went before.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use crate::gateway::{Allow, Party, Policy, Publish, Service, SourceHandling};
use crate::{AllowList, Protocol};

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
    /// Whether the next hop of the interface's default route sent it, and not a host of the link itself.
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
    /// Ports of the edge that someone else's DNAT sends elsewhere, as Docker does.
    pub redirects: Vec<Redirect>,
    /// Sources under a ban.
    pub banned: Vec<IpAddr>,
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
    /// No route leads there; the sender is told.
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

/// Decides about the first packet of a flow.
#[must_use]
pub fn evaluate(policy: &Policy, surroundings: &Surroundings, packet: &Packet) -> Outcome {
    judge(policy, surroundings, packet).outcome
}

/// Decides about the first packet of a flow, and says which entry is responsible.
#[must_use]
pub fn judge<'p>(policy: &'p Policy, surroundings: &Surroundings, packet: &Packet) -> Judgement<'p> {
    let case = Case { policy, surroundings, packet };
    match &packet.arrival {
        Arrival::Edge => case.out_of_edge(),
        Arrival::Interface(name) if name == policy.interface.name.as_str() => case.out_of_tunnel(),
        Arrival::Interface(name) => case.in_from_outside(name),
    }
}

struct Case<'p, 'a> {
    policy: &'p Policy,
    surroundings: &'a Surroundings,
    packet: &'a Packet,
}

impl<'p> Case<'p, '_> {
    /// The edge itself may open into the tunnel what `[[allow]]` lists from "self", and anything elsewhere, but never
    /// with an address of the tunnel.
    fn out_of_edge(&self) -> Judgement<'p> {
        if self.is_local(self.packet.destination) {
            return self.to_itself();
        }
        let Some(way) = self.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        if way == self.tunnel() {
            let entry = self.listed(|from| *from == Party::Edge);
            return entry.map_or(dropped("output", "not_listed").into(), |entry| self.allowed(way, entry));
        }
        if self.in_tunnel(self.packet.source) && !self.in_lan(self.packet.destination) {
            return dropped("postrouting", "leak").into();
        }
        self.forwarded(way, SourceHandling::Preserve).into()
    }

    /// A program of the edge that asks a public address of it is led as a client would be.
    fn to_itself(&self) -> Judgement<'p> {
        let is_public = self.surroundings.public.contains(&self.packet.destination);
        let Some(publish) = self.published(false).filter(|_| is_public) else {
            return Outcome::Delivered.into();
        };
        if self.is_stray() {
            return dropped("prerouting", "not_syn").into();
        }
        let forged = self.in_lan(self.packet.source) && publish.allow != AllowList::Any;
        if forged || !self.admits(&publish.allow) {
            return dropped("prerouting", "source_not_allowed").into();
        }
        Judgement { outcome: self.translated(publish), entry: Some(Entry::Publish(publish)) }
    }

    /// Out of the tunnel comes only what `[[allow]]` lists from a peer, and an echo request to the edge's end of it.
    fn out_of_tunnel(&self) -> Judgement<'p> {
        if self.in_lan(self.packet.source) {
            return dropped("prerouting", "spoofed").into();
        }
        let entry = self.listed(|from| match from {
            Party::Peer(name) => self.belongs_to(self.packet.source, name.as_str()),
            Party::Edge | Party::Lan(_) | Party::Behind { .. } => false,
        });
        if entry.is_some() && self.is_stray() {
            return dropped("prerouting", "not_syn").into();
        }
        if self.is_local(self.packet.destination) {
            if let Some(redirect) = self.redirect() {
                let Some(entry) = entry else { return dropped("forward", "not_listed").into() };
                let outcome = self.redirected(redirect, entry.source);
                return Judgement { outcome, entry: Some(Entry::Allow(entry)) };
            }
            let own_end = self.policy.interface.address.iter().any(|own| own.ip() == self.packet.destination);
            let echo = own_end && self.packet.transport == Transport::Echo;
            let open = entry.is_some() || echo;
            let outcome = if open { Outcome::Delivered } else { dropped("input", "not_listed") };
            return Judgement { outcome, entry: entry.map(Entry::Allow) };
        }
        let Some(way) = self.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        entry.map_or(dropped("forward", "not_listed").into(), |entry| self.allowed(way, entry))
    }

    /// Unauthenticated sources reach published ports and what the edge accepts; the LAN and containers also the edge
    /// itself, what is behind it, and what is listed.
    fn in_from_outside(&self, interface: &str) -> Judgement<'p> {
        let source = self.packet.source;
        if self.in_tunnel(source) && !self.in_lan(source) {
            return dropped("prerouting", "spoofed").into();
        }
        let lan = self.is_from_lan(interface);
        let container = !lan && !self.is_behind_next_hop(interface) && self.is_container_network(interface);
        let stranger = !lan && !container;
        if stranger && self.in_lan(source) && self.main_route(source).as_deref() != Some(interface) {
            return dropped("prerouting", "spoofed").into();
        }
        if stranger && self.surroundings.banned.contains(&source) {
            return dropped("prerouting", "banned").into();
        }
        let destination = self.packet.destination;
        if stranger && self.in_tunnel(destination) && !self.in_lan(destination) {
            return dropped("prerouting", "wan_guard").into();
        }
        if self.is_local(self.packet.destination) {
            return self.to_edge(stranger, lan);
        }
        let Some(way) = self.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        if way == self.tunnel() {
            let entry = self.listed(|from| match from {
                Party::Lan(prefix) => lan && prefix.contains(source),
                Party::Edge => container && self.is_container(interface) && !self.in_lan(source),
                Party::Peer(_) | Party::Behind { .. } => false,
            });
            if entry.is_some() && self.is_stray() {
                return dropped("prerouting", "not_syn").into();
            }
            return entry.map_or(dropped("forward", "not_listed").into(), |entry| self.allowed(way, entry));
        }
        let guarded = dropped("forward", "wan_guard");
        if stranger { guarded } else { self.forwarded(way, SourceHandling::Preserve) }.into()
    }

    /// To an address of the edge, from outside.
    fn to_edge(&self, stranger: bool, lan: bool) -> Judgement<'p> {
        if let Some(publish) = self.published(stranger) {
            if self.is_stray() {
                return dropped("prerouting", "not_syn").into();
            }
            // Who only claims to be in the LAN is in no list.
            let forged = !lan && self.in_lan(self.packet.source) && publish.allow != AllowList::Any;
            if forged || !self.admits(&publish.allow) {
                return dropped("prerouting", "source_not_allowed").into();
            }
            let outcome = self.translated(publish);
            return Judgement { outcome, entry: Some(Entry::Publish(publish)) };
        }
        if let Some(redirect) = self.redirect() {
            let open = !stranger || self.accepted();
            let outcome = self.redirected(redirect, SourceHandling::Preserve);
            return if open { outcome } else { dropped("forward", "wan_guard") }.into();
        }
        let needed = match self.packet.transport {
            Transport::Echo => true,
            Transport::Udp { destination, .. } => destination == self.policy.interface.listen_port,
            Transport::Tcp { .. } | Transport::Stray { .. } => false,
        };
        let open = !stranger || needed || self.dhcp() || self.accepted();
        if open { Outcome::Delivered } else { dropped("input", "wan_guard") }.into()
    }

    fn dhcp(&self) -> bool {
        let Transport::Udp { source, destination } = self.packet.transport else { return false };
        match self.packet.source {
            IpAddr::V4(_) => {
                (source, destination) == (67, 68)
                    && self.packet.destination == IpAddr::from(std::net::Ipv4Addr::BROADCAST)
            }
            IpAddr::V6(address) => {
                let near = |address: IpAddr| match address {
                    IpAddr::V6(address) => address.is_unicast_link_local(),
                    IpAddr::V4(_) => false,
                };
                (source, destination) == (547, 546) && near(address.into()) && near(self.packet.destination)
            }
        }
    }

    /// A source of `[lan]`, on an interface pinned as the LAN's that carries its network itself; where that is an
    /// uplink too, `[lan] interfaces` must say so, and what its next hop sends is not from the LAN.
    fn is_from_lan(&self, interface: &str) -> bool {
        let pinned = self.surroundings.pinned.iter().any(|pinned| pinned == interface);
        let stated = self.policy.lan_interfaces.iter().any(|named| named.as_str() == interface);
        let uplink = self.is_uplink(interface);
        if !pinned || (uplink && !stated) || self.is_behind_next_hop(interface) {
            return false;
        }
        let source = self.packet.source;
        let mut carried = self.surroundings.links.iter().filter(|(name, _)| name == interface);
        let own = self.in_lan(source) && carried.any(|(_, network)| network.contains(source));
        let mut networks = self.surroundings.links.iter().filter(|(name, _)| name == interface);
        let carries = networks.any(|(_, network)| {
            self.policy.lan.iter().any(|lan| lan.contains(network.ip()) || network.contains(lan.ip()))
        });
        own || (!uplink && carries && is_of_the_link(source))
    }

    fn is_behind_next_hop(&self, interface: &str) -> bool {
        self.packet.relayed && self.is_uplink(interface)
    }

    fn is_uplink(&self, interface: &str) -> bool {
        self.surroundings.default_routes.iter().any(|(name, _)| name == interface)
    }

    fn is_container_network(&self, interface: &str) -> bool {
        let bridge = self.surroundings.bridges.iter().find(|(name, _)| name == interface);
        bridge.is_some_and(|(_, hardware)| !hardware) && !self.is_uplink(interface)
    }

    fn accepted(&self) -> bool {
        let Some((protocol, port)) = self.service() else { return false };
        let accept = &self.policy.wan.accept;
        accept.iter().any(|accept| accept.protocols.contains(protocol) && accept.ports.contains(port))
    }

    /// The public service that is asked for; one bound to this address goes before one on every address.
    ///
    /// One on the WAN side alone is there for unauthenticated sources.
    fn published(&self, stranger: bool) -> Option<&'p Publish> {
        let (protocol, port) = self.service()?;
        let destination = self.packet.destination;
        let fits = |publish: &&Publish| {
            publish.protocols.contains(protocol)
                && publish.ports.contains(port)
                && (stranger || !publish.wan_only)
                && publish.targets.iter().any(|target| target.address.is_ipv4() == destination.is_ipv4())
        };
        let bound =
            self.policy.publish.iter().filter(fits).find(|publish| publish.address == Some(destination));
        bound.or_else(|| self.policy.publish.iter().filter(fits).find(|publish| publish.address.is_none()))
    }

    fn translated(&self, publish: &Publish) -> Outcome {
        let same_family = |address: IpAddr| address.is_ipv4() == self.packet.destination.is_ipv4();
        let target = publish.targets.iter().find(|target| same_family(target.address));
        let (Some(target), Some((_, port))) = (target, self.service()) else { return Outcome::Unroutable };
        let offset = port - publish.ports.first();
        Outcome::Forwarded {
            interface: self.tunnel().to_owned(),
            to: target.address,
            port: Some(target.ports.first() + offset),
            masqueraded: publish.source == SourceHandling::Masquerade,
        }
    }

    fn admits(&self, allow: &AllowList) -> bool {
        let AllowList::Only { prefixes, lists } = allow else { return true };
        let named = self.policy.lists.iter().filter(|list| lists.contains(&list.name));
        let mut all = prefixes.iter().chain(named.flat_map(|list| &list.prefixes));
        all.any(|prefix| prefix.contains(self.packet.source))
    }

    /// The first entry whose source is `wanted` and whose targets and service are the packet's.
    fn listed(&self, wanted: impl Fn(&Party) -> bool) -> Option<&'p Allow> {
        let destination = self.packet.destination;
        let fits = |to: &Party| match to {
            Party::Edge => self.is_local(destination),
            Party::Peer(name) => self.belongs_to(destination, name.as_str()),
            Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.contains(destination),
        };
        self.policy.allow.iter().find(|entry| {
            entry.from.iter().any(&wanted) && entry.to.iter().any(fits) && self.is_service(&entry.service)
        })
    }

    fn is_service(&self, service: &Service) -> bool {
        match (service, self.service()) {
            (Service::Echo, None) => true,
            (Service::Ports { protocols, ports }, Some((protocol, port))) => {
                protocols.contains(protocol) && ports.iter().any(|range| range.contains(port))
            }
            _ => false,
        }
    }

    /// Flows of services and of private flows begin with a SYN; the edge's own into the tunnel may go on without.
    const fn is_stray(&self) -> bool {
        matches!(self.packet.transport, Transport::Stray { .. })
    }

    fn service(&self) -> Option<(Protocol, u16)> {
        match self.packet.transport {
            Transport::Tcp { destination, .. } | Transport::Stray { destination, .. } => {
                Some((Protocol::Tcp, destination))
            }
            Transport::Udp { destination, .. } => Some((Protocol::Udp, destination)),
            Transport::Echo => None,
        }
    }

    fn redirect(&self) -> Option<&Redirect> {
        let (protocol, port) = self.service()?;
        let family = self.packet.destination.is_ipv4();
        let fits = |redirect: &&Redirect| {
            redirect.protocol == protocol && redirect.port == port && redirect.to.is_ipv4() == family
        };
        self.surroundings.redirects.iter().find(fits)
    }

    fn redirected(&self, redirect: &Redirect, source: SourceHandling) -> Outcome {
        let Some(interface) = self.main_route(redirect.to.ip()) else { return Outcome::Unroutable };
        let port = Some(redirect.to.port());
        let masqueraded = source == SourceHandling::Masquerade;
        Outcome::Forwarded { interface, to: redirect.to.ip(), port, masqueraded }
    }

    fn allowed(&self, interface: &str, entry: &'p Allow) -> Judgement<'p> {
        let outcome = self.forwarded(interface, entry.source);
        Judgement { outcome, entry: Some(Entry::Allow(entry)) }
    }

    fn forwarded(&self, interface: &str, source: SourceHandling) -> Outcome {
        Outcome::Forwarded {
            interface: interface.to_owned(),
            to: self.packet.destination,
            port: self.service().map(|(_, port)| port),
            masqueraded: source == SourceHandling::Masquerade,
        }
    }

    fn tunnel(&self) -> &str {
        self.policy.interface.name.as_str()
    }

    fn is_local(&self, address: IpAddr) -> bool {
        let own = self.policy.interface.address.iter().map(IpNetwork::ip);
        self.surroundings.addresses.iter().copied().chain(own).any(|local| local == address)
    }

    fn in_lan(&self, address: IpAddr) -> bool {
        self.policy.lan.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether the address is in the tunnel's own networks or routed to a peer; a prefix of length 0 is not routed.
    fn in_tunnel(&self, address: IpAddr) -> bool {
        let own = self.policy.interface.address.iter().any(|network| network.contains(address));
        own || self.policy.peers.iter().any(|peer| self.belongs_to(address, peer.name.as_str()))
    }

    /// Whether the tunnel routes the address to the peer: of all prefixes that hold it the longest decides, and the edge's
    /// own addresses are nobody's.
    fn belongs_to(&self, address: IpAddr, name: &str) -> bool {
        if self.policy.interface.address.iter().any(|own| own.ip() == address) {
            return false;
        }
        let holding = self.policy.peers.iter().flat_map(|peer| {
            let routed =
                peer.allowed_ips.iter().filter(|prefix| prefix.prefix() > 0 && prefix.contains(address));
            routed.map(move |prefix| (prefix.prefix(), peer.name.as_str()))
        });
        holding.max_by_key(|(length, _)| *length).is_some_and(|(_, owner)| owner == name)
    }

    fn is_container(&self, interface: &str) -> bool {
        self.policy.container_interfaces.iter().any(|pattern| pattern.matches(interface))
    }

    /// The LAN stays where it is; then the tunnel's prefixes; then what the machine knows by itself.
    fn route(&self, destination: IpAddr) -> Option<&str> {
        if !self.in_lan(destination) && self.in_tunnel(destination) {
            return Some(self.tunnel());
        }
        self.main_interface(destination)
    }

    fn main_route(&self, destination: IpAddr) -> Option<String> {
        self.main_interface(destination).map(str::to_owned)
    }

    fn main_interface(&self, destination: IpAddr) -> Option<&str> {
        let links = self.surroundings.links.iter().filter(|(_, network)| network.contains(destination));
        let nearest =
            links.max_by_key(|(_, network)| network.prefix()).map(|(interface, _)| interface.as_str());
        let mut defaults = self.surroundings.default_routes.iter();
        nearest.or_else(|| {
            let fitting = defaults.find(|(_, ipv6)| *ipv6 == destination.is_ipv6());
            fitting.map(|(interface, _)| interface.as_str())
        })
    }
}

/// Hosts that have no address yet, and link-local ones.
fn is_of_the_link(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => address.is_unspecified(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_unicast_link_local(),
    }
}

fn dropped(stage: &'static str, reason: &'static str) -> Outcome {
    Outcome::Dropped { stage, reason }
}
