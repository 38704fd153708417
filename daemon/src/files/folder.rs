//! State folders: one daemon each.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::replacement::sweep;
use crate::exit::{Exit, ExitError};

/// The file's name in a state folder.
const NAME: &str = "lock";

/// Held while the daemon runs: a second daemon with the same state would overwrite it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// How to fix a failed write: what helps against a full disk, or else what would help `otherwise`.
#[must_use]
pub fn fix_of_write(error: &io::Error, otherwise: &'static str) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on its disk",
        _ => otherwise,
    }
}

/// The error of something that needs a state folder which cannot be written.
#[must_use]
pub fn unwritten(error: &io::Error) -> ExitError {
    let fix = fix_of_write(error, "give the daemon's user permission");
    ExitError::new(Exit::of(error), format!("the state folder cannot be written: {error}; {fix}"))
}

/// Makes a state folder (mode 0700) where it is missing.
///
/// # Errors
/// From the system.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a folder that others may look into, with those above it, where it is missing; as root
/// whatever the umask is.
///
/// # Errors
/// From the system.
pub fn make_open_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_open_folder(parent)?;
    }
    fs::DirBuilder::new().mode(0o755).create(folder)?;
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

impl Lock {
    /// Claims the folder for one daemon; `None` when another holds it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(folder.join(NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes the folder and claims it for the daemon `name`.
    ///
    /// # Errors
    /// [`Exit::Permission`] for a folder that this user may not write, [`Exit::Conflict`] when
    /// another daemon holds it.
    pub fn claim(folder: &Path, name: &str) -> Result<Self, ExitError> {
        let shown = folder.display();
        let refused = |error: io::Error| {
            let fix = fix_of_write(&error, "give the daemon's user the folder, or set [state] directory");
            ExitError::new(Exit::of(&error), format!("the state folder {shown}: {error}; {fix}"))
        };
        make_folder(folder).map_err(refused)?;
        let lock = Self::take(folder).map_err(refused)?.ok_or_else(|| {
            ExitError::new(Exit::Conflict, format!("another {name} runs with the state folder {shown}"))
        })?;
        sweep(folder, "");
        Ok(lock)
    }

    /// The claim of another process of the same daemon, which it passed to this one.
    #[must_use]
    pub fn passed(descriptor: OwnedFd) -> Self {
        Self { file: descriptor.into() }
    }

    /// The claim, to be passed to another process of the same daemon: the folder is held until both
    /// have ended.
    ///
    /// # Errors
    /// From the system.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Whether a daemon holds the folder now.
    #[must_use]
    pub fn is_held(folder: &Path) -> bool {
        // A pipe in its place is not waited for.
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(folder.join(NAME));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_has_one_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let lock = Lock::claim(&folder, "gateway").unwrap();
        let refused = Lock::claim(&folder, "gateway").unwrap_err();
        assert_eq!(refused.exit, Exit::Conflict);
        assert!(Lock::is_held(&folder));
        drop(lock);
        assert!(!Lock::is_held(&folder));
    }

    #[test]
    fn a_claim_that_is_passed_on_holds_until_both_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::claim(folder.path(), "forwarder").unwrap();
        let passed = Lock::passed(lock.descriptor().unwrap());
        drop(lock);
        assert!(Lock::is_held(folder.path()));
        drop(passed);
        assert!(!Lock::is_held(folder.path()));
    }

    #[test]
    fn a_start_removes_what_a_killed_daemon_was_writing() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".clock.json.a1b2c3.new");
        fs::write(&left, "half").unwrap();
        fs::write(folder.path().join("clock.json"), "{}").unwrap();
        let _lock = Lock::claim(folder.path(), "gateway").unwrap();
        assert!(!left.exists() && folder.path().join("clock.json").exists());
    }

    #[test]
    fn a_full_disk_is_not_fixed_by_permissions() {
        let full = unwritten(&io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit, Exit::Failed);
        assert!(full.message.ends_with("free space on its disk"), "{full}");
        let denied = unwritten(&io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.exit, Exit::Permission);
        assert!(denied.message.ends_with("give the daemon's user permission"), "{denied}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_fix() {
        let refused = Lock::claim(Path::new("/proc/causeway"), "forwarder").unwrap_err();
        assert!(refused.message.contains("/proc/causeway") && refused.message.contains("[state] directory"));
    }
}
