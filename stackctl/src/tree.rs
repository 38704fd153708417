//! The tree that stackctl works on: a root, its locations, and the files of their services.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A whole tree, as it was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The folder with `_base/`, the locations and `stack.toml`.
    pub root: PathBuf,
    /// Every location by name.
    pub locations: BTreeMap<String, Location>,
}

/// A folder of the tree that describes one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its folder's name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The services that exist there, by name.
    pub services: BTreeMap<String, ServiceFiles>,
}

/// The Compose files of one service at one location; at least one of them exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFiles {
    /// The files in the order Compose merges them: those of `_base`, then the location's.
    pub files: Vec<PathBuf>,
    /// The service's own folder, for one that is a folder with a `compose.yaml`.
    pub folder: Option<PathBuf>,
    /// What the files themselves call their project.
    pub project: Option<String>,
}

impl ServiceFiles {
    /// The files in the order Compose merges them.
    pub fn in_order(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// The project directory: the folder of the first file.
    #[must_use]
    pub fn project_dir(&self) -> Option<&Path> {
        self.in_order().next().and_then(Path::parent)
    }
}

/// The names under which Compose finds a file by itself, in its order.
pub const COMPOSE_NAMES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The names of the override that Compose reads with such a file.
pub const OVERRIDE_NAMES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The service that a file in a location's folder is named after: `NAME.yaml` or `NAME.yml`.
#[must_use]
pub fn service_of_file(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"))?;
    (is_service_name(stem) && !COMPOSE_NAMES.contains(&name)).then_some(stem)
}

/// The project's name that a Compose file gives, when it is a plain word.
#[must_use]
pub fn project_of_file(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = text.lines().rev().find_map(|line| line.strip_prefix("name:"))?;
    let value = line.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    is_service_name(value).then_some(value)
}

/// Whether a YAML text is a Compose file by its top-level keys.
#[must_use]
pub fn looks_like_compose(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let keys = ["services:", "include:", "\"services\":", "'services':"];
    text.lines().any(|line| keys.iter().any(|key| line.starts_with(key)))
}

impl Location {
    /// The private folder of stackctl's own files.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join(".stack")
    }
}

/// The chosen location: by name, or by the current folder.
///
/// The error lists what there is.
pub fn choose<'t>(tree: &'t Tree, named: Option<&str>, here: &Path) -> Result<&'t Location, String> {
    let list = || tree.locations.keys().cloned().collect::<Vec<_>>().join(", ");
    if let Some(name) = named {
        return tree
            .locations
            .get(name)
            .ok_or_else(|| format!("there is no location {name}: there are {}", list()));
    }
    if let Some(location) = tree.locations.values().find(|location| here.starts_with(&location.dir)) {
        return Ok(location);
    }
    let mut all = tree.locations.values();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(format!(
            "no location below {}: a location is a folder with .env.user, its example or .env.generated, and with SERVICE.yaml or SERVICE/compose.yaml for each service",
            tree.root.display()
        )),
        _ => Err(format!("which location? Change into its folder, or give --location NAME: {}", list())),
    }
}

/// The services a verb works on: the named one, else the selected one, else all.
pub fn services(
    tree: &Tree,
    location: &Location,
    named: Option<&str>,
    selected: Option<&str>,
) -> Result<Vec<String>, String> {
    let Some(name) = named.or(selected) else { return Ok(location.services.keys().cloned().collect()) };
    if location.services.contains_key(name) {
        return Ok(vec![name.to_owned()]);
    }
    let elsewhere: Vec<&str> =
        tree.locations.values().filter(|l| l.services.contains_key(name)).map(|l| l.name.as_str()).collect();
    if !elsewhere.is_empty() {
        return Err(format!("{name} is not at {}; it exists at {}", location.name, elsewhere.join(", ")));
    }
    let near = crate::nearest::nearest(name, location.services.keys().map(String::as_str));
    Err(format!("there is no service {name} at {}{}", location.name, crate::nearest::hint(&near)))
}

/// The project that Compose makes of a folder's name: lower case, without what a name may not have.
#[must_use]
pub fn project_of_folder(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_' || *c == '-';
    let name: String = name.to_lowercase().chars().filter(kept).collect();
    name.trim_start_matches(['_', '-']).to_owned()
}

/// Whether a file's stem may be a project name, which is what Compose accepts.
#[must_use]
pub fn is_service_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_folder_chooses_the_location() {
        let tree = tree(&[("wroclaw", &["caddy"]), ("kyiv", &["emby"])]);
        assert_eq!(choose(&tree, None, Path::new("/t/kyiv/emby")).map(|l| l.name.as_str()), Ok("kyiv"));
        assert_eq!(
            choose(&tree, Some("wroclaw"), Path::new("/t/kyiv")).map(|l| l.name.as_str()),
            Ok("wroclaw")
        );
        assert!(choose(&tree, None, Path::new("/t")).is_err_and(|text| text.contains("kyiv, wroclaw")));
        assert!(choose(&tree, Some("lviv"), Path::new("/t")).is_err());
    }

    #[test]
    fn both_endings_name_a_service_and_composes_own_names_do_not() {
        assert_eq!(service_of_file("caddy.yml"), Some("caddy"));
        assert_eq!(service_of_file("caddy.yaml"), Some("caddy"));
        for other in ["compose.yaml", "docker-compose.yml", "compose.override.yml", "caddy.json", ".yml"] {
            assert_eq!(service_of_file(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_names_its_project() {
        assert_eq!(project_of_file("# x\nname: \"immich\" # y\nservices: {}\n"), Some("immich"));
        for other in ["services:\n  name: x\n", "name: ${X}\n", "name:\n"] {
            assert_eq!(project_of_file(other), None, "{other}");
        }
        assert_eq!(project_of_file("\u{feff}name: photos\r\nservices: {}\r\n"), Some("photos"));
        assert_eq!(project_of_folder("_My.Photos 2"), "myphotos2");
    }

    #[test]
    fn a_compose_file_is_known_by_its_top_level_keys() {
        for text in ["services: {}\n", "\u{feff}services:\r\n", "# x\nname: a\ninclude:\n  - b.yaml\n"] {
            assert!(looks_like_compose(text), "{text}");
        }
        assert!(!looks_like_compose("global:\n  services: 1\n"));
    }

    #[test]
    fn the_only_location_needs_no_name() {
        let one = tree(&[("wroclaw", &["caddy"])]);
        assert!(choose(&one, None, Path::new("/elsewhere")).is_ok());
        assert!(choose(&tree(&[]), None, Path::new("/")).is_err());
    }

    #[test]
    fn a_service_of_another_location_is_named_there() {
        let tree = tree(&[("wroclaw", &["caddy", "emby"]), ("kyiv", &["transmission"])]);
        let here = &tree.locations["wroclaw"];
        assert_eq!(services(&tree, here, None, None), Ok(vec!["caddy".into(), "emby".into()]));
        assert_eq!(services(&tree, here, None, Some("emby")), Ok(vec!["emby".into()]));
        assert_eq!(services(&tree, here, Some("caddy"), Some("emby")), Ok(vec!["caddy".into()]));
        let error = services(&tree, here, Some("transmission"), None).expect_err("elsewhere");
        assert_eq!(error, "transmission is not at wroclaw; it exists at kyiv");
        assert!(
            services(&tree, here, Some("cady"), None).is_err_and(|text| text.contains("did you mean caddy?"))
        );
    }

    fn tree(list: &[(&str, &[&str])]) -> Tree {
        let locations = list.iter().map(|(name, services)| {
            let dir = Path::new("/t").join(name);
            let services = services.iter().map(|s| ((*s).to_owned(), ServiceFiles::default())).collect();
            ((*name).to_owned(), Location { name: (*name).to_owned(), dir, services })
        });
        Tree { root: "/t".into(), locations: locations.collect() }
    }
}
