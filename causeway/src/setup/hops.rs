//! The routers behind the first one on the way out: packets that live for two and three hops, and
//! the routers' messages that they died.
//!
//! No packet arrives anywhere: three hops end within the provider's network.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Where the packets would go: a root name server, which every router has a route to.
const TARGET: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
/// The first port that traceroute uses.
const PORT: u16 = 33_434;
/// How many hops the packets live.
const LIVES: [u16; 2] = [2, 3];
/// How long a router may take.
const WITHIN: Duration = Duration::from_millis(800);

/// ICMP's "time exceeded", and the number of UDP.
const TIME_EXCEEDED: u8 = 11;
const UDP: u8 = 17;

/// The routers, nearest first, as far as they answer and this user may listen; root may.
pub(super) fn hops(own: Ipv4Addr) -> Vec<IpAddr> {
    find(own).unwrap_or_default()
}

fn find(own: Ipv4Addr) -> io::Result<Vec<IpAddr>> {
    let mut answers = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    let sender = UdpSocket::bind(SocketAddr::from((own, 0)))?;
    for life in LIVES {
        sender.set_ttl(life.into())?;
        sender.send_to(&[0; 8], SocketAddr::from((TARGET, PORT + life)))?;
    }
    let from = sender.local_addr()?.port();
    let until = Instant::now() + WITHIN;
    let mut found = [None; LIVES.len()];
    let mut bytes = [0; 1500];
    while found.contains(&None) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        answers.set_read_timeout(Some(left))?;
        let Ok(length) = answers.read(&mut bytes) else { break };
        let Some((life, router)) = router(bytes.get(..length).unwrap_or_default(), from) else { continue };
        if let Some(slot) = LIVES.iter().position(|known| *known == life).and_then(|at| found.get_mut(at)) {
            *slot = Some(IpAddr::V4(router));
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// The router whose packet says that one of ours, from this port, has died; and how long that one
/// was to live.
fn router(packet: &[u8], from: u16) -> Option<(u16, Ipv4Addr)> {
    let (source, icmp) = ip(packet)?;
    (*icmp.first()? == TIME_EXCEEDED).then_some(())?;
    let inner = icmp.get(8..)?;
    (*inner.get(9)? == UDP).then_some(())?;
    let (_, udp) = ip(inner)?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    (port(0)? == from).then_some(())?;
    Some((port(2)?.checked_sub(PORT)?, source))
}

/// The source of an IPv4 packet, and what follows its header.
fn ip(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let source = packet.get(12..16)?;
    let source = <[u8; 4]>::try_from(source).ok()?;
    Some((source.into(), packet.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_known_by_the_packet_that_it_quotes() {
        let quoted = [&header(UDP, [192, 168, 1, 2])[..], &[0x9c, 0x40, 0x82, 0x9c, 0, 16, 0, 0]].concat();
        let icmp = [&[TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let packet = [&header(1, [100, 64, 0, 1])[..], &icmp].concat();
        assert_eq!(router(&packet, 0x9c40), Some((2, Ipv4Addr::new(100, 64, 0, 1))));
        assert_eq!(router(&packet, 0x9c41), None, "another program's packet");
        for length in 0..packet.len() - 4 {
            assert_eq!(router(&packet[..length], 0x9c40), None, "{length} bytes");
        }
    }

    fn header(protocol: u8, source: [u8; 4]) -> [u8; 20] {
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, protocol);
        header[12..16].copy_from_slice(&source);
        header
    }
}
