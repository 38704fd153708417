//! The origin's rules: what the forwarder carries to local servers, and what it listens for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::router::{Link, Router, Side, commands};
use super::routing::{mangle, routes};
use super::rule::{Conditions, Transport};
use crate::import::draft::{Draft, Inject, Names, OriginPeer, Reach, with_ports};
use crate::import::outcome::FindingKind::{self, Assumed, Carried, NoCounterpart, Replaced, Stays};
use crate::import::routeros::Entry;
use policy::gateway::Service;
use policy::{PortRange, Protocol, Protocols, prefix, text};

/// More ports than this in one rule are not opened as local listeners.
const MOST_LISTENERS: u32 = 16;
/// Where Caddy's listener that accepts a PROXY header is.
const PROXY_UPSTREAM: &str = "127.0.0.1:8443";

/// Builds the forwarder's entries from what the edge sends, then compares the origin's own rules
/// with them.
pub(super) fn rules(router: &mut Router, tunnel: &Link, draft: &mut Draft, edge: &str) {
    let (mut names, mut reach_names) = (Names::default(), Names::default());
    published(draft, edge, &mut names);
    allowed(draft, edge, &mut names, &mut reach_names);
    mangle(router, tunnel, draft);
    routes(router, tunnel, draft);
    nat(router);
    filters(router, tunnel, draft, edge, &mut names);
    addresses(router, draft);
}

fn published(draft: &mut Draft, edge: &str, names: &mut Names) {
    for index in 0..draft.edge.publish.len() {
        let Some(publish) = draft.edge.publish.get(index) else { continue };
        let web = publish.protocols == Protocols::Tcp
            && publish.target_ports.first() == 443
            && publish.target_ports.count() == 1;
        let upstream =
            if web { PROXY_UPSTREAM.to_owned() } else { with_ports(publish.target, publish.target_ports) };
        let name = names.claim(&publish.name, "inject");
        let inject = Inject {
            name: name.clone(),
            protocols: publish.protocols,
            address: publish.target,
            ports: publish.target_ports,
            upstream,
            proxy_protocol: web,
            peer: edge.to_owned(),
            allow: Vec::new(),
        };
        let text = if web {
            format!(
                "inject {name:?} goes to {PROXY_UPSTREAM} with a PROXY header: the web server needs a listener there that alone \
                 accepts it (`gatewayctl export caddy`)"
            )
        } else {
            format!(
                "inject {name:?}: its server sees the forwarder's address; set proxy_protocol if it understands that"
            )
        };
        push_inject(draft, inject);
        draft.note(Assumed, text);
    }
}

/// Two entries of one peer must not claim the same packet.
fn push_inject(draft: &mut Draft, inject: Inject) -> bool {
    let clash = draft.origin.inject.iter().any(|other| {
        other.peer == inject.peer
            && other.address == inject.address
            && other.ports.overlaps(inject.ports)
            && other.protocols.iter().any(|protocol| inject.protocols.contains(protocol))
    });
    if !clash {
        draft.origin.inject.push(inject);
    }
    !clash
}

/// The other half of each private flow of the edge.
fn allowed(draft: &mut Draft, edge: &str, names: &mut Names, reach_names: &mut Names) {
    let Some(origin) = draft.edge.peers.first().map(|_| origin_peer(draft)) else { return };
    for index in 0..draft.edge.allow.len() {
        let Some(allow) = draft.edge.allow.get(index) else { continue };
        let Service::Ports { protocols, ports } = allow.service.clone() else { continue };
        let (name, to) = (allow.name.clone(), allow.to.clone());
        let inward = allow.from.contains(&format!("peer:{origin}"));
        let hosts: Vec<IpAddr> = to.iter().filter_map(|to| prefix::host(to.parse().ok()?)).collect();
        if hosts.len() < to.len() {
            let text = format!(
                "allow {name:?} leads to whole networks: the forwarder carries listed ports of listed hosts only; name them, or \
                 keep a router that speaks WireGuard at the far end"
            );
            draft.note(NoCounterpart, text);
        }
        for (host, range) in hosts.iter().flat_map(|host| ports.iter().map(move |range| (*host, *range))) {
            if inward {
                reach(draft, edge, &name, protocols, host, range, reach_names);
            } else if draft.edge.owner(IpNetwork::from(host)).is_some_and(|peer| peer.name == origin) {
                let upstream = with_ports(host, range);
                let (peer, allow) = (edge.to_owned(), Vec::new());
                let name = names.claim(&name, "inject");
                let (address, ports) = (host, range);
                push_inject(
                    draft,
                    Inject { name, protocols, address, ports, upstream, proxy_protocol: false, peer, allow },
                );
            }
        }
    }
}

/// The edge's peer that is the forwarder.
fn origin_peer(draft: &Draft) -> String {
    let hosts = &draft.origin.address;
    let holds = |prefix: &IpNetwork| hosts.iter().any(|own| prefix.contains(own.ip()));
    let peer = draft.edge.peers.iter().find(|peer| peer.allowed_ips.iter().any(holds));
    peer.map(|peer| peer.name.clone()).unwrap_or_default()
}

fn reach(
    draft: &mut Draft,
    edge: &str,
    name: &str,
    protocols: Protocols,
    host: IpAddr,
    ports: PortRange,
    names: &mut Names,
) {
    if ports.count() > MOST_LISTENERS {
        let text = format!(
            "allow {name:?}: {ports} are too many local listeners; add the [[reach]] entries that are used"
        );
        draft.note(NoCounterpart, text);
        return;
    }
    for port in ports.first()..=ports.last() {
        let Some(listen) = free_listener(draft, port) else { continue };
        let (name, peer) = (names.claim(name, "reach"), edge.to_owned());
        let text = format!(
            "reach {name:?}: clients of {host}:{port} must now connect to {listen} on the origin itself"
        );
        let (target, privileged) = (SocketAddr::new(host, port), port == 2049);
        draft.origin.reach.push(Reach { name, protocols, listen, target, peer, privileged });
        draft.note(Assumed, text);
    }
}

/// The same port on loopback where an unprivileged process may have it, else one above 10,000.
fn free_listener(draft: &Draft, port: u16) -> Option<SocketAddr> {
    let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let free = |port: &u16| draft.origin.reach.iter().all(|other| other.listen != address(*port));
    let high = (10_000..=50_000_u16).step_by(1_000).filter_map(|base| base.checked_add(port));
    std::iter::once(port).filter(|port| *port >= 1_024).chain(high).find(free).map(address)
}

fn nat(router: &mut Router) {
    for (index, entry) in commands(router, "ip firewall nat") {
        let (kind, text) = match (entry.value("chain"), entry.value("action")) {
            (Some("srcnat"), Some("accept")) => {
                (Replaced, "NAT exemption: flows end at the forwarder, and nothing is translated".to_owned())
            }
            (Some("srcnat"), Some("masquerade" | "src-nat")) => {
                (Stays, "the LAN's own internet access".to_owned())
            }
            (Some("dstnat"), _) => {
                (NoCounterpart, format!("the origin publishes nothing of its own: {}", entry.summary()))
            }
            _ => (NoCounterpart, entry.summary()),
        };
        router.settle(index, kind, text);
    }
}

fn filters(router: &mut Router, tunnel: &Link, draft: &mut Draft, edge: &str, names: &mut Names) {
    let mut closed = false;
    for (index, entry) in commands(router, "ip firewall filter") {
        let (kind, text) =
            match (entry.value("chain").unwrap_or_default(), entry.value("action").unwrap_or("accept")) {
                ("input" | "output", _) => (Stays, "about the router itself".to_owned()),
                ("forward", _) if closed => {
                    (Replaced, "never reached: an earlier rule drops everything".to_owned())
                }
                ("forward", "fasttrack-connection") => (Replaced, "flows end at the forwarder".to_owned()),
                ("forward", "accept") => accept(&entry, router, tunnel, draft, edge, names),
                ("forward", "drop" | "reject") => match Conditions::of(&entry, router, tunnel) {
                    Ok(conditions) if conditions.is_everything() => {
                        closed = true;
                        (
                            Replaced,
                            "a destination without an [[inject]] entry is refused and counted".to_owned(),
                        )
                    }
                    Ok(conditions)
                        if conditions.is_established()
                            || conditions.to.is_empty() && conditions.from.is_empty() =>
                    {
                        (
                            Replaced,
                            "a destination without an [[inject]] entry is refused and counted".to_owned(),
                        )
                    }
                    _ => (NoCounterpart, entry.summary()),
                },
                _ => (NoCounterpart, entry.summary()),
            };
        router.settle(index, kind, text);
    }
}

fn accept(
    entry: &Entry,
    router: &Router,
    tunnel: &Link,
    draft: &mut Draft,
    edge: &str,
    names: &mut Names,
) -> (FindingKind, String) {
    let conditions = match Conditions::of(entry, router, tunnel) {
        Ok(conditions) => conditions,
        Err(_) if entry.value("ipsec-policy").is_some() => return (Stays, "IPsec".to_owned()),
        Err(reason) => return (NoCounterpart, format!("{reason}: {}", entry.summary())),
    };
    if conditions.is_established() {
        return (Replaced, "flows end at the forwarder".to_owned());
    }
    match (conditions.arrives, conditions.leaves) {
        (Some(Side::Tunnel), _) => from_edge(entry, &conditions, draft, edge, names),
        (Some(Side::OtherTunnel), _) => {
            match conditions.arrives_on.as_deref().and_then(|link| second_edge(router, link, draft)) {
                Some(peer) => from_edge(entry, &conditions, draft, &peer, names),
                None => (NoCounterpart, entry.summary()),
            }
        }
        (_, Some(Side::Tunnel)) => into_tunnel(entry, &conditions, draft),
        (_, Some(Side::OtherTunnel)) => (NoCounterpart, entry.summary()),
        _ if conditions.to.iter().any(|to| draft.edge.is_lan(*to)) => into_tunnel(entry, &conditions, draft),
        _ => (Stays, "not about the tunnel".to_owned()),
    }
}

/// The peer of the forwarder that a WireGuard interface has become.
fn second_edge(router: &Router, link: &str, draft: &Draft) -> Option<String> {
    let link = router.links.iter().find(|known| known.name == link)?;
    let own = |peer: &&OriginPeer| peer.own.as_ref().is_some_and(|(own, _)| *own == link.address);
    draft.origin.peers.iter().find(own).map(|peer| peer.name.clone())
}

/// What an edge may send: an inject of that edge, unless there is one.
fn from_edge(
    entry: &Entry,
    conditions: &Conditions,
    draft: &mut Draft,
    edge: &str,
    names: &mut Names,
) -> (FindingKind, String) {
    if conditions.transport == Transport::Echo {
        return (Replaced, "the forwarder answers echo requests to the addresses it serves".to_owned());
    }
    let Some(address) = conditions.single_target() else {
        let text = "the forwarder carries listed ports of listed hosts only";
        return (NoCounterpart, format!("{text}: {}", entry.summary()));
    };
    let (Some(protocols), false) = (conditions.protocols(), conditions.ports.is_empty()) else {
        return (
            NoCounterpart,
            format!("every port of {address}: list those that are used: {}", entry.summary()),
        );
    };
    let mut carried = Vec::new();
    for ports in conditions.ports.clone() {
        let known = draft.origin.inject.iter().find(|inject| {
            inject.peer == edge
                && inject.address == address
                && inject.ports.first() <= ports.first()
                && ports.last() <= inject.ports.last()
                && protocols.iter().all(|protocol| inject.protocols.contains(protocol))
        });
        if let Some(inject) = known {
            carried.push(format!("{:?}", inject.name));
            continue;
        }
        let inject = other_inject(conditions, draft, edge, address, ports, protocols, names);
        let name = inject.name.clone();
        if !push_inject(draft, inject) {
            return (
                NoCounterpart,
                format!("another entry of {edge:?} claims a part of it: {}", entry.summary()),
            );
        }
        carried.push(format!("{name:?}"));
    }
    (Carried, format!("inject {} of {edge:?}", carried.join(", ")))
}

/// Like the entry of another edge for the same service, when there is one.
fn other_inject(
    conditions: &Conditions,
    draft: &Draft,
    edge: &str,
    address: IpAddr,
    ports: PortRange,
    protocols: Protocols,
    names: &mut Names,
) -> Inject {
    let like = draft.origin.inject.iter().find(|inject| {
        inject.address == address
            && inject.ports == ports
            && inject.protocols == protocols
            && inject.peer != edge
    });
    let transport = if protocols.contains(Protocol::Tcp) { "tcp" } else { "udp" };
    let wanted =
        like.map_or_else(|| format!("{transport} {ports} {edge}"), |like| format!("{} {edge}", like.name));
    let everyone = conditions.from.iter().any(|prefix| prefix.prefix() == 0);
    Inject {
        name: names.claim(&wanted, "inject"),
        protocols,
        address,
        ports,
        upstream: like.map_or_else(|| with_ports(address, ports), |like| like.upstream.clone()),
        proxy_protocol: like.is_some_and(|like| like.proxy_protocol),
        peer: edge.to_owned(),
        allow: if everyone { Vec::new() } else { conditions.from.clone() },
    }
}

/// What the origin may open: it must be a reach, which the edge's rules decide.
fn into_tunnel(entry: &Entry, conditions: &Conditions, draft: &Draft) -> (FindingKind, String) {
    let reached = |reach: &&Reach| {
        let to = conditions.to.is_empty() || conditions.to.iter().any(|to| to.contains(reach.target.ip()));
        let port = reach.target.port();
        to && (conditions.ports.is_empty() || conditions.ports.iter().any(|ports| ports.contains(port)))
    };
    let found: Vec<String> =
        draft.origin.reach.iter().filter(reached).map(|reach| format!("{:?}", reach.name)).collect();
    match (found.is_empty(), conditions.transport) {
        (false, _) => (Carried, format!("reach {}", found.join(", "))),
        (true, Transport::Echo) => {
            (NoCounterpart, "the origin's hosts cannot ping through the forwarder".to_owned())
        }
        (true, _) => (
            NoCounterpart,
            format!("the edge's router has no rule for it by host and port: {}", entry.summary()),
        ),
    }
}

/// Own addresses of the tunnels; address lists whose prefixes an entry holds.
fn addresses(router: &mut Router, draft: &Draft) {
    let mut settled = Vec::new();
    for menu in ["ip address", "ipv6 address"] {
        for (index, entry) in router.of(menu) {
            if router.links.iter().any(|link| entry.value("interface") == Some(&link.name)) {
                settled.push((index, Carried, "address of the forwarder's tunnel".to_owned()));
            }
        }
    }
    for menu in ["ip firewall address-list", "ipv6 firewall address-list"] {
        for (index, entry) in router.of(menu) {
            let prefix = entry.value("address").and_then(text::prefix).map(prefix::network);
            let used = prefix.is_some_and(|prefix| {
                draft.origin.inject.iter().any(|inject| inject.allow.contains(&prefix))
            });
            let (kind, text) = if used {
                (Carried, "in the allow of an inject; the forwarder has no named lists")
            } else {
                (Stays, "used by no entry")
            };
            settled.push((index, kind, text.to_owned()));
        }
    }
    for (index, kind, text) in settled {
        router.settle(index, kind, text);
    }
}
