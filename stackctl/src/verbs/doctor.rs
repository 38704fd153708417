//! `doctor`: everything about a location that a person should know before it bites.

use serde_json::json;

use super::Report;
use super::prepare::prepare;
use super::session::Session;
use super::up::refuse_foreign;
use crate::config::SecretKind;
use crate::envfile::Entry;
use crate::fault::Fault;
use crate::manifest::Decision;
use crate::secret::verify;
use crate::shell::store::Store;
use crate::vars::{Origin, Vars};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Note,
    Warning,
    Error,
}

struct Findings(Vec<(Weight, String)>);

impl Findings {
    fn add(&mut self, weight: Weight, text: impl Into<String>) {
        self.0.push((weight, text.into()));
    }
}

/// Looks at a location; exit 11 when something is broken, 10 when something is doubtful, notes are free.
pub fn doctor(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let mut findings = Findings(Vec::new());
    let generated = env_file(session, &session.generated_path(), &mut findings);
    let user = env_file(session, &session.user_path(), &mut findings);
    let vars = Vars::join(&generated, &user, &session.stack).unwrap_or_else(|error| {
        findings.add(Weight::Error, error.to_string());
        Vars::default()
    });
    variables(session, &vars, &generated, &user, &mut findings);
    if let Err(fault) = session.check_untracked(&[], &vars) {
        findings.add(Weight::Error, fault.to_string());
    }
    let versions = docker(session, &vars, services, &mut findings);
    files(session, &vars, services, &mut findings)?;
    findings.0.sort();
    findings.0.reverse();
    let worst = findings.0.iter().map(|(weight, _)| *weight).max();
    let word = |weight: &Weight| match weight {
        Weight::Error => "error",
        Weight::Warning => "warning",
        Weight::Note => "note",
    };
    let mut text: String =
        findings.0.iter().map(|(weight, said)| format!("{}: {said}\n", word(weight))).collect();
    if findings.0.is_empty() {
        text.push_str("nothing to report\n");
    }
    if let Some((compose, engine)) = &versions {
        text.push_str(&format!("Docker {engine}, Compose {compose}\n"));
    }
    let rows: Vec<_> =
        findings.0.iter().map(|(weight, said)| json!({"weight": word(weight), "text": said})).collect();
    let json = json!({"schema": 1, "location": session.location.name, "findings": rows,
        "compose": versions.as_ref().map(|v| &v.0), "engine": versions.as_ref().map(|v| &v.1)});
    let fault = match worst {
        Some(Weight::Error) => Some(Fault::Broken("something is broken".into())),
        Some(Weight::Warning) => Some(Fault::Degraded("something is doubtful".into())),
        Some(Weight::Note) | None => None,
    };
    Ok(Report { text, json, fault })
}

fn env_file(session: &Session, path: &std::path::Path, findings: &mut Findings) -> Vec<Entry> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = session.entries(path).unwrap_or_else(|fault| {
        findings.add(Weight::Error, fault.to_string());
        Vec::new()
    });
    for entry in &entries {
        if let Some(why) = entry.compose_difference() {
            let text = format!(
                "{name}:{}: {} is read literally; read by Compose itself it would differ: {why}",
                entry.line, entry.name
            );
            findings.add(Weight::Note, text);
        }
    }
    entries
}

fn variables(session: &Session, vars: &Vars, generated: &[Entry], user: &[Entry], findings: &mut Findings) {
    for entry in generated {
        if user.iter().any(|other| other.name == entry.name) {
            findings.add(Weight::Warning, format!("{} is in both env files: .env.user wins", entry.name));
        }
        if entry.value.expose().contains('\n') {
            findings.add(
                Weight::Warning,
                format!(
                    ".env.generated:{}: {} has several lines: `stackctl setup` makes it one",
                    entry.line, entry.name
                ),
            );
        }
    }
    if vars.find("PATH").is_some() {
        findings
            .add(Weight::Warning, "PATH is a variable of an env file, but Compose sees this machine's own");
    }
    for (name, secret) in &session.stack.secrets {
        let SecretKind::Hash { of, kind } = &secret.kind else { continue };
        let (Some(hashed), Some(password)) = (vars.find(name), vars.find(of)) else { continue };
        let of_user = password.origin == Origin::User;
        if !verify(*kind, password.stored.expose(), hashed.stored.expose()) {
            let fix = if of_user {
                format!("delete {name} from .env.generated and run `stackctl setup`")
            } else {
                format!("`stackctl secrets rotate {of}` makes both again")
            };
            findings.add(Weight::Error, format!("{name} is not the hash of {of}: {fix}"));
        }
    }
}

fn docker(
    session: &Session,
    vars: &Vars,
    services: &[String],
    findings: &mut Findings,
) -> Option<(String, String)> {
    let docker = session.docker(vars);
    let versions = match docker.versions(&session.location.dir) {
        Ok(versions) => versions,
        Err(fault) => {
            findings.add(Weight::Error, fault.to_string());
            return None;
        }
    };
    for service in services {
        let files = session.location.services.get(service);
        let project_dir = files.and_then(|files| files.project_dir()).unwrap_or(&session.location.dir);
        let running =
            docker.containers(&session.location.dir, Some(session.project(service))).unwrap_or_default();
        if let Err(fault) = refuse_foreign(session, service, &project_dir.to_string_lossy(), &running) {
            findings.add(Weight::Error, fault.to_string());
        }
    }
    Some(versions)
}

fn files(session: &Session, vars: &Vars, services: &[String], findings: &mut Findings) -> Result<(), Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let manifest = store.manifest()?;
    for service in services {
        let prepared = match prepare(session, vars, &store, &manifest, service) {
            Ok(prepared) => prepared,
            Err(fault) => {
                findings.add(Weight::Error, format!("{service}: {fault}"));
                continue;
            }
        };
        for spot in prepared.compose.iter().flat_map(|file| &file.unknown) {
            findings.add(Weight::Note, format!("{spot} is no variable here and passes through"));
        }
        for planned in &prepared.planned {
            let path = &planned.output.path;
            match planned.decision {
                Decision::EditedByHand => {
                    findings.add(Weight::Warning, format!("{path} was edited by hand since it was rendered"));
                }
                Decision::Write(_) => {
                    findings.add(Weight::Note, format!("{path} is older than its template"))
                }
                Decision::Attributes => findings.add(
                    Weight::Warning,
                    format!("{path} has another mode or owner than it was rendered with"),
                ),
                Decision::OwnFile => findings.add(
                    Weight::Note,
                    format!("{path} is the location's own and wins over the shared template"),
                ),
                Decision::Keep => {}
            }
        }
    }
    Ok(())
}
