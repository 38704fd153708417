//! The rules of both routers, read together.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::carry::Carry;
use super::flows::{Flow, Flows, TCP, UDP};
use super::notes::{EDGE, Notes, ORIGIN};
use super::obstacles::{Obstacle, obstacle};
use super::private::Ends;
use super::published::{Behind, Refusal, Service, services, translates};
use super::ranges::{Family, Ranges, addresses};
use super::router::{Link, Router};
use super::routes::Routing;
use super::site::Site;
use super::verdicts::verdicts;
use crate::import::draft::{Draft, Names, OriginPeer};
use crate::import::outcome::FindingKind::{Assumed, Carried, NoCounterpart, Stays};

/// Carries every rule of both routers over, or records why not.
pub(super) fn carry(edge: &mut Router, near: &Link, origin: &mut Router, far: &Link, draft: &mut Draft) {
    lan(edge, near, draft);
    tunnel_addresses(edge, near, "[interface] address of the edge");
    let links: Vec<Link> = origin.links.clone();
    links.iter().for_each(|link| tunnel_addresses(origin, link, "address of the forwarder's tunnel"));
    let mut notes = Notes::default();
    let mut names = AllNames::default();
    let machine = both_families(edge, near, origin, far, draft, &mut notes, &mut names);
    if let Some((machine, others)) = machine {
        machine_note(&machine, &others, draft);
    }
    let used = used_lists(edge, origin, &notes);
    notes.settle(edge, origin);
    for (side, router) in [(EDGE, edge), (ORIGIN, origin)] {
        router.settle_lists(|list| used.get(&(side, list.to_owned())).cloned());
    }
}

/// The names that have been given, by kind.
#[derive(Default)]
struct AllNames {
    rules: Names,
    services: Names,
    reaches: Names,
}

fn both_families(
    edge: &Router,
    near: &Link,
    origin: &Router,
    far: &Link,
    draft: &mut Draft,
    notes: &mut Notes,
    names: &mut AllNames,
) -> Option<(String, Vec<String>)> {
    let mut machines = None;
    for family in Family::BOTH {
        let behind = behind(draft, near, family);
        let near_side = addresses(&draft.edge.lan, family).or(&behind.edge);
        let at_edge = Site::new(edge, near, family, behind.peers.clone());
        let at_origin = Site::new(origin, far, family, near_side);
        let obstacles = [obstacle(edge, near, family), obstacle(origin, far, family)];
        let (found, refusals) = match obstacles.iter().flatten().next() {
            Some(obstacle) => (Vec::new(), nothing(&at_edge, obstacle.text)),
            None => services(&at_edge, &at_origin, &behind),
        };
        let is_hindered = obstacles.iter().any(Option::is_some);
        for (side, obstacle) in [EDGE, ORIGIN].into_iter().zip(&obstacles) {
            let Some(Obstacle { index, text }) = obstacle else { continue };
            // A family without rules has nothing to lose.
            let kind =
                if at_edge.nat.is_empty() && at_edge.filter.is_empty() { Stays } else { NoCounterpart };
            notes.verdict(side, *index, kind, format!("{text}, so nothing is carried"));
        }
        refuse(&refusals, edge, family, notes);
        let (machine, others) = machine(&found, far, family);
        if machines.is_none() {
            machines = machine.map(|one| (family.address(one).to_string(), others));
        }
        let ends = Ends {
            edge: &at_edge,
            origin: &at_origin,
            lan: addresses(&draft.edge.lan, family),
            peers: peers(draft, family),
            edge_own: behind.edge.clone(),
            origin_own: addresses(&hosts(&far.address), family),
            machine,
        };
        let mut private = if is_hindered { Vec::new() } else { ends.flows() };
        private.sort_by_key(|private| private.index);
        let (origin_own, lan) = (ends.origin_own.clone(), draft.edge.lan.clone());
        let (edge_name, origin_name) = (edge.name.clone(), origin_peer(draft));
        let mut carry = Carry {
            draft,
            notes,
            names: &mut names.rules,
            service_names: &mut names.services,
            reach_names: &mut names.reaches,
            edge,
            origin,
            edge_name: &edge_name,
            origin_name: &origin_name,
            family,
            machine,
            origin_own: &origin_own,
        };
        // Those that leave addresses to others come last.
        let (others, first): (Vec<_>, Vec<_>) = found.iter().partition(|service| !service.except.is_empty());
        first.into_iter().chain(others).for_each(|service| carry.publish(service));
        private.iter().for_each(|private| carry.private(private, &lan));
        if !is_hindered {
            other_edges(&mut carry, origin, far, edge.is_given);
        }
        verdicts(&at_edge, EDGE, notes);
        verdicts(&at_origin, ORIGIN, notes);
    }
    machines
}

/// The refusal of every dst-nat.
fn nothing(edge: &Site<'_>, text: &str) -> Vec<Refusal> {
    let rules = edge.nat.iter().filter(|rule| translates(rule));
    rules.map(|rule| Refusal::Rule(rule.index, text.to_owned())).collect()
}

fn refuse(refusals: &[Refusal], edge: &Router, family: Family, notes: &mut Notes) {
    for refusal in refusals {
        let (index, text) = match refusal {
            Refusal::Rule(index, text) => (*index, text.clone()),
            Refusal::Elsewhere(index, target) => {
                let target = family.address(*target);
                (*index, format!("the target {target} is behind no peer; the rule stays on the router"))
            }
        };
        let summary = edge.entry(index).map(|entry| entry.summary()).unwrap_or_default();
        notes.verdict(EDGE, index, NoCounterpart, format!("{text}: {summary}"));
    }
}

/// Private networks of the router's interfaces become those of `[lan]`.
fn lan(edge: &mut Router, near: &Link, draft: &mut Draft) {
    let networks: Vec<(usize, IpNetwork)> = edge.lan().map(|(own, network)| (own.index, network)).collect();
    for (index, network) in networks {
        let mut held = draft.edge.peers.iter().flat_map(|peer| &peer.allowed_ips).chain(&near.address);
        let clash = held.any(|peer| network.prefix() <= peer.prefix() && network.contains(peer.network()));
        if clash {
            let text = format!("{network} holds a prefix that is behind a peer, so it is no LAN of the edge");
            edge.settle(index, NoCounterpart, text);
        } else if draft.edge.lan.contains(&network) {
            edge.settle(index, Carried, format!("{network} in [lan] prefixes"));
        } else {
            draft.edge.lan.push(network);
            edge.settle(index, Carried, format!("{network} in [lan] prefixes"));
        }
    }
}

fn tunnel_addresses(router: &mut Router, link: &Link, text: &str) {
    let on: Vec<usize> =
        router.own.iter().filter(|own| own.interface == link.id).map(|own| own.index).collect();
    on.into_iter().for_each(|index| router.settle(index, Carried, text));
}

fn hosts(own: &[IpNetwork]) -> Vec<IpNetwork> {
    own.iter().map(|own| IpNetwork::from(own.ip())).collect()
}

/// What is behind each peer of the edge, and whether its export was read.
fn peers(draft: &Draft, family: Family) -> Vec<(Ranges, bool)> {
    let ours = origin_peer(draft);
    let routed = |peer: &crate::import::draft::EdgePeer| {
        addresses(peer.allowed_ips.iter().filter(|prefix| prefix.prefix() > 0), family)
    };
    draft.edge.peers.iter().map(|peer| (routed(peer), peer.name == ours)).collect()
}

fn behind(draft: &Draft, near: &Link, family: Family) -> Behind {
    let all = peers(draft, family);
    let join = |ours: bool| {
        let some = all.iter().filter(|(_, is_ours)| !ours || *is_ours);
        some.fold(Ranges::empty(), |join, (ranges, _)| join.or(ranges))
    };
    let edge = addresses(&hosts(&near.address), family);
    Behind { origin: join(true).minus(&edge), peers: join(false).minus(&edge), edge }
}

/// The edge's peer that is the forwarder.
fn origin_peer(draft: &Draft) -> String {
    let hosts = &draft.origin.address;
    let holds = |prefix: &IpNetwork| prefix.prefix() > 0 && hosts.iter().any(|own| prefix.contains(own.ip()));
    let peer = draft.edge.peers.iter().find(|peer| peer.allowed_ips.iter().any(holds));
    peer.map(|peer| peer.name.clone()).unwrap_or_default()
}

/// The machine that most published ports lead to, and the others.
fn machine(found: &[Service], far: &Link, family: Family) -> (Option<u128>, Vec<String>) {
    let own = addresses(&hosts(&far.address), family);
    let mut counts: BTreeMap<u128, usize> = BTreeMap::new();
    for service in found.iter().filter(|service| service.way.is_ours) {
        let to = service.way.upstream.unwrap_or(service.way.target);
        if !own.contains(to) {
            *counts.entry(to).or_default() += 1;
        }
    }
    let most = counts.iter().max_by_key(|(to, count)| (**count, std::cmp::Reverse(**to))).map(|(to, _)| *to);
    let others = counts.keys().filter(|to| Some(**to) != most).map(|to| family.address(*to).to_string());
    (most, others.collect())
}

fn machine_note(machine: &str, others: &[String], draft: &mut Draft) {
    let rest = match others.is_empty() {
        true => "every published port leads to it".to_owned(),
        false => format!("most published ports lead to it; {} are dialled from there", others.join(", ")),
    };
    draft.note(Assumed, format!("the forwarder runs on {machine}: {rest}"));
}

/// What the origin lets in from edges whose exports were not given.
fn other_edges(carry: &mut Carry<'_>, origin: &Router, far: &Link, is_edge_given: bool) {
    for link in &origin.links {
        let is_main = link.name == far.name;
        if is_main && is_edge_given {
            continue;
        }
        let own = |peer: &&OriginPeer| peer.own.as_ref().is_some_and(|(own, _)| *own == link.address);
        let peers = &carry.draft.origin.peers;
        let peer = if is_main { peers.first() } else { peers.iter().find(own) };
        let Some(peer) = peer.map(|peer| peer.name.clone()) else { continue };
        one_other_edge(carry, origin, link, &peer);
    }
}

fn one_other_edge(carry: &mut Carry<'_>, origin: &Router, link: &Link, peer: &str) {
    let family = carry.family;
    let site = Site::new(origin, link, family, Ranges::empty());
    let allowed = origin.peers.iter().filter(|peer| peer.link == link.name).flat_map(|peer| &peer.allowed);
    let inside = origin.inside(family).into_iter();
    let inside = inside.fold(Ranges::empty(), |all, id| all.or(&origin.networks(id, family)));
    let start = Flow {
        protocols: Ranges::one(TCP).or(&Ranges::one(UDP)),
        sources: addresses(allowed, family),
        destinations: inside.or(&origin.own(family)),
        ports: Ranges::of(1, 65_535),
        ..Flow::all()
    };
    let (delivered, _) = site.deliver(&Flows::of(start));
    for delivered in delivered {
        let mut by_host: BTreeMap<u128, Vec<Flow>> = BTreeMap::new();
        for flow in delivered.flows.merged().iter() {
            let hosts: Vec<u128> = flow.destinations.numbers().take(9).collect();
            if hosts.len() > 8 || flow.ports.covers(&Ranges::of(1, 65_535)) {
                let text = format!(
                    "{}: more than listed ports of listed hosts is open to {}; what is listed is carried",
                    origin.file, link.name
                );
                carry.draft.note(Assumed, text);
                continue;
            }
            hosts.into_iter().for_each(|host| by_host.entry(host).or_default().push(flow.clone()));
        }
        for (host, flows) in by_host {
            let to = delivered.to.unwrap_or(host);
            if carry.origin_own.contains(to) {
                continue;
            }
            for made in carry.other_edge(peer, host, to, delivered.moved, &flows) {
                let what = format!("{made} of {peer:?}");
                carry.notes.passing(ORIGIN, &delivered.passed_by, &what);
            }
        }
    }
}

/// The lists of addresses that decide about what is carried, by side.
fn used_lists(edge: &Router, origin: &Router, notes: &Notes) -> BTreeMap<(usize, String), String> {
    let mut used = BTreeMap::new();
    for (side, router) in [(EDGE, edge), (ORIGIN, origin)] {
        let carried = notes.verdicts.iter().filter(|(of, _, kind, _)| *of == side && *kind == Carried);
        let rules = carried.filter_map(|(_, index, _, text)| Some((router.entry(*index)?, text)));
        for (entry, text) in rules {
            for key in ["src-address-list", "dst-address-list"] {
                let list = entry.value(key).map(|list| list.trim_start_matches('!').to_owned());
                used.extend(list.map(|list| ((side, list.clone()), format!("list {list:?}: {text}"))));
            }
        }
    }
    used
}

/// What the exports cannot say about the edge.
pub(super) fn assumptions(edge: &Router, near: &Link, draft: &mut Draft) {
    let signs = edge.wan.iter().map(|uplink| format!("{} ({})", uplink.name, uplink.signs.join("; ")));
    let wan: Vec<String> = signs.collect();
    let wan = if wan.is_empty() { "none by any sign".to_owned() } else { wan.join(", ") };
    draft.note(
        Assumed,
        format!(
            "[wan] interface = \"eth0\": write the edge's own interface, not the router's: {wan}; accept = []: add \
             \"tcp/22\" to reach the edge from outside its LAN"
        ),
    );
    if edge.is_given {
        routes_assumed(edge, near, draft);
        forwarded_ports(edge, near, draft);
    }
    if draft.edge.allow.iter().any(|allow| allow.masquerade) {
        draft.note(
            Assumed,
            "[[allow]] into the LAN has source = \"masquerade\", since LAN hosts send their replies to their router; remove it once the router \
             has a route to the origin's addresses through the edge",
        );
    }
    if draft.edge.allow.iter().any(|allow| !allow.from.iter().any(|from| from.starts_with("peer:"))) {
        let routed = draft.edge.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let prefixes: Vec<String> =
            routed.filter(|prefix| prefix.prefix() > 0).map(ToString::to_string).collect();
        let text = format!(
            "LAN hosts reach the origin only if their router sends {} to the edge",
            prefixes.join(", ")
        );
        draft.note(Assumed, text);
    }
}

/// Where the export may lack the route into the tunnel, that there is one.
fn routes_assumed(edge: &Router, near: &Link, draft: &mut Draft) {
    let routed = draft.edge.publish.iter().map(|publish| publish.forward.target.is_ipv4());
    let families: Vec<Family> = routed.map(Family::of).collect();
    for family in Family::BOTH.into_iter().filter(|family| families.contains(family)) {
        if let Some(why) = Routing::read(edge, family).assumed {
            let text = format!("{} routes what is published into {}: {why}", edge.file, near.name);
            draft.note(Assumed, text);
        }
    }
}

fn forwarded_ports(edge: &Router, near: &Link, draft: &mut Draft) {
    let mut ports = vec![format!("udp/{}", near.listen_port)];
    for publish in &draft.edge.publish {
        ports
            .extend(publish.protocols.iter().map(|protocol| format!("{protocol}/{}", publish.forward.ports)));
    }
    ports.sort();
    ports.dedup();
    let text = format!(
        "while {} is in front of the edge, it must forward {} to it without changing the sources",
        edge.file,
        ports.join(", ")
    );
    draft.note(Assumed, text);
    if !draft.edge.publish.is_empty() {
        let text = "a published port answers the edge's LAN too; write listen = \"wan:PORT\" where only the WAN may have it";
        draft.note(Assumed, text);
    }
}
