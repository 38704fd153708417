//! The other end of the control socket: what the subcommands ask.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::report::Report;
use super::server::REPORT;

/// Longest answer in bytes: far above what thousands of entries take.
const MAX_ANSWER: u64 = 16 << 20;
/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers.
    #[error("{path}: {error}; is the forwarder running? name its socket with --socket")]
    Unreachable {
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

/// Asks the daemon at this socket for its report.
///
/// # Errors
/// [`AskError`]
pub fn ask(socket: &Path) -> Result<Report, AskError> {
    let path = socket.display().to_string();
    match exchange(socket) {
        Ok(answer) => {
            serde_json::from_slice(&answer).map_err(|error| AskError::NotUnderstood { path, error })
        }
        Err(error) => Err(AskError::Unreachable { path, error }),
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
