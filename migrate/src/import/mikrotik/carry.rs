//! Services and private flows as entries of both configurations.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::flows::{ECHO, TCP, UDP};
use super::listeners::{by_ports, ports};
use super::notes::{EDGE, Notes, ORIGIN};
use super::private::Private;
use super::published::Service as Published;
use super::ranges::{Family, Ranges};
use super::router::Router;
use crate::import::draft::{
    Allow, Draft, List, Names, OriginService, PortForward, Publish, Reach, plain_name, shortest, with_ports,
};
use crate::import::outcome::FindingKind::{Assumed, Carried, NoCounterpart};
use policy::gateway::Service;
use policy::{PortRange, Protocol, Protocols, text};

/// More ports than this in one rule are not opened as local listeners.
const MOST_LISTENERS: u32 = 16;
/// More prefixes than this are a list of their own.
const MOST_INLINE: usize = 8;
/// The most prefixes of one list file.
const LONGEST_LIST: usize = 65_536;
/// The most prefixes that sources are worth.
const MOST_PREFIXES: usize = 4 * LONGEST_LIST;
/// Where Caddy's listener that accepts a PROXY header is.
const PROXY_UPSTREAM: &str = "127.0.0.1:8443";

/// What is carried, on its way into the draft.
pub(super) struct Carry<'c> {
    pub(super) draft: &'c mut Draft,
    pub(super) notes: &'c mut Notes,
    pub(super) names: &'c mut Names,
    pub(super) service_names: &'c mut Names,
    pub(super) reach_names: &'c mut Names,
    pub(super) edge: &'c Router,
    pub(super) origin: &'c Router,
    /// The name of the edge as a peer of the origin.
    pub(super) edge_name: &'c str,
    /// The name of the origin as a peer of the edge.
    pub(super) origin_name: &'c str,
    pub(super) family: Family,
    /// The machine that the forwarder runs on.
    pub(super) machine: Option<u128>,
    pub(super) origin_own: &'c Ranges,
}

impl Carry<'_> {
    fn refuse(&mut self, index: usize, text: &str) {
        let summary = self.edge.entry(index).map(|entry| entry.summary()).unwrap_or_default();
        self.notes.verdict(EDGE, index, NoCounterpart, format!("{text}: {summary}"));
    }

    /// Why a service cannot be an entry; else the ports of its target.
    fn target_ports(&self, service: &Published) -> Result<PortRange, String> {
        // What an address has of its own must be carried: else the general entry would have it.
        let uncovered = service.except.iter().find(|one| {
            let address = Some(self.family.address(**one));
            !self.draft.edge.publish.iter().any(|other| {
                other.forward.address == address
                    && other.protocols.iter().any(|protocol| protocol == service.protocol)
                    && other.forward.ports.first() <= service.ports.first()
                    && service.ports.last() <= other.forward.ports.last()
            })
        });
        if let Some(one) = uncovered {
            let address = self.family.address(*one);
            return Err(format!(
                "it is for every public address but {address}, which `listen` cannot express"
            ));
        }
        if let Some(unclear) = &service.unclear {
            let named: Vec<String> =
                unclear.prefixes(self.family).into_iter().take(3).map(shortest).collect();
            return Err(format!(
                "rules treat it differently for addresses of {}, and the export does not say whether the edge has one: write \
                 dst-address= with the edge's own, or publish it by hand with listen = \"ADDRESS:PORT\"",
                named.join(", ")
            ));
        }
        let lan = super::ranges::addresses(&self.draft.edge.lan, self.family);
        if lan.covers(&service.sources) {
            let text = if service.way.is_hidden {
                "for the LAN it is not carried, since it is masqueraded there, and the LAN's sources do not come from the WAN"
            } else {
                "only the LAN's own sources are left of it, and they do not come from the WAN"
            };
            return Err(text.to_owned());
        }
        self.is_free(service, of_one(service.protocol))?;
        let upstream = service.way.upstream.unwrap_or(service.way.target);
        if service.way.is_ours && self.origin_own.contains(upstream) {
            let text = "its server is the origin's router itself, at an address that the forwarder's tunnel will have";
            return Err(text.to_owned());
        }
        moved(service.ports, service.way.moved)
            .ok_or_else(|| "its ports are moved out of 1 to 65535".to_owned())
    }

    /// One `[[publish]]` with the `[[service]]` that it leads to.
    pub(super) fn publish(&mut self, service: &Published) {
        let protocols = of_one(service.protocol);
        let target_ports = match self.target_ports(service) {
            Ok(ports) => ports,
            Err(text) => return self.refuse(service.index, &text),
        };
        let comment =
            self.edge.entry(service.index).and_then(|entry| entry.value("comment")).and_then(plain_name);
        let usual = format!("{}-{}", service.protocol, service.ports);
        let name = self.names.claim(comment.as_deref().unwrap_or(&usual), "rule");
        let Some(allow) = self.sources(&service.sources, &name, true) else {
            let text = format!(
                "its sources are more than {MOST_PREFIXES} prefixes; leave the list that refuses the others out of the \
                 export, and refuse them in front of the edge or with `gatewayctl ban`"
            );
            return self.refuse(service.index, &text);
        };
        let address = service.bound.map(|bound| self.family.address(bound));
        let target = self.family.address(service.way.target);
        let masquerade = service.way.is_hidden;
        let at_origin = allow.clone();
        self.draft.edge.publish.push(Publish {
            name: name.clone(),
            protocols,
            forward: PortForward {
                address,
                wan_only: false,
                ports: service.ports,
                target,
                target_ports,
                masquerade,
            },
            allow,
        });
        self.note_published(service, &name);
        self.server(service, &name, target, target_ports, at_origin);
    }

    /// Which commands a service comes from, and what its sources depend on.
    fn note_published(&mut self, service: &Published, name: &str) {
        let what = format!("publish {name:?}");
        let ([near_refused, far_refused], [near_passed, far_passed]) =
            (&service.refused_by, &service.passed_by);
        self.notes.limiting(EDGE, near_refused, &what);
        self.notes.limiting(ORIGIN, far_refused, &what);
        self.notes.passing(EDGE, near_passed, &what);
        self.notes.passing(ORIGIN, far_passed, &what);
        self.notes.hides |= service.way.is_hidden;
        let address = service.bound.map(|bound| self.family.address(bound));
        let bound = address.map(|address| format!(", on {address} only")).unwrap_or_default();
        self.notes.verdict(EDGE, service.index, Carried, format!("{what}{bound}"));
        for other in &service.others {
            let line = self.edge.place(service.index).line;
            self.notes.verdict(EDGE, *other, Carried, format!("{what}, together with line {line}"));
        }
        if let Some(lines) = self.limited_by(service) {
            let text = format!(
                "{what} is not for every source that its rule names: {lines} take a part, or may; verify its allow"
            );
            self.notes.verdict(EDGE, service.index, Assumed, text);
        }
        if let Some(address) = address {
            let text = format!(
                "publish {name:?} listens on {address} only: the edge must hold that address; where it is behind a router, \
                 write the edge's own address or none"
            );
            self.draft.note(Assumed, text);
        }
    }

    /// The lines of other rules that the sources of a service come from.
    fn limited_by(&self, service: &Published) -> Option<String> {
        let [here, there] = &service.refused_by;
        let lines = |router: &Router, indexes: &BTreeSet<usize>| -> Vec<String> {
            let deciding = indexes.iter().filter(|index| !router.is_last_drop(**index));
            deciding.map(|index| format!("{}:{}", router.file, router.place(*index).line)).take(6).collect()
        };
        let all = [lines(self.edge, here), lines(self.origin, there)].concat();
        let is_limited = service.sources != self.family.everyone() && !all.is_empty();
        is_limited.then(|| all.join(", "))
    }

    fn is_free(&self, service: &Published, protocols: Protocols) -> Result<(), String> {
        let edge = &self.draft.edge;
        if service.protocol == Protocol::Udp && service.ports.contains(edge.listen_port) {
            return Err("the port is WireGuard's own".to_owned());
        }
        let family = |address: IpAddr| Family::of(address.is_ipv4()) == self.family;
        let address = service.bound.map(|bound| self.family.address(bound));
        let taken = edge.publish.iter().find(|other| {
            family(other.forward.target)
                && other.forward.address == address
                && other.forward.ports.overlaps(service.ports)
                && other.protocols.iter().any(|protocol| protocols.contains(protocol))
        });
        match taken {
            Some(other) => Err(format!("an earlier rule, publish {:?}, takes the port", other.name)),
            None => Ok(()),
        }
    }

    /// The `[[service]]` of a service that leads to the origin.
    fn server(
        &mut self,
        service: &Published,
        publish: &str,
        target: IpAddr,
        target_ports: PortRange,
        allow: Vec<String>,
    ) {
        if !service.way.is_ours {
            let text = format!(
                "publish {publish:?} leads to a peer whose export was not given: its own filters may let fewer in"
            );
            return self.draft.note(Assumed, text);
        }
        let to = service.way.upstream.unwrap_or(service.way.target);
        let Some(to_ports) = moved(target_ports, service.way.upstream_moved) else { return };
        let web = service.protocol == Protocol::Tcp
            && to_ports.first() == 443
            && to_ports.count() == 1
            && !service.way.is_hidden
            && self.machine == Some(to);
        let upstream =
            if web { PROXY_UPSTREAM.to_owned() } else { with_ports(self.family.address(to), to_ports) };
        let name = self.service_names.claim(publish, "service");
        // The origin's own limits stay at the origin too; where it had none, the edge alone decides.
        let is_limited_there = !service.refused_by[1].is_empty() && !service.way.is_hidden;
        let allow = if is_limited_there { allow } else { Vec::new() };
        let service = OriginService {
            name: name.clone(),
            protocols: of_one(service.protocol),
            address: target,
            ports: target_ports,
            upstream,
            proxy_protocol: web,
            peer: self.edge_name.to_owned(),
            allow,
        };
        self.service(service);
        let text = if web {
            format!(
                "service {name:?} goes to {PROXY_UPSTREAM} with a PROXY header: the web server needs a listener there that \
                 alone accepts it (`gatewayctl export caddy`)"
            )
        } else {
            format!(
                "service {name:?}: its server sees the forwarder's address; set proxy_protocol if it understands that"
            )
        };
        self.draft.note(Assumed, text);
    }

    /// An entry, unless one of the same peer claims the packet already: the first decides. Of a
    /// range what is not claimed is left.
    fn service(&mut self, service: OriginService) -> bool {
        let claims = |other: &&OriginService| {
            other.peer == service.peer
                && other.address == service.address
                && other.protocols.iter().any(|protocol| service.protocols.contains(protocol))
        };
        let range = |ports: PortRange| (u128::from(ports.first()), u128::from(ports.last()));
        let claimed = self.draft.origin.services.iter().filter(claims).map(|other| range(other.ports));
        let (first, last) = range(service.ports);
        let free = Ranges::of(first, last).minus(&Ranges::union_of(claimed.collect()));
        let parts: Vec<PortRange> = free.iter().filter_map(|(first, last)| ports(first, last)).collect();
        let mut name = Some(service.name.clone());
        for part in &parts {
            let by = i64::from(part.first()) - i64::from(service.ports.first());
            let Some(upstream) = moved_upstream(&service.upstream, by, *part) else { continue };
            let name = name.take().unwrap_or_else(|| self.service_names.claim(&service.name, "service"));
            self.draft.origin.services.push(OriginService {
                name,
                ports: *part,
                upstream,
                ..service.clone()
            });
        }
        !parts.is_empty()
    }

    /// Sources as `allow` is written: nothing for everyone, a named list, prefixes, or a list file.
    pub(super) fn sources(&mut self, sources: &Ranges, name: &str, at_edge: bool) -> Option<Vec<String>> {
        if sources.covers(&self.family.everyone()) {
            return Some(Vec::new());
        }
        let prefixes = sources.prefixes(self.family);
        if prefixes.len() > MOST_PREFIXES {
            return None;
        }
        let known = self.edge.address_lists.named(self.family, sources).and_then(plain_name);
        let known = known.filter(|list| at_edge && self.is_free_list(list, &prefixes));
        if known.is_none() && prefixes.len() <= MOST_INLINE {
            return Some(prefixes.iter().map(|prefix| shortest(*prefix)).collect());
        }
        let base = known.unwrap_or_else(|| format!("allow-{name}").chars().take(29).collect());
        let mut names = Vec::new();
        for (number, part) in (1..).zip(prefixes.chunks(LONGEST_LIST)) {
            let list = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            if self.draft.lists.iter().all(|known| known.name != list) {
                self.draft.lists.push(List { name: list.clone(), prefixes: part.to_vec() });
            }
            names.push(format!("@{list}"));
        }
        Some(names)
    }

    /// Whether a list of this name has these prefixes or does not exist yet.
    fn is_free_list(&self, list: &str, prefixes: &[IpNetwork]) -> bool {
        self.draft
            .lists
            .iter()
            .find(|known| known.name == list)
            .is_none_or(|known| known.prefixes == prefixes)
    }

    /// One `[[allow]]` for each kind of service of a private flow, with its other half.
    pub(super) fn private(&mut self, private: &Private, lan: &[IpNetwork]) {
        let peer = self.draft.edge.peers.get(private.peer);
        let Some((peer, allowed)) = peer.map(|peer| (peer.name.clone(), peer.allowed_ips.clone())) else {
            return;
        };
        let named = format!("peer:{peer}");
        let prefixes =
            |ranges: &Ranges| ranges.prefixes(self.family).into_iter().map(shortest).collect::<Vec<_>>();
        let (from, to) = if private.is_inward {
            (vec![named], prefixes(&private.flow.destinations))
        } else {
            let mut from = prefixes(&private.flow.sources);
            let whole = super::ranges::addresses(lan, self.family);
            // The router was a host of the LAN; now the edge is.
            if !lan.is_empty() && private.flow.sources.covers(&whole) {
                from.insert(0, "self".to_owned());
            }
            let each = allowed.iter().filter(|prefix| prefix.prefix() > 0);
            let each = each.map(|prefix| super::ranges::addresses([prefix], self.family));
            let to = each.flat_map(|prefix| prefixes(&private.flow.destinations.and(&prefix))).collect();
            (from, to)
        };
        let mut to: Vec<String> = to;
        to.dedup();
        for (service, is_ping) in services(private) {
            let suffix = if is_ping { " ping" } else { "" };
            let comment = self.edge.entry(private.index).and_then(|entry| entry.value("comment"));
            let comment =
                comment.map(|comment| format!("{comment}{suffix}")).and_then(|name| plain_name(&name));
            let usual = if private.is_inward { "from-tunnel" } else { "into-tunnel" };
            let name = self.names.claim(comment.as_deref().unwrap_or(usual), "rule");
            let masquerade = private.is_hidden || private.is_inward && self.family == Family::V4;
            self.notes.hides |= private.is_hidden;
            self.note_private(private, &name);
            let (from, to) = (from.clone(), to.clone());
            let ours = peer == self.origin_name;
            self.draft.edge.allow.push(Allow {
                name: name.clone(),
                from,
                to,
                service: service.clone(),
                masquerade,
            });
            if let (Service::Ports { protocols, ports }, true) = (&service, ours) {
                self.other_half(private, &name, *protocols, ports);
            }
        }
    }

    fn note_private(&mut self, private: &Private, name: &str) {
        let what = format!("allow {name:?}");
        self.notes.limiting(EDGE, &private.refused_by[0], &what);
        self.notes.limiting(ORIGIN, &private.refused_by[1], &what);
        self.notes.passing(ORIGIN, &private.passed_by, &what);
        self.notes.passing(EDGE, &[private.index].into(), &what);
        if let Some(only) = private.only {
            let only = self.family.address(only);
            let text = format!(
                "allow {name:?} is right only where the forwarder runs on {only}: the routers let no other host open it, and \
                 the edge sees the forwarder's own address"
            );
            self.draft.note(Assumed, text);
        }
    }

    /// The service or reach of a private flow.
    fn other_half(&mut self, private: &Private, name: &str, protocols: Protocols, ranges: &[PortRange]) {
        let hosts: Vec<u128> = private.flow.destinations.numbers().take(9).collect();
        if hosts.len() > 8 {
            let text = format!(
                "allow {name:?} leads to whole networks: the forwarder carries listed ports of listed hosts only; name them, \
                 or keep a router that speaks WireGuard at the far end"
            );
            return self.draft.note(NoCounterpart, text);
        }
        for (host, range) in hosts.iter().flat_map(|host| ranges.iter().map(move |range| (*host, *range))) {
            let address = self.family.address(host);
            if private.is_inward {
                self.reach(name, protocols, address, range);
                continue;
            }
            let (to, by) = private.upstream.unwrap_or((host, 0));
            if self.origin_own.contains(to) {
                let text = format!(
                    "allow {name:?} leads to the origin's router itself; the forwarder has no server there"
                );
                self.draft.note(NoCounterpart, text);
                continue;
            }
            let Some(to_ports) = moved(range, by) else { continue };
            let upstream = with_ports(self.family.address(to), to_ports);
            let service = OriginService {
                name: self.service_names.claim(name, "service"),
                protocols,
                address,
                ports: range,
                upstream,
                proxy_protocol: false,
                peer: self.edge_name.to_owned(),
                allow: Vec::new(),
            };
            self.service(service);
        }
    }

    fn reach(&mut self, name: &str, protocols: Protocols, host: IpAddr, range: PortRange) {
        if range.count() > MOST_LISTENERS {
            let text = format!(
                "allow {name:?}: {range} are too many local listeners; add the [[reach]] entries that are used"
            );
            return self.draft.note(NoCounterpart, text);
        }
        for port in range.first()..=range.last() {
            let Some(listen) = free_listener(self.draft, port) else { continue };
            let (name, peer) = (self.reach_names.claim(name, "reach"), self.edge_name.to_owned());
            let text = format!(
                "reach {name:?}: clients of {host}:{port} must now connect to {listen} on the origin itself"
            );
            let (target, privileged) = (SocketAddr::new(host, port), port == 2049);
            self.draft.origin.reach.push(Reach { name, protocols, listen, target, peer, privileged });
            self.draft.note(Assumed, text);
        }
    }

    /// The services of an edge whose export was not given: what the origin lets in from it.
    pub(super) fn other_edge(
        &mut self,
        peer: &str,
        to: u128,
        upstream: u128,
        by: i64,
        flows: &[super::flows::Flow],
    ) -> Vec<String> {
        let mut made = Vec::new();
        for (protocol, number) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
            let of: Vec<_> = flows.iter().filter(|flow| flow.protocols.contains(number)).cloned().collect();
            for (sources, first, last) in by_ports(&of) {
                let (Some(range), address) = (ports(first, last), self.family.address(to)) else { continue };
                let Some(upstream_ports) = moved(range, by) else { continue };
                let protocols = of_one(protocol);
                let like = self.draft.origin.services.iter().find(|service| {
                    service.address == address
                        && service.ports == range
                        && service.protocols == protocols
                        && service.peer != peer
                });
                let like = like.map(|like| (like.name.clone(), like.upstream.clone(), like.proxy_protocol));
                let wanted = like.as_ref().map_or_else(
                    || format!("{protocol} {range} {peer}"),
                    |like| format!("{} {peer}", like.0),
                );
                let name = self.service_names.claim(&wanted, "service");
                let Some(allow) = self.sources(&sources, &name, false) else { continue };
                let own = with_ports(self.family.address(upstream), upstream_ports);
                let (upstream, proxy_protocol) =
                    like.map_or((own, false), |(_, upstream, proxy)| (upstream, proxy));
                let peer = peer.to_owned();
                let service = OriginService {
                    name: name.clone(),
                    protocols,
                    address,
                    ports: range,
                    upstream,
                    proxy_protocol,
                    peer,
                    allow,
                };
                if self.service(service) {
                    made.push(format!("service {name:?}"));
                }
            }
        }
        made
    }
}

/// What a private flow opens, and whether it is the ping of a rule that is about more.
fn services(private: &Private) -> Vec<(Service, bool)> {
    let holds = |protocol| private.flow.protocols.contains(protocol);
    let protocols = match (holds(TCP), holds(UDP)) {
        (true, true) => Some(Protocols::Both),
        (true, false) => Some(Protocols::Tcp),
        (false, true) => Some(Protocols::Udp),
        (false, false) => None,
    };
    let ranges = private.flow.ports.and(&Ranges::of(1, 65_535));
    let ranges: Vec<PortRange> = ranges.iter().filter_map(|(first, last)| ports(first, last)).collect();
    let transports =
        protocols.filter(|_| !ranges.is_empty()).map(|protocols| Service::Ports { protocols, ports: ranges });
    let echo = holds(ECHO).then_some((Service::Echo, protocols.is_some()));
    transports.into_iter().map(|service| (service, false)).chain(echo).collect()
}

/// The same port on loopback where an unprivileged process may have it, else one above 10,000.
fn free_listener(draft: &Draft, port: u16) -> Option<SocketAddr> {
    let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let free = |port: &u16| draft.origin.reach.iter().all(|other| other.listen != address(*port));
    let high = (10_000..=50_000_u16).step_by(1_000).filter_map(|base| base.checked_add(port));
    std::iter::once(port).filter(|port| *port >= 1_024).chain(high).find(free).map(address)
}

const fn of_one(protocol: Protocol) -> Protocols {
    match protocol {
        Protocol::Tcp => Protocols::Tcp,
        Protocol::Udp => Protocols::Udp,
    }
}

/// An upstream with as many ports as `part`, the first of them moved.
fn moved_upstream(upstream: &str, by: i64, part: PortRange) -> Option<String> {
    let (host, written) = upstream.rsplit_once(':')?;
    let first = u128::from(text::ports(written)?.first());
    let first = first.checked_add_signed(by.into())?;
    let range = ports(first, first + u128::from(part.count()) - 1)?;
    Some(format!("{host}:{range}"))
}

fn moved(range: PortRange, by: i64) -> Option<PortRange> {
    let port = |port: u16| u16::try_from(i64::from(port).checked_add(by)?).ok();
    PortRange::new(port(range.first())?, port(range.last())?)
}
