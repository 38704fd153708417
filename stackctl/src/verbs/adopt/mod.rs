//! `adopt`: compares an existing tree with what runs today, takes over values in use, and writes a first `stack.toml`.

pub mod offer;
mod today;
pub mod used;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Report;
use super::arrange::arrangement;
use super::prepare::{Planned, prepare};
use super::session::Session;
use crate::envfile::{self, with_section_lines, without};
use crate::fault::Fault;
use crate::first::line_of;
use crate::inuse::{Finding, Use, compare};
use crate::manifest::{Decision, Style};
use crate::shell::docker::{Docker, Running};
use crate::shell::files::{self, Attributes};
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::vars::{Origin, Vars};

/// Compares files, Compose models and running containers with today's; takes over what is in use and has no other home.
pub fn adopt(session: &Session, services: &[String]) -> Result<Report, Fault> {
    let first = !session.tree.root.join("stack.toml").exists();
    let vars = session.vars()?;
    let docker = session.docker(&vars);
    docker.compose_version(&session.location.dir)?;
    let containers = docker.containers(&session.location.dir, None);
    let mut reported = Differences::default();
    if let Err(fault) = &containers {
        notify(&format!("running containers are not compared: {fault}"));
    }
    let containers = containers.unwrap_or_default();
    let running: BTreeMap<&String, Vec<Running>> =
        services.iter().map(|service| (service, running_of(session, &containers, service))).collect();
    let mut session = with_projects(session, &running, first, &mut reported)?;
    let store = Store::open(session.location.state_dir(), false)?;
    let mut in_use = BTreeMap::new();
    for (service, running) in &running {
        let found = used::read(&session, &docker, &store, &vars, service, running)?;
        found.differences.iter().for_each(|line| reported.differs(line));
        in_use.insert((*service).clone(), found);
    }
    let taken = take_over(&session, &vars, &in_use, &mut reported)?;
    let mut vars = taken.vars;
    let mut offered = None;
    if first {
        let entries = envfile::parse(&taken.text).map_err(|error| Fault::Invalid(error.to_string()))?;
        let text = offer::text(&session, &docker, &store, &vars, &entries, &in_use)?;
        // What is compared is what comes out with the new file.
        let stack = crate::config::parse(&text).map_err(|error| Fault::Failed(error.to_string()))?;
        session = session.with_stack(stack)?;
        let user = session.entries(&session.user_path())?;
        vars =
            Vars::join(&entries, &user, &session.stack).map_err(|error| Fault::Invalid(error.to_string()))?;
        offered = Some(text);
    }
    let session = &session;
    for service in services {
        let running = running.get(service).map(Vec::as_slice).unwrap_or_default();
        let uses = in_use.get(service).map(|found| found.uses.as_slice()).unwrap_or_default();
        let look = Look { session, docker: &docker, store: &store, vars: &vars, running, uses };
        look.at(service, &mut reported)?;
    }
    for path in crate::shell::discover::unused(&session.tree, &session.location) {
        reported.line(&arrangement(session, &path));
    }
    if let Some(text) = offered {
        write_first(session, &text, &mut reported)?;
    }
    let json = json!({"schema": 1, "location": session.location.name, "compared": reported.rows, "differing": reported.differing,
        "taken_over": taken.names, "wrote_stack_toml": first && !session.options.dry_run});
    let fault = (reported.differing > 0)
        .then(|| Fault::Degraded(format!("{} things come out otherwise than today", reported.differing)));
    Ok(Report { text: reported.text, json, fault })
}

/// What is reported, as it grows.
#[derive(Default)]
struct Differences {
    text: String,
    rows: Vec<Value>,
    differing: usize,
}

impl Differences {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn differs(&mut self, line: &str) {
        self.differing += 1;
        self.rows.push(json!({"differs": line}));
        self.line(line);
    }
}

/// The containers of a service: those of its project, else those started from its files under another project's name.
fn running_of(session: &Session, containers: &[Running], service: &str) -> Vec<Running> {
    let label = |container: &Running, name: &str| {
        container.label(&format!("com.docker.compose.{name}")).unwrap_or_default().to_owned()
    };
    let mine = containers.iter().filter(|container| !container.is_one_off());
    let project = session.project(service);
    let own: Vec<Running> = mine.clone().filter(|c| label(c, "project") == project).cloned().collect();
    if !own.is_empty() {
        return own;
    }
    let files_of = session.location.services.get(service);
    let of_our_files = |container: &&Running| {
        let files = label(container, "project.config_files");
        let mut ours = files_of.iter().flat_map(|files| files.in_order());
        ours.any(|path| files.split(',').any(|file| std::path::Path::new(file) == path))
            && files.split(',').any(|file| std::path::Path::new(file).starts_with(&session.location.dir))
    };
    mine.filter(of_our_files).cloned().collect()
}

/// The session with the projects that services run as already, where nothing declares them.
fn with_projects(
    session: &Session,
    running: &BTreeMap<&String, Vec<Running>>,
    first: bool,
    reported: &mut Differences,
) -> Result<Session, Fault> {
    let mut adopted = session.at(&session.location.name)?;
    let project_of = |running: &[Running]| {
        running.first().and_then(|one| one.label("com.docker.compose.project")).unwrap_or_default().to_owned()
    };
    for (service, containers) in running {
        let project = project_of(containers);
        if project.is_empty() || project == session.project(service) {
            continue;
        }
        let alone = running.values().filter(|others| project_of(others) == project).count() == 1;
        let taken = session.location.services.keys().any(|other| session.project(other) == project);
        if first && alone && !taken {
            reported.line(&format!("{service}: runs as the Compose project {project}: it stays that"));
            adopted.stack.projects.insert((*service).clone(), project);
        } else if alone && !taken {
            reported.differs(&format!(
                "{service}: runs as the Compose project {project}, stackctl would start {} next to it: add [project] {service} = \"{project}\" to stack.toml",
                session.project(service)
            ));
        } else {
            reported.differs(&format!(
                "{service}: runs as the Compose project {project} together with others; stackctl gives each service a project of its own, so give its volumes their present names (`name:`) and take {project} down first"
            ));
        }
    }
    Ok(adopted)
}

/// Values that were taken over, and the variables with them.
struct Taken {
    names: Vec<String>,
    vars: Vars,
    text: String,
}

/// Writes values in use into `.env.generated`, where they are absent or it has another; reports the rest.
fn take_over(
    session: &Session,
    vars: &Vars,
    in_use: &BTreeMap<String, used::InUse>,
    reported: &mut Differences,
) -> Result<Taken, Fault> {
    let path = session.generated_path();
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let old = files::read_text(&path).map_err(fail)?.unwrap_or_default();
    let mut text = old.clone();
    let mut names = Vec::new();
    let dry = session.options.dry_run;
    for finding in findings(session, vars, in_use)? {
        let (used, what, replaces) = match finding {
            Finding::Absent(used) => {
                let length = used.value.expose().chars().count();
                let what =
                    format!("{}: in use by {} ({length} characters), in no env file", used.name, used.place);
                (used, what, false)
            }
            Finding::Differs { used, origin, how } => {
                let what = format!("{}: {how} (in use by {})", used.name, used.place);
                if origin != Origin::Generated {
                    reported.differs(&format!("{what}; correct {}", origin.file()));
                    continue;
                }
                (used, what, true)
            }
            Finding::Disagree { one, how, .. } => {
                reported.differs(&format!(
                    "{}: {how} (in use by {}); it cannot be taken over",
                    one.name, one.place
                ));
                continue;
            }
        };
        let Some(line) = line_of(&used.name, used.value.expose()) else {
            reported.differs(&format!("{what}; no line of an env file can hold it"));
            continue;
        };
        if replaces {
            text = without(&text, &[&used.name]);
        }
        let service = in_use.iter().find(|(_, found)| found.uses.iter().any(|other| other.name == used.name));
        text = with_section_lines(&text, service.map_or("unused", |(service, _)| service), &line);
        reported.line(&format!(
            "{what}; {} into .env.generated",
            if dry { "would be taken over" } else { "taken over" }
        ));
        names.push(used.name);
    }
    if text != old && !dry {
        keep_and_write(session, &old, &text)?;
    }
    let generated = envfile::parse(&text).map_err(|error| Fault::Invalid(error.to_string()))?;
    let user = session.entries(&session.user_path())?;
    let vars =
        Vars::join(&generated, &user, &session.stack).map_err(|error| Fault::Invalid(error.to_string()))?;
    Ok(Taken { names, vars, text })
}

/// Compares values in use: those of a service's own `.env` by themselves, all others together.
fn findings(
    session: &Session,
    vars: &Vars,
    in_use: &BTreeMap<String, used::InUse>,
) -> Result<Vec<Finding>, Fault> {
    let mut found = Vec::new();
    let mut shared: Vec<Use> = Vec::new();
    for (service, in_use) in in_use {
        let of_service = session.vars_of(vars, service)?;
        let own = |used: &Use| of_service.find(&used.name).is_some_and(|var| var.origin == Origin::Dotenv);
        let (own, others): (Vec<Use>, Vec<Use>) = in_use.uses.iter().cloned().partition(|used| own(used));
        found.extend(compare(&own, &of_service));
        shared.extend(others);
    }
    found.extend(compare(&shared, vars));
    Ok(found)
}

fn keep_and_write(session: &Session, old: &str, text: &str) -> Result<(), Fault> {
    let path = session.generated_path();
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let closed = Attributes { mode: 0o600, owner: None };
    if !old.is_empty() {
        let kept = session.location.state_dir().join("env.generated.before-adopt");
        files::private_dir(&session.location.state_dir()).map_err(fail)?;
        files::write(&kept, old.as_bytes(), closed, Style::Replace).map_err(fail)?;
        let shown = kept.strip_prefix(&session.tree.root).unwrap_or(&kept);
        notify(&format!("the old .env.generated is kept as {}", shown.display()));
    }
    files::write(&path, text.as_bytes(), closed, Style::Replace).map_err(fail)
}

/// What a service is looked at with.
struct Look<'l> {
    session: &'l Session,
    docker: &'l Docker,
    store: &'l Store,
    vars: &'l Vars,
    running: &'l [Running],
    uses: &'l [Use],
}

impl Look<'_> {
    /// Compares a service's rendered files and its model with today's.
    fn at(&self, service: &str, reported: &mut Differences) -> Result<(), Fault> {
        reported.line(&format!("{service}: read from {}", self.sources(service).join(", ")));
        let prepared = match prepare(self.session, self.vars, self.store, &self.store.manifest()?, service) {
            Ok(prepared) => prepared,
            Err(Fault::Invalid(text)) => {
                reported.differs(&format!("{service}: cannot be rendered: {text}"));
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        for planned in &prepared.planned {
            let result = word(self.session, planned);
            let path = &planned.output.path;
            reported.line(&format!("{service}: {path}: {result}"));
            reported.differing += usize::from(result == "differs");
            reported.rows.push(json!({"service": service, "file": path, "result": result}));
        }
        let lines =
            today::compare(self.session, self.docker, self.store, &prepared, self.running, self.uses)?;
        reported.differing += usize::from(!lines.is_empty());
        let result = if lines.is_empty() { "identical" } else { "differs" };
        reported.line(&format!("{service}: compose config: {result}"));
        lines.iter().for_each(|line| reported.line(&format!("  {line}")));
        reported.rows.push(json!({"service": service, "compose_config": result, "lines": lines}));
        Ok(())
    }

    /// The files that a service is made of, as they are shown.
    fn sources(&self, service: &str) -> Vec<String> {
        let root = &self.session.tree.root;
        let shown = |path: &std::path::Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        let files_of = self.session.location.services.get(service);
        let mut read: Vec<String> =
            files_of.into_iter().flat_map(|files| files.in_order()).map(shown).collect();
        read.extend(self.session.dotenv_paths(service).iter().map(|path| shown(path)));
        read
    }
}

fn word(session: &Session, planned: &Planned) -> &'static str {
    match planned.decision {
        Decision::Keep | Decision::Attributes => "identical",
        Decision::OwnFile => "the location's own file",
        Decision::Write(_) if !session.location.dir.join(&planned.output.path).exists() => "not rendered yet",
        Decision::Write(_) | Decision::EditedByHand => "differs",
    }
}

fn write_first(session: &Session, text: &str, reported: &mut Differences) -> Result<(), Fault> {
    let path = session.tree.root.join("stack.toml");
    if session.options.dry_run {
        reported.line(&format!("would write {}:\n\n{text}", path.display()));
        return Ok(());
    }
    offer::write(session, text)?;
    reported.line(&format!("wrote a first {}: look through it, then commit it", path.display()));
    Ok(())
}
