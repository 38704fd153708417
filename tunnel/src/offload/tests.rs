use std::net::{Ipv4Addr, Ipv6Addr};

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::{ipv4, tcp, udp};
use proptest::collection::vec;
use proptest::prelude::*;

use super::virtio::{self, HeaderError};
use super::{CoalesceOptions, Coalescer, Offload, Segments, SplitError, SuperPacket};
use crate::endpoint::PeerId;
use crate::packet::{FiveTuple, Ip, protocol, tcp_flags};
use crate::sink::InnerSink;

const BOTH: CoalesceOptions = CoalesceOptions { tcp: true, udp: true };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn splitting_equals_a_naive_reference(shape in shape(), size in 1u16..2000, length in 0usize..20_000) {
        let payload = payload(length);
        let mut packet = shape.packet(0, &payload);
        let expected = naive_split(&shape, &payload, usize::from(size));
        // Partial checksums, as the kernel hands them over, must not matter.
        packet[shape.checksum_at()] ^= 0x55;
        let got = split(&mut packet, shape.offload(size));
        prop_assert_eq!(got, Ok(expected));
    }

    #[test]
    fn joining_what_was_split_and_splitting_again_is_the_identity(
        shape in shape(), size in 64u16..1500, length in 1usize..60_000,
    ) {
        let shape = Shape { flags: shape.flags & (tcp_flags::ACK | tcp_flags::PSH) | tcp_flags::ACK, ..shape };
        let wire = naive_split(&shape, &payload(length), usize::from(size));
        let mut coalescer = Coalescer::new(BOTH);
        let (supers, again) = through(&mut coalescer, wire.iter().map(|packet| (PeerId(1), packet.clone())));
        prop_assert_eq!(&again, &wire.iter().map(|packet| (PeerId(1), packet.clone())).collect::<Vec<_>>());
        // TCP becomes one super-packet; UDP one per 64 datagrams.
        let most = if shape.is_tcp { 1 } else { wire.len().div_ceil(64) + 1 };
        prop_assert!(supers <= most, "{} super-packets of {} segments", supers, wire.len());
    }

    #[test]
    fn joining_any_packets_keeps_every_flow_in_order_and_every_byte(
        picks in vec((0usize..5, 1u32..3, 0usize..1600, any::<u8>(), any::<bool>()), 1..120),
        shapes in vec(shape(), 5),
    ) {
        let mut next = [[100u32; 5]; 3];
        let mut wire = Vec::new();
        for (which, origin, length, noise, corrupt) in picks {
            let mut shape = shapes[which].clone();
            shape.port += which as u16;
            shape.sequence = next[origin as usize][which];
            shape.ip_id = (shape.sequence / 7) as u16;
            next[origin as usize][which] = shape.sequence.wrapping_add(length as u32);
            if noise > 16 { shape.flags = tcp_flags::ACK; }
            let length = if noise & 1 == 0 { 1000 } else { length };
            let mut packet = shape.packet(0, &payload(length));
            if corrupt && noise < 32 {
                *packet.last_mut().unwrap() ^= 0x80;
            }
            wire.push((PeerId(origin), packet));
        }
        let (_, out) = through(&mut Coalescer::new(BOTH), wire.clone());
        prop_assert_eq!(by_flow(&out), by_flow(&wire));
    }

    #[test]
    fn no_virtio_header_makes_anything_panic(
        header in vec(any::<u8>(), 0..14), kind in prop_oneof![Just(1u8), Just(4), Just(5), any::<u8>()],
        mut packet in vec(any::<u8>(), 0..400), shape in shape(), real: bool, size in 0u16..50,
    ) {
        let mut header = header;
        if let Some(byte) = header.get_mut(1) { *byte = kind; }
        if size > 0 && header.len() > 5 { header[4..6].copy_from_slice(&size.to_ne_bytes()); }
        if real { packet = shape.packet(0, &payload(packet.len())); }
        if let Ok(offload) = virtio::decode(&header, &packet) {
            let _ = virtio::encode(&SuperPacket { bytes: &mut packet.clone(), offload });
            if let Ok(mut segments) = Segments::new(SuperPacket { bytes: &mut packet, offload }) {
                let mut left = segments.remaining();
                while let Some(segment) = segments.next_segment() {
                    prop_assert!(Ip::parse(segment).is_ok());
                    left -= 1;
                }
                prop_assert_eq!(left, 0);
            }
        }
    }

    #[test]
    fn no_inner_packets_make_the_coalescer_panic(
        packets in vec((vec(any::<u8>(), 1..200), 0u8..4, any::<u8>()), 1..60),
    ) {
        let mut coalescer = Coalescer::new(BOTH);
        for (mut bytes, form, ecn) in packets {
            match form {
                0 => bytes[0] = 0x45,
                1 => bytes[0] = 0x60,
                _ => {}
            }
            let slot = coalescer.slot(bytes.len() + 16).unwrap();
            slot[..bytes.len()].copy_from_slice(&bytes);
            if form < 3 { coalescer.commit(PeerId(0), bytes.len(), ecn); }
        }
        while coalescer.poll_packet().is_some() {}
    }

    #[test]
    fn a_virtio_header_is_read_back_as_it_was_written(shape in shape(), size in 1u16..9000) {
        let mut bytes = shape.packet(0, &payload(3000));
        let offload = shape.offload(size);
        let header = virtio::encode(&SuperPacket { bytes: &mut bytes, offload });
        prop_assert_eq!(virtio::decode(&header, &bytes), Ok(offload));
        prop_assert_eq!(usize::from(u16::from_ne_bytes([header[2], header[3]])), shape.header_len());
    }
}

#[test]
fn a_partial_checksum_is_completed_and_a_udp_sum_of_zero_becomes_ones() {
    for is_v4 in [true, false] {
        let mut shape = Shape::plain(is_v4, false);
        let mut whole = shape.packet(0, &[]);
        // Choose the port so that the sum comes out as zero.
        let at = shape.checksum_at();
        shape.port = shape.port.wrapping_add(u16::from_be_bytes([whole[at], whole[at + 1]]));
        whole = shape.packet(0, &[]);
        assert_eq!(whole[at..at + 2], [0xff, 0xff]);
        let mut partial = whole.clone();
        let ip = Ip::parse(&whole).unwrap();
        let sum = crate::packet::Sum::new().pseudo_header(ip.src, ip.dst, protocol::UDP, 8).fold();
        partial[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let offload = Offload::Checksum { start: ip.header_len as u16, offset: 6 };
        assert_eq!(split(&mut partial, offload), Ok(vec![whole]));
    }
}

#[test]
fn a_checksum_field_outside_the_packet_is_refused() {
    let mut packet = Shape::plain(true, true).packet(0, &[]);
    for (start, offset) in [(40, 0), (39, 0), (20, 19), (u16::MAX, u16::MAX), (0, u16::MAX), (0, 0), (19, 0)]
    {
        let refused = split(&mut packet, Offload::Checksum { start, offset });
        assert_eq!(refused, Err(SplitError::ChecksumRange), "{start}+{offset}");
    }
}

#[test]
fn an_offload_that_does_not_match_its_packet_is_refused() {
    let mut v4_tcp = Shape::plain(true, true).packet(0, &[1; 100]);
    assert_eq!(split(&mut v4_tcp, Offload::Tcp6 { segment_size: 9 }), Err(SplitError::Mismatch));
    assert_eq!(split(&mut v4_tcp, Offload::Udp4 { segment_size: 9 }), Err(SplitError::Mismatch));
    assert_eq!(split(&mut v4_tcp, Offload::Tcp4 { segment_size: 0 }), Err(SplitError::ZeroSegment));
    v4_tcp[6] |= 0x20;
    assert_eq!(split(&mut v4_tcp, Offload::Tcp4 { segment_size: 9 }), Err(SplitError::Fragment));
}

#[test]
fn a_header_of_the_wrong_kind_is_refused_by_name() {
    assert_eq!(virtio::decode(&[0; 9], &[]), Err(HeaderError::Short));
    assert_eq!(virtio::decode(&[1, 3, 0, 0, 9, 9, 0, 0, 0, 0], &[]), Err(HeaderError::UnknownType));
    assert_eq!(virtio::decode(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[]), Err(HeaderError::ZeroSegment));
    let with_ecn = [1, 0x81, 0, 0, 5, 0, 0, 0, 0, 0];
    let size = u16::from_ne_bytes([5, 0]);
    assert_eq!(virtio::decode(&with_ecn, &[0x45]), Ok(Offload::Tcp4 { segment_size: size }));
}

#[test]
fn what_must_not_merge_does_not() {
    let first = Shape::plain(true, true);
    let next = Shape { sequence: first.sequence + 1000, ip_id: first.ip_id + 1, ..first.clone() };
    let merged = |second: &Shape, origin: u32, length: usize| {
        let packets = [
            (PeerId(1), first.packet(0, &payload(1000))),
            (PeerId(origin), second.packet(0, &payload(length))),
        ];
        through(&mut Coalescer::new(BOTH), packets).0 == 1
    };
    assert!(merged(&next, 1, 1000));
    assert!(merged(&next, 1, 10));
    assert!(merged(&Shape { flags: tcp_flags::ACK | tcp_flags::PSH, ..next.clone() }, 1, 1000));
    assert!(!merged(&next, 2, 1000), "another peer");
    assert!(!merged(&next, 1, 1001), "a longer segment");
    assert!(!merged(&next, 1, 0), "an acknowledgement without data");
    let same = next.clone();
    let others = [
        ("sequence gap", Shape { sequence: same.sequence + 1, ..same.clone() }),
        ("overlap", Shape { sequence: same.sequence - 1, ..same.clone() }),
        ("acknowledgement", Shape { acknowledgement: 9, ..same.clone() }),
        ("window", Shape { window: 9, ..same.clone() }),
        ("options", Shape { options: vec![1, 1, 1, 1], ..same.clone() }),
        ("class", Shape { class: 4, ..same.clone() }),
        ("time to live", Shape { ttl: 9, ..same.clone() }),
        ("don't fragment", Shape { dont_fragment: true, ..same.clone() }),
        ("identification", Shape { ip_id: same.ip_id + 1, ..same.clone() }),
        ("port", Shape { port: 9, ..same.clone() }),
        ("FIN", Shape { flags: tcp_flags::ACK | tcp_flags::FIN, ..same.clone() }),
        ("SYN", Shape { flags: tcp_flags::ACK | tcp_flags::SYN, ..same.clone() }),
        ("RST", Shape { flags: tcp_flags::ACK | tcp_flags::RST, ..same.clone() }),
        ("URG", Shape { flags: tcp_flags::ACK | tcp_flags::URG, ..same.clone() }),
        ("ECE", Shape { flags: tcp_flags::ACK | tcp_flags::ECE, ..same.clone() }),
        ("CWR", Shape { flags: tcp_flags::ACK | tcp_flags::CWR, ..same }),
    ];
    for (what, other) in others {
        assert!(!merged(&other, 1, 1000), "{what}");
    }
}

#[test]
fn a_pushed_or_a_short_segment_closes_its_group() {
    let first = Shape { flags: tcp_flags::ACK | tcp_flags::PSH, ..Shape::plain(true, true) };
    let second = Shape {
        flags: tcp_flags::ACK,
        sequence: first.sequence + 1000,
        ip_id: first.ip_id + 1,
        ..first.clone()
    };
    let packets =
        [(PeerId(1), first.packet(0, &payload(1000))), (PeerId(1), second.packet(0, &payload(1000)))];
    assert_eq!(through(&mut Coalescer::new(BOTH), packets).0, 2);
}

#[test]
fn a_corrupted_packet_never_gets_a_valid_checksum() {
    for is_tcp in [true, false] {
        let wire = naive_split(&Shape::plain(true, is_tcp), &payload(10_000), 1000);
        for at in [1, 9, 10, 22, 30, 39, 500] {
            let mut damaged = wire.clone();
            damaged[4][at] ^= 0x10;
            let packets = damaged.iter().map(|packet| (PeerId(1), packet.clone()));
            let mut coalescer = Coalescer::new(BOTH);
            let (_, out) = through(&mut coalescer, packets);
            assert!(out.iter().any(|(_, packet)| *packet == damaged[4]), "byte {at} came out changed");
            assert!(out.len() == 10 && coalescer.stats().bad_checksums <= 1);
        }
    }
}

#[test]
fn flows_that_alternate_packet_by_packet_still_merge() {
    let flows: Vec<_> = (0..4u16)
        .map(|n| {
            naive_split(&Shape { port: 1000 + n, ..Shape::plain(n % 2 == 0, true) }, &payload(20_000), 1000)
        })
        .collect();
    let wire = (0..20).flat_map(|i| flows.iter().map(move |flow| (PeerId(1), flow[i].clone())));
    assert_eq!(through(&mut Coalescer::new(BOTH), wire).0, 4);
}

#[test]
fn more_flows_than_lanes_go_out_alone() {
    let wire: Vec<_> = (0..40u16)
        .map(|n| (PeerId(1), Shape { port: 1000 + n, ..Shape::plain(true, true) }.packet(0, &payload(1000))))
        .collect();
    let (count, out) = through(&mut Coalescer::new(BOTH), wire.clone());
    assert_eq!((count, out), (40, wire));
}

#[test]
fn a_full_coalescer_asks_to_be_drained_and_then_goes_on() {
    let mut coalescer = Coalescer::new(BOTH);
    let packet = Shape::plain(true, true).packet(0, &[]);
    let mut kept = 0;
    while let Some(slot) = coalescer.slot(packet.len() + 16) {
        slot[..packet.len()].copy_from_slice(&packet);
        coalescer.commit(PeerId(1), packet.len(), 0);
        kept += 1;
    }
    assert_eq!(kept, 512);
    let mut drained = 0;
    while coalescer.poll_packet().is_some() {
        drained += 1;
    }
    assert_eq!(drained, 512);
    assert!(coalescer.is_empty() && coalescer.slot(65_535).is_some());
}

#[test]
fn a_super_packet_never_passes_the_longest_ip_packet() {
    let wire = naive_split(&Shape::plain(false, true), &payload(64_000), 1380);
    let more =
        naive_split(&Shape { sequence: 1 + 64_000, ..Shape::plain(false, true) }, &payload(1380 * 9), 1380);
    let full = wire[..wire.len() - 1].iter().chain(&more).map(|packet| (PeerId(1), packet.clone()));
    let (_, out) = through(&mut Coalescer::new(BOTH), full);
    assert_eq!(out.len(), wire.len() - 1 + more.len());
}

#[test]
fn an_outer_congestion_mark_reaches_an_ecn_capable_packet_only() {
    for is_v4 in [true, false] {
        for (class, expected) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let packet = Shape { class, ..Shape::plain(is_v4, true) }.packet(0, &[7]);
            let mut coalescer = Coalescer::new(BOTH);
            let slot = coalescer.slot(packet.len()).unwrap();
            slot.copy_from_slice(&packet);
            coalescer.commit(PeerId(1), packet.len(), 3);
            let (_, out) = coalescer.poll_packet().unwrap();
            let ip = Ip::parse(out.bytes).unwrap();
            assert_eq!(ip.ecn(), expected);
            assert!(!is_v4 || crate::packet::Sum::new().bytes(&out.bytes[..20]).is_valid());
        }
    }
}

/// One flow's headers.
#[derive(Clone, Debug)]
struct Shape {
    is_v4: bool,
    is_tcp: bool,
    port: u16,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    flags: u8,
    options: Vec<u8>,
    class: u8,
    ttl: u8,
    ip_id: u16,
    dont_fragment: bool,
}

impl Shape {
    fn plain(is_v4: bool, is_tcp: bool) -> Self {
        Self {
            is_v4,
            is_tcp,
            port: 443,
            sequence: 1,
            acknowledgement: 5,
            window: 500,
            flags: tcp_flags::ACK,
            options: Vec::new(),
            class: 0,
            ttl: 64,
            ip_id: 77,
            dont_fragment: false,
        }
    }

    fn ip_len(&self) -> usize {
        if self.is_v4 { 20 } else { 40 }
    }

    fn header_len(&self) -> usize {
        self.ip_len() + if self.is_tcp { 20 + self.options.len() } else { 8 }
    }

    fn checksum_at(&self) -> usize {
        self.ip_len() + if self.is_tcp { 16 } else { 6 }
    }

    fn offload(&self, segment_size: u16) -> Offload {
        match (self.is_tcp, self.is_v4) {
            (true, true) => Offload::Tcp4 { segment_size },
            (true, false) => Offload::Tcp6 { segment_size },
            (false, true) => Offload::Udp4 { segment_size },
            (false, false) => Offload::Udp6 { segment_size },
        }
    }

    /// The wire packet with this flow's headers, `offset` bytes into its stream; checksums by pnet.
    fn packet(&self, offset: u32, payload: &[u8]) -> Vec<u8> {
        let transport_len = self.header_len() - self.ip_len() + payload.len();
        let next = if self.is_tcp { IpNextHeaderProtocols::Tcp } else { IpNextHeaderProtocols::Udp };
        let (v4, v6) = ((Ipv4Addr::new(10, 77, 88, 2), Ipv4Addr::new(203, 0, 113, 10)), v6_pair());
        let mut transport = self.transport(offset, payload);
        let sum = match (self.is_tcp, self.is_v4) {
            (true, true) => tcp::ipv4_checksum(&tcp::TcpPacket::new(&transport).unwrap(), &v4.0, &v4.1),
            (true, false) => tcp::ipv6_checksum(&tcp::TcpPacket::new(&transport).unwrap(), &v6.0, &v6.1),
            (false, true) => udp::ipv4_checksum(&udp::UdpPacket::new(&transport).unwrap(), &v4.0, &v4.1),
            (false, false) => udp::ipv6_checksum(&udp::UdpPacket::new(&transport).unwrap(), &v6.0, &v6.1),
        };
        let sum = if sum == 0 && !self.is_tcp { 0xffff } else { sum };
        let at = self.checksum_at() - self.ip_len();
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0; self.ip_len()];
        if self.is_v4 {
            let mut ip = ipv4::MutableIpv4Packet::new(&mut packet).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_dscp(self.class >> 2);
            ip.set_ecn(self.class & 3);
            ip.set_total_length((20 + transport_len) as u16);
            ip.set_identification(self.ip_id);
            ip.set_flags(if self.dont_fragment { 2 } else { 0 });
            ip.set_ttl(self.ttl);
            ip.set_next_level_protocol(next);
            ip.set_source(v4.0);
            ip.set_destination(v4.1);
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
        } else {
            packet[0] = 0x60 | self.class >> 4;
            packet[1] = self.class << 4;
            packet[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            packet[6] = next.0;
            packet[7] = self.ttl;
            packet[8..24].copy_from_slice(&v6.0.octets());
            packet[24..40].copy_from_slice(&v6.1.octets());
        }
        packet.extend(transport);
        packet
    }

    fn transport(&self, offset: u32, payload: &[u8]) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.port.to_be_bytes());
        transport.extend(40_000u16.to_be_bytes());
        if self.is_tcp {
            transport.extend(self.sequence.wrapping_add(offset).to_be_bytes());
            transport.extend(self.acknowledgement.to_be_bytes());
            transport.extend([((20 + self.options.len()) << 2) as u8, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0; 4]);
            transport.extend(&self.options);
        } else {
            transport.extend(((8 + payload.len()) as u16).to_be_bytes());
            transport.extend([0; 2]);
        }
        transport.extend(payload);
        transport
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>(), 0usize..=10);
    let ip =
        (any::<bool>(), any::<bool>(), 1u16..60_000, any::<u8>(), any::<u8>(), any::<u16>(), any::<bool>());
    (tcp, ip).prop_map(|(tcp, ip)| Shape {
        is_v4: ip.0,
        is_tcp: ip.1,
        port: ip.2,
        sequence: tcp.0,
        acknowledgement: tcp.1,
        window: tcp.2,
        flags: tcp.3,
        options: vec![1; if ip.1 { tcp.4 * 4 } else { 0 }],
        class: ip.3,
        ttl: ip.4,
        ip_id: ip.5,
        dont_fragment: ip.6,
    })
}

fn naive_split(shape: &Shape, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut pieces: Vec<&[u8]> = payload.chunks(size).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let last = pieces.len() - 1;
    let each = pieces.iter().enumerate().map(|(i, piece)| {
        let mut one = shape.clone();
        one.ip_id = shape.ip_id.wrapping_add(i as u16);
        if i < last {
            one.flags &= !(tcp_flags::FIN | tcp_flags::PSH);
        }
        if i > 0 {
            one.flags &= !tcp_flags::CWR;
        }
        one.packet((i * size) as u32, piece)
    });
    each.collect()
}

fn split(bytes: &mut [u8], offload: Offload) -> Result<Vec<Vec<u8>>, SplitError> {
    let mut segments = Segments::new(SuperPacket { bytes, offload })?;
    let (count, longest) = (segments.remaining(), segments.max_len());
    let mut all = Vec::new();
    while let Some(segment) = segments.next_segment() {
        all.push(segment.to_vec());
    }
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|segment| segment.len() <= longest));
    Ok(all)
}

/// Gives packets to the coalescer as a node would; returns how many came out, and those split
/// again.
fn through(
    coalescer: &mut Coalescer,
    packets: impl IntoIterator<Item = (PeerId, Vec<u8>)>,
) -> (usize, Vec<(PeerId, Vec<u8>)>) {
    for (peer, packet) in packets {
        // First a datagram that fails to authenticate: its slot is written to, but never committed.
        coalescer.slot(packet.len() + 16).unwrap().fill(0xee);
        let slot = coalescer.slot(packet.len() + 16).unwrap();
        slot.fill(0xdd);
        slot[..packet.len()].copy_from_slice(&packet);
        coalescer.commit(peer, packet.len(), 0);
    }
    let (mut count, mut out) = (0, Vec::new());
    while let Some((peer, packet)) = coalescer.poll_packet() {
        count += 1;
        let header = virtio::encode(&packet);
        assert_eq!(virtio::decode(&header, packet.bytes), Ok(packet.offload));
        out.extend(split(packet.bytes, packet.offload).unwrap().into_iter().map(|segment| (peer, segment)));
    }
    (count, out)
}

/// Packets per peer and flow in order. The identification of an atomic packet carries no meaning
/// (RFC 6864 §4.1).
fn by_flow(packets: &[(PeerId, Vec<u8>)]) -> std::collections::BTreeMap<(PeerId, FiveTuple), Vec<Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<_, Vec<_>>::new();
    for (peer, packet) in packets {
        let ip = Ip::parse(packet).unwrap();
        let mut packet = packet.clone();
        let flow = FiveTuple::of(&ip, &packet).unwrap();
        if ip.is_v4() && ip.dont_fragment {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        flows.entry((*peer, flow)).or_default().push(packet);
    }
    flows
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn v6_pair() -> (Ipv6Addr, Ipv6Addr) {
    let address = |last| Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, last);
    (address(2), address(10))
}
