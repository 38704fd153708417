//! Reads interfaces, addresses, routes and neighbours over rtnetlink, which needs no privilege.

use std::net::IpAddr;

use futures_util::{TryStream, TryStreamExt};
use ipnetwork::IpNetwork;
use policy::system::{Link, LinkKind, LinkRoute, Neighbour, System};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use super::netlink::failure;
use super::protocol::{Failure, FailureKind};
use super::routes::{is_absent_family, prefix};

/// The kernel's main table, and its default one.
const MAIN: u32 = 254;
/// See [`MAIN`].
const DEFAULT: u32 = 253;

/// The machine's interfaces as they are now; routes with one of the protocol numbers `own` are left
/// out.
///
/// It blocks, and must not be called inside an async runtime.
///
/// # Errors
/// What the kernel said.
pub fn read_system(own: &[u8]) -> Result<System, Failure> {
    inside(async |handle| read(handle, own).await)
}

/// Runs one request with a connection of its own.
fn inside<T>(request: impl AsyncFnOnce(&Handle) -> Result<T, Failure>) -> Result<T, Failure> {
    let failed = |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("netlink: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let answer = request(&handle).await;
        connection.abort();
        answer
    })
}

pub(super) async fn read(handle: &Handle, own: &[u8]) -> Result<System, Failure> {
    let mut links: Vec<Link> = all(handle.link().get().execute(), "links").await?.iter().map(link).collect();
    for message in all(handle.address().get().execute(), "addresses").await? {
        let index = message.header.index;
        if let (Some(link), Some(address)) =
            (links.iter_mut().find(|link| link.index == index), address_of(&message))
        {
            link.addresses.push(address);
        }
    }
    let mut routes = Vec::new();
    let four = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let six = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for query in [four, six] {
        for message in all(handle.route().get(query).execute(), "routes").await? {
            let unicast = message.header.kind == RouteType::Unicast;
            if unicast && !own.contains(&u8::from(message.header.protocol)) {
                routes.extend(ways(&message));
            }
        }
    }
    routes.sort_unstable();
    let neighbours = all(handle.neighbours().get().execute(), "neighbours").await?;
    let mut neighbours: Vec<Neighbour> = neighbours.iter().filter_map(neighbour).collect();
    neighbours.sort_unstable();
    let (mut rules, mut has_foreign_rules) = (Vec::new(), false);
    for version in [IpVersion::V4, IpVersion::V6] {
        let messages = all(handle.rule().get(version).execute(), "routing rules").await?;
        let others: Vec<_> = messages.iter().filter_map(|rule| foreign(rule, own)).collect();
        has_foreign_rules |= others.iter().any(|rule| !rule.is_kernels);
        rules.extend(others.iter().map(|rule| rule.priority));
    }
    rules.sort_unstable();
    rules.dedup();
    Ok(System { links, routes, neighbours, rules, has_foreign_rules })
}

/// A routing rule of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRule {
    /// Whether it is for IPv6; else for IPv4.
    pub ipv6: bool,
    /// Its priority and table.
    pub text: String,
}

/// The rules of others that are asked before priority `first`; those for local addresses are left
/// out.
///
/// # Errors
/// What the kernel said.
pub fn rules_before(first: u32, own: &[u8]) -> Result<Vec<ForeignRule>, Failure> {
    inside(async |handle| {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let ipv6 = matches!(version, IpVersion::V6);
            let rules = all(handle.rule().get(version).execute(), "routing rules").await?;
            let before =
                rules.iter().filter_map(|rule| foreign(rule, own)).filter(|rule| rule.priority <= first);
            found.extend(before.map(|rule| ForeignRule {
                ipv6,
                text: format!("rule {} lookup {}", rule.priority, rule.table),
            }));
        }
        Ok(found)
    })
}

/// A rule that is not the edge's, nor the first one, for local addresses.
struct Other {
    priority: u32,
    table: u32,
    /// Whether the kernel made it, for its main or default table.
    is_kernels: bool,
}

fn foreign(rule: &RuleMessage, own: &[u8]) -> Option<Other> {
    let (mut priority, mut table, mut protocol) = (0, u32::from(rule.header.table), 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Protocol(number) => protocol = u8::from(*number),
            _ => {}
        }
    }
    let is_kernels = protocol == u8::from(RouteProtocol::Kernel) && matches!(table, MAIN | DEFAULT);
    (priority > 0 && !own.contains(&protocol)).then_some(Other { priority, table, is_kernels })
}

/// Every message; a kernel without the address family has none.
async fn all<T>(stream: impl TryStream<Ok = T, Error = Error>, what: &str) -> Result<Vec<T>, Failure> {
    match stream.try_collect().await {
        Ok(messages) => Ok(messages),
        Err(error) if is_absent_family(&error) => Ok(Vec::new()),
        Err(error) => Err(failure(&format!("reading {what}"), &error)),
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        master: None,
        addresses: Vec::new(),
    };
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = LinkKind::Loopback;
    }
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(master) => link.master = Some(*master).filter(|&master| master != 0),
            LinkAttribute::LinkInfo(infos) => {
                let mut kinds = infos.iter().filter_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Bridge) => Some(LinkKind::Bridge),
                    LinkInfo::Kind(InfoKind::Veth | InfoKind::Tun | InfoKind::Netkit) => {
                        Some(LinkKind::Virtual)
                    }
                    _ => None,
                });
                link.kind = kinds.next().unwrap_or(link.kind);
            }
            _ => {}
        }
    }
    link
}

/// The machine's own address; that of a point-to-point link with no network, since the other side's
/// is a route.
fn address_of(message: &AddressMessage) -> Option<IpNetwork> {
    let (mut local, mut on_link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => on_link = Some(*address),
            _ => {}
        }
    }
    match (local, on_link) {
        // rtnetlink(7): with a peer, `Address` is the other side's.
        (Some(own), Some(other)) if own != other => Some(IpNetwork::from(own)),
        (own, other) => IpNetwork::new(own.or(other)?, message.header.prefix_len).ok(),
    }
}

/// A route for each way it has.
pub(super) fn ways(message: &RouteMessage) -> Vec<LinkRoute> {
    let mut route = LinkRoute {
        destination: prefix(None, message.header.address_family, message.header.destination_prefix_length),
        link: 0,
        gateway: None,
        table: u32::from(message.header.table),
        metric: 0,
        protocol: u8::from(message.header.protocol),
    };
    let mut ways = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.link = *index,
            RouteAttribute::Destination(to) => {
                let length = message.header.destination_prefix_length;
                route.destination = prefix(address(to), message.header.address_family, length);
            }
            RouteAttribute::MultiPath(hops) => {
                ways = hops.iter().map(|hop| (hop.interface_index, gateway(&hop.attributes))).collect();
            }
            _ => {}
        }
    }
    if ways.is_empty() {
        ways.push((route.link, gateway(&message.attributes)));
    }
    ways.into_iter()
        .filter(|(link, _)| *link != 0)
        .map(|(link, gateway)| LinkRoute { link, gateway, ..route })
        .collect()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(to) => address(to),
        RouteAttribute::Via(RouteVia::Inet6(to)) => Some(IpAddr::V6(*to)),
        RouteAttribute::Via(RouteVia::Inet(to)) => Some(IpAddr::V4(*to)),
        _ => None,
    })
}

fn address(to: &RouteAddress) -> Option<IpAddr> {
    match to {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut at, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                at = Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                at = Some(IpAddr::V6(*address))
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(Neighbour { link: message.header.ifindex, address: at?, mac: mac.filter(|mac| *mac != [0; 6])? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_of_a_point_to_point_link_is_not_the_other_sides() {
        let message = |attributes: &[AddressAttribute], length| {
            let mut message = AddressMessage::default();
            message.header.prefix_len = length;
            message.attributes = attributes.to_vec();
            address_of(&message).map(|address| address.to_string())
        };
        let ip = |text: &str| text.parse().unwrap();
        let (local, address) = (AddressAttribute::Local, AddressAttribute::Address);
        let ppp = [address(ip("198.18.9.1")), local(ip("198.18.9.2"))];
        assert_eq!(message(&ppp, 32).as_deref(), Some("198.18.9.2/32"));
        let ethernet = [address(ip("192.0.2.2")), local(ip("192.0.2.2"))];
        assert_eq!(message(&ethernet, 24).as_deref(), Some("192.0.2.2/24"));
        assert_eq!(message(&[address(ip("2001:db8::2"))], 64).as_deref(), Some("2001:db8::2/64"));
    }

    #[test]
    fn loopback_is_read_with_its_address_and_carries_no_default_route() {
        let system = read_system(&[157]).unwrap();
        let lo = system.named("lo").unwrap();
        assert_eq!((lo.index, lo.kind), (1, LinkKind::Loopback));
        assert!(!system.is_uplink(lo.index));
    }
}
