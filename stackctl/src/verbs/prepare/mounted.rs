//! The files of the tree that containers mount and no template makes: a generation keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Prepared;
use super::content::{DEPTH, is_data, walk};
use crate::fault::Fault;
use crate::generation::MountedFile;
use crate::manifest::Decision;
use crate::model::{Model, Seen};
use crate::shell::files::{self, SIZE_LIMIT};
use crate::verbs::session::Session;

/// A generation keeps up to this many mounted files …
const FILES: usize = 500;
/// … of together so many bytes.
const BYTES: usize = 16 << 20;

/// MountedFile files, and what a generation does not keep.
#[derive(Default)]
pub struct Mounts {
    /// Each file with its bytes.
    pub kept: Vec<(MountedFile, Vec<u8>)>,
    /// What is not kept, each with the reason.
    pub left_out: Vec<String>,
}

/// Reads them. A folder counts when it is mounted for reading; one that holds Compose files, such as a whole location,
/// has other services' files and does not.
pub(super) fn mounts(session: &Session, prepared: &Prepared, model: &Model) -> Result<Mounts, Fault> {
    let (found, mut left_out) = found(session, prepared, model);
    let (mut kept, mut bytes, mut surplus) = (Vec::new(), 0, 0);
    for (path, writable) in found {
        let shown = path.strip_prefix(&session.tree.root).unwrap_or(&path).to_string_lossy().into_owned();
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > SIZE_LIMIT) {
            left_out.push(format!("{shown} (larger than {} MiB)", SIZE_LIMIT >> 20));
            continue;
        }
        let file =
            files::read(&path).map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
        let Some(file) = file else { continue };
        bytes += file.bytes.len();
        if kept.len() >= FILES || bytes > BYTES {
            surplus += 1;
            continue;
        }
        let mounted = MountedFile { path: shown, mode: file.mode, owner: file.owner, writable };
        kept.push((mounted, file.bytes.to_vec()));
    }
    if surplus > 0 {
        left_out.push(format!("{surplus} files more than {FILES} or {} MiB", BYTES >> 20));
    }
    Ok(Mounts { kept, left_out })
}

/// The files by path, each with whether a container may write it; and mounts that are left out.
fn found(session: &Session, prepared: &Prepared, model: &Model) -> (BTreeMap<PathBuf, bool>, Vec<String>) {
    let rendered = rendered(session, prepared);
    let seen: BTreeSet<Seen> =
        model.services.values().flat_map(|container| model.seen_by(container)).collect();
    let (mut files, mut left_out) = (BTreeMap::new(), BTreeSet::new());
    for mount in seen {
        let Ok(source) = mount.source.canonicalize() else { continue };
        let outside = !source.starts_with(&session.tree.root);
        if source.is_file() && outside {
            left_out.insert(format!("{} (outside of the tree)", mount.source.display()));
        }
        if outside || is_data(session, &prepared.service, &mount.source) {
            continue;
        }
        let mut paths = Vec::new();
        if source.is_file() {
            paths.push(source);
        } else if mount.read_only && holds_compose_files(session, &source) {
            let shown = source.strip_prefix(&session.tree.root).unwrap_or(&source).display().to_string();
            let shown = if shown.is_empty() { ".".to_owned() } else { shown };
            left_out.insert(format!("{shown} (a folder with Compose files)"));
        } else if mount.read_only {
            walk(&source, DEPTH, &mut paths);
            paths.retain(|path| !is_source(path));
        }
        for path in paths.into_iter().filter(|path| !rendered.contains(path)) {
            *files.entry(path).or_insert(false) |= !mount.read_only;
        }
    }
    (files, left_out.into_iter().collect())
}

/// What templates make, for this service and others.
fn rendered(session: &Session, prepared: &Prepared) -> BTreeSet<PathBuf> {
    let ours = prepared.planned.iter().filter(|planned| planned.decision != Decision::OwnFile);
    let ours = ours.map(|planned| &planned.output.path);
    let own = prepared.planned.iter().filter(|planned| planned.decision == Decision::OwnFile);
    let own: BTreeSet<&String> = own.map(|planned| &planned.output.path).collect();
    let before = prepared.rendered_before.iter().filter(|path| !own.contains(path));
    ours.chain(before).map(|path| session.location.dir.join(path)).collect()
}

fn holds_compose_files(session: &Session, folder: &Path) -> bool {
    let services = session.tree.locations.values().flat_map(|location| location.services.values());
    services.flat_map(|service| service.in_order()).any(|file| file.starts_with(folder))
}

/// What stackctl reads: it stays as new as it is.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".tmpl") || name.starts_with(".env") || path.iter().any(|part| part == ".stack")
}
