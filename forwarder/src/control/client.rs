//! The other end of the control socket: what the subcommands ask.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Report;
use super::server::REPORT;
use crate::exit;
use crate::places::Place;

/// Longest answer in bytes: far above what thousands of entries take.
const MAX_ANSWER: u64 = 16 << 20;
/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon answers.
    #[error("{}; is the forwarder running? name its socket with --socket", lines(.0))]
    Unreachable(Vec<(PathBuf, io::Error)>),
    /// There is a socket that this user may not use.
    #[error("{path}: {error}: the daemon there belongs to another user; ask it as root or as that user")]
    Denied {
        /// Which socket.
        path: String,
        /// The system's words.
        error: io::Error,
    },
    /// The answer is not a report.
    #[error("{path}: the answer is not understood ({error}); do daemon and command have the same version?")]
    NotUnderstood {
        /// Which socket.
        path: String,
        /// Why.
        error: serde_json::Error,
    },
}

impl AskError {
    /// The exit code that says it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Denied { .. } => exit::PERMISSION,
            Self::Unreachable(_) | Self::NotUnderstood { .. } => exit::UNREACHABLE,
        }
    }
}

/// Asks the daemon at the first of these places that has one for its report.
///
/// # Errors
/// [`AskError`]; a socket that may not be used counts only when no other place has a daemon.
pub fn ask(places: &[Place]) -> Result<Report, AskError> {
    let mut tried = Vec::new();
    for place in places {
        match place.check_folder().and_then(|()| exchange(&place.socket)) {
            Ok(answer) => {
                let path = place.socket.display().to_string();
                return serde_json::from_slice(&answer)
                    .map_err(|error| AskError::NotUnderstood { path, error });
            }
            Err(error) => tried.push((place.socket.clone(), error)),
        }
    }
    let denied = tried.iter().position(|(_, error)| error.kind() == io::ErrorKind::PermissionDenied);
    match denied.map(|place| tried.swap_remove(place)) {
        Some((path, error)) => Err(AskError::Denied { path: path.display().to_string(), error }),
        None => Err(AskError::Unreachable(tried)),
    }
}

fn exchange(socket: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(REPORT.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

fn lines(tried: &[(PathBuf, io::Error)]) -> String {
    tried.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn every_path_that_was_tried_is_named() {
        let places = ["/nonexistent/a.sock", "/nonexistent/b.sock"].map(|path| Place::at(path.into()));
        let error = ask(&places).unwrap_err();
        assert_eq!(error.exit_code(), exit::UNREACHABLE);
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
            stream.read_exact(&mut [0; REPORT.len() + 1]).unwrap();
            stream.write_all(b"not a report").unwrap();
        });
        let error = ask(&[Place::at("/nonexistent/a.sock".into()), place]).unwrap_err();
        assert!(matches!(error, AskError::NotUnderstood { .. }), "{error}");
        daemon.join().unwrap();
    }

    #[test]
    fn a_socket_in_a_folder_that_another_user_could_have_made_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let socket = folder.path().join("forwarder.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = ask(&[Place { socket, only_for: Some(uid + 1) }]).unwrap_err();
        assert_eq!(error.exit_code(), exit::PERMISSION, "{error}");
    }
}
