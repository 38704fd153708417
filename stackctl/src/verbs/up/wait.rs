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
/// How many of a failed container's last lines are shown.
const LINES: usize = 30;
const PAUSE: Duration = Duration::from_millis(500);
/// Looks in a row that must be good: a container that crashes at once looks fine for a moment.
const GOOD_LOOKS: u32 = 3;
/// As many where a container has no health check, so that only time shows that it stays.
const GOOD_LOOKS_UNCHECKED: u32 = 6;

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
        let looks: Vec<Look<'_>> =
            running.iter().map(|container| container.look(crate::shell::now())).collect();
        match judge(wanted, &looks) {
            Verdict::Healthy => {
                good += 1;
                let unchecked = looks.iter().any(|look| look.status == "running" && look.health == "-");
                let enough = if unchecked { GOOD_LOOKS_UNCHECKED } else { GOOD_LOOKS };
                if good >= enough || !changed {
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

/// What already crashes among containers that were not there before, while Compose is still at work.
///
/// Compose itself waits for ever for a dependency that crashes again and again.
pub(super) fn failed_meanwhile(
    session: &Session,
    docker: &Docker,
    service: &str,
    wanted: &[&str],
    before: &[Running],
) -> Option<Fault> {
    let mut running = wanted_containers(docker, session, service).ok()?;
    running.retain(|container| !before.iter().any(|old| old.id == container.id));
    let now = crate::shell::now();
    let crashing = running.iter().find(|one| one.look(now).crashes() && wanted.contains(&one.service()))?;
    let (_, why) = crashing.look(now).problem()?;
    Some(unhealthy(session, docker, service, &running, crashing.service(), &why))
}

/// What has failed by now, after Compose itself gave up.
pub(super) fn failed_now(
    session: &Session,
    docker: &Docker,
    service: &str,
    wanted: &[&str],
) -> Result<Option<Fault>, Fault> {
    let running = wanted_containers(docker, session, service)?;
    let now = crate::shell::now();
    let looks: Vec<Look<'_>> = running.iter().map(|container| container.look(now)).collect();
    let Verdict::Failed { service: name, why } = judge(wanted, &looks) else { return Ok(None) };
    Ok(Some(unhealthy(session, docker, service, &running, &name, &why)))
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
        .map(|container| masked_lines(session, docker, service, container, LINES))
        .unwrap_or_default();
    let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
    Fault::Failed(format!("{service}/{name}: {}{lines}", masked(session, service, why)))
}

/// A container's last lines without any secret: a service may print its own, stackctl does not.
pub fn masked_lines(
    session: &Session,
    docker: &Docker,
    service: &str,
    container: &Running,
    count: usize,
) -> Vec<String> {
    let text = docker.last_lines(&session.location.dir, container, count);
    masked(session, service, &text).lines().map(str::to_owned).collect()
}

/// A text of Docker's or a container's without any secret; empty when the secrets cannot be read.
pub fn masked(session: &Session, service: &str, text: &str) -> String {
    let vars = session.vars().and_then(|vars| session.vars_of(&vars, service));
    vars.map(|vars| vars.mask(text)).unwrap_or_default()
}
