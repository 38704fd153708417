//! Private flows: one rule per `[[allow]]` entry, source kind and family, seen by new flows only.

use serde_json::{Value, json};

use super::{
    Chain, Chains, Family, ServiceMark, daddr, dnatted, echo_request, ended, equal, goto, in_links,
    is_family, meta, named, regular, rule, saddr, set_ct_mark, set_of, state,
};
use crate::Name;
use crate::gateway::{Allow, Party, Service};
use crate::ruleset::json::{
    by_address, ct_mark, dport, is_one_of, is_stray, leave, not_to_local, ports, seen_before, to_local,
    unequal,
};
use crate::ruleset::owned::{elements, owned, range};
use crate::ruleset::services::ServiceKind;
use crate::ruleset::sets::{SPECIAL, TO_WAN, peer_chain, peer_flows, peers_map, peers_that_open};

/// Most flows that one peer may have open out of the tunnel: a quarter of what conntrack holds on a
/// machine with 1 GB.
const FLOWS_OF_PEER: u32 = 2_048;
/// Most that it may open in a second, twice as many at once. Conntrack's count forgets flows that
/// ended at a rate of at least 800 a second; what is opened faster would stay in it for long.
const NEW_FLOWS_OF_PEER: u32 = 500;
/// Most flows to the internet that all peers together may open in a second, twice as many at once:
/// enough for mail and updates, and little for scans from a compromised peer.
const NEW_FLOWS_TO_WAN: u32 = 50;

impl Chains<'_> {
    /// New flows out of the tunnel, seen before any DNAT: the edge's own ports are those that
    /// its containers publish as well.
    pub(super) fn private_in(&self) -> Vec<Value> {
        let then = |allow: &Allow| match leads_to_wan(allow) {
            true => goto("opened_to_wan"),
            false => goto("opened_by_peer"),
        };
        self.rules(then, |allow, family| {
            let sources = self.addresses(&allow.from, family, |party| matches!(party, Party::Peer(_)));
            let from = (!sources.is_empty()).then(|| vec![equal(&saddr(family), any_of(sources))]);
            let edge = allow.to.contains(&Party::Edge).then(|| vec![to_local()]);
            let targets = self.addresses(&allow.to, family, |party| *party != Party::Edge);
            let named = (!targets.is_empty()).then(|| vec![equal(&daddr(family), any_of(targets))]);
            let wan = allow.to.contains(&Party::Wan).then(|| to_wan(family));
            (from.into_iter().collect(), edge.into_iter().chain(named).chain(wan).collect())
        })
    }

    /// New flows of the LAN into the tunnel.
    pub(super) fn private_lan(&self) -> Vec<Value> {
        self.rules(
            |_| goto("opened"),
            |allow, family| {
                let lan = self.addresses(&allow.from, family, |party| matches!(party, Party::Lan(_)));
                let from = (!lan.is_empty()).then(|| vec![equal(&saddr(family), any_of(lan))]);
                (from.into_iter().collect(), self.beyond(allow, family))
            },
        )
    }

    /// New flows of containers into the tunnel, which count as the edge's own.
    pub(super) fn private_containers(&self) -> Vec<Value> {
        self.rules(
            |_| goto("opened"),
            |allow, family| {
                let not_lan = unequal(&saddr(family), format!("@lan{}", family.digit()));
                let from = allow.from.contains(&Party::Edge);
                let from = from.then(|| vec![in_links("iif", "own_containers"), not_lan]);
                (from.into_iter().collect(), self.beyond(allow, family))
            },
        )
    }

    /// New flows of the edge itself into the tunnel.
    pub(super) fn private_self(&self) -> Vec<Value> {
        self.rules(
            |_| leave(),
            |allow, family| {
                let from = allow.from.contains(&Party::Edge).then(Vec::new);
                (from.into_iter().collect(), self.beyond(allow, family))
            },
        )
    }

    /// Targets that are peers or behind them.
    fn beyond(&self, allow: &Allow, family: Family) -> Vec<Vec<Value>> {
        let targets =
            self.addresses(&allow.to, family, |party| matches!(party, Party::Peer(_) | Party::Behind { .. }));
        (!targets.is_empty()).then(|| vec![equal(&daddr(family), any_of(targets))]).into_iter().collect()
    }

    /// For each entry and family a rule for every source with every target; the first that matches
    /// decides, and goes on with `then`.
    fn rules(
        &self,
        then: impl Fn(&Allow) -> Value,
        ends: impl Fn(&Allow, Family) -> (Vec<Vec<Value>>, Vec<Vec<Value>>),
    ) -> Vec<Value> {
        let marks = self.marks.iter().filter(|mark| mark.kind == ServiceKind::Allow);
        let mut rules = Vec::new();
        for (allow, mark) in self.policy.allow.iter().zip(marks) {
            for family in Family::BOTH {
                let (from, to) = ends(allow, family);
                for source in &from {
                    for target in &to {
                        let mut rule = Self::rule(source, target, &allow.service, family, mark);
                        rule.push(then(allow));
                        rules.push(Value::Array(rule));
                    }
                }
            }
        }
        rules
    }

    fn rule(
        source: &[Value],
        target: &[Value],
        service: &Service,
        family: Family,
        mark: &ServiceMark,
    ) -> Vec<Value> {
        let mut statements = vec![is_family(family)];
        statements.extend_from_slice(source);
        statements.extend_from_slice(target);
        match service {
            Service::Echo => statements.push(echo_request(family)),
            Service::Ports { protocols, ports: open } => {
                statements.push(is_one_of(*protocols));
                statements.push(equal(&dport(), set_of(open.iter().copied().map(ports))));
            }
        }
        statements.push(set_ct_mark(mark.mark));
        statements
    }

    /// Accepts a new listed flow. TCP must begin with a SYN: a segment from the middle of a
    /// connection belongs to no known flow.
    pub(super) fn opened(&self) -> Vec<Value> {
        vec![ended([is_stray()], self.dropped("prerouting", "not_syn"))]
    }

    /// The same for flows out of the tunnel, where each peer has limits.
    pub(super) fn opened_by_peer(&self) -> Vec<Value> {
        let mut rules = self.opened();
        rules.extend(Family::BOTH.map(|family| rule([by_address(&saddr(family), &peers_map(family))])));
        rules
    }

    /// The chain with the limit of all peers together, which comes before the limits of each peer;
    /// `None` where no flow to the internet is listed.
    pub(super) fn wan_chain(&self) -> Option<Chain> {
        if !self.policy.allow.iter().any(leads_to_wan) {
            return None;
        }
        let rate = json!({"limit": {
            "rate": NEW_FLOWS_TO_WAN, "burst": 2 * NEW_FLOWS_TO_WAN, "per": "second", "inv": true,
        }});
        let rules =
            vec![ended([rate], self.dropped("prerouting", "too_many_new")), rule([goto("opened_by_peer")])];
        Some(regular("opened_to_wan", rules))
    }

    /// Drops flows to the internet that would end elsewhere: at an address of the edge, where
    /// another program's DNAT sends them, or in a container.
    pub(super) fn diverted_from_wan(&self, stage: &'static str) -> Vec<Value> {
        if !self.policy.allow.iter().any(leads_to_wan) {
            return Vec::new();
        }
        let is_of_wan = || equal(&ct_mark(), named(TO_WAN));
        let diverted = |statements: Vec<Value>| {
            let statements = [state(&["new"]), is_of_wan()].into_iter().chain(statements);
            ended(statements, self.dropped(stage, "not_listed"))
        };
        match stage {
            "input" => vec![diverted(Vec::new())],
            _ => vec![diverted(vec![dnatted()]), diverted(vec![in_links("oif", "containers")])],
        }
    }

    /// A chain with the limits of each peer that may open flows; a flow is counted once.
    ///
    /// The count is in a set with one element, the tunnel's device: a count in the rule alone would
    /// start again with every change of the rules.
    pub(super) fn peer_chains(&self) -> Vec<Chain> {
        let chain = |name: &Name| {
            let rate = json!({"limit": {
                "rate": NEW_FLOWS_OF_PEER, "burst": 2 * NEW_FLOWS_OF_PEER, "per": "second", "inv": true,
            }});
            let flows = json!({"set": {
                "op": "add", "elem": meta("iif"), "set": named(&peer_flows(name)),
                "stmt": [{"ct count": {"val": FLOWS_OF_PEER, "inv": true}}],
            }});
            let rules = vec![
                rule([seen_before(), leave()]),
                ended([rate], self.dropped("prerouting", "too_many_new")),
                ended([flows], self.dropped("prerouting", "too_many_flows")),
            ];
            regular(peer_chain(name), rules)
        };
        peers_that_open(self.policy).map(chain).collect()
    }

    /// The addresses of those parties that `wanted` picks, without doubles.
    fn addresses(&self, parties: &[Party], family: Family, wanted: impl Fn(&Party) -> bool) -> Vec<Value> {
        let mut ranges = Vec::new();
        for party in parties.iter().filter(|party| wanted(party)) {
            match party {
                Party::Edge | Party::Wan => {}
                Party::Lan(prefix) | Party::Behind { prefix, .. } if family.holds(*prefix) => {
                    ranges.push(range(*prefix));
                }
                Party::Lan(_) | Party::Behind { .. } => {}
                Party::Peer(name) => ranges.extend(owned(self.policy, name, family)),
            }
        }
        elements(ranges, family)
    }
}

/// Whether the entry lets peers open flows to the internet.
pub(in crate::ruleset) fn leads_to_wan(allow: &Allow) -> bool {
    allow.to.contains(&Party::Wan)
}

/// Every address of the internet.
fn to_wan(family: Family) -> Vec<Value> {
    let digit = family.digit();
    let outside = [format!("@{SPECIAL}{digit}"), format!("@lan{digit}"), format!("@tunnel{digit}")];
    outside.into_iter().map(|set| unequal(&daddr(family), set)).chain([not_to_local()]).collect()
}

/// One value, or a set of several.
fn any_of(mut values: Vec<Value>) -> Value {
    match (values.pop(), values.is_empty()) {
        (Some(only), true) => only,
        (Some(last), false) => {
            values.push(last);
            set_of(values)
        }
        (None, _) => json!(null),
    }
}
