//! Two requests to the kernel behind a TUN device, whose replies come out of it again: pure, sent
//! by [`crate::io::self_test`].
//!
//! One is an echo request to the device's own address. It is not answered where
//! `icmp_echo_ignore_all` is set or another firewall drops it; so the other is a packet whose hop
//! limit ends here, which the kernel answers before any filter of what it receives or forwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::icmp::Echo;
use crate::packet::{Ip, Sum};

/// Bytes by which a reply is recognized.
const TOKEN: usize = 16;
/// Where the second request goes: addresses for documentation, which it never reaches.
const BEYOND_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BEYOND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// One self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTest {
    own: IpAddr,
    other: IpAddr,
    token: [u8; TOKEN],
}

impl SelfTest {
    /// A test of the device's address `own` from `other`, an address beyond the device; both of one
    /// family. The token must be random.
    #[must_use]
    pub const fn new(own: IpAddr, other: IpAddr, token: [u8; TOKEN]) -> Self {
        Self { own, other, token }
    }

    /// Whole IP packets to be written to the device; none when the addresses differ in their
    /// family.
    #[must_use]
    pub fn requests(&self) -> Vec<Vec<u8>> {
        let beyond = if self.own.is_ipv4() { BEYOND_V4.into() } else { BEYOND_V6.into() };
        let echo = |to| {
            let [high, low, ..] = self.token;
            let id = u16::from_be_bytes([high, low]);
            Echo { is_reply: false, id, sequence: 1, data: &self.token }.build(self.other, to)
        };
        [echo(self.own), echo(beyond).map(with_last_hop)].into_iter().flatten().collect()
    }

    /// Whether a packet that came out of the device replies to one of them: it repeats the token to
    /// `other`.
    #[must_use]
    pub fn is_reply(&self, packet: &[u8]) -> bool {
        Ip::parse(packet).is_ok_and(|ip| ip.dst == self.other)
            && packet.windows(TOKEN).any(|bytes| bytes == self.token)
    }
}

/// The packet as it is on its last hop.
fn with_last_hop(mut packet: Vec<u8>) -> Vec<u8> {
    if let Some(header) = packet.first_chunk_mut::<20>().filter(|header| header[0] >> 4 == 4) {
        header[8] = 1;
        [header[10], header[11]] = [0, 0];
        [header[10], header[11]] = Sum::new().bytes(header).checksum().to_be_bytes();
    } else if let Some(header) = packet.first_chunk_mut::<40>() {
        header[7] = 1;
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::icmp::Error;

    #[test]
    fn both_requests_are_whole_packets_and_one_ends_here() {
        for test in [v4(), v6()] {
            let requests = test.requests();
            let ips: Vec<_> = requests.iter().map(|packet| Ip::parse(packet).unwrap()).collect();
            assert_eq!(ips.len(), 2);
            assert!(ips.iter().all(|ip| ip.src == test.other));
            assert_eq!((ips[0].dst, ips[1].dst == test.own), (test.own, false));
            let hops: Vec<_> = requests
                .iter()
                .map(|packet| if test.own.is_ipv4() { packet[8] } else { packet[7] })
                .collect();
            assert_eq!(hops, [64, 1]);
            if test.own.is_ipv4() {
                assert_eq!(Sum::new().bytes(&requests[1][..20]).checksum(), 0, "the header's checksum");
            }
        }
    }

    #[test]
    fn the_echo_reply_and_the_error_about_the_other_are_replies() {
        for test in [v4(), v6()] {
            let requests = test.requests();
            let echo = Echo { is_reply: true, id: 1, sequence: 1, data: &test.token };
            assert!(test.is_reply(&echo.build(test.own, test.other).unwrap()));
            assert!(test.is_reply(&Error::NoRoute.build(&requests[1], test.own).unwrap()));
        }
    }

    #[test]
    fn nothing_else_is_a_reply() {
        let test = v4();
        let echo = Echo { is_reply: true, id: 1, sequence: 1, data: &[0; TOKEN] };
        assert!(!test.is_reply(&echo.build(test.own, test.other).unwrap()), "another token");
        let request = &test.requests()[0];
        assert!(!test.is_reply(request), "the request itself, on its way in");
        assert!(!test.is_reply(&request[..10]) && !test.is_reply(&[]));
    }

    #[test]
    fn addresses_of_two_families_make_no_request() {
        assert!(SelfTest::new(v4().own, v6().other, [0; TOKEN]).requests().is_empty());
    }

    fn v4() -> SelfTest {
        test_of("10.77.88.1", "10.77.88.2")
    }

    fn v6() -> SelfTest {
        test_of("fd77::1", "fd77::2")
    }

    fn test_of(own: &str, other: &str) -> SelfTest {
        SelfTest::new(own.parse().unwrap(), other.parse().unwrap(), *b"0123456789abcdef")
    }
}
