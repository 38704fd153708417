//! What the rules of an edge publish: ports whose every connection from outside goes to a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::draft::PortForward;
use super::super::netfilter::evaluate::{self, Fate, Packet, Refuser, SourceAddress, There};
use super::super::netfilter::{Action, Kind, Ports, Rule};
use super::Sides;
use super::cells::{self, Addresses};
use super::kinds::{is_end, is_internal, is_virtual};
use super::path::Path;
use policy::prefix::covers;
use policy::{PortRange, Protocol};

/// A published port, as the rules make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) protocol: Protocol,
    pub(super) forward: PortForward,
    /// What gets it at the origin, where the origin's file was read.
    pub(super) upstream: Option<Upstream>,
    /// Whether the origin's own rules keep sources out of it.
    pub(super) is_limited_there: bool,
    /// `None` for everyone.
    pub(super) sources: Option<Vec<IpNetwork>>,
    /// The rules that change the destination.
    pub(super) by: BTreeSet<usize>,
    /// Every rule that decides about its flows, or that keeps other sources out of it.
    pub(super) through: BTreeSet<usize>,
}

/// What gets a service at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Upstream {
    pub(super) address: IpAddr,
    pub(super) ports: PortRange,
    /// Whether that is the origin itself.
    pub(super) is_own: bool,
}

/// What was found.
#[derive(Default)]
pub(super) struct Services {
    pub(super) services: Vec<Service>,
    /// Rules that change a destination and are not carried, and why.
    pub(super) refused: BTreeMap<usize, String>,
    /// Rules that change a destination, and what refuses their connections.
    pub(super) stopped: BTreeMap<usize, Refuser>,
    /// A rule in front of every change of a destination that is not read in full.
    pub(super) unclear: Option<usize>,
    /// How many decisions about rules it took, or would take.
    pub(super) decisions: usize,
    /// Whether services are for what comes in by some interface only.
    pub(super) asks_interface: bool,
}

/// The most decisions that are made about a file.
const MOST: usize = 20_000_000;
/// The most rounds in which what is not carried is closed.
const ROUNDS: usize = 12;
/// An interface that no rule names.
const UNNAMED: &str = "(another)";

/// Finds the services; `listen_port` is the tunnel's own.
///
/// A rule is carried whole or not at all: what is refused is closed, and the rest decided again.
pub(super) fn services(path: &Path<'_>, sides: &Sides, own: &[IpNetwork], listen_port: u16) -> Services {
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    for round in 0..=ROUNDS + 1 {
        let closed = refused.keys().copied().collect();
        let found = Services::default();
        let mut finder = Finder { path, sides, own, found, conflicts: BTreeMap::new(), closed };
        finder.everything(listen_port);
        let known = refused.len();
        refused.extend(std::mem::take(&mut finder.found.refused));
        if refused.len() == known {
            refused.extend(std::mem::take(&mut finder.conflicts));
        }
        if refused.len() == known {
            return Services { refused, ..finder.found }.joined();
        }
        if round == ROUNDS {
            let why = || "too many rules of the file depend on one another; import it in parts".to_owned();
            for by in finder.changing() {
                refused.entry(by).or_insert_with(why);
            }
        }
    }
    Services { refused, ..Services::default() }
}

/// The parts of every dimension, for one family.
struct Space {
    sources: Vec<Addresses>,
    destinations: Vec<Addresses>,
    ports: Vec<(u16, u16)>,
    source_ports: Vec<u16>,
}

struct Finder<'a> {
    path: &'a Path<'a>,
    sides: &'a Sides,
    own: &'a [IpNetwork],
    found: Services,
    /// Rules that disagree with another one.
    conflicts: BTreeMap<usize, String>,
    /// Rules that an earlier round refused.
    closed: BTreeSet<usize>,
}

/// What happens to the flows of one part of the ports at one address and interface.
#[derive(Default)]
struct Value {
    /// Sources by where their flows lead.
    ways: BTreeMap<Lead, Way>,
    /// Rules that could not be followed to the end, and why.
    refused: BTreeMap<usize, String>,
    stopped: BTreeMap<usize, Refuser>,
    unclear: Option<usize>,
    is_limited_there: bool,
    asks_interface: bool,
    through: BTreeSet<usize>,
}

/// Where flows lead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lead {
    target: IpAddr,
    target_ports: PortRange,
    masquerade: bool,
    upstream: Option<Upstream>,
}

#[derive(Default)]
struct Way {
    sources: BTreeSet<usize>,
    by: BTreeSet<usize>,
}

impl Value {
    fn is_like(&self, other: &Self) -> bool {
        let ways = |value: &Self| -> Vec<_> {
            value.ways.iter().map(|(key, way)| (*key, way.sources.clone())).collect()
        };
        ways(self) == ways(other) && self.refused.is_empty() == other.refused.is_empty()
    }

    fn by(&self) -> BTreeSet<usize> {
        let refused = self.refused.keys().copied();
        self.ways.values().flat_map(|way| way.by.iter().copied()).chain(refused).collect()
    }
}

impl Finder<'_> {
    fn everything(&mut self, listen_port: u16) {
        for is_v4 in [true, false] {
            let Some((space, size)) = self.space(is_v4) else {
                let why =
                    "the rules of the file name too many addresses and ports together; import it in parts";
                self.changing().into_iter().for_each(|number| self.refuse(number, why));
                self.found.decisions = usize::MAX;
                continue;
            };
            self.found.decisions = self.found.decisions.saturating_add(size);
            for protocol in Protocol::BOTH {
                for ports in &space.ports {
                    self.ports(&space, protocol, *ports);
                }
            }
        }
        let is_own = |service: &&Service| {
            service.protocol == Protocol::Udp && service.forward.ports.contains(listen_port)
        };
        let own: Vec<usize> =
            self.found.services.iter().filter(is_own).flat_map(|service| service.by.clone()).collect();
        let why = format!("udp/{listen_port} is the tunnel's own port");
        own.into_iter().for_each(|by| self.refuse(by, &why));
    }

    fn refuse(&mut self, by: usize, why: &str) {
        if self.closed.contains(&by) {
            return;
        }
        self.found.refused.entry(by).or_insert_with(|| why.to_owned());
    }

    /// A rule that is carried if the other one is not.
    fn conflict(&mut self, by: usize, why: &str) {
        self.conflicts.entry(by).or_insert_with(|| why.to_owned());
    }

    /// Every rule that changes a destination.
    fn changing(&self) -> Vec<usize> {
        let rules = self.path.edge.rules.rules.iter().enumerate();
        rules.filter(|(_, rule)| matches!(rule.action, Action::Dnat(_))).map(|(number, _)| number).collect()
    }

    fn space(&self, is_v4: bool) -> Option<(Space, usize)> {
        let rules = self.path.rules();
        let edge: Vec<&Rule> = self.path.edge.rules.rules.iter().collect();
        let space = Space {
            sources: cells::addresses(&rules, self.path.allowed(), is_v4, Kind::of_either_end),
            destinations: cells::addresses(&edge, &[], is_v4, Kind::of_destination),
            ports: cells::ports(&rules),
            source_ports: cells::source_ports(&rules),
        };
        let sizes = [
            space.sources.len(),
            space.destinations.len(),
            space.ports.len(),
            space.source_ports.len(),
            self.sides.others.len() + 2,
            rules.len().max(1),
        ];
        let all = sizes.iter().try_fold(2_usize, |all, size| all.checked_mul(*size));
        all.filter(|all| *all <= MOST).map(|size| (space, size))
    }

    /// Decides about one part of the ports.
    fn ports(&mut self, space: &Space, protocol: Protocol, ports: (u16, u16)) {
        let at = |finder: &Self, destination: &Addresses| finder.value(space, destination, protocol, ports);
        let Some(outside) = space.destinations.iter().find(|part| !part.is_named) else {
            let why = "its rules name every address; name the edge's own only";
            return space.destinations.iter().for_each(|part| {
                let by = at(self, part).0.by();
                by.into_iter().for_each(|by| self.refuse(by, why));
            });
        };
        let (unbound, is_wan_only) = at(self, outside);
        self.merge_refused(&unbound);
        let mut is_exact = true;
        for part in space.destinations.iter().filter(|part| part.is_named) {
            let (value, is_wan_only) = at(self, part);
            self.merge_refused(&value);
            // Nothing comes from the internet to an address that it has no route to.
            if value.is_like(&unbound) || value.ways.is_empty() && part.ends().into_iter().all(is_internal) {
                continue;
            }
            is_exact &= self.bound(space, protocol, ports, *part, (&value, is_wan_only));
        }
        if !is_exact && !unbound.ways.is_empty() {
            let why = "for some addresses of the edge other rules decide, which one entry cannot say: name the \
                       address that it is for with -d";
            unbound.by().into_iter().for_each(|by| self.conflict(by, why));
        }
        self.add(space, protocol, ports, None, (&unbound, is_wan_only));
    }

    fn merge_refused(&mut self, value: &Value) {
        value.refused.iter().for_each(|(by, why)| self.refuse(*by, why));
        self.found.stopped.extend(&value.stopped);
        self.found.unclear = self.found.unclear.or(value.unclear);
        self.found.asks_interface |= value.asks_interface;
    }

    /// What is bound to an address; whether the result can say it.
    fn bound(
        &mut self,
        space: &Space,
        protocol: Protocol,
        ports: (u16, u16),
        part: Addresses,
        (value, is_wan_only): (&Value, bool),
    ) -> bool {
        if value.ways.is_empty() {
            return false;
        }
        let problem = match part.single() {
            None => Some("a network cannot be bound: name each address of the edge".to_owned()),
            Some(address) if self.own.iter().any(|own| own.contains(address)) => {
                Some(format!("{address} is in the tunnel: it is for peers, not for the internet"))
            }
            Some(address) if is_internal(address) => Some(format!(
                "{address} is a private address: if a router in front of the edge forwards the port there, add \
                 `listen = \"{address}:{}\"` by hand",
                ports.0
            )),
            Some(_) if is_wan_only => {
                Some("it excludes an interface, which an entry for one address cannot".to_owned())
            }
            Some(_) => None,
        };
        if let Some(problem) = &problem {
            value.by().into_iter().for_each(|by| self.refuse(by, problem));
            return false;
        }
        self.add(space, protocol, ports, part.single(), (value, false));
        true
    }

    fn add(
        &mut self,
        space: &Space,
        protocol: Protocol,
        ports: (u16, u16),
        address: Option<IpAddr>,
        (value, wan_only): (&Value, bool),
    ) {
        let mut ways = value.ways.iter();
        let Some((lead, way)) = ways.next() else { return };
        let target = lead.target;
        if ways.next().is_some() {
            let why = "the same port leads elsewhere for other sources, which one entry cannot say";
            return value.by().into_iter().for_each(|by| self.conflict(by, why));
        }
        let Some(ports) = PortRange::new(ports.0, ports.1) else { return };
        if !self.lists_ports(&value.through) {
            let why = format!(
                "it takes every port that no other rule takes, such as {ports}: list its ports with --dport"
            );
            return way.by.iter().for_each(|by| self.refuse(*by, &why));
        }
        if let Some(own) = self.own.iter().find(|own| is_end(**own, target)) {
            let why = format!("{target} is no host of {}", policy::prefix::network(*own));
            return way.by.iter().for_each(|by| self.refuse(*by, &why));
        }
        let sources = (way.sources.len() < space.sources.len()).then(|| {
            let chosen = way.sources.iter().filter_map(|at| space.sources.get(*at)).copied();
            cells::prefixes(&chosen.collect::<Vec<_>>())
        });
        let is_inside = |prefix: &IpNetwork| {
            self.own.iter().any(|own| covers(*own, *prefix))
                || (is_internal(prefix.network()) && is_internal(prefix.broadcast()))
        };
        if sources.as_ref().is_some_and(|sources| sources.iter().all(is_inside)) {
            let why =
                "only private addresses may use it, so it is not for the internet: list it in [[allow]]";
            return way.by.iter().for_each(|by| self.refuse(*by, why));
        }
        self.found.services.push(Service {
            protocol,
            forward: PortForward {
                address,
                wan_only,
                ports,
                target,
                target_ports: lead.target_ports,
                masquerade: lead.masquerade,
            },
            upstream: lead.upstream,
            is_limited_there: value.is_limited_there,
            sources,
            by: way.by.clone(),
            through: value.through.clone(),
        });
    }

    /// Whether one of the rules that a flow passes names its port.
    fn lists_ports(&self, through: &BTreeSet<usize>) -> bool {
        let rules = through.iter().filter_map(|number| self.path.rule(*number));
        rules.flat_map(|rule| &rule.conditions).any(|condition| {
            let is_every =
                |ports: &[(u16, u16)]| ports.iter().any(|(first, last)| *first <= 1 && *last == u16::MAX);
            condition.kind.ports().is_some_and(|ports| !is_every(ports)) && !condition.is_negated
        })
    }

    /// What is decided about what comes in by the WAN, and whether other interfaces are left out.
    fn value(
        &self,
        space: &Space,
        destination: &Addresses,
        protocol: Protocol,
        ports: (u16, u16),
    ) -> (Value, bool) {
        let at = |interface: &str| self.flows(space, destination, protocol, ports, interface);
        let mut value = at(&self.sides.wan);
        let mut wan_only = false;
        value.asks_interface = !value.ways.is_empty() && !at(UNNAMED).is_like(&value);
        let others = self.sides.others.iter().map(String::as_str);
        for other in others {
            let found = at(other);
            if found.is_like(&value) {
                continue;
            }
            wan_only |= !value.ways.is_empty();
            if is_virtual(other) || self.sides.is_stated {
                let why = format!(
                    "it is for what comes in by {other}, which is not the way in from the internet; if it is, say --wan \
                     {other}"
                );
                let only = found.by().into_iter().filter(|by| !value.by().contains(by)).collect::<Vec<_>>();
                value.refused.extend(only.into_iter().map(|by| (by, why.clone())));
                continue;
            }
            let why = format!(
                "{} and {other} differ: name the interface towards the internet with --wan",
                self.sides.wan
            );
            let by = found.by().into_iter().chain(value.by()).chain(at(UNNAMED).by());
            value.refused.extend(by.map(|by| (by, why.clone())).collect::<Vec<_>>());
        }
        (value, wan_only)
    }

    fn flows(
        &self,
        space: &Space,
        destination: &Addresses,
        protocol: Protocol,
        ports: (u16, u16),
        interface: &str,
    ) -> Value {
        let mut value = Value::default();
        for (number, source) in space.sources.iter().enumerate() {
            let mut first: Option<Fate> = None;
            for &source_port in &space.source_ports {
                let packet = Packet {
                    interface,
                    source: source.any(),
                    source_port,
                    destination: destination.any(),
                    port: ports.0,
                    protocol,
                };
                let mut passed = Vec::new();
                let fate = self.path.fate(packet, &mut passed);
                if first.is_some_and(|first| first != fate) {
                    let of = [first, Some(fate)].into_iter().flatten().filter_map(by_of);
                    let why = "it depends on the client's port, which no entry can";
                    value.refused.extend(of.map(|by| (by, why.to_owned())));
                }
                first.get_or_insert(fate);
                value.through.extend(passed);
            }
            if let Some(fate) = first {
                self.count(&mut value, (number, ports), fate);
            }
        }
        value
    }

    fn count(&self, value: &mut Value, (source, ports): (usize, (u16, u16)), fate: Fate) {
        // What is not carried is closed.
        if by_of(fate).is_some_and(|by| self.closed.contains(&by)) {
            return;
        }
        let line = |by: usize| self.path.place(by);
        let (by, why) = match fate {
            Fate::Tunnel(way) => match self.lead(&way, ports) {
                Ok(lead) => {
                    let known = value.ways.entry(lead).or_default();
                    known.sources.insert(source);
                    known.by.insert(way.by);
                    return;
                }
                Err(why) => (way.by, why),
            },
            Fate::Refused { dnat, by } => {
                value.is_limited_there |= self.path.is_there(by);
                value.stopped.extend(dnat.map(|dnat| (dnat, by)));
                return;
            }
            Fate::Untouched => return,
            Fate::Elsewhere { by } => {
                (by, "its target is behind no peer of this file, or not routed there".to_owned())
            }
            Fate::Unclear { dnat, by } => match dnat {
                Some(dnat) if dnat != by => {
                    value.is_limited_there |= self.path.is_there(Refuser::Rule(by));
                    (dnat, format!("its connections reach {}, which is not read in full", line(by)))
                }
                Some(_) => (
                    by,
                    "the kernel picks one of its ports for each connection: write ADDRESS:FIRST-LAST/BASE"
                        .to_owned(),
                ),
                None => {
                    value.unclear = Some(by);
                    return;
                }
            },
        };
        value.refused.entry(by).or_insert(why);
    }

    /// Where a way leads, or why no entry can say it.
    fn lead(&self, way: &evaluate::Way, ports: (u16, u16)) -> Result<Lead, String> {
        if let SourceAddress::Other { by } = way.source {
            let place = self.path.place(by);
            return Err(format!("{place} gives its connections another source than the edge's"));
        }
        let one = || format!("ports {}-{} lead to one port: list them one by one", ports.0, ports.1);
        let target_ports = moved(way.ports, ports).ok_or_else(one)?;
        let upstream = match way.there {
            None => None,
            Some(There { address, ports, is_own }) => {
                let ports = moved(ports, (target_ports.first(), target_ports.last())).ok_or_else(one)?;
                Some(Upstream { address, ports, is_own })
            }
        };
        let masquerade = matches!(way.source, SourceAddress::Edge { .. });
        Ok(Lead { target: way.address, target_ports, masquerade, upstream })
    }
}

/// The ports that a range becomes, as long as it is.
fn moved(by: Ports, (first, last): (u16, u16)) -> Option<PortRange> {
    let to = PortRange::new(by.of(first)?, by.of(last)?)?;
    (to.last() - to.first() == last - first).then_some(to)
}

/// The rule that a fate is about.
fn by_of(fate: Fate) -> Option<usize> {
    match fate {
        Fate::Tunnel(way) => Some(way.by),
        Fate::Elsewhere { by } => Some(by),
        Fate::Refused { dnat, .. } | Fate::Unclear { dnat, .. } => dnat,
        Fate::Untouched => None,
    }
}

impl Services {
    /// Whether the same is published, by whatever rules.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let plain = |services: &Self| -> Vec<Service> {
            let services = services.services.iter().cloned();
            services
                .map(|service| Service {
                    by: BTreeSet::new(),
                    through: BTreeSet::new(),
                    is_limited_there: false,
                    ..service
                })
                .collect()
        };
        plain(self) == plain(other)
    }

    /// Joins neighbouring ports of the same rule.
    fn joined(mut self) -> Self {
        let mut joined: Vec<Service> = Vec::new();
        self.services.sort_by_key(|service| {
            let PortForward { address, ports, .. } = service.forward;
            (service.by.first().copied(), service.protocol, address, ports)
        });
        for service in self.services {
            match joined.last_mut().filter(|last| last.touches(&service)) {
                Some(last) => last.join(service),
                None => joined.push(service),
            }
        }
        self.services = joined;
        self
    }
}

impl Service {
    /// Whether another one is the same for the ports that follow.
    fn touches(&self, next: &Self) -> bool {
        let follows =
            |range: PortRange, next: PortRange| u32::from(range.last()) + 1 == u32::from(next.first());
        let (forward, after) = (&self.forward, &next.forward);
        let upstream = match (self.upstream, next.upstream) {
            (None, None) => true,
            (Some(one), Some(other)) => follows(one.ports, other.ports),
            _ => false,
        };
        let like = Self {
            forward: PortForward {
                ports: forward.ports,
                target_ports: forward.target_ports,
                ..after.clone()
            },
            upstream: next
                .upstream
                .zip(self.upstream)
                .map(|(next, own)| Upstream { ports: own.ports, ..next }),
            through: self.through.clone(),
            ..next.clone()
        };
        follows(forward.ports, after.ports)
            && follows(forward.target_ports, after.target_ports)
            && upstream
            && like == *self
    }

    fn join(&mut self, next: Self) {
        let ends = |range: &mut PortRange, next: PortRange| {
            *range = PortRange::new(range.first(), next.last()).unwrap_or(*range);
        };
        ends(&mut self.forward.ports, next.forward.ports);
        ends(&mut self.forward.target_ports, next.forward.target_ports);
        if let (Some(own), Some(next)) = (&mut self.upstream, next.upstream) {
            ends(&mut own.ports, next.ports);
        }
        self.through.extend(next.through);
    }
}
