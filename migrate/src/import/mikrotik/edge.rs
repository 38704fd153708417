//! The edge's rules: published ports out of dst-nat, private flows out of forward filters.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::router::{Link, Router, Side, commands};
use super::routing::{mangle, routes};
use super::rule::{Conditions, Transport, rule_name};
use crate::import::draft::{Allow, Draft, List, Names, Publish, plain_name, shortest};
use crate::import::outcome::FindingKind::{self, Assumed, Carried, NoCounterpart, Replaced, Stays};
use crate::import::routeros::Entry;
use policy::gateway::Service;
use policy::{PortRange, Protocol, Protocols, prefix, text};

/// Carries every rule of the edge's router over, or records why not.
pub(super) fn rules(router: &mut Router, tunnel: &Link, draft: &mut Draft, names: &mut Names) {
    addresses(router, tunnel, draft);
    nat(router, tunnel, draft, names);
    mangle(router, tunnel, draft);
    routes(router, tunnel, draft);
    filters(router, tunnel, draft, names);
    lists(router, draft);
}

fn addresses(router: &mut Router, tunnel: &Link, draft: &mut Draft) {
    for (index, network) in router.lan() {
        let held = draft.edge.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let clash =
            held.clone().any(|peer| network.prefix() <= peer.prefix() && network.contains(peer.network()));
        if clash {
            let text = format!("{network} holds a prefix that is behind a peer, so it is no LAN of the edge");
            router.settle(index, NoCounterpart, text);
        } else if !draft.edge.lan.contains(&network) {
            draft.edge.lan.push(network);
            router.settle(index, Carried, format!("{network} in [lan] prefixes"));
        }
    }
    for menu in ["ip address", "ipv6 address"] {
        for (index, entry) in commands(router, menu) {
            if entry.value("interface") == Some(&tunnel.name) {
                router.settle(index, Carried, "[interface] address of the edge".to_owned());
            }
        }
    }
}

fn nat(router: &mut Router, tunnel: &Link, draft: &mut Draft, names: &mut Names) {
    for (index, entry) in commands(router, "ip firewall nat") {
        let (kind, text) = match (entry.value("chain"), entry.value("action")) {
            (Some("dstnat"), Some("dst-nat")) => match publish(&entry, router, tunnel, draft, names) {
                Ok(text) => (Carried, text),
                Err(text) => (NoCounterpart, format!("{text}: {}", entry.summary())),
            },
            (Some("srcnat"), Some("accept")) => (
                Replaced,
                "NAT exemption: nothing through the tunnel is translated unless an entry says so".to_owned(),
            ),
            (Some("srcnat"), Some("masquerade" | "src-nat")) => hidden(&entry, router, tunnel),
            _ => (NoCounterpart, entry.summary()),
        };
        router.settle(index, kind, text);
    }
}

fn hidden(entry: &Entry, router: &Router, tunnel: &Link) -> (FindingKind, String) {
    let interface =
        ["out-interface", "out-interface-list"].iter().find_map(|key| Some((entry.value(key)?, *key)));
    match interface.and_then(|(name, key)| router.side(tunnel, name, key.ends_with("list"))) {
        Some(Side::Wan | Side::Lan | Side::OtherTunnel) => {
            (Stays, "the LAN's own internet access".to_owned())
        }
        Some(Side::Tunnel) => {
            let text = "masquerading into the tunnel hides clients; write source = \"masquerade\" where it is wanted";
            (NoCounterpart, text.to_owned())
        }
        None => {
            (Stays, "masquerades on no one interface; nothing in the tunnel is masqueraded here".to_owned())
        }
    }
}

/// One `[[publish]]` for each port range of a dst-nat.
fn publish(
    entry: &Entry,
    router: &Router,
    tunnel: &Link,
    draft: &mut Draft,
    names: &mut Names,
) -> Result<String, String> {
    let conditions = Conditions::of(entry, router, tunnel)?;
    let Transport::One(protocol) = conditions.transport else {
        return Err("no protocol tcp or udp".to_owned());
    };
    if matches!(conditions.arrives, Some(Side::Lan | Side::Tunnel | Side::OtherTunnel))
        || conditions.leaves.is_some()
    {
        return Err("not about packets from the WAN".to_owned());
    }
    let target: IpAddr =
        entry.value("to-addresses").and_then(text::address).ok_or("no single to-addresses")?;
    if draft.edge.owner(target.into()).is_none() {
        return Err(format!("the target {target} is behind no peer; the rule stays on the router"));
    }
    let to_ports =
        entry.value("to-ports").map(|ports| text::ports(ports).ok_or("to-ports is no range")).transpose()?;
    if conditions.ports.is_empty() {
        return Err("every port".to_owned());
    }
    let allow = allowed(&conditions, draft);
    let mut published = Vec::new();
    for ports in &conditions.ports {
        let target_ports = to_ports.unwrap_or(*ports);
        taken(draft, tunnel, protocol, *ports)?;
        if target_ports.count() != ports.count() {
            return Err(format!("{ports} to {target_ports}: the number of ports differs"));
        }
        let name = rule_name(entry.value("comment"), &format!("{protocol}-{ports}"), names);
        let protocols = if protocol == Protocol::Tcp { Protocols::Tcp } else { Protocols::Udp };
        published.push(name.clone());
        draft.edge.publish.push(Publish {
            name,
            protocols,
            address: None,
            wan_only: false,
            ports: *ports,
            target,
            target_ports,
            masquerade: false,
            allow: allow.clone(),
        });
    }
    let everywhere = if conditions.to.is_empty() { "" } else { ", on every address of the edge" };
    Ok(format!("publish {}{everywhere}", published.join(", ")))
}

fn taken(draft: &Draft, tunnel: &Link, protocol: Protocol, ports: PortRange) -> Result<(), String> {
    if protocol == Protocol::Udp && ports.contains(tunnel.listen_port) {
        return Err("the port is WireGuard's own".to_owned());
    }
    let mut earlier = draft.edge.publish.iter();
    match earlier.find(|other| other.ports.overlaps(ports) && other.protocols.contains(protocol)) {
        Some(other) => Err(format!("an earlier rule, publish {:?}, takes the port", other.name)),
        None => Ok(()),
    }
}

/// The allow-list of a rule: a named list keeps its name.
fn allowed(conditions: &Conditions, draft: &mut Draft) -> Vec<String> {
    let Some(list) = conditions.from_list.as_deref().and_then(plain_name) else {
        return conditions.from.iter().map(|prefix| shortest(*prefix)).collect();
    };
    // A list that holds everyone cannot be a list file.
    if conditions.from.iter().any(|prefix| prefix.prefix() == 0) {
        return conditions.from.iter().map(|prefix| shortest(*prefix)).collect();
    }
    match draft.lists.iter().find(|known| known.name == list) {
        Some(known) if known.prefixes != conditions.from => {
            return conditions.from.iter().map(|prefix| shortest(*prefix)).collect();
        }
        Some(_) => {}
        None => draft.lists.push(List { name: list.clone(), prefixes: conditions.from.clone() }),
    }
    vec![format!("@{list}")]
}

fn filters(router: &mut Router, tunnel: &Link, draft: &mut Draft, names: &mut Names) {
    let mut closed = false;
    for (index, entry) in commands(router, "ip firewall filter") {
        let chain = entry.value("chain").unwrap_or_default();
        let (kind, text) = match (chain, entry.value("action").unwrap_or("accept")) {
            ("input" | "output", _) => (
                Stays,
                "about the router itself; the edge's own ports are [wan] accept and [[allow]] to \"self\""
                    .to_owned(),
            ),
            ("forward", _) if closed => {
                (Replaced, "never reached: an earlier rule drops everything".to_owned())
            }
            ("forward", "fasttrack-connection") => {
                (Replaced, "packets of known flows are matched first".to_owned())
            }
            ("forward", "accept") => accept(&entry, router, tunnel, draft, names),
            ("forward", "drop" | "reject") => {
                let (kind, text, closes) = refuse(&entry, router, tunnel);
                closed |= closes;
                (kind, text)
            }
            _ => (NoCounterpart, entry.summary()),
        };
        router.settle(index, kind, text);
    }
    if !closed {
        let text = format!(
            "{}: forward does not end with a drop of everything, so more passed there than is listed; only what is listed passes \
             the edge",
            router.file
        );
        draft.note(Assumed, text);
    }
}

fn refuse(entry: &Entry, router: &Router, tunnel: &Link) -> (FindingKind, String, bool) {
    let Ok(conditions) = Conditions::of(entry, router, tunnel) else {
        return (NoCounterpart, entry.summary(), false);
    };
    if conditions.is_everything() {
        return (Replaced, "what is not listed is dropped and counted".to_owned(), true);
    }
    let general =
        conditions.from.is_empty() && conditions.to.is_empty() && conditions.transport == Transport::Any;
    if conditions.is_established() || general {
        return (Replaced, "what is not listed is dropped and counted".to_owned(), false);
    }
    let hint = if conditions.from_list.is_some() {
        "sources are banned with `gatewayctl ban`"
    } else {
        "list what may pass instead"
    };
    (NoCounterpart, format!("{}; {hint}", entry.summary()), false)
}

/// An `[[allow]]`, when the rule is about packets into or out of the tunnel.
fn accept(
    entry: &Entry,
    router: &Router,
    tunnel: &Link,
    draft: &mut Draft,
    names: &mut Names,
) -> (FindingKind, String) {
    let conditions = match Conditions::of(entry, router, tunnel) {
        Ok(conditions) => conditions,
        Err(_) if entry.value("ipsec-policy").is_some() => return (Stays, "IPsec".to_owned()),
        Err(reason) => return (NoCounterpart, format!("{reason}: {}", entry.summary())),
    };
    if conditions.is_established() {
        return (Replaced, "packets of known connections pass".to_owned());
    }
    if conditions.nat_state.as_deref() == Some("dstnat") {
        return (Replaced, "a published port needs no filter rule".to_owned());
    }
    if conditions.nat_state.is_some() {
        return (NoCounterpart, entry.summary());
    }
    match direction(&conditions, draft) {
        Some(Direction::Published(name)) => {
            (Replaced, format!("publish {name:?} lets its own packets pass; who may connect is its allow"))
        }
        Some(Direction::Out { from, to }) => private(entry, &conditions, from, to, false, draft, names),
        Some(Direction::In { from, to }) => private(entry, &conditions, from, to, true, draft, names),
        None if [conditions.arrives, conditions.leaves]
            .iter()
            .flatten()
            .any(|side| *side == Side::Tunnel) =>
        {
            let text = "ends nowhere that an [[allow]] can name (a peer, the edge, its LAN)";
            (NoCounterpart, format!("{text}: {}", entry.summary()))
        }
        None => (Stays, "not about the tunnel".to_owned()),
    }
}

/// Which way a rule's packets cross the tunnel.
enum Direction {
    Published(String),
    /// From the LAN to a peer.
    Out {
        from: Vec<String>,
        to: Vec<String>,
    },
    /// From peers to the LAN.
    In {
        from: Vec<String>,
        to: Vec<String>,
    },
}

fn direction(conditions: &Conditions, draft: &Draft) -> Option<Direction> {
    let edge = &draft.edge;
    let text = |prefixes: &[IpNetwork]| prefixes.iter().map(|prefix| shortest(*prefix)).collect::<Vec<_>>();
    let behind =
        |prefixes: &[IpNetwork]| !prefixes.is_empty() && prefixes.iter().all(|p| edge.owner(*p).is_some());
    let local = |prefixes: &[IpNetwork]| !prefixes.is_empty() && prefixes.iter().all(|p| edge.is_lan(*p));
    if behind(&conditions.to) && !local(&conditions.from) && conditions.arrives != Some(Side::Lan) {
        let published = edge.publish.iter().find(|publish| {
            conditions.to.iter().any(|to| to.contains(publish.target))
                && conditions.ports.iter().any(|ports| ports.overlaps(publish.target_ports))
        });
        if let Some(publish) = published {
            return Some(Direction::Published(publish.name.clone()));
        }
    }
    let into = conditions.leaves == Some(Side::Tunnel) || behind(&conditions.to);
    let from_wan = conditions.arrives == Some(Side::Wan);
    if into && !from_wan && (conditions.from.is_empty() || local(&conditions.from)) && !edge.lan.is_empty() {
        let to = if conditions.to.is_empty() { everyone_behind(draft) } else { text(&conditions.to) };
        let mut from = if conditions.from.is_empty() { text(&edge.lan) } else { text(&conditions.from) };
        // The router was a host of the LAN; now the edge is.
        if conditions.from.is_empty() || conditions.from.iter().any(|from| edge.lan.contains(from)) {
            from.insert(0, "self".to_owned());
        }
        let known = conditions.to.is_empty() || behind(&conditions.to);
        return known.then_some(Direction::Out { from, to });
    }
    let out = conditions.arrives == Some(Side::Tunnel) || behind(&conditions.from);
    if out && (conditions.to.is_empty() || local(&conditions.to)) && !edge.lan.is_empty() {
        if conditions.to.is_empty() && conditions.leaves != Some(Side::Lan) {
            return None;
        }
        let mut owners: Vec<String> = Vec::new();
        for owner in conditions.from.iter().filter_map(|prefix| edge.owner(*prefix)) {
            let name = format!("peer:{}", owner.name);
            if !owners.contains(&name) {
                owners.push(name);
            }
        }
        let from = if conditions.from.is_empty() { everyone_behind(draft) } else { owners };
        let to = if conditions.to.is_empty() { text(&edge.lan) } else { text(&conditions.to) };
        let known = conditions.from.is_empty() || behind(&conditions.from);
        return known.then_some(Direction::In { from, to });
    }
    None
}

fn everyone_behind(draft: &Draft) -> Vec<String> {
    draft.edge.peers.iter().map(|peer| format!("peer:{}", peer.name)).collect()
}

fn private(
    entry: &Entry,
    conditions: &Conditions,
    from: Vec<String>,
    to: Vec<String>,
    inward: bool,
    draft: &mut Draft,
    names: &mut Names,
) -> (FindingKind, String) {
    if !share_family(&from, &to, draft) {
        return (NoCounterpart, format!("the two ends share no address family: {}", entry.summary()));
    }
    let mut carried = Vec::new();
    let masquerade = inward && to.iter().all(|to| to.parse::<IpNetwork>().is_ok_and(|to| to.is_ipv4()));
    for service in conditions.services() {
        let suffix =
            if service == Service::Echo && conditions.transport == Transport::Any { " ping" } else { "" };
        let comment = entry.value("comment").map(|comment| format!("{comment}{suffix}"));
        let name = rule_name(comment.as_deref(), if inward { "from-tunnel" } else { "into-tunnel" }, names);
        carried.push(format!("{name:?}"));
        draft.edge.allow.push(Allow { name, from: from.clone(), to: to.clone(), service, masquerade });
    }
    let narrowed = inward && conditions.from.iter().any(|prefix| prefix::host(*prefix).is_some());
    let note = if narrowed {
        "; every address behind the peer may open it, not only the one of the rule"
    } else {
        ""
    };
    (Carried, format!("allow {}{note}", carried.join(", ")))
}

/// Whether some pair of ends has an address family in common.
fn share_family(from: &[String], to: &[String], draft: &Draft) -> bool {
    let families = |parties: &[String], v4: bool| {
        parties.iter().any(|party| match party.strip_prefix("peer:") {
            Some(name) => {
                let peer = draft.edge.peers.iter().find(|peer| peer.name == name);
                peer.is_some_and(|peer| peer.allowed_ips.iter().any(|prefix| prefix.is_ipv4() == v4))
            }
            None if party == "self" => false,
            None => party.parse::<IpNetwork>().is_ok_and(|prefix| prefix.is_ipv4() == v4),
        })
    };
    [true, false].into_iter().any(|v4| families(from, v4) && families(to, v4))
}

/// Address lists: carried when a published port uses them.
fn lists(router: &mut Router, draft: &Draft) {
    for menu in ["ip firewall address-list", "ipv6 firewall address-list"] {
        for (index, entry) in commands(router, menu) {
            let list = entry.value("list").and_then(plain_name).unwrap_or_default();
            if draft.lists.iter().any(|known| known.name == list) {
                router.settle(index, Carried, format!("lists/{list}.list"));
            } else {
                router.settle(index, Stays, format!("list {list:?} is used by no published port"));
            }
        }
    }
}

/// What the exports cannot say about the edge.
pub(super) fn assumptions(router: &Router, tunnel: &Link, draft: &mut Draft) {
    let wan: Vec<&str> = router.wan.iter().map(String::as_str).collect();
    draft.note(
        Assumed,
        format!(
            "[wan] interface = \"eth0\": write the edge's own interface, not the router's ({}); accept = []: add \"tcp/22\" to \
             reach the edge from outside its LAN",
            wan.join(", ")
        ),
    );
    let mut ports: BTreeSet<String> = [format!("udp/{}", tunnel.listen_port)].into();
    for publish in &draft.edge.publish {
        ports.extend(publish.protocols.iter().map(|protocol| format!("{protocol}/{}", publish.ports)));
    }
    let ports: Vec<String> = ports.into_iter().collect();
    draft.note(
        Assumed,
        format!(
            "while {} is in front of the edge, it must forward {} to it without changing the sources",
            router.file,
            ports.join(", ")
        ),
    );
    if draft.edge.allow.iter().any(|allow| allow.masquerade) {
        draft.note(
            Assumed,
            "[[allow]] into the LAN has source = \"masquerade\", since LAN hosts send their replies to their router; remove it once the router \
             has a route to the origin's addresses through the edge",
        );
    }
    if draft.edge.allow.iter().any(|allow| !allow.from.iter().any(|from| from.starts_with("peer:"))) {
        let prefixes: Vec<String> = draft
            .edge
            .peers
            .iter()
            .flat_map(|peer| &peer.allowed_ips)
            .filter(|prefix| prefix.prefix() > 0)
            .map(ToString::to_string)
            .collect();
        let text = format!(
            "LAN hosts reach the origin only if their router sends {} to the edge",
            prefixes.join(", ")
        );
        draft.note(Assumed, text);
    }
}
