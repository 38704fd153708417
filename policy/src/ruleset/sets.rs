//! Named sets and maps: what the policy fills, what others fill, what packets fill.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::chains::leads_to_wan;
use super::json::{Family, concat, ports, prefix};
use super::owned::{elements, owned};
use super::services::{ServiceKind, ServiceMark};
use super::{Content, Set};
use crate::gateway::{Party, Policy, Publish, SourceHandling, Target};
use crate::prefix::{disjoint, special_prefixes};
use crate::sections::List;
use crate::{AllowList, Name, PortRange, Protocol};

/// The most addresses that a set filled by others or by packets may hold; nft's own default.
const DYNAMIC_SIZE: u32 = 65_535;
/// The set of marks of flows to the internet.
pub(super) const TO_WAN: &str = "to_wan";
/// The sets of addresses that no host of the internet has, one for each family.
pub(super) const SPECIAL: &str = "special";
/// The sets of addresses from which peers begin their links, one for each family.
pub(super) const LINK_SOURCES: &str = "link_peers";
/// The sets that meter how often each begins one, one for each family.
pub(super) const NEW_LINKS_BY_SOURCE: &str = "new_links";
/// How long a source is remembered by a meter after its last new connection, in seconds.
const METER_SECONDS: u32 = 120;

/// The name of a set or map of ports of one protocol; with a family also of one IP version.
///
/// There is one for each protocol, since a key of several parts that begins with the one-byte
/// protocol number needs a conversion in nft 1.0.6 that Linux 6.12.115 and later refuse.
pub(super) fn by_protocol(what: &str, protocol: Protocol, family: Option<Family>) -> String {
    let digit = family.map(|family| family.digit().to_string()).unwrap_or_default();
    format!("{what}_{}{digit}", protocol.as_str())
}

/// The name of a per-family set of one service or list.
pub(super) fn set_name(what: &str, family: Family, name: &Name) -> String {
    format!("{what}{}_{name}", family.digit())
}

pub(super) fn fixed(name: impl Into<String>, declaration: Value, elements: Vec<Value>) -> Set {
    Set { name: name.into(), declaration, content: Content::Static(elements) }
}

fn interval(kind: &Value) -> Value {
    json!({"type": kind, "flags": ["interval"]})
}

/// A set of prefixes of one family.
pub(super) fn prefixes(name: String, family: Family, members: impl Iterator<Item = IpNetwork>) -> Set {
    let elements = disjoint(members.filter(|&member| family.holds(member))).into_iter().map(prefix).collect();
    fixed(name, interval(&json!(family.address_type())), elements)
}

/// Sets about the machine and its surroundings.
pub(super) fn places(policy: &Policy) -> Vec<Set> {
    let mut sets: Vec<Set> = Protocol::BOTH.map(|protocol| accepted(policy, protocol)).into();
    for family in Family::BOTH {
        let digit = family.digit();
        sets.push(prefixes(format!("lan{digit}"), family, policy.lan.iter().copied()));
        sets.push(prefixes(format!("tunnel{digit}"), family, policy.tunnel_prefixes()));
        let own = policy.interface.address.iter().map(|address| IpNetwork::from(address.ip()));
        sets.push(prefixes(format!("own{digit}"), family, own));
        let declaration = json!({"type": family.address_type(), "flags": ["timeout"], "size": DYNAMIC_SIZE});
        sets.push(Set { name: format!("bans{digit}"), declaration, content: Content::Outside });
    }
    sets
}

/// Ports of one protocol in `[wan] accept`, joined where entries overlap.
pub(super) fn accepted_ports(policy: &Policy, protocol: Protocol) -> Vec<PortRange> {
    let of_protocol = policy.wan.accept.iter().filter(|accept| accept.protocols.contains(protocol));
    PortRange::merged(of_protocol.map(|accept| accept.ports).collect())
}

fn accepted(policy: &Policy, protocol: Protocol) -> Set {
    let elements = accepted_ports(policy, protocol).into_iter().map(ports).collect();
    fixed(by_protocol("accept", protocol, None), interval(&json!("inet_service")), elements)
}

/// Maps from public ports to services, and from services to targets.
pub(super) fn publishes(policy: &Policy, marks: &[ServiceMark]) -> Vec<Set> {
    let mut sets = Vec::new();
    for family in Family::BOTH {
        let mut maps = TargetMaps::default();
        for (publish, service) in policy.publish.iter().zip(marks) {
            if let Some(target) =
                publish.targets.iter().find(|target| target.address.is_ipv6() == family.is_ipv6())
            {
                maps.add(publish, target, service.mark);
            }
        }
        sets.extend(maps.sets(family));
    }
    sets
}

#[derive(Default)]
struct TargetMaps {
    tcp: PortMaps,
    udp: PortMaps,
    address: Vec<Value>,
    port: Vec<Value>,
    shifted: Vec<Value>,
}

/// From the ports of one protocol to services.
#[derive(Default)]
struct PortMaps {
    by_port: Vec<Value>,
    by_address: Vec<Value>,
    of_wan: Vec<Value>,
}

impl TargetMaps {
    fn add(&mut self, publish: &Publish, target: &Target, mark: u32) {
        for transport in publish.protocols.iter() {
            let port = ports(publish.ports);
            let maps = match transport {
                Protocol::Tcp => &mut self.tcp,
                Protocol::Udp => &mut self.udp,
            };
            match publish.address {
                None if publish.wan_only => maps.of_wan.push(json!([port, mark])),
                None => maps.by_port.push(json!([port, mark])),
                Some(address) => {
                    let key = concat([json!(address.to_string()), port]);
                    maps.by_address.push(json!([key, mark]));
                }
            }
        }
        self.address.push(json!([mark, target.address.to_string()]));
        if publish.ports.count() == 1 {
            self.port.push(json!([mark, target.ports.first()]));
        } else if publish.ports != target.ports {
            let pairs = every_port(publish.ports).zip(every_port(target.ports));
            self.shifted.extend(pairs.map(|(from, to)| json!([{"concat": [mark, from]}, to])));
        }
    }

    /// Addresses and ports are maps of their own: the JSON of nft 1.0.6 cannot declare a map to
    /// pairs.
    fn sets(self, family: Family) -> Vec<Set> {
        let (digit, address) = (family.digit(), family.address_type());
        let service = |kind: Value| json!({"type": kind, "map": "mark", "flags": ["interval"]});
        let port = |kind: Value| json!({"type": kind, "map": "inet_service"});
        let mut sets = Vec::new();
        for (protocol, maps) in [(Protocol::Tcp, self.tcp), (Protocol::Udp, self.udp)] {
            let name = |what: &str| by_protocol(what, protocol, Some(family));
            sets.push(fixed(name("publish"), service(json!("inet_service")), maps.by_port));
            sets.push(fixed(name("wan"), service(json!("inet_service")), maps.of_wan));
            let bound = service(json!([address, "inet_service"]));
            sets.push(fixed(name("bound"), bound, maps.by_address));
        }
        sets.push(fixed(format!("target{digit}"), json!({"type": "mark", "map": address}), self.address));
        sets.push(fixed(format!("port{digit}"), port(json!("mark")), self.port));
        sets.push(fixed(format!("shifted{digit}"), port(json!(["mark", "inet_service"])), self.shifted));
        sets
    }
}

fn every_port(range: PortRange) -> impl Iterator<Item = u16> {
    range.first()..=range.last()
}

/// Maps from services to their counters and to the chains of those that have limits or a bandwidth.
pub(super) fn accounts(policy: &Policy, marks: &[ServiceMark]) -> Vec<Set> {
    let counters =
        |name: fn(&ServiceMark) -> String| marks.iter().map(|m| json!([m.mark, name(m)])).collect();
    let jump = |chain: &str, mark: &ServiceMark| json!([mark.mark, {"jump": {"target": format!("{chain}_{}", mark.name)}}]);
    let publishes = || policy.publish.iter().zip(marks);
    let limits = publishes().filter(|(publish, _)| has_limits(publish)).map(|(_, mark)| jump("limit", mark));
    let shaped = publishes().filter(|(publish, _)| publish.limits.bandwidth.is_some());
    let shape = shaped.map(|(_, mark)| jump("shape", mark));
    let masked =
        publishes().filter(|(publish, _)| publish.source == SourceHandling::Masquerade).map(|(_, mark)| mark);
    let allows = marks.iter().filter(|mark| mark.kind == ServiceKind::Allow);
    let masked_allows =
        policy.allow.iter().zip(allows).filter(|(allow, _)| allow.source == SourceHandling::Masquerade);
    let masquerade = masked.chain(masked_allows.map(|(_, mark)| mark)).map(|mark| json!(mark.mark));
    let to = |data: &str| json!({"type": "mark", "map": data});
    vec![
        fixed("count_in", to("counter"), counters(ServiceMark::counter_in)),
        fixed("count_out", to("counter"), counters(ServiceMark::counter_out)),
        fixed("limits", to("verdict"), limits.collect()),
        fixed("shape", to("verdict"), shape.collect()),
        fixed("masquerade", json!({"type": "mark"}), masquerade.collect()),
    ]
}

/// Whether new connections to the service are counted by source.
pub(super) fn has_limits(publish: &Publish) -> bool {
    publish.limits.new_per_source.is_some() || publish.limits.flows_per_source.is_some()
}

/// Lists that a service names.
pub(super) fn lists_in_use(policy: &Policy) -> impl Iterator<Item = &List> {
    policy.lists.iter().filter(|list| policy.publish.iter().any(|publish| names(publish, list)))
}

fn names(publish: &Publish, list: &List) -> bool {
    matches!(&publish.allow, AllowList::Only { lists, .. } if lists.contains(&list.name))
}

/// The name of the set of services that name a list.
pub(super) fn users(list: &Name) -> String {
    format!("users_{list}")
}

/// Allow-lists: who has one, the prefixes that services name themselves, and every list that one of
/// them names.
pub(super) fn allow_lists(policy: &Policy, marks: &[ServiceMark]) -> Vec<Set> {
    let services = || policy.publish.iter().zip(marks);
    let restricted = services().filter(|(publish, _)| publish.allow != AllowList::Any);
    let restricted = restricted.map(|(_, service)| json!(service.mark)).collect();
    let mut sets = vec![fixed("restricted", json!({"type": "mark"}), restricted)];
    for family in Family::BOTH {
        let own = services().flat_map(|(publish, service)| own_sources(publish, service, family)).collect();
        let kind = interval(&json!(["mark", family.address_type()]));
        sets.push(fixed(format!("sources{}", family.digit()), kind, own));
    }
    for list in lists_in_use(policy) {
        let users_of_it = services().filter(|(publish, _)| names(publish, list));
        let marks = users_of_it.map(|(_, service)| json!(service.mark)).collect();
        sets.push(fixed(users(&list.name), json!({"type": "mark"}), marks));
        for family in Family::BOTH {
            let members = list.prefixes.iter().copied();
            sets.push(prefixes(set_name("list", family, &list.name), family, members));
        }
    }
    sets
}

/// The prefixes that a service names itself, behind its mark.
fn own_sources(publish: &Publish, service: &ServiceMark, family: Family) -> Vec<Value> {
    let AllowList::Only { prefixes, .. } = &publish.allow else { return Vec::new() };
    let of_family = prefixes.iter().copied().filter(|&member| family.holds(member));
    disjoint(of_family).into_iter().map(|member| concat([json!(service.mark), prefix(member)])).collect()
}

/// By what flows to the internet are known; nothing when no `[[allow]]` has such flows.
pub(super) fn to_wan(policy: &Policy, marks: &[ServiceMark]) -> Vec<Set> {
    let allows = marks.iter().filter(|mark| mark.kind == ServiceKind::Allow);
    let of_wan: Vec<Value> = policy
        .allow
        .iter()
        .zip(allows)
        .filter(|(allow, _)| leads_to_wan(allow))
        .map(|(_, mark)| json!(mark.mark))
        .collect();
    if of_wan.is_empty() {
        return Vec::new();
    }
    let special = |family: Family| {
        prefixes(format!("{SPECIAL}{}", family.digit()), family, special_prefixes().into_iter())
    };
    let marks = fixed(TO_WAN, json!({"type": "mark"}), of_wan);
    Family::BOTH.map(special).into_iter().chain([marks]).collect()
}

/// Peers that an `[[allow]]` lets open flows out of the tunnel.
pub(super) fn peers_that_open(policy: &Policy) -> impl Iterator<Item = &Name> {
    let is_listed =
        |name: &&Name| policy.allow.iter().any(|allow| allow.from.contains(&Party::Peer((*name).clone())));
    policy.peers.iter().map(|peer| &peer.name).filter(is_listed)
}

/// The chain with the limits of a peer.
pub(super) fn peer_chain(peer: &Name) -> String {
    format!("peer_{peer}")
}

/// The set that counts the flows of a peer.
pub(super) fn peer_flows(peer: &Name) -> String {
    format!("peer_flows_{peer}")
}

/// The map from addresses in the tunnel to the chains of their peers.
pub(super) fn peers_map(family: Family) -> String {
    format!("peers{}", family.digit())
}

/// From addresses in the tunnel to the limits of the peer that owns them.
pub(super) fn peers(policy: &Policy) -> Vec<Set> {
    let map = |family: Family| {
        let of_peer = |name: &Name| {
            let jump = json!({"jump": {"target": peer_chain(name)}});
            let owned = elements(owned(policy, name, family), family).into_iter();
            owned.map(|addresses| json!([addresses, jump])).collect::<Vec<_>>()
        };
        let kind = json!({"type": family.address_type(), "map": "verdict", "flags": ["interval"]});
        fixed(peers_map(family), kind, peers_that_open(policy).flat_map(of_peer).collect())
    };
    Family::BOTH.map(map).into()
}

/// Peers' ends of the link, and how often each begins one; none while the link is closed, since a
/// meter must come with the rule that fills it.
pub(super) fn link(policy: &Policy, sockets: &[SocketAddr]) -> Vec<Set> {
    if policy.link_addresses(sockets).is_empty() {
        return Vec::new();
    }
    let of_family = |family: Family| {
        let sources = policy.link_sources().filter(|source| source.is_ipv6() == family.is_ipv6());
        let known = format!("{LINK_SOURCES}{}", family.digit());
        let meter = format!("{NEW_LINKS_BY_SOURCE}{}", family.digit());
        [prefixes(known, family, sources.map(IpNetwork::from)), by_source(meter, family)]
    };
    Family::BOTH.into_iter().flat_map(of_family).collect()
}

/// Remembers sources for a while, with the rate at which each opens flows.
fn by_source(name: String, family: Family) -> Set {
    let declaration = json!({
        "type": family.address_type(), "flags": ["timeout"], "timeout": METER_SECONDS, "size": DYNAMIC_SIZE,
    });
    Set { name, declaration, content: Content::Packets }
}

/// Meters of services with limits per source, and of peers.
pub(super) fn meters(policy: &Policy) -> Vec<Set> {
    let meter = |peer| Set {
        name: peer_flows(peer),
        declaration: json!({"type": "iface_index", "size": DYNAMIC_SIZE}),
        content: Content::Packets,
    };
    let mut sets: Vec<Set> = peers_that_open(policy).map(meter).collect();
    for publish in &policy.publish {
        for family in Family::BOTH {
            let address = family.address_type();
            if publish.limits.new_per_source.is_some() {
                sets.push(by_source(set_name("new", family, &publish.name), family));
            }
            if publish.limits.flows_per_source.is_some() {
                let declaration = json!({"type": address, "size": DYNAMIC_SIZE});
                let name = set_name("flows", family, &publish.name);
                sets.push(Set { name, declaration, content: Content::Packets });
            }
        }
    }
    sets
}
