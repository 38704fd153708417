//! Sockets that report changes of links, addresses, routes, rules, forwarding and nftables.
//!
//! Joining nftables' group needs a capability, reading what it says does not: so the helper opens
//! them and the daemon waits on them. It takes each message as a wakeup and ignores the content.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};

use super::protocol::{Failure, FailureKind};

/// Multicast groups of rtnetlink (rtnetlink.h): links, addresses, routes, rules and switches, of
/// both families.
const ROUTE_GROUPS: [u32; 9] = [1, 5, 9, 7, 11, 8, 19, 24, 25];
/// The group of nftables' changes (nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

/// Two sockets: one for everything that rtnetlink reports, one for nftables.
pub(super) fn open() -> Result<Vec<OwnedFd>, Failure> {
    let failed =
        |error: io::Error| Failure::new(FailureKind::Kernel, format!("watching the kernel: {error}"));
    let route = join(NETLINK_ROUTE, &ROUTE_GROUPS).map_err(failed)?;
    let nftables = join(NETLINK_NETFILTER, &[NFTABLES_GROUP]).map_err(failed)?;
    Ok(vec![route, nftables])
}

fn join(protocol: isize, groups: &[u32]) -> io::Result<OwnedFd> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    for &group in groups {
        socket.add_membership(group)?;
    }
    socket.as_fd().try_clone_to_owned()
}
