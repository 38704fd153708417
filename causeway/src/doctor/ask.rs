//! Asks the daemons of this machine: the part of `causeway doctor` that reads.

use std::path::{Path, PathBuf};

use daemon::diagnosis::Diagnosis;
use daemon::exit::{Exit, ExitError};

use crate::status::origin;
use daemon::status::{Service, Side};

/// What a daemon of this machine said, or why it did not.
pub(super) struct Seen {
    /// `edge` or `origin`.
    pub(super) role: &'static str,
    /// Its reports.
    pub(super) reports: Result<Reports, ExitError>,
}

/// What a daemon reported.
pub(super) struct Reports {
    /// Its peers and services.
    pub(super) side: Side,
    /// What is wrong; `None` from a release that does not report it so.
    pub(super) diagnosis: Option<Diagnosis>,
    /// The configuration file of an edge.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "an edge runs on Linux"))]
    pub(super) config: Option<PathBuf>,
}

/// Both roles: that of the gateway, and that of the forwarder; with `now`, once that has visited
/// every name.
pub(super) fn both(socket: Option<&Path>, service: Option<&str>, now: bool) -> [Seen; 2] {
    [
        Seen { role: "edge", reports: edge(socket, service) },
        Seen { role: "origin", reports: origin(socket, service, now) },
    ]
}

#[cfg(target_os = "linux")]
fn edge(socket: Option<&Path>, service: Option<&str>) -> Result<Reports, ExitError> {
    use gateway::control::client::{DEFAULT_SOCKET, ask};
    use gateway::control::protocol::{Reply, Request};

    let side = crate::status::edge::ask(socket)?;
    let service = own(&side, service).map(str::to_owned);
    let socket = socket.unwrap_or(Path::new(DEFAULT_SOCKET));
    let diagnosis = match ask(socket, &Request::Diagnose { service }) {
        Ok(Reply::Diagnosis(diagnosis)) => Some(diagnosis),
        Ok(_) => None,
        Err(error) => known_to_be_older(error)?,
    };
    let config = match ask(socket, &Request::Status) {
        Ok(Reply::Status(status)) => Some(PathBuf::from(status.config)),
        Ok(_) | Err(_) => None,
    };
    Ok(Reports { side, diagnosis, config })
}

#[cfg(not(target_os = "linux"))]
fn edge(_: Option<&Path>, _: Option<&str>) -> Result<Reports, ExitError> {
    Err(ExitError::new(Exit::Unreachable, "an edge runs on Linux"))
}

fn origin(socket: Option<&Path>, service: Option<&str>, now: bool) -> Result<Reports, ExitError> {
    let side = origin::ask(None, socket, now)?;
    let places = origin::places(None, socket)?;
    let service = own(&side, service);
    let diagnosis = match forwarder::control::client::ask_diagnosis(&places, service) {
        Ok(diagnosis) => Some(diagnosis),
        Err(error) => known_to_be_older(error)?,
    };
    Ok(Reports { side, diagnosis, config: None })
}

/// The service that is asked for, or that has the name which is.
fn own<'s>(side: &'s Side, only: Option<&str>) -> Option<&'s str> {
    let only = only?;
    let has = |service: &&Service| service.name == only || service.names.iter().any(|name| name.name == only);
    side.services.iter().find(has).map(|service| service.name.as_str())
}

/// A daemon that does not know the request is of an older release.
fn known_to_be_older(error: ExitError) -> Result<Option<Diagnosis>, ExitError> {
    if error.exit == Exit::Usage { Ok(None) } else { Err(error) }
}
