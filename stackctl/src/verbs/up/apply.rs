//! Bringing one service up.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::{How, WAIT, refuse_foreign, until_healthy, wait, wanted_containers};
use crate::fault::Fault;
use crate::generation::{Generation, Kept};
use crate::invocation::Project;
use crate::manifest::Decision;
use crate::overlay::{Content, FILES_LABEL, fingerprint};
use crate::shell::docker::{Docker, Running};
use crate::shell::process::notify;
use crate::shell::store::{Snapshot, Store};
use crate::vars::Vars;
use crate::verbs::prepare::{Changes, Checked, Mounts, Prepared, Stage, prepare};
use crate::verbs::session::Session;
use crate::verbs::{actions, rollback};

/// How long a container that was restarted is watched after Compose gave it up.
const CRASHING: Duration = Duration::from_secs(10);

/// What bringing a service up did.
#[derive(Debug, Default)]
pub struct UpOutcome {
    /// Rendered files that changed.
    pub rendered: Vec<String>,
    /// Compose services whose container was recreated.
    pub recreated: Vec<String>,
    /// Compose services that had no container.
    pub created: Vec<String>,
    /// Compose services whose container stayed.
    pub kept: Vec<String>,
    /// Compose services whose container stayed and was started again.
    pub restarted: Vec<String>,
}

impl UpOutcome {
    /// What was changed, for people; nothing when every container stayed.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let parts =
            [("created", &self.created), ("recreated", &self.recreated), ("restarted", &self.restarted)];
        parts.into_iter().filter_map(|(word, names)| part(word, names)).collect()
    }

    /// For people and for programs.
    #[must_use]
    pub fn report(&self) -> (String, Value) {
        let parts = self.changes().into_iter().chain(part("unchanged", &self.kept));
        let text = parts.collect::<Vec<_>>().join("; ");
        let json = json!({"rendered": self.rendered, "created": self.created, "recreated": self.recreated, "restarted": self.restarted, "unchanged": self.kept});
        (format!("{text}\n"), json)
    }
}

fn part(word: &str, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{word} {}", names.join(", ")))
}

/// Renders, checks, starts, waits, runs the hooks, and keeps the healthy state as a generation.
pub fn bring_up(
    session: &Session,
    vars: &Vars,
    docker: &Docker,
    store: &Store,
    service: &str,
    how: &How,
) -> Result<UpOutcome, Fault> {
    let mut manifest = store.manifest()?;
    let prepared = prepare(session, vars, store, &manifest, service)?;
    prepared.refuse_edited()?;
    session.check_untracked(&prepared.secret_paths(), vars)?;
    let checked = prepared.check(session, docker, store)?;
    let before = wanted_containers(docker, session, service)?;
    let stage = prepared.stage_with(store, &checked.labels)?;
    refuse_foreign(
        session,
        service,
        &prepared.project(&stage.0, true).project_dir.to_string_lossy(),
        &before,
    )?;
    if session.options.dry_run {
        return foreseen(docker, &prepared, store, &stage, &checked, &before);
    }
    drop(stage);
    if !before.is_empty() && before.iter().all(|container| container.label(FILES_LABEL).is_none()) {
        notify(&format!("{service}: this first up adds labels, which recreates its containers once"));
    }
    let pending = store.service_dir(service).join("pending");
    if pending.exists() {
        notify(&format!("{service}: the last change was interrupted; finishing it"));
    }
    store.put(&pending, b"")?;
    // Until it is healthy, no generation is what runs.
    let _ = std::fs::remove_file(store.service_dir(service).join("applied"));
    let rendered = prepared.write_outputs(session, store, &mut manifest)?;
    let project = prepared.put_checked(session, store, &mut manifest, &checked)?;
    store.save_manifest(&manifest)?;
    let wanted: Vec<&str> = checked
        .model
        .services
        .iter()
        .filter(|(_, container)| container.is_wanted())
        .map(|(name, _)| name.as_str())
        .collect();
    let limit = how.wait.or(session.stack.wait.get(service).copied()).unwrap_or(WAIT);
    let started = start(session, docker, service, &project, &wanted, limit, &before);
    let after = match started {
        Ok(after) => after,
        Err(fault) => {
            let fault = go_back(session, docker, store, service, how, fault);
            let _ = std::fs::remove_file(&pending);
            return Err(fault);
        }
    };
    let mut outcome = compare(rendered, &before, &after);
    if how.restart && !outcome.kept.is_empty() {
        let verb: Vec<&str> =
            std::iter::once("restart").chain(outcome.kept.iter().map(String::as_str)).collect();
        docker.compose_aside(&project, &verb)?;
        until_healthy(session, docker, service, &wanted, limit, true)?;
        outcome.restarted = std::mem::take(&mut outcome.kept);
    }
    actions::post_up(session, vars, service)?;
    remember(session, store, &prepared, &checked, &after)?;
    let _ = std::fs::remove_file(&pending);
    Ok(outcome)
}

/// Starts a project and waits for its health.
pub fn start(
    session: &Session,
    docker: &Docker,
    service: &str,
    project: &Project,
    wanted: &[&str],
    limit: Duration,
    before: &[Running],
) -> Result<Vec<Running>, Fault> {
    let mut crashed = false;
    let up = docker.compose_watched(project, &["up", "--detach", "--remove-orphans"], &mut || {
        let failed = wait::failed_meanwhile(session, docker, service, wanted, before);
        crashed = failed.is_some();
        failed
    });
    if let Err(fault) = up {
        if crashed {
            return Err(fault);
        }
        // Compose also fails here when a dependency is unhealthy: the container's own words say more, and one that
        // was restarted is given the time to show that it crashes again.
        let restarted = |container: &Running| container.restart_count > 0;
        let crashes = wanted_containers(docker, session, service)?.iter().any(restarted);
        let failed = if crashes {
            until_healthy(session, docker, service, wanted, CRASHING, true).err()
        } else {
            wait::failed_now(session, docker, service, wanted)?
        };
        let unknown = || Fault::Failed(format!("{service}: {fault}; Compose's own message is above"));
        return Err(failed.unwrap_or_else(unknown));
    }
    let now = wanted_containers(docker, session, service)?;
    let ids = |list: &[Running]| list.iter().map(|container| container.id.clone()).collect::<BTreeSet<_>>();
    let stopped = before.iter().any(|container| container.state.status != "running");
    let changed = ids(before) != ids(&now) || stopped;
    until_healthy(session, docker, service, wanted, limit, changed)
}

/// Keeps what runs now as a generation, unless it is the newest one already.
pub fn remember(
    session: &Session,
    store: &Store,
    prepared: &Prepared,
    checked: &Checked,
    running: &[Running],
) -> Result<(), Fault> {
    let ours = prepared.planned.iter().filter(|planned| planned.decision != Decision::OwnFile);
    let outputs = ours.map(|planned| &planned.output);
    let files: Vec<(Kept, Vec<u8>)> = outputs
        .map(|o| (Kept { path: o.path.clone(), mode: o.mode, owner: o.owner }, o.bytes.to_vec()))
        .collect();
    let Mounts { kept: mounted, left_out } = prepared.mounts(session, &checked.model)?;
    let env = prepared.env().expose().as_bytes().to_vec();
    let images: BTreeMap<String, String> =
        running.iter().map(|container| (container.service().to_owned(), container.image.clone())).collect();
    let snapshot = Snapshot { files, mounted, definition: checked.model.json.to_vec(), env };
    let objects = checked.model.variables_of_objects();
    let values: Vec<(&str, &str)> =
        objects.filter_map(|name| Some((name, prepared.vars().find(name)?.stored.expose()))).collect();
    let content = content(store.key(), &snapshot, &images, &values);
    let service = prepared.service.as_str();
    let newest = store.generations(service)?.pop();
    if newest.is_none_or(|newest| newest.content != content) {
        let generation = Generation {
            number: 0,
            made: crate::shell::now(),
            files: snapshot.files.iter().map(|(kept, _)| kept.clone()).collect(),
            mounted: snapshot.mounted.iter().map(|(mounted, _)| mounted.clone()).collect(),
            left_out,
            images,
            content: content.clone(),
        };
        let number = store.keep(service, generation, &snapshot)?;
        notify(&format!("{service}: generation {number} at {}", session.location.name));
    }
    store.put(&store.service_dir(service).join("applied"), content.as_bytes()).map(|_| ())
}

/// All that a service is made of; of its variables those that the definition only names, since it has the others' values.
fn content(
    key: &[u8],
    snapshot: &Snapshot,
    images: &BTreeMap<String, String>,
    values: &[(&str, &str)],
) -> String {
    let files = snapshot.files.iter().map(|(kept, bytes)| Content { target: &kept.path, bytes });
    // What a container writes changes by itself.
    let mounted = snapshot.mounted.iter().filter(|(file, _)| !file.writable);
    let mounted = mounted.map(|(file, bytes)| Content { target: &file.path, bytes });
    let images = images.iter().map(|(name, image)| Content { target: name, bytes: image.as_bytes() });
    let values = values.iter().map(|(name, value)| Content { target: name, bytes: value.as_bytes() });
    let definition = [Content { target: "definition", bytes: &snapshot.definition }];
    fingerprint(key, files.chain(mounted).chain(images).chain(values).chain(definition))
}

/// Returns to the previous generation when that was asked for, or is agreed to at the terminal.
fn go_back(
    session: &Session,
    docker: &Docker,
    store: &Store,
    service: &str,
    how: &How,
    fault: Fault,
) -> Fault {
    // What just failed was never kept, so the newest generation is the one before it.
    let Some(target) = store.generations(service).unwrap_or_default().pop() else { return fault };
    if !(how.rollback || agreed(service, &fault, target.number)) {
        return Fault::Failed(format!(
            "{fault}\ngo back with: stackctl rollback {service} --to {}",
            target.number
        ));
    }
    match rollback::apply(session, docker, store, service, &target) {
        Ok(restored) => Fault::RolledBack(format!(
            "{fault}\n{service}: generation {} runs again{}",
            target.number,
            restored.lines(target.number)
        )),
        Err(second) => Fault::Broken(format!(
            "{fault}\nand generation {} does not come up either: {second}",
            target.number
        )),
    }
}

fn agreed(service: &str, fault: &Fault, number: u64) -> bool {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return false;
    }
    notify(&format!("{fault}\n{service}: go back to generation {number}? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("y")
}

fn compare(rendered: Vec<String>, before: &[Running], after: &[Running]) -> UpOutcome {
    let mut outcome = UpOutcome { rendered, ..UpOutcome::default() };
    for container in after {
        let name = container.service().to_owned();
        let same = before.iter().any(|old| old.id == container.id);
        let had = before.iter().any(|old| old.service() == name);
        let list = match (same, had) {
            (true, _) => &mut outcome.kept,
            (false, true) => &mut outcome.recreated,
            (false, false) => &mut outcome.created,
        };
        list.push(name);
    }
    for list in [&mut outcome.kept, &mut outcome.recreated, &mut outcome.created] {
        list.sort();
        list.dedup();
    }
    outcome
}

/// What an `up` would do.
fn foreseen(
    docker: &Docker,
    prepared: &Prepared,
    store: &Store,
    stage: &Stage,
    checked: &Checked,
    before: &[Running],
) -> Result<UpOutcome, Fault> {
    let changes = Changes::read(docker, store, prepared, stage)?;
    let rendered = prepared.planned.iter().filter(|p| matches!(p.decision, Decision::Write(_)));
    let mut outcome =
        UpOutcome { rendered: rendered.map(|p| p.output.path.clone()).collect(), ..UpOutcome::default() };
    let wanted = checked.model.services.iter().filter(|(_, container)| container.is_wanted());
    for name in wanted.map(|(name, _)| name.clone()) {
        let found = before.iter().find(|container| container.service() == name);
        match found.map(|container| changes.has(container)) {
            None => outcome.created.push(name),
            Some(false) => outcome.kept.push(name),
            Some(true) => outcome.recreated.push(name),
        }
    }
    Ok(outcome)
}
