//! Whether packets of the tunnel's whole size pass: echo requests through the tunnel, a small one
//! and then large ones, from the edge.
//!
//! A plain WireGuard peer replies to them; a forwarder does not, and is searched by `mtu = "auto"`.
//! A path that drops large packets without a word lets every handshake and every probe pass, and
//! pages hang.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use daemon::peers::Peer;
use socket2::{Domain, Protocol, Socket, Type};

/// How long a reply may take, and how often a size is tried.
const WITHIN: Duration = Duration::from_millis(700);
const TRIES: u16 = 3;
/// The header of IPv4, and a small request.
const IP_HEADER: usize = 20;
const SMALL: usize = 16;
/// ICMP's echo request and reply.
const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// The size of packets that do not come back from a peer, while small ones do. `None` also where
/// this user may not try, and where the peer replies to no echo request.
pub(super) fn lost_size(peer: &Peer) -> Option<u32> {
    let address = own_address(peer)?;
    let size = usize::try_from(peer.interface.mtu).ok().filter(|mtu| *mtu > IP_HEADER + SMALL)?;
    let mut echo = Echo::open(address).ok()?;
    let small = echo.replies(SMALL).ok()?;
    let large = small && !echo.replies(size - IP_HEADER).ok()?;
    // Once more: a busy moment is no black hole.
    (large && echo.replies(SMALL).ok()? && !echo.replies(size - IP_HEADER).ok()?)
        .then_some(peer.interface.mtu)
}

/// The peer's address inside the tunnel.
fn own_address(peer: &Peer) -> Option<Ipv4Addr> {
    peer.allowed_ips.iter().find_map(|prefix| match prefix.ip() {
        IpAddr::V4(address) if prefix.prefix() == 32 => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    })
}

/// A socket for echo requests to one address.
struct Echo {
    socket: Socket,
    id: u16,
    sequence: u16,
}

impl Echo {
    /// With the kernel's own socket for echo requests, else, as root, with one for any ICMP.
    fn open(to: Ipv4Addr) -> io::Result<Self> {
        let open = |kind| Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4));
        let socket = open(Type::DGRAM).or_else(|_| open(Type::RAW))?;
        socket.connect(&SocketAddr::from((to, 0)).into())?;
        let id = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
        Ok(Self { socket, id, sequence: 0 })
    }

    /// Whether one of a few requests of so many bytes, their ICMP header included, is replied to.
    fn replies(&mut self, length: usize) -> io::Result<bool> {
        for _ in 0..TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            self.socket.send(&request(self.id, self.sequence, length))?;
            if self.has_reply()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_reply(&mut self) -> io::Result<bool> {
        let until = Instant::now() + WITHIN;
        let mut bytes = [0; 2_048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.read(&mut bytes) {
                Ok(length) if is_reply(bytes.get(..length).unwrap_or_default(), self.sequence) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// An echo request (RFC 792).
fn request(id: u16, sequence: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![REQUEST, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(length.max(SMALL), 0x5a);
    let sum = checksum(&packet);
    packet.splice(2..4, sum.to_be_bytes());
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        let high = pair.first().copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([high, pair.get(1).copied().unwrap_or_default()]))
    };
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Whether a packet, with its IP header or without, is the reply to this request. The kernel's own
/// socket has another id than was written.
fn is_reply(packet: &[u8], sequence: u16) -> bool {
    let header = match packet.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let icmp = packet.get(header..).unwrap_or_default();
    icmp.first() == Some(&REPLY) && icmp.get(6..8) == Some(&sequence.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_size_and_a_checksum_that_adds_up() {
        for length in [SMALL, 1_400, 1_401] {
            let packet = request(7, 9, length);
            assert_eq!(packet.len(), length);
            assert_eq!(checksum(&packet), 0);
        }
    }

    #[test]
    fn a_reply_is_known_by_its_sequence_with_and_without_its_ip_header() {
        let mut reply = request(7, 0x0102, SMALL);
        reply[0] = REPLY;
        let with_header = [&[0x45; 20][..], &reply].concat();
        assert!(is_reply(&reply, 0x0102) && is_reply(&with_header, 0x0102));
        assert!(!is_reply(&reply, 0x0103) && !is_reply(&request(7, 0x0102, SMALL), 0x0102));
        for length in 0..8 {
            assert!(!is_reply(&reply[..length], 0x0102), "{length} bytes");
        }
    }
}
