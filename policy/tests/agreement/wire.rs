//! Packets as bytes.

use std::net::IpAddr;

use arbitrary::NEXT_HOP;
use policy::evaluator::{Packet, Transport};

/// What a captured frame says about where its packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: Option<u16>,
    /// Source port, or identifier of an echo request.
    pub(crate) identity: u16,
}

/// An Ethernet frame to `mac`; `identity` is the identifier of an echo request. Transport checksums
/// are left out: the stage turns their verification off.
pub(crate) fn frame(packet: &Packet, identity: u16, mac: [u8; 6]) -> Vec<u8> {
    let ipv6 = packet.source.is_ipv6();
    let (protocol, body) = transport(packet.transport, identity, ipv6);
    let mut frame = mac.to_vec();
    frame.extend(if packet.relayed { NEXT_HOP } else { [2, 0, 0, 0, 0, 1] });
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            let length = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd]);
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            frame.extend([0x60, 0, 0, 0, length[0], length[1], protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("addresses of two families"),
    }
    frame.extend(body);
    frame
}

fn transport(transport: Transport, identity: u16, ipv6: bool) -> (u8, Vec<u8>) {
    let ports = |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();
    match transport {
        Transport::Tcp { source, destination } => (6, segment(ports(source, destination), SYN)),
        Transport::Stray { source, destination } => (6, segment(ports(source, destination), ACK)),
        Transport::Udp { source, destination } => {
            let mut header = ports(source, destination);
            header.extend([0, 12, 0, 0, 1, 2, 3, 4]);
            (17, header)
        }
        Transport::Echo => (if ipv6 { 58 } else { 1 }, echo(identity, ipv6)),
    }
}

/// Flags of TCP.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn segment(mut ports: Vec<u8>, flags: u8) -> Vec<u8> {
    ports.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ports
}

/// An echo request with its checksum, which for IPv6 is left out.
pub(crate) fn echo(identity: u16, ipv6: bool) -> Vec<u8> {
    let id = identity.to_be_bytes();
    let mut message = vec![if ipv6 { 128 } else { 8 }, 0, 0, 0, id[0], id[1], 0, 1];
    if !ipv6 {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// Reads a frame that `mac` has sent; `None` for other senders and for what is not a flow's first
/// packet.
pub(crate) fn seen(frame: &[u8], mac: [u8; 6]) -> Option<Seen> {
    if frame.get(6..12)? != mac {
        return None;
    }
    let (protocol, source, destination, body): (u8, IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header: [u8; 20] = frame.get(14..34)?.try_into().ok()?;
            let v4 = |at: usize| -> IpAddr { <[u8; 4]>::try_from(&header[at..at + 4]).unwrap().into() };
            (header[9], v4(12), v4(16), frame.get(34..)?)
        }
        [0x86, 0xdd] => {
            let header: [u8; 40] = frame.get(14..54)?.try_into().ok()?;
            let v6 = |at: usize| -> IpAddr { <[u8; 16]>::try_from(&header[at..at + 16]).unwrap().into() };
            (header[6], v6(8), v6(24), frame.get(54..)?)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    match (protocol, body.first()?) {
        (6 | 17, _) => Some(Seen { source, destination, port: word(2), identity: word(0)? }),
        (1, 8) | (58, 128) => Some(Seen { source, destination, port: None, identity: word(4)? }),
        _ => None,
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !u16::try_from((folded >> 16) + (folded & 0xffff)).unwrap()
}
