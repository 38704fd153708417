//! `forwarder wait`: until a peer is up, or the target of a reach entry answers.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use daemon::exit::{Exit, ExitError};

use crate::control::client::ask_report;
use crate::control::report::{Entry, Report};
use crate::places::Place;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a connection through the tunnel may take before the next is tried.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Waits, and says what was reached; tries again while the daemon itself is not there yet.
///
/// # Errors
/// Nothing of this name, or the time is over.
pub(super) fn wait(places: &[Place], name: &str, limit: Duration, json: bool) -> Result<String, ExitError> {
    let started = Instant::now();
    loop {
        let (is_reached, why, exit) = match ask_report(places) {
            Ok(report) => {
                let (is_reached, why) = look(&report, places, name)?;
                (is_reached, why, Exit::Failed)
            }
            Err(error) if error.exit == Exit::Permission => return Err(error),
            Err(error) => (false, error.message, error.exit),
        };
        let waited = started.elapsed();
        if is_reached {
            return Ok(match json {
                true => {
                    serde_json::json!({"schema": 1, "name": name, "waited_seconds": waited.as_secs_f64()})
                        .to_string()
                }
                false => format!("{name} is up after {:.1} s", waited.as_secs_f64()),
            });
        }
        if waited >= limit {
            return Err(ExitError::new(exit, format!("{name}: {why}, waited {} s", limit.as_secs())));
        }
        sleep(PAUSE.min(limit - waited));
    }
}

fn look(report: &Report, places: &[Place], name: &str) -> Result<(bool, String), ExitError> {
    if let Some(peer) = report.peers.iter().find(|peer| peer.name == name) {
        return Ok((peer.state == "up", format!("its state is {}", peer.state)));
    }
    match report.reach.iter().find(|entry| entry.name == name) {
        // What a UDP service answers to is not known.
        Some(entry) if entry.protocols == "udp" => {
            let peer = report.peers.iter().find(|peer| Some(&peer.name) == entry.peer.as_ref());
            let is_up = peer.is_some_and(|peer| peer.state == "up");
            Ok((is_up, format!("its peer {} is not up", entry.peer.as_deref().unwrap_or_default())))
        }
        Some(entry) => Ok((answers(entry, places), format!("{} does not answer", entry.to))),
        None => Err(ExitError::new(Exit::Usage, format!("there is no peer and no [[reach]] named {name}"))),
    }
}

/// Opens a connection at the entry's listener and sees whether the target takes it.
fn answers(entry: &Entry, places: &[Place]) -> bool {
    let Ok(listener) = entry.from.parse::<SocketAddr>() else { return false };
    let Ok(_connection) = TcpStream::connect_timeout(&listener, ATTEMPT) else { return false };
    let connected = |entry: &Entry| entry.dials.get("ok").copied().unwrap_or(0);
    let started = Instant::now();
    while started.elapsed() < ATTEMPT {
        let now = ask_report(places)
            .ok()
            .and_then(|report| report.reach.into_iter().find(|now| now.name == entry.name));
        if now.is_some_and(|now| connected(&now) > connected(entry)) {
            return true;
        }
        sleep(PAUSE / 5);
    }
    false
}
