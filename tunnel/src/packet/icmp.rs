//! ICMP for both families: echo, and the errors a tunnel has to send (RFC 792, 1812, 4443).

use std::net::{IpAddr, Ipv4Addr};

use super::{Ip, Sum, protocol};

/// Bytes an IPv4 error may have in all (RFC 1812 §4.3.2.3).
const MAX_ERROR_V4: usize = 576;
/// Bytes an IPv6 error may have in all (RFC 4443 §2.4 c).
const MAX_ERROR_V6: usize = 1280;
const HOP_LIMIT: u8 = 64;

/// One echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Whether this is a reply.
    pub is_reply: bool,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub sequence: u16,
    /// Data after the header.
    pub data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// The echo that a whole IP packet carries; `None` when it is something else or its checksum is
    /// wrong.
    pub fn parse(ip: &Ip, packet: &'a [u8]) -> Option<Self> {
        if ip.fragment.is_some() {
            return None;
        }
        let payload = ip.payload(packet);
        let h: &[u8; 8] = payload.first_chunk()?;
        let is_reply = match (ip.is_v4(), ip.protocol, h[0], h[1]) {
            (true, protocol::ICMP, 8, 0) | (false, protocol::ICMPV6, 128, 0) => false,
            (true, protocol::ICMP, 0, 0) | (false, protocol::ICMPV6, 129, 0) => true,
            _ => return None,
        };
        ip.transport_checksum_is_valid(packet).then_some(Self {
            is_reply,
            id: u16::from_be_bytes([h[4], h[5]]),
            sequence: u16::from_be_bytes([h[6], h[7]]),
            data: payload.get(8..)?,
        })
    }

    /// A whole IP packet with this echo. Both addresses must be of one family, the data below
    /// 65,000 bytes.
    pub fn build(&self, src: IpAddr, dst: IpAddr) -> Option<Vec<u8>> {
        let kind = match (src.is_ipv4(), self.is_reply) {
            (true, false) => 8,
            (true, true) => 0,
            (false, false) => 128,
            (false, true) => 129,
        };
        let ([i0, i1], [s0, s1]) = (self.id.to_be_bytes(), self.sequence.to_be_bytes());
        build(src, dst, [kind, 0, 0, 0, i0, i1, s0, s1], self.data)
    }
}

/// What an ICMP error reports about the packet it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No route, or no peer for the destination.
    NoRoute,
    /// The host does not answer.
    HostUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// Policy forbids it.
    Prohibited,
    /// The packet does not fit; the largest that does, in bytes.
    TooBig {
        /// Largest packet in bytes.
        mtu: u16,
    },
}

impl Error {
    /// The whole IP packet with this error for the sender of `original`, sent from `from`.
    ///
    /// `None` when no error may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4 e): about an ICMP error, a
    /// later fragment, a multicast or broadcast destination, or a source that is not one host; or
    /// when the families differ.
    pub fn build(self, original: &[u8], from: IpAddr) -> Option<Vec<u8>> {
        let ip = Ip::parse(original).ok()?;
        if !may_answer(&ip, original) {
            return None;
        }
        let (kind, code, rest) = if ip.is_v4() { self.v4() } else { self.v6() };
        let room = if ip.is_v4() { MAX_ERROR_V4 - 28 } else { MAX_ERROR_V6 - 48 };
        let quoted = original.get(..ip.total_len.min(room))?;
        let [a, b, c, d] = rest.to_be_bytes();
        build(from, ip.src, [kind, code, 0, 0, a, b, c, d], quoted)
    }

    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::Prohibited => (3, 13, 0),
            Self::TooBig { mtu } => (3, 4, u32::from(mtu)),
        }
    }

    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::PortUnreachable => (1, 4, 0),
            Self::TooBig { mtu } => (2, 0, u32::from(mtu)),
        }
    }
}

fn may_answer(ip: &Ip, original: &[u8]) -> bool {
    if ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return false;
    }
    let kind = ip.payload(original).first().copied();
    let is_error = match ip.protocol {
        protocol::ICMP => kind.is_none_or(|kind| !matches!(kind, 0 | 8 | 13 | 14)),
        protocol::ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    let one_host = match ip.src {
        IpAddr::V4(src) => !src.is_unspecified() && !src.is_multicast() && src != Ipv4Addr::BROADCAST,
        IpAddr::V6(src) => !src.is_unspecified() && !src.is_multicast(),
    };
    let unicast = match ip.dst {
        IpAddr::V4(dst) => !dst.is_multicast() && dst != Ipv4Addr::BROADCAST,
        IpAddr::V6(dst) => !dst.is_multicast(),
    };
    !is_error && one_host && unicast
}

fn build(src: IpAddr, dst: IpAddr, mut header: [u8; 8], data: &[u8]) -> Option<Vec<u8>> {
    let length = 8 + data.len();
    let mut sum = Sum::new();
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = [0u8; 20];
            let total = u16::try_from(20 + length).ok()?.to_be_bytes();
            ip[0] = 0x45;
            [ip[2], ip[3]] = total;
            ip[6] = 0x40;
            ip[8] = HOP_LIMIT;
            ip[9] = protocol::ICMP;
            [ip[12], ip[13], ip[14], ip[15]] = src.octets();
            [ip[16], ip[17], ip[18], ip[19]] = dst.octets();
            [ip[10], ip[11]] = Sum::new().bytes(&ip).checksum().to_be_bytes();
            ip.to_vec()
        }
        (IpAddr::V6(v6_src), IpAddr::V6(v6_dst)) => {
            sum = sum.pseudo_header(src, dst, protocol::ICMPV6, length);
            let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
            let mut ip = vec![0x60, 0, 0, 0, high, low, protocol::ICMPV6, HOP_LIMIT];
            ip.extend_from_slice(&v6_src.octets());
            ip.extend_from_slice(&v6_dst.octets());
            ip
        }
        _ => return None,
    };
    [header[2], header[3]] = sum.bytes(&header).bytes(data).checksum().to_be_bytes();
    packet.extend_from_slice(&header);
    packet.extend_from_slice(data);
    Some(packet)
}
