//! What the operator's commands keep next to the daemon's own state, where the daemon may read and
//! never writes.
//!
//! The operator is root, or, for a forwarder that runs as the user who owns its configuration, that
//! user.
//!
//! | file | holds |
//! |---|---|
//! | `current.toml` | the text that root last put in force |
//! | `previous.toml` | the text before it, for `gatewayctl rollback` |
//! | `pending.json` | a change that waits for `gatewayctl confirm`, and the text before it |
//! | `draft.toml` | the text that is being applied right now; stays when the command was killed in the middle |
//! | `went-back.json` | that an upgrade failed, and the program of before runs again |
//! | `earlier/`, `failed/` | programs that `earlier-version` keeps; nothing here reads them |
//! | `lock` | held by a command for its whole length |

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::pending::Pending;
use super::went_back::WentBack;
use crate::exit::{Exit, ExitError};
use crate::files::{Replacement, Target, fix_of_write, read, sweep};

/// Mode of the folder: the daemon's group may read.
const FOLDER_MODE: u32 = 0o750;
/// Mode of the files in it.
const FILE_MODE: u32 = 0o640;

/// The folder, for whoever reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorState {
    folder: PathBuf,
    trusted: Trusted,
}

/// Whose files are the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// Any user's but the daemon's own, since the daemon could be compromised.
    OthersOnly,
    /// Also the daemon's own: it runs as the operator, who owns its configuration.
    OwnToo,
}

impl Trusted {
    /// Also the daemon's own, if the configuration file is.
    #[must_use]
    pub fn by_owner_of(config: &Path) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let is_own = fs::metadata(config).is_ok_and(|metadata| metadata.uid() == own);
        if is_own { Self::OwnToo } else { Self::OthersOnly }
    }
}

/// The folder while one of root's commands runs; no other command runs meanwhile.
#[derive(Debug)]
pub struct Locked {
    state: OperatorState,
    group: u32,
    _lock: File,
}

impl OperatorState {
    /// The folder next to the daemon's state folder: `/var/lib/causeway-root` for
    /// `/var/lib/causeway`.
    #[must_use]
    pub fn next_to(state_directory: &Path, trusted: Trusted) -> Self {
        let mut name = state_directory.file_name().map_or_else(|| OsString::from("causeway"), OsString::from);
        name.push("-root");
        Self { folder: state_directory.with_file_name(name), trusted }
    }

    /// The folder at `folder`.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), trusted: Trusted::OthersOnly }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The change that waits for its confirmation, as root's command wrote it.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        serde_json::from_str(&self.text("pending.json")?).ok()
    }

    /// That an upgrade failed and the program of before runs again, until the next upgrade.
    #[must_use]
    pub fn went_back(&self) -> Option<WentBack> {
        WentBack::parse(&self.text("went-back.json")?)
    }

    /// Every text in the folder.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let files = ["draft.toml", "current.toml", "previous.toml"];
        let mut texts: Vec<String> = files.into_iter().filter_map(|name| self.text(name)).collect();
        texts.extend(self.pending().into_iter().flat_map(|pending| [pending.text, pending.previous]));
        texts
    }

    /// A file that only root may have written.
    fn text(&self, name: &str) -> Option<String> {
        let path = self.folder.join(name);
        let trusts = |path: &Path| match self.trusted {
            Trusted::OthersOnly => is_trusted(path),
            Trusted::OwnToo => is_private(path),
        };
        if !trusts(&self.folder) || !trusts(&path) {
            return None;
        }
        String::from_utf8(read(&path).ok()??).ok()
    }

    /// Claims the folder for one command, waiting for another one; makes it when it is missing.
    ///
    /// `group` may read what is in it, if this process may set that.
    ///
    /// # Errors
    /// [`Exit::Permission`] when this user may not, or the folder is another's.
    pub fn lock(self, group: u32) -> Result<Locked, ExitError> {
        self.make(group).map_err(|error| self.refused(&error))?;
        let metadata = fs::symlink_metadata(&self.folder).map_err(|error| self.refused(&error))?;
        let own = rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            let folder = self.folder.display();
            let fix = "it must be a folder that only root may write; move it away and try again";
            return Err(ExitError::new(Exit::Permission, format!("{folder}: {fix}")));
        }
        let lock = self.claim().map_err(|error| self.refused(&error))?;
        sweep(&self.folder, "");
        Ok(Locked { state: self, group, _lock: lock })
    }

    fn make(&self, group: u32) -> io::Result<()> {
        match DirBuilder::new().mode(FOLDER_MODE).create(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(FOLDER_MODE))?;
        // In a container without the capability the daemon is the same user, and needs no group.
        drop(chown(&self.folder, None, Some(group)));
        Ok(())
    }

    fn claim(&self) -> io::Result<File> {
        let mut options = File::options();
        options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW);
        let file = options.open(self.folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // There is no other place to report a failed write.
                drop(writeln!(
                    io::stderr().lock(),
                    "another command is changing the configuration; waiting for it"
                ));
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(file)
    }

    fn refused(&self, error: &io::Error) -> ExitError {
        let fix = fix_of_write(error, "run it as root; in a container mount a volume there");
        ExitError::new(Exit::of(error), format!("{}: {error}; {fix}", self.folder.display()))
    }
}

impl Locked {
    /// The folder.
    #[must_use]
    pub const fn state(&self) -> &OperatorState {
        &self.state
    }

    /// The text that root last put in force.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.state.text("current.toml")
    }

    /// The text before it.
    #[must_use]
    pub fn previous(&self) -> Option<String> {
        self.state.text("previous.toml")
    }

    /// Whether a command was killed while it applied a text.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.state.text("draft.toml").is_some()
    }

    /// Prepares the text that is in force once the command has ended.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn prepare_current(&self, text: &str) -> Result<Option<Replacement>, ExitError> {
        self.prepare("current.toml", text, self.current())
    }

    /// Prepares the text that a rollback then leads to.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn prepare_previous(&self, text: &str) -> Result<Option<Replacement>, ExitError> {
        self.prepare("previous.toml", text, self.previous())
    }

    fn prepare(&self, name: &str, text: &str, now: Option<String>) -> Result<Option<Replacement>, ExitError> {
        if now.as_deref() == Some(text) { Ok(None) } else { self.replacement(name, text).map(Some) }
    }

    /// Keeps the text that is about to be applied.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_draft(&self, text: &str) -> Result<(), ExitError> {
        finish_one(self.replacement("draft.toml", text)?)
    }

    /// Forgets it: the command has ended, well or not.
    pub fn forget_draft(&self) {
        self.forget("draft.toml");
    }

    /// Keeps a change that waits for its confirmation.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_pending(&self, pending: &Pending) -> Result<(), ExitError> {
        let text = serde_json::to_string(pending).map_err(|error| ExitError::new(Exit::Failed, error))?;
        finish_one(self.replacement("pending.json", &text)?)
    }

    /// Forgets it: it was confirmed, rolled back or never begun.
    pub fn forget_pending(&self) {
        self.forget("pending.json");
    }

    fn replacement(&self, name: &str, text: &str) -> Result<Replacement, ExitError> {
        let target = Target { group: Some(self.group), ..Target::own(FILE_MODE) };
        let path = self.state.folder.join(name);
        Replacement::prepare(&path, target, text.as_bytes()).map_err(|error| write_error(&path, &error))
    }

    /// A file that could not be removed does no harm: its change is settled in the daemon's own
    /// state.
    fn forget(&self, name: &str) {
        drop(fs::remove_file(self.state.folder.join(name)));
        drop(File::open(&self.state.folder).and_then(|folder| folder.sync_all()));
    }
}

/// Has a prepared file take its place.
pub(super) fn finish_one(ready: Replacement) -> Result<(), ExitError> {
    let path = ready.path().to_owned();
    ready.finish().map_err(|error| write_error(&path, &error))
}

/// The error of a command whose write of `path` failed.
pub(super) fn write_error(path: &Path, error: &io::Error) -> ExitError {
    let fix = fix_of_write(error, "it is written by root or its owner");
    ExitError::new(Exit::of(error), format!("{}: {error}; {fix}", path.display()))
}

/// Whether no one but its owner may write it.
fn is_private(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o022 == 0)
}

/// Whether only its owner may write it, and the owner is root or another user than this process's.
#[must_use]
pub fn is_trusted(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let fits =
        |metadata: Metadata| metadata.mode() & 0o022 == 0 && (metadata.uid() == 0 || metadata.uid() != own);
    fs::metadata(path).is_ok_and(fits)
}

/// Whether root owns it, and no other user may write it.
#[must_use]
pub fn is_only_roots(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_lies_next_to_the_daemons_own() {
        let folder_of =
            |path: &str| OperatorState::next_to(Path::new(path), Trusted::OthersOnly).folder().to_owned();
        assert_eq!(folder_of("/var/lib/causeway"), Path::new("/var/lib/causeway-root"));
        assert_eq!(folder_of("/srv/edge/state"), Path::new("/srv/edge/state-root"));
    }

    #[test]
    fn a_text_that_others_may_write_is_none() {
        let (folder, root) = made();
        let locked = root.clone().lock(group(&folder)).unwrap();
        locked.keep_draft("x = 1").unwrap();
        assert_eq!(root.texts(), ["x = 1"]);
        fs::set_permissions(root.folder().join("draft.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(root.texts().is_empty());
        locked.keep_draft("x = 1").unwrap();
        fs::set_permissions(root.folder(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(root.texts().is_empty());
    }

    #[test]
    fn a_folder_that_others_may_write_and_a_link_are_refused() {
        let (folder, root) = made();
        fs::create_dir(root.folder()).unwrap();
        fs::set_permissions(root.folder(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(root.clone().lock(group(&folder)).unwrap_err().exit, Exit::Permission);
        fs::remove_dir(root.folder()).unwrap();
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), root.folder()).unwrap();
        assert_eq!(root.clone().lock(group(&folder)).unwrap_err().exit, Exit::Permission);
    }

    #[test]
    fn a_second_command_waits_until_the_first_has_ended() {
        let (folder, root) = made();
        let first = root.clone().lock(group(&folder)).unwrap();
        let (gid, second) = (group(&folder), root.clone());
        let waiting = std::thread::spawn(move || second.lock(gid).unwrap().current());
        first.prepare_current("done").unwrap().unwrap().finish().unwrap();
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.join().unwrap().as_deref(), Some("done"));
    }

    #[test]
    fn what_is_kept_is_private_to_root_and_the_daemons_group() {
        let (folder, root) = made();
        let locked = root.clone().lock(group(&folder)).unwrap();
        locked.prepare_previous("old").unwrap().unwrap().finish().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(root.folder()), FOLDER_MODE);
        assert_eq!(mode(&root.folder().join("previous.toml")), FILE_MODE);
        assert!(locked.prepare_previous("old").unwrap().is_none(), "the same text is not written again");
    }

    fn made() -> (tempfile::TempDir, OperatorState) {
        let folder = tempfile::tempdir().unwrap();
        let root = OperatorState::next_to(&folder.path().join("state"), Trusted::OthersOnly);
        (folder, root)
    }

    fn group(folder: &tempfile::TempDir) -> u32 {
        fs::metadata(folder.path()).unwrap().gid()
    }
}
