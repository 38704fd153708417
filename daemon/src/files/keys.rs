//! Key files: their mode must be private, and their content is never repeated in a message.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use policy::{ConfigError, FileLocation, FileRef, KnownKeys, Problem, PublicKey, SecretKey, Source};
use tunnel::io::key_files;
use zeroize::Zeroizing;

use super::texts::{Kind, credentials_folder, unreadable};

/// Longest key file that is read; a key is 44 characters.
const MAX_BYTES: u64 = 4096;

/// Reads one key file, and refuses one that others may read.
///
/// # Errors
/// What is wrong with the file, at the place where the configuration names it.
pub fn read_key(file: &FileRef) -> Result<SecretKey, ConfigError> {
    let malformed = || file.error(Problem::MalformedKeyFile { file: file.location.to_string() });
    SecretKey::parse(&read_private(file, Kind::Key)?.ok_or_else(malformed)?, file)
}

/// Reads a file with a secret that is no key of WireGuard, such as an API token, and refuses one
/// that others may read; at most 4 KiB of it.
///
/// # Errors
/// What is wrong with the file, at the place where the configuration names it.
pub fn read_secret(file: &FileRef) -> Result<Zeroizing<String>, ConfigError> {
    let reason = || "it is no text; write the secret into it again".to_owned();
    let malformed =
        || file.error(Problem::MalformedSecretFile { file: file.location.to_string(), reason: reason() });
    read_private(file, Kind::Secret)?.ok_or_else(malformed)
}

/// The text of a file that its owner alone may read; `None` where it is no text.
fn read_private(file: &FileRef, kind: Kind) -> Result<Option<Zeroizing<String>>, ConfigError> {
    let path = file.path(credentials_folder().as_deref())?;
    let opened = File::open(&path).map_err(|error| unreadable(file, &error, kind))?;
    let metadata = opened.metadata().map_err(|error| unreadable(file, &error, kind))?;
    let mode = metadata.permissions().mode() & 0o7777;
    // systemd guards credentials itself: their group bits are the mask of an access list.
    let is_credential = matches!(file.location, FileLocation::Credential(_));
    if mode & 0o077 != 0 && !is_credential {
        return Err(file.error(Problem::KeyFileMode { file: path.display().to_string(), mode }));
    }
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(0)));
    match opened.take(MAX_BYTES).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(unreadable(file, &error, kind)),
    }
}

/// What is wrong with key files as far as this user may look: `check` needs no privilege.
#[derive(Debug, Default)]
pub struct KeyFiles {
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// Files that this user may not read, or credentials that only the unit has.
    pub unseen: Vec<PathBuf>,
}

impl KeyFiles {
    /// Looks at these files.
    pub fn inspect<'f>(files: impl IntoIterator<Item = &'f FileRef>) -> Self {
        let mut found = Self::default();
        for file in files {
            let Err(error) = read_key(file) else { continue };
            let forbidden = file.path(credentials_folder().as_deref()).ok().filter(|path| is_forbidden(path));
            match forbidden {
                Some(path) => found.unseen.push(path),
                // Outside the unit there is no credentials folder; inside there is.
                None if matches!(error.problem, Problem::NoCredentials { .. }) => {
                    found.unseen.push(PathBuf::from(file.location.to_string()));
                }
                None => found.errors.push(error),
            }
        }
        found.errors.dedup();
        found.unseen.dedup();
        found
    }
}

/// Whether a file is another user's alone, as a key file should be.
fn is_forbidden(path: &Path) -> bool {
    let is_open = |metadata: fs::Metadata| metadata.permissions().mode() & 0o077 != 0;
    let is_denied = File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    is_denied && !fs::metadata(path).is_ok_and(is_open)
}

/// Public keys of the peers, written as `name`, that cannot be right: one of this machine's `own`, or a secret key that a
/// file next to the configuration holds.
#[must_use]
pub fn misplaced_keys(
    source: &Source<'_>,
    (name, peers): (&'static str, &[Option<PublicKey>]),
    own: &[tunnel::key::PublicKey],
) -> Vec<ConfigError> {
    let peers: Vec<_> = peers.iter().map(|key| key.map(|key| *key.as_bytes())).collect();
    let secrets = key_files::secrets_next_to(source.name);
    let known = KnownKeys {
        own: own.iter().map(|key| *key.as_bytes()).collect(),
        secrets: secrets.iter().map(|(path, key)| (path.as_path(), key.as_bytes())).collect(),
    };
    policy::misplaced_keys(source, (name, &peers), &known)
}
