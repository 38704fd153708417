//! The operator's side: what the commands change in the running daemon and in its file.
//!
//! The daemon may not write its own configuration, so that nothing that a compromised daemon does
//! outlasts a restart; the operator may. No path and no text that the daemon sends is ever written:
//! the file is the one that the operator named, and the texts are the operator's, kept in the
//! operator's own folder. Everything that is to be written is on the disk before the request is
//! sent, and is renamed into its place afterwards: a full disk therefore refuses the change before
//! anything happens, and a command that is killed in between leaves the old file or the new one.
//! Only one command runs at a time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use policy::{FileLocation, FileRef};

use super::confirm::still_waits;
use super::operator::{Locked, OperatorState, Trusted, finish_one, write_error};
use super::pending::{Moment, Pending};
use super::{ChangeReply, ChangeRequest, Changes, Confirmation};
use crate::control::server::group_id;
use crate::exit::{Exit, ExitError};
use crate::files::{Replacement, Target, read_text, sweep};

/// The parts of a configuration that the commands need.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Lists and keys.
    pub files: Vec<FileRef>,
    /// The daemon's state folder.
    pub state: PathBuf,
    /// The group that may read what the operator keeps.
    pub group: String,
}

/// The commands of one role.
pub struct Commands<'a> {
    /// The program that has them.
    pub program: &'static str,
    /// Sends the daemon a request.
    pub ask: &'a dyn Fn(&ChangeRequest) -> Result<ChangeReply, ExitError>,
    /// The needs of a text, read as the content of a file; those that apply where the text is
    /// invalid.
    pub needs: fn(&Path, &str) -> Result<Needs, Needs>,
    /// Whose files in the operator's folder are trusted.
    pub trusted: Trusted,
}

/// A command while it runs: the daemon's state as it reports it, the configuration file, and root's
/// folder.
struct Work<'a> {
    commands: &'a Commands<'a>,
    /// The configuration file, links followed.
    own: PathBuf,
    /// Its text.
    old: String,
    /// Whether the daemon says that this text is in force: a hint, which only chooses between two
    /// of root's texts.
    in_force: bool,
    /// Seconds for which a change still waits, as the daemon reports it.
    waits_seconds: Option<u64>,
    root: Locked,
}

impl Commands<'_> {
    /// What `file` would change.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn plan(&self, file: &Path) -> Result<Changes, ExitError> {
        let (name, text) = named(file)?;
        changes((self.ask)(&ChangeRequest::Plan { name, text })?)
    }

    /// Applies `file`; without `confirm_within` the configuration file `config` then holds the same
    /// text.
    ///
    /// # Errors
    /// What the daemon refuses, and [`Exit::Conflict`] when `file` names files that lie next to it
    /// but not next to `config`.
    pub fn apply(
        &self,
        config: &Path,
        file: &Path,
        confirm_within: Option<Duration>,
    ) -> Result<Changes, ExitError> {
        named(file)?;
        let work = Work::begin(self, config)?;
        // Read again behind the lock: another command may have written it meanwhile.
        let (name, text) = named(file)?;
        self.refuse_unread_files(&name, &text, &work.own)?;
        match confirm_within {
            None => work.apply_permanently(name, &text),
            Some(confirm_within) => work.apply_unconfirmed(name, text, confirm_within),
        }
    }

    /// Keeps the change that waits: the configuration file then holds the text that the operator's
    /// folder kept.
    ///
    /// # Errors
    /// [`Exit::RolledBack`] when it came too late.
    pub fn confirm(&self, config: &Path) -> Result<(), ExitError> {
        Work::begin(self, config)?.confirm()
    }

    /// Returns to the previous configuration; the configuration file then holds it.
    ///
    /// # Errors
    /// When there is no previous configuration.
    pub fn roll_back(&self, config: &Path) -> Result<(), ExitError> {
        Work::begin(self, config)?.roll_back()
    }

    /// Makes the daemon read the configuration file again, and keeps its text.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub fn reload(&self, config: &Path) -> Result<Changes, ExitError> {
        let work = Work::begin(self, config)?;
        let ready = work.records(&work.old, &work.before(&work.old))?;
        work.root.keep_draft(&work.old)?;
        let reloaded = (self.ask)(&ChangeRequest::Reload).and_then(changes);
        work.root.forget_draft();
        let reloaded = reloaded?;
        finish(ready)?;
        Ok(reloaded)
    }

    /// Applies what `edit` makes of the configuration file's text; the file then holds it. Where
    /// that is the same text, nothing happens.
    ///
    /// # Errors
    /// What `edit` or the daemon refuses, and [`Exit::Conflict`] when the file already has changes
    /// that are not in force: they would come into force as well.
    pub fn edit(
        &self,
        config: &Path,
        edit: &mut dyn FnMut(&Path, &str) -> Result<String, ExitError>,
    ) -> Result<Changes, ExitError> {
        let work = Work::begin(self, config)?;
        let text = edit(&work.own, &work.old)?;
        if text == work.old {
            return Ok(Changes { schema: 1, changes: Vec::new() });
        }
        if !work.in_force {
            let (own, program) = (work.own.display(), self.program);
            let message = format!(
                "{own} has changes that are not in force: see them with `{program} plan {own}`, take them with \
                 `{program} reload --config {own}`, then run this again"
            );
            return Err(ExitError::new(Exit::Conflict, message));
        }
        work.apply_permanently(work.own.clone(), &text)
    }

    /// As [`edit`](Self::edit), but it is rolled back unless [`confirm`](Self::confirm) follows within
    /// this time; the file holds the text once that was confirmed.
    ///
    /// # Errors
    /// As for [`edit`](Self::edit), and [`Exit::Conflict`] while another change waits.
    pub fn edit_unconfirmed(
        &self,
        config: &Path,
        edit: &mut dyn FnMut(&Path, &str) -> Result<String, ExitError>,
        confirm_within: Duration,
    ) -> Result<Changes, ExitError> {
        let work = Work::begin(self, config)?;
        let text = edit(&work.own, &work.old)?;
        work.refuse_unready()?;
        work.apply_unconfirmed(work.own.clone(), text, confirm_within)
    }

    /// Whether the daemon would take an [`edit_unconfirmed`](Self::edit_unconfirmed) now: it has the
    /// file's text in force, and no change waits.
    ///
    /// # Errors
    /// [`Exit::Conflict`] when not, and what else would refuse every change.
    pub fn check_ready(&self, config: &Path) -> Result<(), ExitError> {
        Work::begin(self, config)?.refuse_unready()
    }

    fn own_file(&self) -> Result<(PathBuf, bool, Option<u64>), ExitError> {
        match (self.ask)(&ChangeRequest::OwnFile)? {
            ChangeReply::OwnFile { path, in_force, waits_seconds } => Ok((path, in_force, waits_seconds)),
            ChangeReply::Changes(_) | ChangeReply::RolledBack { .. } | ChangeReply::Confirmed => {
                Err(unexpected())
            }
        }
    }

    /// The operator's folder and the group that may read it, by the operator's own configuration
    /// file.
    fn place(&self, own: &Path) -> Result<(OperatorState, u32), ExitError> {
        let metadata = fs::metadata(own).map_err(|error| write_error(own, &error))?;
        let text = read_text(own).map_err(|error| write_error(own, &error))?;
        let (Ok(needs) | Err(needs)) = (self.needs)(own, &text);
        let group = group_id(&needs.group).unwrap_or_else(|| metadata.gid());
        Ok((OperatorState::next_to(&needs.state, self.trusted), group))
    }

    /// Refuses a text if files that it names are next to it, where the daemon does not read them.
    ///
    /// An invalid text is left to the daemon, which reports its errors.
    fn refuse_unread_files(&self, name: &Path, text: &str, own: &Path) -> Result<(), ExitError> {
        if name.parent() == own.parent() {
            return Ok(());
        }
        let (Ok(here), Ok(there)) = ((self.needs)(name, text), (self.needs)(own, text)) else {
            return Ok(());
        };
        let lines: Vec<_> = here.files.iter().zip(&there.files).filter_map(unread_file).collect();
        if lines.is_empty() { Ok(()) } else { Err(ExitError::new(Exit::Conflict, lines.join("\n"))) }
    }
}

impl<'a> Work<'a> {
    /// Waits for the lock, and reads everything that the command depends on.
    fn begin(commands: &'a Commands<'a>, config: &Path) -> Result<Self, ExitError> {
        let own = fs::canonicalize(config).map_err(|error| {
            let fix = "name the daemon's file: --config FILE";
            ExitError::new(Exit::Failed, format!("{}: {error}; {fix}", config.display()))
        })?;
        // Before anything is created: is there a daemon that takes requests of this user?
        commands.own_file()?;
        let (folder, group) = commands.place(&own)?;
        let root = folder.lock(group)?;
        if let (Some(folder), Some(name)) = (own.parent(), own.file_name()) {
            sweep(folder, &format!("{}.", name.to_string_lossy()));
        }
        let (path, in_force, waits_seconds) = commands.own_file()?;
        let is_same = path == own || path == config || fs::canonicalize(&path).is_ok_and(|path| path == own);
        if !is_same {
            let message = format!(
                "the daemon says that it runs with {path:?}, and this command writes {}; name the daemon's file: --config FILE",
                own.display()
            );
            return Err(ExitError::new(Exit::Conflict, message));
        }
        let old = read_text(&own).map_err(|error| write_error(&own, &error))?;
        Ok(Self { commands, own, old, in_force, waits_seconds, root })
    }

    /// The text that was in force before `text`, as far as root knows.
    fn before(&self, text: &str) -> String {
        let current = self.root.current();
        // If the file already holds the text, it was edited in place: the previous text is the one
        // that root put in force last.
        if !self.in_force || self.old == text {
            return current.unwrap_or_else(|| self.old.clone());
        }
        self.old.clone()
    }

    fn apply_permanently(&self, name: PathBuf, text: &str) -> Result<Changes, ExitError> {
        let ready = self.ready(text, &self.before(text))?;
        let changes = self.put_in_force(name, text)?;
        finish(ready)?;
        Ok(changes)
    }

    /// Makes the daemon apply one of root's texts, which is in root's folder as well.
    fn put_in_force(&self, name: PathBuf, text: &str) -> Result<Changes, ExitError> {
        self.root.keep_draft(text)?;
        let request = ChangeRequest::Apply { name, text: text.to_owned(), confirm: None };
        let applied = (self.commands.ask)(&request).and_then(changes);
        self.root.forget_draft();
        applied
    }

    fn refuse_unready(&self) -> Result<(), ExitError> {
        if let Some(left) = self.waits_seconds {
            return Err(still_waits(self.commands.program, left));
        }
        if self.in_force {
            return Ok(());
        }
        let fix = "the file has changes that are not in force: reload the daemon first, then run this again";
        Err(ExitError::new(Exit::Conflict, format!("{}: {fix}", self.own.display())))
    }

    fn apply_unconfirmed(
        &self,
        name: PathBuf,
        text: String,
        confirm_within: Duration,
    ) -> Result<Changes, ExitError> {
        if let Some(left) = self.waits_seconds {
            return Err(still_waits(self.commands.program, left));
        }
        let id = new_id()?;
        let pending = Pending {
            id: id.clone(),
            text: text.clone(),
            previous: self.old.clone(),
            applied: Moment::now(),
            confirm_within,
        };
        self.root.keep_pending(&pending)?;
        let confirm = Some(Confirmation { id, seconds: confirm_within.as_secs() });
        let applied = (self.commands.ask)(&ChangeRequest::Apply { name, text, confirm }).and_then(changes);
        applied.inspect_err(|_| self.root.forget_pending())
    }

    fn confirm(&self) -> Result<(), ExitError> {
        let Some(pending) = self.root.state().pending() else {
            (self.commands.ask)(&ChangeRequest::Confirm { id: Some(String::new()) })?;
            let message =
                "the daemon confirmed a change that the operator's folder does not hold; see its status";
            return Err(ExitError::new(Exit::Failed, message));
        };
        let ready = self.ready(&pending.text, &pending.previous)?;
        match (self.commands.ask)(&ChangeRequest::Confirm { id: Some(pending.id) }) {
            Ok(ChangeReply::Confirmed) => {}
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
        let ChangeReply::RolledBack { was_waiting } = (self.commands.ask)(&ChangeRequest::RollBack)? else {
            return Err(unexpected());
        };
        self.root.forget_pending();
        if was_waiting {
            return Ok(());
        }
        let Some(target) = self.previous_text() else {
            let message = "there is no configuration before this one that these commands put in force";
            return Err(ExitError::new(Exit::Failed, message));
        };
        let ready = self.ready(&target, &self.before(&target))?;
        self.put_in_force(self.own.clone(), &target)?;
        finish(ready)
    }

    /// Where a rollback leads.
    fn previous_text(&self) -> Option<String> {
        match self.root.current() {
            // A command was killed after the daemon had applied its text: the file is the previous
            // one.
            _ if !self.in_force && self.root.is_interrupted() => Some(self.old.clone()),
            // The file was edited, and the daemon applied it without a command.
            Some(current) if self.in_force && current != self.old => Some(current),
            Some(_) | None => self.root.previous(),
        }
    }

    /// The files to rename once the daemon has `text` in force; they are on the disk already.
    fn ready(&self, text: &str, before: &str) -> Result<Vec<Replacement>, ExitError> {
        let mut ready = Vec::new();
        if text != self.old {
            let prepared = Target::like(&self.own)
                .and_then(|target| Replacement::prepare(&self.own, target, text.as_bytes()));
            ready.push(prepared.map_err(|error| write_error(&self.own, &error))?);
        }
        ready.extend(self.records(text, before)?);
        Ok(ready)
    }

    /// Those of root's folder alone.
    fn records(&self, text: &str, before: &str) -> Result<Vec<Replacement>, ExitError> {
        let mut ready = Vec::new();
        if text != before {
            ready.extend(self.root.prepare_previous(before)?);
        }
        ready.extend(self.root.prepare_current(text)?);
        Ok(ready)
    }
}

fn finish(ready: Vec<Replacement>) -> Result<(), ExitError> {
    ready.into_iter().try_for_each(finish_one).map_err(|stop| {
        ExitError::new(stop.exit, format!("the daemon has it in force, but not every file follows: {stop}"))
    })
}

fn changes(reply: ChangeReply) -> Result<Changes, ExitError> {
    match reply {
        ChangeReply::Changes(changes) => Ok(changes),
        ChangeReply::OwnFile { .. } | ChangeReply::RolledBack { .. } | ChangeReply::Confirmed => {
            Err(unexpected())
        }
    }
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

fn unread_file((here, there): (&FileRef, &FileRef)) -> Option<String> {
    let (FileLocation::Path(nearby), FileLocation::Path(wanted)) = (&here.location, &there.location) else {
        return None;
    };
    let differs = || fs::read(nearby).ok() != fs::read(wanted).ok();
    (nearby != wanted && nearby.exists() && differs()).then(|| {
        format!(
            "{}: the daemon reads {}, not {}; copy the file there first, or name it with its whole path",
            here.at,
            wanted.display(),
            nearby.display()
        )
    })
}

fn unexpected() -> ExitError {
    ExitError::new(Exit::Failed, "the daemon answered something else; are both of one version?")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../configs/gateway.toml");

    #[test]
    fn files_next_to_the_draft_that_the_daemon_does_not_have_are_refused() {
        let (draft, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (draft_file, own_file) = (draft.path().join("draft.toml"), own.path().join("gateway.toml"));
        let ask = |_: &ChangeRequest| unreachable!("the daemon is not asked");
        let commands = Commands { program: "gatewayctl", ask: &ask, needs, trusted: Trusted::OthersOnly };
        let refused = || commands.refuse_unread_files(&draft_file, EXAMPLE, &own_file);
        assert!(refused().is_ok(), "files that are nowhere are the daemon's to miss");

        for folder in [&draft, &own] {
            fs::create_dir(folder.path().join("keys")).unwrap();
        }
        fs::write(draft.path().join("keys/kyiv.key"), "new").unwrap();
        let stop = refused().unwrap_err();
        assert_eq!(stop.exit, Exit::Conflict);
        assert!(stop.message.contains("kyiv.key") && stop.message.contains("draft.toml:"), "{stop}");

        fs::write(own.path().join("keys/kyiv.key"), "new").unwrap();
        assert!(refused().is_ok(), "the same content is not refused");
    }

    #[test]
    fn a_file_that_is_not_in_force_and_a_change_that_waits_are_refused_before_anything_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gateway.toml");
        fs::write(&config, "text").unwrap();
        let needs: fn(&Path, &str) -> Result<Needs, Needs> = |name, _| {
            let state = name.with_file_name("state");
            Ok(Needs { files: Vec::new(), state, group: String::new() })
        };
        let checked = |in_force, waits_seconds| {
            let path = config.clone();
            let ask = move |_: &ChangeRequest| {
                Ok(ChangeReply::OwnFile { path: path.clone(), in_force, waits_seconds })
            };
            Commands { program: "gatewayctl", ask: &ask, needs, trusted: Trusted::OwnToo }
                .check_ready(&config)
                .map_err(|error| error.exit)
        };
        assert_eq!(checked(true, None), Ok(()));
        assert_eq!(checked(false, None), Err(Exit::Conflict));
        assert_eq!(checked(true, Some(30)), Err(Exit::Conflict));
    }

    fn needs(name: &Path, text: &str) -> Result<Needs, Needs> {
        let policy = policy::gateway::parse(&policy::Source { name, text }).unwrap();
        let files = policy.files().cloned().collect();
        Ok(Needs { files, state: policy.state_directory, group: policy.control.group })
    }
}
