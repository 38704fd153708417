//! ICMP errors that others report about packets of our own (RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ip, protocol};

/// An error that a router or host reports about a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Its kind.
    pub kind: Kind,
    /// The protocol of the packet: TCP or UDP.
    pub protocol: u8,
    /// Where our packet came from.
    pub local: SocketAddr,
    /// Where it went.
    pub remote: SocketAddr,
    /// The sequence number of the TCP segment, 0 for UDP: who cannot see the flow does not know it
    /// (RFC 5927 §4.1).
    pub sequence: u32,
}

/// The kinds that matter to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It did not fit; the largest packet that does, in bytes (RFC 1191, RFC 8201).
    TooBig(u16),
    /// It cannot be delivered (RFC 792 type 3, RFC 4443 type 1).
    Unreachable,
    /// A filter refused it (RFC 1812 §5.2.7.1 codes 9, 10 and 13, RFC 4443 type 1 codes 1 and 5).
    Prohibited,
    /// Nothing listens there (RFC 792 type 3 code 3, RFC 4443 type 1 code 4).
    PortUnreachable,
}

impl IcmpError {
    /// Reads an ICMP error about a TCP segment or a UDP datagram; `None` for anything else, or a
    /// wrong checksum.
    #[must_use]
    pub fn parse(ip: &Ip, packet: &[u8]) -> Option<Self> {
        let message = ip.payload(packet);
        let (header, quoted) = message.split_first_chunk::<8>()?;
        let [kind, code, _, _, a, b, c, d] = *header;
        let kind = match (ip.protocol, kind, code) {
            (protocol::ICMP, 3, 4) => Kind::TooBig(u16::from_be_bytes([c, d])),
            (protocol::ICMP, 3, 3) | (protocol::ICMPV6, 1, 4) => Kind::PortUnreachable,
            (protocol::ICMP, 3, 9 | 10 | 13) | (protocol::ICMPV6, 1, 1 | 5) => Kind::Prohibited,
            (protocol::ICMP, 3, _) | (protocol::ICMPV6, 1, _) => Kind::Unreachable,
            (protocol::ICMPV6, 2, _) => {
                Kind::TooBig(u16::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(u16::MAX))
            }
            _ => return None,
        };
        let (protocol, local, remote, sequence) = quoted_flow(quoted, ip.is_v4())?;
        ip.transport_checksum_is_valid(packet).then_some(Self { kind, protocol, local, remote, sequence })
    }
}

/// Protocol and ends of the flow whose packet is quoted, and a segment's number; the quotation may
/// be cut anywhere after the 8 bytes of transport header that every quotation has (RFC 792).
fn quoted_flow(quoted: &[u8], v4: bool) -> Option<(u8, SocketAddr, SocketAddr, u32)> {
    let (src, dst, protocol, transport): (IpAddr, IpAddr, u8, &[u8]) = if v4 {
        let header: &[u8; 20] = quoted.first_chunk()?;
        let [first, .., a, b, c, d, e, f, g, h] = *header;
        let length = usize::from(first & 0x0f) * 4;
        let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
        (src.into(), dst.into(), *header.get(9)?, quoted.get(length..)?)
    } else {
        let (header, transport) = quoted.split_first_chunk::<40>()?;
        let src: [u8; 16] = *header.get(8..)?.first_chunk()?;
        let dst: [u8; 16] = *header.get(24..)?.first_chunk()?;
        (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into(), *header.get(6)?, transport)
    };
    let [a, b, c, d, sequence @ ..] = *transport.first_chunk::<8>()?;
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let sequence = match protocol {
        protocol::TCP => u32::from_be_bytes(sequence),
        protocol::UDP => 0,
        _ => return None,
    };
    Some((protocol, SocketAddr::new(src, source), SocketAddr::new(dst, destination), sequence))
}

#[cfg(test)]
mod tests {
    use super::super::Bare;
    use super::*;
    use crate::packet::icmp::Error;
    use proptest::prelude::*;

    #[test]
    fn a_too_big_message_names_the_flow_and_the_size() {
        for (local, remote) in ends() {
            let packet = Error::TooBig { mtu: 1300 }.build(&ours(local, remote), remote.ip()).unwrap();
            assert_eq!(
                read(&packet),
                Some(IcmpError {
                    kind: Kind::TooBig(1300),
                    protocol: protocol::TCP,
                    local,
                    remote,
                    sequence: 1
                })
            );
        }
    }

    #[test]
    fn an_unreachable_message_names_the_flow() {
        for (local, remote) in ends() {
            let packet = Error::HostUnreachable.build(&ours(local, remote), remote.ip()).unwrap();
            assert_eq!(
                read(&packet),
                Some(IcmpError {
                    kind: Kind::Unreachable,
                    protocol: protocol::TCP,
                    local,
                    remote,
                    sequence: 1
                })
            );
        }
    }

    #[test]
    fn a_message_of_a_filter_is_another_one_than_that_of_a_missing_route() {
        for (local, remote) in ends() {
            let kind =
                |error: Error| read(&error.build(&ours(local, remote), remote.ip()).unwrap()).unwrap().kind;
            assert_eq!(
                (kind(Error::Prohibited), kind(Error::NoRoute)),
                (Kind::Prohibited, Kind::Unreachable)
            );
        }
    }

    #[test]
    fn a_damaged_message_is_ignored() {
        let (local, remote) = ends()[0];
        let mut packet = Error::HostUnreachable.build(&ours(local, remote), remote.ip()).unwrap();
        packet[40] ^= 1;
        assert_eq!(read(&packet), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, v4: bool) {
            if let Some(first) = bytes.first_mut() { *first = if v4 { 0x45 } else { 0x60 }; }
            read(&bytes);
            quoted_flow(&bytes, v4);
        }
    }

    fn read(packet: &[u8]) -> Option<IcmpError> {
        IcmpError::parse(&Ip::parse(packet).ok()?, packet)
    }

    fn ours(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
        Bare { source: local, destination: remote, sequence: 1, acknowledgement: None, flags: 2 }.packet()
    }

    fn ends() -> [(SocketAddr, SocketAddr); 2] {
        [("192.168.88.2:443", "203.0.113.10:40001"), ("[fd00::2]:443", "[2001:db8::1]:40001")]
            .map(|(local, remote)| (local.parse().unwrap(), remote.parse().unwrap()))
    }
}
