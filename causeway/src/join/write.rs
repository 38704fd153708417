//! The new configuration on its way to the disk, and to the forwarder that runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
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
const TRIAL: Duration = Duration::from_secs(210);
/// How soon a new key must work.
const WORKS_WITHIN: Duration = Duration::from_secs(30);
/// When an edge that does not keep a new key has its old one again, and the tunnel is seen to be
/// down: 120 s and 15 s, and some.
const EDGE_IS_BACK_WITHIN: Duration = Duration::from_secs(140);
/// Between two looks at the tunnel.
const LOOK: Duration = Duration::from_secs(1);

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
    /// The forwarder that runs with this file; only where no daemon is there to be asked, none
    /// does.
    fn find(config: &Path, policy: &Policy, socket: Option<&Path>) -> Result<Option<Self>, ExitError> {
        let places = match socket {
            Some(socket) => vec![Place::at(socket.to_owned())],
            None => Environment::of_process().client_sockets(Some(policy)),
        };
        let path = match ask_change(&places, &ChangeRequest::OwnFile) {
            Ok(ChangeReply::OwnFile { path, .. }) => path,
            Ok(ChangeReply::Changes(_) | ChangeReply::RolledBack { .. } | ChangeReply::Confirmed) => {
                let message = "the forwarder sent the answer to another request";
                return Err(ExitError::new(Exit::Failed, message));
            }
            Err(error) if error.exit == Exit::Unreachable => return Ok(None),
            Err(ExitError { exit, message }) => {
                let fix =
                    "whether a forwarder runs with this file is not known; name its socket with --socket";
                return Err(ExitError::new(exit, format!("{message}\n{}: {fix}", config.display())));
            }
        };
        let is_own =
            fs::canonicalize(config).is_ok_and(|own| fs::canonicalize(path).is_ok_and(|path| path == own));
        Ok(is_own.then(|| Self { config: config.to_owned(), places }))
    }

    fn command<R>(
        &self,
        carry_out: impl FnOnce(&Commands<'_>) -> Result<R, ExitError>,
    ) -> Result<R, ExitError> {
        let ask = |request: &ChangeRequest| ask_change(&self.places, request);
        let trusted = Trusted::by_owner_of(&self.config);
        carry_out(&Commands { program: "forwarder", ask: &ask, needs, trusted })
    }

    /// Keeps what is tried, once the edge keeps it; else the old key is back. Without its
    /// confirmation the tunnel shows what it did.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub(super) fn settle(&self, is_kept: bool, edge: &PublicKey) -> Result<(), ExitError> {
        if is_kept || self.outlasts_the_old_key(edge) {
            return self.command(|commands| commands.confirm(&self.config));
        }
        self.command(|commands| commands.roll_back(&self.config))?;
        let message = "the edge did not keep the new key: both machines have the old one; pair again";
        Err(ExitError::new(Exit::RolledBack, message))
    }

    /// Whether the edge still takes the new key when it would have gone back to the old one.
    fn outlasts_the_old_key(&self, edge: &PublicKey) -> bool {
        print_to_stderr(&format!(
            "the edge did not confirm that it keeps the new key; the tunnel shows that within {} s",
            EDGE_IS_BACK_WITHIN.as_secs()
        ));
        let (begun, edge) = (Instant::now(), edge.to_string());
        loop {
            let report = ask_report(&self.places).ok();
            let is_up =
                report.map(|report| report.peers.iter().any(|peer| peer.public_key == edge && peer.is_up()));
            if let Some(is_kept) = shown(begun.elapsed(), is_up) {
                return is_kept;
            }
            thread::sleep(LOOK);
        }
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
    socket: Option<PathBuf>,
    ready: Replacement,
}

impl Draft {
    /// Prepares `text` for `config`, which holds `old`; the forwarder is asked at `socket`, else
    /// where it usually is.
    ///
    /// # Errors
    /// Whatever the file system says, and a forwarder that may not be asked.
    pub(super) fn prepare(
        config: &Path,
        old: Option<(&str, &Policy)>,
        text: String,
        socket: Option<&Path>,
    ) -> Result<Self, ExitError> {
        if let Some((_, policy)) = old {
            // Before the edge has the new peer.
            Running::find(config, policy, socket)?;
        }
        // `edit` of the commands writes a file of its own; this one shows that there is room for
        // it.
        let ready = replacement(config, &text)?;
        let old = old.map(|(text, policy)| (text.to_owned(), policy.clone()));
        let socket = socket.map(Path::to_owned);
        Ok(Self { config: config.to_owned(), text, old, socket, ready })
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
        let Self { config, text, old, socket, ready } = self;
        let Some((old, before)) = old else {
            return finish(ready, &config, None).map(|()| Written::New);
        };
        let Some(running) = Running::find(&config, &before, socket.as_deref())? else {
            return finish(ready, &config, Some(&old)).map(|()| Written::NotRunning);
        };
        let after = policy::forwarder::parse(&Source { name: &config, text: &text });
        if after.is_ok_and(|after| before.needs_restart(&after).is_some()) {
            return finish(ready, &config, Some(&old)).map(|()| Written::Restart);
        }
        // The commands remove what is next to the file and not finished.
        drop(ready);
        let mut edit = |_: &Path, current: &str| {
            if current == old { Ok(text.clone()) } else { Err(changed(&config)) }
        };
        if has_new_key {
            return try_key(running, &mut edit, edge, step);
        }
        let applied = running.command(|commands| commands.edit(&config, &mut edit));
        let Err(error) = applied else { return Ok(Written::Taken) };
        let current = fs::read_to_string(&config).ok();
        if current.as_ref() == Some(&old) {
            // The edge has the new peer: without the text this machine would have nothing of it.
            finish(replacement(&config, &text)?, &config, Some(&old))?;
        } else if current.as_ref() != Some(&text) {
            return Err(error);
        }
        print_to_stderr(&error.message);
        Ok(Written::NotTaken)
    }
}

/// Whether the edge kept a new key, as far as the tunnel shows it by now.
fn shown(waited: Duration, is_up: Option<bool>) -> Option<bool> {
    let is_over = waited >= EDGE_IS_BACK_WITHIN;
    match is_up {
        Some(false) => Some(false),
        Some(true) => is_over.then_some(true),
        None => is_over.then_some(false),
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

/// Puts a text in the place of `old`, which was read before the words were compared.
fn finish(ready: Replacement, config: &Path, old: Option<&str>) -> Result<(), ExitError> {
    let is_same = match (fs::read_to_string(config), old) {
        (Ok(current), Some(old)) => current == old,
        (Err(error), None) => error.kind() == io::ErrorKind::NotFound,
        (Ok(_), None) | (Err(_), Some(_)) => false,
    };
    if !is_same {
        return Err(changed(config));
    }
    ready.finish().map_err(|error| write_error(config, &error))
}

fn changed(config: &Path) -> ExitError {
    let message = format!(
        "{}: the file was changed since this command began, and is as it was changed; the edge goes back: pair again",
        config.display()
    );
    ExitError::new(Exit::Conflict, message)
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use tempfile::TempDir;
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn what_was_written_while_the_words_were_compared_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("forwarder.toml");
        let draft = Draft::prepare(&config, None, "new".to_owned(), None).ok().unwrap();
        fs::write(&config, "by another hand").unwrap();
        assert_eq!(write(draft).err().unwrap().exit, Exit::Conflict);
        assert_eq!(fs::read_to_string(&config).unwrap(), "by another hand");

        let draft = prepared(&folder, "new");
        fs::write(&config, format!("{}# a service\n", old(&folder))).unwrap();
        assert_eq!(write(draft).err().unwrap().exit, Exit::Conflict);
        assert!(fs::read_to_string(&config).unwrap().ends_with("# a service\n"));

        let draft = prepared(&folder, "new");
        assert!(matches!(write(draft), Ok(Written::NotRunning)));
        assert_eq!(fs::read_to_string(&config).unwrap(), "new");
    }

    #[test]
    fn only_where_no_daemon_is_there_to_be_asked_none_runs() {
        let folder = tempfile::tempdir().unwrap();
        assert!(prepare(&folder, "new").is_ok());
        let listener = UnixListener::bind(folder.path().join("forwarder.sock")).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {}
            stream.write_all(b"{\"failed\":{\"exit\":5,\"message\":\"for root alone\"}}\n").unwrap();
        });
        let error = prepare(&folder, "new").err().unwrap();
        assert_eq!(error.exit, Exit::Permission);
        assert!(error.message.contains("for root alone") && error.message.contains("--socket"), "{error}");
        daemon.join().unwrap();
    }

    #[test]
    fn a_tunnel_that_is_still_up_when_the_edge_would_be_back_shows_that_it_kept_the_key() {
        let (early, late) = (Duration::from_secs(1), EDGE_IS_BACK_WITHIN);
        assert_eq!([shown(early, Some(true)), shown(late, Some(true))], [None, Some(true)]);
        assert_eq!([shown(early, Some(false)), shown(late, Some(false))], [Some(false), Some(false)]);
        assert_eq!([shown(early, None), shown(late, None)], [None, Some(false)], "no report");
        assert!(WORKS_WITHIN + Duration::from_secs(20) + EDGE_IS_BACK_WITHIN < TRIAL);
    }

    fn write(draft: Draft) -> Result<Written, ExitError> {
        draft.write(&PrivateKey::from_bytes([1; 32]).public(), false, &mut || {})
    }

    fn prepared(folder: &TempDir, text: &str) -> Draft {
        prepare(folder, text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A draft for a file whose daemon would listen in the folder.
    fn prepare(folder: &TempDir, text: &str) -> Result<Draft, ExitError> {
        let (config, old) = (folder.path().join("forwarder.toml"), old(folder));
        fs::write(&config, &old).unwrap();
        let policy = policy::forwarder::parse(&Source { name: &config, text: &old }).unwrap();
        Draft::prepare(&config, Some((&old, &policy)), text.to_owned(), None)
    }

    fn old(folder: &TempDir) -> String {
        format!(
            "[interface]\naddress = [\"10.77.88.2/24\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"{}\"\nendpoint = \"192.0.2.2:51820\"\n[control]\nsocket = \"{}\"\n",
            PrivateKey::from_bytes([1; 32]).public(),
            folder.path().join("forwarder.sock").display()
        )
    }
}
