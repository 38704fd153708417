//! The chains: who a packet belongs to, and whether it may go where it is going.

mod link;
mod minimal;
mod private;
mod published;
mod standby;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::json::{
    Family, accept, by_mark, counter, counter_by_mark, daddr, direction, dnatted, dport, drop, equal, goto,
    has_ports, iif, is_family, is_protocol, jump, mapped, marked, meta, named, no_route_back, not_oif, oif,
    payload, route_back, rule, saddr, set_ct_mark, set_of, state, to_all, to_local, to_local_or_all, unequal,
};
use super::services::{ACCEPTED, ALLOW_BIT, OURS, OURS_AND_KIND};
use super::sets::by_protocol;
use super::{Chain, DropCounter, Hook, OWN_DSTNAT, ServiceMark, reply_path};
use crate::Protocol;
use crate::conditions::Conditions;
use crate::gateway::Policy;

pub(super) use minimal::{minimal, no_forwarding};
pub(super) use private::leads_to_wan;

/// Priorities of base chains (nft(8)): `classify` sees packets after conntrack (-200) and before
/// any DNAT (-100).
const CLASSIFY: i32 = -150;
/// Just before the DNAT of other programs, so that a published port is ours even where Docker
/// publishes it too.
const DSTNAT: i32 = -101;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
/// After every NAT, so that the addresses seen are those that leave.
const LAST: i32 = 300;

/// Builds the chains of one policy.
///
/// It has more than 25 methods because each chain of the table is one, and shares the policy and
/// the set of drop reasons with the others.
pub(super) struct Chains<'p> {
    policy: &'p Policy,
    marks: &'p [ServiceMark],
    mtu: u16,
    drops: RefCell<BTreeSet<DropCounter>>,
}

impl<'p> Chains<'p> {
    pub(super) fn new(policy: &'p Policy, marks: &'p [ServiceMark], mtu: u16) -> Self {
        Self { policy, marks, mtu, drops: RefCell::default() }
    }

    /// Every chain, and every reason to drop that one of them has.
    pub(super) fn build(self, conditions: &Conditions) -> (Vec<Chain>, Vec<DropCounter>) {
        let next_hops = !conditions.trust.next_hops.is_empty();
        // Marks change nothing then, and cost every packet of the outer socket a second route
        // lookup.
        let mark_replies =
            || if conditions.is_only_way { Vec::new() } else { reply_path::rules(self.policy) };
        let mut chains = vec![
            regular("carried", Self::carried()),
            regular("from_lan", Self::from_trusted("private_lan")),
            regular("from_containers", Self::from_trusted("private_containers")),
            regular("from_wan", self.out_of_wan()),
            regular("published", self.published()),
            regular("published_to_wan", self.published_to_wan()),
            regular("admitted", self.admitted()),
            regular("sources", self.sources(next_hops)),
            regular("opened", self.opened()),
            regular("opened_by_peer", self.opened_by_peer()),
            regular("private_in", self.private_in()),
            regular("private_lan", self.private_lan()),
            regular("private_containers", self.private_containers()),
            regular("private_self", self.private_self()),
            regular("from_tunnel", self.out_of_tunnel(conditions.pairing)),
            regular("forward_from_tunnel", self.forward_from_tunnel()),
            regular("forward_to_tunnel", self.forward_to_tunnel()),
            regular("input_from_tunnel", self.input_from_tunnel()),
            regular("input_from_wan", self.input_from_wan()),
            regular("forward_from_wan", self.forward_from_wan()),
            regular("link", self.link(&conditions.link, conditions.pairing)),
        ];
        chains.extend(self.service_chains());
        chains.extend(self.peer_chains());
        chains.extend(self.wan_chain());
        chains.extend([
            base("classify", "filter", "prerouting", CLASSIFY, self.classify(next_hops, mark_replies())),
            base("own", "route", "output", CLASSIFY, self.own(mark_replies())),
            base(OWN_DSTNAT, "nat", "output", DSTNAT, self.dstnat_own()),
            base("dstnat", "nat", "prerouting", DSTNAT, self.dstnat()),
            base("clamp", "filter", "forward", CLASSIFY, self.clamp()),
            base("input", "filter", "input", FILTER, self.input(next_hops)),
            base("forward", "filter", "forward", FILTER, self.forward(next_hops)),
            base("output", "filter", "output", FILTER, self.output()),
            base("srcnat", "nat", "postrouting", SRCNAT, Self::srcnat()),
            base("last", "filter", "postrouting", LAST, self.last()),
        ]);
        let drops = self.drops.into_inner().into_iter().collect();
        (chains, drops)
    }

    fn tun(&self) -> &str {
        self.policy.interface.name.as_str()
    }

    /// The end of a rule that counts and drops.
    fn dropped(&self, stage: &'static str, reason: &'static str) -> [Value; 2] {
        let drop_counter = DropCounter { stage, reason };
        let name = drop_counter.counter();
        self.drops.borrow_mut().insert(drop_counter);
        [counter(&name), drop()]
    }

    fn is_ours(&self) -> Value {
        marked(OURS, self.policy.kernel.ct_mark)
    }

    fn is_publish(&self) -> Value {
        marked(OURS_AND_KIND, self.policy.kernel.ct_mark)
    }

    fn is_allow(&self) -> Value {
        marked(OURS_AND_KIND, self.policy.kernel.ct_mark | ALLOW_BIT)
    }

    fn accepted_mark(&self) -> u32 {
        self.policy.kernel.ct_mark | u32::from(ACCEPTED)
    }

    /// `prerouting`: gives every new flow its mark, and drops packets with a forged source.
    fn classify(&self, next_hops: bool, mark_replies: Vec<Value>) -> Vec<Value> {
        let mut rules = vec![rule([iif("lo"), accept()])];
        rules.extend(mark_replies);
        rules.push(rule([state(&["new"]), self.is_ours(), set_ct_mark(0)]));
        rules.push(rule([iif(self.tun()), goto("from_tunnel")]));
        for family in Family::BOTH {
            let forged = [in_set(saddr(family), "tunnel", family), not_in_set(saddr(family), "lan", family)];
            rules.push(ended(forged, self.dropped("prerouting", "spoofed")));
        }
        rules.extend(by_trust(next_hops, &goto("from_lan"), &goto("from_containers"), &goto("from_wan")));
        rules
    }

    /// `output`, before any NAT: replies get the mark of their uplink, and connections of the edge
    /// itself to one of its public addresses get the mark of the service.
    fn own(&self, mark_replies: Vec<Value>) -> Vec<Value> {
        let mut rules = mark_replies;
        for family in Family::BOTH {
            let public = in_set(daddr(family), "public", family);
            rules.push(rule([oif("lo"), state(&["new"]), has_ports(), public, goto("published")]));
        }
        rules
    }

    /// New flows of the LAN or of containers: what is listed for them, then what is published.
    fn from_trusted(private: &str) -> Vec<Value> {
        vec![
            rule([state(&["new"]), jump(private)]),
            rule([state(&["new"]), has_ports(), to_local(), goto("published")]),
        ]
    }

    /// Packets of unauthenticated sources: every source that is not trusted where it arrives.
    fn out_of_wan(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            // Established flows continue, even if a change of the configuration or of a route would
            // refuse their source.
            let forged = [state(&["new"]), in_set(saddr(family), "lan", family), no_route_back()];
            rules.push(ended(forged, self.dropped("prerouting", "spoofed")));
            let banned = in_set(saddr(family), "bans", family);
            rules.push(ended([banned], self.dropped("prerouting", "banned")));
            // A reply from such an address would be a leak, so the request is dropped.
            let unknown = state(&["new", "invalid", "untracked"]);
            let inside = [in_set(daddr(family), "tunnel", family), not_in_set(daddr(family), "lan", family)];
            rules.push(ended([unknown].into_iter().chain(inside), self.dropped("prerouting", "wan_guard")));
        }
        // The kernel checks for such a destination only after DNAT, which would have redirected a
        // published port.
        let loopback = [state(&["new"]), in_prefix(daddr(Family::V4), "127.0.0.0", 8)];
        rules.push(ended(loopback, self.dropped("prerouting", "wan_guard")));
        for protocol in Protocol::BOTH {
            let open = equal(&dport(), named(&by_protocol("accept", protocol, None)));
            let mark = set_ct_mark(self.accepted_mark());
            rules.push(rule([state(&["new"]), is_protocol(protocol), open, to_local_or_all(), mark]));
        }
        rules.push(rule([state(&["new"]), has_ports(), to_local(), goto("published_to_wan")]));
        rules
    }

    /// Packets out of the tunnel.
    fn out_of_tunnel(&self, pairing: Option<IpAddr>) -> Vec<Value> {
        let mut rules = pairing.map_or_else(Vec::new, |joiner| self.of_joiner(joiner));
        for family in Family::BOTH {
            let forged = in_set(saddr(family), "lan", family);
            rules.push(ended([forged], self.dropped("prerouting", "spoofed")));
        }
        rules.push(rule([state(&["new"]), goto("private_in")]));
        rules
    }

    /// What may pass: shaped, counted, accepted.
    fn carried() -> Vec<Value> {
        vec![
            rule([by_mark("shape")]),
            rule([direction("original"), counter_by_mark("count_in")]),
            rule([direction("reply"), counter_by_mark("count_out")]),
            rule([accept()]),
        ]
    }

    /// MSS of connections through the tunnel, both ways (RFC 6691): the kernel only ever lowers it.
    ///
    /// The route's MTU decides in either direction, since the WAN may be narrower than the tunnel;
    /// for what comes out of it the tunnel's MTU does as well, less 40 bytes of headers for IPv4
    /// and 60 for IPv6.
    fn clamp(&self) -> Vec<Value> {
        let syn = json!({"match": {"op": "==", "left": {"&": [payload("tcp", "flags"), ["syn", "rst"]]}, "right": "syn"}});
        let size = |value: Value| json!({"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": value}});
        let of_route = size(json!({"rt": {"key": "mtu"}}));
        let mut rules = vec![
            rule([oif(self.tun()), syn.clone(), of_route.clone()]),
            rule([iif(self.tun()), syn.clone(), of_route]),
        ];
        for (family, headers) in [(Family::V4, 40), (Family::V6, 60)] {
            let largest = size(json!(self.mtu.saturating_sub(headers)));
            rules.push(rule([iif(self.tun()), is_family(family), syn.clone(), largest.clone()]));
            rules.push(rule([oif(self.tun()), is_family(family), syn.clone(), largest]));
        }
        rules
    }

    /// `input`: what reaches the edge itself.
    fn input(&self, next_hops: bool) -> Vec<Value> {
        let mut rules = self.to_link();
        rules.push(rule([iif("lo"), accept()]));
        rules.push(rule([iif(self.tun()), goto("input_from_tunnel")]));
        rules.extend(self.other_edge());
        rules.extend(by_trust(next_hops, &accept(), &accept(), &goto("input_from_wan")));
        rules
    }

    fn input_from_tunnel(&self) -> Vec<Value> {
        let mut rules = self.known_or_invalid("input");
        rules.extend(self.diverted_from_wan("input"));
        rules.push(rule([state(&["new"]), self.is_allow(), goto("carried")]));
        for family in Family::BOTH {
            let own = in_set(daddr(family), "own", family);
            rules.push(rule([own, echo_request(family), accept()]));
        }
        rules.push(ended([], self.dropped("input", "not_listed")));
        rules
    }

    /// The WAN guard of the edge itself.
    fn input_from_wan(&self) -> Vec<Value> {
        let needed = [
            "destination-unreachable",
            "packet-too-big",
            "time-exceeded",
            "parameter-problem",
            "echo-request",
            "nd-router-advert",
            "nd-neighbor-solicit",
            "nd-neighbor-advert",
            "mld-listener-query",
        ];
        let [dhcp4, dhcp6] = dhcp();
        let mut rules = self.foreign_vrrp();
        rules.extend([
            rule([state(&["established", "related"]), accept()]),
            rule([state(&["new"]), equal(&super::json::ct_mark(), self.accepted_mark()), accept()]),
            rule([udp("dport", self.policy.interface.listen_port), accept()]),
            rule([echo_request(Family::V4), accept()]),
            rule([equal(&payload("icmpv6", "type"), set_of(needed.map(Value::from))), accept()]),
            dhcp4,
            dhcp6,
            ended([], self.dropped("input", "wan_guard")),
        ]);
        rules
    }

    /// `forward`: what passes through the edge.
    fn forward(&self, next_hops: bool) -> Vec<Value> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let diverted = [
                not_oif(self.tun()),
                in_set(daddr(family), "tunnel", family),
                not_in_set(daddr(family), "lan", family),
            ];
            rules.push(ended(diverted, self.dropped("forward", "leak")));
        }
        let diverted = [self.is_publish(), direction("original"), not_oif(self.tun())];
        rules.push(ended(diverted, self.dropped("forward", "leak")));
        rules.push(rule([iif(self.tun()), goto("forward_from_tunnel")]));
        rules.push(rule([oif(self.tun()), goto("forward_to_tunnel")]));
        rules.extend(by_trust(next_hops, &accept(), &accept(), &goto("forward_from_wan")));
        rules
    }

    /// The WAN guard of what is behind the edge: its LAN, and ports that containers publish.
    fn forward_from_wan(&self) -> Vec<Value> {
        vec![
            rule([state(&["established", "related"]), accept()]),
            rule([equal(&super::json::ct_mark(), self.accepted_mark()), dnatted(), accept()]),
            ended([], self.dropped("forward", "wan_guard")),
        ]
    }

    fn forward_from_tunnel(&self) -> Vec<Value> {
        let mut rules = self.known_or_invalid("forward");
        rules.extend(self.diverted_from_wan("forward"));
        rules.push(rule([state(&["new"]), self.is_allow(), goto("carried")]));
        rules.push(ended([], self.dropped("forward", "not_listed")));
        rules
    }

    fn forward_to_tunnel(&self) -> Vec<Value> {
        let mut rules = self.known_or_invalid("forward");
        rules.push(rule([state(&["new"]), self.is_publish(), dnatted(), goto("carried")]));
        rules.push(rule([state(&["new"]), self.is_allow(), goto("carried")]));
        rules.push(ended([], self.dropped("forward", "not_listed")));
        rules
    }

    fn known_or_invalid(&self, stage: &'static str) -> Vec<Value> {
        vec![
            ended([state(&["invalid"])], self.dropped(stage, "invalid")),
            rule([state(&["established", "related"]), goto("carried")]),
        ]
    }

    /// `output`: what the edge itself sends into the tunnel.
    fn output(&self) -> Vec<Value> {
        let chatter = [
            "nd-router-solicit",
            "nd-neighbor-solicit",
            "nd-neighbor-advert",
            "mld-listener-report",
            "mld2-listener-report",
        ];
        let chatter = equal(&payload("icmpv6", "type"), set_of(chatter.map(Value::from)));
        vec![
            // DNAT has changed its destination from an address of the edge to that of a service.
            rule([self.is_publish(), dnatted(), direction("original"), goto("carried")]),
            rule([not_oif(self.tun()), accept()]),
            ended([state(&["invalid"])], self.dropped("output", "invalid")),
            rule([state(&["established", "related"]), goto("carried")]),
            rule([self.is_ours(), set_ct_mark(0)]),
            rule([jump("private_self")]),
            rule([self.is_allow(), goto("carried")]),
            rule([chatter, drop()]),
            ended([], self.dropped("output", "not_listed")),
        ]
    }

    fn srcnat() -> Vec<Value> {
        vec![rule([
            not_oif("lo"),
            equal(&super::json::ct_mark(), "@masquerade"),
            json!({"masquerade": null}),
        ])]
    }

    /// `postrouting`, after every NAT: no packet of the tunnel's prefixes leaves by another way.
    fn last(&self) -> Vec<Value> {
        let mut rules = vec![rule([oif(self.tun()), accept()]), rule([oif("lo"), accept()])];
        for family in Family::BOTH {
            rules.push(rule([in_set(daddr(family), "lan", family), accept()]));
            let leak = self.dropped("postrouting", "leak");
            rules.push(ended([in_set(daddr(family), "tunnel", family)], leak));
        }
        // Packets of peers may go to containers.
        rules.push(rule([in_links("oif", "containers"), accept()]));
        for family in Family::BOTH {
            rules.push(rule([in_set(saddr(family), "lan", family), accept()]));
            let leak = self.dropped("postrouting", "leak");
            rules.push(ended([in_set(saddr(family), "tunnel", family)], leak));
        }
        rules
    }
}

/// Rules that divide packets by their sender: a LAN host, a container, or an unauthenticated
/// source.
///
/// The next hop is checked first: a packet from a router comes from the WAN, whatever its source
/// address.
fn by_trust(next_hops: bool, lan: &Value, containers: &Value, wan: &Value) -> Vec<Value> {
    let mut rules = Vec::new();
    if next_hops {
        rules.push(rule([sent_by_next_hop(), wan.clone()]));
    }
    for family in Family::BOTH {
        rules.push(rule([in_links("iif", "lan_links"), sent_by_lan(family, true), lan.clone()]));
    }
    rules.push(rule([in_links("iif", "containers"), containers.clone()]));
    rules.push(rule([wan.clone()]));
    rules
}

/// Whether the interface, `iif` or `oif`, is in a set of indexes.
fn in_links(which: &str, set: &str) -> Value {
    equal(&meta(which), format!("@{set}"))
}

/// Whether the source is the LAN's on the interface that it came in by.
fn sent_by_lan(family: Family, is: bool) -> Value {
    let key = super::json::concat([meta("iif"), saddr(family)]);
    let set = format!("@lan_at{}", family.digit());
    if is { equal(&key, set) } else { unequal(&key, set) }
}

fn sent_by_next_hop() -> Value {
    let key = super::json::concat([meta("iif"), payload("ether", "saddr")]);
    equal(&key, "@next_hops")
}

/// A rule of these statements, followed by the two of `end`.
fn ended(statements: impl IntoIterator<Item = Value>, end: [Value; 2]) -> Value {
    Value::Array(statements.into_iter().chain(end).collect())
}

fn in_set(address: Value, set: &str, family: Family) -> Value {
    equal(&address, format!("@{set}{}", family.digit()))
}

fn not_in_set(address: Value, set: &str, family: Family) -> Value {
    unequal(&address, format!("@{set}{}", family.digit()))
}

fn in_prefix(address: Value, network: &str, length: u8) -> Value {
    equal(&address, json!({"prefix": {"addr": network, "len": length}}))
}

fn udp(field: &str, port: u16) -> Value {
    equal(&payload("udp", field), port)
}

/// Replies of DHCP servers, for IPv4 and IPv6.
///
/// Both stay on their link: with another destination or source, the only reply would be an error.
fn dhcp() -> [Value; 2] {
    let from = in_prefix(saddr(Family::V6), "fe80::", 10);
    let to = in_prefix(daddr(Family::V6), "fe80::", 10);
    [
        rule([is_family(Family::V4), udp("sport", 67), udp("dport", 68), to_all(), accept()]),
        rule([from, to, udp("sport", 547), udp("dport", 546), accept()]),
    ]
}

fn echo_request(family: Family) -> Value {
    equal(&payload(family.icmp(), "type"), "echo-request")
}

fn regular(name: impl Into<String>, rules: Vec<Value>) -> Chain {
    Chain { name: name.into(), hook: None, rules }
}

fn base(name: &str, kind: &'static str, hook: &'static str, priority: i32, rules: Vec<Value>) -> Chain {
    Chain { name: name.into(), hook: Some(Hook { kind, hook, priority }), rules }
}
