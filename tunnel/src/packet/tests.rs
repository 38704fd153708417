use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::Packet;
use proptest::prelude::*;

use super::{FiveTuple, Ip, Malformed, Sum, Tcp, icmp, icmp_error, incremental, protocol};

#[test]
fn the_example_of_rfc_1071_sums_up() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::new().bytes(&bytes).fold(), 0xddf2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_sum_equals_a_plain_loop(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        prop_assert_eq!(Sum::new().bytes(&bytes).fold(), plain_sum(&bytes));
    }

    #[test]
    fn a_sum_of_two_even_pieces_equals_the_sum_of_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150,
    ) {
        let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
        prop_assert_eq!(Sum::new().bytes(a).bytes(b).fold(), plain_sum(&bytes));
    }

    #[test]
    fn an_incremental_update_equals_a_full_one(mut bytes in proptest::collection::vec(any::<u8>(), 40), new: u16, at in 0usize..20) {
        // The checksum of all-zero bytes is not unique (RFC 1624 §3), so one word is kept set.
        bytes.extend([0x12, 0x34]);
        let before = Sum::new().bytes(&bytes).checksum();
        let old = u16::from_be_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
        bytes[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(incremental(before, old, new), Sum::new().bytes(&bytes).checksum());
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..16) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = (version << 4) | (*first & 0x0f);
        }
        if let Ok(ip) = Ip::parse(&bytes) {
            prop_assert!(ip.header_len <= ip.total_len && ip.total_len <= bytes.len());
            let _ = FiveTuple::of(&ip, &bytes);
            let _ = ip.transport_checksum_is_valid(&bytes);
            let _ = icmp::Echo::parse(&ip, &bytes);
            let _ = Tcp::parse(ip.payload(&bytes)).map(|tcp| tcp.maximum_segment_size(ip.payload(&bytes)));
            let _ = icmp_error::IcmpError::parse(&ip, &bytes);
            let _ = icmp::Error::NoRoute.build(&bytes, ip.dst);
        }
    }
}

#[test]
fn pnet_agrees_on_the_checksum_of_an_echo_of_each_family() {
    let echo = icmp::Echo { is_reply: false, id: 7, sequence: 9, data: b"abcde" };
    let packet = echo.build(v4(1), v4(2)).unwrap();
    let view = pnet::packet::ipv4::Ipv4Packet::new(&packet).unwrap();
    assert_eq!(view.get_checksum(), pnet::packet::ipv4::checksum(&view));
    let inner = pnet::packet::icmp::IcmpPacket::new(view.payload()).unwrap();
    assert_eq!(inner.get_checksum(), pnet::packet::icmp::checksum(&inner));

    let packet = echo.build(v6(1), v6(2)).unwrap();
    let view = pnet::packet::ipv6::Ipv6Packet::new(&packet).unwrap();
    let inner = pnet::packet::icmpv6::Icmpv6Packet::new(view.payload()).unwrap();
    let expected = pnet::packet::icmpv6::checksum(&inner, &view.get_source(), &view.get_destination());
    assert_eq!(inner.get_checksum(), expected);
}

#[test]
fn an_echo_is_read_back_and_a_corrupt_one_is_not() {
    for (src, dst) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let echo = icmp::Echo { is_reply: true, id: 7, sequence: 9, data: b"abcde" };
        let mut packet = echo.build(src, dst).unwrap();
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!((ip.src, ip.dst, ip.total_len), (src, dst, packet.len()));
        assert_eq!(icmp::Echo::parse(&ip, &packet), Some(echo));
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(icmp::Echo::parse(&ip, &packet), None);
    }
}

#[test]
fn an_error_quotes_the_packet_and_goes_to_its_sender() {
    for (src, dst, from) in [(v4(1), v4(2), v4(3)), (v6(1), v6(2), v6(3))] {
        let original =
            icmp::Echo { is_reply: false, id: 1, sequence: 1, data: &[5; 2000] }.build(src, dst).unwrap();
        let error = icmp::Error::TooBig { mtu: 1280 }.build(&original, from).unwrap();
        let ip = Ip::parse(&error).unwrap();
        assert_eq!((ip.src, ip.dst, ip.total_len), (from, src, error.len()));
        assert!(ip.transport_checksum_is_valid(&error));
        assert_eq!(error.len(), if src.is_ipv4() { 576 } else { 1280 });
        let payload = ip.payload(&error);
        assert_eq!(&payload[6..8], &1280u16.to_be_bytes());
        assert!(original.starts_with(&payload[8..]));
    }
}

#[test]
fn no_error_answers_an_error_a_later_fragment_or_a_group() {
    let request = icmp::Echo { is_reply: false, id: 1, sequence: 1, data: &[] }.build(v4(1), v4(2)).unwrap();
    let error = icmp::Error::NoRoute.build(&request, v4(3)).unwrap();
    assert_eq!(icmp::Error::NoRoute.build(&error, v4(4)), None);
    let mut fragment = request.clone();
    fragment[7] = 5;
    assert_eq!(icmp::Error::NoRoute.build(&fragment, v4(3)), None);
    let mut group = request;
    group[16] = 224;
    assert_eq!(icmp::Error::NoRoute.build(&group, v4(3)), None);
}

#[test]
fn extension_headers_are_skipped_up_to_eight() {
    let packet = |extensions: usize| {
        let mut packet = vec![0x60, 0, 0, 0, 0, (extensions * 8) as u8, 60, 64];
        packet.extend([0; 32]);
        for left in (0..extensions).rev() {
            packet.extend([if left == 0 { protocol::TCP } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        packet
    };
    let ip = Ip::parse(&packet(7)).unwrap();
    assert_eq!((ip.protocol, ip.header_len), (protocol::TCP, 40 + 56));
    assert_eq!(Ip::parse(&packet(9)), Err(Malformed::Extensions));
}

#[test]
fn a_fragment_header_of_each_family_is_seen() {
    let mut v4_packet =
        icmp::Echo { is_reply: false, id: 1, sequence: 1, data: &[] }.build(v4(1), v4(2)).unwrap();
    v4_packet[6..8].copy_from_slice(&0x2003u16.to_be_bytes());
    let fragment = Ip::parse(&v4_packet).unwrap().fragment.unwrap();
    assert_eq!((fragment.offset, fragment.more), (24, true));

    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 44, 64];
    packet.extend([0; 32]);
    packet.extend([protocol::UDP, 0, 0x00, 0x19, 0, 0, 0, 42]);
    let ip = Ip::parse(&packet).unwrap();
    let fragment = ip.fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (42, 24, true));
    assert_eq!((ip.protocol, ip.header_len, FiveTuple::of(&ip, &packet)), (protocol::UDP, 48, None));
}

#[test]
fn a_length_beyond_the_bytes_is_refused() {
    let packet =
        icmp::Echo { is_reply: false, id: 1, sequence: 1, data: &[1; 8] }.build(v4(1), v4(2)).unwrap();
    assert_eq!(Ip::parse(&packet[..packet.len() - 1]), Err(Malformed::TotalLength));
    assert_eq!(Ip::parse(&packet[..19]), Err(Malformed::Short));
    assert_eq!(Ip::parse(&[0x50; 40]), Err(Malformed::Version));
    let mut short_header = packet;
    short_header[0] = 0x44;
    assert_eq!(Ip::parse(&short_header), Err(Malformed::HeaderLength));
}

#[test]
fn the_mss_option_is_found_behind_others() {
    let mut segment = vec![0; 20];
    segment[12] = 7 << 4;
    segment.extend([1, 1, 4, 2, 2, 4, 5, 180]);
    let tcp = Tcp::parse(&segment).unwrap();
    assert_eq!(tcp.maximum_segment_size(&segment), Some(1460));
}

fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 88, last))
}

fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
}
