//! Packets of both families made byte by byte, valid or forged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use tunnel::packet::{Sum, protocol};

/// An IPv4 packet in the making; the header's own lengths and checksum are right.
#[derive(Debug, Clone)]
pub struct V4 {
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: u8,
    options: Vec<u8>,
    fragment: u16,
    payload: Vec<u8>,
}

impl V4 {
    /// A packet of any protocol with these bytes after its header.
    pub fn new(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { source, target, protocol, options: Vec::new(), fragment: 0x4000, payload: payload.into() }
    }

    /// With IP options, filled up to whole words.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// One fragment of the packet, with these bytes at this offset in units of 8 bytes.
    #[must_use]
    pub fn fragment(&self, offset: u16, bytes: impl Into<Vec<u8>>, more: bool) -> Self {
        let fragment = offset | if more { 0x2000 } else { 0 };
        Self { fragment, payload: bytes.into(), ..self.clone() }
    }

    /// The bytes of the whole packet.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let words = 5 + self.options.len() / 4;
        let length = u16::try_from(words * 4 + self.payload.len())?;
        let mut packet = vec![0x40 | u8::try_from(words)?, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.target.octets());
        packet.extend(&self.options);
        let sum = Sum::new().bytes(&packet).checksum().to_be_bytes();
        packet.splice(10..12, sum);
        packet.extend(&self.payload);
        Ok(packet)
    }
}

/// A range of some bytes, cut at their end.
pub fn piece(bytes: &[u8], range: std::ops::Range<usize>) -> &[u8] {
    bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default()
}

/// A TCP segment without data, with a right checksum.
pub fn tcp(source: IpAddr, target: IpAddr, (from, to): (u16, u16), flags: u8) -> Vec<u8> {
    let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    summed(source, target, protocol::TCP, segment, 16)
}

/// A UDP datagram with a right checksum.
pub fn udp(source: IpAddr, target: IpAddr, (from, to): (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(8 + payload.len())?;
    let mut datagram = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    Ok(summed(source, target, protocol::UDP, datagram, 6))
}

/// An ICMP message: type, code, the four bytes after the checksum, and the rest.
pub fn icmp(kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word);
    message.extend(rest);
    let sum = Sum::new().bytes(&message).checksum().to_be_bytes();
    message.splice(2..4, sum);
    message
}

/// An ICMPv6 message, likewise.
pub fn icmp6(source: Ipv6Addr, target: Ipv6Addr, kind: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(word);
    message.extend(rest);
    summed(source.into(), target.into(), protocol::ICMPV6, message, 2)
}

/// An IPv6 packet; `next` says what the payload begins with.
pub fn v6(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len())?.to_be_bytes());
    // Neighbour discovery is accepted only with a hop limit of 255.
    packet.extend([next, 255]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    Ok(packet)
}

/// A whole SYN over IPv4.
pub fn syn(source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16)) -> Result<Vec<u8>> {
    segment(source, target, ports, tunnel::packet::tcp_flags::SYN)
}

/// A whole TCP segment over IPv4 with these flags.
pub fn segment(source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16), flags: u8) -> Result<Vec<u8>> {
    let tcp = tcp(source.into(), target.into(), ports, flags);
    V4::new(source, target, protocol::TCP, tcp).bytes()
}

/// A whole UDP datagram over IPv4.
pub fn datagram(source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
    let udp = udp(source.into(), target.into(), ports, payload)?;
    V4::new(source, target, protocol::UDP, udp).bytes()
}

/// A whole ICMP message over IPv4 that ends after its first eight bytes.
pub fn message(source: Ipv4Addr, target: Ipv4Addr, kind: u8, code: u8) -> Result<Vec<u8>> {
    V4::new(source, target, protocol::ICMP, icmp(kind, code, [0, 0, 0, 1], b"")).bytes()
}

fn summed(source: IpAddr, target: IpAddr, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = Sum::new().pseudo_header(source, target, protocol, segment.len()).bytes(&segment);
    segment.splice(at..at + 2, sum.checksum().to_be_bytes());
    segment
}
