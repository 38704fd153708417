//! Tables for the way back: copies of each uplink's own default routes, and rules that ask them by
//! packet mark.
//!
//! The helper copies the routes from the kernel itself, so that no caller can lead replies
//! elsewhere. All of it carries a protocol number of its own, the one behind that of the tunnel's
//! routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::interfaces::read;
use super::netlink::{Changes, Netlink, failure};
use super::protocol::{Failure, Reply, Rule, UplinkTable};
use super::routes::{add_rule, delete_rule, is_absent_family, our_rules};
use super::scope::Scope;
use policy::system::{LinkRoute, System};

/// Of copied routes, whatever the original has: there is one for each table and family.
const METRIC: u32 = 100;

/// A copy of a default route.
type Copied = (u32, bool, u32, Option<IpAddr>);

/// Makes tables and rules what `wanted` says, which lies within the scope.
pub(super) fn follow(netlink: &Netlink, scope: &Scope, wanted: &[UplinkTable]) -> Result<Reply, Failure> {
    let protocols @ [_, protocol] = scope.protocols();
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        let system = read(handle, &protocols).await?;
        routes(handle, protocol, &copies(&system, wanted), &mut changes).await?;
        rules(handle, protocol, wanted, &mut changes).await?;
        Ok(Reply::Changed { lines: changes.lines })
    })
}

/// For each table and family the best default route of its link: of the main table before others,
/// then by metric.
fn copies(system: &System, wanted: &[UplinkTable]) -> Vec<Copied> {
    let mut copies = Vec::new();
    for uplink in wanted {
        for ipv6 in [false, true] {
            let of_family = |route: &&LinkRoute| route.destination.is_ipv6() == ipv6;
            let best = system
                .default_routes(uplink.link)
                .filter(of_family)
                .min_by_key(|route| (route.destination.prefix(), route.table != MAIN, route.metric));
            copies.extend(best.map(|route| (uplink.table, ipv6, uplink.link, route.gateway)));
        }
    }
    copies
}

/// The kernel's main table.
const MAIN: u32 = 254;

async fn routes(
    handle: &Handle,
    protocol: u8,
    wanted: &[Copied],
    changes: &mut Changes,
) -> Result<(), Failure> {
    let present = ours(handle, protocol).await?;
    for copy in wanted.iter().filter(|copy| !present.iter().any(|(have, _)| have == *copy)) {
        // One of another way goes by being replaced.
        match handle.route().add(message(protocol, copy)).replace().execute().await {
            Ok(()) => changes.lines.push(format!("+ {}", describe(copy))),
            Err(error) if copy.1 && is_absent_family(&error) => {}
            Err(error) => return Err(failure(&format!("adding {}", describe(copy)), &error)),
        }
    }
    for (copy, message) in ours(handle, protocol).await? {
        if !wanted.contains(&copy) {
            match handle.route().del(message).execute().await {
                // The interface took it along.
                Err(error) if super::netlink::errno(&error) == Some(libc::ESRCH) => {}
                other => {
                    other.map_err(|error| failure(&format!("removing {}", describe(&copy)), &error))?;
                }
            }
            changes.lines.push(format!("- {}", describe(&copy)));
        }
    }
    Ok(())
}

async fn rules(
    handle: &Handle,
    protocol: u8,
    wanted: &[UplinkTable],
    changes: &mut Changes,
) -> Result<(), Failure> {
    let rule = |uplink: &UplinkTable, ipv6| Rule {
        ipv6,
        priority: uplink.priority,
        fwmark: Some(uplink.mark),
        to: None,
        table: uplink.table,
    };
    let wanted: Vec<Rule> =
        wanted.iter().flat_map(|uplink| [false, true].map(|ipv6| rule(uplink, ipv6))).collect();
    let present = our_rules(handle, protocol).await?;
    for rule in wanted.iter().filter(|rule| !present.iter().any(|(have, _)| have == *rule)) {
        if add_rule(handle, protocol, rule).await?.is_some() {
            changes.lines.push(format!("+ rule for replies with mark {:#x}", rule.fwmark.unwrap_or(0)));
        }
    }
    for (rule, message) in present {
        if !wanted.contains(&rule) {
            delete_rule(handle, message, &rule).await?;
            changes.lines.push(format!("- rule for replies with mark {:#x}", rule.fwmark.unwrap_or(0)));
        }
    }
    Ok(())
}

async fn ours(handle: &Handle, protocol: u8) -> Result<Vec<(Copied, RouteMessage)>, Failure> {
    let messages = super::routes::with_protocol(handle, protocol).await?;
    Ok(messages.into_iter().filter_map(|message| Some((copied(&message)?, message))).collect())
}

fn copied(message: &RouteMessage) -> Option<Copied> {
    let way = super::interfaces::ways(message).into_iter().next()?;
    Some((way.table, way.destination.is_ipv6(), way.link, way.gateway))
}

fn message(protocol: u8, &(table, ipv6, link, gateway): &Copied) -> RouteMessage {
    let protocol = RouteProtocol::from(protocol);
    let mut message = if ipv6 {
        RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(table)
            .priority(METRIC)
            .protocol(protocol)
            .kind(RouteType::Unicast)
            .build()
    } else {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .priority(METRIC)
            .protocol(protocol)
            .kind(RouteType::Unicast)
            .build()
    };
    message.attributes.push(RouteAttribute::Oif(link));
    match gateway {
        Some(IpAddr::V4(next)) if !ipv6 => {
            message.attributes.push(RouteAttribute::Gateway(next.into()));
        }
        Some(IpAddr::V6(next)) if ipv6 => message.attributes.push(RouteAttribute::Gateway(next.into())),
        Some(IpAddr::V6(next)) => message.attributes.push(RouteAttribute::Via(next.into())),
        _ => message.header.scope = rtnetlink::packet_route::route::RouteScope::Link,
    }
    if gateway.is_some() {
        // The next hop may lie outside the interface's networks, as its original may.
        message.header.flags |= RouteFlags::Onlink;
    }
    message
}

fn describe(&(table, ipv6, link, gateway): &Copied) -> String {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    format!("route back {family} by interface {link}{via} table {table}")
}
