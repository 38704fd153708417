//! What peers may publish by themselves: `may_publish` as the file has it, and which requests of a
//! peer it grants.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::check::owner;
use super::entries::{MayPublishAt, Places};
use super::model::{Grant, Policy, Refusal, Requested};
use super::standby::has_port;
use crate::reader::Reader;
use crate::trust::Listener;
use crate::{AllowList, Name, PortRange, Problem, Protocol, PublicPorts};

/// The most ports or ranges that one peer may have published by itself.
pub const MAX_GRANTS: usize = 64;

/// Reports entries that can never be granted, and those that two peers have.
pub(super) fn check(reader: &Reader<'_>, policy: &Policy, places: &Places) {
    for (index, peer) in places.may_publish.iter().enumerate() {
        for entry in &peer.entries {
            if let Some(by) = reserved(policy, entry.value) {
                let problem = Problem::MayPublishReserved { entry: entry.value.to_string(), by };
                reader.report_at(entry.at.clone(), problem);
            }
            let mut earlier = places.may_publish.iter().take(index);
            if let Some(other) = earlier.find(|other| has(other, entry.value)) {
                let problem = Problem::MayPublishClash {
                    entry: entry.value.to_string(),
                    other: other.peer.to_string(),
                };
                reader.report_at(entry.at.clone(), problem);
            }
        }
    }
}

fn has(peer: &MayPublishAt, entry: PublicPorts) -> bool {
    peer.entries.iter().any(|other| other.value.overlaps(entry))
}

/// What of the edge has one of these ports, whatever `may_publish` says.
fn reserved(policy: &Policy, entry: PublicPorts) -> Option<&'static str> {
    let PublicPorts { protocol, ports } = entry;
    let is_published =
        |publish: &super::Publish| publish.protocols.contains(protocol) && publish.ports.overlaps(ports);
    let is_accepted =
        |accept: &super::Accept| accept.protocols.contains(protocol) && accept.ports.overlaps(ports);
    if protocol == Protocol::Udp && ports.contains(policy.interface.listen_port) {
        Some("WireGuard (`[interface] listen_port`)")
    } else if protocol == Protocol::Tcp && ports.contains(policy.link.port) {
        Some("the link (`[link] port`)")
    } else if policy.standby.is_some() && has_port(protocol, ports) {
        Some("the pair (`[standby]`)")
    } else if policy.wan.accept.iter().any(is_accepted) {
        Some("the edge itself (`[wan] accept`)")
    } else if policy.publish.iter().any(is_published) {
        Some("a [[publish]] of this file")
    } else {
        None
    }
}

/// Judges all that a peer requests, in this order: what comes first has its port.
///
/// `in_use` are the sockets of the edge's programs and the ports that its containers publish. The
/// reply for each says no more about the edge than [`Refusal`] has.
#[must_use]
pub fn granted(
    policy: &Policy,
    in_use: &[Listener],
    peer: &Name,
    requested: &[Requested],
) -> Vec<Result<Grant, Refusal>> {
    let mut grants: Vec<Grant> = Vec::new();
    let mut replies = Vec::new();
    for request in requested {
        let reply = judge(policy, in_use, peer, request).and_then(|grant| match &grants {
            grants if grants.iter().any(|other| other.port.overlaps(grant.port)) => {
                Err(Refusal::RequestedTwice)
            }
            grants if grants.len() >= MAX_GRANTS => Err(Refusal::TooMany),
            _ => Ok(grant),
        });
        grants.extend(reply.clone());
        replies.push(reply);
    }
    replies
}

fn judge(policy: &Policy, in_use: &[Listener], peer: &Name, request: &Requested) -> Result<Grant, Refusal> {
    let PublicPorts { protocol, ports } = request.port;
    let allowed = policy.peers.iter().find(|known| known.name == *peer).ok_or(Refusal::NotAllowed)?;
    if !is_covered(ports, allowed.may_publish.iter().filter(|entry| entry.protocol == protocol)) {
        return Err(Refusal::NotAllowed);
    }
    let is_taken = |listener: &Listener| {
        listener.protocol == protocol && ports.contains(listener.port) && !listener.address.is_loopback()
    };
    if reserved(policy, request.port).is_some() || in_use.iter().any(is_taken) {
        return Err(Refusal::InUse);
    }
    let its = request.targets.iter().copied().filter(|target| is_of_peer(policy, *target, peer));
    let targets = one_of_each_family(its);
    if targets.is_empty() {
        return Err(Refusal::TargetElsewhere);
    }
    if request.target_ports.count() != ports.count() {
        return Err(Refusal::OtherCount);
    }
    if let AllowList::Only { lists, .. } = &request.allow
        && lists.iter().any(|name| !policy.lists.iter().any(|list| list.name == *name))
    {
        return Err(Refusal::UnknownList);
    }
    let Requested { service, port, target_ports, allow, .. } = request.clone();
    Ok(Grant { peer: peer.clone(), service, port, targets, target_ports, allow })
}

/// The first address of each family.
fn one_of_each_family(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut first: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if first.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            first.push(address);
        }
    }
    first
}

/// Whether the entries together hold every one of the ports.
fn is_covered<'a>(ports: PortRange, entries: impl Iterator<Item = &'a PublicPorts>) -> bool {
    let merged = PortRange::merged(entries.map(|entry| entry.ports).collect());
    merged.iter().any(|range| range.first() <= ports.first() && ports.last() <= range.last())
}

/// Whether the tunnel leads packets for the address to the peer.
fn is_of_peer(policy: &Policy, address: IpAddr, peer: &Name) -> bool {
    let is_own = policy.interface.address.iter().any(|own| own.ip() == address);
    let is_lan = policy.lan.iter().any(|lan| lan.contains(address));
    !is_own && !is_lan && owner(policy.peers.iter(), IpNetwork::from(address)).as_ref() == Some(peer)
}
