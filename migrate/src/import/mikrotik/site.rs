//! One router as a path of flows: raw, NAT and filter, as RouterOS passes them.

use std::collections::BTreeSet;

use super::flows::{Flow, Flows};
use super::lists::range;
use super::obstacles::strict;
use super::ranges::{Family, Ranges, addresses};
use super::router::{Link, Router};
use super::routes::{Goal, Routing};
use super::rule::Packet::{First, Later, Reply};
use super::rule::{Action, Rule, Table, Translation};
use super::uplinks::no_host;
use super::walk::{State, Walk};
use crate::import::routeros::Entry;

/// The rules of a router for one family, with the tunnel's interface.
pub(super) struct Site<'r> {
    pub(super) router: &'r Router,
    pub(super) link: &'r Link,
    pub(super) family: Family,
    /// What is at the other end of the tunnel.
    pub(super) beyond: Ranges,
    pub(super) raw: Vec<Rule>,
    pub(super) nat: Vec<Rule>,
    pub(super) filter: Vec<Rule>,
    pub(super) bridge: Vec<Rule>,
    pub(super) mangle: Vec<Rule>,
    pub(super) routing: Routing,
    /// What IPsec policies take, with their commands.
    policies: Vec<(usize, Flow)>,
    /// Filter and bridge as the packets after the first meet them.
    later: [Vec<Rule>; 2],
    /// Raw, filter and bridge as replies meet them.
    replies: [Vec<Rule>; 3],
}

/// What was found on a path: flows that certainly pass, and the commands that decided.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub(super) flows: Flows,
    /// Numbers of commands that refused a part, or may have.
    pub(super) refused_by: BTreeSet<usize>,
    /// Numbers of commands that let a part pass.
    pub(super) passed_by: BTreeSet<usize>,
}

/// Flows out of the tunnel that reach a host.
pub(super) struct Delivered {
    /// As they come out of the tunnel.
    pub(super) flows: Flows,
    /// The address that gets them; `None` when it is their destination.
    pub(super) to: Option<u128>,
    /// How far their ports are moved.
    pub(super) moved: i64,
    pub(super) passed_by: BTreeSet<usize>,
}

const PLAIN: State = State { is_translated: false, is_local: false };
const TRANSLATED: State = State { is_translated: true, is_local: false };

impl<'r> Site<'r> {
    pub(super) fn new(router: &'r Router, link: &'r Link, family: Family, beyond: Ranges) -> Self {
        let rules = |table, packet| Rule::all(router, family, table, packet);
        Self {
            router,
            link,
            family,
            beyond,
            raw: rules(Table::Raw, First),
            nat: rules(Table::Nat, First),
            filter: rules(Table::Filter, First),
            bridge: rules(Table::Bridge, First),
            mangle: rules(Table::Mangle, First),
            routing: Routing::read(router, family),
            policies: policies(router, family),
            later: [Table::Filter, Table::Bridge].map(|table| rules(table, Later)),
            replies: [Table::Raw, Table::Filter, Table::Bridge].map(|table| rules(table, Reply)),
        }
    }

    /// The numbers of the commands of rules, by their position.
    fn commands(rules: &[Rule], positions: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        positions.into_iter().filter_map(|at| rules.get(at)).map(|rule| rule.index).collect()
    }

    /// What gets through a chain of filters, with the packets that follow it and the replies.
    pub(super) fn through(&self, chain: &str, flows: &Flows, is_translated: bool) -> Found {
        let is_local = chain == "input";
        let state = State { is_translated, is_local };
        let walk = Walk::filter(&self.filter, chain, flows, state);
        let deciding = walk.endings.iter().filter_map(|ending| ending.rule);
        let mut found = Found {
            flows: walk.passed(),
            refused_by: Self::commands(&self.filter, walk.refused_by.iter().copied()),
            passed_by: Self::commands(&self.filter, deciding),
        };
        found.narrow(self.bridged(&self.bridge, &found.flows));
        found.narrow(self.clear(&found.flows));
        found.narrow(self.known(&found.flows, state));
        found
    }

    /// What no IPsec policy takes, either way.
    fn clear(&self, flows: &Flows) -> Found {
        let mut found = Found { flows: flows.clone(), ..Found::default() };
        for (index, policy) in &self.policies {
            for taken in [policy.clone(), policy.reversed()] {
                if !found.flows.and(&taken).is_empty() {
                    found.flows = found.flows.minus(&taken);
                    found.refused_by.insert(*index);
                }
            }
        }
        found
    }

    /// What of flows that their first packet opened is let through both ways.
    fn known(&self, flows: &Flows, state: State) -> Found {
        let [later, later_bridge] = &self.later;
        let [raw, filter, bridge] = &self.replies;
        let (ahead, back) = if state.is_local { ("input", "output") } else { ("forward", "forward") };
        let out = if state.is_local { "output" } else { "prerouting" };
        let mut found = Self::pass(later, ahead, flows, state);
        found.narrow(self.bridged(later_bridge, &found.flows));
        let state = State { is_local: false, ..state };
        for (rules, chain) in [(raw, out), (filter, back)] {
            found.narrow(self.answered(&found.flows, |replies| Self::pass(rules, chain, replies, state)));
        }
        found.narrow(self.answered(&found.flows, |replies| self.bridged(bridge, replies)));
        found
    }

    /// The flows whose replies pass; what is refused to addresses that no host has is not refused.
    fn answered(&self, flows: &Flows, pass: impl Fn(&Flows) -> Found) -> Found {
        let hosts = Flow { sources: no_host(self.family).complement(), ..Flow::all() };
        let mut all = Found::default();
        for flow in flows.iter() {
            let one = Flows::of(flow.clone());
            let mut found = pass(&one.map(Flow::reversed));
            found.flows = found.flows.map(Flow::reversed);
            if one.refused(&found.flows).and(&hosts).is_empty() {
                found = Found { flows: one, ..Found::default() };
            }
            all.join(found);
        }
        all
    }

    /// What of hidden flows gets its replies: those are sent to this router's own address.
    pub(super) fn hidden(&self, flows: &Flows, own: &Ranges) -> Found {
        let [raw, ..] = &self.replies;
        let state = State { is_translated: false, is_local: true };
        let mut all = Found::default();
        for flow in flows.iter() {
            let reply = Flow { destinations: own.clone(), leaves: Ranges::all(), ..flow.reversed() };
            let start = Flows::of(reply);
            let found = Self::pass(raw, "prerouting", &start, state);
            all.refused_by.extend(found.refused_by);
            // Which of the own addresses is used is not known.
            let refused = start.refused(&found.flows).map(|reply| Flow {
                destinations: flow.sources.clone(),
                leaves: flow.arrives.clone(),
                ..reply.clone()
            });
            all.flows.add(Flows::of(flow.clone()).without(&refused.map(Flow::reversed)));
        }
        all
    }

    fn pass(rules: &[Rule], chain: &str, flows: &Flows, state: State) -> Found {
        let walk = Walk::filter(rules, chain, flows, state);
        let refused_by = Self::commands(rules, walk.refused_by.iter().copied());
        Found { flows: walk.passed(), refused_by, passed_by: BTreeSet::new() }
    }

    /// What bridges let in and out, which ask before and after the router's own filter.
    fn bridged(&self, rules: &[Rule], flows: &Flows) -> Found {
        let mut found = Found { flows: flows.clone(), ..Found::default() };
        if rules.is_empty() {
            return found;
        }
        let bridges = self.router.bridges();
        let arriving = Flow { arrives: bridges.clone(), ..Flow::all() };
        let leaving = Flow { leaves: bridges, ..Flow::all() };
        for (chain, part) in [("input", arriving), ("output", leaving)] {
            let mut passed = Self::pass(rules, chain, &found.flows.and(&part), PLAIN);
            passed.flows.add(found.flows.minus(&part));
            found.narrow(passed);
        }
        found
    }

    /// What gets through the forward chain, by the position of the rule that lets it.
    pub(super) fn forwarded_by_rule(&self, flows: &Flows) -> (Vec<(Option<usize>, Flows)>, BTreeSet<usize>) {
        let walk = Walk::filter(&self.filter, "forward", flows, PLAIN);
        let mut refused = Self::commands(&self.filter, walk.refused_by.iter().copied());
        let both_ways = |(rule, flows): (Option<usize>, Flows)| {
            let mut found = self.bridged(&self.bridge, &flows);
            found.narrow(self.clear(&found.flows));
            found.narrow(self.known(&found.flows, PLAIN));
            refused.extend(found.refused_by);
            (rule, found.flows)
        };
        let passed: Vec<_> =
            walk.endings.into_iter().map(|ending| (ending.rule, ending.flows)).map(both_ways).collect();
        (passed, refused)
    }

    /// What accepts let through, each with everything that it is about and that some accept lets
    /// through: the whole is the same, and a rule is not split by those before it.
    pub(super) fn accepted(&self, by_rule: &[(Option<usize>, Flows)]) -> Vec<(&Rule, Flows)> {
        let mut total = Flows::empty();
        for (_, flows) in by_rule.iter().filter(|(rule, _)| rule.is_some()) {
            total.add(flows.clone());
        }
        let is_reached = |at: usize, rule: &Rule| {
            rule.chain == "forward" || by_rule.iter().any(|(known, _)| *known == Some(at))
        };
        let rules = self.filter.iter().enumerate().filter(|(at, rule)| {
            rule.action == Action::Accept && !rule.passes_by(false, false) && is_reached(*at, rule)
        });
        let accepted = rules.map(|(_, rule)| (rule, total.and(&rule.certain)));
        accepted.filter(|(_, flows)| !flows.is_empty()).collect()
    }

    /// What the raw table leaves alone: what it drops, or does not track, is neither translated nor
    /// let through as others are.
    pub(super) fn tracked(&self, flows: &Flows, is_local: bool) -> Found {
        let walk = Walk::filter(&self.raw, "prerouting", flows, State { is_translated: false, is_local });
        let refused_by = Self::commands(&self.raw, walk.refused_by.iter().copied());
        Found { flows: walk.passed(), refused_by, passed_by: BTreeSet::new() }
    }

    /// What of flows is routed to where it should go; `target` is where a dst-nat sends it.
    pub(super) fn routed(&self, flows: &Flows, target: Option<u128>, goal: Goal) -> Found {
        let mut all = Found::default();
        flows.iter().for_each(|flow| all.join(self.routing.carried(flow, target, goal)));
        all
    }

    /// What each dst-nat takes, by its position, and what none takes.
    pub(super) fn translated(&self, flows: &Flows, is_local: bool) -> (Vec<(usize, Flows)>, Flows) {
        let walk = Walk::nat(&self.nat, "dstnat", flows, State { is_translated: false, is_local });
        let (mut taken, mut untouched) = (Vec::new(), Flows::empty());
        for ending in walk.endings {
            let rule = ending.rule.and_then(|at| Some((at, self.nat.get(at)?)));
            match rule {
                Some((at, rule)) if matches!(rule.action, Action::Translate(_)) => {
                    taken.push((at, ending.flows))
                }
                _ => untouched.add(ending.flows),
            }
        }
        (taken, untouched)
    }

    /// What of flows into the tunnel keeps its source, and what gets one of `own`.
    pub(super) fn sources_after(&self, flows: &Flows, own: &Ranges, is_translated: bool) -> (Flows, Flows) {
        let state = if is_translated { TRANSLATED } else { PLAIN };
        let walk = Walk::nat(&self.nat, "srcnat", flows, state);
        let (mut kept, mut hidden) = (Flows::empty(), Flows::empty());
        for ending in walk.endings {
            match ending.rule.and_then(|at| self.nat.get(at)).map(|rule| &rule.action) {
                None | Some(Action::Accept) => kept.add(ending.flows),
                Some(Action::Hide(None)) => hidden.add(ending.flows),
                Some(Action::Hide(Some(to))) if own.covers(to) && !to.is_empty() => hidden.add(ending.flows),
                // Another source than the tunnel's has no counterpart.
                Some(_) => {}
            }
        }
        (kept, hidden)
    }

    /// The translation of the rule at a position.
    pub(super) fn translation(&self, at: usize) -> Option<(&Rule, &Translation)> {
        let rule = self.nat.get(at)?;
        if let Action::Translate(translation) = &rule.action { Some((rule, translation)) } else { None }
    }

    /// What becomes of flows that come out of the tunnel here.
    pub(super) fn deliver(&self, flows: &Flows) -> (Vec<Delivered>, BTreeSet<usize>) {
        let peers = self.router.peers.iter().filter(|peer| peer.link == self.link.name);
        let allowed = addresses(peers.flat_map(|peer| &peer.allowed), self.family);
        let arriving = flows.map(|flow| Flow {
            arrives: Ranges::one(self.link.id),
            leaves: Ranges::all(),
            // WireGuard itself refuses other sources.
            sources: flow.sources.and(&allowed),
            ..flow.clone()
        });
        let own = self.router.own(self.family);
        let (mut delivered, mut refused_by) = (Vec::new(), BTreeSet::new());
        let arriving = self.believed(&arriving, &mut refused_by);
        for is_local in [true, false] {
            let here = if is_local { own.clone() } else { own.complement() };
            let part = arriving.and(&Flow { destinations: here, ..Flow::all() });
            let tracked = self.tracked(&part, is_local);
            refused_by.extend(tracked.refused_by);
            let (taken, untouched) = self.translated(&tracked.flows, is_local);
            for (at, flows) in taken {
                self.translated_here(at, &flows, &mut delivered, &mut refused_by);
            }
            let found = if is_local {
                self.through("input", &untouched, false)
            } else {
                let routed = self.routed(&untouched, None, Goal::AwayFrom(self.link.id));
                refused_by.extend(routed.refused_by);
                self.forward(&routed.flows, false)
            };
            refused_by.extend(found.refused_by);
            delivered.push(Delivered { flows: found.flows, to: None, moved: 0, passed_by: found.passed_by });
        }
        delivered.retain(|delivered| !delivered.flows.is_empty());
        (delivered, refused_by)
    }

    /// What a strict reverse path filter leaves of what comes out of the tunnel.
    fn believed(&self, arriving: &Flows, refused_by: &mut BTreeSet<usize>) -> Flows {
        let Some(index) = strict(self.router, self.family) else { return arriving.clone() };
        let back = arriving.map(|flow| Flow { arrives: Ranges::all(), ..flow.reversed() });
        let found = self.routed(&back, None, Goal::Into(self.link.id));
        refused_by.insert(index);
        found.flows.map(|flow| Flow { leaves: Ranges::one(self.link.id), ..flow.clone() }.reversed())
    }

    /// Through the forward chain, whichever interface leads to the destination.
    fn forward(&self, flows: &Flows, is_translated: bool) -> Found {
        let mut all = Found::default();
        let mut known = Ranges::empty();
        for id in self.router.inside(self.family) {
            let behind = self.router.networks(id, self.family);
            known = known.or(&behind);
            let to = Flow { destinations: behind, leaves: Ranges::one(id), ..Flow::all() };
            all.join(self.through("forward", &flows.and(&to), is_translated));
        }
        // Where it leaves is unknown: every rule about a way out but the tunnel's may apply.
        let elsewhere = Ranges::one(self.link.id).complement();
        let to = Flow { destinations: known.complement(), leaves: elsewhere, ..Flow::all() };
        let start = flows.and(&to);
        let mut found = self.through("forward", &start, is_translated);
        let refused = start.refused(&found.flows).map(|flow| Flow { leaves: Ranges::all(), ..flow.clone() });
        found.flows = found.flows.without(&refused);
        all.join(found);
        all.flows = all.flows.map(|flow| Flow { leaves: Ranges::all(), ..flow.clone() }).merged();
        all
    }

    fn translated_here(
        &self,
        at: usize,
        flows: &Flows,
        delivered: &mut Vec<Delivered>,
        refused_by: &mut BTreeSet<usize>,
    ) {
        let Some((rule, translation)) = self.translation(at) else { return };
        for (flow, to, moved) in pieces(flows, translation) {
            let routed = self.routed(&Flows::of(flow.clone()), Some(to), Goal::AwayFrom(self.link.id));
            refused_by.extend(routed.refused_by);
            let there = routed.flows.map(|flow| Flow {
                destinations: Ranges::one(to),
                ports: flow.ports.moved(moved),
                ..flow.clone()
            });
            let found = self.forward(&there, true);
            let back = found.flows.map(|passed| Flow {
                destinations: flow.destinations.clone(),
                ports: passed.ports.moved(-moved),
                ..passed.clone()
            });
            refused_by.extend(found.refused_by);
            let passed_by = found.passed_by.into_iter().chain([rule.index]).collect();
            delivered.push(Delivered { flows: back, to: Some(to), moved, passed_by });
        }
    }
}

impl Found {
    /// Only what a later step lets pass too.
    pub(super) fn narrow(&mut self, later: Self) {
        self.flows = later.flows;
        self.refused_by.extend(later.refused_by);
    }

    pub(super) fn join(&mut self, other: Self) {
        self.flows.add(other.flows);
        self.refused_by.extend(other.refused_by);
        self.passed_by.extend(other.passed_by);
    }
}

/// What IPsec policies take: with one of a later RouterOS nothing is sure.
fn policies(router: &Router, family: Family) -> Vec<(usize, Flow)> {
    let address = |entry: &Entry, key: &str| match entry.value(key) {
        None => Some(Ranges::all()),
        Some(written) => range(written, family).map(|(first, last)| Ranges::of(first, last)),
    };
    let taking = router.of("ip ipsec policy").filter(|(_, entry)| {
        entry.value("action") != Some("none") && !matches!(entry.value("template"), Some("yes" | "true"))
    });
    let policies = taking.filter_map(|(index, entry)| {
        let (sources, destinations) = (address(entry, "src-address")?, address(entry, "dst-address")?);
        Some((index, Flow { sources, destinations, ..Flow::all() }))
    });
    policies.collect()
}

/// The most destinations and ports that are followed one by one.
const MOST: usize = 64;

/// Flows that a dst-nat takes, in pieces that have one target and whose ports are moved alike; what
/// cannot be followed is left out.
pub(super) fn pieces(flows: &Flows, translation: &Translation) -> Vec<(Flow, u128, i64)> {
    let mut pieces = Vec::new();
    for flow in flows.iter() {
        let single = translation.to.filter(|(first, last)| first == last && translation.mapped.is_none());
        let targets: Vec<(Ranges, u128)> = match single {
            Some((to, _)) => vec![(flow.destinations.clone(), to)],
            None => {
                let each = flow.destinations.numbers().take(MOST);
                each.filter_map(|one| Some((Ranges::one(one), translation.target(one)?))).collect()
            }
        };
        for (ports, moved) in ports(flow, translation) {
            pieces.extend(targets.iter().map(|(destinations, to)| {
                let flow = Flow { destinations: destinations.clone(), ports: ports.clone(), ..flow.clone() };
                (flow, *to, moved)
            }));
        }
    }
    pieces
}

/// Ports of a flow by how far they are moved.
fn ports(flow: &Flow, translation: &Translation) -> Vec<(Ranges, i64)> {
    let distance = |from: u128, to: u128| Some(i64::try_from(to).ok()? - i64::try_from(from).ok()?);
    let Some(to) = translation.ports else { return vec![(flow.ports.clone(), 0)] };
    let (first, last) = (u128::from(to.first()), u128::from(to.last()));
    if let Some((begin, end)) = translation.from_ports
        && end - begin == last - first
    {
        return distance(begin, first).map(|moved| (flow.ports.clone(), moved)).into_iter().collect();
    }
    let is_single = first == last;
    let each = flow.ports.numbers().take(if is_single { MOST + 1 } else { 0 });
    let each: Vec<(Ranges, i64)> =
        each.filter_map(|port| Some((Ranges::one(port), distance(port, first)?))).collect();
    if each.len() > MOST { Vec::new() } else { each }
}
