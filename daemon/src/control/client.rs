//! A caller's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{MAX_LINE, Outcome};
use crate::exit::{Exit, ExitError};

/// The slowest answer is an apply of a large configuration.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon answers there, or this user may not ask it.
    #[error("{}: {error}", socket.display())]
    Unreachable {
        /// Which socket.
        socket: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The answer is none of this version.
    #[error("the daemon's answer is not understood ({0}); are both of one version?")]
    NotUnderstood(#[from] serde_json::Error),
    /// The daemon refuses, or failed.
    #[error(transparent)]
    Failed(#[from] ExitError),
}

impl AskError {
    /// Whether there is a socket that this user may not use.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Unreachable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } if self.is_denied() => Exit::Permission,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::NotUnderstood(_) => Exit::Failed,
            Self::Failed(error) => error.exit,
        }
    }
}

/// Sends the daemon one request.
///
/// # Errors
/// [`AskError`]
pub fn ask<R: DeserializeOwned>(socket: &Path, request: &impl Serialize) -> Result<R, AskError> {
    let unreachable = |error: io::Error| AskError::Unreachable { socket: socket.to_owned(), error };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(unreachable)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(unreachable)?;
    // A refused request may be answered, and the socket closed, before all of it is written: the
    // answer says why.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut answer).map_err(unreachable)?;
    if answer.is_empty() {
        written.map_err(unreachable)?;
        let message = "the daemon closed the connection without an answer";
        return Err(ExitError::new(Exit::Unreachable, message).into());
    }
    match understood(&answer)? {
        Outcome::Failed { exit, message } => Err(ExitError { exit: Exit::from_code(exit), message }.into()),
        Outcome::Done(reply) => Ok(reply),
    }
}

/// The reply, with terminal control characters escaped: a compromised daemon could otherwise
/// control root's terminal.
fn understood<R: DeserializeOwned>(answer: &[u8]) -> serde_json::Result<Outcome<R>> {
    let mut value: Value = serde_json::from_slice(answer)?;
    // Only these have line breaks and tabs.
    let has_lines = value.get("dump").is_some() || value.get("failed").is_some();
    make_printable(&mut value, has_lines);
    serde_json::from_value(value)
}

fn make_printable(value: &mut Value, has_lines: bool) {
    match value {
        Value::String(text) => {
            let is_control = |character: char| {
                is_terminal_control(character) && !(has_lines && matches!(character, '\n' | '\t'))
            };
            if text.contains(is_control) {
                let shown = |character: char| {
                    if is_control(character) {
                        character.escape_unicode().to_string()
                    } else {
                        character.to_string()
                    }
                };
                *text = text.chars().map(shown).collect();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| make_printable(item, has_lines)),
        Value::Object(fields) => fields.values_mut().for_each(|field| make_printable(field, has_lines)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a terminal acts on the character instead of showing it: control characters, and those
/// that change the direction of the text.
fn is_terminal_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Reply {
        File { path: PathBuf },
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let error = ask::<Reply>(Path::new("/nonexistent/a.sock"), &"status").unwrap_err();
        assert_eq!(error.exit(), Exit::Unreachable);
        assert!(error.to_string().contains("/nonexistent/a.sock"), "{error}");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let escape = "\u{1b}]0;pwned\u{7}\u{9b}31m\u{202e}";
        let failed: Outcome<Reply> = Outcome::Failed { exit: 1, message: format!("a\n\tb{escape}") };
        let answer = serde_json::to_vec(&failed).unwrap();
        let message = "a\n\tb\\u{1b}]0;pwned\\u{7}\\u{9b}31m\\u{202e}".to_owned();
        assert_eq!(understood::<Reply>(&answer).unwrap(), Outcome::Failed { exit: 1, message });

        let file = Outcome::Done(Reply::File { path: "/etc/a\nproblem: none".into() });
        let shown = Reply::File { path: "/etc/a\\u{a}problem: none".into() };
        assert_eq!(understood::<Reply>(&serde_json::to_vec(&file).unwrap()).unwrap(), Outcome::Done(shown));
    }
}
