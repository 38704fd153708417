//! How the programs end: one number per answer a script may want.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of every Causeway program that this crate holds.
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
    /// A change was taken back.
    RolledBack = 7,
    /// Only what was known before can be had.
    Stale = 8,
    /// It works, but not as configured.
    Degraded = 10,
    /// It does not work.
    Broken = 11,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ends a program, with the lines a person reads on standard error.
#[derive(Debug)]
pub struct Stop {
    /// The code.
    pub exit: Exit,
    /// One or more lines: what happened, and how to mend it.
    pub message: String,
}

impl Stop {
    /// Ends with `exit`, saying `message`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}
