//! The gateway's reports.

use std::path::Path;

use daemon::exit::{Exit, ExitError};
use gateway::control::client::{self, DEFAULT_SOCKET};
use gateway::control::protocol::{Reply, Request};
use gateway::control::report;

use super::side::{Service, Side};

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
    Ok(Side {
        role: "edge",
        version: status.version,
        peers: peers.peers,
        services: services.services.into_iter().map(service).collect(),
        problems: status.problems,
        notes: status.notes,
    })
}

fn service(service: report::Service) -> Service {
    Service {
        name: service.name,
        is_public: Some(service.kind != "allow"),
        from: service.from,
        to: service.to,
        state: service.health.state,
        failing: service.health.failing,
        hops: service.health.hops,
        names: service.names,
        publish: Vec::new(),
    }
}
