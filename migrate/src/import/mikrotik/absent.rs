//! A router whose export was not given: what the other's says about it, as an export.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;

use super::ranges::{Family, number};
use super::router::{Link, LinkPeer, Router};
use crate::import::outcome::{Derive, ImportError};
use policy::{Source, prefix, text};

/// The origin that an edge's export has as its peer.
pub(super) fn origin(edge: &Router, derive: Derive<'_>) -> Result<Router, ImportError> {
    let (link, peer) = only_tunnel(edge)?;
    let hosts = peer.allowed.iter().filter_map(|prefix| prefix::host(*prefix));
    let inside = |host: &IpAddr| link.address.iter().any(|own| own.contains(*host));
    let host = hosts.clone().find(inside).or_else(|| hosts.clone().next());
    let host = host.ok_or_else(|| unknown(edge, link, "the peer's address in the tunnel", "origin"))?;
    let text = wireguard(13_231, link.mtu);
    let peer = format!("allowed-address=0.0.0.0/0,::/0{}", key(edge, link, derive));
    made_up("origin", &format!("{text}add {peer} interface=tunnel\n{}", address(link, host)))
}

/// The edge that an origin's export dials.
pub(super) fn edge(origin: &Router, derive: Derive<'_>) -> Result<Router, ImportError> {
    let (link, peer) = only_tunnel(origin)?;
    let hosts = peer.allowed.iter().filter_map(|prefix| prefix::host(*prefix));
    let inside = |host: &IpAddr| link.address.iter().any(|own| own.contains(*host));
    let host = link.others.first().map(IpNetwork::ip).or_else(|| hosts.into_iter().find(inside));
    let host = host.or_else(|| link.address.iter().find_map(|own| only_other(*own)));
    let host = host.ok_or_else(|| unknown(origin, link, "the edge's address in the tunnel", "edge"))?;
    let port = peer.endpoint.as_deref().and_then(|endpoint| endpoint.rsplit(':').next()).and_then(text::port);
    let text = wireguard(port.unwrap_or(51_820), link.mtu);
    let own = link.address.iter().map(|own| IpNetwork::from(own.ip()));
    let behind = own.chain(origin.lan().map(|(_, network)| network));
    let allowed: Vec<String> = behind.map(|prefix| prefix.to_string()).collect();
    let key = key(origin, link, derive);
    made_up(
        "edge",
        &format!(
            "{text}add allowed-address={}{key} interface=tunnel\n{}",
            allowed.join(","),
            address(link, host)
        ),
    )
}

/// The only WireGuard interface with its only peer: which of several is meant is not guessed.
fn only_tunnel(router: &Router) -> Result<(&Link, &LinkPeer), ImportError> {
    let peers = |link: &Link| router.peers.iter().filter(|peer| peer.link == link.name).collect::<Vec<_>>();
    let links: Vec<&Link> = router.links.iter().filter(|link| !peers(link).is_empty()).collect();
    let ambiguous = |what: &str| {
        let at = router.file.clone();
        ImportError::Ambiguous { at, what: format!("{what}: give the exports of both routers") }
    };
    match links.as_slice() {
        [] => Err(ambiguous("there is no WireGuard interface with a peer")),
        [link] => match peers(link).as_slice() {
            [peer] => Ok((link, peer)),
            _ => Err(ambiguous(&format!("{} has several peers", link.name))),
        },
        _ => Err(ambiguous("there are several WireGuard interfaces with peers")),
    }
}

fn unknown(router: &Router, link: &Link, what: &str, other: &str) -> ImportError {
    let place = router.place(link.index);
    let at = format!("{}:{}:{}", router.file, place.line, place.column);
    ImportError::Ambiguous {
        at,
        what: format!("{what} is not in this export: give the {other}'s export too"),
    }
}

/// The only other host of a network of two.
fn only_other(own: IpNetwork) -> Option<IpAddr> {
    let (family, one) = number(own.ip());
    let host_bits = family.bits().checked_sub(u32::from(own.prefix()))?;
    match host_bits {
        1 => Some(family.address(one ^ 1)),
        2 if family == Family::V4 => Some(family.address(one ^ 3)),
        _ => None,
    }
}

fn wireguard(port: u16, mtu: Option<u16>) -> String {
    let mtu = mtu.map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
    format!("/interface wireguard\nadd listen-port={port}{mtu} name=tunnel\n/interface wireguard peers\n")
}

/// The public key of the other end's private key, where its export holds one.
fn key(router: &Router, link: &Link, derive: Derive<'_>) -> String {
    let private = router.entry(link.index).and_then(|entry| entry.value("private-key"));
    private.and_then(derive).map(|key| format!(" public-key=\"{key}\"")).unwrap_or_default()
}

fn address(link: &Link, host: IpAddr) -> String {
    let own = link.address.iter().find(|own| own.is_ipv4() == host.is_ipv4());
    let (own_ip, length) = own.map_or((host, 32), |own| (own.ip(), own.prefix()));
    let mut text = String::new();
    let menu = if host.is_ipv4() { "ip" } else { "ipv6" };
    let _ = writeln!(text, "/{menu} address\nadd address={host}/{length} interface=tunnel network={own_ip}");
    text
}

fn made_up(name: &str, text: &str) -> Result<Router, ImportError> {
    let mut router = Router::read(&Source { name: Path::new(name), text })?;
    router.is_given = false;
    Ok(router)
}
