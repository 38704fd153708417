//! Making the missing secrets of a service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Hidden, KeyError, hash, new_ed25519, new_rsa};
use crate::config::SecretKind;

/// Letters and digits without the ones that people confuse; nothing that a shell, YAML or Compose reads specially.
const PASSWORD_ALPHABET: &[u8; 56] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz2345678";

/// A source of random bytes.
pub type Random<'r> = &'r mut dyn FnMut(&mut [u8]) -> std::io::Result<()>;

/// Why a secret could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    NoRandom(#[from] std::io::Error),
    /// A hash's password is not known.
    #[error("{0} is a hash of {1}, which has no value")]
    NoPassword(String, String),
    /// A hash was refused.
    #[error("{0}: {1}")]
    Hash(String, String),
    /// A key was refused.
    #[error("{0}: {1}")]
    Key(String, KeyError),
}

/// Makes a value for the secret `name`; `other` gives the value of the secret a hash is of.
pub fn mint(
    name: &str,
    kind: &SecretKind,
    other: &dyn Fn(&str) -> Option<Hidden>,
    random: Random<'_>,
) -> Result<Hidden, MintError> {
    let value = match kind {
        SecretKind::Password { length } => password(*length, random)?,
        SecretKind::Base64 { bytes } => STANDARD.encode(some_bytes(*bytes, random)?),
        SecretKind::Hex { bytes } => hex(&some_bytes(*bytes, random)?),
        SecretKind::Uuid => uuid(random)?,
        SecretKind::Rsa { bits } => {
            return new_rsa(*bits).map_err(|error| MintError::Key(name.to_owned(), error));
        }
        SecretKind::Ed25519 => {
            let mut seed = [0; 32];
            random(&mut seed)?;
            return Ok(new_ed25519(&seed));
        }
        SecretKind::Hash { of, kind } => {
            let password = other(of).ok_or_else(|| MintError::NoPassword(name.to_owned(), of.clone()))?;
            let mut salt = [0; 16];
            random(&mut salt)?;
            hash(*kind, password.expose(), salt).map_err(|error| MintError::Hash(name.to_owned(), error))?
        }
        SecretKind::Literal { value } => value.clone(),
    };
    Ok(Hidden::new(value))
}

fn some_bytes(count: usize, random: Random<'_>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    random(&mut bytes)?;
    Ok(bytes)
}

fn password(length: usize, random: Random<'_>) -> std::io::Result<String> {
    let mut password = String::with_capacity(length);
    // Bytes at or above the greatest multiple of the alphabet would favour its first letters.
    let fair = 256 - 256 % PASSWORD_ALPHABET.len();
    while password.len() < length {
        for byte in some_bytes(length, random)? {
            let letter = PASSWORD_ALPHABET.get(usize::from(byte) % PASSWORD_ALPHABET.len());
            if let Some(letter) = letter.filter(|_| usize::from(byte) < fair && password.len() < length) {
                password.push(char::from(*letter));
            }
        }
    }
    Ok(password)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uuid(random: Random<'_>) -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    random(&mut bytes)?;
    // RFC 9562 §5.4: version 4 in the seventh byte, variant 10 in the ninth.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| text.get(range).unwrap_or_default());
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{HashKind, verify};

    #[test]
    fn each_kind_has_its_length_and_alphabet() {
        let password = make(&SecretKind::Password { length: 24 });
        assert_eq!(password.len(), 24);
        assert!(password.bytes().all(|byte| PASSWORD_ALPHABET.contains(&byte)));
        assert_eq!(make(&SecretKind::Hex { bytes: 16 }).len(), 32);
        assert_eq!(STANDARD.decode(make(&SecretKind::Base64 { bytes: 33 })).map(|b| b.len()), Ok(33));
        let uuid = make(&SecretKind::Uuid);
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
        assert_eq!(make(&SecretKind::Literal { value: "x$y".into() }), "x$y");
    }

    #[test]
    fn a_hash_is_of_the_named_secret() {
        let kind = SecretKind::Hash { of: "ADMIN".into(), kind: HashKind::Pbkdf2Sha512 };
        let hashed = make(&kind);
        assert!(verify(HashKind::Pbkdf2Sha512, "hunter2", &hashed));
        let orphan = mint("H", &kind, &|_| None, &mut counting());
        assert!(matches!(orphan, Err(MintError::NoPassword(..))));
    }

    #[test]
    fn no_random_bytes_is_an_error() {
        let mut empty = |_: &mut [u8]| Err(std::io::Error::other("none"));
        assert!(matches!(mint("P", &SecretKind::Uuid, &|_| None, &mut empty), Err(MintError::NoRandom(_))));
    }

    fn make(kind: &SecretKind) -> String {
        let known = |name: &str| (name == "ADMIN").then(|| Hidden::new("hunter2".into()));
        mint("NAME", kind, &known, &mut counting()).map(|v| v.expose().to_owned()).expect("made")
    }

    fn counting() -> impl FnMut(&mut [u8]) -> std::io::Result<()> {
        let mut next = 0u8;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(5).wrapping_add(113);
                *byte = next;
            }
            Ok(())
        }
    }
}
