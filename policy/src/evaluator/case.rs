//! One packet, judged entry by entry.

use std::net::{IpAddr, SocketAddr};

use super::places::Places;
use super::types::{Arrival, Entry, Judgement, Outcome, Packet, Redirect, Surroundings, Transport};
use crate::gateway::{Allow, Party, Policy, Publish, Service, SourceHandling};
use crate::{AllowList, Protocol};

/// One packet that is judged.
pub(super) struct Case<'p, 'a> {
    policy: &'p Policy,
    surroundings: &'a Surroundings,
    packet: &'a Packet,
    places: Places<'a>,
}

impl<'p, 'a> Case<'p, 'a> {
    pub(super) fn new(policy: &'p Policy, surroundings: &'a Surroundings, packet: &'a Packet) -> Self
    where
        'p: 'a,
    {
        Self { policy, surroundings, packet, places: Places { policy, surroundings } }
    }

    /// What happens to the packet.
    pub(super) fn judge(&self) -> Judgement<'p> {
        match &self.packet.arrival {
            Arrival::Edge => self.out_of_edge(),
            Arrival::Interface(name) if name == self.policy.interface.name.as_str() => self.out_of_tunnel(),
            Arrival::Interface(name) => self.in_from_outside(name),
        }
    }

    /// The edge itself may open flows into the tunnel that `[[allow]]` lists from "self", and any
    /// flow elsewhere, but none with an address of the tunnel.
    fn out_of_edge(&self) -> Judgement<'p> {
        if self.places.is_local(self.packet.destination) {
            return self.to_itself();
        }
        let Some(way) = self.places.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        if way == self.places.tunnel() {
            let entry = self.listed(|from| *from == Party::Edge);
            return entry.map_or(dropped("output", "not_listed").into(), |entry| self.allowed(way, entry));
        }
        if self.places.in_tunnel(self.packet.source) && !self.places.in_lan(self.packet.destination) {
            return dropped("postrouting", "leak").into();
        }
        self.forwarded(way, SourceHandling::Preserve).into()
    }

    /// A program of the edge that connects to one of its public addresses is treated like a client.
    fn to_itself(&self) -> Judgement<'p> {
        if self.is_to_link() {
            return dropped("input", "link").into();
        }
        let is_public = self.surroundings.public.contains(&self.packet.destination);
        let Some(publish) = self.published(false).filter(|_| is_public) else {
            return Outcome::Delivered.into();
        };
        if self.is_stray() {
            return dropped("prerouting", "not_syn").into();
        }
        let forged = self.places.in_lan(self.packet.source) && publish.allow != AllowList::Any;
        if forged || !self.admits(&publish.allow) {
            return dropped("prerouting", "source_not_allowed").into();
        }
        Judgement { outcome: self.translated(publish), entry: Some(Entry::Publish(publish)) }
    }

    /// Only what `[[allow]]` lists from a peer may leave the tunnel, and an echo request to the
    /// edge's end of it.
    fn out_of_tunnel(&self) -> Judgement<'p> {
        if self.places.in_lan(self.packet.source) {
            return dropped("prerouting", "spoofed").into();
        }
        let entry = self.listed(|from| match from {
            Party::Peer(name) => self.places.belongs_to(self.packet.source, name.as_str()),
            Party::Edge | Party::Lan(_) | Party::Behind { .. } | Party::Wan => false,
        });
        if entry.is_some() && self.is_stray() {
            return dropped("prerouting", "not_syn").into();
        }
        if self.places.is_local(self.packet.destination) {
            if let Some(redirect) = self.redirect() {
                if self.places.is_link(redirect.to, redirect.protocol) {
                    return dropped("input", "link").into();
                }
                let Some(entry) = entry else { return dropped("forward", "not_listed").into() };
                let outcome = self.redirected(redirect, entry.source);
                return Judgement { outcome, entry: Some(Entry::Allow(entry)) };
            }
            if self.is_to_link() {
                let is_peer = self.policy.link_sources().any(|source| source == self.packet.source);
                let is_open = is_peer && self.surroundings.link.iter().any(|socket| self.is_to(*socket));
                return if is_open { Outcome::Delivered } else { dropped("input", "link") }.into();
            }
            let own_end = self.policy.interface.address.iter().any(|own| own.ip() == self.packet.destination);
            let echo = own_end && self.packet.transport == Transport::Echo;
            let open = entry.is_some() || echo;
            let outcome = if open { Outcome::Delivered } else { dropped("input", "not_listed") };
            return Judgement { outcome, entry: entry.map(Entry::Allow) };
        }
        let Some(way) = self.places.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        // A container network does not lead to the internet.
        let diverted =
            |entry: &&Allow| entry.to.contains(&Party::Wan) && self.places.is_container_network(way);
        match entry.filter(|entry| !diverted(entry)) {
            Some(entry) => self.allowed(way, entry),
            None => dropped("forward", "not_listed").into(),
        }
    }

    /// Unauthenticated sources reach published ports and what the edge accepts; the LAN and
    /// containers also the edge itself, what is behind it, and what is listed.
    fn in_from_outside(&self, interface: &str) -> Judgement<'p> {
        let source = self.packet.source;
        if self.places.in_tunnel(source) && !self.places.in_lan(source) {
            return dropped("prerouting", "spoofed").into();
        }
        let lan = self.is_from_lan(interface);
        let container =
            !lan && !self.is_behind_next_hop(interface) && self.places.is_container_network(interface);
        let unauthenticated = !lan && !container;
        if unauthenticated
            && self.places.in_lan(source)
            && self.places.main_route(source).as_deref() != Some(interface)
        {
            return dropped("prerouting", "spoofed").into();
        }
        if unauthenticated && self.surroundings.banned.contains(&source) {
            return dropped("prerouting", "banned").into();
        }
        let destination = self.packet.destination;
        let inside = self.places.in_tunnel(destination) && !self.places.in_lan(destination);
        if unauthenticated && (inside || destination.is_loopback()) {
            return dropped("prerouting", "wan_guard").into();
        }
        if self.places.is_local(self.packet.destination) {
            return self.to_edge(interface, unauthenticated, lan);
        }
        let Some(way) = self.places.route(self.packet.destination) else { return Outcome::Unroutable.into() };
        if way == self.places.tunnel() {
            let entry = self.listed(|from| match from {
                Party::Lan(prefix) => lan && prefix.contains(source),
                Party::Edge => {
                    container && self.places.is_container(interface) && !self.places.in_lan(source)
                }
                Party::Peer(_) | Party::Behind { .. } | Party::Wan => false,
            });
            if entry.is_some() && self.is_stray() {
                return dropped("prerouting", "not_syn").into();
            }
            return entry.map_or(dropped("forward", "not_listed").into(), |entry| self.allowed(way, entry));
        }
        let guarded = dropped("forward", "wan_guard");
        if unauthenticated { guarded } else { self.forwarded(way, SourceHandling::Preserve) }.into()
    }

    /// To an address of the edge, from outside.
    fn to_edge(&self, interface: &str, unauthenticated: bool, lan: bool) -> Judgement<'p> {
        if let Some(publish) = self.published(unauthenticated) {
            if self.is_stray() {
                return dropped("prerouting", "not_syn").into();
            }
            // A forged LAN address matches no list.
            let forged = !lan && self.places.in_lan(self.packet.source) && publish.allow != AllowList::Any;
            if forged || !self.admits(&publish.allow) {
                return dropped("prerouting", "source_not_allowed").into();
            }
            let outcome = self.translated(publish);
            return Judgement { outcome, entry: Some(Entry::Publish(publish)) };
        }
        if let Some(redirect) = self.redirect() {
            if self.places.is_link(redirect.to, redirect.protocol) {
                return dropped("input", "link").into();
            }
            let open = !unauthenticated || self.accepted();
            let outcome = self.redirected(redirect, SourceHandling::Preserve);
            return if open { outcome } else { dropped("forward", "wan_guard") }.into();
        }
        if self.is_to_link() {
            return dropped("input", "link").into();
        }
        let needed = match self.packet.transport {
            Transport::Echo => true,
            Transport::Udp { destination, .. } => destination == self.policy.interface.listen_port,
            Transport::Tcp { .. } | Transport::Stray { .. } => false,
        };
        let open = !unauthenticated || needed || self.dhcp() || self.accepted() || self.is_of_pair(interface);
        if open { Outcome::Delivered } else { dropped("input", "wan_guard") }.into()
    }

    /// What the other edge of a pair sends by the interface that leads to it.
    fn is_of_pair(&self, interface: &str) -> bool {
        let Transport::Udp { destination, .. } = self.packet.transport else { return false };
        let is_its = self.policy.standby.is_some_and(|standby| standby.other == self.packet.source);
        let is_by_its_way = || self.places.main_route(self.packet.source).as_deref() == Some(interface);
        is_its && matches!(destination, 3_780 | 51_898) && is_by_its_way()
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

    /// A source of `[lan]`, on an interface pinned as the LAN's that carries its network itself;
    /// where that is an uplink too, `[lan] interfaces` must say so, and what its next hop sends is
    /// not from the LAN.
    fn is_from_lan(&self, interface: &str) -> bool {
        let pinned = self.surroundings.pinned.iter().any(|pinned| pinned == interface);
        let stated = self.policy.lan_interfaces.iter().any(|named| named.as_str() == interface);
        let uplink = self.places.is_uplink(interface);
        if !pinned || (uplink && !stated) || self.is_behind_next_hop(interface) {
            return false;
        }
        let source = self.packet.source;
        let mut carried = self.surroundings.links.iter().filter(|(name, _)| name == interface);
        let own = self.places.in_lan(source) && carried.any(|(_, network)| network.contains(source));
        let mut networks = self.surroundings.links.iter().filter(|(name, _)| name == interface);
        let carries = networks.any(|(_, network)| {
            self.policy.lan.iter().any(|lan| lan.contains(network.ip()) || network.contains(lan.ip()))
        });
        own || (!uplink && carries && is_of_the_link(source))
    }

    fn is_behind_next_hop(&self, interface: &str) -> bool {
        self.packet.relayed && self.places.is_uplink(interface)
    }

    fn accepted(&self) -> bool {
        let Some((protocol, port)) = self.service() else { return false };
        let accept = &self.policy.wan.accept;
        accept.iter().any(|accept| accept.protocols.contains(protocol) && accept.ports.contains(port))
    }

    /// The public service that the packet is for; one bound to this address takes precedence over
    /// one on every address.
    ///
    /// A service on the WAN side only exists for unauthenticated sources.
    fn published(&self, unauthenticated: bool) -> Option<&'p Publish> {
        let (protocol, port) = self.service()?;
        let destination = self.packet.destination;
        let fits = |publish: &&Publish| {
            publish.protocols.contains(protocol)
                && publish.ports.contains(port)
                && (unauthenticated || !publish.wan_only)
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
            interface: self.places.tunnel().to_owned(),
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
            Party::Edge => self.places.is_local(destination),
            Party::Wan => self.places.in_internet(destination),
            Party::Peer(name) => self.places.belongs_to(destination, name.as_str()),
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

    /// Flows of services and of private flows begin with a SYN; the edge's own into the tunnel may
    /// go on without.
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

    /// Whether the packet is for the port of the link at an address of the edge in the tunnel.
    fn is_to_link(&self) -> bool {
        let is_link =
            |(protocol, port)| self.places.is_link((self.packet.destination, port).into(), protocol);
        self.service().is_some_and(is_link)
    }

    fn is_to(&self, socket: SocketAddr) -> bool {
        (self.packet.destination, self.service()) == (socket.ip(), Some((Protocol::Tcp, socket.port())))
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
        let Some(interface) = self.places.main_route(redirect.to.ip()) else { return Outcome::Unroutable };
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
