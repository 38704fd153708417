//! `clean`: deletes what `[clean]` lists, data and volumes only when they are meant.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Report;
use super::secrets;
use super::session::Session;
use super::up::each;
use crate::config::Clean;
use crate::fault::Fault;
use crate::glob::{Pattern, segment_matches};
use crate::shell::docker::Docker;
use crate::shell::store::Store;

/// What may be deleted besides files.
#[derive(Debug, Clone, Default)]
pub struct Consent {
    /// Data too.
    pub data: bool,
    /// These volumes too.
    pub volumes: Vec<String>,
}

/// Everything a cleaning would delete.
struct Deletions {
    files: Vec<PathBuf>,
    data: Vec<PathBuf>,
    volumes: Vec<String>,
    secrets: Vec<String>,
}

/// Cleans services: lists everything, deletes what the consent covers.
pub fn clean(session: &Session, services: &[String], consent: &Consent) -> Result<Report, Fault> {
    let _lock = session.lock()?;
    let store = session.store()?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    let listed = |name: &String| {
        services.iter().any(|s| session.stack.clean.get(s).is_some_and(|c| c.volumes.contains(name)))
    };
    if let Some(unlisted) = consent.volumes.iter().find(|name| !listed(name)) {
        return Err(Fault::Usage(format!(
            "no [clean] of {} lists the volume {unlisted}",
            services.join(", ")
        )));
    }
    each(session, services, "clean", |service| {
        let nothing = Clean::default();
        let clean = session.stack.clean.get(service).unwrap_or(&nothing);
        let deletions = deletions(session, &docker, clean, service, consent)?;
        if !session.options.dry_run {
            refuse_running(session, &docker, service, &deletions, consent)?;
            delete(session, &docker, &store, &deletions, consent)?;
        }
        Ok(summary(session, &deletions, consent))
    })
}

fn deletions(
    session: &Session,
    docker: &Docker,
    clean: &Clean,
    service: &str,
    consent: &Consent,
) -> Result<Deletions, Fault> {
    let find = |patterns: &[Pattern]| {
        patterns
            .iter()
            .flat_map(|pattern| matches(&session.location.dir, pattern.segments()))
            .collect::<Vec<_>>()
    };
    let mut volumes = Vec::new();
    for name in &clean.volumes {
        if docker.has_volume(&session.location.dir, name)? {
            volumes.push(name.clone());
        }
    }
    let gone = |name: &String| consent.volumes.contains(name) || !volumes.contains(name);
    let secrets = session
        .stack
        .secrets_of(service)
        .filter(|(_, secret)| {
            let of_secret = if secret.volumes.is_empty() { &clean.volumes } else { &secret.volumes };
            let goes_now = of_secret.iter().any(|name| consent.volumes.contains(name));
            goes_now && of_secret.iter().all(gone)
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    Ok(Deletions { files: find(&clean.files), data: find(&clean.data), volumes, secrets })
}

/// Data and volumes of a running service are not pulled from under it.
fn refuse_running(
    session: &Session,
    docker: &Docker,
    service: &str,
    deletions: &Deletions,
    consent: &Consent,
) -> Result<(), Fault> {
    let deletes_data = consent.data && !deletions.data.is_empty() || !consent.volumes.is_empty();
    if !deletes_data {
        return Ok(());
    }
    let running = docker.containers(&session.location.dir, Some(session.project(service)))?;
    if running.is_empty() {
        return Ok(());
    }
    Err(Fault::Conflict(format!(
        "{service} has containers: `stackctl down {service}` first, then clean its data"
    )))
}

fn delete(
    session: &Session,
    docker: &Docker,
    store: &Store,
    deletions: &Deletions,
    consent: &Consent,
) -> Result<(), Fault> {
    let data: &[PathBuf] = if consent.data { &deletions.data } else { &[] };
    let mut manifest = store.manifest()?;
    for path in deletions.files.iter().chain(data) {
        let gone = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        gone.map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
        if let Ok(below) = path.strip_prefix(&session.location.dir) {
            manifest.files.remove(below.to_string_lossy().as_ref());
        }
    }
    for name in deletions.volumes.iter().filter(|name| consent.volumes.contains(name)) {
        docker.good(&session.location.dir, &["volume", "rm", name])?;
    }
    if !deletions.secrets.is_empty() {
        let names: Vec<&str> = deletions.secrets.iter().map(String::as_str).collect();
        secrets::forget(session, &mut manifest, &names)?;
    }
    store.save_manifest(&manifest)
}

fn summary(session: &Session, deletions: &Deletions, consent: &Consent) -> (String, serde_json::Value) {
    let verb = if session.options.dry_run { "would delete" } else { "deleted" };
    let short =
        |path: &PathBuf| path.strip_prefix(&session.location.dir).unwrap_or(path).display().to_string();
    let mut text = String::from("\n");
    let mut deleted = Vec::new();
    let mut kept = Vec::new();
    let files = deletions.files.iter().map(|path| (short(path), true, String::new()));
    let data = deletions
        .data
        .iter()
        .map(|path| (short(path), consent.data, " (data: --yes, or make clean YES=1)".to_owned()));
    let volumes = deletions.volumes.iter().map(|name| {
        let needs = format!(" (volume: --volume {name}, or make clean VOLUMES={name})");
        (format!("volume {name}"), consent.volumes.contains(name), needs)
    });
    let secrets = deletions.secrets.iter().map(|name| (format!("secret {name}"), true, String::new()));
    for (what, goes, needs) in files.chain(data).chain(volumes).chain(secrets) {
        if goes {
            text.push_str(&format!("  {verb} {what}\n"));
            deleted.push(what);
        } else {
            text.push_str(&format!("  kept {what}{needs}\n"));
            kept.push(what);
        }
    }
    if deleted.is_empty() && kept.is_empty() {
        text = "nothing to clean\n".into();
    }
    (text, json!({"deleted": deleted, "kept": kept}))
}

/// The paths a pattern names; links are never followed.
fn matches(dir: &Path, segments: &[String]) -> Vec<PathBuf> {
    let Some((first, rest)) = segments.split_first() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !segment_matches(first, &name) {
            continue;
        }
        if rest.is_empty() {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(matches(&entry.path(), rest));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_its_paths_and_never_follows_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("precious"), "x").expect("written");
        fs::create_dir_all(dir.path().join("immich/upload/2024")).expect("made");
        fs::write(dir.path().join("immich/upload/a.jpg"), "x").expect("written");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("immich/link")).expect("linked");
        let find = |text: &str| matches(dir.path(), Pattern::parse(text).expect("good").segments());
        assert_eq!(find("immich/upload/*").len(), 2);
        assert!(find("immich/link/*").is_empty());
        assert!(find("immich/none").is_empty());
    }
}
