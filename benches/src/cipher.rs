//! The cipher alone: no engine on this library can be faster.

use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a full inner packet.
pub const PACKET: usize = 1420;

/// ChaCha20-Poly1305 with a fixed key and counting nonces.
pub struct Cipher {
    key: LessSafeKey,
    counter: u64,
    buffer: Vec<u8>,
}

impl Cipher {
    /// For packets of `len` bytes.
    ///
    /// # Errors
    /// None in practice: the key has the right length.
    pub fn new(len: usize) -> Result<Self, ring::error::Unspecified> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32])?);
        Ok(Self { key, counter: 0, buffer: vec![0; len] })
    }

    /// Seals one packet in place.
    ///
    /// # Errors
    /// None in practice: packets are far below the cipher's limit.
    pub fn seal(&mut self) -> Result<u8, ring::error::Unspecified> {
        let tag = self.key.seal_in_place_separate_tag(nonce(self.counter), Aad::empty(), &mut self.buffer)?;
        self.counter += 1;
        Ok(tag.as_ref().first().copied().unwrap_or_default())
    }

    /// Copies one sealed packet of zeros and opens it.
    ///
    /// # Errors
    /// None in practice: the packet is authentic.
    pub fn open(&mut self, sealed: &[u8]) -> Result<usize, ring::error::Unspecified> {
        self.buffer.clear();
        self.buffer.extend_from_slice(sealed);
        self.key.open_in_place(nonce(0), Aad::empty(), &mut self.buffer).map(|plain| plain.len())
    }

    /// A sealed packet of zeros, tag included.
    ///
    /// # Errors
    /// None in practice.
    pub fn sealed(&self, len: usize) -> Result<Vec<u8>, ring::error::Unspecified> {
        let mut packet = vec![0; len];
        self.key.seal_in_place_append_tag(nonce(0), Aad::empty(), &mut packet)?;
        Ok(packet)
    }
}

/// CPU seconds per GB that sealing and opening full packets takes, one after the other on this
/// core.
///
/// # Errors
/// None in practice.
pub fn seconds_per_gigabyte(each: Duration) -> Result<(f64, f64), ring::error::Unspecified> {
    let mut cipher = Cipher::new(PACKET)?;
    let sealed = cipher.sealed(PACKET)?;
    let seal = per_gigabyte(each, || cipher.seal().map(drop))?;
    let open = per_gigabyte(each, || cipher.open(&sealed).map(drop))?;
    Ok((seal, open))
}

fn per_gigabyte(
    length: Duration,
    mut packet: impl FnMut() -> Result<(), ring::error::Unspecified>,
) -> Result<f64, ring::error::Unspecified> {
    let (begin, mut packets) = (Instant::now(), 0_u32);
    while begin.elapsed() < length {
        for _ in 0..64 {
            packet()?;
        }
        packets += 64;
    }
    Ok(begin.elapsed().as_secs_f64() / (f64::from(packets) * PACKET as f64) * 1e9)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(place) = bytes.get_mut(4..) {
        place.copy_from_slice(&counter.to_le_bytes());
    }
    Nonce::assume_unique_for_key(bytes)
}
