//! The header of an IPv4 or IPv6 packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers that the tunnel handles.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Extension headers followed before a packet counts as malformed; RFC 8504 §5.3 lets a node limit
/// them.
const MAX_EXTENSIONS: usize = 8;

/// Why bytes are not a packet; each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the header needs.
    #[error("short header")]
    Short,
    /// Neither version 4 nor 6.
    #[error("unknown ip version")]
    Version,
    /// A header length below its minimum, or beyond the packet.
    #[error("bad header length")]
    HeaderLength,
    /// A total length below the header's, or beyond the bytes.
    #[error("bad total length")]
    TotalLength,
    /// More than 8 IPv6 extension headers.
    #[error("too many extension headers")]
    Extensions,
}

/// Where a fragment lies in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// The fields of an IP header, checked against the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address; IPv4 and IPv6 never mix.
    pub dst: IpAddr,
    /// Bytes before the transport header, IPv6 extension headers included.
    pub header_len: usize,
    /// Bytes of the whole packet, at most the bytes given.
    pub total_len: usize,
    /// The protocol after IPv6 extension headers ([`protocol`]).
    pub protocol: u8,
    /// Type of service or traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// IPv4's don't-fragment bit; always true for IPv6.
    pub dont_fragment: bool,
    /// Set when this packet is a fragment.
    pub fragment: Option<Fragment>,
}

impl Ip {
    /// Reads the header of a packet. Bytes after its total length are allowed.
    ///
    /// # Errors
    /// [`Malformed`], when a length does not fit.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().ok_or(Malformed::Short)? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => Err(Malformed::Version),
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Result<Self, Malformed> {
        let h: &[u8; 20] = packet.first_chunk().ok_or(Malformed::Short)?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        if header_len < 20 {
            return Err(Malformed::HeaderLength);
        }
        if total_len < header_len || total_len > packet.len() {
            return Err(Malformed::TotalLength);
        }
        let flags = u16::from_be_bytes([h[6], h[7]]);
        let (more, offset) = (flags & 0x2000 != 0, (flags & 0x1fff) << 3);
        let id = u32::from(u16::from_be_bytes([h[4], h[5]]));
        Ok(Self {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            header_len,
            total_len,
            protocol: h[9],
            traffic_class: h[1],
            hop_limit: h[8],
            dont_fragment: flags & 0x4000 != 0,
            fragment: (more || offset != 0).then_some(Fragment { id, offset, more }),
        })
    }

    #[inline]
    fn parse_v6(packet: &[u8]) -> Result<Self, Malformed> {
        let h: &[u8; 40] = packet.first_chunk().ok_or(Malformed::Short)?;
        let total_len = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        let packet = packet.get(..total_len).ok_or(Malformed::TotalLength)?;
        let mut ip = Self {
            src: IpAddr::V6(v6_address(h, 8)),
            dst: IpAddr::V6(v6_address(h, 24)),
            header_len: 40,
            total_len,
            protocol: h[6],
            traffic_class: (h[0] << 4) | (h[1] >> 4),
            hop_limit: h[7],
            dont_fragment: true,
            fragment: None,
        };
        if matches!(ip.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            ip.skip_extensions(packet)?;
        }
        Ok(ip)
    }

    fn skip_extensions(&mut self, packet: &[u8]) -> Result<(), Malformed> {
        for _ in 0..MAX_EXTENSIONS {
            if !matches!(self.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                return Ok(());
            }
            let rest = packet.get(self.header_len..).ok_or(Malformed::HeaderLength)?;
            let extension: &[u8; 8] = rest.first_chunk().ok_or(Malformed::HeaderLength)?;
            let mut length = (usize::from(extension[1]) + 1) * 8;
            if self.protocol == FRAGMENT {
                length = 8;
                let word = u16::from_be_bytes([extension[2], extension[3]]);
                let id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                self.fragment = Some(Fragment { id, offset: word & 0xfff8, more: word & 1 != 0 });
            }
            if length > rest.len() {
                return Err(Malformed::HeaderLength);
            }
            self.header_len += length;
            self.protocol = extension[0];
            if self.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return Ok(());
            }
        }
        Err(Malformed::Extensions)
    }

    /// Whether both addresses are IPv4.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        matches!(self.src, IpAddr::V4(_))
    }

    /// What lies between the IP header and the packet's end.
    #[inline]
    pub fn payload<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(self.header_len..self.total_len).unwrap_or_default()
    }

    /// The ECN field (RFC 3168): 0 not capable, 1 and 2 capable, 3 congestion experienced.
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }
}

fn v6_address(header: &[u8; 40], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (octet, byte) in octets.iter_mut().zip(header.iter().skip(at)) {
        *octet = *byte;
    }
    Ipv6Addr::from(octets)
}
