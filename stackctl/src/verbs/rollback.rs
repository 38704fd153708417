//! `rollback`: a generation that was healthy runs again.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Report;
use super::prepare::Prepared;
use super::session::Session;
use super::up::{WAIT, refuse_foreign, start, wanted_containers};
use crate::fault::Fault;
use crate::generation::{Generation, target};
use crate::invocation::Project;
use crate::manifest::{Style, Written, content_hash};
use crate::model::Model;
use crate::shell::docker::Docker;
use crate::shell::files::{self, Attributes};
use crate::shell::store::Store;

/// Brings back a generation of a service: the numbered one, or the one before what runs.
pub fn rollback(session: &Session, service: &str, number: Option<u64>) -> Result<Report, Fault> {
    let _lock = session.lock()?;
    let store = session.store()?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.versions(&session.location.dir)?;
    let applied = store.service_dir(service).join("applied");
    let running = files::read_text(&applied).ok().flatten().unwrap_or_default();
    let all = store.generations(service)?;
    let list = all.iter().map(|generation| generation.number.to_string()).collect::<Vec<_>>().join(", ");
    let chosen = target(&all, number, &running);
    let chosen = chosen.ok_or_else(|| Fault::Usage(no_generation(service, number, &list)))?;
    if session.options.dry_run {
        let text = format!("{service}: would return to generation {}\n", chosen.number);
        return Ok(Report::new(
            text,
            json!({"schema": 1, "service": service, "generation": chosen.number, "dry_run": true}),
        ));
    }
    let restored = apply(session, &docker, &store, service, chosen)?;
    let text = format!(
        "{service}: generation {} runs again; its templates, Compose files, what those read, and its variables are as new as before, so the next up applies them again{}\n",
        chosen.number,
        restored.lines(chosen.number)
    );
    let json: Value = json!({
        "schema": 1, "service": service, "generation": chosen.number, "files": restored.rendered,
        "put_back": restored.put_back.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "not_put_back": restored.not_put_back.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "not_kept": restored.not_kept, "dry_run": false,
    });
    Ok(Report::new(text, json))
}

fn no_generation(service: &str, number: Option<u64>, list: &str) -> String {
    match (number, list) {
        (_, "") => format!("{service} has no generation yet: its first healthy `up` makes one"),
        (Some(number), _) => format!("{service} has no generation {number}: there are {list}"),
        (None, _) => {
            format!("{service} has no generation before the one that runs: there are {list} (--to N)")
        }
    }
}

/// A mounted file that differs from the generation's.
pub struct Differing {
    /// Its path below the tree's root.
    pub path: String,
    /// Where the other content is: what it replaced, or what the generation has. None where there was no file.
    pub other: Option<String>,
}

/// What a rollback did to files.
#[derive(Default)]
pub struct Restored {
    /// Rendered files that changed, below the location.
    pub rendered: Vec<String>,
    /// Mounted files that have the generation's content again.
    pub put_back: Vec<Differing>,
    /// Mounted files that differ and were left alone, since a container may write them.
    pub not_put_back: Vec<Differing>,
    /// Mounted files that the generation does not have, with the reason.
    pub not_kept: Vec<String>,
}

impl Restored {
    /// What a person must know of it: nothing, or lines, each after a line end.
    #[must_use]
    pub fn lines(&self, number: u64) -> String {
        let mut lines = String::new();
        for Differing { path, other } in &self.put_back {
            let before = other.as_ref().map(|other| format!("; what it replaced is {other}"));
            lines.push_str(&format!("\nput back: {path}{}", before.unwrap_or_default()));
        }
        for Differing { path, other } in &self.not_put_back {
            let copy = other.as_deref().unwrap_or_default();
            lines.push_str(&format!(
                "\nnot put back: {path}: its container may write it, so it may be data; as configuration, mount it with :ro; generation {number} has it as {copy}"
            ));
        }
        if !self.not_kept.is_empty() {
            lines.push_str(&format!("\nnot kept, so as they are now: {}", self.not_kept.join(", ")));
        }
        lines
    }
}

/// Writes a generation's files back and starts it.
pub fn apply(
    session: &Session,
    docker: &Docker,
    store: &Store,
    service: &str,
    generation: &Generation,
) -> Result<Restored, Fault> {
    let before = wanted_containers(docker, session, service)?;
    let dir = store.generation_dir(service, generation.number);
    let mut project = project(session, service, generation, store)?;
    refuse_foreign(session, service, &project.project_dir.to_string_lossy(), &before)?;
    let mut manifest = store.manifest()?;
    let mut restored = put_back_mounted(session, store, service, generation)?;
    for (kept, found) in store.restore(service, generation)? {
        let path = session.location.dir.join(&kept.path);
        let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
        let same = files::read(&path).map_err(fail)?.is_some_and(|now| now.bytes == found.bytes);
        if !same {
            let style = manifest.style(&kept.path, session.location.services.keys());
            files::write(&path, &found.bytes, Attributes { mode: kept.mode, owner: kept.owner }, style)
                .map_err(fail)?;
            restored.rendered.push(kept.path.clone());
        }
        let hash = content_hash(store.key(), &found.bytes);
        let secret = manifest.files.get(&kept.path).is_none_or(|written| written.secret);
        manifest.files.insert(kept.path, Written { hash, secret });
    }
    store.save_manifest(&manifest)?;
    let model = docker.model(&project)?;
    let labels = labels(session, docker, store, service, generation, &model)?;
    let overlay = dir.join("labels.yaml");
    store.put(&overlay, labels.as_bytes())?;
    project.files.push(overlay);
    let wanted: Vec<&str> = model.services.keys().map(String::as_str).collect();
    let limit = session.stack.wait.get(service).copied().unwrap_or(WAIT);
    start(session, docker, service, &project, &wanted, limit, &before)?;
    store.put(&store.service_dir(service).join("applied"), generation.content.as_bytes())?;
    Ok(restored)
}

/// Gives mounted files the generation's content where that is surely configuration.
fn put_back_mounted(
    session: &Session,
    store: &Store,
    service: &str,
    generation: &Generation,
) -> Result<Restored, Fault> {
    let mut restored = Restored { not_kept: generation.left_out.clone(), ..Restored::default() };
    let root = &session.tree.root;
    let shown = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    let aside = store.generation_dir(service, generation.number).join("replaced");
    for (mounted, copy, found) in store.restore_mounted(service, generation)? {
        let path = root.join(&mounted.path);
        let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
        let now = files::read(&path).map_err(fail)?;
        if now.as_ref().is_some_and(|now| now.bytes == found.bytes) {
            continue;
        }
        if mounted.writable {
            restored.not_put_back.push(Differing { path: mounted.path, other: Some(shown(&copy)) });
            continue;
        }
        let mut other = None;
        if let Some(now) = now {
            let place = aside.join(&mounted.path);
            store.put(&place, &now.bytes)?;
            other = Some(shown(&place));
        }
        let attributes = Attributes { mode: mounted.mode, owner: Some(mounted.owner) };
        // The container is made again, so it sees the new file even where it mounts this file alone.
        files::write(&path, &found.bytes, attributes, Style::Replace).map_err(fail)?;
        restored.put_back.push(Differing { path: mounted.path, other });
    }
    Ok(restored)
}

/// The project as a generation has it.
pub(super) fn project(
    session: &Session,
    service: &str,
    generation: &Generation,
    store: &Store,
) -> Result<Project, Fault> {
    let (definition, env) = store.definition(service, generation)?;
    let files_of = session.location.services.get(service);
    let project_dir = files_of.and_then(|files| files.project_dir()).unwrap_or(&session.location.dir);
    Ok(Project {
        name: session.project(service).to_owned(),
        project_dir: project_dir.to_path_buf(),
        files: vec![definition],
        env_files: vec![env],
        workdir: session.workdir(service).to_path_buf(),
    })
}

/// The labels of the restored files, and a pin for each image whose name means another content by now.
fn labels(
    session: &Session,
    docker: &Docker,
    store: &Store,
    service: &str,
    generation: &Generation,
    model: &Model,
) -> Result<String, Fault> {
    let mut pins = BTreeMap::new();
    for (name, id) in &generation.images {
        let image = model.services.get(name).and_then(|container| container.image.as_deref());
        let now = image.and_then(|image| docker.image_id(&session.location.dir, image));
        if now.as_ref() != Some(id) {
            pins.insert(name.clone(), id.clone());
        }
    }
    // The present templates are not asked: they may be what is wrong.
    let files = store.restore(service, generation)?;
    let restored = Prepared::restored(session, &store.manifest()?, service, files);
    restored.labels(session, store, model, &pins)
}
