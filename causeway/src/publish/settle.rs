//! Waiting until an edge has replied, or until nothing is missing, and the looks at this machine.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use daemon::exit::ExitError;
use daemon::peers::Peer;

use super::progress::{self, Progress};

/// How long an edge may take to reply, and a check to find what was just added.
const REPLY: Duration = Duration::from_secs(15);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a program here may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Looks until every edge has replied; with `wait`, until nothing is missing. Ends early when all
/// is refused.
///
/// # Errors
/// When the daemon does not answer.
pub(super) fn settle(
    wait: Option<Duration>,
    look: &dyn Fn() -> Result<Progress, ExitError>,
) -> Result<Progress, ExitError> {
    let started = Instant::now();
    loop {
        let progress = look()?;
        let is_done = match wait {
            Some(limit) => {
                progress.missing.is_empty() && !progress.is_undecided || started.elapsed() >= limit
            }
            None => !progress.is_undecided || started.elapsed() >= REPLY,
        };
        if is_done || !progress.refused.is_empty() {
            return Ok(progress);
        }
        sleep(PAUSE);
    }
}

/// Whether the program at an address accepts connections; of a name or a range nothing is known.
pub(super) fn program(upstream: &str) -> Progress {
    let Ok(address) = upstream.parse::<SocketAddr>() else { return Progress::default() };
    match TcpStream::connect_timeout(&address, CONNECT) {
        Ok(_) => Progress::default(),
        Err(error) => {
            Progress::missing(format!("no program accepts connections at {upstream} ({error}): start it"))
        }
    }
}

/// Where a name leads, as this machine's resolver has it.
pub(super) fn addresses(name: &str, peers: &[Peer], record: Option<&str>) -> Progress {
    let found = (name, 443).to_socket_addrs();
    let found: Vec<IpAddr> = found.into_iter().flatten().map(|address| address.ip()).collect();
    progress::of_addresses(name, &found, peers, record)
}
