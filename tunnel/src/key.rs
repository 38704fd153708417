//! Keys: public ones print, secret ones never do.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 44 characters of base64 for 32 bytes.
    #[error("a key is 32 bytes in base64 (44 characters, the last one '=')")]
    Malformed,
    /// A point of small order: every session with it would have a known key (Cremers and Jackson,
    /// 2019).
    #[error("this public key is a low-order point, so anyone could read the session")]
    LowOrder,
}

/// A Curve25519 public key that contributes to a shared secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key in `bytes`.
    ///
    /// # Errors
    /// [`KeyError::LowOrder`] for a point of small order, zero included.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        // Any clamped scalar shows it: small order is exactly what every one of them maps to zero.
        let probe = x25519::StaticSecret::from([0x55; 32]);
        let contributes = probe.diffie_hellman(&x25519::PublicKey::from(bytes)).was_contributory();
        if contributes { Ok(Self(bytes)) } else { Err(KeyError::LowOrder) }
    }

    /// Bytes to look a peer up by: they need not be a key that may be used.
    pub(crate) const fn to_compare(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode(text)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A Curve25519 private key, clamped; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// The key in `bytes`, clamped (RFC 7748 §5).
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 0xf8;
        bytes[31] = (bytes[31] & 0x7f) | 0x40;
        Self(bytes)
    }

    /// The clamped bytes; handle with care.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&x25519::StaticSecret::from(self.0)).as_bytes())
    }

    /// The secret that the owners of this key and of `peer`'s share (RFC 7748 §6.1).
    #[must_use]
    pub fn agree(&self, peer: &PublicKey) -> Zeroizing<[u8; 32]> {
        let own = x25519::StaticSecret::from(self.0);
        Zeroizing::new(own.diffie_hellman(&x25519::PublicKey::from(peer.0)).to_bytes())
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self::from_bytes)
    }
}

/// A 32-byte secret mixed into the handshake; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// The key in `bytes`.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes; handle with care.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Malformed)?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Malformed);
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_points_are_refused() {
        let orders: [[u8; 32]; 4] = [
            [0; 32],
            small(&[1]),
            // Of order eight (RFC 7748 §6.1 leaves them to the caller to refuse).
            hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        ];
        for point in orders {
            assert_eq!(PublicKey::from_bytes(point), Err(KeyError::LowOrder), "{point:?}");
        }
        assert!(PublicKey::from_bytes(small(&[9])).is_ok());
    }

    #[test]
    fn keys_survive_the_way_through_text() {
        let key = PrivateKey::from_bytes([7; 32]);
        let public = key.public();

        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(public.to_string().len(), 44);
        for wrong in ["", "AAAA", "not base64 at all, but of the right length..", &"A".repeat(44)] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_ends_agree_on_one_secret_and_a_third_key_on_another() {
        let [a, b, c] = [1, 2, 3].map(|byte| PrivateKey::from_bytes([byte; 32]));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert_ne!(a.agree(&b.public()), a.agree(&c.public()));
    }

    #[test]
    fn private_keys_are_clamped() {
        let key = PrivateKey::from_bytes([0xff; 32]);

        assert_eq!((key.as_bytes()[0], key.as_bytes()[31]), (0xf8, 0x7f));
    }

    fn small(bytes: &[u8]) -> [u8; 32] {
        let mut point = [0; 32];
        point[..bytes.len()].copy_from_slice(bytes);
        point
    }

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }
}
