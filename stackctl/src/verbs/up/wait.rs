//! Waiting for a service to become healthy, with what is waited for on standard error.

use std::time::{Duration, Instant};

use super::wanted_containers;
use crate::fault::Fault;
use crate::health::{Look, Verdict, judge};
use crate::shell::docker::{Docker, Running};
use crate::shell::process::notify;
use crate::verbs::session::Session;

/// How long a service may take to become healthy unless something else is said.
pub const WAIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);
/// Looks in a row that must be good: a container that crashes at once looks fine for a moment.
const GOOD_LOOKS: u32 = 3;

/// Waits until every wanted container is healthy; else says which is not, with its last lines.
pub fn until_healthy(
    session: &Session,
    docker: &Docker,
    service: &str,
    wanted: &[&str],
    limit: Duration,
    changed: bool,
) -> Result<Vec<Running>, Fault> {
    let start = Instant::now();
    let mut said = String::new();
    let mut good = 0;
    loop {
        let running = wanted_containers(docker, session, service)?;
        let looks: Vec<Look<'_>> = running.iter().map(look).collect();
        match judge(wanted, &looks) {
            Verdict::Healthy => {
                good += 1;
                if good >= GOOD_LOOKS || !changed {
                    return Ok(running);
                }
            }
            Verdict::Failed { service: name, why } => {
                return Err(unhealthy(session, docker, service, &running, &name, &why));
            }
            Verdict::Waiting(what) => {
                good = 0;
                if start.elapsed() >= limit {
                    let why = format!("not healthy after {} s ({what})", limit.as_secs());
                    let name = what.split_whitespace().next().unwrap_or_default().to_owned();
                    return Err(unhealthy(session, docker, service, &running, &name, &why));
                }
                if what != said {
                    notify(&format!("{service}: waiting for {what} ({} s)", start.elapsed().as_secs()));
                    said = what;
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn look(container: &Running) -> Look<'_> {
    Look {
        service: container.service(),
        status: &container.state.status,
        health: container.health(),
        exit_code: container.state.exit_code,
        restarts: container.restarts(),
    }
}

fn unhealthy(
    session: &Session,
    docker: &Docker,
    service: &str,
    running: &[Running],
    name: &str,
    why: &str,
) -> Fault {
    let container = running.iter().find(|container| container.service() == name);
    let lines = container
        .map(|container| docker.last_lines(&session.location.dir, &container.id))
        .unwrap_or_default();
    // A service may print its own secrets; stackctl does not.
    let lines = session.vars().map(|vars| vars.mask(&lines)).unwrap_or_default();
    let lines: String = lines.lines().map(|line| format!("\n  {line}")).collect();
    Fault::Failed(format!("{service}: {name} is not well: {why}{lines}"))
}
