//! Where a router sends a packet: marks, routing rules, and the longest route of a table.

use std::collections::BTreeMap;

use super::flows::{Flow, Flows};
use super::lists::range;
use super::ranges::{Family, Ranges, number};
use super::router::Router;
use super::rule::{Packet, Rule, Table};
use super::site::Found;
use super::uplinks::clients;
use crate::import::routeros::{Entry, is_unknown};
use policy::{prefix, text};

/// The table that every route is in unless it says otherwise.
pub(super) const MAIN: &str = "main";

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of an interface.
    Out(u128),
    /// Nowhere: a blackhole, or unreachable.
    Refused,
    /// By a gateway of which the interface is not known, or by one of several.
    Elsewhere,
}

/// A route in force.
#[derive(Clone)]
struct Route {
    index: usize,
    to: (u128, u128),
    distance: u32,
    way: Way,
}

/// The destinations of one table, each with the route that has it.
#[derive(Default)]
struct Lookup {
    parts: Vec<(Ranges, Route)>,
}

/// One routing rule, or one mark that names a table.
struct Step {
    index: usize,
    certain: Flow,
    possible: Flow,
    then: Then,
}

#[derive(Clone)]
enum Then {
    Refuse,
    Look { table: String, only: bool },
}

/// How one router routes the packets of a family.
pub(super) struct Routing {
    family: Family,
    tables: BTreeMap<String, Lookup>,
    marks: Vec<(Step, bool)>,
    rules: Vec<Step>,
    /// Why routes may be missing from the export.
    pub(super) assumed: Option<&'static str>,
}

/// Which ways are right for a packet: into an interface, or to a host that is not behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Into(u128),
    AwayFrom(u128),
}

impl Goal {
    fn is_met(self, way: Way) -> bool {
        match self {
            Self::Into(link) => way == Way::Out(link),
            Self::AwayFrom(link) => way != Way::Refused && way != Way::Out(link),
        }
    }
}

impl Lookup {
    /// The longest route decides, then the one with the least distance; several that are equal and
    /// lead differently lead to one of several ways.
    fn of(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| (route.to.1 - route.to.0, route.to.0, route.distance));
        let mut claimed = Ranges::empty();
        let mut parts: Vec<(Ranges, Route)> = Vec::new();
        for route in routes {
            if let Some((_, known)) = parts.last_mut()
                && (known.to, known.distance) == (route.to, route.distance)
            {
                if known.way != route.way {
                    known.way = Way::Elsewhere;
                }
                continue;
            }
            let all = Ranges::of(route.to.0, route.to.1);
            parts.push((all.minus(&claimed), route));
            claimed = claimed.or(&all);
        }
        Self { parts }
    }

    fn claimed(&self) -> Ranges {
        self.parts.iter().fold(Ranges::empty(), |all, (part, _)| all.or(part))
    }

    fn meeting(&self, goal: Goal) -> Ranges {
        let right = self.parts.iter().filter(|(_, route)| goal.is_met(route.way));
        right.fold(Ranges::empty(), |all, (part, _)| all.or(part))
    }
}

impl Routing {
    pub(super) fn read(router: &Router, family: Family) -> Self {
        let mut tables: BTreeMap<String, Vec<Route>> = BTreeMap::new();
        let menu = format!("{} route", family.menu());
        for (index, entry) in router.of(&menu) {
            let table = entry.value("routing-table").or_else(|| entry.value("routing-mark")).unwrap_or(MAIN);
            if let Some(route) = static_route(router, family, index, entry) {
                tables.entry(table.to_owned()).or_default().push(route);
            }
        }
        tables.entry(MAIN.to_owned()).or_default().extend(own_routes(router, family));
        let lookups = tables.into_iter().map(|(name, routes)| (name, Lookup::of(routes)));
        Self {
            family,
            tables: lookups.collect(),
            marks: marks(router, family),
            rules: rules(router, family),
            assumed: assumed(router, family),
        }
    }

    /// What of a flow certainly goes the right way; `target` replaces its destinations where a
    /// dst-nat changes them, which marks do not see.
    pub(super) fn carried(&self, before: &Flow, target: Option<u128>, goal: Goal) -> Found {
        let mut rest = Flows::of(before.clone());
        let mut found = Found::default();
        for (mark, _) in &self.marks {
            let wrong = self.wrong(mark, &mark.possible, target, goal);
            Self::refuse(&mut rest, &wrong, mark.index, &mut found);
        }
        for (mark, _) in self.marks.iter().filter(|(_, is_first)| *is_first) {
            self.take(&mut rest, mark, &mark.certain, target, goal, &mut found);
        }
        for rule in &self.rules {
            let possible = to(&rule.possible, &rule.possible.destinations, target);
            let wrong = self.wrong(rule, &possible, target, goal);
            Self::refuse(&mut rest, &wrong, rule.index, &mut found);
            let certain = to(&rule.certain, &rule.certain.destinations, target);
            self.take(&mut rest, rule, &certain, target, goal, &mut found);
        }
        found.flows.add(rest.and(&to(&Flow::all(), &self.in_main(goal), target)));
        if found.flows.is_empty() {
            let main = self.tables.get(MAIN).into_iter().flat_map(|main| &main.parts);
            let wrong = main.filter(|(part, route)| {
                !goal.is_met(route.way) && !rest.and(&to(&Flow::all(), part, target)).is_empty()
            });
            found.refused_by.extend(wrong.map(|(_, route)| route.index));
        }
        found
    }

    /// What the main table sends the right way.
    fn in_main(&self, goal: Goal) -> Ranges {
        let Some(main) = self.tables.get(MAIN) else { return Ranges::empty() };
        let mut right = main.meeting(goal);
        let is_open = matches!(goal, Goal::AwayFrom(_)) || self.assumed.is_some();
        if is_open {
            right = right.or(&main.claimed().complement());
        }
        if self.assumed.is_some() {
            let everyone = self.family.everyone();
            let default =
                main.parts.iter().filter(|(_, route)| Ranges::of(route.to.0, route.to.1) == everyone);
            right = default.fold(right, |all, (part, _)| all.or(part));
        }
        right
    }

    /// What a step sends another way.
    fn wrong(&self, step: &Step, applies: &Flow, target: Option<u128>, goal: Goal) -> Vec<Flow> {
        let (table, only) = match &step.then {
            Then::Refuse => return vec![applies.clone()],
            Then::Look { table, only } => (self.tables.get(table), *only),
        };
        let claimed = table.map(Lookup::claimed).unwrap_or_default();
        let mut wrong = claimed.minus(&table.map(|table| table.meeting(goal)).unwrap_or_default());
        if only {
            wrong = wrong.or(&claimed.complement());
        }
        let both = to(applies, &wrong, target).and(applies);
        both.into_iter().collect()
    }

    fn refuse(rest: &mut Flows, wrong: &[Flow], index: usize, found: &mut Found) {
        for wrong in wrong {
            if !rest.and(wrong).is_empty() {
                *rest = rest.minus(wrong);
                found.refused_by.insert(index);
            }
        }
    }

    /// Takes what a step certainly sends the right way.
    fn take(
        &self,
        rest: &mut Flows,
        step: &Step,
        applies: &Flow,
        target: Option<u128>,
        goal: Goal,
        found: &mut Found,
    ) {
        let Then::Look { table, .. } = &step.then else { return };
        let Some(table) = self.tables.get(table) else { return };
        if let Some(right) = to(applies, &table.meeting(goal), target).and(applies) {
            found.flows.add(rest.and(&right));
            *rest = rest.minus(&right);
        }
    }
}

/// A flow that goes to one of the addresses; with a target that is a yes or no.
fn to(flow: &Flow, addresses: &Ranges, target: Option<u128>) -> Flow {
    let destinations = match target {
        None => addresses.clone(),
        Some(target) if addresses.contains(target) => Ranges::all(),
        Some(_) => Ranges::empty(),
    };
    Flow { destinations, ..flow.clone() }
}

fn static_route(router: &Router, family: Family, index: usize, entry: &Entry) -> Option<Route> {
    let to = match entry.value("dst-address") {
        Some(written) => range(written, family)?,
        None => family.everyone().iter().next()?,
    };
    let is_yes = |key: &str| entry.value(key).is_some_and(|value| value != "no" && value != "unicast");
    let refuses =
        entry.target.split(' ').any(|word| ["blackhole", "unreachable", "prohibit"].contains(&word));
    let is_unknown = entry.values().any(|value| is_unknown(&entry.menu, &value.key));
    let way = if refuses || is_yes("blackhole") || is_yes("type") {
        Way::Refused
    } else if is_unknown || entry.value("vrf-interface").is_some() {
        Way::Elsewhere
    } else {
        entry.value("gateway").and_then(|gateway| way_by(router, gateway)).map_or(Way::Elsewhere, Way::Out)
    };
    let distance = entry.value("distance").and_then(|distance| distance.parse().ok()).unwrap_or(1);
    Some(Route { index, to, distance, way })
}

/// The interface by which a gateway is reached: the one that it names, or whose network has it.
pub(super) fn way_by(router: &Router, gateway: &str) -> Option<u128> {
    let gateway = gateway.strip_suffix("@main").unwrap_or(gateway);
    if gateway.contains(',') || gateway.contains('@') {
        return None;
    }
    let (address, named) =
        gateway.split_once('%').map_or((gateway, gateway), |(address, name)| (address, name));
    if let Some(id) = router.interface(named) {
        return Some(id);
    }
    let (family, address) = number(text::address(address)?);
    let on_link = connected(router, family).filter(|(_, to, _)| (to.0..=to.1).contains(&address));
    on_link.min_by_key(|(_, to, _)| to.1 - to.0).map(|(_, _, id)| id)
}

/// The networks that a router is connected to, with the command and the interface of each.
fn connected(router: &Router, family: Family) -> impl Iterator<Item = (usize, (u128, u128), u128)> {
    router.own.iter().filter_map(move |own| {
        let named = router.entry(own.index).and_then(|entry| text::prefix(entry.value("network")?));
        let network =
            if prefix::host(own.address).is_some() { named.unwrap_or(own.address) } else { own.address };
        Some((own.index, super::ranges::bounds(prefix::network(network), family)?, own.interface))
    })
}

/// Connected networks, and the default routes that the other end of an uplink gives.
fn own_routes(router: &Router, family: Family) -> Vec<Route> {
    let own =
        connected(router, family).map(|(index, to, id)| Route { index, to, distance: 0, way: Way::Out(id) });
    let mut routes: Vec<Route> = own.collect();
    if family == Family::V4 {
        for (_, entry, name) in clients(router) {
            let index =
                router.entries.iter().position(|known| std::ptr::eq(known, entry)).unwrap_or_default();
            let distance = entry.value("default-route-distance").and_then(|distance| distance.parse().ok());
            let way = router.interface(&name).map_or(Way::Elsewhere, Way::Out);
            let everyone = family.everyone().iter().next();
            routes.extend(everyone.map(|to| Route { index, to, distance: distance.unwrap_or(1), way }));
        }
    }
    routes
}

/// Marks that name a table, each with whether nothing before it may keep a packet from it.
fn marks(router: &Router, family: Family) -> Vec<(Step, bool)> {
    let mut all = Rule::all(router, family, Table::Mangle, Packet::First);
    let after_routing = ["output", "postrouting", "forward", "input"];
    all.retain(|rule| !after_routing.contains(&rule.chain.as_str()) && rule.is_for_such);
    let value = |rule: &Rule, key: &str| router.entry(rule.index).and_then(|entry| entry.value(key));
    let mut marks = Vec::new();
    let mut is_first = true;
    for rule in &all {
        let action = value(rule, "action").unwrap_or_default();
        let ends = value(rule, "passthrough") == Some("no") || ["accept", "jump", "return"].contains(&action);
        let then = match (action, value(rule, "new-routing-mark")) {
            ("mark-routing", Some(table)) => Some(Then::Look { table: table.to_owned(), only: false }),
            ("route" | "mark-routing", _) => Some(Then::Refuse),
            _ => None,
        };
        let is_sure = is_first && rule.chain == "prerouting" && rule.local.is_none();
        is_first &= !ends;
        let Some(then) = then else { continue };
        let by_connection =
            value(rule, "connection-mark").filter(|mark| !mark.starts_with('!') && *mark != "no-mark");
        let possible = match by_connection {
            None => vec![rule.possible.clone()],
            // A new connection has a mark only where a rule gives it one.
            Some(mark) => {
                let giving = all.iter().filter(|rule| value(rule, "new-connection-mark") == Some(mark));
                giving.filter_map(|giving| giving.possible.and(&rule.possible)).collect()
            }
        };
        let step = |possible| Step {
            index: rule.index,
            certain: rule.certain.clone(),
            possible,
            then: then.clone(),
        };
        marks.extend(possible.into_iter().map(step).map(|step| (step, is_sure)));
    }
    marks
}

fn rules(router: &Router, family: Family) -> Vec<Step> {
    router.of("routing rule").filter_map(|(index, entry)| rule(router, family, index, entry)).collect()
}

fn rule(router: &Router, family: Family, index: usize, entry: &Entry) -> Option<Step> {
    let mut flow = Flow::all();
    let mut is_sure = !entry.values().any(|value| is_unknown(&entry.menu, &value.key));
    for (key, part) in [("src-address", 0), ("dst-address", 1)] {
        let Some(written) = entry.value(key) else { continue };
        let addresses = Ranges::union_of(vec![range(written, family)?]);
        if part == 0 { flow.sources = addresses } else { flow.destinations = addresses }
    }
    if let Some(name) = entry.value("interface") {
        flow.arrives = router.interface(name).map(Ranges::one).unwrap_or_else(Ranges::all);
    }
    if let Some(mark) = entry.value("routing-mark") {
        let menu = format!("{} firewall mangle", family.menu());
        router.of(&menu).find(|(_, rule)| rule.value("new-routing-mark") == Some(mark))?;
        is_sure = false;
    }
    is_sure &= entry.value("min-prefix").is_none();
    let table = entry.value("table").unwrap_or(MAIN).to_owned();
    let then = match entry.value("action").unwrap_or("lookup") {
        "lookup" => Then::Look { table, only: false },
        "lookup-only-in-table" => Then::Look { table, only: true },
        _ => Then::Refuse,
    };
    let certain = if is_sure { flow.clone() } else { Flow { ports: Ranges::empty(), ..flow.clone() } };
    Some(Step { index, certain, possible: flow, then })
}

/// Why an export may lack the routes that the router has.
fn assumed(router: &Router, family: Family) -> Option<&'static str> {
    const PROTOCOLS: [&str; 5] = ["ospf", "bgp", "rip", "isis", "babel"];
    let speaks = |menu: &str| {
        menu.strip_prefix("routing ").is_some_and(|rest| PROTOCOLS.iter().any(|one| rest.starts_with(one)))
    };
    if router
        .entries
        .iter()
        .any(|entry| entry.command == "add" && !entry.is_disabled() && speaks(&entry.menu))
    {
        return Some("a routing protocol gives it routes, which no export holds");
    }
    let menu = format!("{} route", family.menu());
    let has_route = router.entries.iter().any(|entry| entry.is(&menu, "add"));
    let has_client = family == Family::V4 && clients(router).next().is_some();
    (!has_route && !has_client).then_some("its export has no route at all")
}
