//! `gatewayctl apply`, `confirm` and `rollback`: what they change in the running edge, the daemon's own file follows.
//!
//! The daemon may not write its own configuration, so that nobody who takes it over can make that last; the operator
//! may. The file changes last and in one step: killed at any point before, the next start finds the old one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use policy::gateway::parse;
use policy::{FileLocation, FileRef, Source};

use crate::config::read_text;
use crate::control::client::ask;
use crate::control::protocol::{Reply, Request};
use crate::control::report::Changes;
use crate::exit::{Exit, Stop};

/// Applies `file`; without `patience` the daemon's own file then holds the same text.
///
/// # Errors
/// What the daemon refuses, and [`Exit::Conflict`] when `file` names files that lie beside it but not beside the
/// daemon's own.
pub fn apply(socket: &Path, file: &Path, patience: Option<Duration>) -> Result<Changes, Stop> {
    let (name, text) = named(file)?;
    let own = own_file(socket)?;
    refuse_strays(&name, &text, &own)?;
    let ready = match patience {
        None if read_text(&own).is_ok_and(|old| old == text) => None,
        None => Some(Replacement::begin(&own)?.holding(&text)?),
        Some(_) => None,
    };
    let confirm_seconds = patience.map(|patience| patience.as_secs());
    let Reply::Changes(changes) = ask(socket, &Request::Apply { name, text, confirm_seconds })? else {
        return Err(unexpected());
    };
    ready.map_or(Ok(()), Replacement::finish)?;
    Ok(changes)
}

/// Keeps the change that waits: the daemon's own file then holds it.
///
/// # Errors
/// [`Exit::RolledBack`] when it came too late.
pub fn confirm(socket: &Path) -> Result<(), Stop> {
    settle(socket, &Request::Confirm)
}

/// Goes back to the configuration before; the daemon's own file then holds that.
///
/// # Errors
/// When there is none before.
pub fn roll_back(socket: &Path) -> Result<(), Stop> {
    settle(socket, &Request::Rollback)
}

fn settle(socket: &Path, request: &Request) -> Result<(), Stop> {
    // Whether the file may be written is known before the daemon changes anything.
    let ready = Replacement::begin(&own_file(socket)?)?;
    match ask(socket, request)? {
        Reply::InForce { text: Some(text) } => {
            let written = ready.holding(&text).and_then(Replacement::finish);
            written.map_err(|stop| Stop::new(stop.exit, format!("done, but the file is as it was: {stop}")))
        }
        Reply::InForce { text: None } => Ok(()),
        _ => Err(unexpected()),
    }
}

/// The file's absolute name and its text.
///
/// # Errors
/// [`Exit::Invalid`] when it cannot be read.
pub fn named(file: &Path) -> Result<(PathBuf, String), Stop> {
    let text =
        read_text(file).map_err(|error| Stop::new(Exit::Invalid, format!("{}: {error}", file.display())))?;
    let name = std::path::absolute(file).map_err(|error| Stop::new(Exit::Failed, error))?;
    Ok((name, text))
}

/// The daemon's own file, links followed.
fn own_file(socket: &Path) -> Result<PathBuf, Stop> {
    let Reply::OwnFile { path } = ask(socket, &Request::OwnFile)? else { return Err(unexpected()) };
    fs::canonicalize(&path).map_err(|error| trouble(&path, &error))
}

/// Refuses a text whose files lie beside it, where the daemon will not look for them.
///
/// A text that is wrong is left to the daemon, which says so.
///
/// # Errors
/// [`Exit::Conflict`] with the files.
pub fn refuse_strays(name: &Path, text: &str, own: &Path) -> Result<(), Stop> {
    let (here, there) = (parse(&Source { name, text }), parse(&Source { name: own, text }));
    let (Ok(here), Ok(there)) = (here, there) else { return Ok(()) };
    let lines: Vec<_> = here.files().zip(there.files()).filter_map(stray).collect();
    if lines.is_empty() { Ok(()) } else { Err(Stop::new(Exit::Conflict, lines.join("\n"))) }
}

fn stray((here, there): (&FileRef, &FileRef)) -> Option<String> {
    let (FileLocation::Path(beside), FileLocation::Path(wanted)) = (&here.location, &there.location) else {
        return None;
    };
    let differs = || fs::read(beside).ok() != fs::read(wanted).ok();
    (beside != wanted && beside.exists() && differs()).then(|| {
        format!(
            "{}: the daemon reads {}, not {}; copy the file there first, or name it with its whole path",
            here.at,
            wanted.display(),
            beside.display()
        )
    })
}

/// A new file beside an old one, ready to take its place; dropped, it goes without a trace.
#[derive(Debug)]
pub struct Replacement {
    file: Option<File>,
    beside: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Makes an empty file with the owner and the mode of `path`.
    ///
    /// # Errors
    /// [`Exit::Permission`] when this user may not.
    pub fn begin(path: &Path) -> Result<Self, Stop> {
        let stop = |error: io::Error| trouble(path, &error);
        let old = fs::metadata(path).map_err(stop)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = path.with_file_name(name);
        // A rest of an earlier crash is never written through: it might be a link.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(stop(error)),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&beside).map_err(stop)?;
        let replacement = Self { file: Some(file), beside, path: path.to_owned() };
        if let Some(file) = &replacement.file {
            let made = file.metadata().map_err(stop)?;
            if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
                fchown(file, Some(old.uid()), Some(old.gid())).map_err(stop)?;
            }
            file.set_permissions(old.permissions()).map_err(stop)?;
        }
        Ok(replacement)
    }

    /// Writes what it is to hold, and has the disk keep it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn holding(mut self, text: &str) -> Result<Self, Stop> {
        let file = self.file.as_mut();
        let written = file.map_or(Ok(()), |file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| trouble(&self.path, &error))?;
        Ok(self)
    }

    /// Takes the old file's place in one step.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn finish(self) -> Result<(), Stop> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let renamed = fs::rename(&self.beside, &self.path);
        renamed.and_then(|()| File::open(folder)?.sync_all()).map_err(|error| trouble(&self.path, &error))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After `finish` there is none left.
        drop(fs::remove_file(&self.beside));
    }
}

fn trouble(path: &Path, error: &io::Error) -> Stop {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Permission,
        _ => Exit::Failed,
    };
    Stop::new(
        exit,
        format!("{}: {error}; the daemon's own file is written by root or its owner", path.display()),
    )
}

fn unexpected() -> Stop {
    Stop::new(Exit::Failed, "the daemon answered something else; are both of one version?")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/gateway.toml");

    #[test]
    fn a_replacement_keeps_the_mode_and_leaves_nothing_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        drop(Replacement::begin(&path).unwrap().holding("never").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        Replacement::begin(&path).unwrap().holding("new").unwrap().finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_beside_the_draft_that_the_daemon_does_not_have_are_refused() {
        let (draft, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (draft_file, own_file) = (draft.path().join("draft.toml"), own.path().join("gateway.toml"));
        let refused = || refuse_strays(&draft_file, EXAMPLE, &own_file);
        assert!(refused().is_ok(), "files that are nowhere are the daemon's to miss");

        for folder in [&draft, &own] {
            fs::create_dir(folder.path().join("keys")).unwrap();
        }
        fs::write(draft.path().join("keys/kyiv.key"), "new").unwrap();
        let stop = refused().unwrap_err();
        assert_eq!(stop.exit, Exit::Conflict);
        assert!(stop.message.contains("kyiv.key") && stop.message.contains("draft.toml:"), "{stop}");

        fs::write(own.path().join("keys/kyiv.key"), "new").unwrap();
        assert!(refused().is_ok(), "the same content is no stray");
    }
}
