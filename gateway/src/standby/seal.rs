//! Encryption of what the edges of a pair send each other.
//!
//! Both have the same private key, so both derive the same secret: HKDF-SHA256 (RFC 5869) of the
//! private key with the sender's boot number as its salt. A datagram is
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `CWS1` |
//! | 16 | the sender's boot number, random at each start |
//! | 8 | a counter, big-endian, from 1: the nonce of ChaCha20-Poly1305 (RFC 8439) |
//! | rest | the sealed message; the bytes before it are authenticated with it |

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use tunnel::key::PrivateKey;

/// Bytes of a boot number.
pub const BOOT: usize = 16;
/// The longest datagram, in bytes: what UDP over IPv4 carries at most is 65,507.
pub const MAX_DATAGRAM: usize = 60_000;

const MAGIC: [u8; 4] = *b"CWS1";
const HEADER: usize = MAGIC.len() + BOOT + 8;
const PURPOSE: &[u8] = b"causeway standby 1";

/// The secret that the edges of a pair share.
pub struct Seal {
    key: PrivateKey,
}

impl Seal {
    /// The secret of the owners of this key.
    #[must_use]
    pub const fn new(key: PrivateKey) -> Self {
        Self { key }
    }

    fn cipher(&self, boot: &[u8; BOOT]) -> Option<LessSafeKey> {
        let secret = Salt::new(HKDF_SHA256, boot).extract(self.key.as_bytes());
        let expanded = secret.expand(&[PURPOSE], &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(expanded)))
    }

    /// Seals a message; `None` when it is too long. No two messages of one boot may have the same
    /// counter.
    #[must_use]
    pub fn seal(&self, boot: &[u8; BOOT], counter: u64, message: &[u8]) -> Option<Vec<u8>> {
        if HEADER + message.len() + CHACHA20_POLY1305.tag_len() > MAX_DATAGRAM {
            return None;
        }
        let mut datagram = [&MAGIC[..], boot, &counter.to_be_bytes()].concat();
        let mut sealed = message.to_vec();
        let header = Aad::from(datagram.clone());
        self.cipher(boot)?.seal_in_place_append_tag(nonce(counter), header, &mut sealed).ok()?;
        datagram.extend(sealed);
        Some(datagram)
    }

    /// The boot number, the counter and the message of a datagram that an owner of the key sealed.
    #[must_use]
    pub fn open(&self, datagram: &[u8]) -> Option<([u8; BOOT], u64, Vec<u8>)> {
        if datagram.len() > MAX_DATAGRAM {
            return None;
        }
        let (header, sealed) = datagram.split_at_checked(HEADER)?;
        let rest = header.strip_prefix(&MAGIC)?;
        let (boot, counter) = rest.split_first_chunk::<BOOT>()?;
        let counter = u64::from_be_bytes(counter.try_into().ok()?);
        let mut message = sealed.to_vec();
        let opened =
            self.cipher(boot)?.open_in_place(nonce(counter), Aad::from(header), &mut message).ok()?;
        Some((*boot, counter, opened.to_vec()))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (byte, from) in bytes.iter_mut().skip(NONCE_LEN - 8).zip(counter.to_be_bytes()) {
        *byte = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_an_owner_of_the_key_alone() {
        let datagram = seal(1).seal(&[9; BOOT], 7, b"hello").unwrap();
        assert_eq!(seal(1).open(&datagram), Some(([9; BOOT], 7, b"hello".to_vec())));
        assert_eq!(seal(2).open(&datagram), None);
    }

    #[test]
    fn a_changed_cut_or_longer_datagram_is_not_opened() {
        let datagram = seal(1).seal(&[9; BOOT], 7, b"hello").unwrap();
        for place in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[place] ^= 1;
            assert_eq!(seal(1).open(&changed), None, "byte {place}");
            assert_eq!(seal(1).open(&datagram[..place]), None, "{place} bytes");
        }
        assert_eq!(seal(1).open(&[&datagram[..], &[0]].concat()), None);
    }

    #[test]
    fn the_longest_message_is_sealed_and_a_longer_one_is_not() {
        let most = MAX_DATAGRAM - HEADER - 16;
        let datagram = seal(1).seal(&[0; BOOT], 1, &vec![0; most]).unwrap();
        assert_eq!(datagram.len(), MAX_DATAGRAM);
        assert!(seal(1).open(&datagram).is_some());
        assert_eq!(seal(1).seal(&[0; BOOT], 1, &vec![0; most + 1]), None);
    }

    fn seal(byte: u8) -> Seal {
        Seal::new(PrivateKey::from_bytes([byte; 32]))
    }
}
