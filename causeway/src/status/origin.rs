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
pub(super) fn ask(config: Option<&Path>, socket: Option<&Path>, now: bool) -> Result<Side, ExitError> {
    let places = match (socket, config) {
        (Some(socket), _) => vec![Place::at(socket.to_owned())],
        (None, Some(config)) => {
            let policy = forwarder::config::read(config)?;
            Environment::of_process().client_sockets(Some(&policy))
        }
        (None, None) => Environment::of_process().client_sockets(None),
    };
    let report = if now { ask_visited(&places) } else { ask_report(&places) };
    report.map(Side::from)
}
