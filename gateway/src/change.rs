//! `gatewayctl apply`, `confirm`, `rollback` and `reload`: what root's commands change in the running edge and in its file.
//!
//! The daemon may not write its own configuration, so that a daemon that was taken over cannot make anything last; the
//! operator may. Nothing that the daemon says becomes a name or a text of a file here: the file is the one that the
//! operator named, and the texts are the operator's, kept in a folder of root's. Everything that is to be written is on
//! the disk before the daemon is asked, and takes its place by renaming afterwards: a full disk refuses before anything
//! is changed, and whoever is killed in between leaves the old file or the new one. One command works at a time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use policy::gateway::{Policy, parse};
use policy::{FileLocation, FileRef, Source};

use crate::control::client::ask;
use crate::control::protocol::{Confirmation, Reply, Request};
use crate::control::report::Changes;
use crate::replacement::{Replacement, Target, sweep, trouble};
use crate::root_state::{Locked, RootState};
use crate::state::{Moment, Pending};
use daemon::control::server::group_id;
use daemon::exit::{Exit, ExitError};
use daemon::files::read_text;

/// The state folder when no configuration says otherwise.
const DEFAULT_STATE: &str = "/var/lib/causeway";
/// The group that reads what root keeps, when no configuration says otherwise.
const DEFAULT_GROUP: &str = "causeway";

/// One command at work: the edge as its daemon says it is, the file as it is, and the folder of root's.
#[derive(Debug)]
struct Work<'a> {
    socket: &'a Path,
    /// The configuration file, links followed.
    own: PathBuf,
    /// Its text.
    old: String,
    /// Whether the daemon says that this is in force: a hint that only chooses between two texts of root's.
    in_force: bool,
    /// Seconds for which the daemon says that a change waits.
    waits_seconds: Option<u64>,
    root: Locked,
}

/// Applies `file`; without `patience` the configuration file `config` then holds the same text.
///
/// # Errors
/// What the daemon refuses, and [`Exit::Conflict`] when `file` names files that lie beside it but not beside `config`.
pub fn apply(
    socket: &Path,
    config: &Path,
    file: &Path,
    patience: Option<Duration>,
) -> Result<Changes, ExitError> {
    named(file)?;
    let work = Work::begin(socket, config)?;
    // Read again behind the lock: another command may have written it meanwhile.
    let (name, text) = named(file)?;
    refuse_strays(&name, &text, &work.own)?;
    match patience {
        None => work.apply_for_good(name, &text),
        Some(patience) => work.apply_for_now(name, text, patience),
    }
}

/// Keeps the change that waits: the configuration file then holds the text that root kept.
///
/// # Errors
/// [`Exit::RolledBack`] when it came too late.
pub fn confirm(socket: &Path, config: &Path) -> Result<(), ExitError> {
    Work::begin(socket, config)?.confirm()
}

/// Goes back to the configuration before; the configuration file then holds that.
///
/// # Errors
/// When there is none before.
pub fn roll_back(socket: &Path, config: &Path) -> Result<(), ExitError> {
    Work::begin(socket, config)?.roll_back()
}

/// Has the daemon read the configuration file again, and remembers its text.
///
/// # Errors
/// What the daemon refuses.
pub fn reload(socket: &Path, config: &Path) -> Result<Changes, ExitError> {
    let work = Work::begin(socket, config)?;
    let ready = work.records(&work.old, &work.before(&work.old))?;
    work.root.keep_draft(&work.old)?;
    let changes = work.ask_changes(&Request::Reload);
    work.root.forget_draft();
    let changes = changes?;
    finish(ready)?;
    Ok(changes)
}

impl<'a> Work<'a> {
    /// Waits for its turn, and looks at everything that the command depends on.
    fn begin(socket: &'a Path, config: &Path) -> Result<Self, ExitError> {
        let own = fs::canonicalize(config).map_err(|error| {
            let fix = "name the daemon's file: --config FILE";
            ExitError::new(Exit::Failed, format!("{}: {error}; {fix}", config.display()))
        })?;
        // Whether there is a daemon that may be asked is known before anything is made.
        ask_own_file(socket)?;
        let (folder, group) = place(&own)?;
        let root = folder.lock(group)?;
        if let (Some(folder), Some(name)) = (own.parent(), own.file_name()) {
            sweep(folder, &format!("{}.", name.to_string_lossy()));
        }
        let (path, in_force, waits_seconds) = ask_own_file(socket)?;
        let is_same = path == own || path == config || fs::canonicalize(&path).is_ok_and(|path| path == own);
        if !is_same {
            let message = format!(
                "the daemon says that it runs with {path:?}, and this command writes {}; name the daemon's file: --config FILE",
                own.display()
            );
            return Err(ExitError::new(Exit::Conflict, message));
        }
        let old = read_text(&own).map_err(|error| trouble(&own, &error))?;
        Ok(Self { socket, own, old, in_force, waits_seconds, root })
    }

    /// What was in force before `text` is, as far as root knows.
    fn before(&self, text: &str) -> String {
        let current = self.root.current();
        // Where the file already holds the text, it was edited in place: what root put in force last is what was before.
        if !self.in_force || self.old == text {
            return current.unwrap_or_else(|| self.old.clone());
        }
        self.old.clone()
    }

    fn apply_for_good(&self, name: PathBuf, text: &str) -> Result<Changes, ExitError> {
        let ready = self.ready(text, &self.before(text))?;
        let changes = self.put_in_force(name, text)?;
        finish(ready)?;
        Ok(changes)
    }

    /// Has the daemon apply a text of root's, which it finds in root's folder as well.
    fn put_in_force(&self, name: PathBuf, text: &str) -> Result<Changes, ExitError> {
        self.root.keep_draft(text)?;
        let request = Request::Apply { name, text: text.to_owned(), confirm: None };
        let changes = self.ask_changes(&request);
        self.root.forget_draft();
        changes
    }

    fn apply_for_now(&self, name: PathBuf, text: String, patience: Duration) -> Result<Changes, ExitError> {
        if let Some(left) = self.waits_seconds {
            let message = format!(
                "a change waits {left} s more for its confirmation; gatewayctl confirm or gatewayctl rollback first"
            );
            return Err(ExitError::new(Exit::Conflict, message));
        }
        let id = new_id()?;
        let pending = Pending {
            id: id.clone(),
            text: text.clone(),
            previous: self.old.clone(),
            applied: Moment::now(),
            patience,
        };
        self.root.keep_pending(&pending)?;
        let confirm = Some(Confirmation { id, seconds: patience.as_secs() });
        let changes = self.ask_changes(&Request::Apply { name, text, confirm });
        changes.inspect_err(|_| self.root.forget_pending())
    }

    fn confirm(&self) -> Result<(), ExitError> {
        let Some(pending) = self.root.state().pending() else {
            ask(self.socket, &Request::Confirm { id: Some(String::new()) })?;
            let message =
                "the daemon confirmed a change that root's folder does not hold; see gatewayctl status";
            return Err(ExitError::new(Exit::Failed, message));
        };
        let ready = self.ready(&pending.text, &pending.previous)?;
        match ask(self.socket, &Request::Confirm { id: Some(pending.id) }) {
            Ok(Reply::Done) => {}
            Ok(_) => return Err(unexpected()),
            Err(stop) => {
                if stop.exit == Exit::RolledBack {
                    self.root.forget_pending();
                }
                return Err(stop);
            }
        }
        finish(ready)?;
        self.root.forget_pending();
        Ok(())
    }

    fn roll_back(&self) -> Result<(), ExitError> {
        let Reply::TakenBack { was_waiting } = ask(self.socket, &Request::TakeBack)? else {
            return Err(unexpected());
        };
        self.root.forget_pending();
        if was_waiting {
            return Ok(());
        }
        let Some(target) = self.one_before() else {
            let message = "there is no configuration before this one that gatewayctl put in force";
            return Err(ExitError::new(Exit::Failed, message));
        };
        let ready = self.ready(&target, &self.before(&target))?;
        self.put_in_force(self.own.clone(), &target)?;
        finish(ready)
    }

    /// Where a rollback leads.
    fn one_before(&self) -> Option<String> {
        match self.root.current() {
            // A command was killed after the daemon had taken its text: the file is what was before.
            _ if !self.in_force && self.root.is_interrupted() => Some(self.old.clone()),
            // The file was edited, and taken by the daemon without gatewayctl.
            Some(current) if self.in_force && current != self.old => Some(current),
            Some(_) | None => self.root.previous(),
        }
    }

    /// Everything that is renamed once the daemon has `text` in force, on the disk already.
    fn ready(&self, text: &str, before: &str) -> Result<Vec<Replacement>, ExitError> {
        let mut ready = Vec::new();
        if text != self.old {
            ready.push(Replacement::begin(&self.own, &Target::like(&self.own)?)?.holding(text)?);
        }
        ready.extend(self.records(text, before)?);
        Ok(ready)
    }

    /// The same for the folder of root's alone.
    fn records(&self, text: &str, before: &str) -> Result<Vec<Replacement>, ExitError> {
        let mut ready = Vec::new();
        if text != before {
            ready.extend(self.root.prepare_previous(before)?);
        }
        ready.extend(self.root.prepare_current(text)?);
        Ok(ready)
    }

    fn ask_changes(&self, request: &Request) -> Result<Changes, ExitError> {
        match ask(self.socket, request)? {
            Reply::Changes(changes) => Ok(changes),
            _ => Err(unexpected()),
        }
    }
}

fn finish(ready: Vec<Replacement>) -> Result<(), ExitError> {
    ready.into_iter().try_for_each(Replacement::finish).map_err(|stop| {
        ExitError::new(stop.exit, format!("the edge has it in force, but not every file follows: {stop}"))
    })
}

fn ask_own_file(socket: &Path) -> Result<(PathBuf, bool, Option<u64>), ExitError> {
    match ask(socket, &Request::OwnFile)? {
        Reply::OwnFile { path, in_force, waits_seconds } => Ok((path, in_force, waits_seconds)),
        _ => Err(unexpected()),
    }
}

/// The folder of root's and the group that may read it, by root's own configuration file.
fn place(own: &Path) -> Result<(RootState, u32), ExitError> {
    let metadata = fs::metadata(own).map_err(|error| trouble(own, &error))?;
    let text = read_text(own).map_err(|error| trouble(own, &error))?;
    let policy = parse(&Source { name: own, text: &text }).ok();
    let said = |of: fn(&Policy) -> String, default: &str| policy.as_ref().map_or(default.to_owned(), of);
    let state = said(|policy| policy.state_directory.display().to_string(), DEFAULT_STATE);
    let group = said(|policy| policy.control.group.clone(), DEFAULT_GROUP);
    Ok((RootState::beside(Path::new(&state)), group_id(&group).unwrap_or_else(|| metadata.gid())))
}

/// A name that no other change has.
fn new_id() -> Result<String, ExitError> {
    let mut number = [0; 16];
    getrandom::fill(&mut number).map_err(|error| ExitError::new(Exit::Failed, error))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(number)))
}

/// The file's absolute name and its text.
///
/// # Errors
/// [`Exit::Invalid`] when it cannot be read.
pub fn named(file: &Path) -> Result<(PathBuf, String), ExitError> {
    let text = read_text(file)
        .map_err(|error| ExitError::new(Exit::Invalid, format!("{}: {error}", file.display())))?;
    let name = std::path::absolute(file).map_err(|error| ExitError::new(Exit::Failed, error))?;
    Ok((name, text))
}

/// Refuses a text whose files lie beside it, where the daemon will not look for them.
///
/// A text that is wrong is left to the daemon, which says so.
///
/// # Errors
/// [`Exit::Conflict`] with the files.
pub fn refuse_strays(name: &Path, text: &str, own: &Path) -> Result<(), ExitError> {
    if name.parent() == own.parent() {
        return Ok(());
    }
    let (here, there) = (parse(&Source { name, text }), parse(&Source { name: own, text }));
    let (Ok(here), Ok(there)) = (here, there) else { return Ok(()) };
    let lines: Vec<_> = here.files().zip(there.files()).filter_map(stray).collect();
    if lines.is_empty() { Ok(()) } else { Err(ExitError::new(Exit::Conflict, lines.join("\n"))) }
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

fn unexpected() -> ExitError {
    ExitError::new(Exit::Failed, "the daemon answered something else; are both of one version?")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/gateway.toml");

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
