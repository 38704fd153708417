//! Command lines made of other command lines.

use super::{Common, Which};
use crate::fault::Fault;
use crate::verbs::session::Session;

/// Targets of the Makefile shim that are verbs, by themselves or behind `all-`.
const VERBS: [&str; 16] = [
    "select",
    "unselect",
    "setup",
    "up",
    "down",
    "restart",
    "logs",
    "status",
    "clean",
    "render",
    "diff",
    "doctor",
    "rollback",
    "adopt",
    "print-command",
    "secrets",
];

/// The words for the far stackctl: ours without what only means something here, and with our selection.
pub(super) fn far(session: &Session, which: Option<&Which>, words: &[String]) -> Vec<String> {
    let mut far = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--root" | "--location" => {
                rest.next();
            }
            "--here" => {}
            _ if word.starts_with("--root=") || word.starts_with("--location=") => {}
            _ => far.push(word.clone()),
        }
    }
    if let (Some(Which { service: None }), Some(selected)) = (which, session.selected()) {
        far.push(selected);
    }
    far
}

/// A Makefile target as words: a verb, an `all-` verb, or SERVICE-ACTION, the longest service name winning.
pub(super) fn of_target(
    session: &Session,
    common: &Common,
    target: &str,
    rest: &[String],
) -> Result<Vec<String>, Fault> {
    let mut words = Vec::new();
    let root = common.root.as_ref().map(|path| path.to_string_lossy().into_owned());
    for (flag, value) in [("--root", root), ("--location", common.location.clone())] {
        if let Some(value) = value {
            words.extend([flag.to_owned(), value]);
        }
    }
    let is_verb =
        VERBS.contains(&target) || target.strip_prefix("all-").is_some_and(|verb| VERBS.contains(&verb));
    if is_verb {
        words.push(target.to_owned());
    } else {
        let services = session.tree.locations.values().flat_map(|location| location.services.keys());
        let split = services
            .filter_map(|service| Some((service, target.strip_prefix(service.as_str())?.strip_prefix('-')?)))
            .max_by_key(|(service, _)| service.len());
        let (service, action) = split
            .ok_or_else(|| Fault::Usage(format!("no target {target}: a verb, all-VERB or SERVICE-ACTION")))?;
        words.extend([service.clone(), action.to_owned()]);
    }
    words.extend(rest.iter().cloned());
    Ok(words)
}
