//! Sockets that report changes of links, addresses, routes, rules, forwarding and nftables.
//!
//! Joining nftables' group needs a capability, reading what it says does not: so the helper opens
//! them and the daemon waits on them. It takes each message as a wakeup and ignores the content.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::sync::Notify;

use super::protocol::{Failure, FailureKind};

/// Multicast groups of rtnetlink (rtnetlink.h): links, addresses, routes, rules and switches, of
/// both families.
const ROUTE_GROUPS: [u32; 9] = [1, 5, 9, 7, 11, 8, 19, 24, 25];
/// Those that report which address the machine has: links, IPv4 addresses, IPv4 routes.
const ADDRESS_GROUPS: [u32; 3] = [1, 5, 7];
/// Those that report which addresses the machine has: links, IPv4 and IPv6 addresses.
const OWN_ADDRESS_GROUPS: [u32; 3] = [1, 5, 9];
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

/// A socket that reports changes of links, IPv4 addresses and IPv4 routes; it needs no privilege.
///
/// # Errors
/// From the kernel.
pub fn watch_addresses() -> io::Result<OwnedFd> {
    join(NETLINK_ROUTE, &ADDRESS_GROUPS)
}

/// A socket that reports changes of links and addresses; it needs no privilege.
///
/// # Errors
/// From the kernel.
pub fn watch_own_addresses() -> io::Result<OwnedFd> {
    join(NETLINK_ROUTE, &OWN_ADDRESS_GROUPS)
}

/// Starts a thread that wakes a loop at every message of such sockets, once in `pause` at most, for
/// as long as the process lives.
///
/// # Errors
/// Where there is no room for a thread.
pub fn wake_at_changes(fds: Vec<OwnedFd>, wakeup: Arc<Notify>, pause: Duration) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("cw-watch".to_owned());
    thread.spawn(move || listen(&fds, &wakeup, pause)).map(drop)
}

fn listen(fds: &[OwnedFd], wakeup: &Notify, pause: Duration) {
    loop {
        let mut waiting: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        fds.iter().for_each(drain);
        wakeup.notify_one();
        std::thread::sleep(pause);
    }
}

/// Empties a socket; what it says does not matter, and an overflow is a notification too.
fn drain(fd: &OwnedFd) {
    let mut buffer = [0; 8192];
    for _ in 0..1024 {
        match rustix::net::recv(fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
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
