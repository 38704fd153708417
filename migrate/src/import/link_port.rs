//! A port for the link, which nothing that was imported has.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::draft::{Allow, Edge, Origin};
use policy::gateway::Service;
use policy::sections::Link;
use policy::{PortRange, Protocol};

/// Ports that are tried where the usual one is taken: those of no registered service (RFC 6335).
const DYNAMIC: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// The usual port of the link where that is free, else another one; `None` where none is.
pub(super) fn free(edge: &Edge, origin: &Origin) -> Option<u16> {
    let is_free = |port: &u16| {
        let of_link = |ports: &PortRange| ports.contains(*port);
        edge.listen_port != *port
            && !edge
                .publish
                .iter()
                .any(|other| other.protocols.contains(Protocol::Tcp) && of_link(&other.forward.ports))
            && !edge.allow.iter().filter_map(|allow| to_edge(allow, edge)).flatten().any(of_link)
            && !origin.reach.iter().any(|reach| {
                reach.target.port() == *port
                    && origin.address.iter().any(|own| own.contains(reach.target.ip()))
            })
    };
    std::iter::once(Link::default().port).chain(DYNAMIC).find(is_free)
}

/// The TCP ports that peers may open at an address that the edge has in the tunnel.
fn to_edge<'a>(allow: &'a Allow, edge: &Edge) -> Option<&'a [PortRange]> {
    let Service::Ports { protocols, ports } = &allow.service else { return None };
    let is_own = |to: &String| {
        let prefix = to.parse::<IpNetwork>().or_else(|_| to.parse::<IpAddr>().map(IpNetwork::from));
        to == "self" || prefix.is_ok_and(|prefix| edge.address.iter().any(|own| prefix.contains(own.ip())))
    };
    let of_peer = allow.from.iter().any(|from| from.starts_with("peer:"));
    (of_peer && protocols.contains(Protocol::Tcp) && allow.to.iter().any(is_own)).then_some(ports)
}
