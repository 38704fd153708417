//! Which interfaces are the WAN's, and by which signs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ranges::{Family, Ranges, addresses, number};
use super::router::Router;
use crate::import::routeros::Entry;
use policy::prefix::is_private;
use policy::{prefix, text};

/// An interface of the WAN.
pub(super) struct Uplink {
    pub(super) id: u128,
    pub(super) name: String,
    /// How the export shows that it is one.
    pub(super) signs: Vec<String>,
}

/// The interfaces that some sign shows to be the WAN's; never a WireGuard interface or one of the
/// list `LAN`, and another tunnel only when the list `WAN` has it.
pub(super) fn uplinks(router: &Router) -> Vec<Uplink> {
    let mut signs: BTreeMap<u128, Vec<String>> = BTreeMap::new();
    let tunnels = router.tunnels();
    let listed = |list: &str, id| router.interface_lists.has(list, id);
    let is_link = |id| {
        let mut links = router.of("interface wireguard");
        links.any(|(_, link)| link.value("name").and_then(|name| router.interface(name)) == Some(id))
    };
    let mut sign = |id: u128, text: String| {
        let vetoed = router.disabled.contains(&id)
            || is_link(id)
            || listed("LAN", id)
            || tunnels.contains(&id) && !listed("WAN", id);
        if !vetoed {
            signs.entry(id).or_default().push(text);
        }
    };
    for (_, entry) in router.of("interface list member") {
        let id = entry.value("interface").and_then(|name| router.interface(name));
        if let Some(id) = id.filter(|id| listed("WAN", *id) && entry.value("list") == Some("WAN")) {
            sign(id, format!("list WAN, line {}", entry.at.line));
        }
    }
    for (what, entry, name) in clients(router).chain(masquerades(router)) {
        if let Some(id) = router.interface(&name) {
            sign(id, format!("{what}, line {}", entry.at.line));
        }
    }
    for (entry, id) in defaults(router) {
        sign(id, format!("default route, line {}", entry.at.line));
    }
    for own in router.own.iter().filter(|own| is_public(own.address)) {
        sign(own.interface, format!("{PUBLIC} {}", own.address));
    }
    carriers(router, &mut signs);
    // A public address may be that of servers behind the router.
    if signs.values().flatten().any(|text| !text.starts_with(PUBLIC)) {
        signs.retain(|_, texts| texts.iter().any(|text| !text.starts_with(PUBLIC)));
    }
    let uplink = |(id, signs)| Uplink { id, name: router.interface_name(id).to_owned(), signs };
    signs.into_iter().map(uplink).collect()
}

/// The sign of an interface with an address that only the internet has.
const PUBLIC: &str = "public address";

/// Takes out the interfaces that only carry frames of another uplink, as below PPPoE or a VLAN.
fn carriers(router: &Router, signs: &mut BTreeMap<u128, Vec<String>>) {
    let menus = ["interface pppoe-client", "interface vlan", "interface macvlan"];
    let above = menus.iter().flat_map(|menu| router.of(menu));
    let pairs = above.filter_map(|(_, entry)| {
        Some((router.interface(entry.value("name")?)?, router.interface(entry.value("interface")?)?))
    });
    for (upper, lower) in pairs {
        let has_address = router.own.iter().any(|own| own.interface == lower);
        let is_client = || clients(router).any(|(_, _, name)| router.interface(&name) == Some(lower));
        if signs.contains_key(&upper) && !has_address && !is_client() {
            signs.remove(&lower);
        }
    }
}

/// Interfaces whose address the other end gives.
pub(super) fn clients(router: &Router) -> impl Iterator<Item = (&'static str, &Entry, String)> {
    let dhcp =
        router.of("ip dhcp-client").filter(|(_, entry)| entry.value("add-default-route") != Some("no"));
    let dhcp =
        dhcp.filter_map(|(_, entry)| Some(("DHCP client", entry, entry.value("interface")?.to_owned())));
    let pppoe = router.of("interface pppoe-client");
    let pppoe = pppoe.filter_map(|(_, entry)| Some(("PPPoE client", entry, entry.value("name")?.to_owned())));
    dhcp.chain(pppoe)
}

/// Interfaces out of which everything is masqueraded, whatever its destination; one with a private
/// network may be the LAN's, whose hosts hairpin rules hide from each other.
fn masquerades(router: &Router) -> impl Iterator<Item = (&'static str, &Entry, String)> {
    let rules = router.of("ip firewall nat").filter(|(_, entry)| {
        entry.value("action") == Some("masquerade")
            && [
                "dst-address",
                "dst-address-list",
                "dst-port",
                "protocol",
                "in-interface",
                "in-interface-list",
            ]
            .iter()
            .all(|key| entry.value(key).is_none())
    });
    let has_network = |name: &str| {
        let id = router.interface(name);
        let own = || router.own.iter().filter(|own| Some(own.interface) == id);
        let serves = || router.of("ip dhcp-server").any(|(_, entry)| entry.value("interface") == Some(name));
        own().any(|own| is_private(prefix::network(own.address))) || serves()
    };
    rules.filter_map(move |(_, entry)| {
        let name =
            entry.value("out-interface").filter(|name| !name.starts_with('!') && !has_network(name))?;
        Some(("masquerade", entry, name.to_owned()))
    })
}

/// Default routes with the interface that they name or whose network has their gateway.
fn defaults(router: &Router) -> impl Iterator<Item = (&Entry, u128)> {
    let routes = router.of("ip route").filter(|(_, entry)| {
        entry.value("dst-address").is_none_or(|to| to == "0.0.0.0/0") && entry.value("gateway").is_some()
    });
    routes.filter_map(|(_, entry)| {
        let gateway = entry.value("gateway")?;
        let (gateway, named) = gateway.split_once('%').map_or((gateway, gateway), |(to, by)| (to, by));
        let on_link = |gateway: IpAddr| {
            router.own.iter().find(|own| own.address.contains(gateway)).map(|own| own.interface)
        };
        let id = router.interface(named).or_else(|| on_link(text::address(gateway)?))?;
        Some((entry, id))
    })
}

/// An IPv4 address that only the internet has.
fn is_public(address: IpNetwork) -> bool {
    let (family, number) = number(address.ip());
    family == Family::V4 && !unroutable(family).contains(number)
}

/// The addresses that no packet from the internet can have as its destination.
pub(super) fn unroutable(family: Family) -> Ranges {
    let private: &[&str] = match family {
        Family::V4 => &["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"],
        Family::V6 => &["fc00::/7"],
    };
    prefixes(private, family).or(&no_host(family))
}

/// The addresses that no host behind a router has, so that none is a client's.
pub(super) fn no_host(family: Family) -> Ranges {
    match family {
        Family::V4 => prefixes(&["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"], family),
        Family::V6 => prefixes(&["::/127", "fe80::/10", "ff00::/8"], family),
    }
}

fn prefixes(written: &[&str], family: Family) -> Ranges {
    let prefixes: Vec<IpNetwork> = written.iter().filter_map(|written| text::prefix(written)).collect();
    addresses(&prefixes, family)
}
