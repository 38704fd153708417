//! Super-packets: cut, joined, and recognised by the kernel's header.

use tunnel::node::PeerId;
use tunnel::offload::{CoalesceOptions, Coalescer, Offload, Segments, SuperPacket, virtio};
use tunnel::packet::{Ip, Sum, protocol};
use tunnel::sink::InnerSink;

/// Longest packet there is.
const LONGEST: usize = 65_535;

/// Four bytes of offload, then the packet: nothing panics, every segment is a valid packet, and no
/// payload byte is lost.
pub(crate) fn split(input: &[u8]) {
    let Some((&[kind, a, b, c], packet)) = input.split_first_chunk() else { return };
    let mut bytes = packet.get(..packet.len().min(LONGEST)).unwrap_or_default().to_vec();
    let offload = offload(kind, u16::from_be_bytes([a, b]), u16::from(c));
    let Ok(whole) = Ip::parse(&bytes) else { return };
    let Ok(segments) = cut(&mut bytes, offload) else { return };
    assert!(!segments.is_empty(), "a packet became none");
    let mut payload = 0;
    for segment in &segments {
        let ip = Ip::parse(segment).expect("a segment is a packet");
        assert_eq!(ip.total_len, segment.len(), "a segment's length");
        payload += segment.len() - ip.header_len;
        if offload.is_super() {
            let transport = ip.payload(segment);
            let sum = Sum::new().pseudo_header(ip.src, ip.dst, ip.protocol, transport.len());
            assert!(sum.bytes(transport).is_valid(), "a segment's checksum");
        }
    }
    let transport = if ip_is_tcp(&whole) { None } else { Some(8) };
    if !offload.is_super() {
        assert_eq!(payload, whole.total_len - whole.header_len, "a whole packet's bytes");
    } else if let Some(header) = transport {
        let expected = whole.total_len - whole.header_len + (segments.len() - 1) * header;
        assert_eq!(payload, expected, "bytes of all datagrams");
    }
}

/// Any packets, well-formed ones among them: when the joined packets are cut again, they are the
/// same.
pub(crate) fn coalesce(input: &[u8]) {
    let packets = packets(input);
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true });
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (peer, packet) in packets {
        if !coalescer.has_room() {
            drain(&mut coalescer, &mut after);
        }
        // An empty packet is no packet, and is left out.
        let slot = coalescer.slot(packet.len() + 16).filter(|_| !packet.is_empty());
        let Some(slot) = slot else { continue };
        slot.get_mut(..packet.len()).expect("the slot has the room asked for").copy_from_slice(&packet);
        coalescer.commit(peer, packet.len(), 0);
        before.push((peer, normal(packet)));
    }
    drain(&mut coalescer, &mut after);
    before.sort();
    after.sort();
    assert_eq!(before, after, "packets were changed, lost or made up");
}

/// Ten bytes of header, then the packet: what is accepted can be cut, and nothing panics.
pub(crate) fn virtio_header(input: &[u8]) {
    let (header, packet) = input.split_at(input.len().min(virtio::HEADER_LEN));
    let mut bytes = packet.to_vec();
    let Ok(offload) = virtio::decode(header, &bytes) else { return };
    let encoded = virtio::encode(&SuperPacket { bytes: &mut bytes, offload });
    if let Ok(again) = virtio::decode(&encoded, &bytes) {
        assert!(again == offload || again == Offload::None, "a header does not survive being written");
    }
    let _ = cut(&mut bytes, offload);
}

fn offload(kind: u8, size: u16, offset: u16) -> Offload {
    match kind % 6 {
        0 => Offload::None,
        1 => Offload::Checksum { start: size, offset },
        2 => Offload::Tcp4 { segment_size: size },
        3 => Offload::Tcp6 { segment_size: size },
        4 => Offload::Udp4 { segment_size: size },
        _ => Offload::Udp6 { segment_size: size },
    }
}

fn cut(bytes: &mut [u8], offload: Offload) -> Result<Vec<Vec<u8>>, tunnel::offload::SplitError> {
    let mut segments = Segments::new(SuperPacket { bytes, offload })?;
    let (promised, longest) = (segments.remaining(), segments.max_len());
    let mut all = Vec::new();
    while let Some(segment) = segments.next_segment() {
        assert!(segment.len() <= longest, "a segment is longer than promised");
        all.push(segment.to_vec());
    }
    assert_eq!(all.len(), promised, "segments promised");
    Ok(all)
}

fn drain(coalescer: &mut Coalescer, after: &mut Vec<(PeerId, Vec<u8>)>) {
    while let Some((peer, packet)) = coalescer.poll_packet() {
        if packet.offload == Offload::None {
            after.push((peer, normal(packet.bytes.to_vec())));
            continue;
        }
        let segments = cut(packet.bytes, packet.offload).expect("what was joined can be cut");
        after.extend(segments.into_iter().map(|segment| (peer, normal(segment))));
    }
}

/// The packet with the identification of an atomic IPv4 packet cleared, since it has no meaning
/// (RFC 6864 §4.1).
fn normal(mut packet: Vec<u8>) -> Vec<u8> {
    if let [first, _, _, _, id @ ..] = packet.as_mut_slice()
        && *first >> 4 == 4
        && let [high, low, flags, _, _, _, sum_high, sum_low, ..] = id
        && *flags & 0x40 != 0
    {
        [*high, *low, *sum_high, *sum_low] = [0; 4];
    }
    packet
}

/// Packets as the input orders them: each begins with what to make, and most are well-formed, so
/// that the fuzzer need not find checksums by itself.
fn packets(mut input: &[u8]) -> Vec<(PeerId, Vec<u8>)> {
    let mut all = Vec::new();
    let mut sequences = [0_u32; 4];
    while let Some((&[shape, length, flags, damage], rest)) = input.split_first_chunk() {
        input = rest;
        let flow = usize::from(shape & 3);
        let payload = usize::from(length) * if shape & 4 == 0 { 1 } else { 6 };
        let mut packet = if shape & 8 == 0 {
            let sequence = sequences.get(flow).copied().unwrap_or_default();
            build(shape, flow as u8, payload, flags, sequence)
        } else {
            let taken = rest.len().min(payload);
            let (raw, after) = rest.split_at(taken);
            input = after;
            raw.to_vec()
        };
        if let Some(next) = sequences.get_mut(flow)
            && damage & 1 == 0
        {
            *next = next.wrapping_add(payload as u32);
        }
        if damage & 2 != 0
            && let Some(byte) = packet.get_mut(usize::from(damage >> 2))
        {
            *byte ^= 1 << (flags & 7);
        }
        all.push((PeerId(u32::from(shape >> 7)), packet));
        if all.len() >= 256 {
            break;
        }
    }
    all
}

/// A well-formed TCP or UDP packet of a flow.
fn build(shape: u8, flow: u8, payload: usize, flags: u8, sequence: u32) -> Vec<u8> {
    let (is_v6, is_udp) = (shape & 16 != 0, shape & 32 != 0);
    let mut transport = vec![0x01, 0xbb, 0xc0, flow];
    if is_udp {
        let length = u16::try_from(8 + payload).unwrap_or(u16::MAX);
        transport.extend(length.to_be_bytes());
        transport.extend([0, 0]);
    } else {
        transport.extend(sequence.to_be_bytes());
        transport.extend([
            0,
            0,
            0,
            1,
            5 << 4,
            if flags & 0x80 == 0 { 0x10 } else { flags },
            1,
            0,
            0,
            0,
            0,
            0,
        ]);
    }
    transport.extend((0..payload).map(|at| at as u8));
    let protocol = if is_udp { protocol::UDP } else { protocol::TCP };
    let mut packet = if is_v6 {
        header_v6(protocol, transport.len())
    } else {
        header_v4(protocol, transport.len(), shape)
    };
    let Ok(ip) = Ip::parse(&[packet.as_slice(), transport.as_slice()].concat()) else { return packet };
    let sum =
        Sum::new().pseudo_header(ip.src, ip.dst, protocol, transport.len()).bytes(&transport).checksum();
    let at = if is_udp { 6 } else { 16 };
    let sum = if is_udp && sum == 0 { 0xffff } else { sum };
    if let Some(place) = transport.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(transport);
    packet
}

fn header_v4(protocol: u8, length: usize, shape: u8) -> Vec<u8> {
    let total = u16::try_from(20 + length).unwrap_or(u16::MAX);
    let fragment = if shape & 64 == 0 { 0x40 } else { 0 };
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 7, fragment, 0, 64, protocol, 0, 0, 10, 77, 88, 2, 10, 77, 88, 1]);
    let checksum = Sum::new().bytes(&header).checksum();
    if let Some(place) = header.get_mut(10..12) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    header
}

fn header_v6(protocol: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    header.extend([protocol, 64]);
    header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header
}

fn ip_is_tcp(ip: &Ip) -> bool {
    ip.protocol == protocol::TCP
}
