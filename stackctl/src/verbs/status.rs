//! `status`: what is wanted against what runs, here or at every location.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Report;
use super::prepare::{Prepared, prepare};
use super::remote;
use super::session::Session;
use crate::fault::Fault;
use crate::manifest::Decision;
use crate::overlay::{FILES_LABEL, LOCATION_LABEL};
use crate::shell::docker::{Docker, Running};
use crate::shell::store::Store;
use crate::vars::Vars;

/// A far location that has not answered after this long is called unreachable.
const PATIENCE: Duration = Duration::from_secs(30);

/// One container of the table; a wanted one that does not exist has the state `missing`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The location.
    pub location: String,
    /// The service.
    pub service: String,
    /// The Compose service within it.
    pub container: String,
    /// `running`, `exited`, `missing`, `unwanted`…
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`, or `-`.
    pub health: String,
    /// The image's name.
    pub image: String,
    /// What differs from what is wanted; empty when nothing does.
    pub drift: Vec<String>,
}

/// The table of one location.
pub fn status(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let rows = rows(session, services)?;
    let json = json!({"schema": 1, "location": session.location.name, "containers": rows});
    Ok(Report::new(table(&rows), json))
}

/// One table of all locations; one that cannot be reached is a line of it, and the exit code says so (10).
pub fn everywhere(session: &Session) -> Result<Report, Fault> {
    let mut all = Vec::new();
    let mut unreachable = Vec::new();
    for name in session.tree.locations.keys() {
        let there = session.at(name)?;
        let found = match remote::machine(&there) {
            Some(machine) => remote::rows(&there, machine, PATIENCE),
            None => rows(&there, &there.all_services()),
        };
        match found {
            Ok(rows) => all.extend(rows),
            Err(fault) => unreachable.push((name.clone(), fault.to_string())),
        }
    }
    let mut text = table(&all);
    for (name, why) in &unreachable {
        text.push_str(&format!("{name}: unreachable: {}\n", why.lines().next().unwrap_or_default()));
    }
    let listed: Vec<_> =
        unreachable.iter().map(|(name, why)| json!({"location": name, "error": why})).collect();
    let json = json!({"schema": 1, "containers": all, "unreachable": listed});
    let names = unreachable.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let fault = (!unreachable.is_empty()).then(|| Fault::Degraded(format!("not reached: {names}")));
    Ok(Report { text, json, fault })
}

/// The rows of one location of this machine.
pub fn rows(session: &Session, services: &[String]) -> Result<Vec<Row>, Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.versions(&session.location.dir)?;
    let containers = docker.containers(&session.location.dir, None)?;
    let mut rows = Vec::new();
    for service in services {
        rows.extend(of_service(session, &vars, &docker, &store, &containers, service)?);
    }
    Ok(rows)
}

fn of_service(
    session: &Session,
    vars: &Vars,
    docker: &Docker,
    store: &Store,
    containers: &[Running],
    service: &str,
) -> Result<Vec<Row>, Fault> {
    let manifest = store.manifest()?;
    let blank = |container: &str, state: &str, drift: Vec<String>| Row {
        location: session.location.name.clone(),
        service: service.to_owned(),
        container: container.to_owned(),
        state: state.to_owned(),
        health: "-".into(),
        image: "-".into(),
        drift,
    };
    // A service that cannot be rendered is a line of the table, not the end of it.
    let prepared = match prepare(session, vars, store, &manifest, service) {
        Ok(prepared) => prepared,
        Err(Fault::Invalid(text)) => {
            let first = text.lines().next().unwrap_or_default().to_owned();
            return Ok(vec![blank("-", "invalid", vec![first])]);
        }
        Err(other) => return Err(other),
    };
    let labelled = Wanted::read(session, docker, store, &prepared);
    let wanted = match labelled {
        Ok(wanted) => wanted,
        Err(Fault::Invalid(text)) => return Ok(vec![blank("-", "invalid", vec![text])]),
        Err(other) => return Err(other),
    };
    let notes = file_notes(&prepared);
    let mine: Vec<&Running> = containers
        .iter()
        .filter(|c| c.label("com.docker.compose.project") == Some(service) && !c.is_one_off())
        .collect();
    let mut rows = Vec::new();
    for (name, hash, files) in &wanted.0 {
        let found: Vec<&&Running> = mine.iter().filter(|container| container.service() == name).collect();
        if found.is_empty() {
            let mut row = blank(name, "missing", notes.clone());
            row.drift.push("no container".into());
            rows.push(row);
        }
        for container in found {
            let mut row = blank(name, &container.state.status, notes.clone());
            row.health = container.health().to_owned();
            row.image.clone_from(&container.config.image);
            row.drift.extend(drift(session, container, hash, files));
            rows.push(row);
        }
    }
    for container in mine.iter().filter(|c| !wanted.0.iter().any(|(name, _, _)| name == c.service())) {
        rows.push(blank(container.service(), "unwanted", vec!["no Compose file defines it any more".into()]));
    }
    Ok(rows)
}

/// For each wanted container: its name, the hash Compose would give it, and the hash of its files.
struct Wanted(Vec<(String, String, String)>);

impl Wanted {
    fn read(session: &Session, docker: &Docker, store: &Store, prepared: &Prepared) -> Result<Self, Fault> {
        let bare = prepared.stage(store)?;
        let model = docker.model(&prepared.project(&bare.0, false))?;
        let labels = prepared.labels(session, store, &model, &std::collections::BTreeMap::new())?;
        let stage = prepared.stage_with(store, &labels)?;
        let hashes = docker.wanted_hashes(&prepared.project(&stage.0, true))?;
        let overlay: serde_json::Value = serde_json::from_str(&labels).unwrap_or_default();
        let files = |name: &str| {
            let labels =
                overlay.get("services").and_then(|all| all.get(name)).and_then(|one| one.get("labels"));
            let label = labels.and_then(|labels| labels.get(FILES_LABEL)).and_then(serde_json::Value::as_str);
            label.unwrap_or_default().to_owned()
        };
        Ok(Self(hashes.into_iter().map(|(name, hash)| (name.clone(), hash, files(&name))).collect()))
    }
}

fn file_notes(prepared: &Prepared) -> Vec<String> {
    let mut notes = Vec::new();
    if prepared.is_stale() {
        notes.push("template newer than render".to_owned());
    }
    if prepared.planned.iter().any(|planned| planned.decision == Decision::EditedByHand) {
        notes.push("rendered file edited by hand".to_owned());
    }
    notes
}

fn drift(session: &Session, container: &Running, hash: &str, files: &str) -> Vec<String> {
    let mut drift = Vec::new();
    let here = session.location.dir.to_string_lossy();
    if container.label(LOCATION_LABEL).is_some_and(|location| location != here) {
        drift.push("runs from another folder".to_owned());
    }
    let did_its_job =
        container.state.status == "exited" && container.state.exit_code == 0 && !container.restarts();
    if container.state.status != "running" && !did_its_job {
        drift.push("not running".to_owned());
    }
    match container.label(FILES_LABEL) {
        None => drift.push("not started by stackctl".to_owned()),
        Some(label) if label != files => drift.push("mounted files changed".to_owned()),
        Some(_) if container.label("com.docker.compose.config-hash") != Some(hash) => {
            drift.push("definition changed".to_owned());
        }
        Some(_) => {}
    }
    drift
}

fn table(rows: &[Row]) -> String {
    let header = ["LOCATION", "SERVICE", "CONTAINER", "STATE", "HEALTH", "IMAGE", "DRIFT"].map(str::to_owned);
    let lines: Vec<[String; 7]> = rows
        .iter()
        .map(|row| {
            let drift = if row.drift.is_empty() { "-".to_owned() } else { row.drift.join(", ") };
            [&row.location, &row.service, &row.container, &row.state, &row.health, &row.image, &drift]
                .map(Clone::clone)
        })
        .collect();
    let all: Vec<&[String; 7]> = std::iter::once(&header).chain(&lines).collect();
    let width =
        |column: usize| all.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for line in all {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let row = Row {
            location: "wroclaw".into(),
            service: "caddy".into(),
            container: "caddy".into(),
            state: "running".into(),
            health: "healthy".into(),
            image: "caddy:2".into(),
            drift: vec![],
        };
        assert_eq!(
            table(&[row]),
            "LOCATION  SERVICE  CONTAINER  STATE    HEALTH   IMAGE    DRIFT\n\
             wroclaw   caddy    caddy      running  healthy  caddy:2  -\n"
        );
    }
}
