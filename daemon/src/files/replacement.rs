//! A file that is either old or new, whose new content is on the disk before anything depends on
//! it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Owner, group and mode of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The owner; this user's own when `None`.
    pub owner: Option<u32>,
    /// The group; this user's own when `None`.
    pub group: Option<u32>,
    /// Permissions.
    pub mode: u32,
}

impl Target {
    /// This user's own, with these permissions.
    #[must_use]
    pub const fn own(mode: u32) -> Self {
        Self { owner: None, group: None, mode }
    }

    /// As the file at `path` is.
    ///
    /// # Errors
    /// When there is none.
    pub fn like(path: &Path) -> io::Result<Self> {
        let old = fs::metadata(path)?;
        let mode = old.permissions().mode() & 0o7777;
        Ok(Self { owner: Some(old.uid()), group: Some(old.gid()), mode })
    }
}

/// A new file next to an old one, ready to take its place; removed when it is dropped.
#[derive(Debug)]
pub struct Replacement {
    file: NamedTempFile,
    path: PathBuf,
}

impl Replacement {
    /// Makes a file next to `path`, under a name that no other has, and writes what it is to hold;
    /// the disk keeps it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn prepare(path: &Path, target: Target, contents: &[u8]) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let mut file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(SUFFIX)
            .tempfile_in(folder_of(path))?;
        set_attributes(file.as_file(), target)?;
        file.write_all(contents)?;
        file.as_file().sync_all()?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Whose place it takes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a place where no file is, in one step.
    ///
    /// # Errors
    /// `AlreadyExists` where one is; else whatever the file system says.
    pub fn finish_new(self) -> io::Result<()> {
        self.file.persist_noclobber(&self.path)?;
        File::open(folder_of(&self.path))?.sync_all()
    }

    /// Takes the old file's place in one step.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn finish(self) -> io::Result<()> {
        self.file.persist(&self.path)?;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

fn set_attributes(file: &File, target: Target) -> io::Result<()> {
    let made = file.metadata()?;
    let owner = target.owner.filter(|owner| *owner != made.uid());
    let group = target.group.filter(|group| *group != made.gid());
    if owner.is_some() || group.is_some() {
        let given = fchown(file, owner, group);
        // For its own files root only tries to set the group: without the capability, as in a
        // container, they stay as they are.
        if target.owner.is_some() {
            given?;
        }
    }
    file.set_permissions(fs::Permissions::from_mode(target.mode))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How the names of files end that are not finished.
const SUFFIX: &str = ".new";

/// Removes what killed programs have left next to the files whose names begin with `name`; no other
/// program may be writing there.
pub fn sweep(folder: &Path, name: &str) {
    let prefix = format!(".{name}");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        if found.starts_with(&prefix) && found.ends_with(SUFFIX) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_keeps_the_mode_and_leaves_nothing_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let prepare = |text: &[u8]| Replacement::prepare(&path, Target::like(&path).unwrap(), text).unwrap();

        drop(prepare(b"never"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        prepare(b"new").finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        let prepare = |text: &[u8]| Replacement::prepare(&path, Target::own(0o644), text).unwrap();
        prepare(b"first").finish_new().unwrap();
        let refused = prepare(b"second").finish_new().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_replacements_of_one_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "old").unwrap();
        let prepare = |text: &[u8]| Replacement::prepare(&path, Target::like(&path).unwrap(), text).unwrap();
        let first = prepare(b"first");
        // The second one never ends, as when it is killed.
        std::mem::forget(prepare(b""));
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    }
}
