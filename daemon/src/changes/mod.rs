//! Changes of the configuration of a running daemon: the requests over the control socket, and both
//! sides of it.
//!
//! - `command`: the operator's side: `plan`, `apply`, `confirm`, `rollback`, `reload`. It alone writes the daemon's file.
//! - `confirm`: the daemon's side: a change that is rolled back unless it is confirmed in time.
//! - `operator`: the folder of the operator's commands, which the daemon reads and never writes.
//! - `pending`: a change that waits, and when its time is over.
//! - `went_back`: an upgrade that failed, as root's script noted it in that folder.

mod command;
mod confirm;
mod operator;
mod pending;
mod went_back;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use command::{Commands, Needs, named};
pub use confirm::{Applies, Confirmable, Startup, Text, is_file_in_force, resume};
pub use operator::{OperatorState, Trusted, is_only_roots, is_trusted};
pub use pending::{Moment, Outcome, Pending, Trial, Trials};
pub use went_back::WentBack;

use crate::text::Style;

/// Requests that change the configuration, or show what would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChangeRequest {
    /// Which file the daemon was started with.
    OwnFile,
    /// What a configuration would change.
    Plan {
        /// The file's name, for messages; files that the text names are looked for next to the daemon's own file.
        name: PathBuf,
        /// Its text.
        text: String,
    },
    /// Applies a configuration; only for writers.
    Apply {
        /// As for [`ChangeRequest::Plan`].
        name: PathBuf,
        /// Its text.
        text: String,
        /// Rolls back unless [`ChangeRequest::Confirm`] comes in time; permanent when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<Confirmation>,
    },
    /// Keeps the change that waits; only for writers.
    Confirm {
        /// Its name in the operator's folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Rolls back the change that waits, if one does; only for writers.
    RollBack,
    /// Reads the daemon's own file, its lists and keys again; only for writers.
    Reload,
}

/// A change that needs a confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// Its name in the operator's folder.
    pub id: String,
    /// After so many seconds.
    pub seconds: u64,
}

impl ChangeRequest {
    /// Whether only root and the daemon's own user may ask this.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        // A plan reads the key files that the text names.
        !matches!(self, Self::OwnFile)
    }
}

/// The answer to a [`ChangeRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeReply {
    /// To [`ChangeRequest::OwnFile`].
    OwnFile {
        /// Its absolute path, links not followed.
        path: PathBuf,
        /// Whether it holds what is in force.
        in_force: bool,
        /// Seconds for which a change still waits for its confirmation; `None` when none does.
        waits_seconds: Option<u64>,
    },
    /// To [`ChangeRequest::Plan`], [`ChangeRequest::Apply`] and [`ChangeRequest::Reload`].
    Changes(Changes),
    /// To [`ChangeRequest::RollBack`].
    RolledBack {
        /// Whether a change waited.
        was_waiting: bool,
    },
    /// To [`ChangeRequest::Confirm`].
    Confirmed,
}

/// What `plan --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The version of the schema.
    pub schema: u32,
    /// What would change, or did.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `ruleset`, `route`, `rule`, `sysctl`, `device`, `peer`, `service`, `reach`, `limits`, `key`, `list`, `metrics`, `log`,
    /// `offload` or `reload`; `restart` for what cannot change while the daemon runs.
    pub part: String,
    /// `+ …`, `- …` or `~ … → …`.
    pub line: String,
}

impl Changes {
    /// As the policy lists them.
    #[must_use]
    pub fn of(changes: Vec<policy::plan::Change>) -> Self {
        let change =
            |change: policy::plan::Change| Change { part: change.part.to_owned(), line: change.line };
        Self { schema: 1, changes: changes.into_iter().map(change).collect() }
    }

    /// For people, a line each.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        if self.changes.is_empty() {
            return "nothing would change\n".to_owned();
        }
        let line = |change: &Change| {
            let code = match change.line.as_bytes().first() {
                Some(b'+') => "32",
                Some(b'-') => "31",
                _ => "33",
            };
            format!("{:<8} {}\n", change.part, style.paint(code, &change.line))
        };
        self.changes.iter().map(line).collect()
    }
}
