//! Command lines made of other command lines.

use super::{Common, Which};
use crate::fault::Fault;
use crate::nearest::{hint, nearest};
use crate::verbs::names::{service_verbs, verbs};
use crate::verbs::session::Session;

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

/// `SERVICE WORD`: an action that stack.toml declares, else a verb for the service.
pub(super) fn of_service(session: &Session, service: &str, word: &str) -> [String; 2] {
    let declared = session.stack.actions.get(service).is_some_and(|actions| actions.contains_key(word));
    if service_verbs().any(|verb| verb == word) && !declared {
        [word.to_owned(), service.to_owned()]
    } else {
        [service.to_owned(), word.to_owned()]
    }
}

/// `SERVICE VERB …` as `VERB SERVICE …`, what precedes it kept.
pub(super) fn as_verb(words: &[String], service: &str, verb: &str, extra: &[String]) -> Vec<String> {
    let before = words.len().saturating_sub(extra.len() + 2);
    let swapped = [verb.to_owned(), service.to_owned()];
    words.iter().take(before).cloned().chain(swapped).chain(extra.iter().cloned()).collect()
}

/// What `make help` prints: verbs, and what each service of the location can do.
pub(super) fn help(session: &Session) -> String {
    let services: Vec<&str> = session.location.services.keys().map(String::as_str).collect();
    let example = services.first().map_or_else(String::new, |service| format!(", as {service}-status"));
    let mut text = format!(
        "make VERB           {}\nmake all-VERB       every service, in the order of [depends]\nmake SERVICE-VERB   {}{example}\n",
        verbs().collect::<Vec<_>>().join(" "),
        service_verbs().collect::<Vec<_>>().join(" ")
    );
    text.push_str(&format!("\nservices at {}: {}\n", session.location.name, services.join(" ")));
    for service in services {
        let actions = session.stack.actions.get(service).into_iter().flat_map(|actions| actions.keys());
        let targets: String = actions.map(|action| format!("make {service}-{action}\n")).collect();
        text.push_str(&targets);
    }
    text.push_str(
        "\nSERVICE=NAME one service, FOLLOW=1 logs, ALL=1 every location's status, YES=1 VOLUMES=\"A B\" clean,\nDRY_RUN=1, JSON=1, ARGS=\"--rollback --wait 300\"\n",
    );
    text
}

/// Every target of the location.
fn targets(session: &Session) -> Vec<String> {
    let mut all: Vec<String> = verbs().flat_map(|verb| [verb.to_owned(), format!("all-{verb}")]).collect();
    for service in session.location.services.keys() {
        let actions = session.stack.actions.get(service).into_iter().flat_map(|actions| actions.keys());
        let words = service_verbs().chain(actions.map(String::as_str));
        all.extend(words.map(|word| format!("{service}-{word}")));
    }
    all
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
    let of_all = target.strip_prefix("all-").unwrap_or(target);
    if verbs().any(|verb| verb == of_all) {
        words.push(target.to_owned());
    } else {
        let services = session.tree.locations.values().flat_map(|location| location.services.keys());
        let split = services
            .filter_map(|service| Some((service, target.strip_prefix(service.as_str())?.strip_prefix('-')?)))
            .max_by_key(|(service, _)| service.len());
        let (service, action) = split.ok_or_else(|| {
            let all = targets(session);
            let near = hint(&nearest(target, all.iter().map(String::as_str)));
            Fault::Usage(format!(
                "no target {target}{near}: a target is a verb, all-VERB, SERVICE-VERB or SERVICE-ACTION (make help)"
            ))
        })?;
        words.extend(of_service(session, service, action));
    }
    words.extend(rest.iter().cloned());
    Ok(words)
}
