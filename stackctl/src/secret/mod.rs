//! Secret values: how they are held, made, hashed and shown as keys.

mod hashes;
mod keys;
mod mint;

pub use hashes::{HashKind, hash, verify};
pub use keys::{KeyError, as_pem, new_ed25519, new_rsa};
pub use mint::{MintError, Random, mint};

use zeroize::Zeroizing;

/// A value that is wiped when dropped and has no `Debug`, so that no log line can hold it.
#[derive(Clone)]
pub struct Hidden(Zeroizing<String>);

impl Hidden {
    /// Takes a value into keeping.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, for those who must write it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Whether a variable's name alone says that it is a secret.
#[must_use]
pub fn named_like_a_secret(name: &str) -> bool {
    ["_PASSWORD", "_TOKEN", "_KEY", "_SECRET"].iter().any(|ending| name.ends_with(ending))
}
