//! Which packets may become one super-packet.

use crate::endpoint::PeerId;
use crate::offload::{Offload, split::write_word};
use crate::packet::{FiveTuple, Ip, Sum, Tcp, Udp, protocol, tcp_flags};

/// Most datagrams in one UDP super-packet (`UDP_MAX_SEGMENTS`).
const MAX_DATAGRAMS: u16 = 64;
/// Longest super-packet: the greatest total length of IPv4.
pub(super) const MAX_PACKET: usize = 65_535;
/// Longest header of a packet that merges: IPv6 without extensions, TCP with full options.
pub(super) const MAX_HEADER: usize = 100;

/// What a decrypted packet means to the coalescer.
pub(super) enum Kind {
    /// May start or extend a group.
    Mergeable(Candidate),
    /// Must stay alone, and ends the group of its flow.
    Alone(FiveTuple),
    /// Its flow is not known (a fragment, or malformed): it ends every group.
    Unknown,
}

/// A packet whose checksums are right and whose shape may merge.
pub(super) struct Candidate {
    pub(super) flow: FiveTuple,
    pub(super) ip_len: usize,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    sequence: u32,
    ip_id: Option<u16>,
    /// Nothing may follow it: PSH.
    closes: bool,
}

/// What may be merged at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

impl Rules {
    /// Judges a packet; `true` in the second place when a checksum was wrong.
    #[inline]
    pub(super) fn judge(self, packet: &[u8]) -> (Kind, bool) {
        let Ok(ip) = Ip::parse(packet) else { return (Kind::Unknown, false) };
        let Some(flow) = FiveTuple::of(&ip, packet).filter(|_| ip.fragment.is_none()) else {
            return (Kind::Unknown, false);
        };
        let candidate = match ip.protocol {
            protocol::TCP if self.tcp => Candidate::tcp(flow, &ip, packet),
            protocol::UDP if self.udp => Candidate::udp(flow, &ip, packet),
            _ => None,
        };
        let Some(candidate) = candidate else { return (Kind::Alone(flow), false) };
        let ip_checksum =
            !ip.is_v4() || packet.get(..20).is_some_and(|header| Sum::new().bytes(header).is_valid());
        if ip_checksum && ip.transport_checksum_is_valid(packet) {
            (Kind::Mergeable(candidate), false)
        } else {
            (Kind::Alone(flow), true)
        }
    }
}

impl Candidate {
    #[inline]
    fn tcp(flow: FiveTuple, ip: &Ip, packet: &[u8]) -> Option<Self> {
        let segment = ip.payload(packet);
        let tcp = Tcp::parse(segment).ok()?;
        let plain = tcp.flags & !tcp_flags::PSH == tcp_flags::ACK;
        let closes = tcp.flags & tcp_flags::PSH != 0;
        Self::new(flow, ip, packet, tcp.header_len, tcp.sequence, closes).filter(|_| plain)
    }

    #[inline]
    fn udp(flow: FiveTuple, ip: &Ip, packet: &[u8]) -> Option<Self> {
        let datagram = ip.payload(packet);
        let udp = Udp::parse(datagram).ok()?;
        let whole = udp.length == datagram.len() && udp.checksum != 0;
        Self::new(flow, ip, packet, Udp::HEADER_LEN, 0, false).filter(|_| whole)
    }

    #[inline]
    fn new(
        flow: FiveTuple,
        ip: &Ip,
        packet: &[u8],
        transport_len: usize,
        sequence: u32,
        closes: bool,
    ) -> Option<Self> {
        // IPv4 options and IPv6 extension headers never merge.
        let plain_len = if ip.is_v4() { 20 } else { 40 };
        let header_len = ip.header_len + transport_len;
        let payload_len = ip.total_len.checked_sub(header_len)?;
        let fits = ip.header_len == plain_len && ip.total_len == packet.len() && payload_len > 0;
        // An atomic packet's identification means nothing (RFC 6864 §4.1); any other must count
        // upwards, since that is what cutting the super-packet again will make of it.
        let id = || packet.get(4..)?.first_chunk().map(|id| u16::from_be_bytes(*id));
        let ip_id = if ip.dont_fragment { None } else { id() };
        fits.then_some(Self { flow, ip_len: ip.header_len, header_len, payload_len, sequence, ip_id, closes })
    }

    /// Whether a group that starts with this packet could grow.
    pub(super) fn may_grow(&self) -> bool {
        !self.closes
    }
}

/// One super-packet in the making. Its bytes lie in a lane of the arena.
pub(super) struct Group {
    pub(super) origin: PeerId,
    pub(super) flow: FiveTuple,
    ip_len: usize,
    pub(super) header_len: usize,
    segment_size: usize,
    count: u16,
    next_sequence: u32,
    next_ip_id: Option<u16>,
    is_pushed: bool,
    /// Whether more packets may follow.
    pub(super) is_open: bool,
}

impl Group {
    /// A group of one packet.
    pub(super) fn new(origin: PeerId, first: &Candidate) -> Self {
        Self {
            origin,
            flow: first.flow,
            ip_len: first.ip_len,
            header_len: first.header_len,
            segment_size: first.payload_len,
            count: 1,
            next_sequence: first.sequence.wrapping_add(first.payload_len as u32),
            next_ip_id: first.ip_id.map(|id| id.wrapping_add(1)),
            is_pushed: false,
            is_open: first.may_grow(),
        }
    }

    /// Whether the packet continues this group, whose bytes so far are `len`; both headers are
    /// given.
    #[inline]
    pub(super) fn takes(&self, next: &Candidate, len: usize, own: &[u8], new: &[u8]) -> bool {
        let is_tcp = self.flow.protocol == protocol::TCP;
        self.is_open
            && next.header_len == self.header_len
            && next.payload_len <= self.segment_size
            && len + next.payload_len <= MAX_PACKET
            && next.ip_id == self.next_ip_id
            && (if is_tcp { next.sequence == self.next_sequence } else { self.count < MAX_DATAGRAMS })
            && same_header(own, new, self.ip_len, is_tcp)
    }

    /// Counts a packet that was appended, which made the group `len` bytes long; a full group is
    /// closed.
    #[inline]
    pub(super) fn append(&mut self, next: &Candidate, len: usize) {
        self.count = self.count.saturating_add(1);
        self.next_sequence = self.next_sequence.wrapping_add(next.payload_len as u32);
        self.next_ip_id = next.ip_id.map(|id| id.wrapping_add(1));
        self.is_pushed |= next.closes;
        let has_room = len + self.segment_size <= MAX_PACKET
            && (self.flow.protocol == protocol::TCP || self.count < MAX_DATAGRAMS);
        self.is_open = has_room && !next.closes && next.payload_len == self.segment_size;
    }

    /// Writes lengths, flags and the partial checksum of the whole into the group's header.
    pub(super) fn finish(&self, packet: &mut [u8]) -> Offload {
        let (Ok(segment_size), true) = (u16::try_from(self.segment_size), self.count > 1) else {
            return Offload::None;
        };
        self.write_header(packet).map_or(Offload::None, |()| {
            match (self.flow.protocol == protocol::TCP, self.flow.src.is_ipv4()) {
                (true, true) => Offload::Tcp4 { segment_size },
                (true, false) => Offload::Tcp6 { segment_size },
                (false, true) => Offload::Udp4 { segment_size },
                (false, false) => Offload::Udp6 { segment_size },
            }
        })
    }

    fn write_header(&self, packet: &mut [u8]) -> Option<()> {
        let total_len = u16::try_from(packet.len()).ok()?;
        if self.flow.src.is_ipv4() {
            write_word(packet, 2, total_len)?;
            write_word(packet, 10, 0)?;
            let checksum = Sum::new().bytes(packet.get(..self.ip_len)?).checksum();
            write_word(packet, 10, checksum)?;
        } else {
            write_word(packet, 4, total_len.checked_sub(40)?)?;
        }
        let length = packet.len() - self.ip_len;
        let FiveTuple { src, dst, protocol, .. } = self.flow;
        let partial = Sum::new().pseudo_header(src, dst, protocol, length).fold();
        let transport = packet.get_mut(self.ip_len..)?;
        if protocol == protocol::TCP {
            if self.is_pushed {
                *transport.get_mut(13)? |= tcp_flags::PSH;
            }
            write_word(transport, 16, partial)
        } else {
            write_word(transport, 4, u16::try_from(length).ok()?)?;
            write_word(transport, 6, partial)
        }
    }
}

/// Whether two headers agree in everything but lengths, identification, sequence, PSH and
/// checksums.
#[inline]
fn same_header(a: &[u8], b: &[u8], ip_len: usize, is_tcp: bool) -> bool {
    let (Some((ip_a, a)), Some((ip_b, b))) = (a.split_at_checked(ip_len), b.split_at_checked(ip_len)) else {
        return false;
    };
    same_ip(ip_a, ip_b) && if is_tcp { same_tcp(a, b) } else { a.first_chunk::<4>() == b.first_chunk::<4>() }
}

#[inline]
fn same_ip(a: &[u8], b: &[u8]) -> bool {
    if let (Some(a), Some(b)) = (a.first_chunk::<40>(), b.first_chunk::<40>()) {
        // Version, class and flow label; next header and hop limit; addresses.
        return a[..4] == b[..4] && a[6..] == b[6..];
    }
    let (Some(a), Some(b)) = (a.first_chunk::<20>(), b.first_chunk::<20>()) else { return false };
    // Version, length and class; flags; time to live and protocol; addresses.
    a[..2] == b[..2] && a[6..10] == b[6..10] && a[12..] == b[12..]
}

#[inline]
fn same_tcp(a: &[u8], b: &[u8]) -> bool {
    let (Some((head_a, options_a)), Some((head_b, options_b))) =
        (a.split_first_chunk::<20>(), b.split_first_chunk::<20>())
    else {
        return false;
    };
    // Ports; acknowledgement and data offset; window; urgent pointer; options.
    head_a[..4] == head_b[..4]
        && head_a[8..13] == head_b[8..13]
        && head_a[14..16] == head_b[14..16]
        && head_a[18..] == head_b[18..]
        && options_a == options_b
}
