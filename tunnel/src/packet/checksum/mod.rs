//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

mod wide;

use std::net::IpAddr;

/// A running one's-complement sum.
///
/// It is kept in memory order and folded only at the end, which RFC 1071 §2(B) allows: the sum of
/// byte-swapped words is the byte-swapped sum. Every piece but the last must have an even length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes; an odd last byte counts as if a zero byte followed.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<{ wide::BLOCK }>();
        let mut sum = if blocks.is_empty() { self.0 } else { add(self.0, wide::sum(blocks)) };
        let (longs, rest) = rest.as_chunks::<8>();
        for long in longs {
            sum = add(sum, u64::from_ne_bytes(*long));
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum = add(sum, u64::from(u32::from_ne_bytes(*word)));
        }
        let tail = match *rest {
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            _ => [0; 4],
        };
        Self(add(sum, u64::from(u32::from_ne_bytes(tail))))
    }

    /// Adds one 16-bit word given in host order.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(add(self.0, u64::from(word.to_be())))
    }

    /// Adds the pseudo header of TCP, UDP or ICMPv6: addresses, protocol and the length of what
    /// follows the IP header (RFC 9293 §3.1, RFC 8200 §8.1). The addresses are of one family.
    #[inline]
    #[must_use]
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Self {
        let addresses = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.bytes(&src.octets()).bytes(&dst.octets()),
            (src, dst) => self.bytes(&octets(src)).bytes(&octets(dst)),
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        addresses.bytes(&length.to_be_bytes()).word(u16::from(protocol))
    }

    /// The sum folded to 16 bits, in host order: what a partial checksum field holds.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be((sum & 0xffff) as u16)
    }

    /// The checksum: the complement of the folded sum, in host order.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether bytes that include their own checksum sum up to a valid one.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The checksum after one 16-bit word under it changed (RFC 1624, equation 3).
#[must_use]
pub fn incremental(checksum: u16, old: u16, new: u16) -> u16 {
    !Sum::new().word(!checksum).word(!old).word(new).fold()
}

/// End-around carry; the second addition cannot overflow.
#[inline]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(u64::from(carry))
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
