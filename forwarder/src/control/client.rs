//! The commands' side of the control socket: the daemon may have it in one of several places.

use std::io;
use std::path::Path;

use daemon::changes::{ChangeReply, ChangeRequest, Needs};
use daemon::control::client::{self, AskError};
use daemon::diagnosis::Diagnosis;
use daemon::exit::{Exit, ExitError};
use daemon::history::{Page, Query};
use daemon::link::history::FarHistory;
use policy::Source;
use policy::forwarder::Policy;

use super::protocol::{Reply, Request};
use super::report::Report;
use crate::config;
use crate::places::{Environment, Place};

/// The group of the daemon's user, as the unit has it.
const GROUP: &str = "causeway-forwarder";

/// Sends a request to the daemon at the first of these places that has one.
///
/// # Errors
/// [`Exit::Permission`] for a socket that this user may not use, which counts only when no other
/// place has a daemon; [`Exit::Unreachable`] with every place when none has; else the daemon's own
/// error.
pub fn ask(places: &[Place], request: &Request) -> Result<Reply, ExitError> {
    let mut tried = Vec::new();
    for place in places {
        let unreachable = |error: io::Error| AskError::Unreachable { socket: place.socket.clone(), error };
        match place.check_folder().map_err(unreachable).and_then(|()| client::ask(&place.socket, request)) {
            Ok(reply) => return Ok(reply),
            Err(error @ AskError::Unreachable { .. }) => tried.push(error),
            // It begins with the file, line and column where there are any.
            Err(AskError::Failed(error)) => return Err(error),
            Err(error @ AskError::NotUnderstood(_)) => {
                return Err(ExitError::new(error.exit(), format!("{}: {error}", place.socket.display())));
            }
        }
    }
    if let Some(error) = tried.iter().find(|error| error.is_denied()) {
        let fix = "the daemon there belongs to another user; ask it as root or as that user";
        return Err(ExitError::new(Exit::Permission, format!("{error}: {fix}")));
    }
    let lines: Vec<_> = tried.iter().map(ToString::to_string).collect();
    let fix = "is the forwarder running? name its socket with --socket";
    Err(ExitError::new(Exit::Unreachable, format!("{}; {fix}", lines.join("\n"))))
}

/// Sends a request that changes the configuration, or would.
///
/// # Errors
/// As for [`ask`].
pub fn ask_change(places: &[Place], request: &ChangeRequest) -> Result<ChangeReply, ExitError> {
    let Reply::Change(reply) = ask(places, &Request::Change(request.clone()))? else { return Err(another()) };
    Ok(reply)
}

/// What happened there.
///
/// # Errors
/// As for [`ask`].
pub fn ask_history(places: &[Place], query: Query) -> Result<Page, ExitError> {
    let Reply::History(page) = ask(places, &Request::History(query))? else { return Err(another()) };
    Ok(page)
}

/// What happened at the edges in so many seconds until now.
///
/// # Errors
/// As for [`ask`].
pub fn ask_far_history(places: &[Place], seconds: u64) -> Result<Vec<FarHistory>, ExitError> {
    let Reply::FarHistory(histories) = ask(places, &Request::FarHistory { seconds })? else {
        return Err(another());
    };
    Ok(histories)
}

/// The daemon's report.
///
/// # Errors
/// As for [`ask`].
pub fn ask_report(places: &[Place]) -> Result<Report, ExitError> {
    let Reply::Report(report) = ask(places, &Request::Report)? else { return Err(another()) };
    Ok(*report)
}

/// The daemon's report, once every name was visited from the internet.
///
/// # Errors
/// As for [`ask`].
pub fn ask_visited(places: &[Place]) -> Result<Report, ExitError> {
    let Reply::Report(report) = ask(places, &Request::Visit)? else { return Err(another()) };
    Ok(*report)
}

/// What is wrong, at this end and at the edges; with a name, only that service is tried.
///
/// # Errors
/// As for [`ask`].
pub fn ask_diagnosis(places: &[Place], service: Option<&str>) -> Result<Diagnosis, ExitError> {
    let request = Request::Diagnose { service: service.map(str::to_owned) };
    let Reply::Diagnosis(diagnosis) = ask(places, &request)? else { return Err(another()) };
    Ok(diagnosis)
}

/// What a configuration of the origin names that the commands need.
///
/// # Errors
/// What still applies where the text is invalid.
pub fn needs(name: &Path, text: &str) -> Result<Needs, Needs> {
    let environment = Environment::of_process();
    let needs = |policy: Option<&Policy>| Needs {
        files: policy.map(config::files).unwrap_or_default(),
        state: environment.state_folder(policy),
        group: GROUP.to_owned(),
    };
    match policy::forwarder::parse(&Source { name, text }) {
        Ok(policy) => Ok(needs(Some(&policy))),
        Err(_) => Err(needs(None)),
    }
}

fn another() -> ExitError {
    ExitError::new(Exit::Failed, "the daemon sent the answer to another request")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn every_path_that_was_tried_is_named() {
        let places = ["/nonexistent/a.sock", "/nonexistent/b.sock"].map(|path| Place::at(path.into()));
        let error = ask_report(&places).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        let said = error.to_string();
        assert!(said.contains("a.sock") && said.contains("b.sock") && said.contains("--socket"), "{said}");
    }

    #[test]
    fn the_first_place_that_has_a_daemon_answers() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path().join("forwarder.sock"));
        let listener = UnixListener::bind(&place.socket).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {}
            stream.write_all(b"not a report\n").unwrap();
        });
        let error = ask_report(&[Place::at("/nonexistent/a.sock".into()), place]).unwrap_err();
        assert!(error.exit == Exit::Failed && error.message.contains("not understood"), "{error}");
        daemon.join().unwrap();
    }

    #[test]
    fn a_socket_in_a_folder_that_another_user_could_have_made_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let socket = folder.path().join("forwarder.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = ask_report(&[Place { socket, only_for: Some(uid + 1) }]).unwrap_err();
        assert_eq!(error.exit, Exit::Permission, "{error}");
    }
}
