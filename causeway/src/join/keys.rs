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

/// Where a first key is, next to the configuration.
const FIRST: &str = "keys/forwarder.key";
/// The daemon's user on Linux.
const USER: &str = "causeway-forwarder";

/// The key of this machine.
pub(super) struct OwnKey {
    /// Its public half.
    pub(super) public: PublicKey,
    /// As the configuration is to name its file; `None` when it names it already.
    pub(super) file: Option<String>,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Where the one is that it takes the place of.
    pub(super) old: Option<PathBuf>,
}

/// The key for a machine without a configuration: that of an earlier attempt, or a new one.
///
/// # Errors
/// What the file system says, or the mode of the file.
pub(super) fn first(config: &Path) -> Result<OwnKey, ExitError> {
    let path = folder_of(config).join(FIRST);
    let owner = daemon_user(USER);
    let public = read_or_make(&path, owner)?;
    Ok(OwnKey { public, file: Some(FIRST.to_owned()), path, old: None })
}

/// The key that a configuration names.
///
/// # Errors
/// What is wrong with it.
pub(super) fn named(file: &FileRef) -> Result<OwnKey, ExitError> {
    Ok(OwnKey { public: read(file)?, file: None, path: path_of(file)?, old: None })
}

/// A new key next to the one that a configuration names, which stays: that of an earlier attempt
/// that came to nothing, or one that is made now.
///
/// # Errors
/// What the file system says.
pub(super) fn renewed(config: &Path, policy: &Policy, file: &FileRef) -> Result<OwnKey, ExitError> {
    let old = path_of(file)?;
    let is_named = |path: &Path| {
        let same = |other: &FileRef| matches!(&other.location, FileLocation::Path(other) if other == path);
        policy.peers.iter().any(|peer| same(&peer.private_key_file))
            || same(&policy.interface.private_key_file)
    };
    let mut path = next_name(&old);
    while is_named(&path) {
        path = next_name(&path);
    }
    let owner = fs::metadata(&old).ok().map(|metadata| Owner { uid: metadata.uid(), gid: metadata.gid() });
    let public = read_or_make(&path, owner)?;
    let written = path.strip_prefix(folder_of(config)).unwrap_or(&path).display().to_string();
    Ok(OwnKey { public, file: Some(written), path, old: Some(old) })
}

/// `forwarder-2.key` for `forwarder.key`, `forwarder-3.key` for that.
fn next_name(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let (name, number) = match stem.rsplit_once('-').map(|(name, number)| (name, number.parse::<u32>())) {
        Some((name, Ok(number))) => (name.to_owned(), number),
        Some((_, Err(_))) | None => (stem.into_owned(), 1),
    };
    path.with_file_name(format!("{name}-{}.key", number.saturating_add(1)))
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
        let key = first(&config).ok().unwrap();
        assert_eq!(fs::metadata(&key.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(key.file.as_deref(), Some(FIRST));
        assert_eq!(first(&config).ok().unwrap().public, key.public);

        fs::set_permissions(&key.path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(first(&config).err().unwrap().exit, Exit::Permission);
    }

    #[test]
    fn a_renewed_key_is_in_a_file_of_its_own_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let old = first(&config).ok().unwrap();
        let policy = policy(&config, FIRST);
        let renew =
            |policy: &Policy| renewed(&config, policy, &policy.interface.private_key_file).ok().unwrap();
        let new = renew(&policy);
        assert_eq!(new.file.as_deref(), Some("keys/forwarder-2.key"));
        assert!(new.public != old.public && old.path.exists());
        assert_eq!(renew(&policy).public, new.public, "an attempt that came to nothing is taken up again");
        let policy = self::policy(&config, "keys/forwarder-2.key");
        assert_eq!(
            renew(&policy).file.as_deref(),
            Some("keys/forwarder-3.key"),
            "an old key never comes back"
        );
        assert_eq!(named(&policy.interface.private_key_file).ok().unwrap().public, new.public);
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
