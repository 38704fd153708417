//! The forwarder's report.

use std::path::Path;

use daemon::exit::ExitError;
use forwarder::control::client::{ask_report, ask_visited};
use forwarder::control::report::{Entry, Report};
use forwarder::places::{Environment, Place};

use super::side::{Service, Side};

/// Asks the forwarder of this machine; with `now`, once it has visited every name.
///
/// # Errors
/// When none answers.
pub(crate) fn ask(config: Option<&Path>, socket: Option<&Path>, now: bool) -> Result<Side, ExitError> {
    let places = places(config, socket)?;
    let report = if now { ask_visited(&places) } else { ask_report(&places) };
    report.map(of)
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

fn of(report: Report) -> Side {
    Side {
        role: "origin",
        version: report.version,
        peers: report.peers,
        services: report.services.into_iter().map(service).collect(),
        problems: report.problems,
        notes: report.notes,
    }
}

fn service(entry: Entry) -> Service {
    let health = entry.health.unwrap_or_default();
    Service {
        name: entry.name,
        is_public: (!entry.publish.is_empty()).then_some(true),
        from: entry.from,
        to: entry.to,
        state: health.state,
        failing: health.failing,
        hops: health.hops,
        names: entry.names,
        publish: entry.publish,
    }
}
