//! What must hold between the entries of `gateway.toml`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::entries::{AllowAt, PeerAt, Places, PublishAt, TargetAt};
use super::model::{Accept, Party, Peer, Policy, Publish, Service, SourceHandling};
use super::{link_port, may_publish, standby};
use crate::fields::At;
use crate::prefix::covers;
use crate::reader::Reader;
use crate::sections::PageListen;
use crate::{Mtu, Name, PortRange, Position, Problem, Protocol, Protocols};

/// Checks every entry against the rest, and moves it into the policy.
pub(super) fn everything(
    reader: &Reader<'_>,
    policy: &mut Policy,
    places: &Places,
    peers: Vec<PeerAt>,
    publish: Vec<PublishAt>,
    allow: Vec<AllowAt>,
) {
    policy.peers = peers.into_iter().map(|peer| finished(peer, &policy.interface.address)).collect();
    Check { reader, policy, places }.mtu();
    Check { reader, policy, places }.publishes(&publish);
    link_port::check(reader, policy, places, &publish, &allow);
    places.standby.iter().for_each(|standby| standby::check(reader, policy, standby, &publish));
    policy.publish = publish.into_iter().map(|entry| resolved(entry, &policy.peers)).collect();
    may_publish::check(reader, policy, places);
    let check = Check { reader, policy, places };
    allow.iter().for_each(|entry| check.allow(entry));
    check.pages(&allow);
    check.management();
    policy.allow = allow.into_iter().map(|entry| entry.value).collect();
}

/// The peer to whose routed allowed-ips a prefix belongs: the most specific one that covers all of
/// it.
///
/// A prefix of length 0 is a filter and is not routed.
pub(super) fn owner<'p>(peers: impl Iterator<Item = &'p Peer>, prefix: IpNetwork) -> Option<Name> {
    peers
        .flat_map(|peer| peer.allowed_ips.iter().map(move |&allowed| (peer, allowed)))
        .filter(|&(_, allowed)| allowed.prefix() > 0 && covers(allowed, prefix))
        .max_by_key(|(_, allowed)| allowed.prefix())
        .map(|(peer, _)| peer.name.clone())
}

/// Fills in the address that is probed by default: the peer's only address in the tunnel's own
/// network.
fn finished(peer: PeerAt, own: &[IpNetwork]) -> Peer {
    let mut value = peer.value;
    if value.is_probed && value.probe.is_none() {
        let single = |prefix: &&IpNetwork| prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        let inside = |address: &IpAddr| own.iter().any(|network| network.contains(*address));
        value.probe = value.allowed_ips.iter().filter(single).map(IpNetwork::ip).find(inside);
    }
    value
}

fn resolved(entry: PublishAt, peers: &[Peer]) -> Publish {
    let mut value = entry.value;
    let resolve =
        |target: &TargetAt| Some(target.resolved(owner(peers.iter(), IpNetwork::from(target.value.0))?));
    value.targets = entry.targets.iter().filter_map(resolve).collect();
    value
}

/// Checks the peers against each other and against the LAN.
pub(super) fn peers(reader: &Reader<'_>, lan: &[At<IpNetwork>], peers: &[PeerAt]) {
    let mut keys: BTreeMap<_, &Name> = BTreeMap::new();
    let mut prefixes: BTreeMap<IpNetwork, &Name> = BTreeMap::new();
    for peer in peers {
        let name = &peer.value.name;
        if let Some(other) = keys.insert(peer.value.public_key, name) {
            let problem = Problem::DuplicatePeerKey { other: other.to_string() };
            reader.report_at(peer.key_at.clone(), problem);
        }
        for (&prefix, at) in peer.value.allowed_ips.iter().zip(&peer.prefixes_at) {
            if let Some(other) = prefixes.insert(prefix, name) {
                let problem =
                    Problem::IdenticalPrefix { prefix: prefix.to_string(), other: other.to_string() };
                reader.report_at(at.clone(), problem);
            }
            peer_prefix(reader, lan, prefix, at);
        }
    }
}

fn peer_prefix(reader: &Reader<'_>, lan: &[At<IpNetwork>], prefix: IpNetwork, at: &Position) {
    if let Some(lan) = lan.iter().find(|lan| covers(lan.value, prefix)) {
        let problem = Problem::PrefixInLan { prefix: prefix.to_string(), lan: lan.value.to_string() };
        reader.report_at(at.clone(), problem);
    } else if prefix.prefix() == 0 {
        let message = format!(
            "{prefix} lets the peer send from any address, but is not routed to it: the edge keeps its own default \
             route; list the prefixes that are behind the peer as well"
        );
        reader.warn_at(at.clone(), message);
    }
}

struct Check<'a, 't> {
    reader: &'a Reader<'t>,
    policy: &'a Policy,
    places: &'a Places,
}

impl Check<'_, '_> {
    fn report(&self, at: &Position, problem: Problem) {
        self.reader.report_at(at.clone(), problem);
    }

    fn mtu(&self) {
        let mut prefixes = self.policy.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let ipv6 =
            self.policy.interface.address.iter().any(IpNetwork::is_ipv6) || prefixes.any(IpNetwork::is_ipv6);
        match self.policy.interface.mtu {
            Mtu::Fixed(mtu) if ipv6 && mtu < 1280 => {
                self.report(&self.places.mtu, Problem::MtuBelowIpv6 { mtu })
            }
            Mtu::Fixed(_) | Mtu::Auto => {}
        }
    }

    fn publishes(&self, publish: &[PublishAt]) {
        for (index, entry) in publish.iter().enumerate() {
            self.targets(entry);
            self.local_ports(entry);
            let clash = publish.iter().take(index).find(|other| clashes(entry, other));
            if let Some(other) = clash {
                let port = service_text(entry.value.protocols, entry.value.ports);
                let other = other.value.name.to_string();
                self.report(&entry.listen_at, Problem::PublishClash { port, other });
            }
            if entry.value.source == SourceHandling::Masquerade {
                let v6 = entry.targets.iter().map(|target| target.value.0.is_ipv6());
                v6.for_each(|ipv6| self.masquerade(ipv6, &entry.source_at));
            }
        }
    }

    fn targets(&self, entry: &PublishAt) {
        let value = &entry.value;
        for (index, target) in entry.targets.iter().enumerate() {
            let (address, ports) = target.value;
            if entry.targets.iter().take(index).any(|other| other.value.0.is_ipv6() == address.is_ipv6()) {
                self.report(&target.at, Problem::SeveralTargets);
            }
            let is_outside = owner(self.policy.peers.iter(), IpNetwork::from(address)).is_none();
            if is_outside && self.places.are_ends_known {
                self.report(&target.at, Problem::TargetOutsideTunnel { address: address.to_string() });
            }
            if let Some(listen) = value.address.filter(|listen| listen.is_ipv6() != address.is_ipv6()) {
                let problem =
                    Problem::FamilyMismatch { listen: listen.to_string(), target: address.to_string() };
                self.report(&target.at, problem);
            }
            if ports.count() != value.ports.count() {
                let problem = Problem::RangeMismatch {
                    here: ports.to_string(),
                    here_count: ports.count(),
                    there: value.ports.to_string(),
                    there_count: value.ports.count(),
                };
                self.report(&target.at, problem);
            }
        }
    }

    /// Ports that belong to the edge itself cannot be published.
    fn local_ports(&self, entry: &PublishAt) {
        let value = &entry.value;
        let tunnel_port = self.policy.interface.listen_port;
        if value.protocols.contains(Protocol::Udp) && value.ports.contains(tunnel_port) {
            self.report(&entry.listen_at, Problem::PublishOnTunnelPort { port: tunnel_port });
        }
        let taken = self.places.accept.iter().map(|accept| accept.value).find(|accept| {
            value.address.is_none()
                && share(accept.protocols, value.protocols)
                && accept.ports.overlaps(value.ports)
        });
        if let Some(accept) = taken {
            let port = service_text(accept.protocols, accept.ports);
            self.report(&entry.listen_at, Problem::PublishOnAcceptedPort { port });
        }
    }

    fn masquerade(&self, ipv6: bool, at: &Position) {
        if !self.policy.interface.address.iter().any(|own| own.is_ipv6() == ipv6) {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            self.report(at, Problem::MasqueradeWithoutAddress { family });
        }
    }

    fn allow(&self, entry: &AllowAt) {
        self.wan(entry);
        let mut common = false;
        for to in &entry.to {
            for from in &entry.from {
                common |= (0..2)
                    .any(|v6| self.has_family(&from.value, v6 == 1) && self.has_family(&to.value, v6 == 1));
                if !crosses_tunnel(&from.value, &to.value) {
                    let problem = Problem::NotThroughTunnel {
                        from: party_text(&from.value),
                        to: party_text(&to.value),
                    };
                    self.report(&to.at, problem);
                }
            }
            let into_tunnel = beyond(&to.value).is_some();
            if entry.value.source == SourceHandling::Masquerade && into_tunnel {
                for ipv6 in [false, true].into_iter().filter(|&ipv6| self.has_family(&to.value, ipv6)) {
                    self.masquerade(ipv6, &entry.source_at);
                }
            }
        }
        if !common && self.places.are_ends_known {
            self.report(&entry.at, Problem::NoCommonFamily);
        }
    }

    /// The internet is a target by itself, by port, and never sees an address of the tunnel.
    fn wan(&self, entry: &AllowAt) {
        let Some(wan) = entry.to.iter().find(|to| to.value == Party::Wan) else { return };
        if entry.to.len() > 1 {
            self.report(&wan.at, Problem::WanWithOthers);
        }
        if entry.value.service == Service::Echo {
            self.report(&wan.at, Problem::WanWithoutPorts);
        }
        if entry.value.source == SourceHandling::Preserve {
            self.report(&entry.source_at, Problem::WanKeepsSource);
        }
    }

    fn has_family(&self, party: &Party, ipv6: bool) -> bool {
        match party {
            Party::Edge | Party::Wan => true,
            Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.is_ipv6() == ipv6,
            Party::Peer(name) => {
                let peer = self.policy.peers.iter().find(|peer| peer.name == *name);
                peer.is_some_and(|peer| peer.allowed_ips.iter().any(|prefix| prefix.is_ipv6() == ipv6))
            }
        }
    }

    /// Metrics and status page are for the edge and its LAN: no WAN port and no peer's flow may lead
    /// to them.
    fn pages(&self, allow: &[AllowAt]) {
        let metrics = self.policy.metrics.listen.iter().copied().map(PageListen::Address);
        self.is_inside(&Pages::new("metrics", metrics.collect()), allow);
        self.is_inside(&Pages::new("page", self.policy.page.listen.clone()), allow);
    }

    fn is_inside(&self, pages: &Pages, allow: &[AllowAt]) {
        let exposed = |protocols, ports| Problem::PagesExposed {
            port: service_text(protocols, ports),
            section: pages.section,
        };
        for accept in &self.places.accept {
            let Accept { protocols, ports } = accept.value;
            if protocols.contains(Protocol::Tcp) && pages.has_port_in(ports) {
                self.report(&accept.at, exposed(protocols, ports));
            }
        }
        for entry in allow {
            let Service::Ports { protocols, ports: open } = &entry.value.service else { continue };
            let hit = open.iter().find(|range| pages.has_port_in(**range));
            let local = entry.to.iter().find(|to| match &to.value {
                Party::Edge => true,
                Party::Lan(prefix) => pages.may_be_in(*prefix),
                Party::Peer(_) | Party::Behind { .. } | Party::Wan => false,
            });
            if let (Some(range), Some(to), true) = (hit, local, protocols.contains(Protocol::Tcp)) {
                self.report(&to.at, exposed(Protocols::Tcp, *range));
            }
        }
    }

    fn management(&self) {
        let remote = self.policy.wan.accept.iter().any(|accept| accept.protocols.contains(Protocol::Tcp));
        if !remote && self.policy.lan.is_empty() {
            let at = self.reader.position(0);
            let message = "no management path is left: neither `[wan] accept` nor `[lan] prefixes` lets anyone reach \
                           the edge itself; add accept = [\"tcp/22\"] or the LAN's prefix";
            self.reader.warn_at(at, message.to_owned());
        }
    }
}

/// Where the pages of a section are served to others than this machine.
struct Pages {
    section: &'static str,
    listen: Vec<PageListen>,
}

impl Pages {
    fn new(section: &'static str, mut listen: Vec<PageListen>) -> Self {
        listen.retain(|at| !at.is_loopback());
        Self { section, listen }
    }

    fn has_port_in(&self, ports: PortRange) -> bool {
        self.listen.iter().any(|at| ports.contains(at.port()))
    }

    fn may_be_in(&self, prefix: IpNetwork) -> bool {
        self.listen.iter().any(|at| match at {
            PageListen::Address(at) => at.ip().is_unspecified() || prefix.contains(at.ip()),
            PageListen::Lan(_) => true,
        })
    }
}

/// Two entries clash when a packet would fit both and neither names the address more closely.
fn clashes(a: &PublishAt, b: &PublishAt) -> bool {
    let family =
        |entry: &PublishAt, ipv6: bool| entry.targets.iter().any(|target| target.value.0.is_ipv6() == ipv6);
    let same_family = [false, true].into_iter().any(|ipv6| family(a, ipv6) && family(b, ipv6));
    same_family
        && a.value.address == b.value.address
        && a.value.ports.overlaps(b.value.ports)
        && share(a.value.protocols, b.value.protocols)
}

fn share(a: Protocols, b: Protocols) -> bool {
    a.iter().any(|protocol| b.contains(protocol))
}

fn service_text(protocols: Protocols, ports: PortRange) -> String {
    let names: Vec<_> = protocols.iter().map(Protocol::as_str).collect();
    format!("{}/{ports}", names.join("+"))
}

/// The peer that a party is or is behind.
fn beyond(party: &Party) -> Option<&Name> {
    match party {
        Party::Peer(peer) | Party::Behind { peer, .. } => Some(peer),
        Party::Edge | Party::Lan(_) | Party::Wan => None,
    }
}

fn crosses_tunnel(from: &Party, to: &Party) -> bool {
    match (beyond(from), beyond(to)) {
        (None, None) => false,
        (Some(from), Some(to)) => from != to,
        _ => true,
    }
}

fn party_text(party: &Party) -> String {
    match party {
        Party::Peer(name) => format!("peer:{name}"),
        Party::Edge => "self".to_owned(),
        Party::Wan => "wan".to_owned(),
        Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.to_string(),
    }
}
