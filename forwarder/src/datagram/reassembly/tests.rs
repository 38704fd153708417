use super::*;
use crate::datagram::Buffer;
use proptest::prelude::*;
use std::net::SocketAddr;
use tunnel::packet::Udp;

const EDGE: EdgeId = EdgeId(0);

#[test]
fn fragments_in_any_order_make_the_datagram_again() {
    for client in ["203.0.113.10:40001", "[2001:db8::10]:40001"] {
        let mut packets = fragments(client, 8_000, 7);
        packets.reverse();
        let mut reassembly = Reassembly::default();
        let (last, others) = packets.split_last().unwrap();
        for packet in others {
            assert_eq!(take(&mut reassembly, 0, packet), Joined::Waiting);
        }
        let Joined::Whole(whole) = take(&mut reassembly, 0, last) else { panic!("not whole") };
        assert_eq!(whole[8..], payload(8_000)[..]);
        assert_eq!(Udp::parse(&whole).unwrap().length, 8_008);
        assert_eq!((reassembly.bytes(), reassembly.deadline()), (0, None));
    }
}

#[test]
fn a_duplicate_changes_nothing() {
    let packets = fragments("203.0.113.10:40001", 3_000, 7);
    let mut reassembly = Reassembly::default();
    assert_eq!(take(&mut reassembly, 0, &packets[0]), Joined::Waiting);
    assert_eq!(take(&mut reassembly, 0, &packets[0]), Joined::Waiting);
    assert_eq!(take(&mut reassembly, 0, &packets[1]), Joined::Waiting);
    assert_eq!(take(&mut reassembly, 0, &packets[0]), Joined::Waiting);
    assert!(matches!(take(&mut reassembly, 0, &packets[2]), Joined::Whole(_)));
}

#[test]
fn fragments_that_overlap_give_the_datagram_up() {
    let packets = fragments("203.0.113.10:40001", 3_000, 7);
    let mut forged = packets[1].clone();
    // Moved to eight bytes earlier, so that it overlaps the end of the first.
    let offset = u16::from_be_bytes([forged[6], forged[7]]) - 1;
    forged[6..8].copy_from_slice(&offset.to_be_bytes());
    let mut reassembly = Reassembly::default();
    take(&mut reassembly, 0, &packets[0]);
    assert_eq!(take(&mut reassembly, 0, &forged), Joined::Refused(Dropped::FragmentOverlap));
    assert_eq!(reassembly.bytes(), 0);
}

#[test]
fn a_datagram_waits_thirty_seconds_for_its_rest() {
    let packets = fragments("203.0.113.10:40001", 3_000, 7);
    let mut reassembly = Reassembly::default();
    take(&mut reassembly, 0, &packets[0]);
    assert_eq!(reassembly.deadline(), Some(at(30)));
    reassembly.handle_timeout(at(29));
    assert_eq!(reassembly.take_given_up(), 0);
    reassembly.handle_timeout(at(30));
    assert_eq!((reassembly.take_given_up(), reassembly.bytes()), (1, 0));
}

#[test]
fn one_client_cannot_push_out_the_datagrams_of_another() {
    let honest = fragments("203.0.113.10:40001", 3_000, 1);
    let mut reassembly = Reassembly::default();
    take(&mut reassembly, 0, &honest[0]);
    for id in 0..1_000 {
        take(&mut reassembly, 1, &fragments("198.51.100.66:40001", 3_000, id)[0]);
    }
    assert_eq!(reassembly.partials.len(), 1 + MAX_OF_CLIENT);
    take(&mut reassembly, 1, &honest[1]);
    assert!(matches!(take(&mut reassembly, 1, &honest[2]), Joined::Whole(_)));
}

#[test]
fn neither_count_nor_bytes_grow_past_their_limits() {
    let mut reassembly = Reassembly::default();
    for host in 0..2_000u32 {
        let client = format!("10.{}.{}.1:4000", host >> 8, host & 255);
        let packets = fragments(&client, 60_000, host);
        // The last but one: the buffer grows to nearly the whole datagram at once.
        take(&mut reassembly, u64::from(host / 500), &packets[packets.len() - 2]);
        assert!(reassembly.partials.len() <= MAX_DATAGRAMS);
        assert!(reassembly.bytes() <= MAX_BYTES, "{}", reassembly.bytes());
    }
    assert!(reassembly.take_given_up() > 1_000);
}

#[test]
fn a_fragment_that_cannot_be_one_is_refused() {
    let packets = fragments("203.0.113.10:40001", 3_000, 7);
    let ip = Ip::parse(&packets[0]).unwrap();
    let mut reassembly = Reassembly::default();
    let odd = reassembly.handle_fragment(at(0), EDGE, &ip, &[0; 15]);
    assert_eq!(odd, Joined::Refused(Dropped::Malformed));
    assert_eq!(reassembly.handle_fragment(at(0), EDGE, &ip, &[]), Joined::Refused(Dropped::Malformed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_fragments_are_taken_without_a_panic_and_within_bounds(
        pieces in proptest::collection::vec((0..8_191u16, any::<bool>(), 0..4u32, 0..2_000usize), 0..200)
    ) {
        let mut reassembly = Reassembly::default();
        let packet = fragments("203.0.113.10:40001", 3_000, 7).remove(0);
        let mut ip = Ip::parse(&packet).unwrap();
        for (word, more, id, length) in pieces {
            ip.fragment = Some(Fragment { id, offset: word << 3, more });
            reassembly.handle_fragment(at(0), EDGE, &ip, &vec![0; length]);
            let held: usize = reassembly.partials.values().map(|partial| partial.bytes.len()).sum();
            prop_assert_eq!(held, reassembly.bytes());
            prop_assert_eq!(reassembly.order.len(), reassembly.partials.len());
        }
    }
}

fn take(reassembly: &mut Reassembly, second: u64, packet: &[u8]) -> Joined {
    let ip = Ip::parse(packet).unwrap();
    reassembly.handle_fragment(at(second), EDGE, &ip, ip.payload(packet))
}

fn fragments(client: &str, length: usize, id: u32) -> Vec<Vec<u8>> {
    let client: SocketAddr = client.parse().unwrap();
    let to = if client.is_ipv4() { "192.168.88.2:443" } else { "[fd88::2]:443" };
    let mut buffer = Buffer::default();
    buffer.payload_mut()[..length].copy_from_slice(&payload(length));
    let mut packets = Vec::new();
    buffer.packets((client, to.parse().unwrap()), length, (1420, id), |packet| packets.push(packet.to_vec()));
    packets
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31) as u8).collect()
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(seconds))
}
