//! Published ports: which service a new connection asks for, whether its source may, and where it
//! goes.

use serde_json::{Value, json};

use super::{
    Chain, Chains, Family, by_mark, dport, ended, equal, goto, has_ports, in_set, is_family, is_protocol,
    jump, mapped, named, regular, rule, saddr, sent_by_lan, sent_by_next_hop, set_ct_mark,
};
use crate::Protocol;
use crate::gateway::Publish;
use crate::ruleset::json::{concat, ct_mark, daddr, is_stray, leave, seen_before, to_own_address};
use crate::ruleset::sets::{by_protocol, has_limits, lists_in_use, set_name, users};

impl Chains<'_> {
    /// One lookup finds the service; an entry bound to the packet's address takes precedence over
    /// one that is not.
    pub(super) fn published(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let by =
                    |key: &Value, what| set_ct_mark(mapped(key, &by_protocol(what, protocol, Some(family))));
                let bound = concat([daddr(family), dport()]);
                rules.push(rule([is_family(family), is_protocol(protocol), by(&dport(), "publish")]));
                rules.push(rule([is_family(family), is_protocol(protocol), by(&bound, "bound")]));
            }
        }
        rules.push(rule([goto("admitted")]));
        rules
    }

    /// The same for unauthenticated sources, to whom services of the WAN side are published as
    /// well.
    pub(super) fn published_to_wan(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let service = mapped(&dport(), &by_protocol("wan", protocol, Some(family)));
                rules.push(rule([is_family(family), is_protocol(protocol), set_ct_mark(service)]));
            }
        }
        rules.push(rule([goto("published")]));
        rules
    }

    /// Whether this begins a flow, and the source may use the service that it asked for.
    pub(super) fn admitted(&self) -> Vec<Value> {
        vec![
            ended([self.is_publish(), is_stray()], self.dropped("prerouting", "not_syn")),
            rule([equal(&ct_mark(), "@restricted"), jump("sources")]),
            rule([by_mark("limits")]),
        ]
    }

    /// The target of a service: its one port, a port moved by an offset, or the port that the
    /// packet has.
    pub(super) fn dstnat(&self) -> Vec<Value> {
        Family::BOTH.into_iter().flat_map(|family| self.dstnat_for(family)).collect()
    }

    /// The same for what the edge itself sends, and only for what goes to an address of its own
    /// besides loopback's: the helper takes no other NAT of the edge's own packets.
    pub(super) fn dstnat_own(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let begin = to_own_address(family);
            rules.extend(self.dstnat_for(family).into_iter().map(|rule| {
                let statements = rule.as_array().into_iter().flatten();
                Value::Array(begin.iter().chain(statements).cloned().collect())
            }));
        }
        rules
    }

    fn dstnat_for(&self, family: Family) -> Vec<Value> {
        let mut rules = Vec::new();
        let map = |key: &Value, name: &str| mapped(key, &format!("{name}{}", family.digit()));
        let by_mark_and_port = concat([ct_mark(), dport()]);
        for port in [Some(map(&ct_mark(), "port")), Some(map(&by_mark_and_port, "shifted")), None] {
            let mut to = json!({"family": family.header(), "addr": map(&ct_mark(), "target")});
            if let (Some(port), Some(to)) = (port, to.as_object_mut()) {
                to.insert("port".to_owned(), port);
            }
            rules.push(rule([is_family(family), self.is_publish(), has_ports(), json!({"dnat": to})]));
        }
        rules
    }

    /// The chains of services that have limits per source, or a bandwidth.
    pub(super) fn service_chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        for publish in &self.policy.publish {
            let name = &publish.name;
            if has_limits(publish) {
                chains.push(regular(format!("limit_{name}"), self.limits(publish)));
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

    /// Allowed sources of all services with an allow-list; other sources are dropped.
    ///
    /// One set holds the prefixes that services name themselves, each with the service's mark, so
    /// that a thousand services cost no more rules and sets than one; a named list is looked up for
    /// the marks of the services that name it.
    pub(super) fn sources(&self, next_hops: bool) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            // An address of the LAN counts as a LAN source only where it is trusted.
            let forged = [in_set(saddr(family), "lan", family), sent_by_lan(family, false)];
            rules.push(ended(forged, self.dropped("prerouting", "source_not_allowed")));
            if next_hops {
                let relayed = [in_set(saddr(family), "lan", family), sent_by_next_hop()];
                rules.push(ended(relayed, self.dropped("prerouting", "source_not_allowed")));
            }
        }
        for family in Family::BOTH {
            let own = concat([ct_mark(), saddr(family)]);
            rules.push(rule([equal(&own, format!("@sources{}", family.digit())), leave()]));
        }
        for list in lists_in_use(self.policy) {
            let asked = equal(&ct_mark(), named(&users(&list.name)));
            for family in Family::BOTH {
                let listed = equal(&saddr(family), named(&set_name("list", family, &list.name)));
                rules.push(rule([asked.clone(), listed, leave()]));
            }
        }
        rules.push(ended([], self.dropped("prerouting", "source_not_allowed")));
        rules
    }

    /// Limits per source, checked once per flow. An IPv6 source is counted by its /64, since one
    /// machine has all of it.
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
