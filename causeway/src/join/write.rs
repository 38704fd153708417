//! The new configuration on its way to the disk, and to the forwarder that runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::changes::{ChangeReply, ChangeRequest, Commands, Trusted};
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, fix_of_write};
use daemon::peers::Peer;
use forwarder::config::needs;
use forwarder::control::client::{ask_change, ask_report};
use forwarder::places::{Environment, Place};
use policy::Source;
use policy::forwarder::Policy;
use tunnel::key::PublicKey;

/// How long the running forwarder tries a new key; without a confirmation the old one is back.
const TRIAL: Duration = Duration::from_secs(90);
/// How soon a new key must work.
const WORKS_WITHIN: Duration = Duration::from_secs(30);

/// What became of the new text.
pub(super) enum Written {
    /// It is the first one of this machine.
    New,
    /// The running forwarder has it in force.
    Taken,
    /// The running forwarder tries it, and its new key works.
    Tried(Running),
    /// The running forwarder takes it only when it is restarted.
    Restart,
    /// No forwarder runs with this file.
    NotRunning,
    /// The running forwarder refused it.
    NotTaken,
}

/// A forwarder that runs with this file and may be asked.
pub(super) struct Running {
    config: PathBuf,
    places: Vec<Place>,
}

impl Running {
    fn find(config: &Path, policy: &Policy) -> Option<Self> {
        let places = Environment::of_process().client_sockets(Some(policy));
        let Ok(ChangeReply::OwnFile { path, .. }) = ask_change(&places, &ChangeRequest::OwnFile) else {
            return None;
        };
        let own = fs::canonicalize(path).ok()?;
        (fs::canonicalize(config).ok()? == own).then(|| Self { config: config.to_owned(), places })
    }

    fn command<R>(
        &self,
        carry_out: impl FnOnce(&Commands<'_>) -> Result<R, ExitError>,
    ) -> Result<R, ExitError> {
        let ask = |request: &ChangeRequest| ask_change(&self.places, request);
        let trusted = Trusted::by_owner_of(&self.config);
        carry_out(&Commands { program: "forwarder", ask: &ask, needs, trusted })
    }

    /// Keeps what is tried, once the edge knows that it works; else the old key is back.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub(super) fn settle(&self, is_known: bool) -> Result<(), ExitError> {
        if is_known {
            return self.command(|commands| commands.confirm(&self.config));
        }
        self.command(|commands| commands.roll_back(&self.config))?;
        let message = "the edge did not take the report that the new key works: both machines have the old one; pair again";
        Err(ExitError::new(Exit::RolledBack, message))
    }

    /// Whether a session with the edge was agreed in the last `within`.
    fn has_new_session(&self, edge: &PublicKey, within: Duration) -> bool {
        let edge = edge.to_string();
        let is_new = |peer: &Peer| {
            peer.public_key == edge
                && peer.latest_handshake_age_seconds.is_some_and(|age| age < within.as_secs_f64())
        };
        ask_report(&self.places).is_ok_and(|report| report.peers.iter().any(is_new))
    }
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

    /// Writes the text, through the running forwarder where one has the file; `step` is called
    /// while a new key is tried.
    ///
    /// # Errors
    /// Whatever the file system says; with a new key what the forwarder refuses, or that the key
    /// does not work. Then the file is as it was.
    pub(super) fn write(
        self,
        edge: &PublicKey,
        has_new_key: bool,
        step: &mut dyn FnMut(),
    ) -> Result<Written, ExitError> {
        let Self { config, text, old, ready } = self;
        let finish = |ready: Replacement| ready.finish().map_err(|error| write_error(&config, &error));
        let Some((old, before)) = old else { return finish(ready).map(|()| Written::New) };
        let Some(running) = Running::find(&config, &before) else {
            return finish(ready).map(|()| Written::NotRunning);
        };
        let after = policy::forwarder::parse(&Source { name: &config, text: &text });
        if after.is_ok_and(|after| before.needs_restart(&after).is_some()) {
            return finish(ready).map(|()| Written::Restart);
        }
        // The commands remove what is next to the file and not finished.
        drop(ready);
        let mut edit = |_: &Path, current: &str| {
            let message = format!("{}: the file was changed meanwhile", config.display());
            if current == old { Ok(text.clone()) } else { Err(ExitError::new(Exit::Conflict, message)) }
        };
        if has_new_key {
            return try_key(running, &mut edit, edge, step);
        }
        let applied = running.command(|commands| commands.edit(&config, &mut edit));
        let Err(error) = applied else { return Ok(Written::Taken) };
        print_to_stderr(&error.message);
        if fs::read_to_string(&config).is_ok_and(|current| current == old) {
            // The edge has the new peer: without the text this machine would have nothing of it.
            finish(replacement(&config, &text)?)?;
        }
        Ok(Written::NotTaken)
    }
}

type Edit<'e> = &'e mut dyn FnMut(&Path, &str) -> Result<String, ExitError>;

/// Applies a text with another own key, and waits until that works.
fn try_key(
    running: Running,
    edit: Edit<'_>,
    edge: &PublicKey,
    step: &mut dyn FnMut(),
) -> Result<Written, ExitError> {
    let begun = Instant::now();
    running.command(|commands| commands.edit_unconfirmed(&running.config, edit, TRIAL))?;
    while begun.elapsed() < WORKS_WITHIN {
        if running.has_new_session(edge, begun.elapsed()) {
            return Ok(Written::Tried(running));
        }
        step();
    }
    running.command(|commands| commands.roll_back(&running.config))?;
    let message =
        "the new key did not work within 30 s: this machine has the old one again, and so has the edge";
    Err(ExitError::new(Exit::RolledBack, message))
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
