//! `up`, `restart` and `down`: changes noticed, health awaited, the healthy state kept.

mod apply;
mod wait;

use std::time::Duration;

use serde_json::{Value, json};

use super::Report;
use super::prepare::{Stage, prepare};
use super::session::Session;
use crate::fault::Fault;
use crate::invocation::Project;
use crate::order::start_order;
use crate::shell::docker::{Docker, Running};
use crate::shell::history;
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::vars::Vars;

pub use apply::{UpOutcome, bring_up, remember, start};
pub use wait::{WAIT, masked, masked_lines, until_healthy};

/// How a service is brought up.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Go back to the previous generation when it does not become healthy.
    pub rollback: bool,
    /// How long it may take; the service's own limit, or [`WAIT`], when absent.
    pub wait: Option<Duration>,
    /// Also restart the containers that did not change.
    pub restart: bool,
}

/// Brings services up in the order of `[depends]`, going on past a failure.
pub fn up(session: &Session, services: &[String], how: &How) -> Result<Report, Fault> {
    let services =
        start_order(services, &session.stack.depends).map_err(|circle| Fault::Invalid(circle.to_string()))?;
    let _lock = session.lock()?;
    let store = session.store()?;
    super::setup::finish_interrupted(session, &store.manifest()?)?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.versions(&session.location.dir)?;
    each(session, &services, "up", |service| {
        let outcome = bring_up(session, &vars, &docker, &store, service, how)?;
        if !session.options.dry_run {
            outcome.changes().iter().for_each(|what| history::note(service, what));
        }
        Ok(outcome.report())
    })
}

/// Stops services, in the reverse order.
pub fn down(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let mut services =
        start_order(services, &session.stack.depends).map_err(|circle| Fault::Invalid(circle.to_string()))?;
    services.reverse();
    let _lock = session.lock()?;
    let store = session.store()?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.versions(&session.location.dir)?;
    each(session, &services, "down", |service| {
        let (project, _stage) = project_to_stop(session, &vars, &docker, &store, service)?;
        let running = docker.containers(&session.location.dir, Some(session.project(service)))?;
        refuse_foreign(session, service, &project.project_dir.to_string_lossy(), &running)?;
        let names: Vec<&str> = running.iter().map(Running::service).collect();
        if !session.options.dry_run {
            docker.compose_aside(&project, &["down"])?;
            history::note(service, "down");
        }
        Ok((format!("down: {} containers removed\n", names.len()), json!({"removed": names})))
    })
}

/// The project by its files, or by its newest generation when those are wrong: what runs can be stopped all the same.
fn project_to_stop(
    session: &Session,
    vars: &Vars,
    docker: &Docker,
    store: &Store,
    service: &str,
) -> Result<(Project, Option<Stage>), Fault> {
    let by_files = || {
        let prepared = prepare(session, vars, store, &store.manifest()?, service)?;
        let stage = prepared.stage(store)?;
        let project = prepared.project(&stage.0, false);
        docker.model(&project)?;
        Ok((project, Some(stage)))
    };
    let fault = match by_files() {
        Err(Fault::Invalid(text)) => Fault::Invalid(text),
        other => return other,
    };
    let Some(newest) = store.generations(service)?.pop() else { return Err(fault) };
    notify(&format!(
        "{fault}\n{service}: its files are wrong, so generation {} says what to stop",
        newest.number
    ));
    Ok((super::rollback::project(session, service, &newest, store)?, None))
}

/// Runs a verb for each service, collects what each says, and sums it up when there are several.
pub fn each(
    session: &Session,
    services: &[String],
    verb: &str,
    mut run: impl FnMut(&str) -> Result<(String, Value), Fault>,
) -> Result<Report, Fault> {
    let mut text = String::new();
    let mut rows = Vec::new();
    let mut failed: Vec<(String, Fault)> = Vec::new();
    for service in services {
        match run(service) {
            Ok((said, value)) => {
                let gap = if said.starts_with('\n') { "" } else { " " };
                text.push_str(&format!("{service}:{gap}{said}"));
                rows.push(json!({"service": service, "ok": true, "result": value}));
            }
            Err(fault) => {
                let (code, message) = (fault.exit_code(), fault.to_string());
                if services.len() > 1 {
                    let named = [":", "/"].iter().any(|end| message.starts_with(&format!("{service}{end}")));
                    notify(&if named { message.clone() } else { format!("{service}: {message}") });
                    text.push_str(&format!("{service}: failed (exit {code})\n"));
                }
                rows.push(json!({"service": service, "ok": false, "exit": code, "error": message}));
                failed.push((service.clone(), fault));
            }
        }
    }
    if services.len() > 1 {
        text.push_str(&format!(
            "{verb}: {} of {} services succeeded\n",
            services.len() - failed.len(),
            services.len()
        ));
    }
    let json = json!({"schema": 1, "verb": verb, "location": session.location.name,
        "dry_run": session.options.dry_run, "services": rows});
    let all_failed = failed.len() == services.len();
    let names = failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let fault = match failed.into_iter().next() {
        None => None,
        // One failure of one service keeps its own code; of many, the sum is what matters.
        Some((_, fault)) if services.len() == 1 => Some(fault),
        Some((_, fault)) if all_failed => Some(fault.within(&format!("{verb} failed for every service"))),
        Some(_) => Some(Fault::Degraded(format!("{verb} failed for {names}"))),
    };
    Ok(Report { text, json, fault })
}

/// Refuses a project of this name that runs from another folder (exit 6).
pub fn refuse_foreign(
    session: &Session,
    service: &str,
    project_dir: &str,
    running: &[Running],
) -> Result<(), Fault> {
    let here = session.location.dir.to_string_lossy().into_owned();
    for container in running {
        let from = match container.label(crate::overlay::LOCATION_LABEL) {
            Some(location) if location == here => continue,
            Some(location) => location.to_owned(),
            None => match unlabelled_origin(session, project_dir, &here, container) {
                Some(origin) => origin,
                None => continue,
            },
        };
        return Err(Fault::Conflict(format!(
            "a project {service} already runs from {from}: stop it there first, it is not taken over"
        )));
    }
    Ok(())
}

/// Where a container that stackctl did not start comes from, when it is not this location.
fn unlabelled_origin(
    session: &Session,
    project_dir: &str,
    here: &str,
    container: &Running,
) -> Option<String> {
    let working_dir = container.label("com.docker.compose.project.working_dir").unwrap_or_default();
    if working_dir == here {
        return None;
    }
    if working_dir != project_dir {
        return Some(working_dir.to_owned());
    }
    // All locations share _base/: the override file distinguishes them.
    let files = container.label("com.docker.compose.project.config_files").unwrap_or_default();
    let others = session.tree.locations.values().filter(|other| other.name != session.location.name);
    let other = others.map(|other| other.dir.to_string_lossy().into_owned());
    other.into_iter().find(|dir| files.split(',').any(|file| file.starts_with(&format!("{dir}/"))))
}

/// The containers of a project without those of `docker compose run`.
pub fn wanted_containers(docker: &Docker, session: &Session, service: &str) -> Result<Vec<Running>, Fault> {
    let mut all = docker.containers(&session.location.dir, Some(session.project(service)))?;
    all.retain(|container| !container.is_one_off());
    Ok(all)
}
