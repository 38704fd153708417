//! The key files in the folder of a configuration, to recognize a key that was put in the wrong
//! place.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::key::{PresharedKey, PublicKey};

/// The most files that are read.
const MOST: usize = 256;
/// Longest file that is read: a key is 44 characters.
const LONGEST: u64 = 128;

/// Every secret key in a file `*.key` or `*.psk` in the folder of `configuration` that this user
/// may read, as it is written; at most 256.
#[must_use]
pub fn secrets_next_to(configuration: &Path) -> Vec<(PathBuf, PresharedKey)> {
    let folder = configuration.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let is_secret = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|kind| kind == "key" || kind == "psk")
    };
    let secrets = entries.map(|entry| entry.path()).filter(is_secret).take(MOST);
    secrets.filter_map(|path| Some((path.clone(), text(&path)?.parse().ok()?))).collect()
}

/// The public key in `NAME.pub` next to the private one in `NAME.key`, for a user who may not read
/// the latter.
#[must_use]
pub fn public_key_next_to(private: &Path) -> Option<PublicKey> {
    text(&private.with_extension("pub"))?.trim().parse().ok()
}

fn text(path: &Path) -> Option<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize));
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}
