//! The forwarder's report.

use std::path::Path;

use daemon::exit::ExitError;
use daemon::status::Side;
use forwarder::control::client::{ask_report, ask_visited};
use forwarder::places::{Environment, Place};

/// Asks the forwarder of this machine; with `now`, once it has visited every name.
///
/// # Errors
/// When none answers.
pub(crate) fn ask(config: Option<&Path>, socket: Option<&Path>, now: bool) -> Result<Side, ExitError> {
    let places = places(config, socket)?;
    let report = if now { ask_visited(&places) } else { ask_report(&places) };
    report.map(Side::from)
}

/// Where the control socket may be.
///
/// # Errors
/// Every error in the file.
pub(crate) fn places(config: Option<&Path>, socket: Option<&Path>) -> Result<Vec<Place>, ExitError> {
    Ok(match (socket, config) {
        (Some(socket), _) => vec![Place::at(socket.to_owned())],
        (None, Some(config)) => {
            let policy = forwarder::config::read(config)?;
            Environment::of_process().client_sockets(Some(&policy))
        }
        (None, None) => Environment::of_process().client_sockets(None),
    })
}
