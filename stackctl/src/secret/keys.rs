//! Private keys: one line of base64 in the env file, PEM where a template uses them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::Hidden;

/// The DER that precedes an Ed25519 seed in a PKCS#8 key (RFC 8410 §7).
const ED25519_PREFIX: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];

/// Why a value is not a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither PEM, nor base64 of PEM, nor base64 of a DER key.
    #[error("neither a PEM key nor one line of base64 that holds one")]
    NotAKey,
    /// The crate that makes keys refused.
    #[error("the key could not be made")]
    NotMade,
}

/// A new RSA key of `bits`, as one line of base64 of its PKCS#8 PEM.
pub fn new_rsa(bits: usize) -> Result<Hidden, KeyError> {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).map_err(|_| KeyError::NotMade)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::NotMade)?;
    Ok(Hidden::new(STANDARD.encode(pem.as_bytes())))
}

/// An Ed25519 key from 32 random bytes, as one line of base64 of its PKCS#8 PEM.
#[must_use]
pub fn new_ed25519(seed: &[u8; 32]) -> Hidden {
    let der: Vec<u8> = ED25519_PREFIX.iter().chain(seed).copied().collect();
    Hidden::new(STANDARD.encode(pem_of("PRIVATE KEY", &der)))
}

/// The PEM text of a stored key, without the newline at its end.
///
/// Accepts PEM as it is, PEM with `\n` written as two characters, and base64 of a PEM or of a PKCS#8 DER.
pub fn as_pem(stored: &str) -> Result<Hidden, KeyError> {
    if stored.starts_with("-----BEGIN ") {
        return Ok(Hidden::new(stored.replace("\\n", "\n").trim_end().to_owned()));
    }
    let bytes = STANDARD.decode(stored.trim()).map_err(|_| KeyError::NotAKey)?;
    if bytes.starts_with(b"-----BEGIN ") {
        let pem = String::from_utf8(bytes).map_err(|_| KeyError::NotAKey)?;
        return Ok(Hidden::new(pem.trim_end().to_owned()));
    }
    // A DER sequence of at least a few dozen bytes: what `openssl pkcs8 -outform DER` writes.
    let sequence = bytes.first() == Some(&0x30) && bytes.len() >= 40;
    if sequence {
        Ok(Hidden::new(pem_of("PRIVATE KEY", &bytes).trim_end().to_owned()))
    } else {
        Err(KeyError::NotAKey)
    }
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (index, c) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs8::DecodePrivateKey as _;

    #[test]
    fn a_made_rsa_key_is_one_line_and_reads_back() {
        let stored = new_rsa(1024).expect("made");
        assert!(!stored.expose().contains('\n'));
        let pem = as_pem(stored.expose()).expect("a key");
        assert!(rsa::RsaPrivateKey::from_pkcs8_pem(pem.expose()).is_ok());
    }

    #[test]
    fn an_ed25519_key_has_the_published_form() {
        // RFC 8410 §10.3 prints this key.
        let seed = STANDARD.decode("1O5y7/cz/tyrxHpJNIQfXVW5TI7FGJeJCgvd7bKCQkI=").ok();
        let published = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        let from_rfc = as_pem(published).expect("a DER key");
        assert!(from_rfc.expose().contains(published));
        let seed: [u8; 32] = seed.and_then(|bytes| bytes.try_into().ok()).expect("32 bytes");
        let pem = as_pem(new_ed25519(&seed).expose()).expect("a key");
        assert!(pem.expose().starts_with("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI"));
    }

    #[test]
    fn every_stored_form_of_a_key_becomes_the_same_pem() {
        let pem = as_pem(new_ed25519(&[9; 32]).expose()).expect("a key");
        let der = pem.expose().lines().nth(1).expect("a body").to_owned();
        let forms =
            [pem.expose().to_owned(), pem.expose().replace('\n', "\\n"), STANDARD.encode(pem.expose()), der];
        for form in forms {
            assert!(as_pem(&form).is_ok_and(|other| other.expose() == pem.expose()), "{form}");
        }
        for wrong in ["", "hello", "aGVsbG8="] {
            assert_eq!(as_pem(wrong).err(), Some(KeyError::NotAKey));
        }
    }
}
