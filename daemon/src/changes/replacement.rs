//! A file that is either old or new, whose new content is on the disk before anything depends on it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, ExitError};

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

/// A new file next to an old one, ready to take its place; removed when it is dropped.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Target {
    /// As the file at `path` is.
    ///
    /// # Errors
    /// When there is none.
    pub fn like(path: &Path) -> Result<Self, ExitError> {
        let old = fs::metadata(path).map_err(|error| trouble(path, &error))?;
        let mode = old.permissions().mode() & 0o7777;
        Ok(Self { owner: Some(old.uid()), group: Some(old.gid()), mode })
    }
}

impl Replacement {
    /// Makes an empty file next to `path`, under a name that no other has.
    ///
    /// # Errors
    /// [`Exit::Permission`] when this user may not.
    pub fn begin(path: &Path, target: &Target) -> Result<Self, ExitError> {
        let stop = |error: io::Error| trouble(path, &error);
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|error| stop(io::Error::other(error)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{:016x}.new", u64::from_ne_bytes(number)));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary).map_err(stop)?;
        let replacement = Self { file, temporary, path: path.to_owned() };
        replacement.set_attributes(target).map_err(stop)?;
        Ok(replacement)
    }

    fn set_attributes(&self, target: &Target) -> io::Result<()> {
        let made = self.file.metadata()?;
        let owner = target.owner.filter(|owner| *owner != made.uid());
        let group = target.group.filter(|group| *group != made.gid());
        if owner.is_some() || group.is_some() {
            let given = fchown(&self.file, owner, group);
            // For its own files root only tries to set the group: without the capability, as in a
            // container, they stay as they are.
            if target.owner.is_some() {
                given?;
            }
        }
        self.file.set_permissions(fs::Permissions::from_mode(target.mode))
    }

    /// Writes what it is to hold, and has the disk keep it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn holding(mut self, text: &str) -> Result<Self, ExitError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| trouble(&self.path, &error))?;
        Ok(self)
    }

    /// Takes the old file's place in one step.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn finish(self) -> Result<(), ExitError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let renamed = fs::rename(&self.temporary, &self.path);
        renamed.and_then(|()| File::open(folder)?.sync_all()).map_err(|error| trouble(&self.path, &error))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After `finish` there is none left.
        drop(fs::remove_file(&self.temporary));
    }
}

/// Removes what killed commands have left next to the files whose names begin with `name`; whoever calls it is the only one
/// at work.
pub(super) fn sweep(folder: &Path, name: &str) {
    let prefix = format!(".{name}");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        if found.starts_with(&prefix) && found.ends_with(".new") {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// What a failed write of `path` ends a command with.
pub(super) fn trouble(path: &Path, error: &io::Error) -> ExitError {
    let exit = Exit::of(error);
    ExitError::new(exit, format!("{}: {error}; it is written by root or its owner", path.display()))
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
        let begin = || Replacement::begin(&path, &Target::like(&path).unwrap()).unwrap();

        drop(begin().holding("never").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        begin().holding("new").unwrap().finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_replacements_of_one_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "old").unwrap();
        let begin = || Replacement::begin(&path, &Target::like(&path).unwrap()).unwrap();
        let first = begin().holding("first").unwrap();
        // The second one ends before it has written anything, as when it is killed or its disk is full.
        std::mem::forget(begin());
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    }
}
