//! Packets as the kernel hands them over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunnel::offload::{Offload, Segments, SuperPacket};
use tunnel::packet::{Sum, protocol, tcp_flags};

/// Payload bytes of a TCP segment with a timestamp option at a tunnel MTU of 1420.
pub const SEGMENT: u16 = 1368;
/// Bytes of an IPv4 header and a TCP header with a timestamp option.
pub const HEADERS: usize = 52;

/// A packet with the offload that is still to be done.
#[derive(Debug, Clone)]
pub struct Whole {
    /// From the first byte of the IP header.
    pub bytes: Vec<u8>,
    /// What is still to be done.
    pub offload: Offload,
}

impl Whole {
    /// The packet as the node takes it, in `buffer`, which is as long as the packet at least.
    ///
    /// This is the copy that reading from a TUN makes.
    pub fn copy_to<'a>(&self, buffer: &'a mut [u8]) -> Option<SuperPacket<'a>> {
        let bytes = buffer.get_mut(..self.bytes.len())?;
        bytes.copy_from_slice(&self.bytes);
        Some(SuperPacket { bytes, offload: self.offload })
    }

    /// The wire packets it is cut into.
    #[must_use]
    pub fn segments(mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let packet = SuperPacket { bytes: &mut self.bytes, offload: self.offload };
        if let Ok(mut segments) = Segments::new(packet) {
            while let Some(segment) = segments.next_segment() {
                all.push(segment.to_vec());
            }
        }
        all
    }
}

/// A TCP super-packet over IPv4 of `payload` bytes, its checksum partial, as TSO leaves it.
#[must_use]
pub fn tcp4(payload: usize, sequence: u32) -> Whole {
    let (src, dst) = (Ipv4Addr::new(192, 168, 88, 2), Ipv4Addr::new(203, 0, 113, 10));
    let total = u16::try_from(HEADERS + payload).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0x12, 0x34, 0x40, 0, 64, protocol::TCP, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let checksum = Sum::new().bytes(&bytes).checksum();
    put(&mut bytes, 10, checksum);
    tcp(&mut bytes, src.into(), dst.into(), payload, sequence);
    Whole { bytes, offload: Offload::Tcp4 { segment_size: SEGMENT } }
}

/// A TCP super-packet over IPv6 of `payload` bytes.
#[must_use]
pub fn tcp6(payload: usize, sequence: u32) -> Whole {
    let (src, dst) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    let length = u16::try_from(HEADERS - 20 + payload).unwrap_or(u16::MAX);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([protocol::TCP, 64]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    tcp(&mut bytes, src.into(), dst.into(), payload, sequence);
    Whole { bytes, offload: Offload::Tcp6 { segment_size: SEGMENT - 20 } }
}

/// A complete UDP packet over IPv4 with `payload` bytes.
#[must_use]
pub fn udp4(payload: usize) -> Whole {
    let (src, dst) = (Ipv4Addr::new(192, 168, 88, 2), Ipv4Addr::new(203, 0, 113, 10));
    let length = u16::try_from(8 + payload).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.saturating_add(20).to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, protocol::UDP, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let checksum = Sum::new().bytes(&bytes).checksum();
    put(&mut bytes, 10, checksum);
    let udp_at = bytes.len();
    bytes.extend([0x01, 0xbd, 0xc0, 0x01]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(pattern(payload));
    let pseudo = Sum::new().pseudo_header(src.into(), dst.into(), protocol::UDP, usize::from(length));
    let checksum = pseudo.bytes(bytes.get(udp_at..).unwrap_or_default()).checksum();
    put(&mut bytes, udp_at + 6, checksum);
    Whole { bytes, offload: Offload::None }
}

/// Appends a TCP header with a timestamp option, its checksum field holding the pseudo-header sum,
/// and the payload.
fn tcp(bytes: &mut Vec<u8>, src: IpAddr, dst: IpAddr, payload: usize, sequence: u32) {
    let at = bytes.len();
    bytes.extend([0x01, 0xbb, 0xc0, 0x01]);
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 8 << 4, tcp_flags::ACK, 0x01, 0xf6, 0, 0, 0, 0]);
    bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    bytes.extend(pattern(payload));
    let partial = Sum::new().pseudo_header(src, dst, protocol::TCP, bytes.len() - at).fold();
    put(bytes, at + 16, partial);
}

fn pattern(length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(|at| (at.wrapping_mul(31) >> 3) as u8)
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_is_cut_into_segments_with_valid_checksums() {
        for (whole, count) in [(tcp4(60_000, 1), 44), (tcp6(60_000, 1), 45), (udp4(200), 1)] {
            let segments = whole.segments();
            assert_eq!(segments.len(), count);
            for segment in segments {
                let ip = tunnel::packet::Ip::parse(&segment).unwrap();
                let payload = ip.payload(&segment);
                let sum = Sum::new().pseudo_header(ip.src, ip.dst, ip.protocol, payload.len());
                assert!(sum.bytes(payload).is_valid());
            }
        }
    }
}
