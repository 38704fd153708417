//! The own key pair of the machine that joins: the one it has, or a new one in a file of its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use daemon::exit::{Exit, ExitError};
use daemon::files::{Owner, keygen, read_key};
use policy::forwarder::Policy;
use policy::{FileLocation, FileRef, Position};
use tunnel::key::{PrivateKey, PublicKey};

use crate::start::forwarder_user;

/// Where a first key is, next to the configuration.
const FIRST: &str = "keys/forwarder.key";

/// The key of this machine.
pub(super) struct OwnKey {
    /// Its public half.
    pub(super) public: PublicKey,
    /// As the configuration is to name its file; `None` when it names it already.
    pub(super) file: Option<String>,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Where the one is that it takes the place of: it is new then.
    pub(super) old: Option<PathBuf>,
}

impl OwnKey {
    /// Removes a key that was made to take another one's place, when the attempt came to nothing.
    pub(super) fn forget(&self) {
        if self.old.is_some() {
            // What stays is never taken up.
            drop(fs::remove_file(&self.path));
            drop(fs::remove_file(self.path.with_extension("pub")));
        }
    }
}

/// The key for a machine without a configuration: that of an earlier attempt, unless it `is_new`.
///
/// # Errors
/// What the file system says, or the mode of the file.
pub(super) fn first(config: &Path, is_new: bool) -> Result<OwnKey, ExitError> {
    let (folder, owner) = (folder_of(config), forwarder_user());
    let usual = folder.join(FIRST);
    let old = (is_new && highest(&usual, &[]) > 0).then(|| usual.clone());
    let path = old.as_ref().map_or(usual, |old| next_name(old, &[]));
    let public = read_or_make(&path, owner)?;
    Ok(OwnKey { public, file: Some(written(&path, folder)), path, old })
}

/// The key that a configuration names.
///
/// # Errors
/// What is wrong with it.
pub(super) fn named(file: &FileRef) -> Result<OwnKey, ExitError> {
    Ok(OwnKey { public: read(file)?, file: None, path: path_of(file)?, old: None })
}

/// A new key next to the one that a configuration names, which stays. A file that is there may hold
/// a key that was retired, so that none is taken up.
///
/// # Errors
/// What the file system says.
pub(super) fn renewed(config: &Path, policy: &Policy, file: &FileRef) -> Result<OwnKey, ExitError> {
    let old = path_of(file)?;
    let files = policy.peers.iter().map(|peer| &peer.private_key_file);
    let named: Vec<PathBuf> =
        files.chain([&policy.interface.private_key_file]).filter_map(|file| path_of(file).ok()).collect();
    let path = next_name(&old, &named);
    let owner = fs::metadata(&old).ok().map(|metadata| Owner { uid: metadata.uid(), gid: metadata.gid() });
    let public = read_or_make(&path, owner)?;
    Ok(OwnKey { public, file: Some(written(&path, folder_of(config))), path, old: Some(old) })
}

/// As a configuration in `folder` names a file.
fn written(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// `forwarder-2.key` next to `forwarder.key`, and `forwarder-3.key` once that is there or `named`.
fn next_name(path: &Path, named: &[PathBuf]) -> PathBuf {
    let (name, number) = numbered(path);
    let next = highest(path, named).max(number).saturating_add(1);
    path.with_file_name(format!("{name}-{next}.key"))
}

/// The highest number of a key of this name, in the folder or `named`; 0 without any.
fn highest(path: &Path, named: &[PathBuf]) -> u32 {
    let (name, _) = numbered(path);
    let there = fs::read_dir(folder_of(path)).into_iter().flatten().flatten().map(|entry| entry.path());
    let keys = there.chain(named.iter().filter(|other| other.parent() == path.parent()).cloned());
    let numbers = keys.map(|key| numbered(&key)).filter(|(other, _)| *other == name);
    numbers.map(|(_, number)| number).max().unwrap_or(0)
}

/// The name of a key without its number, and that; the first one has none.
fn numbered(path: &Path) -> (String, u32) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once('-').map(|(name, number)| (name, number.parse::<u32>())) {
        Some((name, Ok(number))) => (name.to_owned(), number),
        Some((_, Err(_))) | None => (stem.into_owned(), 1),
    }
}

/// The public half of the key in a file, which is made for `owner` if it is not there.
///
/// # Errors
/// What the file system says, or the mode of the file.
pub(crate) fn read_or_make(path: &Path, owner: Option<Owner>) -> Result<PublicKey, ExitError> {
    let at = Position { file: path.into(), line: 1, column: 1 };
    if path.exists() {
        return read(&FileRef { location: FileLocation::Path(path.to_owned()), at });
    }
    let (folder, name) = (folder_of(path), path.file_stem().unwrap_or_default().to_string_lossy());
    let owner = owner.filter(|_| rustix::process::geteuid().is_root());
    keygen(folder, &name, owner).map_err(|error| {
        let is_taken = error.kind() == io::ErrorKind::AlreadyExists;
        let exit = if is_taken { Exit::Conflict } else { Exit::of(&error) };
        ExitError::new(exit, format!("{}: {error}", folder.display()))
    })
}

fn read(file: &FileRef) -> Result<PublicKey, ExitError> {
    let private =
        read_key(file).map_err(|error| ExitError::new(Exit::from_code(error.exit_code()), error))?;
    Ok(PrivateKey::from_bytes(*private.as_bytes()).public())
}

fn path_of(file: &FileRef) -> Result<PathBuf, ExitError> {
    match &file.location {
        FileLocation::Path(path) => Ok(path.clone()),
        FileLocation::Credential(name) => {
            let fix =
                "only the daemon's unit has it; name a file as private_key_file to pair by this command";
            Err(ExitError::new(
                Exit::Permission,
                format!("{}: the key is the credential {name}: {fix}", file.at),
            ))
        }
    }
}

/// A user of a daemon, where this machine has it.
#[cfg(target_os = "linux")]
pub(crate) fn daemon_user(name: &str) -> Option<Owner> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Owner::find(name, &passwd)
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use policy::Source;

    use super::*;

    #[test]
    fn a_first_key_is_private_and_stays_the_same_when_joining_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let key = first(&config, false).ok().unwrap();
        assert_eq!(fs::metadata(&key.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(key.file.as_deref(), Some(FIRST));
        assert_eq!(first(&config, false).ok().unwrap().public, key.public);

        fs::set_permissions(&key.path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(first(&config, false).err().unwrap().exit, Exit::Permission);
    }

    #[test]
    fn a_renewed_key_is_in_a_file_of_its_own_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let old = first(&config, false).ok().unwrap();
        let policy = policy(&config, FIRST);
        let renew =
            |policy: &Policy| renewed(&config, policy, &policy.interface.private_key_file).ok().unwrap();
        let new = renew(&policy);
        assert_eq!(new.file.as_deref(), Some("keys/forwarder-2.key"));
        assert!(new.public != old.public && old.path.exists());
        let policy = self::policy(&config, "keys/forwarder-2.key");
        let third = renew(&policy);
        assert_eq!(third.file.as_deref(), Some("keys/forwarder-3.key"));
        assert_eq!(named(&policy.interface.private_key_file).ok().unwrap().public, new.public);

        third.forget();
        assert!(!third.path.exists() && new.path.exists(), "an attempt that came to nothing leaves nothing");
        let again = renew(&policy);
        assert!(again.file.as_deref() == Some("keys/forwarder-3.key") && again.public != third.public);
        named(&policy.interface.private_key_file).ok().unwrap().forget();
        assert!(new.path.exists(), "a key that was there stays");
    }

    #[test]
    fn a_retired_key_never_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let first = first(&config, false).ok().unwrap();
        let old = policy(&config, FIRST);
        let renew = |policy: &Policy| renewed(&config, policy, &old.interface.private_key_file).ok().unwrap();
        let leaked = renew(&old);
        // Another edge that still has the first key is renewed, or the leaked one is named no more.
        let new = renew(&old);
        assert_eq!(new.file.as_deref(), Some("keys/forwarder-3.key"));
        assert!(![first.public, leaked.public].contains(&new.public));
        fs::remove_file(&leaked.path).unwrap();
        assert_eq!(renew(&old).file.as_deref(), Some("keys/forwarder-4.key"));
        let elsewhere = policy(&config, "keys/forwarder-9.key");
        assert_eq!(renew(&elsewhere).file.as_deref(), Some("keys/forwarder-10.key"));
    }

    #[test]
    fn a_new_key_without_a_configuration_is_none_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let made = first(&config, true).ok().unwrap();
        assert_eq!((made.file.as_deref(), &made.old), (Some(FIRST), &None), "there was none");
        let new = first(&config, true).ok().unwrap();
        assert_eq!(new.file.as_deref(), Some("keys/forwarder-2.key"));
        assert!(new.public != made.public && new.old == Some(made.path));
        assert_eq!(first(&config, true).ok().unwrap().file.as_deref(), Some("keys/forwarder-3.key"));
    }

    fn policy(config: &Path, key: &str) -> Policy {
        let edge = PrivateKey::from_bytes([1; 32]).public();
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/24\"]\nprivate_key_file = \"{key}\"\n\
             [[peer]]\nname = \"kyiv\"\npublic_key = \"{edge}\"\nendpoint = \"192.0.2.2:51820\"\n"
        );
        policy::forwarder::parse(&Source { name: config, text: &text }).unwrap()
    }
}
