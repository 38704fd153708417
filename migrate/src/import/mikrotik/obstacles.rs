//! Settings of a router with which nothing is forwarded, or not by its rules alone.

use super::ranges::{Family, Ranges};
use super::router::{Link, Router};
use super::scripts;

/// A command with which nothing can be carried, and why.
pub(super) struct Obstacle {
    pub(super) index: usize,
    pub(super) text: &'static str,
}

/// The first obstacle of a router.
pub(super) fn obstacle(router: &Router, link: &Link, family: Family) -> Option<Obstacle> {
    let found = |index: usize, text| Obstacle { index, text };
    let forwarding: &[(&str, &str, &str)] = match family {
        Family::V4 => &[("ip settings", "ip-forward", "no")],
        Family::V6 => &[("ipv6 settings", "forward", "no"), ("ipv6 settings", "disable-ipv6", "yes")],
    };
    for (menu, key, value) in forwarding {
        if let Some(index) = last_set(router, menu, key, value) {
            let text = match family {
                Family::V4 => "the router forwards no IPv4",
                Family::V6 => "the router forwards no IPv6",
            };
            return Some(found(index, text));
        }
    }
    if let Some(index) = last_set(router, "ip firewall connection tracking", "enabled", "no") {
        return Some(found(index, "without connection tracking the router translates nothing"));
    }
    if let Some(index) = vrf(router, link) {
        return Some(found(index, "interfaces of a VRF are in another routing table than the others"));
    }
    scripts::changes_rules(router).map(|index| found(index, "a script changes rules while the router runs"))
}

/// The command by which a router refuses packets whose source it would not reach by the interface
/// that they came in by.
pub(super) fn strict(router: &Router, family: Family) -> Option<usize> {
    let is_ipv4 = family == Family::V4;
    is_ipv4.then(|| last_set(router, "ip settings", "rp-filter", "strict")).flatten()
}

/// The last command that sets a property, when it gives it a value.
fn last_set(router: &Router, menu: &str, key: &str, value: &str) -> Option<usize> {
    let mut sets = router.entries.iter().enumerate().rev().filter(|(_, entry)| entry.is(menu, "set"));
    let last = sets.find(|(_, entry)| entry.value(key).is_some());
    let is_same =
        |written: &str| written == value || matches!((written, value), ("false", "no") | ("true", "yes"));
    last.filter(|(_, entry)| entry.value(key).is_some_and(is_same)).map(|(index, _)| index)
}

/// A VRF with an interface that packets to or from the tunnel cross.
fn vrf(router: &Router, link: &Link) -> Option<usize> {
    let wan = router.wan.iter().map(|uplink| uplink.id);
    let own = router.own.iter().map(|own| own.interface);
    let crossed: Vec<u128> = wan.chain(own).chain([link.id]).collect();
    let mut vrfs = router.of("ip vrf");
    let holds = |name: &str| {
        let listed = router.interface_lists.get(name);
        let one = router.interface(name).map(Ranges::one).unwrap_or_default();
        let members = one.or(&listed.known);
        crossed.iter().any(|id| members.contains(*id))
    };
    vrfs.find(|(_, entry)| entry.list("interfaces").into_iter().any(holds)).map(|(index, _)| index)
}
