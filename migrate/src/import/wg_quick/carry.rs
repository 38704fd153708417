//! Services as entries of both configurations.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::draft::{Draft, EdgePeer, List, Names, OriginService, Publish, with_ports};
use super::super::netfilter::evaluate::World;
use super::super::netfilter::{Action, Rule, Ruleset};
use super::super::outcome::FindingKind;
use super::Reader;
use super::path::{Far, Path};
use super::services::{Service, Services, Upstream, services};
use policy::{PortRange, Protocol, Protocols};

/// Prefixes that an entry has itself; more become a list.
const INLINE: usize = 16;

/// The most decisions that are made again to see what each rule is for.
const MOST_COMPARED: usize = 100_000_000;

/// A service with the name of its entry.
pub(super) struct Carried {
    pub(super) name: String,
    pub(super) service: Service,
    protocols: Protocols,
    /// Its sources, as `allow` is written.
    allow: Vec<String>,
}

/// Rules by what changes without them.
#[derive(Default)]
pub(super) struct Weighed {
    /// Other ports or sources would be published.
    pub(super) needed: BTreeSet<usize>,
    /// A change of a destination could be carried.
    pub(super) blocking: BTreeSet<usize>,
}

impl Reader<'_> {
    /// Adds what the rules of the edge publish, and says what became of each command.
    pub(super) fn carry(&self, draft: &mut Draft) {
        let there = self.beyond.as_ref().map(|beyond| &beyond.reader.machine.rules);
        let found = self.found(&self.machine.rules, there, draft);
        let weighed = self.weighed(&found, draft);
        let mut carried = named(&found.services);
        carried.iter_mut().for_each(|entry| entry.allow = allow(entry.service.sources.as_deref(), draft));
        match &self.beyond {
            None => self.choose_origin(&carried, draft),
            Some(beyond) => other_origins(&carried, &beyond.name(draft), draft),
        }
        for entry in &carried {
            draft.edge.publish.push(Publish {
                name: entry.name.clone(),
                protocols: entry.protocols,
                forward: entry.service.forward.clone(),
                allow: entry.allow.clone(),
            });
        }
        self.services(&carried, draft);
        if found.asks_interface && carried.iter().any(|entry| !entry.service.forward.wan_only) {
            let text = "a published port answers the edge's LAN and containers too, where the rules name one interface; write \
                        listen = \"wan:PORT\" where only the internet may have it";
            draft.note(FindingKind::Assumed, text);
        }
        self.remarks_of_edge((&found, weighed.as_ref()), &carried, draft);
        if let Some(beyond) = &self.beyond {
            beyond.remarks((&found, weighed.as_ref()), &carried, self.machine.rules.rules.len(), draft);
        }
    }

    /// What is published by these rules of the edge, and of the origin where its file was read.
    fn found(&self, rules: &Ruleset, there: Option<&Ruleset>, draft: &Draft) -> Services {
        let own = draft.edge.address.clone();
        let addresses: Vec<IpAddr> = own.iter().map(IpNetwork::ip).collect();
        let is_in_tunnel = |address: IpAddr| {
            let owner = draft.edge.owner(IpNetwork::from(address));
            self.routes_to(&own, address) && owner.is_some_and(|owner| !self.leads_elsewhere(owner, address))
        };
        let edge = World { rules, tunnel: &self.tunnel, own: &addresses, is_in_tunnel: &is_in_tunnel };
        let is_behind = |address: IpAddr| {
            let owner = draft.edge.owner(IpNetwork::from(address));
            owner.is_some_and(|owner| owner.name == self.origin_name(draft))
        };
        let hosts: Vec<IpAddr> = draft.origin.address.iter().map(IpNetwork::ip).collect();
        let beyond = self.beyond.as_deref();
        let known = beyond.map(|beyond| (beyond.allowed(), beyond.inside()));
        let origin = known.as_ref().zip(beyond.zip(there)).map(|((allowed, inside), (beyond, rules))| Far {
            world: World { rules, tunnel: &beyond.reader.tunnel, own: &hosts, is_in_tunnel: &|_| false },
            file: beyond.reader.file,
            inside,
            allowed,
            is_behind: &is_behind,
        });
        services(&Path { edge: &edge, origin }, &self.sides, &own, draft.edge.listen_port)
    }

    /// What each rule that changes no destination is for, seen by leaving it out.
    fn weighed(&self, found: &Services, draft: &Draft) -> Option<Weighed> {
        let decides = |rule: &Rule| {
            !matches!(
                rule.action,
                Action::Dnat(_) | Action::Redirect(_) | Action::Nothing | Action::ClampMss | Action::Unclear
            )
        };
        let of = |rules: &Ruleset| -> Vec<usize> {
            let known = rules.rules.iter().enumerate();
            let deciding = known.filter(|(number, rule)| decides(rule) && rules.home(*number).is_some());
            deciding.map(|(number, _)| number).collect()
        };
        let here = &self.machine.rules;
        let there = self.beyond.as_ref().map(|beyond| &beyond.reader.machine.rules);
        let (candidates, further) = (of(here), there.map(of).unwrap_or_default());
        let count = candidates.len().saturating_add(further.len());
        if count.saturating_mul(found.decisions) > MOST_COMPARED {
            return None;
        }
        let mut weighed = Weighed::default();
        for number in candidates {
            weighed.add(number, found, &self.found(&without(here, number), there, draft));
        }
        for number in further {
            let rules = there.map(|rules| without(rules, number));
            let after = here.rules.len().saturating_add(number);
            weighed.add(after, found, &self.found(here, rules.as_ref(), draft));
        }
        Some(weighed)
    }

    /// Whether an address is routed into the tunnel if a peer has it.
    fn routes_to(&self, own: &[IpNetwork], address: IpAddr) -> bool {
        let holds = |prefix: &IpNetwork| prefix.contains(address);
        let table = self.interface.value("table").unwrap_or("auto");
        let is_main = ["auto", "main", "254"].iter().any(|known| table.eq_ignore_ascii_case(known));
        let is_asked = self.machine.tables.iter().any(|known| known == table);
        is_main || is_asked || own.iter().any(holds) || self.machine.routes.iter().any(holds)
    }

    /// Whether a route of the file that is as long as the peer's prefix, or longer, leads away.
    fn leads_elsewhere(&self, owner: &EdgePeer, address: IpAddr) -> bool {
        let longest = |prefixes: &[IpNetwork]| {
            prefixes.iter().filter(|prefix| prefix.contains(address)).map(|prefix| prefix.prefix()).max()
        };
        let into = longest(&owner.allowed_ips).max(longest(&self.machine.routes));
        longest(&self.machine.elsewhere).is_some_and(|away| Some(away) >= into)
    }

    /// The name of the edge's peer that `forwarder.toml` is for.
    pub(super) fn origin_name(&self, draft: &Draft) -> String {
        match &self.beyond {
            Some(beyond) => beyond.name(draft),
            None => draft.origin.key_file.trim_end_matches("-origin.key").to_owned(),
        }
    }

    /// `forwarder.toml` is that of the first peer that something is published for.
    fn choose_origin(&self, carried: &[Carried], draft: &mut Draft) {
        let owner = |entry: &Carried| {
            let owner = draft.edge.owner(IpNetwork::from(entry.service.forward.target))?.name.clone();
            draft.edge.peers.iter().position(|peer| peer.name == owner)
        };
        let owners: BTreeSet<usize> = carried.iter().filter_map(owner).collect();
        let Some(first) = carried.first().and_then(owner).filter(|first| *first > 0 || owners.len() > 1)
        else {
            return;
        };
        let old = draft.origin.key_file.clone();
        draft.origin = self.origin_of(&draft.edge, first);
        for finding in &mut draft.findings {
            finding.text = finding.text.replace(&old, &draft.origin.key_file);
        }
        let names: Vec<String> = owners
            .iter()
            .filter(|number| **number != first)
            .filter_map(|number| Some(format!("{:?}", draft.edge.peers.get(*number)?.name)))
            .collect();
        if !names.is_empty() {
            let text = format!("forwarder.toml of {}, which services lead to as well", names.join(", "));
            draft.note(FindingKind::Missing, text);
        }
    }

    /// Where the file has no single address of the origin, what is published leads to it.
    fn settle_address(&self, carried: &[Carried], draft: &mut Draft) {
        let name = draft.origin.key_file.trim_end_matches("-origin.key");
        let peer = draft.edge.peers.iter().find(|peer| peer.name == name);
        let guessed =
            self.guessed_addresses(peer.map(|peer| peer.allowed_ips.as_slice()).unwrap_or_default());
        for own in draft.origin.address.iter_mut().filter(|own| guessed.contains(&own.ip())) {
            let mut targets = carried.iter().map(|entry| entry.service.forward.target);
            let target = targets.find(|target| own.contains(*target));
            if let Some(known) = target.and_then(|target| IpNetwork::new(target, own.prefix()).ok()) {
                *own = known;
            }
        }
    }

    /// What the origin does with what is published: to its address in the tunnel means to itself.
    fn services(&self, carried: &[Carried], draft: &mut Draft) {
        if self.beyond.is_none() {
            self.settle_address(carried, draft);
        }
        let own: Vec<IpNetwork> = draft.origin.address.iter().chain(&draft.edge.address).copied().collect();
        let is_own = |address: IpAddr| own.iter().any(|own| own.contains(address));
        let name = self.origin_name(draft);
        let is_behind = |entry: &&Carried| {
            let owner = draft.edge.owner(IpNetwork::from(entry.service.forward.target));
            owner.is_some_and(|owner| owner.name == name)
        };
        let mut entries = entries(carried.iter().filter(is_behind), &is_own);
        let peer = match &self.beyond {
            Some(beyond) => beyond.edge_name(draft),
            None => draft.origin.peers.first().map(|peer| peer.name.clone()).unwrap_or_default(),
        };
        let mut names = Names::default();
        while let Some(entry) = (!entries.is_empty()).then(|| entries.remove(0)) {
            let twin = entries.iter().position(|other| {
                (other.address, other.ports, other.upstream, &other.allow)
                    == (entry.address, entry.ports, entry.upstream, &entry.allow)
            });
            let protocols = match twin.map(|twin| entries.remove(twin)) {
                Some(_) => Protocols::Both,
                None => one(entry.protocol),
            };
            let Upstream { address, ports, is_own } = entry.upstream;
            let upstream = if is_own && !address.is_loopback() {
                format!("127.0.0.1:{ports}")
            } else {
                with_ports(address, ports)
            };
            let name = names.claim(&entry.name, "port");
            if is_own && !address.is_loopback() {
                let text = format!(
                    "upstream {upstream:?} of service {name:?}: {address} is the forwarder's own address in the tunnel, where no \
                     program listens"
                );
                draft.note(FindingKind::Assumed, text);
            }
            draft.origin.services.push(OriginService {
                name,
                protocols,
                address: entry.address,
                ports: entry.ports,
                upstream,
                proxy_protocol: false,
                peer: peer.clone(),
                allow: entry.allow,
            });
        }
    }
}

/// A port of the tunnel, on its way to a `[[service]]`.
struct Entry {
    name: String,
    protocol: Protocol,
    address: IpAddr,
    ports: PortRange,
    upstream: Upstream,
    allow: Vec<String>,
}

/// What the services need of the origin, each port once.
fn entries<'c>(carried: impl Iterator<Item = &'c Carried>, is_own: &dyn Fn(IpAddr) -> bool) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for Carried { name, service, protocols, allow } in carried {
        let (address, ports) = (service.forward.target, service.forward.target_ports);
        let upstream = service.upstream.unwrap_or(Upstream { address, ports, is_own: is_own(address) });
        let allow =
            if service.is_limited_there && !service.forward.masquerade { allow.clone() } else { Vec::new() };
        for protocol in protocols.iter() {
            let overlaps = |known: &&mut Entry| {
                (known.protocol, known.address) == (protocol, address) && known.ports.overlaps(ports)
            };
            match entries.iter_mut().find(overlaps) {
                Some(known) => known.widen(ports, upstream.ports, &allow),
                None => entries.push(Entry {
                    name: name.clone(),
                    protocol,
                    address,
                    ports,
                    upstream,
                    allow: allow.clone(),
                }),
            }
        }
    }
    entries
}

impl Entry {
    /// Several public ports lead to one of the tunnel.
    fn widen(&mut self, ports: PortRange, upstream: PortRange, allow: &[String]) {
        let both = |own: PortRange, other: PortRange| {
            PortRange::new(own.first().min(other.first()), own.last().max(other.last())).unwrap_or(own)
        };
        self.ports = both(self.ports, ports);
        self.upstream.ports = both(self.upstream.ports, upstream);
        // The edge separates them; the origin lets in the sources of all.
        if self.allow.is_empty() || allow.is_empty() {
            self.allow = Vec::new();
        } else {
            let new = allow.iter().filter(|item| !self.allow.contains(item)).cloned().collect::<Vec<_>>();
            self.allow.extend(new);
        }
    }
}

impl Weighed {
    /// Adds what is changed by leaving a rule out.
    fn add(&mut self, number: usize, found: &Services, without: &Services) {
        if !without.refused.keys().eq(found.refused.keys()) {
            self.blocking.insert(number);
        } else if !without.is_like(found) {
            self.needed.insert(number);
        }
    }
}

fn without(rules: &Ruleset, number: usize) -> Ruleset {
    let mut without = rules.clone();
    without.rules.get_mut(number).into_iter().for_each(|rule| rule.action = Action::Nothing);
    without
}

/// Peers that services lead to and whose files were not given.
fn other_origins(carried: &[Carried], known: &str, draft: &mut Draft) {
    let owner =
        |entry: &Carried| Some(draft.edge.owner(IpNetwork::from(entry.service.forward.target))?.name.clone());
    let others: BTreeSet<String> = carried.iter().filter_map(owner).filter(|name| name != known).collect();
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|name| format!("{name:?}")).collect();
        let text = format!("forwarder.toml of {}, which services lead to as well", names.join(", "));
        draft.note(FindingKind::Missing, text);
    }
}

/// Joins what both protocols have, and names each entry by its port.
fn named(services: &[Service]) -> Vec<Carried> {
    let mut names = Names::default();
    let mut carried: Vec<Carried> = Vec::new();
    for service in services {
        let is_twin = |known: &&mut Carried| {
            let like = Service {
                protocol: known.service.protocol,
                by: known.service.by.clone(),
                is_limited_there: known.service.is_limited_there,
                through: known.service.through.clone(),
                ..service.clone()
            };
            known.protocols != one(service.protocol)
                && known.protocols != Protocols::Both
                && like == known.service
        };
        match carried.iter_mut().find(is_twin) {
            Some(twin) => {
                twin.protocols = Protocols::Both;
                twin.service.by.extend(&service.by);
                twin.service.is_limited_there |= service.is_limited_there;
                twin.service.through.extend(&service.through);
            }
            None => {
                let name = names.claim(&format!("port-{}", service.forward.ports), "port");
                let (protocols, allow) = (one(service.protocol), Vec::new());
                carried.push(Carried { name, service: service.clone(), protocols, allow });
            }
        }
    }
    carried
}

const fn one(protocol: Protocol) -> Protocols {
    match protocol {
        Protocol::Tcp => Protocols::Tcp,
        Protocol::Udp => Protocols::Udp,
    }
}

/// Sources as `allow` is written: nothing for everyone, prefixes, or a list.
fn allow(sources: Option<&[IpNetwork]>, draft: &mut Draft) -> Vec<String> {
    match sources {
        None => Vec::new(),
        Some(prefixes) if prefixes.len() <= INLINE => prefixes.iter().map(ToString::to_string).collect(),
        Some(prefixes) => {
            let known =
                draft.lists.iter().find(|list| list.prefixes == *prefixes).map(|list| list.name.clone());
            let name = known.unwrap_or_else(|| {
                let name = format!("sources-{}", draft.lists.len() + 1);
                draft.lists.push(List { name: name.clone(), prefixes: prefixes.to_vec() });
                name
            });
            vec![format!("@{name}")]
        }
    }
}
