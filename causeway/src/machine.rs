//! This machine and this program, as the other end of a pairing and the user see them.

use std::io::{IsTerminal as _, stdin};

use daemon::exit::{Exit, ExitError};
use policy::Name;

/// The first part of the machine's name, as far as it is a name; else `other`.
///
/// # Errors
/// When `other` is none either.
pub(crate) fn name_or(other: &str) -> Result<Name, ExitError> {
    let uname = rustix::system::uname();
    let host_name = uname.nodename().to_string_lossy();
    let first = host_name.split('.').next().and_then(Name::new);
    first.or_else(|| Name::new(other)).ok_or_else(|| ExitError::new(Exit::Failed, "this machine has no name"))
}

/// The version of this program.
///
/// # Errors
/// When it is no name.
pub(crate) fn version() -> Result<Name, ExitError> {
    Name::new(env!("CARGO_PKG_VERSION"))
        .ok_or_else(|| ExitError::new(Exit::Failed, "the version of this program is no name"))
}

/// Whether a person can answer on standard input.
pub(crate) fn is_interactive() -> bool {
    stdin().is_terminal()
}
