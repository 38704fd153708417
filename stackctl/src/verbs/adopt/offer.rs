//! The first `stack.toml`: what it is made of, and how it is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;

use super::used::{self, InUse};
use crate::envfile::Entry;
use crate::fault::Fault;
use crate::first::{Declared, Facts, can_be_made, stack_toml};
use crate::interpolate;
use crate::manifest::Style;
use crate::shell::discover;
use crate::shell::docker::Docker;
use crate::shell::files::{self, Attributes};
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::template::placeholders;
use crate::vars::Vars;
use crate::verbs::prepare::{names_used, prepare};
use crate::verbs::session::Session;

/// The first `stack.toml` of the session's tree.
pub fn text(
    session: &Session,
    docker: &Docker,
    store: &Store,
    vars: &Vars,
    generated: &[Entry],
    in_use: &BTreeMap<String, InUse>,
) -> Result<String, Fault> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut services = BTreeMap::new();
    let mut declared: Vec<Declared> =
        generated.iter().map(|entry| (entry.name.clone(), Some(entry.value.clone()))).collect();
    for (service, in_use) in in_use {
        let passed = in_use.environment.iter().map(|(_, _, variable)| variable.clone());
        for name in names_used(session, service)?.into_iter().chain(passed) {
            users.entry(name).or_default().insert(service.clone());
        }
        declared.extend(missing(session, vars, service)?.into_iter().map(|name| (name, None)));
        services.insert(service.clone(), facts(session, docker, store, vars, service, in_use)?);
    }
    declared.sort_by(|(one, _), (other, _)| one.cmp(other));
    declared.dedup_by(|(one, _), (other, _)| one == other);
    Ok(stack_toml(&declared, &users, &services))
}

/// What Compose and the files say of a service.
pub fn facts(
    session: &Session,
    docker: &Docker,
    store: &Store,
    vars: &Vars,
    service: &str,
    in_use: &InUse,
) -> Result<Facts, Fault> {
    let model = prepare(session, vars, store, &store.manifest()?, service).ok().and_then(|prepared| {
        let stage = prepared.stage(store).ok()?;
        docker.model(&prepared.project(&stage.0, false)).ok()
    });
    let declared = session.stack.projects.get(service).cloned();
    Ok(Facts {
        model,
        environment: in_use.environment.clone(),
        rendered: in_use.rendered.clone(),
        scripts: scripts(session, service),
        notification: notification(session, service)?,
        project: declared,
    })
}

/// The secrets a service needs that have neither a value nor a default and that `setup` could make.
fn missing(session: &Session, vars: &Vars, service: &str) -> Result<BTreeSet<String>, Fault> {
    let vars = session.vars_of(vars, service)?;
    let mut names = BTreeSet::new();
    for source in discover::templates(&session.tree.root, &session.location, service)? {
        names.extend(placeholders(&source.text).iter().map(|placeholder| placeholder.name.to_owned()));
    }
    let files_of = session.location.services.get(service);
    for path in files_of.into_iter().flat_map(|files| files.in_order()) {
        let text = files::read_text(path).ok().flatten().unwrap_or_default();
        names.extend(placeholders(text.as_bytes()).iter().map(|placeholder| placeholder.name.to_owned()));
        names.extend(interpolate::needed(&text));
    }
    names.retain(|name| vars.find(name).is_none() && can_be_made(name));
    Ok(names)
}

/// Programs of the service at this location: `SERVICE/*.sh`.
fn scripts(session: &Session, service: &str) -> Vec<String> {
    let entries = std::fs::read_dir(session.location.dir.join(service)).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name());
    let mut scripts: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".sh"))
        .map(|name| format!("{service}/{name}"))
        .collect();
    scripts.sort();
    scripts
}

/// The file into which Authelia writes its codes, as a template names it.
fn notification(session: &Session, service: &str) -> Result<Option<String>, Fault> {
    let sources = discover::templates(&session.tree.root, &session.location, service)?;
    Ok(sources.iter().find_map(|source| {
        let text = String::from_utf8_lossy(&source.text).into_owned();
        let mut words = text.split(|c: char| c.is_whitespace() || c == '\'' || c == '"');
        words.find(|word| word.starts_with('/') && word.contains("notification")).map(str::to_owned)
    }))
}

/// Writes the file.
pub fn write(session: &Session, text: &str) -> Result<(), Fault> {
    let path = session.tree.root.join("stack.toml");
    let open = Attributes { mode: 0o644, owner: None };
    files::write(&path, text.as_bytes(), open, Style::Replace)
        .map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))
}

/// Where there is no `stack.toml`: shows the one that fits, and writes it when that is agreed to at the terminal.
pub fn offer(session: &Session, services: &[String]) -> Result<Option<Session>, Fault> {
    if session.tree.root.join("stack.toml").exists() {
        return Ok(None);
    }
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    let store = Store::open(session.location.state_dir(), false)?;
    let mut lacking = BTreeSet::new();
    for service in services {
        lacking.extend(missing(session, &vars, service)?);
    }
    if lacking.is_empty() {
        notify("there is no stack.toml: `stackctl adopt` writes a first one (--dry-run shows it)");
        return Ok(None);
    }
    let mut in_use = BTreeMap::new();
    for service in session.all_services() {
        let found = used::read(session, &docker, &store, &vars, &service, &[])?;
        in_use.insert(service, found);
    }
    let generated = session.entries(&session.generated_path())?;
    let text = text(session, &docker, &store, &vars, &generated, &in_use)?;
    notify(&format!(
        "there is no stack.toml, which would say how {} are made. This one fits what is here:\n\n{text}",
        lacking.into_iter().collect::<Vec<_>>().join(", ")
    ));
    if session.options.dry_run || !agreed() {
        notify("`stackctl adopt` writes it");
        return Ok(None);
    }
    write(session, &text)?;
    session.with_stack(discover::stack(&session.tree.root)?).map(Some)
}

fn agreed() -> bool {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return false;
    }
    notify("write it? [y/N]");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("y")
}
