//! Reads the configuration and the files it names: keys, whose mode must be private, and prefix lists.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use policy::gateway::{self, Policy};
use policy::{ConfigError, FileLocation, FileRef, KnownKeys, Problem, SecretKey, Source};
use tunnel::io::key_files;
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::exit::{Exit, Stop};

/// Longest key file that is read; a key is 44 characters.
const MAX_KEY_FILE: u64 = 4096;
/// Longest configuration or list file that is read, in bytes.
const MAX_TEXT_FILE: u64 = 16 << 20;

/// A configuration with everything it names.
pub struct Config {
    /// The file, as the operator named it.
    pub path: PathBuf,
    /// Its text; secrets are in other files.
    pub text: String,
    /// What it says, its lists loaded.
    pub policy: Policy,
    /// The keys its files hold.
    pub keys: Keys,
}

/// The secrets that the configuration's key files hold.
#[derive(Clone)]
pub struct Keys {
    /// The edge's own key.
    pub private: PrivateKey,
    /// Preshared keys by the public key of the peer.
    pub preshared: BTreeMap<policy::PublicKey, PresharedKey>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration file itself cannot be read.
    #[error("{path}: {error}{}", fix_of(path, error))]
    Unreadable {
        /// The file.
        path: String,
        /// The system's words.
        error: io::Error,
    },
    /// Everything that is wrong, in the order of the file.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigError>),
}

impl LoadError {
    /// The exit code that says it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::Unreadable { .. } => Exit::Invalid,
            // An invalid text is the first thing to fix; a file's mode matters once the text is right.
            Self::Invalid(errors) if errors.iter().all(|error| error.exit_code() == 5) => Exit::Permission,
            Self::Invalid(_) => Exit::Invalid,
        }
    }
}

impl From<LoadError> for Stop {
    fn from(error: LoadError) -> Self {
        Self::new(error.exit(), error)
    }
}

/// Reads the configuration, its lists and its keys.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let text = text_of(path)?;
    load_text(path, text)
}

/// Takes `text` for the content of the file `path`, which need not exist, and reads its lists and keys.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load_text(path: &Path, text: String) -> Result<Config, LoadError> {
    let policy = policy_of(path, &text)?;
    let keys = read_keys(&policy).map_err(LoadError::Invalid)?;
    let misplaced = misplaced(path, &text, &policy, Some(keys.private.public()));
    if !misplaced.is_empty() {
        return Err(LoadError::Invalid(misplaced));
    }
    Ok(Config { path: path.to_owned(), text, policy, keys })
}

/// Peers that have the key of this edge, or a secret key of a file that is beside the configuration.
fn misplaced(path: &Path, text: &str, policy: &Policy, own: Option<PublicKey>) -> Vec<ConfigError> {
    let peers: Vec<_> = policy.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
    let secrets = key_files::secrets_beside(path);
    let known = KnownKeys {
        own: own.iter().map(|key| *key.as_bytes()).collect(),
        secrets: secrets.iter().map(|(path, key)| (path.as_path(), key.as_bytes())).collect(),
    };
    policy::misplaced_keys(&Source { name: path, text }, &peers, &known)
}

/// As [`load_text`], but errors speak of the file `said`, where the operator wrote it.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load_draft(path: &Path, said: &Path, text: String) -> Result<Config, LoadError> {
    load_text(path, text).map_err(|error| match error {
        LoadError::Invalid(mut errors) => {
            for error in errors.iter_mut().filter(|error| *error.at.file == *path) {
                error.at.file = said.into();
            }
            LoadError::Invalid(errors)
        }
        unreadable @ LoadError::Unreadable { .. } => unreadable,
    })
}

/// Reads the configuration and its lists, but no secret.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load_policy(path: &Path) -> Result<Policy, LoadError> {
    policy_of(path, &text_of(path)?)
}

fn text_of(path: &Path) -> Result<String, LoadError> {
    read_text(path).map_err(|error| LoadError::Unreadable { path: path.display().to_string(), error })
}

fn policy_of(path: &Path, text: &str) -> Result<Policy, LoadError> {
    let mut policy = gateway::parse(&Source { name: path, text }).map_err(LoadError::Invalid)?;
    let credentials = credentials_folder();
    let mut errors = Vec::new();
    for list in &mut policy.lists {
        if let Err(more) = load_list(list, credentials.as_deref()) {
            errors.extend(more);
        }
    }
    if errors.is_empty() { Ok(policy) } else { Err(LoadError::Invalid(errors)) }
}

/// The text of a configuration or list file.
///
/// # Errors
/// The system's, and `InvalidData` for a file that is too long or no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_TEXT_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn load_list(list: &mut policy::sections::List, credentials: Option<&Path>) -> Result<(), Vec<ConfigError>> {
    let path = list.file.path(credentials).map_err(|error| vec![error])?;
    let text = read_text(&path).map_err(|error| vec![unreadable(&list.file, &error)])?;
    list.load(&Source { name: &path, text: &text })
}

fn read_keys(policy: &Policy) -> Result<Keys, Vec<ConfigError>> {
    let credentials = credentials_folder();
    let credentials = credentials.as_deref();
    let mut errors = Vec::new();
    let mut keep = |result: Result<SecretKey, ConfigError>| result.map_err(|error| errors.push(error)).ok();
    let private = keep(read_key(&policy.interface.private_key_file, credentials));
    let mut preshared = BTreeMap::new();
    for peer in &policy.peers {
        let key = peer.preshared_key_file.as_ref().and_then(|file| keep(read_key(file, credentials)));
        preshared.extend(key.map(|key| (peer.public_key, PresharedKey::from_bytes(*key.as_bytes()))));
    }
    match private {
        Some(private) if errors.is_empty() => {
            Ok(Keys { private: PrivateKey::from_bytes(*private.as_bytes()), preshared })
        }
        _ => Err(errors),
    }
}

/// Reads one key file, refusing one that others may read.
fn read_key(file: &FileRef, credentials: Option<&Path>) -> Result<SecretKey, ConfigError> {
    let path = file.path(credentials)?;
    let opened = File::open(&path).map_err(|error| unreadable(file, &error))?;
    let metadata = opened.metadata().map_err(|error| unreadable(file, &error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    // systemd guards credentials itself: their group bits are the mask of an access list.
    let is_credential = matches!(file.location, FileLocation::Credential(_));
    if mode & 0o077 != 0 && !is_credential {
        return Err(file.error(Problem::KeyFileMode { file: path.display().to_string(), mode }));
    }
    let mut text = Zeroizing::new(String::with_capacity(64));
    match opened.take(MAX_KEY_FILE).read_to_string(&mut text) {
        Ok(_) => SecretKey::parse(&text, file),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(file.error(Problem::MalformedKeyFile { file: path.display().to_string() }))
        }
        Err(error) => Err(unreadable(file, &error)),
    }
}

/// What is wrong with the keys as far as this user may look: `check` needs no privilege.
#[must_use]
pub fn inspect_keys(path: &Path, policy: &Policy) -> KeyFiles {
    let credentials = credentials_folder();
    let mut found = KeyFiles::default();
    let files = policy.peers.iter().filter_map(|peer| peer.preshared_key_file.as_ref());
    for file in std::iter::once(&policy.interface.private_key_file).chain(files) {
        let forbidden = file.path(credentials.as_deref()).ok().filter(|path| is_forbidden(path));
        match (forbidden, read_key(file, credentials.as_deref())) {
            (_, Ok(_)) => {}
            (Some(path), Err(_)) => found.unseen.push(path),
            // Outside the unit there is no credentials folder; inside there is.
            (None, Err(error)) if matches!(error.problem, Problem::NoCredentials { .. }) => {
                found.unseen.push(PathBuf::from(file.location.to_string()));
            }
            (None, Err(error)) => found.errors.push(error),
        }
    }
    let own = read_key(&policy.interface.private_key_file, credentials.as_deref());
    let own = own.ok().map(|key| PrivateKey::from_bytes(*key.as_bytes()).public());
    let own = own.or_else(|| match &policy.interface.private_key_file.location {
        FileLocation::Path(private) => key_files::public_beside(private),
        FileLocation::Credential(_) => None,
    });
    found.errors.extend(text_of(path).map(|text| misplaced(path, &text, policy, own)).unwrap_or_default());
    found
}

/// What [`inspect_keys`] found.
#[derive(Debug, Default)]
pub struct KeyFiles {
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// Files that this user may not look into, or credentials that only the unit has.
    pub unseen: Vec<PathBuf>,
}

fn is_forbidden(path: &Path) -> bool {
    let wide = |metadata: fs::Metadata| metadata.permissions().mode() & 0o077 != 0;
    let denied = File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    denied && !fs::metadata(path).is_ok_and(wide)
}

fn unreadable(file: &FileRef, error: &io::Error) -> ConfigError {
    let name = file.location.to_string();
    file.error(match error.kind() {
        io::ErrorKind::NotFound => Problem::MissingFile { file: name },
        _ => Problem::UnreadableFile { file: name, reason: error.to_string() },
    })
}

fn credentials_folder() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// How to fix a configuration file that cannot be read, as the end of a sentence; empty where only the error says it.
pub(crate) fn fix_of(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "; this user must be able to read it: chmod 0644 {path} (it holds no secret), and 0755 for its folder"
        ),
        _ => String::new(),
    }
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[interface]
name = "gw0"
address = ["10.77.88.1/30"]
listen_port = 51820
private_key_file = "kyiv.key"
[wan]
interface = "eth0"
[[peer]]
name = "wroclaw"
public_key = "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs="
allowed_ips = ["10.77.88.2/32"]
"#;
    const KEY: &str = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";

    #[test]
    fn a_private_key_file_is_read() {
        let folder = written(KEY, 0o600);
        assert!(load(&folder.path().join("gateway.toml")).is_ok());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_mend() {
        let folder = written(KEY, 0o644);
        let stop = Stop::from(load(&folder.path().join("gateway.toml")).err().unwrap());
        assert_eq!(stop.exit, Exit::Permission);
        assert!(stop.message.contains("gateway.toml:6:"), "{}", stop.message);
        assert!(stop.message.contains("chmod 0600"), "{}", stop.message);
    }

    #[test]
    fn a_missing_key_is_an_error_where_it_is_named() {
        let folder = written(KEY, 0o600);
        fs::remove_file(folder.path().join("kyiv.key")).unwrap();
        let stop = Stop::from(load(&folder.path().join("gateway.toml")).err().unwrap());
        assert_eq!(stop.exit, Exit::Invalid);
        assert!(stop.message.contains("gateway.toml:6:"), "{}", stop.message);
    }

    #[test]
    fn a_malformed_key_is_not_repeated_in_the_message() {
        let folder = written("c2VjcmV0IHNlY3JldA==", 0o600);
        let stop = Stop::from(load(&folder.path().join("gateway.toml")).err().unwrap());
        assert_eq!(stop.exit, Exit::Invalid);
        assert!(!stop.message.contains("c2VjcmV0"), "{}", stop.message);
    }

    #[test]
    fn a_key_of_this_edge_as_a_peers_is_refused_where_it_is_written() {
        let key: PrivateKey = KEY.parse().unwrap();
        let public = key.public().to_string();
        for (peers, words) in [(public.as_str(), "own public key"), (KEY.trim(), "secret key that")] {
            let folder = written(KEY, 0o600);
            let path = folder.path().join("gateway.toml");
            fs::write(&path, TEXT.replace("j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=", peers)).unwrap();
            let stop = Stop::from(load(&path).err().unwrap());
            assert_eq!(stop.exit, Exit::Invalid);
            assert!(
                stop.message.contains("gateway.toml:11:14: ") && stop.message.contains(words),
                "{}",
                stop.message
            );
            let found = inspect_keys(&path, &load_policy(&path).unwrap());
            assert_eq!(found.errors.len(), 1, "{:?}", found.errors);
        }
    }

    #[test]
    fn a_user_who_may_not_read_the_private_key_knows_it_by_the_public_one_beside_it() {
        let folder = written("no key at all", 0o600);
        let path = folder.path().join("gateway.toml");
        fs::write(folder.path().join("kyiv.pub"), "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=\n").unwrap();
        let errors = inspect_keys(&path, &load_policy(&path).unwrap()).errors;
        assert!(errors.iter().any(|error| error.problem == Problem::OwnPublicKey), "{errors:?}");
    }

    #[test]
    fn a_missing_configuration_is_invalid() {
        assert_eq!(
            Stop::from(load(Path::new("/nonexistent/gateway.toml")).err().unwrap()).exit,
            Exit::Invalid
        );
    }

    fn written(key: &str, mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gateway.toml"), TEXT).unwrap();
        let path = folder.path().join("kyiv.key");
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }
}
