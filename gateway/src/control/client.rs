//! A caller's side of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

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
    match understood(&answer) {
        Ok(Reply::Failed { exit, message }) => Err(Stop::new(exit_of(exit), message)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(Stop::new(
            Exit::Failed,
            format!("the daemon's answer is not understood ({error}); are both of one version?"),
        )),
    }
}

/// The answer, without anything that a terminal would obey: a daemon that was taken over speaks to root here.
fn understood(answer: &[u8]) -> serde_json::Result<Reply> {
    let mut value: Value = serde_json::from_slice(answer)?;
    // Only these have lines and columns of their own.
    let has_lines = value.get("dump").is_some() || value.get("failed").is_some();
    make_printable(&mut value, has_lines);
    serde_json::from_value(value)
}

fn make_printable(value: &mut Value, has_lines: bool) {
    match value {
        Value::String(text) => {
            let obeyed = |letter: char| is_obeyed(letter) && !(has_lines && matches!(letter, '\n' | '\t'));
            if text.contains(obeyed) {
                let shown = |letter: char| {
                    if obeyed(letter) { letter.escape_unicode().to_string() } else { letter.to_string() }
                };
                *text = text.chars().map(shown).collect();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| make_printable(item, has_lines)),
        Value::Object(fields) => fields.values_mut().for_each(|field| make_printable(field, has_lines)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a terminal does something for the letter instead of showing it: control characters, and those that turn the
/// direction of writing.
fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let escape = "\u{1b}]0;pwned\u{7}\u{9b}31m\u{202e}";
        let failed = Reply::Failed { exit: 1, message: format!("a\n\tb{escape}") };
        let answer = serde_json::to_vec(&failed).unwrap();
        let Reply::Failed { message, .. } = understood(&answer).unwrap() else { panic!("another reply") };
        assert_eq!(message, "a\n\tb\\u{1b}]0;pwned\\u{7}\\u{9b}31m\\u{202e}");

        let own =
            Reply::OwnFile { path: "/etc/a\nproblem: none".into(), in_force: true, waits_seconds: None };
        let Reply::OwnFile { path, .. } = understood(&serde_json::to_vec(&own).unwrap()).unwrap() else {
            panic!("another reply")
        };
        assert_eq!(path.to_str(), Some("/etc/a\\u{a}problem: none"));
    }
}
