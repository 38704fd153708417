//! The histories of this machine's daemons.

use std::path::Path;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

use daemon::exit::{Exit, ExitError};
use daemon::history::{Page, Query, Record};
use daemon::link::history::FarHistory;
use forwarder::control::client as forwarder_client;
use forwarder::places::{Environment, Place};
#[cfg(target_os = "linux")]
use gateway::control::client as gateway_client;

/// The most records that are shown.
const MOST: usize = 100_000;

/// Where the daemons are looked for.
pub(super) struct Where<'w> {
    pub(super) config: Option<&'w Path>,
    pub(super) socket: Option<&'w Path>,
}

/// A daemon of this machine with its records.
pub(super) struct Near {
    /// `edge` or `origin`.
    pub(super) role: &'static str,
    /// Oldest first.
    pub(super) records: Vec<Record>,
    daemon: Daemon,
}

enum Daemon {
    #[cfg(target_os = "linux")]
    Gateway(PathBuf),
    Forwarder(Vec<Place>),
}

impl Daemon {
    fn page(&self, query: Query) -> Result<Page, ExitError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Gateway(socket) => gateway_client::ask_history(socket, query),
            Self::Forwarder(places) => forwarder_client::ask_history(places, query),
        }
    }
}

impl Near {
    /// What happened at the other ends.
    pub(super) fn ask_far(&self, seconds: u64) -> Result<Vec<FarHistory>, ExitError> {
        match &self.daemon {
            #[cfg(target_os = "linux")]
            Daemon::Gateway(socket) => gateway_client::ask_far_history(socket, seconds),
            Daemon::Forwarder(places) => forwarder_client::ask_far_history(places, seconds),
        }
    }

    /// What its other ends are.
    pub(super) fn far_role(&self) -> &'static str {
        if self.role == "edge" { "origin" } else { "edge" }
    }
}

/// The daemons that answer, with their records since then, and what the others refuse.
///
/// # Errors
/// When none answers.
pub(super) fn ask(
    place: &Where<'_>,
    since: u64,
    with_minutes: bool,
) -> Result<(Vec<Near>, Vec<String>), ExitError> {
    let mut nears = Vec::new();
    let mut errors = Vec::new();
    for (role, daemon) in daemons(place)? {
        match records(&daemon, since, with_minutes) {
            Ok(records) => nears.push(Near { role, records, daemon }),
            Err(error) => errors.push((role, error)),
        }
    }
    let line = |(role, error): &(&str, ExitError)| format!("{role}: {error}");
    if nears.is_empty() {
        let exits = errors.iter().map(|(_, error)| error.exit);
        let exit = exits.into_iter().find(|exit| *exit != Exit::Unreachable).unwrap_or(Exit::Unreachable);
        return Err(ExitError::new(exit, errors.iter().map(line).collect::<Vec<_>>().join("\n")));
    }
    // Most machines have one of the two; one socket is that of one daemon.
    errors.retain(|(_, error)| place.socket.is_none() && error.exit != Exit::Unreachable);
    Ok((nears, errors.iter().map(line).collect()))
}

fn daemons(place: &Where<'_>) -> Result<Vec<(&'static str, Daemon)>, ExitError> {
    let mut daemons = Vec::new();
    #[cfg(target_os = "linux")]
    {
        let socket = place.socket.unwrap_or(Path::new(gateway_client::DEFAULT_SOCKET));
        daemons.push(("edge", Daemon::Gateway(socket.to_owned())));
    }
    let places = match (place.socket, place.config) {
        (Some(socket), _) => vec![Place::at(socket.to_owned())],
        (None, Some(config)) => {
            let policy = forwarder::config::read(config)?;
            Environment::of_process().client_sockets(Some(&policy))
        }
        (None, None) => Environment::of_process().client_sockets(None),
    };
    daemons.push(("origin", Daemon::Forwarder(places)));
    Ok(daemons)
}

/// Page after page until the newest; from the beginning again when the ring became another one.
fn records(daemon: &Daemon, since: u64, with_minutes: bool) -> Result<Vec<Record>, ExitError> {
    let mut records: Vec<Record> = Vec::new();
    let mut ring = None;
    while records.len() < MOST {
        let after = records.last().map(|record| record.number);
        let query = Query { after, since: Some(since), limit: None, no_minutes: !with_minutes };
        let page = daemon.page(query)?;
        if ring.as_ref().is_some_and(|ring| *ring != page.ring) {
            records.clear();
        } else if page.records.is_empty() {
            break;
        } else {
            records.extend(page.records);
        }
        ring = Some(page.ring);
    }
    Ok(records)
}
