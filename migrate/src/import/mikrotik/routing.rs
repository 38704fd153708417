//! Marks, routes and routing tables of either router: what both ends of a Causeway tunnel do
//! themselves.

use std::collections::BTreeSet;

use policy::text;

use super::router::{Link, Router, commands};
use crate::import::draft::Draft;
use crate::import::outcome::FindingKind::{NoCounterpart, Replaced, Stays};
use crate::import::routeros::Entry;

/// Marks exist to send replies back into the tunnel; both ends do that without them.
pub(super) fn mangle(router: &mut Router, tunnel: &Link, draft: &Draft) {
    let rules = commands(router, "ip firewall mangle");
    let tables = tunnel_tables(router, draft, tunnel);
    let routed = |entry: &Entry| {
        entry.value("action") == Some("mark-routing")
            && entry.value("new-routing-mark").is_some_and(|mark| tables.contains(mark))
    };
    let marks: BTreeSet<&str> = rules
        .iter()
        .filter(|(_, entry)| routed(entry))
        .filter_map(|(_, entry)| entry.value("connection-mark"))
        .collect();
    for (index, entry) in &rules {
        let (kind, text) = match entry.value("action") {
            Some("mark-routing") if routed(entry) => (
                Replaced,
                "replies go back through the tunnel their connection came by, without marks".to_owned(),
            ),
            Some("mark-connection")
                if entry.value("new-connection-mark").is_some_and(|mark| marks.contains(mark)) =>
            {
                (Replaced, "connections stay in their tunnel without marks".to_owned())
            }
            Some("change-mss") => (Replaced, "MSS is clamped both ways by default".to_owned()),
            _ => (NoCounterpart, entry.summary()),
        };
        router.settle(*index, kind, text);
    }
}

/// Routing tables whose default route leads into a WireGuard interface that is carried.
fn tunnel_tables(router: &Router, draft: &Draft, tunnel: &Link) -> BTreeSet<String> {
    let into = |entry: &Entry| gateway_link(entry, router).is_some_and(|link| carried(&link, draft, tunnel));
    let routes = router.of("ip route").chain(router.of("ipv6 route")).filter(|(_, entry)| into(entry));
    routes.filter_map(|(_, entry)| entry.value("routing-table")).map(str::to_owned).collect()
}

/// Whether a WireGuard interface has become part of a configuration.
fn carried(link: &Link, draft: &Draft, tunnel: &Link) -> bool {
    let own = draft.origin.peers.iter().filter_map(|peer| peer.own.as_ref());
    link.name == tunnel.name || own.into_iter().any(|(address, _)| *address == link.address)
}

/// The WireGuard interface that a route's gateway names or lies on.
fn gateway_link(entry: &Entry, router: &Router) -> Option<Link> {
    let gateway = entry.value("gateway")?;
    let (gateway, named) =
        gateway.split_once('%').map_or((gateway, gateway), |(gateway, name)| (gateway, name));
    let address = text::address(gateway);
    let on = |link: &&Link| {
        link.name == named
            || address.is_some_and(|gateway| link.address.iter().any(|own| own.contains(gateway)))
    };
    router.links.iter().find(on).cloned()
}

/// Routes into the tunnel are the peers' prefixes; the rest is the router's.
pub(super) fn routes(router: &mut Router, tunnel: &Link, draft: &Draft) {
    let tables = tunnel_tables(router, draft, tunnel);
    for menu in ["ip route", "ipv6 route"] {
        for (index, entry) in commands(router, menu) {
            let (kind, text) = match gateway_link(&entry, router) {
                Some(link) if carried(&link, draft, tunnel) => {
                    (Replaced, "the tunnel's routes come from allowed_ips".to_owned())
                }
                Some(_) => (NoCounterpart, entry.summary()),
                None if entry.value("routing-table").is_some_and(|table| tables.contains(table)) => (
                    Replaced,
                    "the tunnel's routing table ends with an unreachable route by itself".to_owned(),
                ),
                None => (Stays, "a route that is not the tunnel's".to_owned()),
            };
            router.settle(index, kind, text);
        }
    }
    for (index, entry) in commands(router, "routing table") {
        if entry.value("name").is_some_and(|name| tables.contains(name)) {
            router.settle(index, Replaced, "the tunnel has a routing table of its own".to_owned());
        }
    }
    for (index, entry) in commands(router, "routing rule") {
        if entry.value("table").is_some_and(|table| tables.contains(table)) {
            router.settle(index, Replaced, "the tunnel has routing rules of its own".to_owned());
        }
    }
}
