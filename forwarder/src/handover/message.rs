//! The messages, one per datagram.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;
use tunnel::offload::Offload;

use super::elder::ElderFlow;
use crate::flow::{EdgeId, FlowKey};

/// The most bytes of a message: the largest packet, and what is before it.
pub const MAX_MESSAGE: usize = HEAD + 65_535;
/// The most keys in one message of flows.
pub const MAX_KEYS: usize = 1_024;
/// Kind, edge, offload and its two numbers.
const HEAD: usize = 1 + 4 + 1 + 2 + 2;
/// Protocol, edge, and for both ends family, address, port.
const KEY: usize = 1 + 4 + 2 * (1 + 16 + 2);

const PACKET: u8 = 1;
const FLOWS: u8 = 2;
const READY: u8 = 3;
const ENDED: u8 = 4;

/// What one process sends to the other.
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
    /// Flows that the elder has; at most [`MAX_KEYS`].
    Flows(Vec<ElderFlow>),
    /// There are no more of them, and no more are admitted.
    Ready,
    /// A flow of the elder has ended.
    Ended(ElderFlow),
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
            Self::Packet { edge, offload, bytes } => {
                out.push(PACKET);
                out.extend(edge.0.to_be_bytes());
                let (word, first, second) = offload_words(*offload);
                out.push(word);
                out.extend(first.to_be_bytes());
                out.extend(second.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Flows(flows) => {
                out.push(FLOWS);
                flows.iter().for_each(|flow| write_flow(flow, out));
            }
            Self::Ready => out.push(READY),
            Self::Ended(flow) => {
                out.push(ENDED);
                write_flow(flow, out);
            }
        }
    }

    /// Reads one datagram.
    ///
    /// # Errors
    /// When it is none of these messages; the elder of another release sends such.
    pub fn read(datagram: &'a [u8]) -> Result<Self, BadMessage> {
        let bad = BadMessage::Length(datagram.len());
        let (kind, rest) = datagram.split_first().ok_or(bad)?;
        match *kind {
            PACKET => read_packet(rest).ok_or(bad)?,
            FLOWS if rest.len() % KEY == 0 && rest.len() / KEY <= MAX_KEYS => {
                rest.chunks_exact(KEY).map(read_flow).collect::<Result<_, _>>().map(Self::Flows)
            }
            ENDED if rest.len() == KEY => read_flow(rest).map(Self::Ended),
            READY if rest.is_empty() => Ok(Self::Ready),
            FLOWS | ENDED | READY => Err(bad),
            unknown => Err(BadMessage::Word(unknown)),
        }
    }
}

fn read_packet(rest: &[u8]) -> Option<Result<Message<'_>, BadMessage>> {
    let (edge, rest) = rest.split_first_chunk()?;
    let (word, rest) = rest.split_first()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (second, bytes) = rest.split_first_chunk()?;
    let words = (*word, u16::from_be_bytes(*first), u16::from_be_bytes(*second));
    let edge = EdgeId(u32::from_be_bytes(*edge));
    Some(read_offload(words).map(|offload| Message::Packet { edge, offload, bytes }))
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

fn write_flow(flow: &ElderFlow, out: &mut Vec<u8>) {
    out.push(flow.protocol);
    out.extend(flow.key.edge.0.to_be_bytes());
    for end in [flow.key.local, flow.key.remote] {
        let (family, address) = match end.ip() {
            IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
            IpAddr::V6(address) => (6, address),
        };
        out.push(family);
        out.extend(address.octets());
        out.extend(end.port().to_be_bytes());
    }
}

fn read_flow(bytes: &[u8]) -> Result<ElderFlow, BadMessage> {
    let bad = BadMessage::Length(bytes.len());
    let (protocol, rest) = bytes.split_first().ok_or(bad)?;
    let (edge, rest) = rest.split_first_chunk().ok_or(bad)?;
    let (local, rest) = read_end(rest)?;
    let (remote, _) = read_end(rest)?;
    let edge = EdgeId(u32::from_be_bytes(*edge));
    Ok(ElderFlow { protocol: *protocol, key: FlowKey { edge, local, remote } })
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
        for message in [
            packet(Offload::None),
            packet(Offload::Checksum { start: 20, offset: 16 }),
            packet(Offload::Tcp4 { segment_size: 1_300 }),
            packet(Offload::Tcp6 { segment_size: 1_300 }),
            packet(Offload::Udp4 { segment_size: 1_300 }),
            packet(Offload::Udp6 { segment_size: 1_300 }),
            Message::Flows(flows.clone()),
            Message::Flows(Vec::new()),
            Message::Ready,
            Message::Ended(flows[0]),
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
        assert_eq!(Message::read(&[9]), Err(BadMessage::Word(9)));
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

    fn flow(local: &str, remote: &str) -> ElderFlow {
        let key = FlowKey { edge: EdgeId(1), local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        ElderFlow { protocol: protocol::TCP, key }
    }
}
