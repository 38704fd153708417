//! Policy routing: the tunnel's prefixes go into the tunnel or nowhere.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::{Conditions, Device, Route, RouteKind, Routing, Rule, Selector, Sysctl, UplinkTable};
use crate::InterfaceName;
use crate::gateway::Policy;
use crate::uplinks::Uplink;

/// The kernel's main table.
const MAIN: u32 = 254;
/// Of the route into the device; anything below [`LAST_METRIC`].
const TUNNEL_METRIC: u32 = 100;
/// Of the route that holds when the device is down or gone.
const LAST_METRIC: u32 = 4_278_198_272;
/// Packets that may wait in the device. They are of up to 64 KB each, so this is kept short: what
/// waits longer than a millisecond or two at line rate waits in senders instead.
const TX_QUEUE_LENGTH: u32 = 500;

/// How long conntrack keeps a TCP connection that is silent: the least that RFC 5382 (REQ-5) asks
/// for, and longer than the two hours between two keepalives of most systems.
///
/// It holds for the whole machine: a time for the tunnel's flows alone would be a `ct timeout`
/// object, whose times the JSON of nft 1.0.6 drops.
const IDLE_SECONDS: u32 = 7_440;
/// The kernel's default, five days; any other value was set on purpose and stays.
const KERNELS_IDLE_SECONDS: u32 = 432_000;
/// Every switch that a plan may set, with its value, and the only one that this takes the place of;
/// `*` is one interface.
const SWITCHES: [(&str, u32, Option<u32>); 8] = [
    ("net/ipv4/ip_forward", 1, None),
    ("net/ipv4/conf/all/src_valid_mark", 1, None),
    ("net/ipv4/conf/*/rp_filter", 2, None),
    ("net/ipv6/conf/*/accept_ra", 2, Some(1)),
    ("net/ipv6/conf/all/forwarding", 1, None),
    ("net/netfilter/nf_conntrack_acct", 1, None),
    ("net/netfilter/nf_conntrack_timestamp", 1, None),
    ("net/netfilter/nf_conntrack_tcp_timeout_established", IDLE_SECONDS, Some(KERNELS_IDLE_SECONDS)),
];

/// The value that plans give to the switch at `path` below `/proc/sys`; `None` for one that no plan
/// sets.
#[must_use]
pub fn switch_value(path: &str) -> Option<u32> {
    known_switch(path).map(|(value, _)| value)
}

/// The only value that plans replace at the switch, where it is one.
#[must_use]
pub fn replaced_value(path: &str) -> Option<u32> {
    known_switch(path).and_then(|(_, replaced)| replaced)
}

fn known_switch(path: &str) -> Option<(u32, Option<u32>)> {
    let found = SWITCHES.iter().find(|(pattern, ..)| match pattern.split_once('*') {
        None => path == *pattern,
        Some((before, after)) => {
            let interface = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            interface
                .is_some_and(|name| !matches!(name, "all" | "default") && InterfaceName::new(name).is_some())
        }
    });
    found.map(|(_, value, replaced)| (*value, *replaced))
}

/// Three rules before `main`: the outer socket's packets and the LAN's stay where they were, then
/// the tunnel's table.
///
/// The table holds every prefix twice, once into the device and once as unreachable, so that a
/// packet for the tunnel finds an answer here even when the device is gone, and packets for other
/// places find none and go on to `main`.
pub(super) fn compile(policy: &Policy, mtu: u16, conditions: &Conditions) -> Routing {
    let (uplinks, first) =
        (&conditions.uplinks, conditions.rule_priority.unwrap_or(policy.kernel.rule_priority));
    let device = Device {
        name: policy.interface.name.clone(),
        addresses: policy.interface.address.clone(),
        mtu,
        tx_queue_length: TX_QUEUE_LENGTH,
    };
    let table = |uplink: &Uplink| UplinkTable {
        link: uplink.link,
        table: uplink.table(policy),
        mark: uplink.mark(policy),
        priority: first,
    };
    let marked: &[Uplink] = if conditions.is_only_way { &[] } else { uplinks };
    Routing {
        device,
        routes: routes(policy),
        rules: rules(policy, first),
        sysctls: sysctls(policy, uplinks),
        uplinks: marked.iter().map(table).collect(),
    }
}

fn routes(policy: &Policy) -> Vec<Route> {
    let mut prefixes: Vec<IpNetwork> = policy.tunnel_prefixes().collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let pair = |destination: IpNetwork| {
        let route = |kind, metric| Route {
            destination,
            kind,
            table: policy.kernel.route_table,
            metric,
            protocol: policy.kernel.route_protocol,
        };
        [route(RouteKind::Tunnel, TUNNEL_METRIC), route(RouteKind::Unreachable, LAST_METRIC)]
    };
    prefixes.into_iter().flat_map(pair).collect()
}

fn rules(policy: &Policy, first: u32) -> Vec<Rule> {
    let mut rules = Vec::new();
    for ipv6 in [false, true] {
        let rule = |offset, selector, table| Rule {
            ipv6,
            priority: first + offset,
            selector,
            table,
            protocol: policy.kernel.route_protocol,
        };
        rules.push(rule(0, Selector::Fwmark(policy.kernel.fwmark), MAIN));
        let lan = policy.lan_prefixes().filter(|prefix| prefix.is_ipv6() == ipv6);
        rules.extend(lan.map(|prefix| rule(1, Selector::To(prefix), MAIN)));
        rules.push(rule(2, Selector::All, policy.kernel.route_table));
    }
    rules
}

/// The names of `[wan] interface` and of uplinks that are there.
fn outward<'n>(policy: &'n Policy, uplinks: &'n [Uplink]) -> BTreeSet<&'n str> {
    let named = policy.wan.interfaces.iter().map(InterfaceName::as_str);
    // A name of other characters has no path of its own under /proc/sys that could be written here.
    let found = uplinks.iter().map(|uplink| uplink.name.as_str());
    named.chain(found.filter(|name| InterfaceName::new(name).is_some())).collect()
}

fn sysctls(policy: &Policy, uplinks: &[Uplink]) -> Vec<Sysctl> {
    let outward = outward(policy, uplinks);
    let sysctl = |path: String, value, reason| Sysctl { path, value, instead_of: None, reason };
    let tun = policy.interface.name.as_str();
    let mut sysctls = vec![
        sysctl("net/ipv4/ip_forward".into(), 1, "published IPv4 connections pass through this machine"),
        sysctl(
            "net/ipv4/conf/all/src_valid_mark".into(),
            1,
            "the reverse path of WireGuard's own packets is looked up with their mark",
        ),
        sysctl(
            format!("net/ipv4/conf/{tun}/rp_filter"),
            2,
            "packets out of the tunnel have sources that another table routes",
        ),
    ];
    for (name, reason) in [
        ("nf_conntrack_acct", "gatewayctl flows shows how much each flow carried"),
        ("nf_conntrack_timestamp", "gatewayctl flows shows the age of each flow"),
    ] {
        sysctls.push(sysctl(format!("net/netfilter/{name}"), 1, reason));
    }
    sysctls.push(Sysctl {
        path: "net/netfilter/nf_conntrack_tcp_timeout_established".into(),
        value: IDLE_SECONDS,
        instead_of: Some(KERNELS_IDLE_SECONDS),
        reason: "otherwise a dead connection keeps its conntrack entry for five days",
    });
    for wan in &outward {
        sysctls.push(sysctl(
            format!("net/ipv4/conf/{wan}/rp_filter"),
            2,
            "a strict reverse path filter drops clients whose replies leave by another interface",
        ));
    }
    if uses_ipv6(policy) {
        for wan in &outward {
            // 0 is set on purpose: by systemd-networkd, which handles advertisements itself, or by
            // an administrator.
            sysctls.push(Sysctl {
                path: format!("net/ipv6/conf/{wan}/accept_ra"),
                value: 2,
                instead_of: Some(1),
                reason: "otherwise a machine that forwards IPv6 ignores its router's advertisements and loses its address",
            });
        }
        sysctls.push(sysctl(
            "net/ipv6/conf/all/forwarding".into(),
            1,
            "published IPv6 connections pass through this machine",
        ));
    }
    sysctls
}

fn uses_ipv6(policy: &Policy) -> bool {
    policy.tunnel_prefixes().any(|prefix| prefix.is_ipv6())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arbitrary::gateway_text;

    use super::*;
    use crate::Source;

    #[test]
    fn the_list_of_switches_has_what_plans_set_and_nothing_of_others() {
        for seed in 0..32 {
            let text = gateway_text(seed);
            let policy =
                crate::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap();
            for switch in sysctls(&policy, &[]) {
                assert_eq!(switch_value(&switch.path), Some(switch.value), "{}", switch.path);
                assert_eq!(replaced_value(&switch.path), switch.instead_of, "{}", switch.path);
            }
        }
        for foreign in [
            "net/ipv4/tcp_syncookies",
            "net/ipv4/conf/all/accept_source_route",
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/conf/eth0/x/rp_filter",
            "net/ipv4/conf/../rp_filter",
            "net/ipv6/conf/default/accept_ra",
            "kernel/core_pattern",
            "",
        ] {
            assert_eq!(switch_value(foreign), None, "{foreign}");
        }
    }
}
