//! Our routes and rules, over rtnetlink. What carries our protocol number is ours; nothing else is
//! ever touched.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use super::links;
use super::netlink::{Changes, Undo, errno, failure};
use super::protocol::{Failure, Route, Rule};
use super::scope::Scope;
use super::server::Placed;

/// Adds the routes and rules of the plan that are missing.
///
/// What leads nowhere is added first and taken away last, so that no packet finds a gap between the
/// two.
pub(super) async fn add_missing(
    handle: &Handle,
    index: u32,
    Placed { scope, routing }: &Placed<'_>,
    changes: &mut Changes,
) -> Result<(), Failure> {
    let routes = ours(handle, scope.protocol).await?;
    let leading = routes.iter().filter(|(route, message)| leads_to(message, route, index));
    let present: HashSet<&Route> = leading.map(|(route, _)| route).collect();
    let mut wanted = routing.routes.clone();
    wanted.sort_by_key(|route| !route.unreachable);
    for route in &wanted {
        if !present.contains(route)
            && let Some(message) = add_route(handle, index, scope.protocol, route).await?
        {
            changes.added(describe_route(route, &scope.device), Undo::Route(message));
        }
    }
    let present = our_rules(handle, scope.protocol).await?;
    for rule in &routing.rules {
        if !present.iter().any(|(have, _)| have == rule)
            && let Some(message) = add_rule(handle, scope.protocol, rule).await?
        {
            changes.added(describe_rule(rule), Undo::Rule(message));
        }
    }
    Ok(())
}

/// Takes away our routes and rules that the plan does not name.
pub(super) async fn remove_superfluous(
    handle: &Handle,
    Placed { scope, routing }: &Placed<'_>,
    changes: &mut Changes,
) -> Result<(), Failure> {
    let mut kept = Vec::new();
    for (rule, message) in our_rules(handle, scope.protocol).await? {
        if routing.rules.contains(&rule) && !kept.contains(&rule) {
            kept.push(rule);
            continue;
        }
        delete_rule(handle, message, &rule).await?;
        changes.removed(describe_rule(&rule));
    }
    let mut routes = ours(handle, scope.protocol).await?;
    routes.sort_by_key(|(route, _)| route.unreachable);
    let wanted: HashSet<&Route> = routing.routes.iter().collect();
    for (route, message) in routes {
        if !wanted.contains(&route) {
            delete_route(handle, message, &route).await?;
            changes.removed(describe_route(&route, &scope.device));
        }
    }
    Ok(())
}

/// Takes away every route and rule with one of our protocol numbers.
pub(super) async fn remove(handle: &Handle, scope: &Scope, changes: &mut Changes) -> Result<(), Failure> {
    for protocol in scope.protocols() {
        for (rule, message) in our_rules(handle, protocol).await? {
            delete_rule(handle, message, &rule).await?;
            changes.removed(describe_rule(&rule));
        }
        for (route, message) in ours(handle, protocol).await? {
            delete_route(handle, message, &route).await?;
            changes.removed(describe_route(&route, &scope.device));
        }
    }
    Ok(())
}

/// Whether a route of ours leads into the device of the scope.
pub(super) async fn lead_into(handle: &Handle, scope: &Scope) -> Result<bool, Failure> {
    let Some(link) = links::find(handle, &scope.device).await? else { return Ok(false) };
    let into = RouteAttribute::Oif(link.header.index);
    Ok(ours(handle, scope.protocol).await?.iter().any(|(_, message)| message.attributes.contains(&into)))
}

async fn ours(handle: &Handle, protocol: u8) -> Result<Vec<(Route, RouteMessage)>, Failure> {
    let messages = with_protocol(handle, protocol).await?;
    Ok(messages.into_iter().map(|message| (route_of(&message), message)).collect())
}

/// Every route with a protocol number, of all tables.
pub(super) async fn with_protocol(handle: &Handle, protocol: u8) -> Result<Vec<RouteMessage>, Failure> {
    let mut found = Vec::new();
    for query in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(query).execute();
        while let Some(message) = next(&mut routes, "reading routes").await? {
            if u8::from(message.header.protocol) == protocol {
                found.push(message);
            }
        }
    }
    Ok(found)
}

pub(super) async fn our_rules(handle: &Handle, protocol: u8) -> Result<Vec<(Rule, RuleMessage)>, Failure> {
    let mut found = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut rules = handle.rule().get(version).execute();
        while let Some(message) = next(&mut rules, "reading routing rules").await? {
            let tag = RuleAttribute::Protocol(RouteProtocol::from(protocol));
            if message.attributes.contains(&tag) {
                found.push((rule_of(&message), message));
            }
        }
    }
    Ok(found)
}

/// The next message; a kernel without the address family has none.
async fn next<T>(
    stream: &mut (impl TryStreamExt<Ok = T, Error = Error> + Unpin),
    doing: &str,
) -> Result<Option<T>, Failure> {
    match stream.try_next().await {
        Ok(message) => Ok(message),
        Err(error) if is_absent_family(&error) => Ok(None),
        Err(error) => Err(failure(doing, &error)),
    }
}

pub(super) fn is_absent_family(error: &Error) -> bool {
    matches!(errno(error), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// Adds a route and gives its message; `None` where the kernel does not have its address family.
async fn add_route(
    handle: &Handle,
    index: u32,
    protocol: u8,
    route: &Route,
) -> Result<Option<RouteMessage>, Failure> {
    let message = route_message(index, protocol, route);
    match handle.route().add(message.clone()).replace().execute().await {
        Ok(()) => Ok(Some(message)),
        Err(error) if route.destination.is_ipv6() && is_absent_family(&error) => Ok(None),
        Err(error) => Err(failure(&format!("adding the route to {}", route.destination), &error)),
    }
}

fn route_message(index: u32, protocol: u8, route: &Route) -> RouteMessage {
    let kind = if route.unreachable { RouteType::Unreachable } else { RouteType::Unicast };
    let protocol = RouteProtocol::from(protocol);
    let mut message = match route.destination {
        IpNetwork::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix())
            .table_id(route.table)
            .priority(route.metric)
            .protocol(protocol)
            .kind(kind)
            .build(),
        IpNetwork::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to.network(), to.prefix())
            .table_id(route.table)
            .priority(route.metric)
            .protocol(protocol)
            .kind(kind)
            .build(),
    };
    if !route.unreachable {
        message.attributes.push(RouteAttribute::Oif(index));
        message.header.scope = RouteScope::Link;
    }
    message
}

async fn delete_route(handle: &Handle, message: RouteMessage, route: &Route) -> Result<(), Failure> {
    match handle.route().del(message).execute().await {
        // The device took it along.
        Err(error) if errno(&error) == Some(libc::ESRCH) => Ok(()),
        other => {
            other.map_err(|error| failure(&format!("removing the route to {}", route.destination), &error))
        }
    }
}

/// Adds a rule and gives its message; `None` where the kernel does not have its address family.
pub(super) async fn add_rule(
    handle: &Handle,
    protocol: u8,
    rule: &Rule,
) -> Result<Option<RuleMessage>, Failure> {
    let mut request = handle.rule().add();
    let message = rule_message(protocol, rule);
    *request.message_mut() = message.clone();
    match request.execute().await {
        Ok(()) => Ok(Some(message)),
        Err(error) if rule.ipv6 && is_absent_family(&error) => Ok(None),
        Err(error) => Err(failure(&format!("adding the {}", describe_rule(rule)), &error)),
    }
}

fn rule_message(protocol: u8, rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    match u8::try_from(rule.table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RuleAttribute::Table(rule.table)),
    }
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(protocol)));
    if let Some(mark) = rule.fwmark {
        message.attributes.push(RuleAttribute::FwMark(mark));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.prefix();
        message.attributes.push(RuleAttribute::Destination(to.network()));
    }
    message
}

pub(super) async fn delete_rule(handle: &Handle, message: RuleMessage, rule: &Rule) -> Result<(), Failure> {
    match handle.rule().del(message).execute().await {
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|error| failure(&format!("removing the {}", describe_rule(rule)), &error)),
    }
}

fn route_of(message: &RouteMessage) -> Route {
    let mut table = u32::from(message.header.table);
    let mut metric = 0;
    let mut to = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    Route {
        destination: prefix(to, message.header.address_family, message.header.destination_prefix_length),
        unreachable: message.header.kind == RouteType::Unreachable,
        table,
        metric,
    }
}

fn rule_of(message: &RuleMessage) -> Rule {
    let mut rule = Rule {
        ipv6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        fwmark: None,
        to: None,
        table: u32::from(message.header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.fwmark = Some(*mark),
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Destination(to) => {
                rule.to = IpNetwork::new(*to, message.header.dst_len).ok();
            }
            _ => {}
        }
    }
    rule
}

pub(super) fn prefix(address: Option<IpAddr>, family: AddressFamily, length: u8) -> IpNetwork {
    let any = if family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let address = address.unwrap_or(any);
    IpNetwork::new(address, length).unwrap_or_else(|_| IpNetwork::from(address))
}

fn leads_to(message: &RouteMessage, route: &Route, index: u32) -> bool {
    route.unreachable || message.attributes.contains(&RouteAttribute::Oif(index))
}

fn describe_route(route: &Route, device: &str) -> String {
    let Route { destination, table, metric, .. } = route;
    if route.unreachable {
        format!("route unreachable {destination} table {table} metric {metric}")
    } else {
        format!("route {destination} dev {device} table {table} metric {metric}")
    }
}

fn describe_rule(rule: &Rule) -> String {
    let family = if rule.ipv6 { "IPv6" } else { "IPv4" };
    let mark = rule.fwmark.map(|mark| format!(" fwmark {mark:#x}")).unwrap_or_default();
    let to = rule.to.map(|to| format!(" to {to}")).unwrap_or_default();
    format!("rule {family} priority {}{mark}{to} lookup {}", rule.priority, rule.table)
}
