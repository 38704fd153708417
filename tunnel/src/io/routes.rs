//! The kernel's routing by rtnetlink: that something changed, and by which interface a packet would
//! leave.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Groups of rtnetlink (rtnetlink.h, as bits): links, and addresses, routes and rules of both
/// families.
const GROUPS: u32 = 1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
/// Bytes of the longest message that is read.
const BUFFER: usize = 32 * 1024;
/// How long the kernel may take to reply; it replies within the call.
const REPLY_LIMIT: Duration = Duration::from_secs(1);

const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
const REQUEST: u16 = 1;
const DESTINATION: u16 = 1;
const SOURCE: u16 = 2;
const OUT_INTERFACE: u16 = 4;
const MARK: u16 = 16;
const HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// One socket for notifications of changes, and one for requests.
#[derive(Debug)]
pub struct RouteWatch {
    changes: OwnedFd,
    requests: OwnedFd,
}

impl RouteWatch {
    /// Opens both; no privilege is needed.
    ///
    /// # Errors
    /// From the system.
    pub fn open() -> io::Result<Self> {
        Ok(Self { changes: netlink(GROUPS)?, requests: netlink(0)? })
    }

    /// Waits until links, addresses, routes or rules change, at most `limit`; whether something
    /// did.
    ///
    /// # Errors
    /// From the system; a queue that overflowed is a change like any other.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        if !is_readable(&self.changes, limit)? {
            return Ok(false);
        }
        let mut buffer = [0; BUFFER];
        loop {
            match rustix::net::recv(&self.changes, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The index of the interface by which a packet with this source and mark leaves; `None` when
    /// it cannot, because there is no route or the source is not this machine's.
    ///
    /// # Errors
    /// From the system, or when the kernel does not reply.
    pub fn interface_towards(&self, remote: IpAddr, source: IpAddr, mark: u32) -> io::Result<Option<u32>> {
        rustix::net::send(&self.requests, &request(remote, source, mark), SendFlags::empty())?;
        if !is_readable(&self.requests, REPLY_LIMIT)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; BUFFER];
        let (_, length) = rustix::net::recv(&self.requests, &mut buffer, RecvFlags::DONTWAIT)?;
        Ok(out_interface(buffer.get(..length).unwrap_or_default()))
    }
}

fn netlink(groups: u32) -> io::Result<OwnedFd> {
    // Protocol 0 is NETLINK_ROUTE.
    let kind = SocketType::RAW;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn is_readable(socket: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `RTM_GETROUTE` for one packet.
fn request(remote: IpAddr, source: IpAddr, mark: u32) -> Vec<u8> {
    let (family, bits) = if remote.is_ipv4() { (2, 32) } else { (10, 128) };
    let mut body = vec![family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    push_attribute(&mut body, DESTINATION, &octets(remote));
    push_attribute(&mut body, SOURCE, &octets(source));
    push_attribute(&mut body, MARK, &mark.to_ne_bytes());
    let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET_ROUTE.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(0);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The interface in a reply; `None` when the reply is an error.
fn out_interface(message: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind != NEW_ROUTE {
        return None;
    }
    let mut rest = message.get(HEADER + ROUTE_HEADER..)?;
    while let (Some(length), Some(kind)) = (rest.get(..2), rest.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        if kind == OUT_INTERFACE {
            return Some(u32::from_ne_bytes(rest.get(4..8)?.try_into().ok()?));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_sends_to_itself_leaves_by_loopback() {
        let watch = RouteWatch::open().unwrap();
        let loopback = IpAddr::from([127, 0, 0, 1]);

        assert_eq!(watch.interface_towards(loopback, loopback, 0).unwrap(), Some(1));
    }

    #[test]
    fn a_source_that_is_not_this_machines_leaves_nowhere() {
        let watch = RouteWatch::open().unwrap();
        let (loopback, foreign) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 77]));

        assert_eq!(watch.interface_towards(loopback, foreign, 0).unwrap(), None);
    }

    #[test]
    fn a_reply_that_is_cut_anywhere_names_no_interface_or_the_right_one() {
        let mut reply = vec![0; HEADER + ROUTE_HEADER];
        reply[4..6].copy_from_slice(&NEW_ROUTE.to_ne_bytes());
        push_attribute(&mut reply, 15, &[1, 2, 3, 4]);
        push_attribute(&mut reply, OUT_INTERFACE, &7_u32.to_ne_bytes());

        assert_eq!(out_interface(&reply), Some(7));
        for length in 0..reply.len() {
            assert_eq!(out_interface(&reply[..length]), None);
        }
    }
}
