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
/// is refused, and does not wait long for what only cannot be judged.
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
        if is_done(&progress, started.elapsed(), wait) {
            return Ok(progress);
        }
        sleep(PAUSE);
    }
}

fn is_done(progress: &Progress, elapsed: Duration, wait: Option<Duration>) -> bool {
    let is_decided = !progress.is_undecided || elapsed >= REPLY;
    !progress.refused.is_empty()
        || match wait {
            Some(limit) => progress.missing.is_empty() && is_decided || elapsed >= limit,
            None => is_decided,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_waited_for_as_long_as_asked_and_what_is_not_judged_a_moment() {
        let (soon, later, limit) = (Duration::from_secs(1), REPLY, Duration::from_secs(300));
        let undecided = |progress: Progress| Progress { is_undecided: true, ..progress };
        for (progress, without_wait, with_wait) in [
            (Progress::default(), [true, true, true], [true, true, true]),
            (Progress::missing("a record"), [true, true, true], [false, false, true]),
            (undecided(Progress::missing("a reply")), [false, true, true], [false, false, true]),
            (undecided(Progress::note("not checked")), [false, true, true], [false, true, true]),
            (
                Progress { refused: vec!["443".to_owned()], ..undecided(Progress::missing("more")) },
                [true, true, true],
                [true, true, true],
            ),
        ] {
            let done = |wait| [soon, later, limit].map(|elapsed| is_done(&progress, elapsed, wait));
            assert_eq!((done(None), done(Some(limit))), (without_wait, with_wait), "{progress:?}");
        }
    }
}
