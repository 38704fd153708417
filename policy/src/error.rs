//! What can be wrong with a configuration, and how to mend it.

use std::fmt;

use crate::Position;

/// One error in a configuration; prints as `file:line:column: what is wrong; how to mend it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct ConfigError {
    /// Where.
    pub at: Position,
    /// What, and the mend.
    pub problem: Problem,
}

impl ConfigError {
    /// The exit code of a daemon or tool that stops because of this error: 5 for the mode of a key file, else 4.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.problem {
            Problem::KeyFileMode { .. } | Problem::UnreadableFile { .. } => 5,
            _ => 4,
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

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A key file that the configuration names does not exist.
    #[error("{file} does not exist; create it with `gatewayctl keygen`, or correct the path")]
    MissingFile {
        /// The file.
        file: String,
    },
    /// A key file that others than its owner may read.
    #[error("{file} has mode {mode:04o}, which lets others read the key; run: chmod 0600 {file}")]
    KeyFileMode {
        /// The file.
        file: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that could not be read.
    #[error("{file} cannot be read: {reason}; give the daemon's user permission, or correct the path")]
    UnreadableFile {
        /// The file.
        file: String,
        /// The system's words.
        reason: String,
    },
    /// A key file whose content is not a key.
    #[error(
        "{file} does not hold a key; it must be one line of base64 of 32 bytes, as `gatewayctl keygen` writes"
    )]
    MalformedKeyFile {
        /// The file.
        file: String,
    },
    /// A systemd credential while the daemon has no credentials folder.
    #[error(
        "credential {name:?} is named but CREDENTIALS_DIRECTORY is not set; \
         start the daemon by systemd with LoadCredential=, or name a path"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
}
