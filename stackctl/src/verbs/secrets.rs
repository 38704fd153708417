//! Secrets: the missing ones made, the known ones listed, shown and rotated.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::Report;
use super::adopt::{offer, used};
use super::session::Session;
use super::up::{How, bring_up, wanted_containers};
use crate::config::{Secret, SecretKind};
use crate::envfile::{literal_line, with_section_lines, without};
use crate::fault::Fault;
use crate::first::line_of;
use crate::inuse::Use;
use crate::manifest::{Manifest, Style};
use crate::secret::{Hidden, mint};
use crate::shell::docker::Docker;
use crate::shell::files::{self, Attributes};
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::shell::{self};
use crate::vars::{Origin, Vars};
use crate::verbs::prepare::{names_used, prepare};

/// Secrets that were just made, not yet written.
#[derive(Default)]
pub struct Minted {
    /// Their names, with the service they are of.
    pub made: BTreeMap<String, String>,
    values: BTreeMap<String, Hidden>,
    /// Old entries of several lines that become one, and values in use that no file had.
    flattened: BTreeMap<String, String>,
}

impl Minted {
    /// Keeps a value in use, as the line that an env file has for it.
    fn take(&mut self, name: &str, secret: &Secret, used: &Use) -> Result<(), Fault> {
        let line = line_of(name, used.value.expose()).ok_or_else(|| {
            Fault::Conflict(format!(
                "{name} is in use by {} with a value that no line of an env file can hold: put it into .env.user",
                used.place
            ))
        })?;
        let read = crate::envfile::parse(&line).map_err(|error| Fault::Failed(error.to_string()))?;
        notify(&format!("took {name} over: {} has it in use", used.place));
        self.values.extend(read.into_iter().map(|entry| (name.to_owned(), entry.value)));
        self.flattened.insert(name.to_owned(), secret.service.clone());
        Ok(())
    }
}

/// Makes the secrets of `services` that have no value.
///
/// One that was made before and is gone is only made again when nothing is left that was made with it (exit 6).
pub fn mint_missing(
    session: &Session,
    vars: &Vars,
    manifest: &Manifest,
    services: &[String],
) -> Result<Minted, Fault> {
    let mut minted = Minted::default();
    let docker = session.docker(vars);
    let in_use = InUse { session, docker: &docker, vars, services, uses: OnceCell::new() };
    for (name, secret) in wanted(session, services)? {
        if let Some(var) = vars.find(name) {
            flatten(name, secret, var, &mut minted);
            continue;
        }
        if session.vars_of(vars, &secret.service)?.find(name).is_some() {
            continue;
        }
        let used = in_use.of(name)?.filter(|used| fits(vars, &minted, secret, used.value.expose()));
        if let Some(used) = used {
            minted.take(name, secret, used)?;
            continue;
        }
        refuse_if_used(session, &docker, manifest, name, secret)?;
        mint_one(vars, &mut minted, name, secret)?;
    }
    Ok(minted)
}

/// Whether a value in use may stay: a hash only while it is that of its password.
fn fits(vars: &Vars, minted: &Minted, secret: &Secret, value: &str) -> bool {
    let SecretKind::Hash { of, kind } = &secret.kind else { return true };
    let password = minted.values.get(of).or(vars.find(of).map(|var| &var.stored));
    password.is_some_and(|password| crate::secret::verify(*kind, password.expose(), value))
}

/// Values in use, read at the first question.
struct InUse<'s> {
    session: &'s Session,
    docker: &'s Docker,
    vars: &'s Vars,
    services: &'s [String],
    uses: OnceCell<Vec<Use>>,
}

impl InUse<'_> {
    /// The value of a variable that containers or rendered files have in use; two different ones are a conflict.
    fn of(&self, name: &str) -> Result<Option<&Use>, Fault> {
        let uses = match self.uses.get() {
            Some(uses) => uses,
            None => {
                let read = self.read()?;
                self.uses.get_or_init(|| read)
            }
        };
        let mut found = uses.iter().filter(|used| used.name == name && !used.value.expose().is_empty());
        let Some(one) = found.next() else { return Ok(None) };
        match found.find(|other| other.value.expose() != one.value.expose()) {
            None => Ok(Some(one)),
            Some(other) => Err(Fault::Conflict(format!(
                "{name} has no value here, and {} and {} use different ones: put the right one into .env.user",
                one.place, other.place
            ))),
        }
    }

    fn read(&self) -> Result<Vec<Use>, Fault> {
        let store = Store::open(self.session.location.state_dir(), false)?;
        let mut uses = Vec::new();
        for service in self.services {
            // Without an engine nothing runs, so nothing of it is in use.
            let running = wanted_containers(self.docker, self.session, service).unwrap_or_default();
            uses.extend(used::read(self.session, self.docker, &store, self.vars, service, &running)?.uses);
        }
        Ok(uses)
    }
}

/// The secrets of services, and those of others that they use; hashes last, since they need their password.
fn wanted<'s>(session: &'s Session, services: &[String]) -> Result<Vec<(&'s str, &'s Secret)>, Fault> {
    let mut used = BTreeSet::new();
    for service in services {
        used.extend(names_used(session, service)?);
    }
    let all = &session.stack.secrets;
    let direct = |name: &String, secret: &Secret| services.contains(&secret.service) || used.contains(name);
    let mut names: BTreeSet<&String> =
        all.iter().filter(|(n, s)| direct(n, s)).map(|(name, _)| name).collect();
    let passwords = all.iter().filter(|(name, _)| names.contains(name)).filter_map(|(_, s)| s.kind.hash_of());
    let passwords: Vec<&String> = passwords.filter(|name| all.contains_key(*name)).collect();
    names.extend(passwords);
    let mut wanted: Vec<(&str, &Secret)> = all
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(name, secret)| (name.as_str(), secret))
        .collect();
    wanted.sort_by_key(|(_, secret)| secret.kind.hash_of().is_some());
    Ok(wanted)
}

fn mint_one(vars: &Vars, minted: &mut Minted, name: &str, secret: &Secret) -> Result<(), Fault> {
    let value = {
        let other =
            |of: &str| minted.values.get(of).cloned().or_else(|| vars.find(of).map(|var| var.stored.clone()));
        mint(name, &secret.kind, &other, &mut shell::random)
            .map_err(|error| Fault::Invalid(error.to_string()))?
    };
    minted.values.insert(name.to_owned(), value);
    minted.made.insert(name.to_owned(), secret.service.clone());
    Ok(())
}

/// An old PEM block becomes one line of base64: the same key, in a file that holds no value of several lines.
fn flatten(name: &str, secret: &Secret, var: &crate::vars::Var, minted: &mut Minted) {
    use base64::Engine as _;
    if var.origin == Origin::Generated && secret.kind.is_key() && var.stored.expose().contains('\n') {
        let line = base64::engine::general_purpose::STANDARD.encode(format!("{}\n", var.rendered.expose()));
        minted.values.insert(name.to_owned(), Hidden::new(line));
        minted.flattened.insert(name.to_owned(), secret.service.clone());
    }
}

fn refuse_if_used(
    session: &Session,
    docker: &Docker,
    manifest: &Manifest,
    name: &str,
    secret: &Secret,
) -> Result<(), Fault> {
    let made_before = manifest.minted.contains_key(name);
    // A lost .env.generated looks like a first set-up, so volumes count then too.
    if !made_before && session.generated_path().exists() {
        return Ok(());
    }
    let volumes = match volumes_made_with(session, docker, secret) {
        Ok(volumes) => volumes,
        Err(_) if !made_before => return Ok(()),
        Err(fault) => {
            return Err(
                fault.within(&format!("{name} is gone, and whether its volumes remain cannot be seen"))
            );
        }
    };
    if volumes.is_empty() {
        return Ok(());
    }
    Err(Fault::Conflict(format!(
        "{name} is gone, but volumes made with it are still there: {}. Put its value back into {}, or give the data up with `stackctl secrets rotate {name} --accept-data-loss`",
        volumes.join(", "),
        session.generated_path().display()
    )))
}

fn volumes_made_with(session: &Session, docker: &Docker, secret: &Secret) -> Result<Vec<String>, Fault> {
    let dir = &session.location.dir;
    if secret.volumes.is_empty() {
        return docker.volumes(dir, session.project(&secret.service));
    }
    let mut there = Vec::new();
    for volume in &secret.volumes {
        if is_there(session, docker, volume)? {
            there.push(volume.clone());
        }
    }
    Ok(there)
}

/// Whether a volume exists; a name with a `/` is a folder of this machine, which must have something in it.
fn is_there(session: &Session, docker: &Docker, volume: &str) -> Result<bool, Fault> {
    if !volume.contains('/') {
        return docker.has_volume(&session.location.dir, volume);
    }
    let path = session.location.dir.join(volume);
    Ok(std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()))
}

/// Volumes that were made with a secret for which stack.toml names none: a database's, or what it encrypts.
fn undeclared_volumes(
    session: &Session,
    docker: &Docker,
    vars: &Vars,
    name: &str,
) -> Result<Vec<String>, Fault> {
    let store = Store::open(session.location.state_dir(), false)?;
    let mut services = BTreeMap::new();
    for service in session.all_services() {
        if !names_used(session, &service)?.contains(name) {
            continue;
        }
        let in_use = used::read(session, docker, &store, vars, &service, &[])?;
        let facts = offer::facts(session, docker, &store, vars, &service, &in_use)?;
        services.insert(service, facts);
    }
    let mut there = Vec::new();
    for volume in crate::first::made_with(name, &services) {
        if is_there(session, docker, &volume)? {
            there.push(volume);
        }
    }
    Ok(there)
}

/// The variables as they will be once `minted` is written.
pub fn with_minted(session: &Session, minted: &Minted) -> Result<Vars, Fault> {
    let mut generated = session.entries(&session.generated_path())?;
    generated.retain(|entry| !minted.values.contains_key(&entry.name));
    let lines: String =
        minted.values.iter().map(|(name, value)| literal_line(name, value.expose())).collect();
    let made = crate::envfile::parse(&lines).map_err(|error| Fault::Failed(error.to_string()))?;
    generated.extend(made);
    let user = session.entries(&session.user_path())?;
    Vars::join(&generated, &user, &session.stack).map_err(|error| Fault::Invalid(error.to_string()))
}

/// Writes what was made into `.env.generated`, in its service's section, and remembers that it was made.
pub fn keep_minted(session: &Session, manifest: &mut Manifest, minted: &Minted) -> Result<(), Fault> {
    if minted.values.is_empty() {
        return Ok(());
    }
    let path = session.generated_path();
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let old = files::read_text(&path).map_err(fail)?.unwrap_or_default();
    let names: Vec<&str> = minted.values.keys().map(String::as_str).collect();
    let mut text = without(&old, &names);
    let places: BTreeSet<&String> = minted.made.values().chain(minted.flattened.values()).collect();
    for service in places {
        let of_service =
            |name: &String| minted.made.get(name).or(minted.flattened.get(name)) == Some(service);
        let lines: String = minted
            .values
            .iter()
            .filter(|(name, _)| of_service(name))
            .map(|(name, value)| literal_line(name, value.expose()))
            .collect();
        text = with_section_lines(&text, service, &lines);
    }
    // Remembered first: a value that is written but not remembered would be silently replaced by
    // a new one when it is lost.
    manifest.minted.extend(minted.made.iter().map(|(name, service)| (name.clone(), service.clone())));
    session.store()?.save_manifest(manifest)?;
    files::write(&path, text.as_bytes(), Attributes { mode: 0o600, owner: None }, Style::Replace)
        .map_err(fail)
}

/// The login passwords among what was made: the one time they are printed.
#[must_use]
pub fn show_once(session: &Session, minted: &Minted) -> String {
    let shown = |name: &&String| session.stack.secrets.get(*name).is_some_and(|secret| secret.show_once);
    let value = |name: &String| minted.values.get(name).map_or("", Hidden::expose).to_owned();
    if session.options.dry_run {
        return String::new();
    }
    let lines =
        minted.made.keys().filter(shown).map(|name| format!("{name} (shown only now): {}\n", value(name)));
    lines.collect()
}

/// `secrets list`: names, kinds, services and whether they have a value; never a value.
pub fn list(session: &Session) -> Result<Report, Fault> {
    let vars = session.vars()?;
    let mut text = String::new();
    let mut rows = Vec::new();
    for (name, secret) in &session.stack.secrets {
        let (state, length) = match vars.find(name) {
            None => ("missing", 0),
            Some(var) if var.origin == Origin::User => (".env.user", var.stored.expose().len()),
            Some(var) => (".env.generated", var.stored.expose().len()),
        };
        let kind = secret.kind.word();
        text.push_str(&format!("{name:<32} {kind:<14} {:<14} {state}\n", secret.service));
        rows.push(
            json!({"name": name, "kind": kind, "service": secret.service, "from": state, "length": length}),
        );
    }
    Ok(Report::new(text, json!({"schema": 1, "location": session.location.name, "secrets": rows})))
}

/// `secrets show NAME`: the value, because it was asked for.
pub fn show(session: &Session, name: &str) -> Result<Report, Fault> {
    let vars = session.vars()?;
    let var = vars.find(name).ok_or_else(|| unknown(&vars, name))?;
    let value = var.rendered.expose();
    Ok(Report::new(format!("{value}\n"), json!({"schema": 1, "name": name, "value": value})))
}

/// `secrets rotate NAME`: a new value, its hashes after it, and a restart of whoever uses them, and only of those.
pub fn rotate(session: &Session, name: &str, accept_data_loss: bool) -> Result<Report, Fault> {
    let _lock = session.lock()?;
    let store = session.store()?;
    let mut manifest = store.manifest()?;
    let vars = session.vars()?;
    let secret = session.stack.secrets.get(name).ok_or_else(|| unknown(&vars, name))?;
    let docker = session.docker(&vars);
    refuse_rotation(session, &docker, &vars, name, secret, accept_data_loss)?;
    let mut minted = Minted::default();
    mint_one(&vars, &mut minted, name, secret)?;
    for (hash, hash_secret) in session.stack.hashes_of(name) {
        mint_one(&vars, &mut minted, hash, hash_secret)?;
    }
    let names: BTreeSet<String> = minted.made.keys().cloned().collect();
    let new_vars = with_minted(session, &minted)?;
    let mut consumers = Vec::new();
    for service in session.all_services() {
        let prepared = prepare(session, &new_vars, &store, &manifest, &service)?;
        if prepared.uses().iter().any(|used| names.contains(*used)) {
            prepared.refuse_edited()?;
            consumers.push(service);
        }
    }
    let mut restarted = Vec::new();
    if !session.options.dry_run {
        keep_minted(session, &mut manifest, &minted)?;
        for service in &consumers {
            let running =
                docker.containers(&session.location.dir, Some(session.project(service))).unwrap_or_default();
            if running.iter().any(|container| container.state.status == "running") {
                let report = bring_up(session, &new_vars, &docker, &store, service, &How::default())?;
                restarted.extend(report.recreated.iter().map(|container| format!("{service}/{container}")));
            } else {
                let prepared = prepare(session, &new_vars, &store, &manifest, service)?;
                prepared.write_outputs(session, &store, &mut manifest)?;
                store.save_manifest(&manifest)?;
            }
        }
    }
    let list = |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let mut text = format!(
        "rotated {}; used by {}\n",
        names.iter().cloned().collect::<Vec<_>>().join(", "),
        list(&consumers)
    );
    text.push_str(&format!("recreated {}\n", list(&restarted)));
    text.push_str(&show_once(session, &minted));
    let json = json!({"schema": 1, "rotated": names, "consumers": consumers, "recreated": restarted, "dry_run": session.options.dry_run});
    Ok(Report::new(text, json))
}

fn refuse_rotation(
    session: &Session,
    docker: &Docker,
    vars: &Vars,
    name: &str,
    secret: &Secret,
    accept_data_loss: bool,
) -> Result<(), Fault> {
    if let SecretKind::Hash { of, .. } = &secret.kind {
        return Err(Fault::Usage(format!("{name} is a hash: rotate {of}, and it follows")));
    }
    if vars.find(name).is_some_and(|var| var.origin == Origin::User) {
        return Err(Fault::Conflict(format!(
            "{name} is in .env.user, which is never rewritten: change it there"
        )));
    }
    // A value that never was needs no consent; one that volumes were made with does.
    let lost = vars.find(name).is_none();
    let volumes = if secret.volumes.is_empty() && !lost {
        undeclared_volumes(session, docker, vars, name)?
    } else {
        volumes_made_with(session, docker, secret)?
    };
    if volumes.is_empty() {
        return Ok(());
    }
    let list = volumes.join(", ");
    let text = format!(
        "{list} was made with {name} and keeps the old value: a database takes a new password only by its own command (ALTER USER …), and what is encrypted opens with the old key alone"
    );
    if accept_data_loss {
        notify(&format!("warning: {text}"));
        return Ok(());
    }
    Err(Fault::Conflict(format!("{text}. --accept-data-loss rotates it all the same")))
}

/// Forgets secrets whose volumes were deleted.
pub fn forget(session: &Session, manifest: &mut Manifest, names: &[&str]) -> Result<(), Fault> {
    let path = session.generated_path();
    let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let Some(old) = files::read_text(&path).map_err(fail)? else { return Ok(()) };
    let text = without(&old, names);
    files::write(&path, text.as_bytes(), Attributes { mode: 0o600, owner: None }, Style::Replace)
        .map_err(fail)?;
    for name in names {
        manifest.minted.remove(*name);
        notify(&format!("forgot {name}"));
    }
    Ok(())
}

fn unknown(vars: &Vars, name: &str) -> Fault {
    Fault::Usage(format!("there is no secret {name}{}", crate::nearest::hint(&vars.nearest(name))))
}
