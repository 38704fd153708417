//! Which interfaces are the WAN's, and by which signs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ranges::Family;
use super::router::Router;
use crate::import::routeros::Entry;
use policy::text;

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
    let listed = |list: &str, id| router.interface_lists.members(list).is_some_and(|list| list.contains(id));
    let is_link = |id| {
        let mut links = router.of("interface wireguard");
        links.any(|(_, link)| link.value("name").and_then(|name| router.interface(name)) == Some(id))
    };
    let mut sign = |id: u128, text: String| {
        let vetoed = is_link(id) || listed("LAN", id) || tunnels.contains(&id) && !listed("WAN", id);
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
        sign(own.interface, format!("public address {}", own.address));
    }
    let uplink = |(id, signs)| Uplink { id, name: router.interface_name(id).to_owned(), signs };
    signs.into_iter().map(uplink).collect()
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

/// Interfaces out of which everything is masqueraded, whatever its destination.
fn masquerades(router: &Router) -> impl Iterator<Item = (&'static str, &Entry, String)> {
    let rules = router.of("ip firewall nat").filter(|(_, entry)| {
        entry.value("action") == Some("masquerade")
            && ["dst-address", "dst-address-list", "dst-port", "protocol"]
                .iter()
                .all(|key| entry.value(key).is_none())
    });
    rules.filter_map(|(_, entry)| {
        let name = entry.value("out-interface").filter(|name| !name.starts_with('!'))?;
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
pub(super) fn is_public(address: IpNetwork) -> bool {
    match address {
        IpNetwork::V4(address) => {
            let ip = address.ip();
            let shared = ip.octets().starts_with(&[100]) && (64..128).contains(&ip.octets()[1]);
            !(ip.is_private() || shared || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified())
        }
        IpNetwork::V6(_) => false,
    }
}

/// Whether an address is one that no packet from the internet can carry as its destination.
pub(super) fn is_unroutable(family: Family, number: u128) -> bool {
    match family.address(number) {
        IpAddr::V4(address) => !is_public(IpNetwork::from(IpAddr::V4(address))),
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback()
        }
    }
}
