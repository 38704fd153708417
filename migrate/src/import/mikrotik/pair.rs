//! Which interfaces of two routers are the ends of one tunnel.

use ipnetwork::IpNetwork;

use super::router::{Link, LinkPeer, Router};
use crate::import::outcome::{Derive, ImportError};
use policy::text;

/// A sign that two interfaces are one tunnel, and how to look for it.
type Sign<'s> = (&'static str, &'s dyn Fn(&Link, &Link) -> bool);

/// The WireGuard interfaces, one of each router, that are the ends of one tunnel, and the sign by
/// which that is known.
pub(super) fn tunnel(
    edge: &Router,
    origin: &Router,
    derive: Derive<'_>,
) -> Option<(Link, Link, &'static str)> {
    let signs: [Sign<'_>; 4] = [
        ("the public key of each is a peer of the other", &|near, far| {
            knows(edge, near, origin, far, derive) && knows(origin, far, edge, near, derive)
        }),
        ("their addresses are in one network", &shares_network),
        ("network= of one is the address of the other", &|near, far| names(near, far) || names(far, near)),
        ("the allowed-address of each holds the address of the other", &|near, far| {
            holds(edge, near, far) && holds(origin, far, near)
        }),
    ];
    let pairs = || edge.links.iter().flat_map(|near| origin.links.iter().map(move |far| (near, far)));
    let found = signs.iter().find_map(|(sign, is)| {
        let (near, far) = pairs().find(|(near, far)| is(near, far))?;
        Some((near.clone(), far.clone(), *sign))
    })?;
    let usable = |link: &Link| !link.address.is_empty();
    (usable(&found.0) && usable(&found.1)).then_some(found)
}

/// Whether a router with its end of the tunnel shows a sign.
type Shows = fn(&Router, &Link) -> bool;

/// The error for exports in the wrong order: every sign of which router dials, and which publishes,
/// says so.
pub(super) fn swapped(edge: (&Router, &Link), origin: (&Router, &Link)) -> Option<ImportError> {
    let signs: [(&str, Shows); 3] = [
        ("knows where to dial", dials),
        ("keeps the tunnel alive", keeps_alive),
        ("publishes nothing into the tunnel", |router, link| !publishes(router, link)),
    ];
    let contradict = signs.iter().all(|(_, is)| is(edge.0, edge.1) && !is(origin.0, origin.1));
    contradict.then(|| {
        let texts: Vec<&str> = signs.iter().map(|(text, _)| *text).collect();
        let (file, other) = (&edge.0.file, &origin.0.file);
        ImportError::Ambiguous {
            at: file.clone(),
            what: format!(
                "this router {}, and {other} does the opposite: give the edge's export first: {other} {file}",
                texts.join(", ")
            ),
        }
    })
}

fn on<'r>(router: &'r Router, link: &'r Link) -> impl Iterator<Item = &'r LinkPeer> {
    router.peers.iter().filter(|peer| peer.link == link.name)
}

fn dials(router: &Router, link: &Link) -> bool {
    on(router, link).any(|peer| peer.endpoint.is_some())
}

fn keeps_alive(router: &Router, link: &Link) -> bool {
    on(router, link).any(|peer| peer.keepalive.is_some())
}

/// Whether a dst-nat leads to a peer of the interface.
fn publishes(router: &Router, link: &Link) -> bool {
    let menus = ["ip firewall nat", "ipv6 firewall nat"];
    let mut rules = menus.iter().flat_map(|menu| router.of(menu));
    rules.any(|(_, rule)| {
        let to = rule.value("to-addresses").or_else(|| rule.value("to-address"));
        let to = to.and_then(|to| text::prefix(to.split('-').next().unwrap_or(to)));
        matches!(rule.value("action"), Some("dst-nat" | "netmap"))
            && to.is_some_and(|to| {
                on(router, link)
                    .any(|peer| peer.allowed.iter().any(|one| one.prefix() > 0 && one.contains(to.ip())))
            })
    })
}

fn shares_network(near: &Link, far: &Link) -> bool {
    let both = |near: &IpNetwork, far: &IpNetwork| {
        near.is_ipv4() == far.is_ipv4()
            && near.ip() != far.ip()
            && near.contains(far.ip())
            && far.contains(near.ip())
    };
    near.address.iter().any(|near| far.address.iter().any(|far| both(near, far)))
}

fn names(one: &Link, other: &Link) -> bool {
    one.others.iter().any(|named| other.address.iter().any(|address| address.ip() == named.ip()))
}

/// Whether a peer of `link` may send from the address of `other`.
fn holds(router: &Router, link: &Link, other: &Link) -> bool {
    let allowed = router.peers.iter().filter(|peer| peer.link == link.name).flat_map(|peer| &peer.allowed);
    let narrow: Vec<&IpNetwork> = allowed.collect();
    other.address.iter().any(|address| narrow.iter().any(|prefix| prefix.contains(address.ip())))
}

/// Whether a peer of `link` has the public key of `other`'s private key.
fn knows(router: &Router, link: &Link, others: &Router, other: &Link, derive: Derive<'_>) -> bool {
    let private = others.entry(other.index).and_then(|entry| entry.value("private-key"));
    let Some(public) = private.and_then(derive) else { return false };
    let has = |peer: &LinkPeer| {
        let key = router.entry(peer.index).and_then(|entry| entry.value("public-key"));
        key == Some(public.to_string().as_str())
    };
    router.peers.iter().any(|peer| peer.link == link.name && has(peer))
}
