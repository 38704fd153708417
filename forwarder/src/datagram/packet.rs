//! From a payload to the IP packets that carry it, fragments where it does not fit.

use std::net::{IpAddr, SocketAddr};

use tunnel::packet::{Sum, Udp, protocol};

const HOP_LIMIT: u8 = 64;
/// Bytes of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;
/// Bytes of IPv6's fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: usize = 8;
/// IPv6's next-header value of the fragment header.
const FRAGMENT: u8 = 44;
/// Room for the longest header in front of a datagram.
const HEADROOM: usize = IPV6_HEADER + FRAGMENT_HEADER;
/// Where the payload begins.
const PAYLOAD: usize = HEADROOM + Udp::HEADER_LEN;
/// The longest payload of a datagram over IPv4, and as much as is taken over IPv6.
pub const MAX_PAYLOAD: usize = 65_507;

/// A payload with room for headers in front, so that it is never copied.
pub struct Buffer {
    bytes: Box<[u8]>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; PAYLOAD + MAX_PAYLOAD].into_boxed_slice() }
    }
}

impl Buffer {
    /// A buffer for headers alone: no payload fits.
    #[must_use]
    pub fn default_for_header() -> Self {
        Self { bytes: vec![0; PAYLOAD].into_boxed_slice() }
    }

    /// Where the payload is written: [`MAX_PAYLOAD`] bytes.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(PAYLOAD..).unwrap_or_default()
    }

    /// Gives the first `length` bytes of the payload to `emit` as one packet, or as fragments of at
    /// most `mtu` bytes.
    ///
    /// `id` distinguishes fragments of different datagrams; IPv4 uses its lower 16 bits. The
    /// payload is used up. `false`, and nothing is emitted, when the families differ or the length
    /// is above [`MAX_PAYLOAD`].
    pub fn packets(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        length: usize,
        limits: (u16, u32),
        mut emit: impl FnMut(&mut [u8]),
    ) -> bool {
        let ((source, destination), (mtu, id)) = (ends, limits);
        if source.is_ipv4() != destination.is_ipv4() || length > MAX_PAYLOAD {
            return false;
        }
        self.write_udp(source, destination, length);
        let total = Udp::HEADER_LEN + length;
        let (header, fragment_header) =
            if source.is_ipv4() { (IPV4_HEADER, IPV4_HEADER) } else { (IPV6_HEADER, HEADROOM) };
        let addresses = (source.ip(), destination.ip());
        if header + total <= usize::from(mtu) {
            let piece = Piece { offset: 0, length: total, more: false, id: None };
            self.emit(addresses, piece, &mut emit);
            return true;
        }
        let step = (usize::from(mtu).saturating_sub(fragment_header) & !7).max(8);
        for offset in (0..total).step_by(step) {
            let length = step.min(total - offset);
            let piece = Piece { offset, length, more: offset + length < total, id: Some(id) };
            // In order: a later header may overwrite the end of an earlier piece, which has left by
            // then.
            self.emit(addresses, piece, &mut emit);
        }
        true
    }

    fn write_udp(&mut self, source: SocketAddr, destination: SocketAddr, length: usize) {
        let total = Udp::HEADER_LEN + length;
        let Some(datagram) = self.bytes.get_mut(HEADROOM..HEADROOM + total) else { return };
        let mut header = [0; Udp::HEADER_LEN];
        [header[0], header[1]] = source.port().to_be_bytes();
        [header[2], header[3]] = destination.port().to_be_bytes();
        // At most 8 + 65,507.
        [header[4], header[5]] = u16::try_from(total).unwrap_or(0).to_be_bytes();
        put(datagram, 0, &header);
        let sum = Sum::new().pseudo_header(source.ip(), destination.ip(), protocol::UDP, total);
        let checksum = match sum.bytes(datagram).checksum() {
            // Zero means that there is none (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        put(datagram, 6, &checksum.to_be_bytes());
    }

    fn emit(&mut self, addresses: (IpAddr, IpAddr), piece: Piece, emit: &mut impl FnMut(&mut [u8])) {
        let (header, length) = piece.header(addresses);
        let content = HEADROOM + piece.offset;
        let Some(header) = header.get(..length) else { return };
        let start = content - length;
        if let Some(packet) = self.bytes.get_mut(start..content + piece.length) {
            put(packet, 0, header);
            emit(packet);
        }
    }
}

/// A part of a datagram, or all of it.
#[derive(Clone, Copy)]
struct Piece {
    offset: usize,
    length: usize,
    more: bool,
    /// `None` for a whole datagram.
    id: Option<u32>,
}

impl Piece {
    /// The header in front of this piece, and how many of its bytes count.
    fn header(&self, addresses: (IpAddr, IpAddr)) -> ([u8; HEADROOM], usize) {
        let mut header = [0; HEADROOM];
        let word = u16::try_from(self.offset).unwrap_or(u16::MAX);
        match addresses {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = u16::try_from(IPV4_HEADER + self.length).unwrap_or(u16::MAX);
                put(&mut header, 0, &[0x45, 0]);
                put(&mut header, 2, &total.to_be_bytes());
                let id = self.id.unwrap_or(0).to_be_bytes();
                put(&mut header, 4, &[id[2], id[3]]);
                put(&mut header, 6, &(u16::from(self.more) << 13 | word >> 3).to_be_bytes());
                put(&mut header, 8, &[HOP_LIMIT, protocol::UDP]);
                put(&mut header, 12, &from.octets());
                put(&mut header, 16, &to.octets());
                let sum = Sum::new().bytes(header.get(..IPV4_HEADER).unwrap_or_default());
                put(&mut header, 10, &sum.checksum().to_be_bytes());
                (header, IPV4_HEADER)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let extra = if self.id.is_some() { FRAGMENT_HEADER } else { 0 };
                let payload = u16::try_from(extra + self.length).unwrap_or(u16::MAX);
                let next = if self.id.is_some() { FRAGMENT } else { protocol::UDP };
                put(&mut header, 0, &[0x60]);
                put(&mut header, 4, &payload.to_be_bytes());
                put(&mut header, 6, &[next, HOP_LIMIT]);
                put(&mut header, 8, &from.octets());
                put(&mut header, 24, &to.octets());
                if let Some(id) = self.id {
                    put(&mut header, 40, &[protocol::UDP, 0]);
                    put(&mut header, 42, &(word | u16::from(self.more)).to_be_bytes());
                    put(&mut header, 44, &id.to_be_bytes());
                }
                (header, IPV6_HEADER + extra)
            }
            // `packets` refuses them.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => (header, 0),
        }
    }
}

/// Copies bytes to an offset that is inside.
fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tunnel::packet::Ip;

    #[test]
    fn a_datagram_that_fits_is_one_packet_with_a_right_checksum() {
        for ends in ends() {
            for length in [0, 1, 1_000, 1_372] {
                let packets = packets(ends, length, 1420);
                assert_eq!(packets.len(), 1, "{length}");
                let ip = Ip::parse(&packets[0]).unwrap();
                assert!(ip.transport_checksum_is_valid(&packets[0]));
                let udp = Udp::parse(ip.payload(&packets[0])).unwrap();
                assert_eq!((udp.source_port, udp.destination_port), (ends.0.port(), ends.1.port()));
                assert_eq!(udp.length, 8 + length);
            }
        }
    }

    #[test]
    fn no_fragment_is_above_the_mtu_and_only_the_last_ends_the_datagram() {
        for ends in ends() {
            let packets = packets(ends, 8_000, 1420);
            assert_eq!(packets.len(), 6);
            for (place, packet) in packets.iter().enumerate() {
                assert!(packet.len() <= 1420);
                let fragment = Ip::parse(packet).unwrap().fragment.unwrap();
                assert_eq!(fragment.more, place < 5);
                assert_eq!(fragment.id, 0x1234);
            }
        }
    }

    #[test]
    fn ends_of_two_families_make_no_packet() {
        let [(v4, _), (v6, _)] = ends();
        assert!(!Buffer::default().packets((v4, v6), 1, (1420, 0), |_| panic!("a packet was made")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn fragments_hold_exactly_the_datagram(length in 0..20_000usize, mtu in 576..9_000u16, v4: bool) {
            let ends = ends()[usize::from(v4)];
            let mut joined = Vec::new();
            for packet in packets(ends, length, mtu) {
                prop_assert!(packet.len() <= usize::from(mtu));
                let ip = Ip::parse(&packet).unwrap();
                prop_assert_eq!(ip.fragment.map_or(0, |fragment| usize::from(fragment.offset)), joined.len());
                joined.extend_from_slice(ip.payload(&packet));
            }
            let expected: Vec<u8> = (0..length).map(|at| at as u8).collect();
            prop_assert_eq!(&joined[8..], &expected[..]);
            let sum = Sum::new().pseudo_header(ends.0.ip(), ends.1.ip(), protocol::UDP, joined.len());
            prop_assert!(sum.bytes(&joined).is_valid());
        }
    }

    fn packets(ends: (SocketAddr, SocketAddr), length: usize, mtu: u16) -> Vec<Vec<u8>> {
        let mut buffer = Buffer::default();
        for (at, byte) in buffer.payload_mut().iter_mut().take(length).enumerate() {
            *byte = at as u8;
        }
        let mut packets = Vec::new();
        assert!(buffer.packets(ends, length, (mtu, 0x1234), |packet| packets.push(packet.to_vec())));
        packets
    }

    fn ends() -> [(SocketAddr, SocketAddr); 2] {
        [("192.168.88.2:443", "203.0.113.10:40001"), ("[fd00::2]:443", "[2001:db8::1]:40001")]
            .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
    }
}
