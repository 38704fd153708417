//! `adopt`: proves, without changing anything, that an existing tree comes out as it is today.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Report;
use super::prepare::{Prepared, prepare};
use super::session::Session;
use crate::difference::{Change, changes};
use crate::envfile::Entry;
use crate::fault::Fault;
use crate::invocation::Project;
use crate::manifest::Decision;
use crate::shell::docker::Docker;
use crate::shell::files::{self, Attributes};
use crate::shell::store::Store;
use crate::vars::Vars;

/// Compares every rendered file and every Compose model with today's, and writes a first stack.toml if there is none.
pub fn adopt(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let manifest = store.manifest()?;
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.compose_version(&session.location.dir)?;
    let mut text = String::new();
    let mut rows = Vec::new();
    let mut differing = 0;
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for service in services {
        let prepared = prepare(session, &vars, &store, &manifest, service)?;
        for name in prepared.uses() {
            users.entry(name.to_owned()).or_default().insert(service.clone());
        }
        for planned in &prepared.planned {
            let said = match planned.decision {
                Decision::Keep | Decision::Attributes => "identical",
                Decision::OwnFile => "the location's own file",
                Decision::Write(_) if !session.location.dir.join(&planned.output.path).exists() => {
                    "not rendered yet"
                }
                Decision::Write(_) | Decision::EditedByHand => "differs",
            };
            differing += usize::from(said == "differs");
            text.push_str(&format!("{service}: {}: {said}\n", planned.output.path));
            rows.push(json!({"service": service, "file": planned.output.path, "result": said}));
        }
        let lines = compare_models(session, &docker, &store, &vars, &prepared)?;
        differing += usize::from(!lines.is_empty());
        let said = if lines.is_empty() { "identical" } else { "differs" };
        text.push_str(&format!("{service}: compose config: {said}\n"));
        for line in &lines {
            text.push_str(&format!("  {line}\n"));
        }
        rows.push(json!({"service": service, "compose_config": said, "lines": lines}));
    }
    let path = session.tree.root.join("stack.toml");
    let wrote = !path.exists();
    if wrote && !session.options.dry_run {
        let first = first_stack_toml(&session.entries(&session.generated_path())?, &users);
        let open = Attributes { mode: 0o644, owner: None };
        files::write(&path, first.as_bytes(), open, crate::manifest::Style::Replace)
            .map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
        text.push_str(&format!("wrote a first {}: look through it, then commit it\n", path.display()));
    }
    let json = json!({"schema": 1, "location": session.location.name, "compared": rows, "differing": differing, "wrote_stack_toml": wrote});
    let fault =
        (differing > 0).then(|| Fault::Degraded(format!("{differing} things come out otherwise than today")));
    Ok(Report { text, json, fault })
}

/// The lines on which Compose's model, read as today from the bare files, differs from stackctl's; secrets masked.
fn compare_models(
    session: &Session,
    docker: &Docker,
    store: &Store,
    vars: &Vars,
    prepared: &Prepared,
) -> Result<Vec<String>, Fault> {
    let stage = prepared.stage(store)?;
    let ours = prepared.project(&stage.0, false);
    let today = Today::new(session, vars, prepared, &stage.0, store)?;
    let read = |project: &Project| -> Result<String, Fault> {
        let output = docker.compose(project, &["config", "--format", "json"])?;
        if !output.status.success() {
            return Ok(format!("Compose refuses it: {}", crate::shell::process::error_output(&output)));
        }
        let value: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| Fault::Failed(error.to_string()))?;
        serde_json::to_string_pretty(&value).map_err(|error| Fault::Failed(error.to_string()))
    };
    let (before, after) = (read(&today.0)?, read(&ours)?);
    let lines = changes(&before, &after).into_iter().map(|change| match change {
        Change::Gone(line) => format!("-{}", vars.mask(line.trim())),
        Change::New(line) => format!("+{}", vars.mask(line.trim())),
    });
    Ok(lines.collect())
}

/// The project as the shell scripts called it: placeholders replaced in the text, both env files read by Compose.
struct Today(Project);

impl Today {
    fn new(
        session: &Session,
        vars: &Vars,
        prepared: &Prepared,
        dir: &std::path::Path,
        store: &Store,
    ) -> Result<Self, Fault> {
        let mut project = prepared.project(dir, false);
        for (index, file) in prepared.compose.iter().enumerate().filter(|(_, file)| file.copied) {
            let text = files::read(&file.path).map_err(|error| Fault::Failed(error.to_string()))?;
            let bytes = text.map(|found| found.bytes.to_vec()).unwrap_or_default();
            let filled = replace_known(&bytes, vars);
            let copy = dir.join(format!("today-{index}.yaml"));
            store.put(&copy, &filled)?;
            if let Some(place) = project.files.get_mut(index) {
                *place = copy;
            }
        }
        // Compose takes one env file here, so both are laid one after the other: the later value wins, as with two.
        let mut both = String::new();
        for path in [session.generated_path(), session.user_path()] {
            let text = files::read_text(&path).map_err(|error| Fault::Failed(error.to_string()))?;
            both.push_str(&text.unwrap_or_default());
            both.push('\n');
        }
        let env = dir.join("today.env");
        store.put(&env, both.as_bytes())?;
        project.env_file = env;
        Ok(Self(project))
    }
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

/// Declares every value of `.env.generated` with the kind it looks like, below the first service that uses it.
fn first_stack_toml(generated: &[Entry], users: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in generated {
        let service = users.get(&entry.name).and_then(|services| services.first()).map(String::as_str);
        let line = match guess(entry.value.expose()) {
            Some(kind) => format!("{} = {kind}", entry.name),
            // A value that cannot be made again is only named, never replaced.
            None => {
                format!("# {} = {{ kind = \"…\" }}   # its kind is not to be seen from its value", entry.name)
            }
        };
        sections.entry(service.unwrap_or("unused")).or_default().push(line);
    }
    let mut text = String::from(
        "# Made by `stackctl adopt` from what .env.generated holds. Existing values are never changed.\n",
    );
    for (service, lines) in sections {
        text.push_str(&format!("\n[secrets.{service}]\n{}\n", lines.join("\n")));
    }
    text
}

fn guess(value: &str) -> Option<String> {
    let all = |test: fn(u8) -> bool| !value.is_empty() && value.bytes().all(test);
    let length = value.len();
    if value.contains("BEGIN RSA PRIVATE KEY")
        || crate::secret::as_pem(value).is_ok_and(|pem| pem.expose().len() > 1000)
    {
        Some("{ kind = \"rsa\" }".into())
    } else if crate::secret::as_pem(value).is_ok() {
        Some("{ kind = \"ed25519\" }".into())
    } else if value.starts_with('$') {
        None
    } else if length == 36 && value.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        Some("{ kind = \"uuid\" }".into())
    } else if all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && length >= 16
        && length.is_multiple_of(2)
    {
        Some(format!("{{ kind = \"hex\", bytes = {} }}", length / 2))
    } else if let Some(bytes) =
        STANDARD.decode(value).ok().map(|b| b.len()).filter(|n| *n >= 16 && value.contains(['=', '+', '/']))
    {
        Some(format!("{{ kind = \"base64\", bytes = {bytes} }}"))
    } else if all(|b| b.is_ascii_graphic()) && (8..=256).contains(&length) {
        Some(format!("{{ kind = \"password\", length = {length} }}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_value_is_guessed_and_the_first_stack_toml_is_valid() {
        let key = crate::secret::new_ed25519(&[3; 32]);
        let text = format!(
            "PASS=abcDEF123456\nHEXX=00112233445566778899aabbccddeeff\nB64=MDEyMzQ1Njc4OWFiY2RlZg==\nUID_X=123e4567-e89b-42d3-a456-426614174000\nHASH=$argon2id$v=19$x\nJWK={}\n",
            key.expose()
        );
        let entries = crate::envfile::parse(&text).expect("readable");
        let users = [("PASS".to_owned(), ["emby".to_owned()].into())].into();
        let first = first_stack_toml(&entries, &users);
        let stack = crate::config::parse(&first).expect("valid");
        let kinds: BTreeMap<_, _> =
            stack.secrets.iter().map(|(name, secret)| (name.as_str(), secret.kind.word())).collect();
        let wanted =
            [("PASS", "password"), ("HEXX", "hex"), ("B64", "base64"), ("UID_X", "uuid"), ("JWK", "ed25519")];
        assert_eq!(kinds, wanted.into());
        assert_eq!(stack.secrets["PASS"].service, "emby");
        assert!(first.contains("# HASH"));
    }
}
