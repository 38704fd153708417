//! Password hashes in the encodings that Authelia and its relatives read.

use std::num::NonZeroU32;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::pbkdf2;

/// Authelia's own default of iterations for the SHA-512 variant.
const PBKDF2_ITERATIONS: u32 = 310_000;
/// Authelia's default argon2id cost: 64 MiB, three passes, four lanes.
const ARGON2_COST: (u32, u32, u32) = (65_536, 3, 4);
const BCRYPT_COST: u32 = 12;
/// bcrypt reads no further than this many bytes.
const BCRYPT_LIMIT: usize = 72;

/// A kind of password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// `$argon2id$v=19$m=65536,t=3,p=4$…`
    Argon2id,
    /// `$pbkdf2-sha512$310000$…`, salt and sum in base64 with `.` for `+`.
    Pbkdf2Sha512,
    /// `$2b$12$…`
    Bcrypt,
}

/// Hashes a password with a salt of 16 random bytes.
///
/// The error says what the algorithm refused, never the password.
pub fn hash(kind: HashKind, password: &str, salt: [u8; 16]) -> Result<String, String> {
    match kind {
        HashKind::Argon2id => argon2id(password, &salt),
        HashKind::Pbkdf2Sha512 => Ok(pbkdf2_sha512(password, &salt, PBKDF2_ITERATIONS)),
        HashKind::Bcrypt if password.len() > BCRYPT_LIMIT => {
            Err(format!("bcrypt reads only the first {BCRYPT_LIMIT} bytes of a password: make it shorter"))
        }
        HashKind::Bcrypt => bcrypt::hash_with_salt(password, BCRYPT_COST, salt)
            .map(|parts| parts.format_for_version(bcrypt::Version::TwoB))
            .map_err(|error| error.to_string()),
    }
}

/// Whether `hashed` is the hash of `password`, whatever its cost; an encoding that is not understood is not.
#[must_use]
pub fn verify(kind: HashKind, password: &str, hashed: &str) -> bool {
    match kind {
        HashKind::Argon2id => PasswordHash::new(hashed)
            .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()),
        HashKind::Pbkdf2Sha512 => verify_pbkdf2(password, hashed).unwrap_or(false),
        HashKind::Bcrypt => bcrypt::verify(password, hashed).unwrap_or(false),
    }
}

fn argon2id(password: &str, salt: &[u8; 16]) -> Result<String, String> {
    let (memory, passes, lanes) = ARGON2_COST;
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(|error| error.to_string())?;
    let salt = SaltString::encode_b64(salt).map_err(|error| error.to_string())?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

fn pbkdf2_sha512(password: &str, salt: &[u8], iterations: u32) -> String {
    let mut sum = [0; 64];
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, password.as_bytes(), &mut sum);
    let encode = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes).replace('+', ".");
    format!("$pbkdf2-sha512${iterations}${}${}", encode(salt), encode(&sum))
}

fn verify_pbkdf2(password: &str, hashed: &str) -> Option<bool> {
    let mut parts = hashed.strip_prefix("$pbkdf2-sha512$")?.split('$');
    let rounds = NonZeroU32::new(parts.next()?.parse().ok()?)?;
    let decode = |text: &str| STANDARD_NO_PAD.decode(text.replace('.', "+")).ok();
    let (salt, sum) = (decode(parts.next()?)?, decode(parts.next()?)?);
    Some(pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, rounds, &salt, password.as_bytes(), &sum).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hash_has_its_encoding_and_verifies() {
        for (kind, start) in [
            (HashKind::Argon2id, "$argon2id$v=19$m=65536,t=3,p=4$"),
            (HashKind::Pbkdf2Sha512, "$pbkdf2-sha512$310000$"),
            (HashKind::Bcrypt, "$2b$12$"),
        ] {
            let hashed = hash(kind, "pa$$ wörd", [7; 16]).expect("hashable");
            assert!(hashed.starts_with(start), "{hashed}");
            assert!(verify(kind, "pa$$ wörd", &hashed));
            assert!(!verify(kind, "pa$$ word", &hashed));
            assert!(!verify(kind, "x", "nonsense"));
        }
    }

    #[test]
    fn a_hash_made_by_another_implementation_verifies() {
        // Made by Python's hashlib, of "password" with the salt 00 01 … 0f.
        let known = "$pbkdf2-sha512$25000$AAECAwQFBgcICQoLDA0ODw$EIJTJci4GjJFueYP2IMIxGIhpWd96facmk2yGdjyFsEUE2PrPNQnrnUVT5Ch.GNpbgjHYeabQn2L9uP6DGJOVw";
        assert!(verify(HashKind::Pbkdf2Sha512, "password", known));
    }

    #[test]
    fn bcrypt_refuses_what_it_would_cut_off() {
        assert!(hash(HashKind::Bcrypt, &"a".repeat(72), [0; 16]).is_ok());
        assert!(hash(HashKind::Bcrypt, &"a".repeat(73), [0; 16]).is_err());
    }
}
