//! How `causeway` asks `causeway-agent`: the requests of its control socket, and where that is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::client::{self, AskError};
use crate::exit::ExitError;

/// The folder of the agent's socket at an edge, below `/run`, and of its state, below `/var/lib`.
pub const EDGE_FOLDER: &str = "causeway-agent";
/// Those at an origin.
pub const ORIGIN_FOLDER: &str = "causeway-forwarder-agent";
/// The socket's name.
pub const SOCKET: &str = "agent.sock";

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Sends a test message to every receiver; only for writers.
    Test,
    /// Which times there are in which nothing is sent.
    Quiets,
    /// Sends nothing from now on; only for writers.
    Quiet {
        /// For how long.
        seconds: u64,
        /// About this service or name alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Sends again; only for writers.
    QuietOff {
        /// About this service or name alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Test`]: each receiver with what went wrong.
    Tested(Vec<Tested>),
    /// To every other one: the times in which nothing is sent.
    Quiets(Vec<Quiet>),
}

/// What came of a test message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The receiver.
    pub name: String,
    /// What went wrong; `None` when it has the message.
    pub error: Option<String>,
}

/// A time in which nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// About this service or name; about everything when `None`.
    pub name: Option<String>,
    /// How long it still lasts.
    pub seconds: u64,
}

/// Where the agents of this machine have their sockets, and the unit of each.
#[must_use]
pub fn sockets() -> [(PathBuf, &'static str); 2] {
    [EDGE_FOLDER, ORIGIN_FOLDER].map(|folder| (Path::new("/run").join(folder).join(SOCKET), folder))
}

/// Sends one request to the agent at this socket.
///
/// # Errors
/// An error of exit code 3 when none answers, of 5 when this user may not ask, else
/// the agent's own error.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, ExitError> {
    client::ask(socket, request).map_err(|error| {
        let fix = match &error {
            AskError::Unreachable { .. } if error.is_denied() => "; use sudo",
            AskError::Unreachable { .. } | AskError::NotUnderstood(_) | AskError::Failed(_) => "",
        };
        ExitError::new(error.exit(), format!("{error}{fix}"))
    })
}
