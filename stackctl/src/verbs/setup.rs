//! `setup` and `render`: make missing secrets, render templates, write `.gitignore`.

use serde_json::json;

use super::Report;
use super::adopt;
use super::prepare::{Prepared, prepare};
use super::secrets::{self, Minted};
use super::session::Session;
use crate::fault::Fault;
use crate::hygiene::missing_ignores;
use crate::manifest::{Decision, Manifest};
use crate::shell::files;
use crate::shell::git::Git;
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::vars::Vars;

/// Makes what the services lack: secrets, rendered files, ignored paths; nothing that exists changes its value.
pub fn setup(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let _lock = session.lock()?;
    let offered = adopt::offer::offer(session, services)?;
    let session = offered.as_ref().unwrap_or(session);
    let store = session.store()?;
    let mut manifest = store.manifest()?;
    finish_interrupted(session, &manifest)?;
    let vars = session.vars()?;
    let minted = secrets::mint_missing(session, &vars, &manifest, services)?;
    let vars = secrets::with_minted(session, &minted)?;
    let prepared = prepare_all(session, &vars, &store, &manifest, services)?;
    for one in &prepared {
        one.refuse_edited()?;
    }
    let secret_paths: Vec<&str> = prepared.iter().flat_map(Prepared::secret_paths).collect();
    session.check_untracked(&secret_paths, &vars)?;
    let docker = session.docker(&vars);
    docker.compose_version(&session.location.dir)?;
    let mut checked = Vec::new();
    for one in &prepared {
        checked.push(one.check(session, &docker, &store)?);
    }
    let mut changed = Vec::new();
    if session.options.dry_run {
        changed = prepared.iter().flat_map(would_change).collect();
    } else {
        secrets::keep_minted(session, &mut manifest, &minted)?;
        for (one, checked) in prepared.iter().zip(&checked) {
            changed.extend(one.write_outputs(session, &store, &mut manifest)?);
            one.put_checked(session, &store, &mut manifest, checked)?;
        }
        store.save_manifest(&manifest)?;
        ignore_in_git(session, &manifest, &vars)?;
    }
    let own: Vec<&str> = prepared.iter().flat_map(own_files).collect();
    let made: Vec<&String> = minted.made.keys().collect();
    let json = json!({"schema": 1, "location": session.location.name, "services": services, "dry_run": session.options.dry_run,
        "secrets_made": made, "rendered": changed, "own_files": own});
    Ok(Report::new(summary(session, &minted, &changed, &own), json))
}

fn summary(session: &Session, minted: &Minted, changed: &[String], own: &[&str]) -> String {
    let mut text: String = minted.made.keys().map(|name| format!("made {name}\n")).collect();
    text.extend(changed.iter().map(|path| format!("rendered {path}\n")));
    let kept = |path: &&str| format!("kept {path}: the location's own file wins over the shared template\n");
    text.extend(own.iter().map(kept));
    text.push_str(&secrets::show_once(session, minted));
    if text.is_empty() {
        text.push_str("everything is set up\n");
    }
    text
}

/// Renders only; with `check`, says (exit 8) what is older than its template and writes nothing.
pub fn render(session: &Session, services: &[String], check: bool) -> Result<Report, Fault> {
    let _lock = if check { None } else { session.lock()? };
    let store = if check || session.options.dry_run {
        Store::open(session.location.state_dir(), false)?
    } else {
        session.store()?
    };
    let mut manifest = store.manifest()?;
    let vars = session.vars()?;
    let prepared = prepare_all(session, &vars, &store, &manifest, services)?;
    let stale: Vec<String> = prepared.iter().flat_map(would_change).collect();
    let json = json!({"schema": 1, "location": session.location.name, "services": services, "stale": stale});
    if check {
        let text = stale.iter().map(|path| format!("stale {path}\n")).collect::<String>();
        let fault = (!stale.is_empty())
            .then(|| Fault::Stale(format!("{} files are older than their templates", stale.len())));
        return Ok(Report { text, json, fault });
    }
    for one in &prepared {
        one.refuse_edited()?;
    }
    if !session.options.dry_run {
        for one in &prepared {
            one.write_outputs(session, &store, &mut manifest)?;
        }
        store.save_manifest(&manifest)?;
    }
    let mut text = stale.iter().map(|path| format!("rendered {path}\n")).collect::<String>();
    if stale.is_empty() {
        text.push_str("nothing to render: every file is as its template says\n");
    }
    Ok(Report::new(text, json))
}

/// Renders all services in memory, or says everything that any of them misses.
pub fn prepare_all(
    session: &Session,
    vars: &Vars,
    store: &Store,
    manifest: &Manifest,
    services: &[String],
) -> Result<Vec<Prepared>, Fault> {
    let mut prepared = Vec::new();
    let mut missing = Vec::new();
    for service in services {
        match prepare(session, vars, store, manifest, service) {
            Ok(one) => prepared.push(one),
            Err(Fault::Invalid(text)) => missing.push(text),
            Err(other) => return Err(other),
        }
    }
    if missing.is_empty() {
        return Ok(prepared);
    }
    // How to fix them is the same for all.
    let fix = session.value_fix();
    let lines = || missing.iter().flat_map(|text| text.lines());
    let mut shown: Vec<&str> = lines().filter(|line| *line != fix).collect();
    if lines().any(|line| line == fix) {
        shown.push(&fix);
    }
    Err(Fault::Invalid(shown.join("\n")))
}

/// Finishes writes that an interrupted run left half done.
pub fn finish_interrupted(session: &Session, manifest: &Manifest) -> Result<(), Fault> {
    if session.options.dry_run {
        return Ok(());
    }
    for path in manifest.files.keys() {
        let path = session.location.dir.join(path);
        let finished = files::finish_interrupted(&path);
        if finished.map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))? {
            notify(&format!("finished an interrupted write of {}", path.display()));
        }
    }
    Ok(())
}

fn would_change(prepared: &Prepared) -> Vec<String> {
    let changes = |decision: &Decision| matches!(decision, Decision::Write(_) | Decision::Attributes);
    prepared.planned.iter().filter(|p| changes(&p.decision)).map(|p| p.output.path.clone()).collect()
}

fn own_files(prepared: &Prepared) -> Vec<&str> {
    let own = prepared.planned.iter().filter(|planned| planned.decision == Decision::OwnFile);
    own.map(|planned| planned.output.path.as_str()).collect()
}

/// Adds the lines that keep secrets and rendered files out of git, where there is git.
fn ignore_in_git(session: &Session, manifest: &Manifest, vars: &Vars) -> Result<(), Fault> {
    let environment = session.environment(vars);
    let Some(git) = Git::of(&session.location.dir, &environment) else { return Ok(()) };
    let path = session.location.dir.join(".gitignore");
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let mut text = files::read_text(&path).map_err(fail)?.unwrap_or_default();
    let rendered: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    let missing = missing_ignores(&text, &rendered, &|path| git.ignores(path));
    if missing.is_empty() {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for line in missing {
        text.push_str(&line);
        text.push('\n');
    }
    let open = files::Attributes { mode: 0o644, owner: None };
    files::write(&path, text.as_bytes(), open, crate::manifest::Style::Replace).map_err(fail)
}
