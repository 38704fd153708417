//! What is said of a location without services, and of Compose files that no service uses.

use std::path::Path;

use super::session::Session;
use crate::shell::discover;

/// Why a location has no service, with the files that may be meant as some.
#[must_use]
pub fn without_services(session: &Session) -> String {
    let name = &session.location.name;
    let mut text = format!(
        "{name} has no services: each is {name}/SERVICE.yaml (or .yml), or {name}/SERVICE/compose.yaml"
    );
    for path in discover::unused(&session.tree, &session.location) {
        text.push_str(&format!("\n{}", arrangement(session, &path)));
    }
    text
}

/// How a Compose file that no service uses becomes part of one.
#[must_use]
pub fn arrangement(session: &Session, path: &Path) -> String {
    let (root, name) = (&session.tree.root, &session.location.name);
    let shown = path.strip_prefix(root).unwrap_or(path).display();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fix = if path.starts_with(root.join("_base")) {
        let service = file.split('.').next().unwrap_or_default();
        format!("add {name}/{file}, or [place] {name} = [\"{service}\"] to stack.toml")
    } else {
        format!(
            "a service is {name}/SERVICE.yaml (or .yml; lower-case letters, digits, _ and -), or {name}/SERVICE/compose.yaml"
        )
    };
    format!("{shown} looks like a Compose file and is not used: {fix}")
}
