//! Finding the tree, its locations, services and templates on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::files;
use crate::config::Stack;
use crate::fault::Fault;
use crate::render::Source;
use crate::tree::{Location, ServiceFiles, Tree, is_service_name};

/// Folders deeper than this below a service hold no templates.
const DEPTH: usize = 12;
/// More templates than this at one location are refused.
const TEMPLATES: usize = 10_000;
const MARKS: [&str; 4] = [".env.user", ".env.user.example", ".env.generated", "Makefile"];

/// The tree's root above `here`: the nearest folder with `_base/`, `stack.toml`, or locations in it.
#[must_use]
pub fn root(here: &Path) -> Option<PathBuf> {
    let is_root = |dir: &&Path| {
        dir.join("_base").is_dir()
            || dir.join("stack.toml").is_file()
            || dir.join("scripts/.service").is_file()
    };
    let marked = here.ancestors().find(is_root);
    // A tree without any of these is still one when the current folder is in a location.
    let parent_of_location = || here.ancestors().find(|dir| is_location(dir)).and_then(Path::parent);
    marked.or_else(parent_of_location).map(Path::to_path_buf)
}

/// Reads `stack.toml`, when there is one.
pub fn stack(root: &Path) -> Result<Stack, Fault> {
    let path = root.join("stack.toml");
    let text =
        files::read_text(&path).map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
    crate::config::parse(text.as_deref().unwrap_or_default())
        .map_err(|error| Fault::Invalid(format!("{}:{error}", path.display())))
}

/// Reads the tree's locations and services.
pub fn tree(root: &Path, stack: &Stack) -> Result<Tree, Fault> {
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", root.display()));
    let mut locations = BTreeMap::new();
    for entry in fs::read_dir(root).map_err(fail)? {
        let dir = entry.map_err(fail)?.path();
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let declared = stack.place.contains_key(&name) || stack.locations.contains_key(&name);
        if !dir.is_dir()
            || name.starts_with(['.', '_'])
            || name == "scripts"
            || !(declared || is_location(&dir))
        {
            continue;
        }
        let services = services(root, &dir, &name, stack).map_err(fail)?;
        locations.insert(name.clone(), Location { name, dir, services });
    }
    Ok(Tree { root: root.to_path_buf(), locations })
}

fn is_location(dir: &Path) -> bool {
    MARKS.iter().any(|mark| dir.join(mark).symlink_metadata().is_ok()) && !dir.join("_base").is_dir()
}

fn services(
    root: &Path,
    dir: &Path,
    location: &str,
    stack: &Stack,
) -> std::io::Result<BTreeMap<String, ServiceFiles>> {
    let mut services: BTreeMap<String, ServiceFiles> = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "yaml")
            && path.is_file()
            && is_service_name(&stem)
        {
            services.entry(stem).or_default().over = Some(path);
        }
    }
    for placed in stack.place.get(location).into_iter().flatten() {
        services.entry(placed.clone()).or_default();
    }
    for (name, files) in &mut services {
        files.base = Some(root.join("_base").join(format!("{name}.yaml"))).filter(|path| path.is_file());
    }
    services.retain(|_, files| files.base.is_some() || files.over.is_some());
    Ok(services)
}

/// The templates of one service at a location; the location's own win over shared ones of the same name.
pub fn templates(root: &Path, location: &Location, service: &str) -> Result<Vec<Source>, Fault> {
    let mut found: BTreeMap<String, Source> = BTreeMap::new();
    for (base, shared) in [(root, true), (location.dir.as_path(), false)] {
        let mut paths = Vec::new();
        walk(&base.join(service), DEPTH, &mut paths)?;
        for path in paths {
            let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
            let below = path.strip_prefix(base).unwrap_or(&path).with_extension("");
            let below = below.to_string_lossy().into_owned();
            let template = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let Some(on_disk) = files::read(&path).map_err(fail)? else { continue };
            let text = on_disk.bytes.to_vec();
            found.insert(below.clone(), Source { path: below, template, text, mode: on_disk.mode, shared });
        }
    }
    Ok(found.into_values().collect())
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Fault> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|error| Fault::Failed(format!("{}: {error}", dir.display())))?;
        // A link to a folder is not followed: it may lead out of the tree, or in a circle.
        let kind = entry.file_type().map_err(|error| Fault::Failed(format!("{}: {error}", dir.display())))?;
        let path = entry.path();
        if kind.is_dir() && depth > 0 {
            walk(&path, depth - 1, found)?;
        } else if path.extension().is_some_and(|extension| extension == "tmpl") && path.is_file() {
            found.push(path);
        }
        if found.len() > TEMPLATES {
            return Err(Fault::Invalid(format!("{}: more than {TEMPLATES} templates", dir.display())));
        }
    }
    Ok(())
}
