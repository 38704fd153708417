//! From a configuration file to a policy with its keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::changes::Needs;
use daemon::files::{KeyFiles, LoadError, load_lists, misplaced_keys, read_key, text_of};
use policy::forwarder::{Peer, Policy};
use policy::{ConfigError, FileRef, Host, Source};
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use tunnel::node::PeerConfig;

use crate::edge_keys;
use crate::places::Environment;

/// The group of the daemon's user, as the unit has it.
const GROUP: &str = "causeway-forwarder";

/// A configuration that can be run: valid, with the keys it names.
pub struct Loaded {
    /// Its text; secrets are in other files.
    pub text: String,
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

/// Reads a configuration and every file that it names.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_text(path, text_of(path)?)
}

/// As [`load`], with `text` for the content of the file `path`; errors name the file `shown`.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn load_draft(path: &Path, shown: &Path, text: String) -> Result<Loaded, LoadError> {
    load_text(path, text).map_err(|error| error.shown_as(path, shown))
}

fn load_text(path: &Path, text: String) -> Result<Loaded, LoadError> {
    let mut policy = parse(path, &text)?;
    let mut errors = load_lists(&mut policy.lists);
    let keys: Vec<Keys> = policy.peers.iter().filter_map(|peer| read_keys(peer, &mut errors)).collect();
    let own: Vec<_> = keys.iter().map(|keys| keys.private.public()).collect();
    let current: Vec<_> = policy.peers.iter().map(|peer| Some(peer.public_key)).collect();
    let next: Vec<_> = policy.peers.iter().map(|peer| peer.next_public_key).collect();
    for (name, of_peers) in [("public_key", current), ("next_public_key", next)] {
        errors.extend(misplaced_keys(&Source { name: path, text: &text }, (name, &of_peers), &own));
    }
    if errors.is_empty() {
        Ok(Loaded { text, policy: Arc::new(policy), keys })
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
    let mut errors = load_lists(&mut policy.lists);
    let found = KeyFiles::inspect(&key_files(&policy));
    errors.extend(found.errors);
    if errors.is_empty() {
        Ok(Inspected { policy, unseen: found.unseen })
    } else {
        Err(LoadError::Invalid(errors))
    }
}

fn key_files(policy: &Policy) -> Vec<FileRef> {
    let of_peer = |peer: &Peer| [Some(peer.private_key_file.clone()), peer.preshared_key_file.clone()];
    policy.peers.iter().flat_map(of_peer).flatten().collect()
}

/// Keys and lists that a configuration names.
#[must_use]
pub fn files(policy: &Policy) -> Vec<FileRef> {
    let lists = policy.lists.iter().map(|list| list.file.clone());
    key_files(policy).into_iter().chain(lists).collect()
}

/// What a configuration of the origin names that the commands of changes need.
///
/// # Errors
/// The same, by the defaults, where the text is invalid.
pub fn needs(name: &Path, text: &str) -> Result<Needs, Needs> {
    let environment = Environment::of_process();
    let needs = |policy: Option<&Policy>| Needs {
        files: policy.map(files).unwrap_or_default(),
        state: environment.state_folder(policy),
        group: GROUP.to_owned(),
    };
    match policy::forwarder::parse(&Source { name, text }) {
        Ok(policy) => Ok(needs(Some(&policy))),
        Err(_) => Err(needs(None)),
    }
}

/// Reads a configuration alone; the files that it names are not opened.
///
/// # Errors
/// [`LoadError`], with everything that is wrong at once.
pub fn read(path: &Path) -> Result<Policy, LoadError> {
    parse(path, &text_of(path)?)
}

fn parse(path: &Path, text: &str) -> Result<Policy, LoadError> {
    policy::forwarder::parse(&Source { name: path, text }).map_err(LoadError::Invalid)
}

impl Loaded {
    /// The keys that an edge may have.
    ///
    /// # Errors
    /// As for [`peer_config`](Self::peer_config).
    pub fn edge_keys(&self, place: usize) -> Result<edge_keys::Keys, String> {
        let peer = self.policy.peers.get(place).ok_or("no such peer")?;
        let key = |key: policy::PublicKey| {
            PublicKey::from_bytes(*key.as_bytes()).map_err(|error| format!("{}: {error}", peer.name))
        };
        Ok(edge_keys::Keys {
            current: key(peer.public_key)?,
            next: peer.next_public_key.map(key).transpose()?,
        })
    }

    /// What a tunnel's node must know of its only peer, by its current key.
    ///
    /// # Errors
    /// In words, for a key that the configuration took and the tunnel does not.
    pub fn peer_config(&self, place: usize) -> Result<PeerConfig, String> {
        let (Some(peer), Some(keys)) = (self.policy.peers.get(place), self.keys.get(place)) else {
            return Err("no such peer".to_owned());
        };
        let public_key = self.edge_keys(place)?.current;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::{fs, io};

    use daemon::exit::Exit;

    use super::*;

    const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";
    const PUBLIC: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_fix_and_code_5() {
        let folder = folder(0o644, "tcp");
        let error = load(&folder.path().join("forwarder.toml")).err().unwrap();
        assert_eq!(error.exit(), Exit::Permission);
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }

    #[test]
    fn a_missing_key_is_reported_at_its_place_with_code_4() {
        let folder = folder(0o600, "tcp");
        fs::remove_file(folder.path().join("wroclaw.key")).unwrap();
        let error = load(&folder.path().join("forwarder.toml")).err().unwrap();
        assert_eq!(error.exit(), Exit::Invalid);
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
        assert_eq!(denied.exit(), Exit::Permission);
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
            assert_eq!(error.exit(), Exit::Invalid);
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
             [[service]]\nname = \"web\"\nprotocol = [\"{protocol}\"]\nmatch = \"192.168.88.2:443\"\n\
             upstream = \"127.0.0.1:8443\"\n"
        );
        fs::write(folder.path().join("forwarder.toml"), text).unwrap();
        let key = folder.path().join("wroclaw.key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }
}
