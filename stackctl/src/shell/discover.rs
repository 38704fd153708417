//! Finding the tree, its locations, services and templates on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::files;
use crate::config::Stack;
use crate::fault::Fault;
use crate::render::Source;
use crate::tree::{self, Location, ServiceFiles, Tree, is_service_name};

/// Folders deeper than this below a service hold no templates.
const DEPTH: usize = 12;
/// More templates than this at one location are refused.
const TEMPLATES: usize = 10_000;
/// Files of a location's variables.
const MARKS: [&str; 3] = [".env.user", ".env.user.example", ".env.generated"];
/// Folders deeper than this below a location are not searched for unused Compose files.
const UNUSED_DEPTH: usize = 2;

/// The tree's root above `here`: the nearest folder with `_base/`, `stack.toml`, locations, or folders of services in it.
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
    // Or when it is one of folders with a compose.yaml, or holds them.
    let of_folders = || {
        let project = here.ancestors().find(|dir| own_file(dir).is_some());
        let holder = project.and_then(Path::parent).filter(|dir| holds_folders(dir));
        Some(here).filter(|dir| holds_folders(dir)).or(holder)
    };
    marked.or_else(parent_of_location).or_else(of_folders).map(Path::to_path_buf)
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
        let name = name_of(&dir);
        let declared = stack.place.contains_key(&name) || stack.locations.contains_key(&name);
        if !dir.is_dir()
            || name.starts_with(['.', '_'])
            || name == "scripts"
            || !(declared || is_location(&dir))
        {
            continue;
        }
        let services = services(root, &dir, &name, stack)?;
        locations.insert(name.clone(), Location { name, dir, services });
    }
    if locations.is_empty() && holds_folders(root) {
        let (name, dir) = (name_of(root), root.to_path_buf());
        let services = services(root, &dir, &name, stack)?;
        locations.insert(name.clone(), Location { name, dir, services });
    }
    Ok(Tree { root: root.to_path_buf(), locations })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_location(dir: &Path) -> bool {
    if dir.join("_base").is_dir() {
        return false;
    }
    let has = |name: &str| dir.join(name).symlink_metadata().is_ok();
    let weak = || own_file(dir).is_none() && !holds_folders(dir) && (has("Makefile") || has_files(dir));
    MARKS.iter().any(|mark| has(mark)) || weak()
}

/// Whether a folder with a `.env` has Compose files named after services.
fn has_files(dir: &Path) -> bool {
    let entries = || fs::read_dir(dir).into_iter().flatten().flatten();
    dir.join(".env").is_file()
        && entries().any(|e| tree::service_of_file(&name_of(&e.path())).is_some() && is_compose(&e.path()))
}

/// Whether folders in this one have a Compose file of a name that Compose finds by itself.
fn holds_folders(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.any(|path| !name_of(&path).starts_with(['.', '_']) && own_file(&path).is_some())
}

/// The Compose file that Compose itself would find in a folder.
fn own_file(dir: &Path) -> Option<PathBuf> {
    tree::COMPOSE_NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// The files that Compose reads in a folder: those its `.env` names, else its own file and the override of it.
fn own_files(dir: &Path) -> Vec<PathBuf> {
    let Some(file) = own_file(dir) else { return Vec::new() };
    if let Some(named) = dotenv_value(dir, "COMPOSE_FILE") {
        let separator = dotenv_value(dir, "COMPOSE_PATH_SEPARATOR").unwrap_or_else(|| ":".to_owned());
        return named.split(separator.as_str()).map(|path| dir.join(path.trim_start_matches("./"))).collect();
    }
    let over = tree::OVERRIDE_NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    std::iter::once(file).chain(over).collect()
}

/// A variable of a folder's `.env` that means something to Compose itself.
fn dotenv_value(dir: &Path, name: &str) -> Option<String> {
    let text = files::read_text(&dir.join(".env")).ok().flatten()?;
    let settings = crate::dotenv::parse(&text, &|_| None).ok()?;
    let last = settings.into_iter().rev().find(|setting| setting.name == name)?;
    Some(last.value).filter(|value| !value.is_empty())
}

fn is_compose(path: &Path) -> bool {
    files::read_text(path).ok().flatten().is_some_and(|text| tree::looks_like_compose(&text))
}

fn services(
    root: &Path,
    dir: &Path,
    location: &str,
    stack: &Stack,
) -> Result<BTreeMap<String, ServiceFiles>, Fault> {
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", dir.display()));
    let mut named: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut services: BTreeMap<String, ServiceFiles> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = name_of(&path);
        if path.is_dir() {
            let (files, service) = (own_files(&path), tree::project_of_folder(&name));
            if !files.is_empty() && !service.is_empty() && !name.starts_with(['.', '_']) {
                services.insert(service, ServiceFiles { files, folder: Some(path), project: None });
            }
        } else if let Some(service) = tree::service_of_file(&name).filter(|_| path.is_file()) {
            // Many tools keep a NAME.yml of their own here: it is a service only if it looks like one.
            let base = base(root, service)?;
            if name.ends_with(".yaml") || !base.is_empty() || is_compose(&path) {
                named.entry(service.to_owned()).or_default().push(path);
            }
        }
    }
    for (service, files) in named {
        only_one(&files)?;
        services.insert(service, ServiceFiles { files, ..ServiceFiles::default() });
    }
    let (own, service) = (own_files(dir), tree::project_of_folder(location));
    if !own.is_empty() && !service.is_empty() {
        let files = ServiceFiles { files: own, folder: Some(dir.to_path_buf()), project: None };
        services.entry(service).or_insert(files);
    }
    for placed in stack.place.get(location).into_iter().flatten() {
        services.entry(placed.clone()).or_default();
    }
    for (name, service) in &mut services {
        service.files.splice(0..0, base(root, name)?);
        let texts = service.files.iter().filter_map(|path| files::read_text(path).ok().flatten());
        let of_dotenv =
            service.folder.as_ref().and_then(|folder| dotenv_value(folder, "COMPOSE_PROJECT_NAME"));
        let of_dotenv = of_dotenv.filter(|name| is_service_name(name));
        let of_files = texts.filter_map(|text| tree::project_of_file(&text).map(str::to_owned)).next_back();
        // Compose's own order.
        service.project = of_dotenv.or(of_files);
    }
    services.retain(|_, files| !files.files.is_empty());
    Ok(services)
}

/// A service's file below `_base/`.
fn base(root: &Path, service: &str) -> Result<Vec<PathBuf>, Fault> {
    let dir = root.join("_base");
    let mut found: Vec<PathBuf> =
        ["yaml", "yml"].iter().map(|ending| dir.join(format!("{service}.{ending}"))).collect();
    found.retain(|path| path.is_file());
    only_one(&found)?;
    Ok(if found.is_empty() { own_files(&dir.join(service)) } else { found })
}

/// Two files of one service are not chosen between.
fn only_one(files: &[PathBuf]) -> Result<(), Fault> {
    let [one, other, ..] = files else { return Ok(()) };
    Err(Fault::Invalid(format!(
        "{} and {} are both the same service: keep one of them",
        one.display(),
        other.display()
    )))
}

/// Files that look like Compose files and are not part of any service of the location.
#[must_use]
pub fn unused(tree: &Tree, location: &Location) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find_compose(&tree.root.join("_base"), 1, &mut found);
    find_compose(&location.dir, UNUSED_DEPTH, &mut found);
    found.extend(own_file(&tree.root));
    let used: Vec<&Path> =
        tree.locations.values().flat_map(|l| l.services.values()).flat_map(ServiceFiles::in_order).collect();
    let texts: Vec<String> = used.iter().filter_map(|path| files::read_text(path).ok().flatten()).collect();
    // Another file may include or extend it.
    let named = |path: &Path| texts.iter().any(|text| text.contains(&name_of(path)));
    found.retain(|path| !used.contains(&path.as_path()) && !named(path));
    found.sort();
    found.dedup();
    found
}

fn find_compose(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), name_of(&entry.path()));
        if name.starts_with('.') {
            continue;
        }
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth > 0 {
            find_compose(&path, depth - 1, found);
        } else if yaml && path.is_file() && is_compose(&path) {
            found.push(path);
        }
    }
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
