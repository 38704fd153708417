//! Drop tables for a kernel or an `nft` that refuses the whole one: rules alone, without sets, maps
//! and counters.

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{
    CLASSIFY, Chain, FILTER, Family, LAST, accept, base, daddr, dhcp, dport, drop, equal, iif, is_protocol,
    jump, no_route_back, oif, payload, regular, rule, saddr, state,
};
use crate::Protocol;
use crate::gateway::Policy;
use crate::prefix::disjoint;
use crate::ruleset::json::{leave, ports, prefix};
use crate::ruleset::sets::accepted_ports;

/// What the guard of the policy closes, and more, in rules of the simplest kind.
///
/// Nothing goes to or from the tunnel's prefixes or its device, and no new flow passes through. The
/// edge itself answers loopback, established flows, neighbour discovery, DHCP and `[wan] accept`. A
/// packet that passes here passes the guard as well.
pub(in crate::ruleset) fn minimal(policy: &Policy) -> Vec<Chain> {
    let (lan, tunnel) = (disjoint(policy.lan.iter().copied()), disjoint(policy.tunnel_prefixes()));
    let tun = policy.interface.name.as_str();
    let classify = vec![
        rule([iif("lo"), accept()]),
        rule([iif(tun), drop()]),
        rule([jump("forged")]),
        rule([state(&["established", "related"]), accept()]),
        rule([jump("from_wan")]),
    ];
    let forward = vec![
        rule([oif(tun), drop()]),
        rule([jump("diverted")]),
        rule([state(&["established", "related"]), accept()]),
        rule([drop()]),
    ];
    vec![
        regular("forged", of_tunnel_unless_lan(saddr, &lan, &tunnel)),
        regular("diverted", of_tunnel_unless_lan(daddr, &lan, &tunnel)),
        regular("from_wan", out_of_wan(&lan)),
        base("classify", "filter", "prerouting", CLASSIFY, classify),
        base("input", "filter", "input", FILTER, input(policy)),
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

/// A source of the LAN must be reachable by the interface it arrived on; no packet may enter the
/// tunnel.
fn out_of_wan(lan: &[IpNetwork]) -> Vec<Value> {
    let forged = lan.iter().map(|&network| rule([within(saddr, network), no_route_back(), drop()]));
    forged.chain([rule([jump("diverted")])]).collect()
}

fn input(policy: &Policy) -> Vec<Value> {
    let neighbours = ["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-query"];
    let to_link = |own: &IpNetwork| {
        let (own, port) = (within(daddr, IpNetwork::from(own.ip())), equal(&dport(), policy.link.port));
        rule([own, is_protocol(Protocol::Tcp), port, drop()])
    };
    let mut rules: Vec<Value> = policy.interface.address.iter().map(to_link).collect();
    rules.push(rule([iif("lo"), accept()]));
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
