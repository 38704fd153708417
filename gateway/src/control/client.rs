//! A caller's side of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{MAX_LINE, Reply, Request};
use crate::exit::{Exit, Stop};

/// Where the daemon listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/causeway/gateway.sock";
/// The slowest answer is an apply of a large configuration.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the daemon one thing.
///
/// # Errors
/// [`Exit::Unreachable`] when nobody answers, [`Exit::Permission`] when this user may not ask, else what the daemon says.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, Stop> {
    let mut stream = UnixStream::connect(socket).map_err(|error| not_reached(socket, &error))?;
    let lost = |error: std::io::Error| not_reached(socket, &error);
    stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
    let mut line = serde_json::to_vec(request).map_err(|error| Stop::new(Exit::Failed, error))?;
    line.push(b'\n');
    // A refused request may be answered, and the socket closed, before all of it is written: the answer says why.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut answer).map_err(lost)?;
    if answer.is_empty() {
        written.map_err(lost)?;
        return Err(Stop::new(Exit::Unreachable, "the daemon closed the connection without an answer"));
    }
    match serde_json::from_slice(&answer) {
        Ok(Reply::Failed { exit, message }) => Err(Stop::new(exit_of(exit), message)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(Stop::new(
            Exit::Failed,
            format!("the daemon's answer is not understood ({error}); are both of one version?"),
        )),
    }
}

fn not_reached(socket: &Path, error: &std::io::Error) -> Stop {
    let socket = socket.display();
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        let mend = "run it as root, or join the group: usermod -aG causeway $USER";
        return Stop::new(Exit::Permission, format!("{socket}: {error}; {mend}"));
    }
    let mend = "is the daemon running? systemctl status gateway, or --socket PATH for another one";
    Stop::new(Exit::Unreachable, format!("{socket}: {error}; {mend}"))
}

fn exit_of(code: u8) -> Exit {
    [
        Exit::Usage,
        Exit::Unreachable,
        Exit::Invalid,
        Exit::Permission,
        Exit::Conflict,
        Exit::RolledBack,
        Exit::Stale,
    ]
    .into_iter()
    .find(|exit| *exit as u8 == code)
    .unwrap_or(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_exit_three_with_a_hint() {
        let stop = ask(Path::new("/nonexistent/gateway.sock"), &Request::Peers).unwrap_err();
        assert_eq!(stop.exit, Exit::Unreachable);
        assert!(stop.message.contains("--socket"));
    }
}
