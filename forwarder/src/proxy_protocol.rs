//! The header that gives an upstream the address of its real client (HAProxy's
//! `proxy-protocol.txt`, versions 1 and 2).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use policy::forwarder::ProxyProtocol;

/// The 12 bytes every version 2 header starts with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_2_PROXY: u8 = 0x21;
/// Version 2, command LOCAL.
const VERSION_2_LOCAL: u8 = 0x20;
/// AF_INET, STREAM.
const TCP4: u8 = 0x11;
/// AF_INET6, STREAM.
const TCP6: u8 = 0x21;

/// The header for a TCP connection from `client` to `destination`, empty when the protocol is off.
///
/// At most 107 bytes (version 1) or 52 bytes (version 2). When the families differ, version 1 has
/// `UNKNOWN` and version 2 holds both addresses as IPv6, the IPv4 one mapped.
#[must_use]
pub fn header(version: ProxyProtocol, client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => version_1(client, destination),
        ProxyProtocol::V2 => version_2(client, destination),
    }
}

/// The header of a connection that is the forwarder's own, such as a health check: it carries no
/// client's address.
#[must_use]
pub fn own(version: ProxyProtocol) -> Vec<u8> {
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyProtocol::V2 => [SIGNATURE.as_slice(), &[VERSION_2_LOCAL, 0, 0, 0]].concat(),
    }
}

fn version_1(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip(), destination.ip());
    let family = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return b"PROXY UNKNOWN\r\n".to_vec();
        }
    };
    let mut line = String::with_capacity(107);
    // Writing to a String cannot fail.
    let _ = write!(line, "PROXY {family} {from} {to} {} {}\r\n", client.port(), destination.port());
    line.into_bytes()
}

fn version_2(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(52);
    header.extend_from_slice(&SIGNATURE);
    header.push(VERSION_2_PROXY);
    match (client.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[TCP4, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[TCP6, 0, 36]);
            header.extend_from_slice(&as_v6(from));
            header.extend_from_slice(&as_v6(to));
        }
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        let header = header(ProxyProtocol::V1, socket("203.0.113.10:40001"), socket("192.168.88.2:443"));
        assert_eq!(header, b"PROXY TCP4 203.0.113.10 192.168.88.2 40001 443\r\n");
    }

    #[test]
    fn version_1_writes_ipv6_addresses_without_brackets() {
        let header = header(ProxyProtocol::V1, socket("[2001:db8::1]:40001"), socket("[fd00::2]:443"));
        assert_eq!(header, b"PROXY TCP6 2001:db8::1 fd00::2 40001 443\r\n");
    }

    #[test]
    fn version_1_is_unknown_when_the_families_differ() {
        let header = header(ProxyProtocol::V1, socket("203.0.113.10:1"), socket("[fd00::2]:443"));
        assert_eq!(header, b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_holds_ipv4_addresses_in_28_bytes() {
        let header = header(ProxyProtocol::V2, socket("203.0.113.10:40001"), socket("192.168.88.2:443"));
        let mut expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c".to_vec();
        expected.extend_from_slice(&[203, 0, 113, 10, 192, 168, 88, 2, 0x9c, 0x41, 0x01, 0xbb]);
        assert_eq!(header, expected);
    }

    #[test]
    fn off_writes_nothing() {
        assert!(header(ProxyProtocol::Off, socket("203.0.113.10:1"), socket("192.168.88.2:2")).is_empty());
    }

    proptest! {
        #[test]
        fn version_2_declares_the_length_it_has(a: IpAddr, b: IpAddr, p: u16, q: u16) {
            let header = header(ProxyProtocol::V2, SocketAddr::new(a, p), SocketAddr::new(b, q));
            let declared = usize::from(u16::from_be_bytes([header[14], header[15]]));
            prop_assert_eq!(declared + 16, header.len());
            prop_assert!(header.len() <= 52);
        }

        #[test]
        fn version_1_is_one_line_of_at_most_107_bytes(a: IpAddr, b: IpAddr, p: u16, q: u16) {
            let header = header(ProxyProtocol::V1, SocketAddr::new(a, p), SocketAddr::new(b, q));
            prop_assert!(header.len() <= 107);
            prop_assert_eq!(header.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert!(header.ends_with(b"\r\n"));
        }
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
