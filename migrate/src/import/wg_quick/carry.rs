//! Services as entries of both configurations.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::draft::{Draft, List, Names, OriginService, Publish, with_ports};
use super::super::netfilter::evaluate::World;
use super::super::netfilter::{Action, Rule, Ruleset};
use super::super::outcome::FindingKind;
use super::Reader;
use super::services::{Service, Services, services};
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
        let found = self.found(&self.machine.rules, draft);
        let weighed = self.weighed(&found, draft);
        let carried = named(&found.services);
        self.choose_origin(&carried, draft);
        for entry in &carried {
            let publish = publish(entry, draft);
            draft.edge.publish.push(publish);
        }
        self.services(&carried, draft);
        self.remarks_of_edge((&found, weighed.as_ref()), &carried, draft);
    }

    fn found(&self, rules: &Ruleset, draft: &Draft) -> Services {
        let own = draft.edge.address.clone();
        let addresses: Vec<IpAddr> = own.iter().map(IpNetwork::ip).collect();
        let has_routes =
            !self.interface.value("table").is_some_and(|table| table.eq_ignore_ascii_case("off"));
        let routes = &self.machine.routes;
        let is_in_tunnel = |address: IpAddr| {
            let holds = |prefix: &IpNetwork| prefix.contains(address);
            let is_routed = has_routes || own.iter().any(holds) || routes.iter().any(holds);
            is_routed && draft.edge.owner(IpNetwork::from(address)).is_some()
        };
        let world = World { rules, tunnel: &self.tunnel, own: &addresses, is_in_tunnel: &is_in_tunnel };
        services(&world, &self.sides, &own, draft.edge.listen_port)
    }

    /// What each rule that changes no destination is for, seen by leaving it out.
    fn weighed(&self, found: &Services, draft: &Draft) -> Option<Weighed> {
        let rules = self.machine.rules.rules.iter().enumerate();
        let decides = |rule: &Rule| {
            !matches!(rule.action, Action::Dnat(_) | Action::Nothing | Action::ClampMss | Action::Unclear)
        };
        let candidates: Vec<usize> = rules
            .filter(|(number, rule)| decides(rule) && self.machine.rules.home(*number).is_some())
            .map(|(number, _)| number)
            .collect();
        if candidates.len().saturating_mul(found.decisions) > MOST_COMPARED {
            return None;
        }
        let mut weighed = Weighed::default();
        for number in candidates {
            let mut without = self.machine.rules.clone();
            without.rules.get_mut(number).into_iter().for_each(|rule| rule.action = Action::Nothing);
            let other = self.found(&without, draft);
            if !other.refused.keys().eq(found.refused.keys()) {
                weighed.blocking.insert(number);
            } else if !other.is_like(found) {
                weighed.needed.insert(number);
            }
        }
        Some(weighed)
    }

    /// `forwarder.toml` is that of the first peer that something is published for.
    fn choose_origin(&self, carried: &[Carried], draft: &mut Draft) {
        let owner = |entry: &Carried| {
            let owner = draft.edge.owner(IpNetwork::from(entry.service.target))?.name.clone();
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
            let mut targets = carried.iter().map(|entry| entry.service.target);
            let target = targets.find(|target| own.contains(*target));
            if let Some(known) = target.and_then(|target| IpNetwork::new(target, own.prefix()).ok()) {
                *own = known;
            }
        }
    }

    /// What the origin does with what is published: to its address in the tunnel means to itself.
    fn services(&self, carried: &[Carried], draft: &mut Draft) {
        self.settle_address(carried, draft);
        let own: Vec<IpNetwork> = draft.origin.address.iter().chain(&draft.edge.address).copied().collect();
        let is_own = |address: IpAddr| own.iter().any(|own| own.contains(address));
        let name = draft.origin.key_file.trim_end_matches("-origin.key").to_owned();
        let mut entries: Vec<(String, Protocol, IpAddr, PortRange)> = Vec::new();
        for Carried { name: entry, service, protocols } in carried {
            let owner = draft.edge.owner(IpNetwork::from(service.target));
            if owner.is_none_or(|owner| owner.name != name) {
                continue;
            }
            for protocol in protocols.iter() {
                let wanted = (protocol, service.target);
                let overlaps = |known: &&mut (String, Protocol, IpAddr, PortRange)| {
                    (known.1, known.2) == wanted && known.3.overlaps(service.target_ports)
                };
                match entries.iter_mut().find(overlaps) {
                    Some(known) => {
                        let first = known.3.first().min(service.target_ports.first());
                        let last = known.3.last().max(service.target_ports.last());
                        known.3 = PortRange::new(first, last).unwrap_or(known.3);
                    }
                    None => entries.push((entry.clone(), protocol, service.target, service.target_ports)),
                }
            }
        }
        let peer = draft.origin.peers.first().map(|peer| peer.name.clone()).unwrap_or_default();
        let mut names = Names::default();
        while let Some((entry, protocol, address, ports)) = (!entries.is_empty()).then(|| entries.remove(0)) {
            let twin = entries.iter().position(|other| (other.2, other.3) == (address, ports));
            let protocols = match twin.map(|twin| entries.remove(twin)) {
                Some(_) => Protocols::Both,
                None => one(protocol),
            };
            let upstream =
                if is_own(address) { format!("127.0.0.1:{ports}") } else { with_ports(address, ports) };
            let name = names.claim(&entry, "port");
            if is_own(address) {
                let text = format!(
                    "upstream {upstream:?} of service {name:?}: {address} is the forwarder's own address in the tunnel, where no \
                     program listens"
                );
                draft.note(FindingKind::Assumed, text);
            }
            draft.origin.services.push(OriginService {
                name,
                protocols,
                address,
                ports,
                upstream,
                proxy_protocol: false,
                peer: peer.clone(),
                allow: Vec::new(),
            });
        }
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
                twin.service.through.extend(&service.through);
            }
            None => {
                let name = names.claim(&format!("port-{}", service.ports), "port");
                carried.push(Carried { name, service: service.clone(), protocols: one(service.protocol) });
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

fn publish(entry: &Carried, draft: &mut Draft) -> Publish {
    let service = &entry.service;
    let allow = match &service.sources {
        None => Vec::new(),
        Some(prefixes) if prefixes.len() <= INLINE => prefixes.iter().map(ToString::to_string).collect(),
        Some(prefixes) => {
            let known =
                draft.lists.iter().find(|list| list.prefixes == *prefixes).map(|list| list.name.clone());
            let name = known.unwrap_or_else(|| {
                let name = format!("sources-{}", draft.lists.len() + 1);
                draft.lists.push(List { name: name.clone(), prefixes: prefixes.clone() });
                name
            });
            vec![format!("@{name}")]
        }
    };
    Publish {
        name: entry.name.clone(),
        protocols: entry.protocols,
        address: service.address,
        wan_only: service.wan_only,
        ports: service.ports,
        target: service.target,
        target_ports: service.target_ports,
        masquerade: service.masquerade,
        allow,
    }
}
