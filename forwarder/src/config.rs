//! From a configuration file to a policy with its keys.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::forwarder::{Peer, Policy};
use policy::sections::List;
use policy::{ConfigError, FileLocation, FileRef, Host, KnownKeys, Problem, SecretKey, Source};
use tunnel::io::key_files;
use tunnel::key::{PresharedKey, PrivateKey};
use tunnel::node::PeerConfig;
use zeroize::Zeroizing;

use crate::exit;

/// Bytes of a list file that are read: as many as the gateway takes.
const MAX_LIST: u64 = 16 << 20;

/// A configuration that can be run: valid, with the keys it names.
pub struct Loaded {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The keys of each `[[peer]]`, in order.
    pub keys: Vec<Keys>,
}

/// The secrets of one tunnel.
pub struct Keys {
    /// Our own.
    pub private: PrivateKey,
    /// The one shared with the edge, if any.
    pub preshared: Option<PresharedKey>,
}

/// Why a configuration cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file itself cannot be read.
    #[error("{path}: {error}{}", fix_of(path, error))]
    Unreadable {
        /// Which file.
        path: String,
        /// The system's words.
        error: io::Error,
    },
    /// What is wrong in it or in the files it names; never empty.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigError>),
}

impl LoadError {
    /// The exit code that tells it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                exit::PERMISSION
            }
            Self::Unreadable { .. } => exit::INVALID,
            // A permission is the answer only when nothing else is wrong.
            Self::Invalid(errors) => errors.iter().map(ConfigError::exit_code).min().unwrap_or(exit::INVALID),
        }
    }
}

/// Reads a configuration and every file that it names.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let text = text_of(path)?;
    let mut policy = parse(path, &text)?;
    let mut errors = Vec::new();
    for list in &mut policy.lists {
        errors.extend(load_list(list).err().unwrap_or_default());
    }
    let keys: Vec<Keys> = policy.peers.iter().filter_map(|peer| read_keys(peer, &mut errors)).collect();
    errors.extend(misplaced(path, &text, &policy, &keys));
    if errors.is_empty() {
        Ok(Loaded { policy: Arc::new(policy), keys })
    } else {
        errors.dedup();
        Err(LoadError::Invalid(errors))
    }
}

/// A configuration as far as this user may look into the files it names.
pub struct Inspected {
    /// The policy, its lists loaded.
    pub policy: Policy,
    /// Key files that this user may not read, or credentials that only the unit has.
    pub unseen: Vec<PathBuf>,
}

/// As [`load`], but a key that only the daemon's user may read is no error: `check` needs no privilege.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn inspect(path: &Path) -> Result<Inspected, LoadError> {
    let mut policy = read(path)?;
    let (mut errors, mut unseen) = (Vec::new(), Vec::new());
    for list in &mut policy.lists {
        errors.extend(load_list(list).err().unwrap_or_default());
    }
    let files = policy
        .peers
        .iter()
        .flat_map(|peer| std::iter::once(&peer.private_key_file).chain(peer.preshared_key_file.as_ref()));
    for file in files {
        let Err(error) = read_key(file) else { continue };
        match &file.location {
            FileLocation::Path(path) if is_forbidden(path) => unseen.push(path.clone()),
            FileLocation::Credential(_) if matches!(error.problem, Problem::NoCredentials { .. }) => {
                unseen.push(file.location.to_string().into());
            }
            FileLocation::Path(_) | FileLocation::Credential(_) => errors.push(error),
        }
    }
    errors.dedup();
    unseen.dedup();
    if errors.is_empty() { Ok(Inspected { policy, unseen }) } else { Err(LoadError::Invalid(errors)) }
}

/// Whether a file is another user's alone, as a key file should be.
fn is_forbidden(path: &Path) -> bool {
    let is_open = |metadata: fs::Metadata| metadata.permissions().mode() & 0o077 != 0;
    let is_denied = fs::File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    is_denied && !fs::metadata(path).is_ok_and(is_open)
}

/// Reads a configuration alone; the files that it names are not opened.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn read(path: &Path) -> Result<Policy, LoadError> {
    parse(path, &text_of(path)?)
}

fn text_of(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path)
        .map_err(|error| LoadError::Unreadable { path: path.display().to_string(), error })
}

fn parse(path: &Path, text: &str) -> Result<Policy, LoadError> {
    policy::forwarder::parse(&Source { name: path, text }).map_err(LoadError::Invalid)
}

/// Peers that have a key of this end, or a secret key of a file that is beside the configuration.
fn misplaced(path: &Path, text: &str, policy: &Policy, keys: &[Keys]) -> Vec<ConfigError> {
    let peers: Vec<_> = policy.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
    let secrets = key_files::secrets_beside(path);
    let known = KnownKeys {
        own: keys.iter().map(|keys| *keys.private.public().as_bytes()).collect(),
        secrets: secrets.iter().map(|(path, key)| (path.as_path(), key.as_bytes())).collect(),
    };
    policy::misplaced_keys(&Source { name: path, text }, &peers, &known)
}

impl Loaded {
    /// What a tunnel's node must know of its only peer.
    ///
    /// # Errors
    /// In words, for a key that the configuration took and the tunnel does not.
    pub fn peer_config(&self, place: usize) -> Result<PeerConfig, String> {
        let (Some(peer), Some(keys)) = (self.policy.peers.get(place), self.keys.get(place)) else {
            return Err("no such peer".to_owned());
        };
        let public_key = tunnel::key::PublicKey::from_bytes(*peer.public_key.as_bytes())
            .map_err(|error| format!("{}: {error}", peer.name))?;
        let endpoint = match &peer.endpoint.host {
            Host::Address(address) => Some((*address, peer.endpoint.port).into()),
            Host::Name(_) => None,
        };
        Ok(PeerConfig {
            public_key,
            preshared_key: keys.preshared.clone(),
            endpoint,
            keepalive: peer.keepalive,
            allowed_ips: peer.allowed_ips.clone(),
            probe: peer.probe,
            initiate: true,
        })
    }
}

fn read_keys(peer: &Peer, errors: &mut Vec<ConfigError>) -> Option<Keys> {
    let private = read_key(&peer.private_key_file).map_err(|error| errors.push(error)).ok();
    let preshared = match &peer.preshared_key_file {
        Some(file) => Some(read_key(file).map_err(|error| errors.push(error)).ok()?),
        None => None,
    };
    Some(Keys {
        private: PrivateKey::from_bytes(*private?.as_bytes()),
        preshared: preshared.map(|key| PresharedKey::from_bytes(*key.as_bytes())),
    })
}

/// The text of a list file.
///
/// # Errors
/// From the system, and `InvalidData` for a file that is no text.
pub fn list_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_LIST).read_to_string(&mut text)?;
    Ok(text)
}

fn load_list(list: &mut List) -> Result<(), Vec<ConfigError>> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let path = list.file.path(credentials.as_deref()).map_err(|error| vec![error])?;
    let text = list_text(&path).map_err(|error| {
        let reason = error.to_string();
        vec![list.file.error(Problem::UnreadableFile { file: path.display().to_string(), reason })]
    })?;
    list.load(&Source { name: &path, text: &text })
}

fn read_key(file: &FileRef) -> Result<SecretKey, ConfigError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let path = file.path(credentials.as_deref())?;
    let name = path.display().to_string();
    let refused = |error: io::Error| {
        let problem = if error.kind() == io::ErrorKind::NotFound {
            Problem::MissingFile { file: name.clone() }
        } else {
            Problem::UnreadableFile { file: name.clone(), reason: error.to_string() }
        };
        file.error(problem)
    };
    let mut opened = fs::File::open(&path).map_err(refused)?;
    let mode = opened.metadata().map_err(refused)?.permissions().mode() & 0o7777;
    // systemd gives its credentials to the service's user alone by other means.
    if mode & 0o077 != 0 && matches!(file.location, FileLocation::Path(_)) {
        return Err(file.error(Problem::KeyFileMode { file: name, mode }));
    }
    // A key is one line; whatever is longer is none.
    let mut text = Zeroizing::new(String::with_capacity(256));
    opened.by_ref().take(255).read_to_string(&mut text).map_err(refused)?;
    SecretKey::parse(&text, file)
}

/// How to fix a configuration file that cannot be read, as the end of a sentence; empty where only the error says it.
pub(crate) fn fix_of(path: &str, error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        return format!(
            "; this user must be able to read it: chmod 0644 {path} (it holds no secret), and 0755 for its folder"
        );
    }
    if kind == io::ErrorKind::NotFound {
        "; name another file with --config".to_owned()
    } else {
        String::new()
    }
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";
    const PUBLIC: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_mend_and_code_5() {
        let folder = folder(0o644, "tcp");
        let error = load(&folder.path().join("forwarder.toml")).err().unwrap();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }

    #[test]
    fn a_missing_key_is_told_at_its_place_with_code_4() {
        let folder = folder(0o600, "tcp");
        fs::remove_file(folder.path().join("wroclaw.key")).unwrap();
        let error = load(&folder.path().join("forwarder.toml")).err().unwrap();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("forwarder.toml:3:"), "{error}");
    }

    #[test]
    fn a_good_configuration_comes_with_its_keys() {
        let folder = folder(0o600, "tcp");
        let loaded = load(&folder.path().join("forwarder.toml")).ok().unwrap();
        assert_eq!(loaded.keys.len(), 1);
        assert_eq!(loaded.peer_config(0).ok().unwrap().public_key.to_string(), PUBLIC);
    }

    #[test]
    fn an_unreadable_configuration_says_how_to_make_it_readable_and_not_to_name_it() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let denied = LoadError::Unreadable { path: "/etc/causeway/forwarder.toml".into(), error };
        assert_eq!(denied.exit_code(), 5);
        let said = denied.to_string();
        assert!(
            said.contains("chmod 0644 /etc/causeway/forwarder.toml") && !said.contains("--config"),
            "{said}"
        );
    }

    #[test]
    fn a_key_of_this_end_as_the_edges_is_refused_where_it_is_written() {
        let key: PrivateKey = KEY.parse().unwrap();
        for (edges, words) in
            [(key.public().to_string().as_str(), "own public key"), (KEY.trim(), "secret key that")]
        {
            let folder = folder(0o600, "tcp");
            let path = folder.path().join("forwarder.toml");
            let text = fs::read_to_string(&path).unwrap().replace(PUBLIC, edges);
            fs::write(&path, text).unwrap();
            let error = load(&path).err().unwrap();
            assert_eq!(error.exit_code(), 4);
            assert!(
                error.to_string().contains("forwarder.toml:6:14: ") && error.to_string().contains(words),
                "{error}"
            );
        }
    }

    fn folder(mode: u32, protocol: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"wroclaw.key\"\n\
             [[peer]]\nname = \"kyiv\"\npublic_key = \"{PUBLIC}\"\nendpoint = \"127.0.0.1:51820\"\n\
             [[inject]]\nname = \"web\"\nprotocol = [\"{protocol}\"]\nmatch = \"192.168.88.2:443\"\n\
             upstream = \"127.0.0.1:8443\"\n"
        );
        fs::write(folder.path().join("forwarder.toml"), text).unwrap();
        let key = folder.path().join("wroclaw.key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }
}
