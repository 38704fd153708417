//! The content that containers see through their mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{Planned, Prepared};
use crate::config::Clean;
use crate::fault::Fault;
use crate::glob::segment_matches;
use crate::manifest::Decision;
use crate::model::{Model, Seen};
use crate::overlay::{self, Content};
use crate::shell::files;
use crate::verbs::session::Session;

/// A folder mounted for reading is looked at up to this many files.
const FILES: usize = 2000;
pub(super) const DEPTH: usize = 8;

/// The keyed hash of everything a container sees that stackctl answers for.
///
/// That is: rendered files; files of the tree that are mounted singly, unless `[clean]` calls them data; and all
/// files of the tree's folders that are mounted for reading. A folder a container may write holds its own data.
pub(super) fn fingerprint(
    session: &Session,
    key: &[u8],
    prepared: &Prepared,
    seen: &[Seen],
) -> Result<String, Fault> {
    let rendered = rendered(session, prepared);
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for mount in seen {
        collect(session, prepared, &rendered, mount, &mut contents)?;
    }
    let parts = contents.iter().map(|(target, bytes)| Content { target, bytes });
    Ok(overlay::fingerprint(key, parts))
}

/// The rendered files of the location that containers of a model mount singly.
pub(super) fn mounted_singly(session: &Session, model: &Model) -> BTreeSet<String> {
    let seen = model.services.values().flat_map(|container| model.seen_by(container));
    seen.filter(|mount| mount.source.is_file())
        .filter_map(|mount| mount.source.strip_prefix(&session.location.dir).ok().map(Path::to_path_buf))
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

fn rendered<'p>(session: &Session, prepared: &'p Prepared) -> BTreeMap<PathBuf, &'p [u8]> {
    let ours = |planned: &&Planned| !matches!(planned.decision, Decision::OwnFile | Decision::EditedByHand);
    let entry = |planned: &'p Planned| {
        (session.location.dir.join(&planned.output.path), planned.output.bytes.as_slice())
    };
    prepared.planned.iter().filter(ours).map(entry).collect()
}

fn collect(
    session: &Session,
    prepared: &Prepared,
    rendered: &BTreeMap<PathBuf, &[u8]>,
    mount: &Seen,
    contents: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), Fault> {
    for (path, bytes) in rendered {
        if let Ok(below) = path.strip_prefix(&mount.source) {
            contents.insert(target(mount, below), bytes.to_vec());
        }
    }
    if !mount.source.starts_with(&session.tree.root) {
        return Ok(());
    }
    if mount.source.is_file() {
        if !is_data(session, &prepared.service, &mount.source) {
            add_file(mount, &mount.source, contents)?;
        }
    } else if mount.read_only {
        let mut found = Vec::new();
        walk(&mount.source, DEPTH, &mut found);
        for path in found {
            add_file(mount, &path, contents)?;
        }
    } else {
        // What other services rendered into the folder counts too.
        let others = prepared.rendered_before.iter().map(|path| session.location.dir.join(path));
        for path in others.filter(|path| path.starts_with(&mount.source) && path.is_file()) {
            add_file(mount, &path, contents)?;
        }
    }
    Ok(())
}

fn add_file(mount: &Seen, path: &Path, contents: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Fault> {
    let target = target(mount, path.strip_prefix(&mount.source).unwrap_or(path));
    if contents.contains_key(&target) {
        return Ok(());
    }
    let length = fs::metadata(path).map(|meta| meta.len()).unwrap_or_default();
    // Too large to be a configuration: its length takes its place.
    let bytes = if length > files::SIZE_LIMIT {
        length.to_be_bytes().to_vec()
    } else {
        let found =
            files::read(path).map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
        found.map(|found| found.bytes.to_vec()).unwrap_or_default()
    };
    contents.insert(target, bytes);
    Ok(())
}

fn target(mount: &Seen, below: &Path) -> String {
    Path::new(&mount.target).join(below).to_string_lossy().into_owned()
}

pub(super) fn is_data(session: &Session, service: &str, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(&session.location.dir) else { return false };
    let names: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let matches = |clean: &Clean| {
        clean.data.iter().any(|pattern| {
            let segments = pattern.segments();
            segments.len() <= names.len()
                && segments.iter().zip(&names).all(|(s, name)| segment_matches(s, name))
        })
    };
    session.stack.clean.get(service).is_some_and(matches)
}

pub(super) fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&path, depth - 1, found),
            Ok(kind) if kind.is_file() && found.len() < FILES => found.push(path),
            _ => {}
        }
    }
}
