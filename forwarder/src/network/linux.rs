//! Linux: the multicast groups of rtnetlink (rtnetlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::change::NetworkChange;

/// Addresses and routes of both families.
const GROUPS: u32 =
    (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_IPV6_ROUTE)
        as u32;
/// Bytes of a netlink message's header (`struct nlmsghdr`).
const HEADER: usize = 16;

pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// What the messages in one datagram mean for the path to an edge.
pub(super) fn concerns(mut bytes: &[u8]) -> Option<NetworkChange> {
    let mut found = None;
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let change = match u16::from_ne_bytes([e, f]) {
            // `struct rtmsg`: family, destination length, source length, tos, table.
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => match rest {
                [_, 0, _, _, libc::RT_TABLE_MAIN, ..] => Some(NetworkChange::DefaultRoute),
                [_, _, _, _, libc::RT_TABLE_LOCAL, ..] => None,
                _ => Some(NetworkChange::Possible),
            },
            libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(NetworkChange::Possible),
            _ => None,
        };
        found = found.max(change);
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_always_concerns_us_and_a_local_one_never() {
        assert_eq!(
            concerns(&route(libc::RTM_NEWROUTE, 0, libc::RT_TABLE_MAIN)),
            Some(NetworkChange::DefaultRoute)
        );
        assert_eq!(
            concerns(&route(libc::RTM_DELROUTE, 0, libc::RT_TABLE_MAIN)),
            Some(NetworkChange::DefaultRoute)
        );
        assert_eq!(
            concerns(&route(libc::RTM_NEWROUTE, 24, libc::RT_TABLE_MAIN)),
            Some(NetworkChange::Possible)
        );
        assert_eq!(concerns(&route(libc::RTM_NEWROUTE, 32, libc::RT_TABLE_LOCAL)), None);
        assert_eq!(concerns(&route(libc::RTM_NEWLINK, 0, libc::RT_TABLE_MAIN)), None);
    }

    #[test]
    fn the_strongest_change_of_several_counts() {
        let mut messages = route(libc::RTM_NEWADDR, 24, 0);
        messages.extend(route(libc::RTM_NEWROUTE, 0, libc::RT_TABLE_MAIN));
        assert_eq!(concerns(&messages), Some(NetworkChange::DefaultRoute));
    }

    #[test]
    fn lengths_that_lie_are_survived() {
        for length in [0u32, 1, 17, u32::MAX] {
            let mut message = route(libc::RTM_NEWROUTE, 0, libc::RT_TABLE_MAIN);
            message[..4].copy_from_slice(&length.to_ne_bytes());
            for end in 0..message.len() {
                concerns(&message[..end]);
            }
        }
    }

    fn route(kind: u16, destination: u8, table: u8) -> Vec<u8> {
        let mut message = 28u32.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([2, destination, 0, 0, table, 0, 0, 0, 0, 0, 0, 0]);
        message
    }
}
