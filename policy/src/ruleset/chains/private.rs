//! Private flows: one rule per `[[allow]]` entry, source kind and family, seen by new flows only.

use serde_json::{Value, json};

use super::{
    Chains, Family, ServiceMark, daddr, echo_request, equal, in_links, is_family, saddr, set_ct_mark, set_of,
};
use crate::gateway::{Allow, Party, Service};
use crate::ruleset::json::{dport, is_one_of, leave, ports, to_local, unequal};
use crate::ruleset::owned::{elements, owned, range};
use crate::ruleset::services::ServiceKind;

impl Chains<'_> {
    /// New flows out of the tunnel, seen before anyone's DNAT: the edge's own ports are those that its containers
    /// publish as well.
    pub(super) fn private_in(&self) -> Vec<Value> {
        self.rules(|allow, family| {
            let sources = self.addresses(&allow.from, family, |party| matches!(party, Party::Peer(_)));
            let from = (!sources.is_empty()).then(|| vec![equal(&saddr(family), any_of(sources))]);
            let edge = allow.to.contains(&Party::Edge).then(to_local);
            let targets = self.addresses(&allow.to, family, |party| *party != Party::Edge);
            let named = (!targets.is_empty()).then(|| equal(&daddr(family), any_of(targets)));
            (from.into_iter().collect(), edge.into_iter().chain(named).collect())
        })
    }

    /// New flows of the LAN into the tunnel.
    pub(super) fn private_lan(&self) -> Vec<Value> {
        self.rules(|allow, family| {
            let lan = self.addresses(&allow.from, family, |party| matches!(party, Party::Lan(_)));
            let from = (!lan.is_empty()).then(|| vec![equal(&saddr(family), any_of(lan))]);
            (from.into_iter().collect(), self.beyond(allow, family))
        })
    }

    /// New flows of containers into the tunnel, which count as the edge's own.
    pub(super) fn private_containers(&self) -> Vec<Value> {
        self.rules(|allow, family| {
            let not_lan = unequal(&saddr(family), format!("@lan{}", family.digit()));
            let from = allow.from.contains(&Party::Edge);
            let from = from.then(|| vec![in_links("iif", "own_containers"), not_lan]);
            (from.into_iter().collect(), self.beyond(allow, family))
        })
    }

    /// New flows of the edge itself into the tunnel.
    pub(super) fn private_self(&self) -> Vec<Value> {
        self.rules(|allow, family| {
            let from = allow.from.contains(&Party::Edge).then(Vec::new);
            (from.into_iter().collect(), self.beyond(allow, family))
        })
    }

    /// Targets that are peers or behind them.
    fn beyond(&self, allow: &Allow, family: Family) -> Vec<Value> {
        let targets =
            self.addresses(&allow.to, family, |party| matches!(party, Party::Peer(_) | Party::Behind { .. }));
        (!targets.is_empty()).then(|| equal(&daddr(family), any_of(targets))).into_iter().collect()
    }

    /// For each entry and family a rule for every source with every target; the first that matches decides.
    fn rules(&self, ends: impl Fn(&Allow, Family) -> (Vec<Vec<Value>>, Vec<Value>)) -> Vec<Value> {
        let marks = self.marks.iter().filter(|mark| mark.kind == ServiceKind::Allow);
        let mut rules = Vec::new();
        for (allow, mark) in self.policy.allow.iter().zip(marks) {
            for family in Family::BOTH {
                let (from, to) = ends(allow, family);
                for source in &from {
                    for target in &to {
                        rules.push(Self::rule(source, target, &allow.service, family, mark));
                    }
                }
            }
        }
        rules
    }

    fn rule(
        source: &[Value],
        target: &Value,
        service: &Service,
        family: Family,
        mark: &ServiceMark,
    ) -> Value {
        let mut statements = vec![is_family(family)];
        statements.extend_from_slice(source);
        statements.push(target.clone());
        match service {
            Service::Echo => statements.push(echo_request(family)),
            Service::Ports { protocols, ports: open } => {
                statements.push(is_one_of(*protocols));
                statements.push(equal(&dport(), set_of(open.iter().copied().map(ports))));
            }
        }
        statements.push(set_ct_mark(mark.mark));
        statements.push(leave());
        Value::Array(statements)
    }

    /// The addresses of those parties that `wanted` picks, without doubles.
    fn addresses(&self, parties: &[Party], family: Family, wanted: impl Fn(&Party) -> bool) -> Vec<Value> {
        let mut ranges = Vec::new();
        for party in parties.iter().filter(|party| wanted(party)) {
            match party {
                Party::Edge => {}
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
