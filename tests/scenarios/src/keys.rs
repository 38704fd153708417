//! Keys that are the same in every run, so that a failure can be reproduced.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tunnel::key::PrivateKey;

/// A key pair in the text form that configuration files and `wg` use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// 32 bytes in base64.
    pub private: String,
    /// 32 bytes in base64.
    pub public: String,
}

impl KeyPair {
    /// The pair that belongs to a name.
    pub fn of(name: &str) -> Self {
        let key = PrivateKey::from_bytes(bytes_of(name));
        Self { private: STANDARD.encode(key.as_bytes()), public: key.public().to_string() }
    }

    /// Writes the private key as daemons want it: mode 0600.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_secret(path, &self.private)
    }
}

/// The preshared key that belongs to a name, in base64.
pub fn preshared_key(name: &str) -> String {
    STANDARD.encode(bytes_of(&format!("psk of {name}")))
}

/// Writes a secret to a file with mode 0600, which replaces an older one.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(writeln!(file, "{text}")?)
}

/// 32 bytes that depend on the name alone, for tests only.
fn bytes_of(name: &str) -> [u8; 32] {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = relay::Random::new(seed);
    std::array::from_fn(|_| random.next_u64().to_le_bytes()[0])
}
