//! Private flows: what forward filters of both routers let through between their networks.

use std::collections::{BTreeMap, BTreeSet};

use super::flows::{ECHO, Flow, Flows, TCP, UDP};
use super::ranges::Ranges;
use super::routes::Goal;
use super::site::{Delivered, Found, Site};

/// Flows that one accept of the edge lets through, before they have a name.
pub(super) struct Private {
    /// The command of the edge.
    pub(super) index: usize,
    /// Whether they come out of the tunnel.
    pub(super) is_inward: bool,
    /// The position of the peer.
    pub(super) peer: usize,
    /// Protocols, sources, destinations and ports.
    pub(super) flow: Flow,
    pub(super) is_hidden: bool,
    /// What gets them at the origin, and how far ports are moved, where a dst-nat there says so.
    pub(super) upstream: Option<(u128, i64)>,
    /// The only host that the edge's rule lets in; `None` for everything behind the peer.
    pub(super) only: Option<u128>,
    pub(super) refused_by: [BTreeSet<usize>; 2],
    pub(super) passed_by: BTreeSet<usize>,
}

/// The two ends of private flows.
pub(super) struct Ends<'e, 'r> {
    pub(super) edge: &'e Site<'r>,
    pub(super) origin: &'e Site<'r>,
    pub(super) lan: Ranges,
    /// What is behind each peer, and whether its export was read.
    pub(super) peers: Vec<(Ranges, bool)>,
    pub(super) edge_own: Ranges,
    pub(super) origin_own: Ranges,
    /// The machine that the forwarder runs on.
    pub(super) machine: Option<u128>,
}

fn every_protocol() -> Ranges {
    [TCP, UDP, ECHO].into_iter().fold(Ranges::empty(), |all, one| all.or(&Ranges::one(one)))
}

fn anywhere(flow: &Flow) -> Flow {
    Flow { arrives: Ranges::all(), leaves: Ranges::all(), ..flow.clone() }
}

impl Ends<'_, '_> {
    /// The flows of every accept of the edge, and the positions of its accepts that let none pass
    /// though they are about the tunnel.
    pub(super) fn flows(&self) -> Vec<Private> {
        let mut all = Vec::new();
        for (peer, (behind, is_ours)) in self.peers.iter().enumerate() {
            self.outward(peer, behind, *is_ours, &mut all);
            self.inward(peer, behind, *is_ours, &mut all);
        }
        all
    }

    /// From the LAN into the tunnel.
    fn outward(&self, peer: usize, behind: &Ranges, is_ours: bool, all: &mut Vec<Private>) {
        let edge = self.edge;
        let mut start = Flows::empty();
        for id in edge.router.inside(edge.family) {
            start.add(Flows::of(Flow {
                arrives: Ranges::one(id),
                leaves: Ranges::one(edge.link.id),
                protocols: every_protocol(),
                sources: edge.router.networks(id, edge.family).and(&self.lan),
                destinations: behind.minus(&self.edge_own),
                ports: Ranges::of(0, 65_535),
            }));
        }
        let tracked = edge.tracked(&start, false);
        let (_, untouched) = edge.translated(&tracked.flows, false);
        let routed = edge.routed(&untouched, None, Goal::Into(edge.link.id));
        let (by_rule, refused) = edge.forwarded_by_rule(&routed.flows);
        let refused = refused.into_iter().chain(tracked.refused_by).chain(routed.refused_by).collect();
        let denied = denied(&start, &by_rule);
        for (rule, flows) in edge.accepted(&by_rule) {
            let (kept, hidden) = edge.sources_after(&flows, &self.edge_own, false);
            let hidden = edge.hidden(&hidden, &self.edge_own).flows;
            for (flows, is_hidden) in [(kept, false), (hidden, true)] {
                for (upstream, found) in self.at_the_origin(&flows, is_hidden, is_ours) {
                    let through = found.flows.map(anywhere).without(&denied).merged();
                    all.extend(through.iter().map(|flow| Private {
                        index: rule.index,
                        is_inward: false,
                        peer,
                        flow: flow.clone(),
                        is_hidden,
                        upstream,
                        only: None,
                        refused_by: [BTreeSet::clone(&refused), found.refused_by.clone()],
                        passed_by: found.passed_by.clone(),
                    }));
                }
            }
        }
    }

    /// What of flows into the tunnel reaches a host, with their sources as they were, by what gets
    /// them.
    fn at_the_origin(
        &self,
        flows: &Flows,
        is_hidden: bool,
        is_ours: bool,
    ) -> BTreeMap<Option<(u128, i64)>, Found> {
        let mut all: BTreeMap<Option<(u128, i64)>, Found> = BTreeMap::new();
        if !is_ours {
            all.insert(None, Found { flows: flows.clone(), ..Found::default() });
            return all;
        }
        for flow in flows.map(anywhere).merged().iter() {
            let sources = if is_hidden { self.edge_own.clone() } else { flow.sources.clone() };
            let (delivered, refused_by) = self.origin.deliver(&Flows::of(Flow { sources, ..flow.clone() }));
            for Delivered { flows, to, moved, passed_by } in delivered {
                let kept = |there: &Flow| match (is_hidden, there.sources.covers(&self.edge_own)) {
                    (false, _) => there.clone(),
                    (true, true) => Flow { sources: flow.sources.clone(), ..there.clone() },
                    (true, false) => Flow { sources: Ranges::empty(), ..there.clone() },
                };
                let found = Found { flows: flows.map(kept), refused_by: refused_by.clone(), passed_by };
                all.entry(to.map(|to| (to, moved))).or_default().join(found);
            }
        }
        all
    }

    /// From the tunnel into the LAN.
    fn inward(&self, peer: usize, behind: &Ranges, is_ours: bool, all: &mut Vec<Private>) {
        let edge = self.edge;
        let mut start = Flows::empty();
        for id in edge.router.inside(edge.family) {
            start.add(Flows::of(Flow {
                arrives: Ranges::one(edge.link.id),
                leaves: Ranges::one(id),
                protocols: every_protocol(),
                sources: behind.clone(),
                destinations: edge.router.direct_networks(id, edge.family).and(&self.lan),
                ports: Ranges::of(0, 65_535),
            }));
        }
        let own = start.and(&Flow { destinations: edge.router.own(edge.family), ..Flow::all() });
        let own_refused = own.refused(&edge.through("input", &own, false).flows).map(anywhere);
        let tracked = edge.tracked(&start, false);
        let (_, untouched) = edge.translated(&tracked.flows, false);
        let routed = edge.routed(&untouched, None, Goal::AwayFrom(edge.link.id));
        let (by_rule, refused) = edge.forwarded_by_rule(&routed.flows);
        let refused: BTreeSet<usize> =
            refused.into_iter().chain(tracked.refused_by).chain(routed.refused_by).collect();
        let denied = denied(&start, &by_rule);
        for (rule, flows) in edge.accepted(&by_rule) {
            let flows = flows.map(anywhere).without(&denied).without(&own_refused).merged();
            for flow in flows.iter() {
                for (flow, only, found) in self.opened(flow, behind, is_ours) {
                    all.push(Private {
                        index: rule.index,
                        is_inward: true,
                        peer,
                        flow,
                        is_hidden: false,
                        upstream: None,
                        only,
                        refused_by: [refused.clone(), found.refused_by],
                        passed_by: found.passed_by,
                    });
                }
            }
        }
    }

    /// What of a flow out of the tunnel the forwarder's machine could open before, and the only
    /// host that could, where it was not everything behind the peer.
    fn opened(&self, flow: &Flow, behind: &Ranges, is_ours: bool) -> Vec<(Flow, Option<u128>, Found)> {
        let is_whole = flow.sources.covers(behind);
        if !is_ours {
            return is_whole.then(|| (flow.clone(), None, Found::default())).into_iter().collect();
        }
        let single = flow.sources.iter().next().filter(|(first, last)| first == last).map(|(first, _)| first);
        let single = single.filter(|_| flow.sources.numbers().take(2).count() == 1);
        let own = self.origin_own.iter().next().map(|(first, _)| first);
        let by_tunnel = own.is_some_and(|own| flow.sources.contains(own));
        let machine = self.machine.or(single).or(own);
        if machine.is_some() && machine == own {
            return if by_tunnel { vec![(flow.clone(), None, Found::default())] } else { Vec::new() };
        }
        // Without a sign of the machine it may be any host.
        let machines = machine.map_or_else(|| behind.clone(), Ranges::one);
        let (kept, hidden, found) = self.out_of_the_origin(&machines, flow);
        let mut open = Flows::empty();
        if flow.sources.covers(&machines) {
            open.add(kept);
        }
        if by_tunnel {
            open.add(hidden);
        }
        let open = open.map(|open| Flow { sources: flow.sources.clone(), ..anywhere(open) }).merged();
        let only = machine.filter(|_| !is_whole);
        open.iter().map(|flow| (flow.clone(), only, found.clone())).collect()
    }

    /// What the origin's router lets one of its hosts open, by whether its source is kept.
    fn out_of_the_origin(&self, machines: &Ranges, flow: &Flow) -> (Flows, Flows, Found) {
        let origin = self.origin;
        let mut ids = origin.router.inside(origin.family).into_iter();
        let id = ids.find(|id| origin.router.networks(*id, origin.family).covers(machines));
        let arrives = id.map_or_else(|| Ranges::one(origin.link.id).complement(), Ranges::one);
        let start = Flows::of(Flow {
            arrives,
            leaves: Ranges::one(origin.link.id),
            sources: machines.clone(),
            ..flow.clone()
        });
        let tracked = origin.tracked(&start, false);
        let (_, untouched) = origin.translated(&tracked.flows, false);
        let routed = origin.routed(&untouched, None, Goal::Into(origin.link.id));
        let mut found = origin.through("forward", &routed.flows, false);
        found.refused_by.extend(tracked.refused_by.into_iter().chain(routed.refused_by));
        // Where the machine is behind is unknown: what any interface refuses is refused.
        let refused = start.refused(&found.flows).map(anywhere);
        let through = found.flows.without(&refused);
        let (kept, hidden) = origin.sources_after(&through, &self.origin_own, false);
        let hidden = origin.hidden(&hidden, &self.origin_own);
        found.refused_by.extend(hidden.refused_by);
        (kept, hidden.flows, found)
    }
}

/// What some interface refuses: the other end does not separate interfaces that have one network.
fn denied(start: &Flows, by_rule: &[(Option<usize>, Flows)]) -> Flows {
    let mut passed = Flows::empty();
    by_rule.iter().for_each(|(_, flows)| passed.add(flows.clone()));
    start.refused(&passed).map(anywhere)
}
