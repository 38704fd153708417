//! What can be wrong with a configuration, and how to fix it.

use std::fmt;

use crate::{Position, Problem};

/// One error in a configuration; prints as `file:line:column: what is wrong; how to fix it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct ConfigError {
    /// Where.
    pub at: Position,
    /// What, and the fix.
    pub problem: Problem,
}

impl ConfigError {
    /// The exit code of a daemon or tool that stops because of this error: 5 for a file's mode or
    /// permission, else 4.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(
            self.problem,
            Problem::KeyFileMode { .. }
                | Problem::UnreadableFile { .. }
                | Problem::UnreadableSecretFile { .. }
        ) {
            5
        } else {
            4
        }
    }
}

/// Something that is allowed but probably not meant; prints like an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub at: Position,
    /// What, and why it is probably not meant.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: warning: {}", self.at, self.message)
    }
}
