//! The new configuration on its way to the disk, and to the forwarder that runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use daemon::changes::{ChangeReply, ChangeRequest, Commands, Trusted};
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, fix_of_write};
use forwarder::config::needs;
use forwarder::control::client::ask_change;
use forwarder::places::{Environment, Place};
use policy::Source;
use policy::forwarder::Policy;

/// What became of the new text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is the first one of this machine.
    New,
    /// The running forwarder has it in force.
    Taken,
    /// The running forwarder takes it only when it is restarted.
    Restart,
    /// No forwarder runs with this file.
    NotRunning,
    /// The running forwarder refused it.
    NotTaken,
}

/// A text that is valid, and on the disk next to its place.
pub(super) struct Draft {
    config: PathBuf,
    text: String,
    /// The text before it, and what that says.
    old: Option<(String, Policy)>,
    ready: Replacement,
}

impl Draft {
    /// Prepares `text` for `config`, which holds `old`.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn prepare(
        config: &Path,
        old: Option<(&str, &Policy)>,
        text: String,
    ) -> Result<Self, ExitError> {
        // `edit` of the commands writes a file of its own; this one shows that there is room for it.
        let ready = replacement(config, &text)?;
        let old = old.map(|(text, policy)| (text.to_owned(), policy.clone()));
        Ok(Self { config: config.to_owned(), text, old, ready })
    }

    /// Writes the text, through the running forwarder where one has the file.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn write(self) -> Result<Written, ExitError> {
        let Self { config, text, old, ready } = self;
        let finish = |ready: Replacement| ready.finish().map_err(|error| write_error(&config, &error));
        let Some((old, before)) = old else { return finish(ready).map(|()| Written::New) };
        let places = Environment::of_process().client_sockets(Some(&before));
        if !is_running(&places, &config) {
            return finish(ready).map(|()| Written::NotRunning);
        }
        let after = policy::forwarder::parse(&Source { name: &config, text: &text });
        if after.is_ok_and(|after| before.needs_restart(&after).is_some()) {
            return finish(ready).map(|()| Written::Restart);
        }
        // The commands remove what is next to the file and not finished.
        drop(ready);
        let ask = |request: &ChangeRequest| ask_change(&places, request);
        let commands =
            Commands { program: "forwarder", ask: &ask, needs, trusted: Trusted::by_owner_of(&config) };
        let mut edit = |_: &Path, current: &str| {
            let message = format!("{}: the file was changed meanwhile", config.display());
            if current == old { Ok(text.clone()) } else { Err(ExitError::new(Exit::Conflict, message)) }
        };
        let applied = commands.edit(&config, &mut edit);
        let Err(error) = applied else { return Ok(Written::Taken) };
        print_to_stderr(&error.message);
        if fs::read_to_string(&config).is_ok_and(|current| current == old) {
            // The edge has the new peer: without the text this machine would have nothing of it.
            finish(replacement(&config, &text)?)?;
        }
        Ok(Written::NotTaken)
    }
}

/// Whether a forwarder that this user may ask runs with this file.
fn is_running(places: &[Place], config: &Path) -> bool {
    let Ok(ChangeReply::OwnFile { path, .. }) = ask_change(places, &ChangeRequest::OwnFile) else {
        return false;
    };
    let same = |path: &Path| fs::canonicalize(path).ok();
    same(&path).is_some() && same(&path) == same(config)
}

fn replacement(config: &Path, text: &str) -> Result<Replacement, ExitError> {
    // The file holds no secret, and the daemon's user must be able to read it.
    let target = Target::like(config).unwrap_or(Target::own(0o644));
    Replacement::prepare(config, target, text.as_bytes()).map_err(|error| write_error(config, &error))
}

fn write_error(config: &Path, error: &io::Error) -> ExitError {
    let fix = fix_of_write(error, "it is written by root or its owner");
    ExitError::new(Exit::of(error), format!("{}: {error}; {fix}", config.display()))
}
