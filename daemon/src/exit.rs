//! How programs end: one number for each answer that a script may need.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// The exit codes of the daemons and of the commands that ask them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It did not work.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon does not answer.
    Unreachable = 3,
    /// The configuration is invalid.
    Invalid = 4,
    /// A permission, a capability, a program, or a key file's mode.
    Permission = 5,
    /// Another process holds what is needed.
    Conflict = 6,
    /// A change was rolled back.
    RolledBack = 7,
    /// The answer is an old one.
    Stale = 8,
    /// It works, but not as configured.
    Degraded = 10,
    /// It does not work.
    Broken = 11,
}

impl Exit {
    /// [`Exit::Permission`] where the system denies access, else [`Exit::Failed`].
    #[must_use]
    pub fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Permission,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code that a program ended with; [`Exit::Failed`] for a number that is none of them.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        let known = [
            Self::Ok,
            Self::Usage,
            Self::Unreachable,
            Self::Invalid,
            Self::Permission,
            Self::Conflict,
            Self::RolledBack,
            Self::Stale,
            Self::Degraded,
            Self::Broken,
        ];
        known.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }
}

/// Why a program ends, with the lines for standard error.
#[derive(Debug)]
pub struct ExitError {
    /// The code.
    pub exit: Exit,
    /// One or more lines: what happened, and how to fix it.
    pub message: String,
}

impl ExitError {
    /// Ends with `exit` and prints `message`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExitError {}
