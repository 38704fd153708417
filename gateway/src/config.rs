//! Reads the configuration and the files it names: keys, whose mode must be private, and prefix
//! lists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use daemon::changes::Needs;
use daemon::files::{KeyFiles, LoadError, load_lists, misplaced_keys, read_key, text_of};
use policy::gateway::{self, Policy};
use policy::{ConfigError, FileLocation, SecretKey, Source};
use tunnel::io::key_files;
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};

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

/// Reads the configuration, its lists and its keys.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let text = text_of(path)?;
    load_text(path, text)
}

/// Takes `text` for the content of the file `path`, which need not exist, and reads its lists and
/// keys.
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

/// Peers whose public key cannot be right.
fn misplaced(path: &Path, text: &str, policy: &Policy, own: Option<PublicKey>) -> Vec<ConfigError> {
    let peers: Vec<_> = policy.peers.iter().map(|peer| Some(peer.public_key)).collect();
    misplaced_keys(&Source { name: path, text }, ("public_key", &peers), own.as_slice())
}

/// As [`load_text`], but errors name the file `shown`, in which the operator wrote it.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load_draft(path: &Path, shown: &Path, text: String) -> Result<Config, LoadError> {
    load_text(path, text).map_err(|error| error.shown_as(path, shown))
}

/// Reads the configuration and its lists, but no secret.
///
/// # Errors
/// [`LoadError`], with every error at once.
pub fn load_policy(path: &Path) -> Result<Policy, LoadError> {
    policy_of(path, &text_of(path)?)
}

fn policy_of(path: &Path, text: &str) -> Result<Policy, LoadError> {
    let mut policy = gateway::parse(&Source { name: path, text }).map_err(LoadError::Invalid)?;
    let errors = load_lists(&mut policy.lists);
    if errors.is_empty() { Ok(policy) } else { Err(LoadError::Invalid(errors)) }
}

fn read_keys(policy: &Policy) -> Result<Keys, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut keep = |result: Result<SecretKey, ConfigError>| result.map_err(|error| errors.push(error)).ok();
    let private = keep(read_key(&policy.interface.private_key_file));
    let mut preshared = BTreeMap::new();
    for peer in &policy.peers {
        let key = peer.preshared_key_file.as_ref().and_then(|file| keep(read_key(file)));
        preshared.extend(key.map(|key| (peer.public_key, PresharedKey::from_bytes(*key.as_bytes()))));
    }
    match private {
        Some(private) if errors.is_empty() => {
            Ok(Keys { private: PrivateKey::from_bytes(*private.as_bytes()), preshared })
        }
        _ => Err(errors),
    }
}

/// What is wrong with the keys as far as this user may look: `check` needs no privilege.
#[must_use]
pub fn inspect_keys(path: &Path, policy: &Policy) -> KeyFiles {
    let own = &policy.interface.private_key_file;
    let preshared = policy.peers.iter().filter_map(|peer| peer.preshared_key_file.as_ref());
    let mut found = KeyFiles::inspect(std::iter::once(own).chain(preshared));
    let public = read_key(own).ok().map(|key| PrivateKey::from_bytes(*key.as_bytes()).public());
    let public = public.or_else(|| match &own.location {
        FileLocation::Path(private) => key_files::public_key_next_to(private),
        FileLocation::Credential(_) => None,
    });
    found.errors.extend(text_of(path).map(|text| misplaced(path, &text, policy, public)).unwrap_or_default());
    found
}

/// What a configuration of the edge names that the commands of changes need.
///
/// # Errors
/// The same, by the defaults, where the text is invalid.
pub fn needs(name: &Path, text: &str) -> Result<Needs, Needs> {
    let of_policy = |policy: Policy| Needs {
        files: policy.files().cloned().collect(),
        state: policy.state_directory,
        group: policy.control.group,
    };
    gateway::parse(&Source { name, text }).map(of_policy).map_err(|_| Needs {
        files: Vec::new(),
        state: "/var/lib/causeway".into(),
        group: "causeway".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use daemon::exit::{Exit, ExitError};
    use policy::Problem;

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
    fn a_key_that_others_may_read_is_refused_with_the_fix() {
        let folder = written(KEY, 0o644);
        let stop = ExitError::from(load(&folder.path().join("gateway.toml")).err().unwrap());
        assert_eq!(stop.exit, Exit::Permission);
        assert!(stop.message.contains("gateway.toml:6:"), "{}", stop.message);
        assert!(stop.message.contains("chmod 0600"), "{}", stop.message);
    }

    #[test]
    fn a_missing_key_is_an_error_where_it_is_named() {
        let folder = written(KEY, 0o600);
        fs::remove_file(folder.path().join("kyiv.key")).unwrap();
        let stop = ExitError::from(load(&folder.path().join("gateway.toml")).err().unwrap());
        assert_eq!(stop.exit, Exit::Invalid);
        assert!(stop.message.contains("gateway.toml:6:"), "{}", stop.message);
    }

    #[test]
    fn a_malformed_key_is_not_repeated_in_the_message() {
        let folder = written("c2VjcmV0IHNlY3JldA==", 0o600);
        let stop = ExitError::from(load(&folder.path().join("gateway.toml")).err().unwrap());
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
            let stop = ExitError::from(load(&path).err().unwrap());
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
    fn a_user_who_may_not_read_the_private_key_knows_it_by_the_public_one_next_to_it() {
        let folder = written("no key at all", 0o600);
        let path = folder.path().join("gateway.toml");
        fs::write(folder.path().join("kyiv.pub"), "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=\n").unwrap();
        let errors = inspect_keys(&path, &load_policy(&path).unwrap()).errors;
        assert!(errors.iter().any(|error| error.problem == Problem::OwnPublicKey), "{errors:?}");
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
