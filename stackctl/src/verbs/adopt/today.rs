//! The project as it is run today, and where its model differs from stackctl's.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::envfile::quote_for_compose;
use crate::fault::Fault;
use crate::inuse::{Use, describe};
use crate::invocation::Project;
use crate::overlay::FILES_LABEL;
use crate::shell::docker::{Docker, Running};
use crate::shell::files;
use crate::shell::store::Store;
use crate::vars::Vars;
use crate::verbs::prepare::Prepared;
use crate::verbs::session::Session;

/// One difference between two models: where, and what each has.
struct Difference<'v> {
    path: String,
    today: Option<&'v Value>,
    ours: Option<&'v Value>,
}

/// The places in which Compose's model as of today differs from stackctl's; no value of a variable is shown.
pub(super) fn compare(
    session: &Session,
    docker: &Docker,
    store: &Store,
    prepared: &Prepared,
    running: &[Running],
    uses: &[Use],
) -> Result<Vec<String>, Fault> {
    if running.iter().any(|container| container.label(FILES_LABEL).is_some()) {
        // It runs by stackctl already: its containers themselves were compared.
        return Ok(Vec::new());
    }
    let stage = prepared.stage(store)?;
    let ours = prepared.project(&stage.0, false);
    let mut today = as_run(session, &prepared.service, running)
        .map_or_else(|| by_files(session, prepared, &stage.0, store), Ok)?;
    if !running.is_empty() {
        // What a shell gave when they were started is gone, but in use.
        let lines: String =
            uses.iter().map(|used| quote_for_compose(&used.name, used.value.expose())).collect();
        let path = stage.0.join("in-use.env");
        store.put(&path, lines.as_bytes())?;
        if today.env_files.is_empty() {
            today.env_files = session.dotenv_paths(&prepared.service).into_iter().rev().collect();
        }
        today.env_files.push(path);
    }
    let read = |project: &Project| docker.config(project, &[]);
    let (before, after) = match (read(&today)?, read(&ours)?) {
        (Ok(before), Ok(after)) => (before, after),
        // What Compose refuses today as well is no difference.
        (Err(_), Err(why)) => return Ok(vec![format!("Compose refuses it, today as well: {why}")]),
        (Err(why), Ok(_)) => return Ok(vec![format!("Compose refuses it as it is today: {why}")]),
        (Ok(_), Err(why)) => return Ok(vec![format!("Compose refuses it as stackctl would run it: {why}")]),
    };
    let mut found = Vec::new();
    differences(&before, &after, String::new(), &mut found);
    Ok(found.iter().map(|difference| difference.line(prepared.vars())).collect())
}

impl Difference<'_> {
    fn line(&self, vars: &Vars) -> String {
        let Self { path, today, ours } = self;
        // Compose prints every `$` doubled.
        let value =
            |value: &Value| value.as_str().map_or_else(|| value.to_string(), |text| text.replace("$$", "$"));
        let hidden = ["environment.", "labels.", "command", "args."].iter().any(|part| path.contains(part));
        match (today.map(value), ours.map(value)) {
            (Some(today), Some(ours)) if hidden => {
                let how = describe(&today, &ours, "by stackctl").replace("in use", "today");
                format!("{path}: {how}")
            }
            (Some(today), Some(ours)) => {
                format!("{path}: {} today, {} by stackctl", vars.mask(&today), vars.mask(&ours))
            }
            (Some(_), None) => format!("{path}: only today"),
            (None, _) => format!("{path}: only by stackctl"),
        }
    }
}

fn differences<'v>(before: &'v Value, after: &'v Value, path: String, found: &mut Vec<Difference<'v>>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, today) in old {
                match new.get(key) {
                    Some(ours) => differences(today, ours, below(key), found),
                    None => found.push(Difference { path: below(key), today: Some(today), ours: None }),
                }
            }
            for (key, ours) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                found.push(Difference { path: below(key), today: None, ours: Some(ours) });
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (today, ours)) in old.iter().zip(new).enumerate() {
                differences(today, ours, below(&index.to_string()), found);
            }
        }
        (today, ours) if today != ours => {
            found.push(Difference { path, today: Some(today), ours: Some(ours) });
        }
        _ => {}
    }
}

/// The project as its containers' labels say it was started.
fn as_run(session: &Session, service: &str, running: &[Running]) -> Option<Project> {
    let container = running.first()?;
    let label = |name: &str| container.label(&format!("com.docker.compose.{name}"));
    let paths = |text: &str| text.split(',').map(PathBuf::from).collect::<Vec<PathBuf>>();
    let project_dir = PathBuf::from(label("project.working_dir")?);
    let files = paths(label("project.config_files")?);
    let env_files = label("project.environment_file").map(paths).unwrap_or_default();
    let there = files.iter().chain(&env_files).all(|path| path.is_file()) && project_dir.is_dir();
    there.then(|| Project {
        name: label("project").unwrap_or_default().to_owned(),
        project_dir,
        files,
        env_files,
        // No label says where the command was called; `${PWD}` in the files means this folder.
        workdir: session.workdir(service).to_path_buf(),
    })
}

/// The project as its files alone would be run: placeholders replaced in the text, every env file read by Compose.
fn by_files(session: &Session, prepared: &Prepared, dir: &Path, store: &Store) -> Result<Project, Fault> {
    let mut project = prepared.project(dir, false);
    for (index, file) in prepared.compose.iter().enumerate().filter(|(_, file)| file.copied) {
        let text = files::read(&file.path).map_err(|error| Fault::Failed(error.to_string()))?;
        let bytes = text.map(|found| found.bytes.to_vec()).unwrap_or_default();
        let filled = replace_known(&bytes, prepared.vars());
        let copy = dir.join(format!("today-{index}.yaml"));
        store.put(&copy, &filled)?;
        if let Some(place) = project.files.get_mut(index) {
            *place = copy;
        }
    }
    let dotenv = session.dotenv_paths(&prepared.service).into_iter().rev();
    let own = [session.generated_path(), session.user_path()].into_iter().filter(|path| path.is_file());
    project.env_files = dotenv.chain(own).collect();
    Ok(project)
}

fn replace_known(text: &[u8], vars: &Vars) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for placeholder in crate::template::placeholders(text) {
        if let Some(var) = vars.find(placeholder.name) {
            out.extend_from_slice(text.get(copied..placeholder.start).unwrap_or_default());
            out.extend_from_slice(var.stored.expose().as_bytes());
            copied = placeholder.end;
        }
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_compared_place_by_place_and_values_stay_hidden() {
        let before = serde_json::json!({"services": {"web": {"image": "a:1", "environment": {"P": "secret", "Q": "1"},
            "ports": [{"published": "9090"}]}}});
        let after = serde_json::json!({"services": {"web": {"image": "a:1", "environment": {"P": "secre", "R": "1"},
            "ports": [{"published": "8080"}]}}});
        let mut found = Vec::new();
        differences(&before, &after, String::new(), &mut found);
        let lines: Vec<String> = found.iter().map(|difference| difference.line(&Vars::default())).collect();
        assert_eq!(
            lines,
            [
                "services.web.environment.P: 6 characters today, 5 by stackctl: the last 1 character is today as well",
                "services.web.environment.Q: only today",
                "services.web.environment.R: only by stackctl",
                "services.web.ports.0.published: 9090 today, 8080 by stackctl",
            ]
        );
    }
}
