//! WireGuard keys: base64 outside, 32 bytes inside.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{ConfigError, FileRef, Problem};

/// A peer's public key; prints as base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the 32 bytes of a u-coordinate; `None` for the low-order points that make every shared
    /// secret zero.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Option<Self> {
        (!is_low_order(&bytes)).then_some(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads base64 of exactly 32 bytes.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text).ok_or(KeyError::Malformed)?;
        Self::new(*bytes).ok_or(KeyError::LowOrder)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A private or preshared key, wiped when dropped; it has no `Debug` and no `Display`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Reads the content of a key file: base64 of 32 bytes, as `wg genkey` writes it, white space
    /// around it allowed.
    ///
    /// # Errors
    /// [`Problem::MalformedKeyFile`] at the place that names the file; it never repeats the
    /// content.
    pub fn parse(text: &str, file: &FileRef) -> Result<Self, ConfigError> {
        let bytes = decode(text.trim())
            .ok_or_else(|| file.error(Problem::MalformedKeyFile { file: file.location.to_string() }))?;
        Ok(Self(*bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of 32 bytes.
    #[error("this is not base64 of 32 bytes")]
    Malformed,
    /// A point with which every shared secret is zero.
    #[error("this is a low-order point, with which no secret can be agreed")]
    LowOrder,
}

fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

/// The prime 2^255 − 19, little-endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// Points of order 1, 2, 4 and 8 (and their twists') on Curve25519 as reduced u-coordinates: 0, 1,
/// p − 1 and the two of order 8. RFC 7748 §6.1 lets an implementation refuse them; Langley and
/// Hamburg list them.
const LOW_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    {
        let mut minus_one = P;
        minus_one[0] = 0xec;
        minus_one
    },
];

/// Whether every scalar multiple of this u-coordinate that X25519 computes is zero.
///
/// The top bit is ignored and values from p to 2^255 − 1 are reduced first, as RFC 7748 §5 does.
fn is_low_order(bytes: &[u8; 32]) -> bool {
    let mut reduced = *bytes;
    reduced[31] &= 0x7f;
    let at_least_p =
        reduced[0] >= P[0] && reduced[1..31].iter().all(|&byte| byte == 0xff) && reduced[31] == 0x7f;
    if at_least_p {
        let low = reduced[0] - P[0];
        reduced = [0; 32];
        reduced[0] = low;
    }
    LOW_ORDER.contains(&reduced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_low_order_point_is_refused_in_all_its_encodings() {
        for point in LOW_ORDER {
            assert_eq!(PublicKey::new(point), None, "{point:02x?}");
            let mut high_bit = point;
            high_bit[31] |= 0x80;
            assert_eq!(PublicKey::new(high_bit), None, "{high_bit:02x?}");
        }
        for above in [0xed, 0xee] {
            let mut unreduced = P;
            unreduced[0] = above;
            assert_eq!(PublicKey::new(unreduced), None, "{unreduced:02x?}");
        }
    }

    #[test]
    fn an_ordinary_point_and_the_base_point_are_taken() {
        let mut base = [0; 32];
        base[0] = 9;
        assert!(PublicKey::new(base).is_some());
        let mut largest = P;
        largest[0] = 0xff;
        assert!(PublicKey::new(largest).is_some());
    }

    #[test]
    fn a_key_prints_as_it_was_read() {
        let text = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
    }

    #[test]
    fn text_that_is_not_32_bytes_of_base64_is_malformed() {
        for text in ["", "AAAA", "not base64 at all", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg"] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Malformed), "{text:?}");
        }
    }
}
