//! Marks, routes and routing tables of either router: what both ends of a Causeway tunnel do
//! themselves.

use std::collections::BTreeSet;

use super::router::{Link, Router};
use super::routes::{MAIN, way_by};
use crate::import::draft::Draft;
use crate::import::outcome::FindingKind::{self, NoCounterpart, Replaced, Stays};
use crate::import::routeros::Entry;

/// What became of marks, routes and tables.
pub(super) fn settle(router: &mut Router, tunnel: &Link, draft: &Draft) {
    let tables = tunnel_tables(router, draft, tunnel);
    let mut verdicts = Vec::new();
    for menu in ["ip firewall mangle", "ipv6 firewall mangle"] {
        verdicts.extend(mangle(router, menu, &tables));
    }
    for (index, entry) in router.of("ip route").chain(router.of("ipv6 route")) {
        let (kind, text) = route(router, entry, tunnel, draft, &tables);
        verdicts.push((index, kind, text));
    }
    for (index, entry) in router.of("routing table") {
        if entry.value("name").is_some_and(|name| tables.contains(name)) {
            verdicts.push((index, Replaced, "the tunnel has a routing table of its own".to_owned()));
        }
    }
    for (index, entry) in router.of("routing rule") {
        let (kind, text) = match entry.value("table") {
            Some(table) if tables.contains(table) => (Replaced, "the tunnel has routing rules of its own"),
            _ => (Stays, "a routing rule that is not the tunnel's"),
        };
        verdicts.push((index, kind, text.to_owned()));
    }
    for (index, kind, text) in verdicts {
        router.settle(index, kind, text);
    }
}

/// Marks of connections exist to send replies back into the tunnel; both ends do that without them.
fn mangle(router: &Router, menu: &str, tables: &BTreeSet<String>) -> Vec<(usize, FindingKind, String)> {
    let routed = |entry: &Entry| {
        entry.value("action") == Some("mark-routing")
            && entry.value("connection-mark").is_some_and(|mark| !mark.starts_with('!') && mark != "no-mark")
            && entry.value("new-routing-mark").is_some_and(|mark| tables.contains(mark))
    };
    let marks: BTreeSet<&str> = router
        .of(menu)
        .filter(|(_, entry)| routed(entry))
        .filter_map(|(_, entry)| entry.value("connection-mark"))
        .collect();
    let verdict = |entry: &Entry| match entry.value("action") {
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
    let rules = router.of(menu).map(|(index, entry)| (index, verdict(entry)));
    rules.map(|(index, (kind, text))| (index, kind, text)).collect()
}

/// Routing tables with a route into a WireGuard interface that is carried; never the main one.
fn tunnel_tables(router: &Router, draft: &Draft, tunnel: &Link) -> BTreeSet<String> {
    let into = |entry: &Entry| gateway_link(entry, router).is_some_and(|link| carried(link, draft, tunnel));
    let routes = router.of("ip route").chain(router.of("ipv6 route")).filter(|(_, entry)| into(entry));
    let tables = routes.filter_map(|(_, entry)| entry.value("routing-table"));
    tables.filter(|table| *table != MAIN).map(str::to_owned).collect()
}

/// Whether a WireGuard interface has become part of a configuration.
fn carried(link: &Link, draft: &Draft, tunnel: &Link) -> bool {
    let own = draft.origin.peers.iter().filter_map(|peer| peer.own.as_ref());
    link.name == tunnel.name || own.into_iter().any(|(address, _)| *address == link.address)
}

/// The WireGuard interface that a route's gateway names or lies on.
fn gateway_link<'r>(entry: &Entry, router: &'r Router) -> Option<&'r Link> {
    let id = way_by(router, entry.value("gateway")?)?;
    router.links.iter().find(|link| link.id == id)
}

/// Routes into the tunnel are the peers' prefixes; the rest is the router's.
fn route(
    router: &Router,
    entry: &Entry,
    tunnel: &Link,
    draft: &Draft,
    tables: &BTreeSet<String>,
) -> (FindingKind, String) {
    let is_refusing = entry.target.contains("blackhole")
        || ["blackhole", "type"].iter().any(|key| entry.value(key).is_some_and(|value| value != "no"));
    let in_tunnel_table = entry.value("routing-table").is_some_and(|table| tables.contains(table));
    match gateway_link(entry, router) {
        Some(link) if carried(link, draft, tunnel) => {
            (Replaced, "the tunnel's routes come from allowed_ips".to_owned())
        }
        Some(_) => (NoCounterpart, entry.summary()),
        None if in_tunnel_table && is_refusing => {
            (Replaced, "the tunnel's routing table ends with an unreachable route by itself".to_owned())
        }
        None if in_tunnel_table => {
            let text = "the tunnel's routing table has no other way out: without the tunnel nothing is sent";
            (NoCounterpart, format!("{text}: {}", entry.summary()))
        }
        None => (Stays, "a route that is not the tunnel's".to_owned()),
    }
}
