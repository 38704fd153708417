//! Drop tables for a kernel or an `nft` that refuses the whole one: rules alone, without sets, maps and counters.

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{
    CLASSIFY, Chain, FILTER, Family, LAST, accept, base, daddr, dhcp, dport, drop, equal, iif, is_protocol,
    jump, leave, oif, payload, regular, route_back_exists, rule, saddr, state,
};
use crate::gateway::Policy;
use crate::ruleset::json::{ports, prefix};
use crate::ruleset::sets::{accepted_ports, disjoint, tunnel_prefixes};
use crate::{InterfaceName, Protocol};

/// What the guard of the policy closes, and more, in rules of the simplest kind.
///
/// Nothing goes to or from the tunnel's prefixes or its device. The edge itself answers loopback, established flows,
/// neighbour discovery, DHCP, the LAN and `[wan] accept`. A packet that passes here passes the guard as well.
pub(in crate::ruleset) fn minimal(policy: &Policy) -> Vec<Chain> {
    let (lan, tunnel) = (disjoint(policy.lan.iter().copied()), disjoint(tunnel_prefixes(policy)));
    let tun = policy.interface.name.as_str();
    let is_wan = |name: &InterfaceName| iif(name.as_str());
    let from_wan = policy.wan.interfaces.iter().map(|wan| rule([is_wan(wan), jump("from_wan")]));
    let through_wan = policy.wan.interfaces.iter().map(|wan| rule([is_wan(wan), jump("wan_guard")]));
    let mut classify = vec![rule([iif("lo"), accept()]), rule([iif(tun), drop()]), rule([jump("forged")])];
    classify.extend(from_wan);
    let mut forward = vec![rule([oif(tun), drop()]), rule([jump("astray")])];
    forward.extend(through_wan);
    vec![
        regular("forged", of_tunnel_unless_lan(saddr, &lan, &tunnel)),
        regular("astray", of_tunnel_unless_lan(daddr, &lan, &tunnel)),
        regular("from_wan", out_of_wan(&lan)),
        regular("wan_guard", wan_guard(&lan)),
        base("classify", "filter", "prerouting", CLASSIFY, classify),
        base("input", "filter", "input", FILTER, input(policy, &lan)),
        base("forward", "filter", "forward", FILTER, forward),
        base("output", "filter", "output", FILTER, vec![rule([oif(tun), drop()])]),
        base("last", "filter", "postrouting", LAST, last(&lan, &tunnel)),
    ]
}

/// No packet passes through the machine; what reaches the machine itself is left to others.
pub(in crate::ruleset) fn no_forwarding() -> Vec<Chain> {
    vec![base("forward", "filter", "forward", FILTER, vec![rule([drop()])])]
}

/// Drops packets with such an address in the tunnel, unless it is the LAN's.
fn of_tunnel_unless_lan(address: fn(Family) -> Value, lan: &[IpNetwork], tunnel: &[IpNetwork]) -> Vec<Value> {
    let mut rules = each(address, lan, &leave());
    rules.extend(each(address, tunnel, &drop()));
    rules
}

/// A source of the LAN must be reached by the way it came; others must not ask for the tunnel.
fn out_of_wan(lan: &[IpNetwork]) -> Vec<Value> {
    let mut rules: Vec<Value> =
        lan.iter().map(|&network| rule([within(saddr, network), route_back_exists(true), leave()])).collect();
    rules.extend(each(saddr, lan, &drop()));
    rules.push(rule([jump("astray")]));
    rules
}

/// Through the edge from the WAN: answers, and what the LAN sends on the same wire.
fn wan_guard(lan: &[IpNetwork]) -> Vec<Value> {
    let mut rules = each(saddr, lan, &leave());
    rules.extend([rule([state(&["established", "related"]), accept()]), rule([drop()])]);
    rules
}

fn input(policy: &Policy, lan: &[IpNetwork]) -> Vec<Value> {
    let neighbours = ["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-query"];
    let mut rules = vec![rule([iif("lo"), accept()])];
    rules.extend(each(saddr, lan, &accept()));
    rules.push(rule([state(&["established", "related"]), accept()]));
    rules.extend(neighbours.map(|kind| rule([equal(&payload("icmpv6", "type"), kind), accept()])));
    rules.extend(dhcp());
    for protocol in Protocol::BOTH {
        for range in accepted_ports(policy, protocol) {
            let port = equal(&dport(), ports(range));
            rules.push(rule([state(&["new"]), is_protocol(protocol), port, accept()]));
        }
    }
    rules.push(rule([drop()]));
    rules
}

fn last(lan: &[IpNetwork], tunnel: &[IpNetwork]) -> Vec<Value> {
    let mut rules = vec![rule([oif("lo"), accept()])];
    for address in [daddr, saddr] {
        rules.extend(each(address, lan, &accept()));
        rules.extend(each(address, tunnel, &drop()));
    }
    rules
}

/// One rule for each network.
fn each(address: fn(Family) -> Value, networks: &[IpNetwork], verdict: &Value) -> Vec<Value> {
    networks.iter().map(|&network| rule([within(address, network), verdict.clone()])).collect()
}

fn within(address: fn(Family) -> Value, network: IpNetwork) -> Value {
    let family = if network.is_ipv6() { Family::V6 } else { Family::V4 };
    equal(&address(family), prefix(network))
}
