//! The TUN device and its addresses, over rtnetlink.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, LinkUnspec};

use super::netlink::{self, Changes, Netlink, Undo, failure};
use super::protocol::{Failure, FailureKind};
use super::server::Placed;
use super::sysctl;

/// Most neighbours that one request resolves: a machine has few next hops.
const MOST_NEIGHBOURS: usize = 16;

/// The device's index, or `None` when there is no such device.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Failure> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if netlink::errno(&error) == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(failure(&format!("looking for the device {name}"), &error)),
    }
}

/// Gives the device its MTU, queue length and addresses, and brings it up; returns its index.
pub(super) async fn configure(
    handle: &Handle,
    placed: &Placed<'_>,
    changes: &mut Changes,
) -> Result<u32, Failure> {
    let (name, routing) = (&placed.scope.device, placed.routing);
    let link = find(handle, name)
        .await?
        .ok_or_else(|| Failure::new(FailureKind::Gone, format!("the device {name} is gone")))?;
    if !is_tun(&link) {
        return Err(Failure::new(FailureKind::Gone, format!("{name} is no TUN device any more")));
    }
    let index = link.header.index;
    let has = |attribute: LinkAttribute| link.attributes.contains(&attribute);
    let settled = has(LinkAttribute::Mtu(routing.mtu))
        && has(LinkAttribute::TxQueueLen(routing.tx_queue_length))
        && link.header.flags.contains(LinkFlags::Up);
    if !settled {
        let wanted =
            LinkUnspec::new_with_index(index).mtu(routing.mtu).txqueuelen(routing.tx_queue_length).up();
        let set = handle.link().set(wanted.build()).execute().await;
        set.map_err(|error| failure(&format!("setting up the device {name}"), &error))?;
        changes.added(
            format!("device {name} up, mtu {}, txqueuelen {}", routing.mtu, routing.tx_queue_length),
            Undo::Link(as_it_was(&link)),
        );
    }
    add_addresses(handle, index, placed, changes).await?;
    Ok(index)
}

/// What gives the device its present MTU, queue length and state back.
fn as_it_was(link: &LinkMessage) -> LinkMessage {
    let mut before = LinkUnspec::new_with_index(link.header.index);
    for attribute in &link.attributes {
        before = match attribute {
            LinkAttribute::Mtu(mtu) => before.mtu(*mtu),
            LinkAttribute::TxQueueLen(length) => before.txqueuelen(*length),
            _ => before,
        };
    }
    let up = link.header.flags.contains(LinkFlags::Up);
    if up { before.up().build() } else { before.down().build() }
}

async fn add_addresses(
    handle: &Handle,
    index: u32,
    Placed { scope, routing }: &Placed<'_>,
    changes: &mut Changes,
) -> Result<(), Failure> {
    let present = addresses(handle, index).await?;
    for &wanted in &routing.addresses {
        if !present.iter().any(|(address, _)| *address == wanted) {
            let mut add = handle.address().add(index, wanted.ip(), wanted.prefix()).replace();
            let message = add.message_mut().clone();
            let added = add.execute().await;
            added.map_err(|error| failure(&format!("adding the address {wanted}"), &error))?;
            changes.added(format!("address {wanted} on {}", scope.device), Undo::Address(message));
        }
    }
    Ok(())
}

async fn addresses(handle: &Handle, index: u32) -> Result<Vec<(IpNetwork, AddressMessage)>, Failure> {
    let mut present = Vec::new();
    let mut messages = handle.address().get().set_link_index_filter(index).execute();
    while let Some(message) =
        messages.try_next().await.map_err(|error| failure("reading addresses", &error))?
    {
        present.extend(address_of(&message).map(|address| (address, message)));
    }
    Ok(present)
}

/// Takes away the device's addresses that the plan does not name; whether there were any.
///
/// With the first address of a subnet the kernel takes away the others of it, unless they are
/// promoted, and with the last one of a device its routes: whoever removes one adds what is missing
/// afterwards.
pub(super) async fn remove_superfluous(
    handle: &Handle,
    index: u32,
    Placed { scope, routing }: &Placed<'_>,
    changes: &mut Changes,
) -> Result<bool, Failure> {
    let mut superfluous = addresses(handle, index).await?;
    superfluous.retain(|(address, _)| !routing.addresses.contains(address) && !is_link_local(address.ip()));
    if superfluous.iter().any(|(address, _)| address.is_ipv4()) {
        promote_secondaries(&scope.device)?;
    }
    for (address, message) in &superfluous {
        match handle.address().del(message.clone()).execute().await {
            // It went with another one.
            Err(error) if netlink::errno(&error) == Some(libc::EADDRNOTAVAIL) => {}
            deleted => {
                deleted.map_err(|error| failure(&format!("removing the address {address}"), &error))?;
            }
        }
        changes.removed(format!("address {address} on {}", scope.device));
    }
    Ok(!superfluous.is_empty())
}

/// Has addresses stay when the first one of their subnet goes, so that there is no moment without
/// them. Where the switch cannot be written there is one.
fn promote_secondaries(device: &str) -> Result<(), Failure> {
    let path = format!("net/ipv4/conf/{device}/promote_secondaries");
    sysctl::write(&[(path, "1".to_owned())]).map(drop)
}

/// Deletes the device, if it is a TUN: never a real interface that happens to have the name.
pub(super) async fn remove(handle: &Handle, name: &str, changes: &mut Changes) -> Result<(), Failure> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    if !is_tun(&link) {
        let message = format!("{name} is no TUN device, so it is not ours; it was left alone");
        return Err(Failure::new(FailureKind::Refused, message));
    }
    let delete = handle.link().del(link.header.index).execute().await;
    delete.map_err(|error| failure(&format!("removing the device {name}"), &error))?;
    changes.removed(format!("device {name}"));
    Ok(())
}

/// Asks for the link-layer addresses of neighbours, as sending to them would.
pub(super) fn resolve(netlink: &Netlink, neighbours: &[(u32, IpAddr)]) -> Result<(), Failure> {
    netlink.run(async |handle| {
        for &(index, address) in neighbours.iter().take(MOST_NEIGHBOURS) {
            let ask = handle.neighbours().add(index, address).state(NeighbourState::None);
            let asked = ask.flags(NeighbourFlags::Use).replace().execute().await;
            asked.map_err(|error| failure(&format!("resolving {address}"), &error))?;
        }
        Ok(())
    })
}

fn is_tun(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Tun)))
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNetwork> {
    // On a point-to-point device `Local` is our side; elsewhere both say the same.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    IpNetwork::new(address?, message.header.prefix_len).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
