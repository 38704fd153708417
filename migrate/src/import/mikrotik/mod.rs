//! RouterOS exports of the edge, of the origin, or of both, as both configurations.
//!
//! Each step takes values and returns values: `routeros` reads the text, `router` and `rule` what
//! it says, `obstacles` and `scripts` what makes its rules unsure, `walk`, `routes` and `site` what
//! the rules do with sets of flows, `addresses`, `published` and `private` what both routers let
//! through, `listeners` and `carry` the entries, `verdicts` and `routing` what became of each
//! command. What is carried is what certainly passed before: a condition that has no counterpart
//! makes it less, never more.

mod absent;
mod addresses;
mod carry;
mod flows;
mod listeners;
mod lists;
mod mixed;
mod notes;
mod obstacles;
mod pair;
mod private;
mod published;
mod ranges;
mod router;
mod routes;
mod routing;
mod rule;
mod rules;
mod scripts;
mod site;
mod uplinks;
mod verdicts;
mod walk;

use ipnetwork::IpNetwork;

use super::draft::{Draft, Edge, EdgePeer, NO_KEY, Names, Origin, OriginPeer, everywhere, key_file};
use super::outcome::{Derive, Finding, FindingKind, Import, ImportError};
use policy::{PublicKey, Source};
use router::{Link, LinkPeer, Router};

/// The exports that there are; one of two may be a wg-quick file.
#[derive(Clone, Copy)]
pub enum Exports<'s> {
    /// Of both ends.
    Both {
        /// The edge's, which has the public address.
        edge: &'s Source<'s>,
        /// The origin's, which dials.
        origin: &'s Source<'s>,
    },
    /// Of the edge alone.
    Edge(&'s Source<'s>),
    /// Of the origin alone.
    Origin(&'s Source<'s>),
}

/// Reads the `/export` of the edge's router, of the origin's, or both, RouterOS 7, and writes both
/// configurations; the public keys of private keys that an export holds come from `derive`.
///
/// # Errors
/// [`ImportError`], when there is no tunnel in them, or rules may be missing from what was read.
pub fn mikrotik(exports: &Exports<'_>, derive: Derive<'_>) -> Result<Import, ImportError> {
    let (mut edge, mut origin, of_files) = routers(exports, derive)?;
    if edge.name == origin.name {
        edge.name.push_str("-edge");
        origin.name.push_str("-origin");
    }
    let (near, far, sign) = pair::tunnel(&edge, &origin, derive)
        .ok_or_else(|| ImportError::NoTunnel { edge: edge.file.clone(), origin: origin.file.clone() })?;
    if let (true, Some(error)) =
        (edge.is_given && origin.is_given, pair::swapped((&edge, &near), (&origin, &far)))
    {
        return Err(error);
    }
    let mut draft = begin(&edge, &near, &origin, &far);
    if edge.is_given && origin.is_given {
        let (near, far) = (&near.name, &far.name);
        draft.note(
            FindingKind::Assumed,
            format!("{near} of {} and {far} of {} are one tunnel: {sign}", edge.file, origin.file),
        );
    }
    if let Exports::Edge(_) = exports {
        let text = "the origin's export was not given: what its own filters refuse is not known, and not refused here";
        draft.note(FindingKind::Assumed, text);
    }
    peers(&mut edge, &near, &mut draft, &origin.name);
    edges(&mut origin, &far, &mut draft, &edge.name, near.listen_port);
    rules::carry(&mut edge, &near, &mut origin, &far, &mut draft);
    routing::settle(&mut edge, &near, &draft);
    routing::settle(&mut origin, &far, &draft);
    rules::assumptions(&edge, &near, &mut draft);
    draft.findings.splice(0..0, of_files.into_iter().chain(edge.ledger()).chain(origin.ledger()));
    draft.finish()
}

/// Both routers, and what became of the lines of files that are no exports.
fn routers(exports: &Exports<'_>, derive: Derive<'_>) -> Result<(Router, Router, Vec<Finding>), ImportError> {
    match exports {
        Exports::Both { edge, origin } => match (mixed::is_wg_quick(edge), mixed::is_wg_quick(origin)) {
            (false, false) => Ok((Router::read(edge)?, Router::read(origin)?, Vec::new())),
            (true, false) => {
                let (edge, findings) = mixed::edge(edge, derive)?;
                Ok((edge, Router::read(origin)?, findings))
            }
            (false, true) => {
                let (origin, findings) = mixed::origin(origin, derive)?;
                Ok((Router::read(edge)?, origin, findings))
            }
            (true, true) => Err(no_router(edge)),
        },
        Exports::Edge(edge) => {
            let edge =
                if mixed::is_wg_quick(edge) { return Err(no_router(edge)) } else { Router::read(edge)? };
            let origin = absent::origin(&edge, derive)?;
            Ok((edge, origin, Vec::new()))
        }
        Exports::Origin(origin) if mixed::is_wg_quick(origin) => Err(no_router(origin)),
        Exports::Origin(origin) => {
            let origin = Router::read(origin)?;
            Ok((absent::edge(&origin, derive)?, origin, Vec::new()))
        }
    }
}

fn no_router(source: &Source<'_>) -> ImportError {
    let what = "a wg-quick file and no export of a router: use `gatewayctl import wg-quick EDGE [ORIGIN]`"
        .to_owned();
    ImportError::Ambiguous { at: source.name.display().to_string(), what }
}

fn begin(edge: &Router, near: &Link, origin: &Router, far: &Link) -> Draft {
    let edge_draft = Edge {
        key_file: format!("{}.key", edge.name),
        address: near.address.clone(),
        listen_port: near.listen_port,
        mtu: near.mtu,
        wan: "eth0".to_owned(),
        lan: Vec::new(),
        peers: Vec::new(),
        publish: Vec::new(),
        allow: Vec::new(),
    };
    let origin_draft = Origin {
        key_file: format!("{}.key", origin.name),
        address: far.address.clone(),
        mtu: far.mtu,
        peers: Vec::new(),
        services: Vec::new(),
        reach: Vec::new(),
    };
    let (lists, keys, findings) = (Vec::new(), Vec::new(), Vec::new());
    let mut draft = Draft { edge: edge_draft, origin: origin_draft, lists, keys, findings };
    own_key(edge, near, &format!("{}.key", edge.name), &mut draft);
    own_key(origin, far, &format!("{}.key", origin.name), &mut draft);
    draft
}

/// The private key of an interface, or that it is missing.
fn own_key(router: &Router, link: &Link, file: &str, draft: &mut Draft) {
    let line = router.place(link.index).line;
    match router.entry(link.index).and_then(|entry| entry.value("private-key")) {
        Some(key) => draft.keys.push(key_file(file, key)),
        None => {
            let text = format!(
                "{file}: the private key of {}, which /export leaves out (and preshared keys with it): take it from `/export \
                 show-sensitive`, or make a new pair with `gatewayctl keygen` and write its public key into the other \
                 configuration",
                link.name
            );
            missing(router, line, text, draft);
        }
    }
}

/// A value that an export does not hold; without a place where no export was given.
fn missing(router: &Router, line: u32, text: String, draft: &mut Draft) {
    match router.is_given {
        true => draft.findings.push(router.finding(line, FindingKind::Missing, text)),
        false => draft.note(FindingKind::Missing, text),
    }
}

/// A peer's public key, or [`NO_KEY`].
fn public_key(router: &Router, peer: &LinkPeer, draft: &mut Draft) -> String {
    let entry = router.entry(peer.index);
    let key = entry.and_then(|entry| entry.value("public-key")).and_then(|key| key.parse::<PublicKey>().ok());
    key.map(|key| key.to_string()).unwrap_or_else(|| {
        let line = router.place(peer.index).line;
        let name = peer.name.as_deref().unwrap_or("of the other end");
        missing(router, line, format!("the public key of peer {name}: replace {NO_KEY:?}"), draft);
        NO_KEY.to_owned()
    })
}

fn preshared(router: &Router, peer: &LinkPeer, name: &str, draft: &mut Draft) -> Option<String> {
    let key = router.entry(peer.index)?.value("preshared-key").filter(|key| !key.is_empty())?;
    let file = format!("{name}.psk");
    if draft.keys.iter().all(|known| known.name != file) {
        draft.keys.push(key_file(&file, key));
    }
    Some(file)
}

/// What a peer is called: by its name, else by its comment.
fn peer_name<'r>(router: &'r Router, peer: &'r LinkPeer) -> &'r str {
    let comment = || router.entry(peer.index).and_then(|entry| entry.value("comment"));
    peer.name.as_deref().or_else(comment).unwrap_or("peer")
}

/// The edge's peers: every peer of the tunnel's interface, the origin under its own name.
fn peers(edge: &mut Router, near: &Link, draft: &mut Draft, origin: &str) {
    let far_hosts = draft.origin.address.clone();
    let mut names = Names::default();
    let on_tunnel: Vec<LinkPeer> = edge.peers.iter().filter(|peer| peer.link == near.name).cloned().collect();
    for peer in on_tunnel {
        let is_origin =
            far_hosts.iter().any(|far| peer.allowed.iter().any(|prefix| prefix.contains(far.ip())))
                && draft.edge.peers.iter().all(|known| known.name != origin);
        let name = names.claim(if is_origin { origin } else { peer_name(edge, &peer) }, "peer");
        let key = public_key(edge, &peer, draft);
        let taken: Vec<IpNetwork> =
            draft.edge.peers.iter().flat_map(|other| other.allowed_ips.clone()).collect();
        let mut allowed_ips = peer.allowed.clone();
        allowed_ips.retain(|prefix| !taken.contains(prefix));
        let is_host = |prefix: &IpNetwork| !near.address.iter().any(|own| ranges::is_end(*own, *prefix));
        for prefix in allowed_ips.extract_if(.., |prefix| !is_host(prefix)) {
            let text = format!("{prefix} is no host of the tunnel's network, so peer {name:?} is without it");
            edge.settle(peer.index, FindingKind::NoCounterpart, text);
        }
        if allowed_ips.is_empty() || draft.edge.peers.iter().any(|other| other.public_key == key) {
            let text = format!("peer {name:?} has no key or prefix of its own");
            edge.settle(peer.index, FindingKind::NoCounterpart, text);
            continue;
        }
        let preshared_key_file = preshared(edge, &peer, &name, draft);
        edge.settle(peer.index, FindingKind::Carried, format!("peer {name:?} of the edge"));
        if peer.keepalive.is_some() {
            let text = format!("the keepalive of peer {name:?} is sent by the origin only");
            edge.settle(peer.index, FindingKind::Replaced, text);
        }
        let endpoint = peer.endpoint.clone();
        draft.edge.peers.push(EdgePeer { name, public_key: key, preshared_key_file, allowed_ips, endpoint });
    }
    edge.settle(near.index, FindingKind::Carried, "[interface] of the edge".to_owned());
    let others: Vec<Link> = edge.links.iter().filter(|link| link.name != near.name).cloned().collect();
    for link in others {
        let text =
            format!("the edge has one interface; {} and its peers need a gateway of their own", link.name);
        edge.settle(link.index, FindingKind::NoCounterpart, text);
    }
}

/// The origin's peers: the edge, and the peers dialled on other WireGuard interfaces.
fn edges(origin: &mut Router, far: &Link, draft: &mut Draft, edge: &str, edge_port: u16) {
    let mut names = Names::default();
    let mut links = vec![far.clone()];
    links.extend(origin.links.iter().filter(|link| link.name != far.name).cloned());
    for link in links {
        let is_main = link.name == far.name;
        let peer = origin.peers.iter().find(|peer| peer.link == link.name).cloned();
        let Some(peer) = peer.filter(|peer| is_main || peer.endpoint.is_some()) else {
            if is_main {
                absent_edge(&link, draft, edge, edge_port);
            }
            let kind = if is_main { FindingKind::Carried } else { FindingKind::NoCounterpart };
            let text =
                format!("{}: the forwarder dials out, and this link has no endpoint to dial", link.name);
            origin.settle(link.index, kind, text);
            continue;
        };
        let name = names.claim(if is_main { edge } else { peer_name(origin, &peer) }, "edge");
        let public_key = public_key(origin, &peer, draft);
        if draft.origin.peers.iter().any(|other| other.public_key == public_key) || link.address.is_empty() {
            let text = format!("{}: its peer has no key, or the link no address, of its own", link.name);
            origin.settle(link.index, FindingKind::NoCounterpart, text);
            continue;
        }
        let endpoint = peer.endpoint.clone().unwrap_or_else(|| {
            draft.note(
                FindingKind::Missing,
                format!("[[peer]] {name:?} endpoint: the edge's public name and port"),
            );
            format!("{edge}.example.com:{edge_port}")
        });
        let own = (!is_main).then(|| (link.address.clone(), format!("{name}-tunnel.key")));
        if let Some((_, file)) = &own {
            own_key(origin, &link, file, draft);
        }
        let allowed_ips = peer.allowed.clone();
        let preshared_key_file = preshared(origin, &peer, &name, draft);
        origin.settle(link.index, FindingKind::Carried, format!("the tunnel of peer {name:?}"));
        origin.settle(peer.index, FindingKind::Carried, format!("peer {name:?} of the origin"));
        let keepalive = peer.keepalive;
        draft.origin.peers.push(OriginPeer {
            name,
            public_key,
            preshared_key_file,
            endpoint,
            allowed_ips,
            keepalive,
            own,
        });
    }
}

/// The edge as a peer of the origin, where the origin's link has no peer.
fn absent_edge(link: &Link, draft: &mut Draft, edge: &str, edge_port: u16) {
    draft.note(FindingKind::Missing, format!("[[peer]] {edge:?}: {} has no peer at all", link.name));
    draft.origin.peers.push(OriginPeer {
        name: edge.to_owned(),
        public_key: NO_KEY.to_owned(),
        preshared_key_file: None,
        endpoint: format!("{edge}.example.com:{edge_port}"),
        allowed_ips: everywhere(),
        keepalive: None,
        own: None,
    });
}
