//! Bare TCP segments of our own making: resets, and the acknowledgements of a flow that is over.

use std::net::{IpAddr, SocketAddr};

use super::{Ip, Sum, Tcp, protocol, tcp_flags};

const HOP_LIMIT: u8 = 64;

/// A TCP segment without data, as a whole IP packet of 40 or 60 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// From.
    pub source: SocketAddr,
    /// To; of the same family.
    pub destination: SocketAddr,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; sent with the ACK flag.
    pub acknowledgement: Option<u32>,
    /// Flags other than ACK.
    pub flags: u8,
}

impl Bare {
    /// The reset in reply to `tcp` (RFC 9293 §3.10.7.1); `None` for a reset, which gets no reply.
    #[must_use]
    pub fn reset(ip: &Ip, tcp: &Tcp) -> Option<Self> {
        if tcp.flags & tcp_flags::RST != 0 {
            return None;
        }
        let data = (ip.total_len - ip.header_len).saturating_sub(tcp.header_len);
        let controls =
            u32::from(tcp.flags & tcp_flags::SYN != 0) + u32::from(tcp.flags & tcp_flags::FIN != 0);
        let has_ack = tcp.flags & tcp_flags::ACK != 0;
        let end = tcp.sequence.wrapping_add(u32::try_from(data).unwrap_or(0)).wrapping_add(controls);
        Some(Self {
            source: SocketAddr::new(ip.dst, tcp.destination_port),
            destination: SocketAddr::new(ip.src, tcp.source_port),
            sequence: if has_ack { tcp.acknowledgement } else { 0 },
            acknowledgement: (!has_ack).then_some(end),
            flags: tcp_flags::RST,
        })
    }

    /// The whole packet; empty when the families differ.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let tcp = self.header();
        let mut packet = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip =
                    [0x45, 0, 0, 40, 0, 0, 0x40, 0, HOP_LIMIT, protocol::TCP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                [ip[12], ip[13], ip[14], ip[15]] = from.octets();
                [ip[16], ip[17], ip[18], ip[19]] = to.octets();
                [ip[10], ip[11]] = Sum::new().bytes(&ip).checksum().to_be_bytes();
                ip.to_vec()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = vec![0x60, 0, 0, 0, 0, 20, protocol::TCP, HOP_LIMIT];
                ip.extend_from_slice(&from.octets());
                ip.extend_from_slice(&to.octets());
                ip
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Vec::new(),
        };
        packet.extend_from_slice(&tcp);
        packet
    }

    fn header(&self) -> [u8; 20] {
        let mut tcp = [0u8; 20];
        [tcp[0], tcp[1]] = self.source.port().to_be_bytes();
        [tcp[2], tcp[3]] = self.destination.port().to_be_bytes();
        [tcp[4], tcp[5], tcp[6], tcp[7]] = self.sequence.to_be_bytes();
        if let Some(acknowledgement) = self.acknowledgement {
            [tcp[8], tcp[9], tcp[10], tcp[11]] = acknowledgement.to_be_bytes();
        }
        tcp[12] = 5 << 4;
        if self.flags & tcp_flags::SYN != 0 {
            // A window of zero is unusual in a SYN: a firewall may drop it.
            [tcp[14], tcp[15]] = u16::MAX.to_be_bytes();
        }
        tcp[13] = self.flags | if self.acknowledgement.is_some() { tcp_flags::ACK } else { 0 };
        let sum = Sum::new()
            .pseudo_header(self.source.ip(), self.destination.ip(), protocol::TCP, tcp.len())
            .bytes(&tcp);
        [tcp[16], tcp[17]] = sum.checksum().to_be_bytes();
        tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_syn_is_reset_with_an_acknowledgement_of_it() {
        let syn = Bare { flags: tcp_flags::SYN, sequence: 41, acknowledgement: None, ..bare() }.packet();
        let reset = answer(&syn).unwrap();
        assert_eq!((reset.sequence, reset.acknowledgement, reset.flags), (0, Some(42), tcp_flags::RST));
        assert_eq!((reset.source, reset.destination), (bare().destination, bare().source));
    }

    #[test]
    fn a_segment_with_an_acknowledgement_is_reset_at_that_number() {
        let reset = answer(&bare().packet()).unwrap();
        assert_eq!((reset.sequence, reset.acknowledgement), (7, None));
    }

    #[test]
    fn a_reset_is_never_answered() {
        assert!(answer(&Bare { flags: tcp_flags::RST, ..bare() }.packet()).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_verifies(v4: bool, sequence: u32, acknowledgement: Option<u32>, p: u16, q: u16) {
            let (from, to) = if v4 { ("203.0.113.10", "192.168.88.2") } else { ("2001:db8::1", "fd00::2") };
            let bare = Bare {
                source: SocketAddr::new(from.parse().unwrap(), p),
                destination: SocketAddr::new(to.parse().unwrap(), q),
                sequence, acknowledgement, flags: 0,
            };
            let packet = bare.packet();
            let ip = Ip::parse(&packet).unwrap();
            prop_assert!(ip.transport_checksum_is_valid(&packet));
            let tcp = Tcp::parse(ip.payload(&packet)).unwrap();
            prop_assert_eq!((tcp.source_port, tcp.destination_port, tcp.sequence), (p, q, sequence));
        }
    }

    fn answer(packet: &[u8]) -> Option<Bare> {
        let ip = Ip::parse(packet).unwrap();
        Bare::reset(&ip, &Tcp::parse(ip.payload(packet)).unwrap())
    }

    fn bare() -> Bare {
        Bare {
            source: "203.0.113.10:40001".parse().unwrap(),
            destination: "192.168.88.2:443".parse().unwrap(),
            sequence: 3,
            acknowledgement: Some(7),
            flags: 0,
        }
    }
}
