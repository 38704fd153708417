//! The gateway's reports.

use std::path::Path;

use daemon::exit::{Exit, ExitError};
use daemon::status::Side;
use gateway::control::client::{self, DEFAULT_SOCKET};
use gateway::control::protocol::{Reply, Request};
use gateway::control::report;

/// Asks the gateway of this machine.
///
/// # Errors
/// When none answers.
pub(crate) fn ask(socket: Option<&Path>) -> Result<Side, ExitError> {
    let socket = socket.unwrap_or(Path::new(DEFAULT_SOCKET));
    let ask = |request| client::ask(socket, &request);
    let (Reply::Status(status), Reply::Peers(peers), Reply::Services(services)) =
        (ask(Request::Status)?, ask(Request::Peers)?, ask(Request::Services)?)
    else {
        return Err(ExitError::new(Exit::Failed, "the daemon sent the answer to another request"));
    };
    Ok(report::side(status, peers, services))
}
