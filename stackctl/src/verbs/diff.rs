//! `diff`: rendered against what is on disk, and which containers would be recreated.

use serde_json::json;

use super::Report;
use super::prepare::Planned;
use super::session::Session;
use super::setup::prepare_all;
use super::up::{How, bring_up};
use crate::difference::{Change, changes};
use crate::fault::Fault;
use crate::manifest::Decision;
use crate::shell::files;
use crate::shell::store::Store;
use crate::vars::Vars;

/// What rendering and `up` would change; the value of a secret is never part of it.
pub fn diff(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let mut dry = session.at(&session.location.name)?;
    dry.options.dry_run = true;
    let store = Store::open(session.location.state_dir(), false)?;
    let manifest = store.manifest()?;
    let vars = session.vars()?;
    let prepared = prepare_all(&dry, &vars, &store, &manifest, services)?;
    let docker = session.docker(&vars);
    let reached = docker.versions(&session.location.dir).is_ok();
    let mut text = String::new();
    let mut rows = Vec::new();
    for one in &prepared {
        let changed =
            one.planned.iter().filter(|p| !matches!(p.decision, Decision::Keep | Decision::OwnFile));
        for planned in changed {
            let was_secret = manifest.files.get(&planned.output.path).is_some_and(|written| written.secret);
            text.push_str(&file_diff(session, &vars, planned, was_secret)?);
            let kind = if planned.decision == Decision::EditedByHand { "edited by hand" } else { "stale" };
            rows.push(json!({"service": one.service, "file": planned.output.path, "why": kind}));
        }
        let edited = one.planned.iter().any(|planned| planned.decision == Decision::EditedByHand);
        if reached && !edited {
            let outcome = bring_up(&dry, &vars, &docker, &store, &one.service, &How::default())?;
            for (word, names) in [("create", &outcome.created), ("recreate", &outcome.recreated)] {
                for name in names {
                    text.push_str(&format!("{}: up would {word} {name}\n", one.service));
                    rows.push(json!({"service": one.service, "container": name, "would": word}));
                }
            }
        }
    }
    if rows.is_empty() {
        let what = if reached { "every file and container is" } else { "every file is" };
        text.push_str(&format!("no difference: {what} as the tree says\n"));
    }
    if !reached {
        text.push_str("Docker does not answer: containers were not compared\n");
    }
    Ok(Report::new(
        text,
        json!({"schema": 1, "location": session.location.name, "docker": reached, "changes": rows}),
    ))
}

fn file_diff(session: &Session, vars: &Vars, planned: &Planned, was_secret: bool) -> Result<String, Fault> {
    let path = session.location.dir.join(&planned.output.path);
    let old = files::read(&path).map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
    let old = old.map(|found| String::from_utf8_lossy(&found.bytes).into_owned()).unwrap_or_default();
    let new = String::from_utf8_lossy(&planned.output.bytes).into_owned();
    let closed = planned.output.secret || was_secret;
    let mut text = format!("--- {}\n+++ {}\n", planned.output.path, planned.output.template);
    let mut hidden = 0;
    for change in changes(&old, &new) {
        match change {
            // The old line may hold an old value that no env file knows any more.
            Change::Gone(line) if closed => hidden += line.len().min(1),
            Change::Gone(line) => text.push_str(&format!("-{line}\n")),
            Change::New(line) => text.push_str(&format!("+{}\n", vars.mask(line))),
        }
    }
    if hidden > 0 {
        text.push_str(&format!("-({hidden} lines, not shown: the file carries secrets)\n"));
    }
    Ok(text)
}
