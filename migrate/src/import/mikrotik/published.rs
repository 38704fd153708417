//! What the edge's dst-nat rules publish: the flows that both routers let through, as services.

use std::collections::{BTreeMap, BTreeSet};

use super::addresses::Addresses;
use super::flows::{Flow, Flows, TCP, UDP};
use super::listeners::{Listener, listeners, ports};
use super::ranges::Ranges;
use super::router::Router;
use super::routes::Goal;
use super::rule::Rule;
use super::site::{Found, Site, pieces};
use super::uplinks::Uplink;
use policy::{PortRange, Protocol};

/// A port that is published, before it has a name.
pub(super) struct Service {
    /// The command of the dst-nat that comes first.
    pub(super) index: usize,
    /// Further dst-nats that lead a part of it the same way.
    pub(super) others: BTreeSet<usize>,
    pub(super) protocol: Protocol,
    /// The only public address that has it.
    pub(super) bound: Option<u128>,
    pub(super) ports: PortRange,
    pub(super) sources: Ranges,
    /// Public addresses that must not have it.
    pub(super) except: Vec<u128>,
    /// Addresses of which it is not known whether the edge has one, and for which it would be
    /// another service.
    pub(super) unclear: Option<Ranges>,
    pub(super) way: Way,
    /// Commands of the edge and of the origin that refuse a part of its flows, or may.
    pub(super) refused_by: [BTreeSet<usize>; 2],
    /// Commands of the edge and of the origin that let its flows pass.
    pub(super) passed_by: [BTreeSet<usize>; 2],
}

/// Where a service leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// Where the edge sends it.
    pub(super) target: u128,
    pub(super) moved: i64,
    /// Whether the origin sees the edge's address instead of the client's.
    pub(super) is_hidden: bool,
    /// What gets it at the origin; `None` when that is the target.
    pub(super) upstream: Option<u128>,
    pub(super) upstream_moved: i64,
    /// Whether the target is behind the origin whose export was read.
    pub(super) is_ours: bool,
}

/// Why a dst-nat is not carried.
pub(super) enum Refusal {
    /// Its command, and why.
    Rule(usize, String),
    /// Its target is behind no peer.
    Elsewhere(usize, u128),
}

/// Who is behind the tunnel.
pub(super) struct Behind {
    /// The edge's own addresses in the tunnel.
    pub(super) edge: Ranges,
    /// What is behind the origin.
    pub(super) origin: Ranges,
    /// What is behind any peer.
    pub(super) peers: Ranges,
}

/// Flows that one dst-nat takes and both routers let through, as they arrived by the WAN.
struct Piece {
    index: usize,
    flow: Flow,
    refused_by: [BTreeSet<usize>; 2],
    passed_by: [BTreeSet<usize>; 2],
}

/// The services, and the rules that make none.
pub(super) fn services(edge: &Site<'_>, origin: &Site<'_>, behind: &Behind) -> (Vec<Service>, Vec<Refusal>) {
    let addresses = Addresses::of(edge);
    let start = from_the_wan(edge, &addresses);
    let tracked = edge.tracked(&start, true);
    let addresses = addresses.reached(&tracked.flows);
    let (taken, _) = edge.translated(&tracked.flows, true);
    let mut groups: BTreeMap<Way, Vec<Piece>> = BTreeMap::new();
    let mut refusals = Vec::new();
    let mut seen = BTreeSet::new();
    let mut followed = BTreeSet::new();
    for (at, flows) in &taken {
        let Some((rule, _)) = edge.translation(*at) else { continue };
        seen.insert(rule.index);
        if let Some(refusal) = unpublishable(rule, behind) {
            refusals.push(refusal);
            continue;
        }
        let raw = &tracked.refused_by;
        let refused_by = <[BTreeSet<usize>; 2]>::default();
        let mut path = Path { edge, origin, behind, raw, groups: &mut groups, not_routed: None, refused_by };
        if path.follow(*at, flows) {
            followed.insert(*at);
        } else {
            let routers = [edge.router, origin.router];
            let refused = || refused_everywhere(rule, routers, &path.refused_by);
            let text = path.not_routed.clone().unwrap_or_else(refused);
            refusals.push(Refusal::Rule(rule.index, text));
        }
    }
    for rule in edge.nat.iter().filter(|rule| !seen.contains(&rule.index) && translates(rule)) {
        refusals.push(Refusal::Rule(rule.index, not_reached(edge.router, rule, &tracked.refused_by)));
    }
    let of = groups.into_iter().flat_map(|(way, pieces)| of_one_way(way, &pieces, &start, &addresses));
    let mut services: Vec<Service> = of.collect();
    services.sort_by_key(|service| (service.index, service.ports, service.bound));
    let is_published =
        |index: usize| services.iter().any(|one| one.index == index || one.others.contains(&index));
    for rule in followed.into_iter().filter_map(|at| edge.nat.get(at)) {
        if !is_published(rule.index) {
            refusals.push(Refusal::Rule(rule.index, on_one_uplink(edge.router, rule)));
        }
    }
    (services, refusals)
}

/// Everything that can arrive by the WAN for one of its addresses.
fn from_the_wan(edge: &Site<'_>, addresses: &Addresses) -> Flows {
    let family = edge.family;
    let mut all = Flows::empty();
    let mut own_of_all = Ranges::empty();
    let arriving = |arrives: Ranges, destinations: Ranges| Flow {
        arrives,
        leaves: Ranges::all(),
        protocols: Ranges::one(TCP).or(&Ranges::one(UDP)),
        sources: family.everyone(),
        destinations,
        ports: Ranges::of(1, 65_535),
    };
    for uplink in &edge.router.wan {
        let own = edge.router.own.iter().filter(|own| own.interface == uplink.id);
        let own = own.map(|own| super::ranges::number(own.address.ip())).filter(|(of, _)| *of == family);
        let own = Ranges::union_of(own.map(|(_, number)| (number, number)).collect());
        all.add(Flows::of(arriving(Ranges::one(uplink.id), own.clone())));
        own_of_all = own_of_all.or(&own);
    }
    let every = edge.router.wan.iter().map(|uplink| (uplink.id, uplink.id)).collect();
    let others = addresses.all().minus(&own_of_all);
    all.add(Flows::of(arriving(Ranges::union_of(every), others)));
    all
}

/// Why a rule that passes both routers for some uplink is published for none.
fn on_one_uplink(router: &Router, rule: &Rule) -> String {
    let (on, others): (Vec<_>, Vec<_>) =
        router.wan.iter().partition(|uplink| rule.possible.arrives.contains(uplink.id));
    let name = |uplinks: &[&Uplink]| {
        uplinks.iter().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if others.is_empty() {
        return "what passes by one uplink is refused by another, and the export does not say which address each has: write \
                dst-address=, or publish it by hand with listen = \"ADDRESS:PORT\""
            .to_owned();
    }
    format!(
        "it is for {} only and not for {}, and the export has no address of it: write dst-address=, or publish it by hand \
         with listen = \"ADDRESS:PORT\"",
        name(&on),
        name(&others)
    )
}

pub(super) fn translates(rule: &Rule) -> bool {
    matches!(rule.action, super::rule::Action::Translate(_))
}

/// Why no part of a rule can be published, whatever the filters say.
fn unpublishable(rule: &Rule, behind: &Behind) -> Option<Refusal> {
    let refused = |text: &str| Some(Refusal::Rule(rule.index, text.to_owned()));
    let super::rule::Action::Translate(translation) = &rule.action else { return None };
    let Some((first, last)) = translation.to else {
        return refused("no to-addresses or to-ports that can be read");
    };
    if first == last && !behind.peers.contains(first) {
        return Some(Refusal::Elsewhere(rule.index, first));
    }
    if translation.mapped.is_none() && first != last {
        return refused("no single to-addresses");
    }
    let both = Ranges::one(TCP).or(&Ranges::one(UDP));
    if rule.possible.protocols.covers(&both) {
        return refused("no protocol tcp or udp: write a rule for each port");
    }
    if rule.possible.ports.covers(&Ranges::of(1, 65_535)) {
        return refused("every port: list those that are used");
    }
    None
}

/// Why a dst-nat takes nothing that arrives by the WAN.
fn not_reached(router: &Router, rule: &Rule, raw: &BTreeSet<usize>) -> String {
    let every = Ranges::union_of(router.wan.iter().map(|uplink| (uplink.id, uplink.id)).collect());
    if let Some(doubt) = rule.doubts.first() {
        return doubt.clone();
    }
    if router.wan.is_empty() {
        return "no interface of this export is the WAN's by any sign (list WAN, DHCP or PPPoE client, masquerade, default \
                route, public address), so nothing is public"
            .to_owned();
    }
    if !rule.possible.arrives.meets(&every) {
        return "not about packets from the WAN".to_owned();
    }
    let text =
        "no packet from the WAN gets to it: its destination is private, or earlier rules take everything";
    let lines = lines(&[router], std::slice::from_ref(raw));
    if lines.is_empty() { text.to_owned() } else { format!("{text}: see {lines}") }
}

/// Why nothing of a dst-nat passes both routers: the lines that refuse it or may.
fn refused_everywhere(rule: &Rule, routers: [&Router; 2], refused_by: &[BTreeSet<usize>; 2]) -> String {
    if let Some(doubt) = rule.doubts.first() {
        return doubt.clone();
    }
    let passes = "no flow of it is sure to pass both routers, replies included";
    let lines = lines(&routers, refused_by);
    let mut text = if lines.is_empty() { passes.to_owned() } else { format!("{passes}: see {lines}") };
    for (router, by) in routers.iter().zip(refused_by) {
        if by.iter().any(|index| router.is_last_drop(*index)) && !accepts_known(router) {
            text.push_str(&format!("; no rule of {} accepts connection-state=established", router.file));
        }
    }
    text
}

/// Whether some filter accepts the packets of known flows.
fn accepts_known(router: &Router) -> bool {
    let mut rules = router.of("ip firewall filter").chain(router.of("ipv6 firewall filter"));
    rules.any(|(_, rule)| {
        rule.value("action").is_none_or(|action| action == "accept")
            && rule.list("connection-state").contains(&"established")
    })
}

/// Where commands are, at most six of them.
fn lines(routers: &[&Router], commands: &[BTreeSet<usize>]) -> String {
    let mut lines = Vec::new();
    for (router, commands) in routers.iter().zip(commands) {
        lines.extend(commands.iter().map(|index| format!("{}:{}", router.file, router.place(*index).line)));
    }
    let more = if lines.len() > 6 { " and more" } else { "" };
    lines.truncate(6);
    format!("{}{more}", lines.join(", "))
}

struct Path<'p, 'r> {
    edge: &'p Site<'r>,
    origin: &'p Site<'r>,
    behind: &'p Behind,
    raw: &'p BTreeSet<usize>,
    groups: &'p mut BTreeMap<Way, Vec<Piece>>,
    /// Why a target is not sent into the tunnel.
    not_routed: Option<String>,
    /// Commands of the edge and of the origin that refuse something, or may.
    refused_by: [BTreeSet<usize>; 2],
}

impl Path<'_, '_> {
    /// Whether any flow that a dst-nat takes gets through.
    fn follow(&mut self, at: usize, flows: &Flows) -> bool {
        let Some((rule, translation)) = self.edge.translation(at) else { return false };
        let index = rule.index;
        let before = self.before(at);
        let mut any = false;
        let pieces = pieces(flows, translation);
        if pieces.is_empty() {
            let text = "its ports or addresses are more or fewer than those of to-ports or to-addresses: write a rule for each";
            self.not_routed = Some(text.to_owned());
        }
        for (flow, target, moved) in pieces {
            if !self.behind.peers.contains(target) {
                continue;
            }
            let routed = self.routed(&flow, target);
            let there = routed.flows.map(|flow| Flow {
                destinations: Ranges::one(target),
                ports: flow.ports.moved(moved),
                leaves: Ranges::one(self.edge.link.id),
                ..flow.clone()
            });
            let mut found = self.edge.through("forward", &there, true);
            found.refused_by.extend(routed.refused_by);
            let (kept, hidden) = self.edge.sources_after(&found.flows, &self.behind.edge, true);
            let hidden = self.edge.hidden(&hidden, &self.behind.edge);
            found.refused_by.extend(hidden.refused_by);
            let hidden = hidden.flows;
            self.refused_by[0].extend(found.refused_by.iter().copied());
            for (passed, is_hidden) in [(kept, false), (hidden, true)] {
                for passed in passed.iter() {
                    let way = Way { target, moved, is_hidden, ..Way::default() };
                    let refused: BTreeSet<usize> =
                        found.refused_by.iter().chain(self.raw).chain(&before).copied().collect();
                    any |= self.at_the_origin(&flow, passed, way, index, [&refused, &found.passed_by]);
                }
            }
        }
        any
    }

    /// What the edge's router sends into the tunnel.
    fn routed(&mut self, flow: &Flow, target: u128) -> Found {
        let edge = self.edge;
        let found = edge.routed(&Flows::of(flow.clone()), Some(target), Goal::Into(edge.link.id));
        if found.flows.is_empty() {
            let (address, link) = (edge.family.address(target), &edge.link.name);
            let lines = lines(&[edge.router], std::slice::from_ref(&found.refused_by));
            let see =
                if lines.is_empty() { "no route leads there".to_owned() } else { format!("see {lines}") };
            let text =
                format!("{address} is not routed into {link} ({see}); add the route, or publish it by hand");
            self.not_routed = Some(text);
        }
        found
    }

    /// Commands before a dst-nat that take a part of its flows.
    fn before(&self, at: usize) -> BTreeSet<usize> {
        let Some(rule) = self.edge.nat.get(at) else { return BTreeSet::new() };
        let earlier = self.edge.nat.iter().take(at).filter(|earlier| {
            earlier.chain == rule.chain
                && earlier.action != super::rule::Action::Continue
                && earlier.possible.and(&rule.possible).is_some()
        });
        earlier.map(|earlier| earlier.index).collect()
    }

    fn at_the_origin(
        &mut self,
        flow: &Flow,
        passed: &Flow,
        way: Way,
        index: usize,
        [refused, passed_by]: [&BTreeSet<usize>; 2],
    ) -> bool {
        let is_ours = self.behind.origin.contains(way.target);
        let way = Way { is_ours, ..way };
        if !is_ours {
            let none = BTreeSet::new();
            let by = [[refused.clone(), none.clone()], [passed_by.clone(), none]];
            self.collect(way, index, flow, passed.clone(), by);
            return true;
        }
        let mut arriving = passed.clone();
        if way.is_hidden {
            arriving.sources = self.behind.edge.clone();
        }
        let (delivered, refused_there) = self.origin.deliver(&Flows::of(arriving));
        self.refused_by[1].extend(refused_there.iter().copied());
        let mut any = false;
        for delivered in delivered {
            let way = Way { upstream: delivered.to, upstream_moved: delivered.moved, ..way };
            for there in delivered.flows.iter() {
                // Every address of the edge must be let through, since which one is used is not known.
                if way.is_hidden && !there.sources.covers(&self.behind.edge) {
                    continue;
                }
                let sources = if way.is_hidden { passed.sources.clone() } else { there.sources.clone() };
                let through = Flow { arrives: passed.arrives.clone(), sources, ..there.clone() };
                let refused_by = [refused.clone(), refused_there.clone()];
                let passed_by = [passed_by.clone(), delivered.passed_by.clone()];
                self.collect(way, index, flow, through, [refused_by, passed_by]);
                any = true;
            }
        }
        any
    }

    /// Adds what got through, as it arrived by the WAN.
    fn collect(
        &mut self,
        way: Way,
        index: usize,
        flow: &Flow,
        through: Flow,
        [refused_by, passed_by]: [[BTreeSet<usize>; 2]; 2],
    ) {
        let flow = Flow {
            leaves: Ranges::all(),
            destinations: flow.destinations.clone(),
            ports: through.ports.moved(-way.moved),
            ..through
        };
        self.groups.entry(way).or_default().push(Piece { index, flow, refused_by, passed_by });
    }
}

impl Default for Way {
    fn default() -> Self {
        Self { target: 0, moved: 0, is_hidden: false, upstream: None, upstream_moved: 0, is_ours: true }
    }
}

/// The services that lead one way.
fn of_one_way(way: Way, pieces: &[Piece], start: &Flows, addresses: &Addresses) -> Vec<Service> {
    // What is refused on one uplink is refused on all, since the edge does not separate them.
    let any = |flow: &Flow| Flow { arrives: Ranges::all(), leaves: Ranges::all(), ..flow.clone() };
    let mut through = Flows::empty();
    pieces.iter().for_each(|piece| through.add(Flows::of(piece.flow.clone())));
    let refused = start.refused(&through).map(any);
    let through = through.without(&refused).map(any).merged();
    let mut services = Vec::new();
    for (protocol, number) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
        let flows: Vec<&Flow> = through.iter().filter(|flow| flow.protocols.contains(number)).collect();
        let of_protocol = || pieces.iter().filter(|piece| piece.flow.protocols.contains(number));
        let rule_of = |port: u128| {
            let rules = of_protocol().filter(|piece| piece.flow.ports.contains(port));
            rules.map(|piece| piece.index).min().unwrap_or_default()
        };
        let cuts = of_protocol().flat_map(|piece| piece.flow.ports.iter()).collect();
        for (listener, first, last) in listeners(&flows, cuts, addresses, rule_of) {
            let Some(ports) = ports(first, last) else { continue };
            let Listener { rule: index, address: bound, sources, except, unclear } = listener;
            let (mut refused_by, mut passed_by) =
                (<[BTreeSet<usize>; 2]>::default(), <[BTreeSet<usize>; 2]>::default());
            let mut others = BTreeSet::new();
            for piece in of_protocol().filter(|piece| piece.flow.ports.contains(first)) {
                others.extend(Some(piece.index).filter(|other| *other != index));
                join(&mut refused_by, &piece.refused_by);
                join(&mut passed_by, &piece.passed_by);
            }
            let service = Service {
                index,
                others,
                protocol,
                bound,
                ports,
                sources,
                except,
                unclear,
                way,
                refused_by,
                passed_by,
            };
            services.push(service);
        }
    }
    services
}

fn join(all: &mut [BTreeSet<usize>; 2], some: &[BTreeSet<usize>; 2]) {
    for (all, some) in all.iter_mut().zip(some) {
        all.extend(some.iter().copied());
    }
}
