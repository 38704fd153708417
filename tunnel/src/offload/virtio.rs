//! The header that a TUN device with `IFF_VNET_HDR` puts before every packet (virtio 1.2 §5.1.6).
//!
//! It is read as untrusted input: lengths and offsets are checked against the packet when they are
//! used, and `hdr_len` is never used, since the kernel leaves it wrong for forwarded packets.

use super::{Offload, SuperPacket};
use crate::packet::{Ip, Tcp, Udp};

/// Bytes of the header (`TUNSETVNETHDRSZ` left at its default).
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set together with the type when the TCP super-packet carries CWR; the splitter reads that from
/// the packet.
const GSO_ECN: u8 = 0x80;

/// Why a virtio header was refused; each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than 10 bytes.
    #[error("short virtio header")]
    Short,
    /// An offload that was not requested from the kernel.
    #[error("unknown virtio offload")]
    UnknownType,
    /// A super-packet with segments of zero bytes.
    #[error("zero segment size")]
    ZeroSegment,
}

/// What is still to be done to `packet`, by its header.
///
/// # Errors
/// [`HeaderError`]; the packet must be dropped.
#[inline]
pub fn decode(header: &[u8], packet: &[u8]) -> Result<Offload, HeaderError> {
    let h: &[u8; HEADER_LEN] = header.first_chunk().ok_or(HeaderError::Short)?;
    let segment_size = u16::from_ne_bytes([h[4], h[5]]);
    let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    let offload = match h[1] & !GSO_ECN {
        GSO_NONE if h[0] & NEEDS_CSUM == 0 => return Ok(Offload::None),
        GSO_NONE => {
            let (start, offset) = (u16::from_ne_bytes([h[6], h[7]]), u16::from_ne_bytes([h[8], h[9]]));
            return Ok(Offload::Checksum { start, offset });
        }
        GSO_TCPV4 => Offload::Tcp4 { segment_size },
        GSO_TCPV6 => Offload::Tcp6 { segment_size },
        GSO_UDP_L4 if is_v6 => Offload::Udp6 { segment_size },
        GSO_UDP_L4 => Offload::Udp4 { segment_size },
        _ => return Err(HeaderError::UnknownType),
    };
    if segment_size == 0 { Err(HeaderError::ZeroSegment) } else { Ok(offload) }
}

/// The header to write before a packet of ours.
///
/// A super-packet whose headers do not parse goes out as a plain packet: the kernel then judges it.
#[inline]
#[must_use]
pub fn encode(packet: &SuperPacket<'_>) -> [u8; HEADER_LEN] {
    match packet.offload {
        Offload::None => [0; HEADER_LEN],
        Offload::Checksum { start, offset } => header(GSO_NONE, 0, 0, start, offset),
        Offload::Tcp4 { segment_size } => encode_super(packet.bytes, GSO_TCPV4, segment_size),
        Offload::Tcp6 { segment_size } => encode_super(packet.bytes, GSO_TCPV6, segment_size),
        Offload::Udp4 { segment_size } | Offload::Udp6 { segment_size } => {
            encode_super(packet.bytes, GSO_UDP_L4, segment_size)
        }
    }
}

fn encode_super(packet: &[u8], kind: u8, segment_size: u16) -> [u8; HEADER_LEN] {
    let lengths = || {
        let ip = Ip::parse(packet).ok()?;
        let (transport, offset) = match kind {
            GSO_UDP_L4 => (Udp::HEADER_LEN, 6),
            _ => (Tcp::parse(ip.payload(packet)).ok()?.header_len, 16),
        };
        let start = u16::try_from(ip.header_len).ok()?;
        Some((start.checked_add(u16::try_from(transport).ok()?)?, start, offset))
    };
    match lengths() {
        Some((header_len, start, offset)) => header(kind, header_len, segment_size, start, offset),
        None => [0; HEADER_LEN],
    }
}

fn header(kind: u8, header_len: u16, segment_size: u16, start: u16, offset: u16) -> [u8; HEADER_LEN] {
    let ([l0, l1], [g0, g1]) = (header_len.to_ne_bytes(), segment_size.to_ne_bytes());
    let ([s0, s1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
    [NEEDS_CSUM, kind, l0, l1, g0, g1, s0, s1, o0, o1]
}
