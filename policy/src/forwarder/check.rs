//! What must hold between the entries of `forwarder.toml`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::entries::{PeerAt, ReachAt};
use super::model::{Interface, MAX_WATCHED_NAMES, Peer, Service};
use crate::fields::At;
use crate::prefix::{self, covers};
use crate::reader::Reader;
use crate::sections::{Link, same_socket};
use crate::{Mtu, Name, Problem, Protocol, Protocols};

pub(super) fn everything(
    reader: &Reader<'_>,
    interface: &At<Interface>,
    peers: &[PeerAt],
    services: &[At<Service>],
    reach: &[ReachAt],
    pages: &[(&'static str, SocketAddr)],
) {
    mtu(reader, interface, peers);
    peer_keys(reader, peers);
    claims(reader, services);
    upstreams(reader, services, peers);
    watched_names(reader, services);
    reaches(reader, reach, peers, pages);
}

/// Entries whose match lies inside another's come before it; the file's order otherwise.
pub(super) fn most_specific_first(mut services: Vec<Service>) -> Vec<Service> {
    services.sort_by_key(|service| {
        let widest = service.addresses.iter().map(|prefix| prefix::host_bits(*prefix)).max();
        (widest.unwrap_or(u8::MAX), service.ports.count())
    });
    services
}

fn mtu(reader: &Reader<'_>, interface: &At<Interface>, peers: &[PeerAt]) {
    let own = interface.value.address.iter().chain(peers.iter().flat_map(|peer| &peer.value.address));
    let ipv6 = own.into_iter().any(IpNetwork::is_ipv6);
    match interface.value.mtu {
        Mtu::Fixed(mtu) if ipv6 && mtu < 1280 => {
            reader.report_at(interface.at.clone(), Problem::MtuBelowIpv6 { mtu });
        }
        Mtu::Fixed(_) | Mtu::Auto => {}
    }
}

/// Each peer is a device of its own: only keys are unique among them, and prefixes within one.
fn peer_keys(reader: &Reader<'_>, peers: &[PeerAt]) {
    let mut keys: BTreeMap<_, &Name> = BTreeMap::new();
    for peer in peers {
        let name = &peer.value.name;
        let next = peer.value.next_public_key.zip(peer.next_key_at.as_ref());
        for (key, at) in [(peer.value.public_key, &peer.key_at)].into_iter().chain(next) {
            match keys.insert(key, name) {
                None => {}
                Some(own) if own == name => reader.report_at(at.clone(), Problem::NextKeyIsCurrent),
                Some(other) => {
                    reader.report_at(at.clone(), Problem::DuplicatePeerKey { other: other.to_string() });
                }
            }
        }
        let mut prefixes = BTreeMap::new();
        for prefix in &peer.prefixes {
            if prefixes.insert(prefix.value, ()).is_some() {
                let problem =
                    Problem::IdenticalPrefix { prefix: prefix.value.to_string(), other: name.to_string() };
                reader.report_at(prefix.at.clone(), problem);
            }
        }
    }
}

fn claims(reader: &Reader<'_>, services: &[At<Service>]) {
    for (index, entry) in services.iter().enumerate() {
        let clash = services.iter().take(index).find(|other| clashes(&entry.value, &other.value));
        if let Some(other) = clash {
            let what = entry.value.matched();
            reader.report_at(
                entry.at.clone(),
                Problem::ServiceClash { what, other: other.value.name.to_string() },
            );
        }
    }
}

/// The forwarder's addresses in the tunnel are on no interface of its machine, so that no program
/// listens there.
fn upstreams(reader: &Reader<'_>, services: &[At<Service>], peers: &[PeerAt]) {
    let tunnel: Vec<IpNetwork> = peers.iter().flat_map(|peer| peer.value.address.clone()).collect();
    for entry in services {
        for upstream in entry.value.upstreams.iter().filter(|upstream| upstream.is_within(&tunnel)) {
            let name = &entry.value.name;
            let message = format!(
                "upstream {upstream} of service {name:?} is in the tunnel's own network, where no program of this machine \
                 listens: write 127.0.0.1 for a program here, or the LAN address of another machine"
            );
            reader.warn_at(entry.at.clone(), message);
        }
    }
}

/// Two entries clash when one packet would fit both and neither match lies inside the other.
fn clashes(a: &Service, b: &Service) -> bool {
    let through_one = a.peers.iter().any(|peer| b.peers.contains(peer));
    let protocols = a.protocols.iter().any(|protocol| b.protocols.contains(protocol));
    through_one
        && protocols
        && a.ports.overlaps(b.ports)
        && overlap(a, b)
        && a_inside_b(a, b) == a_inside_b(b, a)
}

fn overlap(a: &Service, b: &Service) -> bool {
    let meets = |a: &IpNetwork| b.addresses.iter().any(|b| covers(*a, *b) || covers(*b, *a));
    a.addresses.is_empty() || b.addresses.is_empty() || a.addresses.iter().any(meets)
}

fn a_inside_b(a: &Service, b: &Service) -> bool {
    let is_within = |a: &IpNetwork| b.addresses.iter().any(|b| covers(*b, *a));
    let address = b.addresses.is_empty() || !a.addresses.is_empty() && a.addresses.iter().all(is_within);
    address && b.ports.first() <= a.ports.first() && a.ports.last() <= b.ports.last()
}

/// Names beyond those that are watched are never shown as failing.
fn watched_names(reader: &Reader<'_>, services: &[At<Service>]) {
    let mut names = 0;
    for entry in services.iter().filter(|entry| entry.value.health.is_some()) {
        names += entry.value.names.len();
        if names > MAX_WATCHED_NAMES {
            let message = format!(
                "with this service there are {names} names; {MAX_WATCHED_NAMES} at most are watched, and nothing reports \
                 when one of the others fails"
            );
            return reader.warn_at(entry.at.clone(), message);
        }
    }
}

fn reaches(reader: &Reader<'_>, reach: &[ReachAt], peers: &[PeerAt], pages: &[(&'static str, SocketAddr)]) {
    for (index, entry) in reach.iter().enumerate() {
        let value = &entry.value;
        let other = reach.iter().take(index).find(|other| {
            same_socket(value.listen, other.value.listen) && share(value.protocols, other.value.protocols)
        });
        let mut pages = pages.iter().filter(|_| value.protocols.contains(Protocol::Tcp));
        let by_page = pages.find(|(_, page)| same_socket(*page, value.listen));
        let by_page = by_page.map(|(section, _)| (*section).to_owned());
        if let Some(other) = other.map(|other| other.value.name.to_string()).or(by_page) {
            let problem = Problem::ListenClash { listen: value.listen.to_string(), other };
            reader.report_at(entry.listen_at.clone(), problem);
        }
        let peer = peers.iter().find(|peer| peer.value.name == value.peer);
        let outside = peer
            .filter(|peer| !peer.value.allowed_ips.iter().any(|prefix| prefix.contains(value.target.ip())));
        if outside.is_some() {
            let address = value.target.ip().to_string();
            let problem = Problem::TargetNotAllowed { address, peer: value.peer.to_string() };
            reader.report_at(entry.target_at.clone(), problem);
        }
    }
}

/// The link's port at an edge's address in the tunnel belongs to the link alone.
///
/// Which address is the edge's is not known for certain, so that every address of the tunnel's own
/// network may be.
pub(super) fn link_port(reader: &Reader<'_>, link: Link, peers: &[PeerAt], reach: &[ReachAt]) {
    let may_be_edge = |peer: &Peer, address: IpAddr| {
        peer.probe == Some(address) || peer.address.iter().any(|own| own.contains(address))
    };
    for entry in reach {
        let target = entry.value.target;
        let mut through = peers.iter().filter(|peer| peer.value.name == entry.value.peer);
        let is_link = entry.value.protocols.contains(Protocol::Tcp)
            && target.port() == link.port
            && through.any(|peer| may_be_edge(&peer.value, target.ip()));
        if is_link {
            let what = "a [[reach]] to the tunnel's own network";
            reader.report_at(entry.target_at.clone(), Problem::OnLinkPort { what, port: link.port });
        }
    }
}

fn share(a: Protocols, b: Protocols) -> bool {
    a.iter().any(|protocol| b.contains(protocol))
}
