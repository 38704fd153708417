//! `status`: what is wanted against what runs, here or at every location.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Report;
use super::prepare::{Changes, Prepared, prepare};
use super::remote;
use super::session::Session;
use super::up::{masked, masked_lines};
use crate::fault::Fault;
use crate::manifest::Decision;
use crate::overlay::{FILES_LABEL, LOCATION_LABEL};
use crate::shell::docker::{Docker, Running};
use crate::shell::store::Store;
use crate::vars::Vars;

/// A far location that has not answered after this long is called unreachable. A machine that is
/// silent ends ssh within 40 s; one that answers may be a busy Pi, whose Compose takes its time.
const TIMEOUT: Duration = Duration::from_secs(120);

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
    /// What is wrong with it, when something is.
    #[serde(default)]
    pub problem: Option<Problem>,
}

/// What is wrong with a wanted container.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it was started and does not run as it should; else it is only not there.
    pub broken: bool,
    /// What is wrong, in words.
    pub why: String,
    /// Its last lines, without secrets.
    #[serde(default)]
    pub lines: Vec<String>,
}

/// How many of a broken container's last lines are shown.
const LINES: usize = 10;

/// The table of one location.
pub fn status(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let rows = rows(session, services)?;
    let json = json!({"schema": 1, "location": session.location.name, "containers": rows});
    Ok(Report { text: table(&rows) + &problems(&rows), json, fault: fault(&rows) })
}

/// What is broken, each once, with its last lines.
fn problems(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let Some(problem) = row.problem.as_ref().filter(|problem| problem.broken) else { continue };
        text.push_str(&format!("{}: {}", row.shown(), problem.why));
        text.push_str(if problem.lines.is_empty() { "\n" } else { "; its last lines:\n" });
        text.extend(problem.lines.iter().map(|line| format!("  {line}\n")));
    }
    text
}

/// Exit 11 when a container does not run as it should, 10 when one is not there or stopped.
fn fault(rows: &[Row]) -> Option<Fault> {
    let named = |broken: bool| {
        let of = |row: &&Row| row.problem.as_ref().is_some_and(|problem| problem.broken == broken);
        rows.iter().filter(of).map(Row::shown).collect::<Vec<_>>().join(", ")
    };
    let (broken, absent) = (named(true), named(false));
    match (broken.is_empty(), absent.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Fault::Degraded(format!("not running: {absent}"))),
        (false, true) => Some(Fault::Broken(format!("broken: {broken}"))),
        (false, false) => Some(Fault::Broken(format!("broken: {broken}; not running: {absent}"))),
    }
}

impl Row {
    /// A row about which nothing but this is known.
    fn blank(session: &Session, service: &str, container: &str, state: &str, drift: Vec<String>) -> Self {
        Self {
            location: session.location.name.clone(),
            service: service.to_owned(),
            container: container.to_owned(),
            state: state.to_owned(),
            health: "-".into(),
            image: "-".into(),
            drift,
            problem: None,
        }
    }

    fn with_problem(mut self, why: &str) -> Self {
        self.problem = Some(Problem { broken: false, why: why.to_owned(), lines: Vec::new() });
        self
    }

    fn shown(&self) -> String {
        let container = if self.container == "-" { String::new() } else { format!("/{}", self.container) };
        format!("{}{container}", self.service)
    }
}

/// One table of all locations; one that cannot be reached is a line of it, and the exit code says so (10).
pub fn everywhere(session: &Session) -> Result<Report, Fault> {
    let mut all = Vec::new();
    let mut unreachable = Vec::new();
    for name in session.tree.locations.keys() {
        let there = session.at(name)?;
        let found = match remote::machine(&there) {
            Some(machine) => remote::rows(&there, machine, TIMEOUT),
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
    text.push_str(&problems(&all));
    let unreached = || (!unreachable.is_empty()).then(|| Fault::Degraded(format!("not reached: {names}")));
    let fault = match (fault(&all), unreached()) {
        (Some(worse), Some(other)) => Some(worse.and(&other.to_string())),
        (one, other) => one.or(other),
    };
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
    let blank = |container: &str, state: &str, drift| Row::blank(session, service, container, state, drift);
    // A service that cannot be rendered is a line of the table, not the end of it.
    let prepared = match prepare(session, vars, store, &manifest, service) {
        Ok(prepared) => prepared,
        Err(Fault::Invalid(text)) => {
            let first = text.lines().next().unwrap_or_default().to_owned();
            return Ok(vec![blank("-", "invalid", vec![first]).with_problem("its definition is invalid")]);
        }
        Err(other) => return Err(other),
    };
    let labelled = Wanted::read(session, docker, store, &prepared);
    let wanted = match labelled {
        Ok(wanted) => wanted,
        Err(Fault::Invalid(text)) => {
            return Ok(vec![blank("-", "invalid", vec![text]).with_problem("its definition is invalid")]);
        }
        Err(other) => return Err(other),
    };
    let notes = file_notes(&prepared);
    let mine: Vec<&Running> = containers
        .iter()
        .filter(|c| {
            c.label("com.docker.compose.project") == Some(session.project(service)) && !c.is_one_off()
        })
        .collect();
    let mut rows = Vec::new();
    for (name, files) in &wanted.files {
        let found: Vec<&&Running> = mine.iter().filter(|container| container.service() == name).collect();
        if found.is_empty() {
            let mut row = blank(name, "missing", notes.clone()).with_problem("it is missing");
            row.drift.push("no container".into());
            rows.push(row);
        }
        for container in found {
            let mut row = blank(name, &container.state.status, notes.clone());
            row.health = container.health().to_owned();
            row.image.clone_from(&container.config.image);
            row.drift.extend(drift(session, container, wanted.changes.has(container), files));
            row.problem = problem(session, docker, service, container);
            rows.push(row);
        }
    }
    for container in mine.iter().filter(|c| !wanted.files.contains_key(c.service())) {
        rows.push(blank(container.service(), "unwanted", vec!["no Compose file defines it any more".into()]));
    }
    Ok(rows)
}

fn problem(session: &Session, docker: &Docker, service: &str, container: &Running) -> Option<Problem> {
    let (broken, why) = container.look(crate::shell::now()).problem()?;
    let lines = if broken { masked_lines(session, docker, service, container, LINES) } else { Vec::new() };
    Some(Problem { broken, why: masked(session, service, &why), lines })
}

/// What is wanted of a service.
struct Wanted {
    /// For each wanted container the hash of its files.
    files: BTreeMap<String, String>,
    /// Which containers Compose would make again.
    changes: Changes,
}

impl Wanted {
    fn read(session: &Session, docker: &Docker, store: &Store, prepared: &Prepared) -> Result<Self, Fault> {
        let bare = prepared.stage(store)?;
        let model = docker.model(&prepared.project(&bare.0, false))?;
        let labels = prepared.labels(session, store, &model, &BTreeMap::new())?;
        let stage = prepared.stage_with(store, &labels)?;
        let changes = Changes::read(docker, store, prepared, &stage)?;
        let overlay: serde_json::Value = serde_json::from_str(&labels).unwrap_or_default();
        let hash = |name: &str| {
            let of_service = overlay.get("services").and_then(|all| all.get(name));
            let labels = of_service.and_then(|one| one.get("labels"));
            let label = labels.and_then(|labels| labels.get(FILES_LABEL)).and_then(serde_json::Value::as_str);
            label.unwrap_or_default().to_owned()
        };
        let wanted = model.services.iter().filter(|(_, container)| container.is_wanted());
        let files = wanted.map(|(name, _)| (name.clone(), hash(name))).collect();
        Ok(Self { files, changes })
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

fn drift(session: &Session, container: &Running, changed: bool, files: &str) -> Vec<String> {
    let mut drift = Vec::new();
    let here = session.location.dir.to_string_lossy();
    if container.label(LOCATION_LABEL).is_some_and(|location| location != here) {
        drift.push("runs from another folder".to_owned());
    }
    if container.state.status != "running" && !container.look(0).did_its_job() {
        drift.push("not running".to_owned());
    }
    match container.label(FILES_LABEL) {
        None => drift.push("not started by stackctl".to_owned()),
        Some(label) if label != files => drift.push("mounted files changed".to_owned()),
        Some(_) if changed => drift.push("definition changed".to_owned()),
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
            problem: None,
        };
        assert_eq!(
            table(&[row]),
            "LOCATION  SERVICE  CONTAINER  STATE    HEALTH   IMAGE    DRIFT\n\
             wroclaw   caddy    caddy      running  healthy  caddy:2  -\n"
        );
    }
}
