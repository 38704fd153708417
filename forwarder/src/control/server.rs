//! The control socket: one line asks, one line of JSON answers.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::report::report;
use crate::places::Place;

/// The only question there is; every command takes its part of the answer.
pub const REPORT: &str = "report";
/// Longest question in bytes.
const MAX_QUESTION: usize = 64;
/// Clients at once; the next ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for its question, and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// None of several places can be used.
    #[error("the control socket cannot be made anywhere; name a path that this user may write: [control] socket\n{}", lines(.0))]
    Nowhere(Vec<Self>),
    /// A daemon answers there already.
    #[error(
        "{0}: another forwarder answers there; stop it, or give this one a socket of its own in [control]"
    )]
    Taken(String),
    /// Something that is no socket is in the way.
    #[error("{0} is no socket; move it away, or name another path in [control]")]
    NoSocket(String),
    /// From the system.
    #[error("{path}: {error}; name a path that this user may write: [control] socket")]
    System {
        /// Which path.
        path: String,
        /// The system's words.
        error: io::Error,
    },
}

impl BindError {
    /// Whether it is for want of a permission.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::System { error, .. } => {
                matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            Self::Nowhere(errors) => errors.iter().any(Self::is_permission),
            Self::Taken(_) | Self::NoSocket(_) => false,
        }
    }
}

fn lines(errors: &[BindError]) -> String {
    let line = |error: &BindError| match error {
        BindError::System { path, error } => format!("  {path}: {error}"),
        other @ (BindError::Nowhere(_) | BindError::Taken(_) | BindError::NoSocket(_)) => {
            format!("  {other}")
        }
    };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The bound socket; its file goes when it is dropped.
pub struct ControlSocket {
    listener: StdListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the socket in the first of these places where the system allows it.
    ///
    /// # Errors
    /// [`BindError`]; another daemon in a place ends the search.
    pub fn bind_first(places: &[Place]) -> Result<Self, BindError> {
        let mut errors = Vec::new();
        for place in places {
            match Self::bind(place) {
                Err(error @ BindError::System { .. }) => errors.push(error),
                ended => return ended,
            }
        }
        let only = if errors.len() == 1 { errors.pop() } else { None };
        Err(only.unwrap_or(BindError::Nowhere(errors)))
    }

    /// Binds the socket, mode 0600; one that a dead daemon left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(place: &Place) -> Result<Self, BindError> {
        let path = place.socket.as_path();
        let name = path.display().to_string();
        let system = |error| BindError::System { path: name.clone(), error };
        place.make_folder().map_err(system)?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(name)),
            Ok(_) if StdStream::connect(path).is_ok() => return Err(BindError::Taken(name)),
            Ok(_) => std::fs::remove_file(path).map_err(system)?,
            Err(_) => {}
        }
        let listener = StdListener::bind(path).map_err(system)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until the future is dropped. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When tokio does not take the listener.
    pub async fn serve(&self, shared: Arc<Shared>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    task::spawn_local(async move {
                        if let Err(error) = converse(stream, &shared).await {
                            tracing::debug!(%error, "a control client left early");
                        }
                        drop(place);
                    });
                }
                // Out of descriptors, most likely: flows that end give some back.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Nobody can act on a file that stays; the next start replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let mut question = Vec::with_capacity(MAX_QUESTION);
    timeout(PATIENCE, read_line(&mut stream, &mut question)).await??;
    let mut answer = if question == REPORT.as_bytes() {
        serde_json::to_vec(&report(shared))?
    } else {
        br#"{"error":"the question is: report"}"#.to_vec()
    };
    answer.push(b'\n');
    timeout(PATIENCE, stream.write_all(&answer)).await??;
    timeout(PATIENCE, stream.shutdown()).await?
}

async fn read_line(stream: &mut UnixStream, line: &mut Vec<u8>) -> io::Result<()> {
    while line.len() < MAX_QUESTION {
        match stream.read_u8().await {
            Ok(b'\n') => return Ok(()),
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that cannot be made, not even by root.
    const NOWHERE: &str = "/proc/causeway/forwarder.sock";

    #[test]
    fn the_first_place_that_can_be_used_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path().join("new/forwarder.sock"));
        let bound = ControlSocket::bind_first(&[Place::at(NOWHERE.into()), place.clone()]).unwrap();
        assert_eq!(bound.path(), place.socket);
    }

    #[test]
    fn another_daemon_is_never_passed_over_for_the_next_place() {
        let folder = tempfile::tempdir().unwrap();
        let places = ["first", "second"].map(|name| Place::at(folder.path().join(name).join("a.sock")));
        let _running = ControlSocket::bind_first(&places).unwrap();
        let error = ControlSocket::bind_first(&places).err().unwrap();
        assert!(matches!(error, BindError::Taken(_)), "{error}");
    }

    #[test]
    fn a_daemon_without_any_place_names_each_and_the_key_that_fixes_it() {
        let places = [NOWHERE, "/proc/other/forwarder.sock"].map(|path| Place::at(path.into()));
        let said = ControlSocket::bind_first(&places).err().unwrap().to_string();
        assert!(said.contains("[control] socket"), "{said}");
        assert!(said.contains("/proc/causeway") && said.contains("/proc/other"), "{said}");
        let only = ControlSocket::bind_first(&places[..1]).err().unwrap().to_string();
        assert!(only.starts_with(NOWHERE) && only.contains("[control] socket"), "{only}");
    }

    #[test]
    fn a_read_only_folder_is_a_permission_that_is_missing() {
        let error = |kind: io::ErrorKind| BindError::System { path: NOWHERE.into(), error: kind.into() };
        let denied = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].map(error);
        assert!(BindError::Nowhere(denied.into()).is_permission());
        assert!(!error(io::ErrorKind::NotFound).is_permission());
    }
}
