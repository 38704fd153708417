//! The messages, one per datagram of the socket.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tunnel::offload::Offload;

use super::old_process::PassedFlow;
use crate::flow::{EdgeId, FlowKey};

/// The most bytes of a message: the largest packet or run of datagrams, and what is before it.
pub const MAX_MESSAGE: usize = HEAD + 65_535;
/// The most keys in one message of flows.
pub const MAX_KEYS: usize = 1_024;
/// The most bytes of the name of a descriptor.
pub const MAX_NAME: usize = 512;
/// Kind, edge, and for a run of datagrams its source and the length of each; a packet's offload is
/// shorter, and is filled up.
pub const HEAD: usize = 1 + 4 + END + 2;
/// Family, address, port.
const END: usize = 1 + 16 + 2;
/// Protocol, edge, and both ends.
const KEY: usize = 1 + 4 + 2 * END;

const PACKET: u8 = 1;
const FLOWS: u8 = 2;
const TAKE_OVER: u8 = 3;
const ENDED: u8 = 4;
const DATAGRAM: u8 = 5;
const SESSION: u8 = 6;
const DESCRIPTOR: u8 = 7;
const STARTED: u8 = 8;
const READY: u8 = 9;
const PASSED: u8 = 10;

/// What one process sends to the other. Edges have the numbers of the old process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// An inner packet, from the tunnel of this edge or for it.
    Packet {
        /// The edge.
        edge: EdgeId,
        /// What is still to be done to it.
        offload: Offload,
        /// From the first byte of the IP header.
        bytes: &'a [u8],
    },
    /// Outer datagrams for a session of the old process.
    Datagram {
        /// The edge.
        edge: EdgeId,
        /// Who sent them.
        from: SocketAddr,
        /// The length of each but the last.
        stride: u16,
        /// One after another.
        bytes: &'a [u8],
    },
    /// The new process has a session with this edge.
    Session(EdgeId),
    /// Flows that the old process has; at most [`MAX_KEYS`].
    Flows(Vec<PassedFlow>),
    /// There are no more of them, none is admitted, and nothing more is read from the tunnels. What is
    /// left ends after this time.
    TakeOver(Duration),
    /// A flow of the old process has ended.
    Ended(PassedFlow),
    /// A descriptor of this name comes with it.
    Descriptor(&'a str),
    /// There are no more descriptors.
    Passed,
    /// The new process has this number.
    Started(u32),
    /// The new process can take over.
    Ready,
}

/// A message that is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadMessage {
    /// It is shorter or longer than its kind.
    #[error("a message of {0} bytes, which its kind cannot have")]
    Length(usize),
    /// A kind, an address family, a protocol or an offload that this version does not know.
    #[error("a message with the unknown word {0}")]
    Word(u8),
}

impl<'a> Message<'a> {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Packet { edge, offload, bytes } => write_packet(*edge, *offload, bytes, out),
            Self::Datagram { edge, from, stride, bytes } => {
                out.push(DATAGRAM);
                out.extend(edge.0.to_be_bytes());
                write_end(*from, out);
                out.extend(stride.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Session(edge) => {
                out.push(SESSION);
                out.extend(edge.0.to_be_bytes());
            }
            Self::Flows(flows) => {
                out.push(FLOWS);
                flows.iter().for_each(|flow| write_flow(flow, out));
            }
            Self::TakeOver(left) => {
                out.push(TAKE_OVER);
                out.extend(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
            }
            Self::Ended(flow) => {
                out.push(ENDED);
                write_flow(flow, out);
            }
            Self::Descriptor(name) => {
                out.push(DESCRIPTOR);
                out.extend(name.as_bytes());
            }
            Self::Passed => out.push(PASSED),
            Self::Started(process) => {
                out.push(STARTED);
                out.extend(process.to_be_bytes());
            }
            Self::Ready => out.push(READY),
        }
    }

    /// Reads one datagram.
    ///
    /// # Errors
    /// When it is none of these messages: a process of another release may send such, and goes on
    /// without them.
    pub fn read(datagram: &'a [u8]) -> Result<Self, BadMessage> {
        let bad = BadMessage::Length(datagram.len());
        let (kind, rest) = datagram.split_first().ok_or(bad)?;
        let number = || rest.try_into().map(u32::from_be_bytes).map_err(|_| bad);
        match *kind {
            PACKET => read_packet(rest).ok_or(bad)?,
            DATAGRAM => read_datagram(rest).ok_or(bad)?,
            SESSION => Ok(Self::Session(EdgeId(number()?))),
            FLOWS if rest.len() % KEY == 0 && rest.len() / KEY <= MAX_KEYS => {
                rest.chunks_exact(KEY).map(read_flow).collect::<Result<_, _>>().map(Self::Flows)
            }
            TAKE_OVER => {
                let millis = rest.try_into().map(u64::from_be_bytes).map_err(|_| bad)?;
                Ok(Self::TakeOver(Duration::from_millis(millis)))
            }
            ENDED if rest.len() == KEY => read_flow(rest).map(Self::Ended),
            DESCRIPTOR if rest.len() <= MAX_NAME => {
                str::from_utf8(rest).map(Self::Descriptor).map_err(|_| bad)
            }
            STARTED => Ok(Self::Started(number()?)),
            READY if rest.is_empty() => Ok(Self::Ready),
            PASSED if rest.is_empty() => Ok(Self::Passed),
            FLOWS | ENDED | READY | PASSED | DESCRIPTOR => Err(bad),
            unknown => Err(BadMessage::Word(unknown)),
        }
    }
}

fn write_packet(edge: EdgeId, offload: Offload, bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.push(PACKET);
    out.extend(edge.0.to_be_bytes());
    let (word, first, second) = offload_words(offload);
    out.push(word);
    out.extend(first.to_be_bytes());
    out.extend(second.to_be_bytes());
    out.resize(start + HEAD, 0);
    out.extend_from_slice(bytes);
}

fn read_packet(rest: &[u8]) -> Option<Result<Message<'_>, BadMessage>> {
    let (head, bytes) = rest.split_at_checked(HEAD - 1)?;
    let (edge, head) = head.split_first_chunk()?;
    let (word, head) = head.split_first()?;
    let (first, head) = head.split_first_chunk()?;
    let (second, _) = head.split_first_chunk()?;
    let words = (*word, u16::from_be_bytes(*first), u16::from_be_bytes(*second));
    let edge = EdgeId(u32::from_be_bytes(*edge));
    Some(read_offload(words).map(|offload| Message::Packet { edge, offload, bytes }))
}

fn read_datagram(rest: &[u8]) -> Option<Result<Message<'_>, BadMessage>> {
    let (head, bytes) = rest.split_at_checked(HEAD - 1)?;
    let (edge, head) = head.split_first_chunk()?;
    let edge = EdgeId(u32::from_be_bytes(*edge));
    Some(read_end(head).and_then(|(from, stride)| {
        let stride = stride.try_into().map(u16::from_be_bytes);
        let stride = stride.map_err(|_| BadMessage::Length(rest.len() + 1))?;
        Ok(Message::Datagram { edge, from, stride, bytes })
    }))
}

const fn offload_words(offload: Offload) -> (u8, u16, u16) {
    match offload {
        Offload::None => (0, 0, 0),
        Offload::Checksum { start, offset } => (1, start, offset),
        Offload::Tcp4 { segment_size } => (2, segment_size, 0),
        Offload::Tcp6 { segment_size } => (3, segment_size, 0),
        Offload::Udp4 { segment_size } => (4, segment_size, 0),
        Offload::Udp6 { segment_size } => (5, segment_size, 0),
    }
}

const fn read_offload((word, first, second): (u8, u16, u16)) -> Result<Offload, BadMessage> {
    Ok(match word {
        0 => Offload::None,
        1 => Offload::Checksum { start: first, offset: second },
        2 => Offload::Tcp4 { segment_size: first },
        3 => Offload::Tcp6 { segment_size: first },
        4 => Offload::Udp4 { segment_size: first },
        5 => Offload::Udp6 { segment_size: first },
        unknown => return Err(BadMessage::Word(unknown)),
    })
}

fn write_flow(flow: &PassedFlow, out: &mut Vec<u8>) {
    out.push(flow.protocol);
    out.extend(flow.key.edge.0.to_be_bytes());
    write_end(flow.key.local, out);
    write_end(flow.key.remote, out);
}

fn write_end(end: SocketAddr, out: &mut Vec<u8>) {
    let (family, address) = match end.ip() {
        IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
        IpAddr::V6(address) => (6, address),
    };
    out.push(family);
    out.extend(address.octets());
    out.extend(end.port().to_be_bytes());
}

fn read_flow(bytes: &[u8]) -> Result<PassedFlow, BadMessage> {
    let bad = BadMessage::Length(bytes.len());
    let (protocol, rest) = bytes.split_first().ok_or(bad)?;
    let (edge, rest) = rest.split_first_chunk().ok_or(bad)?;
    let (local, rest) = read_end(rest)?;
    let (remote, _) = read_end(rest)?;
    let edge = EdgeId(u32::from_be_bytes(*edge));
    Ok(PassedFlow { protocol: *protocol, key: FlowKey { edge, local, remote } })
}

fn read_end(bytes: &[u8]) -> Result<(SocketAddr, &[u8]), BadMessage> {
    let bad = BadMessage::Length(bytes.len());
    let (family, rest) = bytes.split_first().ok_or(bad)?;
    let (address, rest) = rest.split_first_chunk::<16>().ok_or(bad)?;
    let (port, rest) = rest.split_first_chunk().ok_or(bad)?;
    let address = std::net::Ipv6Addr::from(*address);
    let address = match *family {
        4 => IpAddr::V4(address.to_ipv4_mapped().ok_or(BadMessage::Word(4))?),
        6 => IpAddr::V6(address),
        unknown => return Err(BadMessage::Word(unknown)),
    };
    Ok((SocketAddr::new(address, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use tunnel::packet::protocol;

    use super::*;

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let flows =
            vec![flow("192.168.88.2:443", "203.0.113.10:40000"), flow("[fd77::2]:53", "[2001:db8::1]:9")];
        let packet = |offload| Message::Packet { edge: EdgeId(3), offload, bytes: b"packet" };
        let datagram = |from: &str| Message::Datagram {
            edge: EdgeId(3),
            from: from.parse().unwrap(),
            stride: 1_452,
            bytes: b"datagrams",
        };
        for message in [
            packet(Offload::None),
            packet(Offload::Checksum { start: 20, offset: 16 }),
            packet(Offload::Tcp4 { segment_size: 1_300 }),
            packet(Offload::Tcp6 { segment_size: 1_300 }),
            packet(Offload::Udp4 { segment_size: 1_300 }),
            packet(Offload::Udp6 { segment_size: 1_300 }),
            Message::Flows(flows.clone()),
            Message::Flows(Vec::new()),
            Message::TakeOver(Duration::from_millis(30_001)),
            Message::Ended(flows[0]),
            datagram("192.0.2.2:51820"),
            datagram("[2001:db8::2]:51820"),
            Message::Session(EdgeId(7)),
            Message::Descriptor("edge 0 kyiv"),
            Message::Passed,
            Message::Started(4_711),
            Message::Ready,
        ] {
            let bytes = written(&message);
            assert_eq!(Message::read(&bytes), Ok(message));
        }
    }

    #[test]
    fn the_largest_packet_and_the_most_keys_fit_and_more_keys_are_refused() {
        let largest = [0; 65_535];
        let packet = Message::Packet { edge: EdgeId(0), offload: Offload::None, bytes: &largest };
        assert_eq!(written(&packet).len(), MAX_MESSAGE);
        assert_eq!(&written(&packet)[HEAD..], &largest, "it begins there");
        let flows = |count| Message::Flows(vec![flow("192.168.88.2:443", "203.0.113.10:40000"); count]);
        let most = written(&flows(MAX_KEYS));
        assert!(most.len() <= MAX_MESSAGE && Message::read(&most).is_ok());
        let more = written(&flows(MAX_KEYS + 1));
        assert_eq!(Message::read(&more), Err(BadMessage::Length(more.len())));
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        let ended = written(&Message::Ended(flow("192.168.88.2:443", "203.0.113.10:40000")));
        for length in 0..ended.len() {
            assert!(Message::read(&ended[..length]).is_err(), "{length} bytes");
        }
        let packet = written(&Message::Packet { edge: EdgeId(0), offload: Offload::None, bytes: b"" });
        for length in 0..HEAD {
            assert!(Message::read(&packet[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(Message::read(&[99]), Err(BadMessage::Word(99)));
        let mut unknown = packet;
        unknown[5] = 6;
        assert_eq!(Message::read(&unknown), Err(BadMessage::Word(6)));
        let mut family = ended;
        family[6] = 5;
        assert_eq!(Message::read(&family), Err(BadMessage::Word(5)));
    }

    fn written(message: &Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        bytes
    }

    fn flow(local: &str, remote: &str) -> PassedFlow {
        let key = FlowKey { edge: EdgeId(1), local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        PassedFlow { protocol: protocol::TCP, key }
    }
}
