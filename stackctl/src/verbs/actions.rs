//! Actions, hooks, logs, the selection, and the command behind it all.

use serde_json::json;

use super::Report;
use super::names::service_verbs;
use super::prepare::prepare;
use super::session::Session;
use crate::fault::Fault;
use crate::invocation::Project;
use crate::nearest::{hint, nearest};
use crate::secret::{HashKind, hash};
use crate::shell::files::{self, Attributes};
use crate::shell::process::{Call, notify};
use crate::shell::store::Store;
use crate::vars::Vars;

/// `select SERVICE`, or `unselect` without one.
pub fn select(session: &Session, service: Option<&str>) -> Result<Report, Fault> {
    let path = session.selection_file();
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    if let Some(name) = service {
        let known = session.tree.locations.values().any(|location| location.services.contains_key(name));
        if !known {
            let all = session.tree.locations.values().flat_map(|location| location.services.keys());
            let near = nearest(name, all.map(String::as_str));
            return Err(Fault::Usage(format!("there is no service {name} at any location{}", hint(&near))));
        }
    }
    if !session.options.dry_run {
        match service {
            Some(name) => {
                let open = Attributes { mode: 0o644, owner: None };
                files::write(&path, format!("{name}\n").as_bytes(), open, crate::manifest::Style::Replace)
                    .map_err(fail)?;
            }
            None if path.exists() => std::fs::remove_file(&path).map_err(fail)?,
            None => {}
        }
    }
    let text = service.map_or_else(
        || "no service is selected: verbs mean all\n".to_owned(),
        |name| format!("selected {name}\n"),
    );
    Ok(Report::new(text, json!({"schema": 1, "selected": service})))
}

/// The project of a service, made of the files its last `up` or `setup` left, or staged ones.
fn with_project<T>(
    session: &Session,
    service: &str,
    run: impl FnOnce(&Vars, &Project) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let vars = session.vars()?;
    let prepared = prepare(session, &vars, &store, &store.manifest()?, service)?;
    let labels = files::read_text(&store.service_dir(service).join("labels.yaml")).ok().flatten();
    // With the labels of the last up, a command that looks at definitions finds no difference.
    let (stage, labelled) = match &labels {
        Some(text) => (prepared.stage_with(&store, text)?, true),
        None => (prepared.stage(&store)?, false),
    };
    run(&vars, &prepared.project(&stage.0, labelled))
}

/// `logs`: the last 50 lines, or with `follow` everything from there on.
pub fn logs(session: &Session, services: &[String], follow: bool) -> Result<(), Fault> {
    if follow && services.len() > 1 {
        return Err(Fault::Usage("follow the logs of one service at a time".into()));
    }
    for service in services {
        with_project(session, service, |vars, project| {
            let verb: &[&str] =
                if follow { &["logs", "--tail", "50", "--follow"] } else { &["logs", "--tail", "50"] };
            session.docker(vars).compose_in_front(project, verb)
        })?;
    }
    Ok(())
}

/// `print-command`: what a person would type, so that work can go on without stackctl.
pub fn print_command(session: &Session, services: &[String], verb: &[String]) -> Result<Report, Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let vars = session.vars()?;
    let words: Vec<&str> =
        if verb.is_empty() { vec!["up", "--detach"] } else { verb.iter().map(String::as_str).collect() };
    let mut text = String::new();
    let mut rows = Vec::new();
    for service in services {
        let prepared = prepare(session, &vars, &store, &store.manifest()?, service)?;
        let dir = store.service_dir(service);
        let project = prepared.project(&dir, dir.join("labels.yaml").exists());
        let shown = project.shown(&words);
        text.push_str(&shown);
        text.push('\n');
        rows.push(json!({"service": service, "command": shown, "argv": project.arguments(&words), "ready": dir.join("compose.env").exists()}));
    }
    Ok(Report::new(text, json!({"schema": 1, "location": session.location.name, "commands": rows})))
}

/// `SERVICE ACTION`: a declared action, with `@compose` as the service's own Compose command.
pub fn act(
    session: &Session,
    service: &str,
    action: &str,
    extra: &[String],
) -> Result<Option<Report>, Fault> {
    session.services(Some(service))?;
    let actions = session.stack.actions.get(service);
    let argv = actions.and_then(|actions| actions.get(action)).ok_or_else(|| {
        let known: Vec<&str> =
            actions.into_iter().flat_map(|actions| actions.keys()).map(String::as_str).collect();
        let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let near = hint(&nearest(action, known.into_iter().chain(service_verbs())));
        Fault::Usage(format!("{service} has no verb or action {action}{near}; its actions are: {list}"))
    })?;
    let words: Vec<String> = argv.iter().chain(extra).cloned().collect();
    if session.options.dry_run {
        let shown = words.join(" ");
        let json = json!({"schema": 1, "service": service, "action": action, "argv": words, "dry_run": true});
        return Ok(Some(Report::new(format!("would run: {shown}\n"), json)));
    }
    let Some((program, arguments)) = words.split_first() else { return Ok(None) };
    match program.as_str() {
        "@compose" => {
            let verb: Vec<&str> = arguments.iter().map(String::as_str).collect();
            with_project(session, service, |vars, project| {
                session.docker(vars).compose_in_front(project, &verb)
            })?;
        }
        "@stackctl" => {
            let own = std::env::current_exe().map_err(|error| Fault::Failed(format!("own path: {error}")))?;
            let place = ["--root".to_owned(), session.tree.root.to_string_lossy().into_owned()];
            let at = ["--location".to_owned(), session.location.name.clone()];
            let all: Vec<String> = place.into_iter().chain(at).chain(arguments.iter().cloned()).collect();
            run(
                session,
                &session.vars()?,
                &own.to_string_lossy(),
                &all,
                &session.location.dir.clone(),
                action,
            )?;
        }
        _ => run(session, &session.vars()?, program, arguments, &session.location.dir.clone(), action)?,
    }
    Ok(None)
}

/// Runs the `post_up` hooks of a service; one that fails warns, unless it is fatal.
pub fn post_up(session: &Session, vars: &Vars, service: &str) -> Result<(), Fault> {
    for hook in session.stack.post_up.get(service).into_iter().flatten() {
        let dir = session.location.dir.join(&hook.cwd);
        let arguments = ["-c".to_owned(), hook.run.clone()];
        let result = run(session, vars, "sh", &arguments, &dir, &format!("hook {}", hook.run));
        match result {
            Err(fault) if hook.fatal => return Err(fault.within(service)),
            Err(fault) => notify(&format!("{service}: warning: {fault}")),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// `hash KIND`: the hash of a password read from standard input.
pub fn hash_password(kind: &str) -> Result<Report, Fault> {
    let kind = match kind {
        "argon2id" => HashKind::Argon2id,
        "pbkdf2-sha512" => HashKind::Pbkdf2Sha512,
        "bcrypt" => HashKind::Bcrypt,
        _ => return Err(Fault::Usage("the kinds are argon2id, pbkdf2-sha512 and bcrypt".into())),
    };
    let mut password = zeroize::Zeroizing::new(String::new());
    std::io::stdin().read_line(&mut password).map_err(|error| Fault::Failed(error.to_string()))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Fault::Usage("give the password on standard input".into()));
    }
    let mut salt = [0; 16];
    crate::shell::random(&mut salt).map_err(|error| Fault::Failed(error.to_string()))?;
    let hashed = hash(kind, password, salt).map_err(Fault::Failed)?;
    Ok(Report::new(format!("{hashed}\n"), json!({"schema": 1, "hash": hashed})))
}

fn run(
    session: &Session,
    vars: &Vars,
    program: &str,
    arguments: &[String],
    workdir: &std::path::Path,
    what: &str,
) -> Result<(), Fault> {
    let mut environment = session.environment(vars);
    environment.push(("STACK_LOCATION".into(), session.location.name.clone()));
    let status = Call { program, arguments, environment: &environment, workdir }
        .run()
        .map_err(|error| Fault::Failed(format!("{what}: {program}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Fault::Failed(format!("{what} ended with {status}"))) }
}
