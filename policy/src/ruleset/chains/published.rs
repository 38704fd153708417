//! Published ports: which service a new connection asks for, whether its source may, and where it goes.

use serde_json::{Value, json};

use super::{
    Chain, Chains, Family, by_mark, dport, equal, has_ports, is_family, mapped, meta, named, regular, rule,
    saddr, set_ct_mark,
};
use crate::AllowList;
use crate::gateway::Publish;
use crate::ruleset::json::{concat, ct_mark, daddr, goto, leave, seen_before};
use crate::ruleset::sets::{has_checks, set_name};

impl Chains<'_> {
    /// One lookup per family names the service; an entry bound to the packet's address goes before one that is not.
    pub(super) fn published(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let digit = family.digit();
            let port = concat([meta("l4proto"), dport()]);
            let bound = concat([daddr(family), meta("l4proto"), dport()]);
            rules.push(rule([is_family(family), set_ct_mark(mapped(&port, &format!("publish{digit}")))]));
            rules.push(rule([set_ct_mark(mapped(&bound, &format!("bound{digit}")))]));
        }
        rules.push(rule([self.is_publish(), by_mark("checks")]));
        rules
    }

    /// The target of a service: its one port, a port moved by an offset, or the port that the packet has.
    pub(super) fn dstnat(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let map = |key: &Value, name: &str| mapped(key, &format!("{name}{}", family.digit()));
            let by_mark_and_port = concat([ct_mark(), dport()]);
            for port in [Some(map(&ct_mark(), "port")), Some(map(&by_mark_and_port, "shifted")), None] {
                let mut to = json!({"family": family.header(), "addr": map(&ct_mark(), "target")});
                if let (Some(port), Some(to)) = (port, to.as_object_mut()) {
                    to.insert("port".to_owned(), port);
                }
                rules.push(rule([is_family(family), self.is_publish(), has_ports(), json!({"dnat": to})]));
            }
        }
        rules
    }

    /// The chains of services that have an allow-list, limits per source, or a bandwidth.
    pub(super) fn service_chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        for publish in &self.policy.publish {
            let name = &publish.name;
            if has_checks(publish) {
                let limits = self.limits(publish);
                if publish.allow == AllowList::Any {
                    chains.push(regular(format!("check_{name}"), limits));
                } else {
                    chains.push(regular(format!("limit_{name}"), limits));
                    chains.push(regular(format!("check_{name}"), self.sources(publish)));
                }
            }
            if let Some(bandwidth) = publish.limits.bandwidth {
                let burst = (bandwidth.bytes_per_second / 10).max(LEAST_BURST);
                let limit = json!({"limit": {
                    "rate": bandwidth.bytes_per_second, "rate_unit": "bytes", "per": "second",
                    "burst": burst, "burst_unit": "bytes", "inv": true,
                }});
                let [count, drop] = self.dropped("forward", "over_bandwidth");
                chains.push(regular(format!("shape_{name}"), vec![rule([limit, count, drop])]));
            }
        }
        chains
    }

    /// Sources that may go on to the limits; all others are dropped.
    fn sources(&self, publish: &Publish) -> Vec<Value> {
        let AllowList::Only { prefixes, lists } = &publish.allow else { return Vec::new() };
        let limits = goto(&format!("limit_{}", publish.name));
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let own = (!prefixes.is_empty()).then(|| set_name("sources", family, &publish.name));
            let sets = own.into_iter().chain(lists.iter().map(|list| set_name("list", family, list)));
            rules.extend(sets.map(|set| rule([equal(&saddr(family), named(&set)), limits.clone()])));
        }
        let [count, drop] = self.dropped("prerouting", "source_not_allowed");
        rules.push(rule([count, drop]));
        rules
    }

    /// Limits per source, asked once per flow; of IPv6 sources the /64 counts, since one machine has all of it.
    fn limits(&self, publish: &Publish) -> Vec<Value> {
        let mut rules = vec![rule([seen_before(), leave()])];
        for family in Family::BOTH {
            let source = match family {
                Family::V4 => saddr(family),
                Family::V6 => json!({"&": [saddr(family), "ffff:ffff:ffff:ffff::"]}),
            };
            let meter = |set: &str, op: &str, limit: Value| {
                let set = named(&set_name(set, family, &publish.name));
                json!({"set": {"op": op, "elem": source, "set": set, "stmt": [limit]}})
            };
            if let Some(rate) = publish.limits.new_per_source {
                let limit = json!({"limit": {
                    "rate": rate.count, "burst": rate.count, "per": rate.per.as_str(), "inv": true,
                }});
                let [count, drop] = self.dropped("prerouting", "too_many_new");
                rules.push(rule([is_family(family), meter("new", "update", limit), count, drop]));
            }
            if let Some(most) = publish.limits.flows_per_source {
                let [count, drop] = self.dropped("prerouting", "too_many_flows");
                let limit = json!({"ct count": {"val": most, "inv": true}});
                rules.push(rule([is_family(family), meter("flows", "add", limit), count, drop]));
            }
        }
        rules.push(rule([leave()]));
        rules
    }
}

/// A bandwidth limit lets at least this many bytes pass at once: four of the largest super-packets.
const LEAST_BURST: u64 = 4 * 65_536;
