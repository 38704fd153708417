//! Getting a service ready: rendered in memory, checked by Compose, then written.

mod content;
mod mounted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::session::Session;
use crate::composefile;
use crate::fault::Fault;
use crate::generation::Kept;
use crate::interpolate;
use crate::invocation::Project;
use crate::manifest::{Decision, Manifest, Present};
use crate::model::Model;
use crate::overlay;
use crate::render::{Missing, Output, render};
use crate::secret::Hidden;
use crate::shell::discover;
use crate::shell::docker::{Docker, Running};
use crate::shell::files::{self, Attributes, OnDisk};
use crate::shell::store::Store;
use crate::template::placeholders;
use crate::vars::Vars;

pub use mounted::Mounts;

/// A Compose file, and the copy Compose must read instead when it has known placeholders.
pub struct ComposeFile {
    /// The file in the tree.
    pub path: PathBuf,
    /// Its bytes as Compose must see them.
    pub bytes: Vec<u8>,
    /// Whether they differ from the file's own.
    pub copied: bool,
    /// Placeholders that pass through, with their place.
    pub unknown: Vec<String>,
    /// Variables it uses, as placeholders or as `${NAME}`.
    pub uses: BTreeSet<String>,
}

/// A rendered file and what must be done about it.
pub struct Planned {
    /// The rendered file.
    pub output: Output,
    /// What must be done.
    pub decision: Decision,
}

/// A service, rendered in memory.
pub struct Prepared {
    /// Its name.
    pub service: String,
    /// Its rendered files.
    pub planned: Vec<Planned>,
    /// Its Compose files, base first.
    pub compose: Vec<ComposeFile>,
    project_dir: PathBuf,
    workdir: PathBuf,
    project_name: String,
    vars: Vars,
    /// Paths that any service of the location rendered before.
    rendered_before: Vec<String>,
}

/// What Compose says of a prepared service.
pub struct Checked {
    /// Its model.
    pub model: Model,
    /// The generated last override.
    pub labels: String,
}

/// Renders one service; nothing is written.
pub fn prepare(
    session: &Session,
    vars: &Vars,
    store: &Store,
    manifest: &Manifest,
    service: &str,
) -> Result<Prepared, Fault> {
    let vars = &session.vars_of(vars, service)?;
    let files_of = session.location.services.get(service);
    let files_of =
        files_of.ok_or_else(|| Fault::Usage(format!("no service {service} at {}", session.location.name)))?;
    let sources = discover::templates(&session.tree.root, &session.location, service)?;
    let outputs = render(&sources, vars, &session.stack).map_err(|missing| lacking(session, &missing))?;
    let mut planned = Vec::with_capacity(outputs.len());
    for output in outputs {
        let path = session.location.dir.join(&output.path);
        let on_disk = files::read(&path).map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?;
        let present = on_disk.as_ref().map(|f| Present { bytes: &f.bytes, mode: f.mode, owner: f.owner });
        let style = manifest.style(&output.path, session.location.services.keys());
        let decision =
            manifest.decide(store.key(), &output, present.as_ref(), session.options.overwrite, style);
        planned.push(Planned { output, decision });
    }
    let mut compose = Vec::new();
    for path in files_of.in_order() {
        compose.push(compose_file(session, path, vars)?);
    }
    let project_dir = files_of.project_dir().unwrap_or(&session.location.dir).to_path_buf();
    Ok(Prepared {
        service: service.to_owned(),
        planned,
        compose,
        project_dir,
        workdir: session.workdir(service).to_path_buf(),
        project_name: session.project(service).to_owned(),
        vars: vars.clone(),
        rendered_before: manifest.files.keys().cloned().collect(),
    })
}

fn lacking(session: &Session, missing: &Missing) -> Fault {
    let by_setup = |line: &String| line.contains("`stackctl setup` makes it");
    let fix =
        if missing.0.iter().all(by_setup) { String::new() } else { format!("\n{}", session.value_fix()) };
    Fault::Invalid(format!("{missing}{fix}"))
}

/// The names that a service's templates and Compose files use, whether or not they have a value.
pub fn names_used(session: &Session, service: &str) -> Result<BTreeSet<String>, Fault> {
    let mut names = BTreeSet::new();
    for source in discover::templates(&session.tree.root, &session.location, service)? {
        names.extend(placeholders(&source.text).iter().map(|placeholder| placeholder.name.to_owned()));
    }
    let files_of = session.location.services.get(service);
    for path in files_of.into_iter().flat_map(|files| files.in_order()) {
        let text = files::read_text(path).map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?;
        let text = text.unwrap_or_default();
        names.extend(placeholders(text.as_bytes()).iter().map(|placeholder| placeholder.name.to_owned()));
        names.extend(composefile::variables(&text));
    }
    Ok(names)
}

fn compose_file(session: &Session, path: &Path, vars: &Vars) -> Result<ComposeFile, Fault> {
    let text = files::read_text(path)
        .map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?
        .unwrap_or_default();
    let filled = composefile::fill(text.as_bytes(), vars);
    let shown = path.strip_prefix(&session.tree.root).unwrap_or(path).display().to_string();
    let place = |spot: &crate::template::Unfilled| {
        format!("{shown}:{}:{}: {{{{{}}}}}", spot.position.line, spot.position.column, spot.name)
    };
    // A declared secret is known although it has no value yet: it must not pass through as text.
    let declared = filled.unknown.iter().filter(|spot| session.stack.secrets.contains_key(&spot.name));
    let lacking: Vec<String> =
        declared.map(|spot| format!("{} has no value yet: `stackctl setup` makes it", place(spot))).collect();
    if !lacking.is_empty() {
        return Err(Fault::Invalid(lacking.join("\n")));
    }
    let unknown = filled.unknown.iter().map(place).collect();
    let uses = filled.known.iter().cloned().chain(composefile::variables(&text)).collect();
    let copied = filled.copy.is_some();
    Ok(ComposeFile {
        path: path.to_path_buf(),
        bytes: filled.copy.unwrap_or_else(|| text.into_bytes()),
        copied,
        unknown,
        uses,
    })
}

impl Prepared {
    /// A service as a generation kept it: its files without their templates.
    #[must_use]
    pub fn restored(
        session: &Session,
        manifest: &Manifest,
        service: &str,
        kept: Vec<(Kept, OnDisk)>,
    ) -> Self {
        let planned = kept.into_iter().map(|(kept, found)| Planned {
            output: Output {
                path: kept.path,
                template: String::new(),
                bytes: found.bytes,
                mode: kept.mode,
                owner: kept.owner,
                secret: true,
                shared: false,
                uses: Vec::new(),
            },
            decision: Decision::Keep,
        });
        Self {
            service: service.to_owned(),
            planned: planned.collect(),
            compose: Vec::new(),
            project_dir: session.location.dir.clone(),
            workdir: session.location.dir.clone(),
            project_name: session.project(service).to_owned(),
            vars: Vars::default(),
            rendered_before: manifest.files.keys().cloned().collect(),
        }
    }

    /// Refuses files that a person edited since they were rendered.
    pub fn refuse_edited(&self) -> Result<(), Fault> {
        let edited: Vec<&str> = self
            .planned
            .iter()
            .filter(|planned| planned.decision == Decision::EditedByHand)
            .map(|planned| planned.output.path.as_str())
            .collect();
        if edited.is_empty() {
            return Ok(());
        }
        let list = edited.join(", ");
        Err(Fault::Conflict(format!(
            "{}: edited by hand since it was rendered: {list} (see `stackctl diff {0}`; --overwrite gives the edit up)",
            self.service
        )))
    }

    /// Whether a file on disk is older than its template or variables.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.planned.iter().any(|planned| matches!(planned.decision, Decision::Write(_)))
    }

    /// Every variable the service uses.
    #[must_use]
    pub fn uses(&self) -> BTreeSet<&str> {
        let rendered = self.planned.iter().flat_map(|planned| &planned.output.uses);
        rendered.chain(self.compose.iter().flat_map(|file| &file.uses)).map(String::as_str).collect()
    }

    /// The paths of rendered files that carry a secret.
    #[must_use]
    pub fn secret_paths(&self) -> Vec<&str> {
        self.planned.iter().filter(|p| p.output.secret).map(|p| p.output.path.as_str()).collect()
    }

    /// The project, with its private files in `dir`.
    #[must_use]
    pub fn project(&self, dir: &Path, labels: bool) -> Project {
        let file = |(index, file): (usize, &ComposeFile)| {
            if file.copied { dir.join(copy_name(index)) } else { file.path.clone() }
        };
        let mut all: Vec<PathBuf> = self.compose.iter().enumerate().map(file).collect();
        if labels {
            all.push(dir.join("labels.yaml"));
        }
        Project {
            name: self.project_name.clone(),
            project_dir: self.project_dir.clone(),
            files: all,
            env_files: vec![dir.join("compose.env")],
            workdir: self.workdir.clone(),
        }
    }

    /// Lets Compose check the service and reads what its containers mount.
    ///
    /// Only files that did not exist before may be written for this, since Compose wants `env_file`s to be there;
    /// they go again when it refuses the project.
    pub fn check(&self, session: &Session, docker: &Docker, store: &Store) -> Result<Checked, Fault> {
        let stage = self.stage(store)?;
        let project = self.project(&stage.0, false);
        let model = match docker.model(&project) {
            Err(Fault::Invalid(_)) if !session.options.dry_run && self.has_new_files() => {
                let written = self.write_new_files(session)?;
                docker.model(&project).inspect_err(|_| remove_again(&session.location.dir, &written))?
            }
            other => other?,
        };
        self.refuse_unset(session, &model)?;
        let labels = self.labels(session, store, &model, &BTreeMap::new())?;
        Ok(Checked { model, labels })
    }

    /// Refuses variables that have neither a value nor a default, which Compose would make empty, and placeholders that
    /// nothing fills.
    fn refuse_unset(&self, session: &Session, model: &Model) -> Result<(), Fault> {
        let mut lines: Vec<String> = model.unset.iter().map(|name| self.unset_line(session, name)).collect();
        lines.extend(model.left.iter().filter(|name| self.is_left(session, name)).map(|name| {
            format!(
                "{}: {{{{{name}}}}} is left in a file that Compose reads besides (include, extends, env_file): write ${{{name}}} there",
                self.service
            )
        }));
        if lines.is_empty() { Ok(()) } else { Err(Fault::Invalid(lines.join("\n"))) }
    }

    /// Whether a placeholder of this name that is left in the model should have been filled.
    fn is_left(&self, session: &Session, name: &str) -> bool {
        let known = self.vars.find(name).is_some() || session.stack.secrets.contains_key(name);
        let text = format!("{{{{{name}}}}}");
        // A value may contain one: it is never looked into.
        known && !self.vars.iter().any(|(_, var)| var.rendered.expose().contains(&text))
    }

    fn unset_line(&self, session: &Session, name: &str) -> String {
        let place = self.compose.iter().find_map(|file| {
            let text = String::from_utf8_lossy(&file.bytes);
            let at = interpolate::first_use(&text, name)?;
            let spot = crate::template::position(text.as_bytes(), at);
            let shown = file.path.strip_prefix(&session.tree.root).unwrap_or(&file.path).display();
            Some(format!("{shown}:{}:{}", spot.line, spot.column))
        });
        let place = place.unwrap_or_else(|| format!("{} (a file it includes)", self.service));
        let near = crate::nearest::hint(&self.vars.nearest(name));
        format!(
            "{place}: {name} has no value and no default{near}: give it one in {}/.env.user, or write ${{{name}:-}} where empty is meant",
            session.location.name
        )
    }

    /// The variables as this service sees them.
    #[must_use]
    pub fn vars(&self) -> &Vars {
        &self.vars
    }

    /// The generated last override for a model.
    pub fn labels(
        &self,
        session: &Session,
        store: &Store,
        model: &Model,
        pins: &BTreeMap<String, String>,
    ) -> Result<String, Fault> {
        let mut hashes = BTreeMap::new();
        for (name, container) in &model.services {
            let seen = model.seen_by(container);
            hashes.insert(name.clone(), content::fingerprint(session, store.key(), self, &seen)?);
        }
        Ok(overlay::text(&session.location.dir.to_string_lossy(), &hashes, pins))
    }

    /// Stages the private files, so that Compose can be asked before anything changes.
    pub fn stage(&self, store: &Store) -> Result<Stage, Fault> {
        let stage = Stage(store.dir().join("next").join(&self.service));
        self.put_private(store, &stage.0)?;
        Ok(stage)
    }

    /// Stages the private files together with the labels.
    pub fn stage_with(&self, store: &Store, labels: &str) -> Result<Stage, Fault> {
        let stage = self.stage(store)?;
        store.put(&stage.0.join("labels.yaml"), labels.as_bytes())?;
        Ok(stage)
    }

    /// Writes the rendered files; the paths that changed.
    pub fn write_outputs(
        &self,
        session: &Session,
        store: &Store,
        manifest: &mut Manifest,
    ) -> Result<Vec<String>, Fault> {
        let mut changed = Vec::new();
        for Planned { output, decision } in &self.planned {
            let path = session.location.dir.join(&output.path);
            let fail = |error: std::io::Error| Fault::Failed(format!("{}: {error}", path.display()));
            let attributes = Attributes { mode: output.mode, owner: output.owner };
            match decision {
                Decision::Write(style) => {
                    files::write(&path, &output.bytes, attributes, *style).map_err(fail)?
                }
                Decision::Attributes => files::set_attributes(&path, attributes).map_err(fail)?,
                Decision::Keep | Decision::OwnFile | Decision::EditedByHand => {}
            }
            if matches!(decision, Decision::Write(_) | Decision::Attributes) {
                changed.push(output.path.clone());
            }
            if !matches!(decision, Decision::OwnFile | Decision::EditedByHand) {
                manifest.note(store.key(), output);
            }
        }
        Ok(changed)
    }

    /// Puts the private files where the service's commands find them; the project they make.
    pub fn put_checked(
        &self,
        session: &Session,
        store: &Store,
        manifest: &mut Manifest,
        checked: &Checked,
    ) -> Result<Project, Fault> {
        let dir = store.service_dir(&self.service);
        self.put_private(store, &dir)?;
        store.put(&dir.join("labels.yaml"), checked.labels.as_bytes())?;
        manifest
            .mounted_singly
            .insert(self.service.clone(), content::mounted_singly(session, &checked.model));
        Ok(self.project(&dir, true))
    }

    /// The files of the tree that containers of a model mount and no template makes.
    pub fn mounts(&self, session: &Session, model: &Model) -> Result<Mounts, Fault> {
        mounted::mounts(session, self, model)
    }

    /// The env file Compose gets.
    #[must_use]
    pub fn env(&self) -> Hidden {
        self.vars.compose_env()
    }

    fn put_private(&self, store: &Store, dir: &Path) -> Result<(), Fault> {
        store.put(&dir.join("compose.env"), self.env().expose().as_bytes())?;
        for (index, file) in self.compose.iter().enumerate() {
            let copy = dir.join(copy_name(index));
            if file.copied {
                store.put(&copy, &file.bytes)?;
            } else {
                let _ = fs::remove_file(&copy);
            }
        }
        Ok(())
    }

    fn has_new_files(&self) -> bool {
        self.new_files().next().is_some()
    }

    fn new_files(&self) -> impl Iterator<Item = &Output> {
        use crate::manifest::Style::Replace;
        let new = |planned: &&Planned| planned.decision == Decision::Write(Replace);
        self.planned.iter().filter(new).map(|planned| &planned.output)
    }

    fn write_new_files(&self, session: &Session) -> Result<Vec<PathBuf>, Fault> {
        let mut written = Vec::new();
        for output in self.new_files() {
            let path = session.location.dir.join(&output.path);
            if path.exists() {
                continue;
            }
            let attributes = Attributes { mode: output.mode, owner: output.owner };
            files::write(&path, &output.bytes, attributes, crate::manifest::Style::Replace)
                .map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))?;
            written.push(path);
        }
        Ok(written)
    }
}

/// What Compose would make again.
pub enum Changes {
    /// The containers' names, by Compose's own word.
    Named(BTreeSet<String>),
    /// The hash of each wanted definition, where Compose cannot say.
    Hashes(BTreeMap<String, String>),
}

impl Changes {
    /// Asks Compose about a service staged with its labels.
    pub fn read(docker: &Docker, store: &Store, prepared: &Prepared, stage: &Stage) -> Result<Self, Fault> {
        let mut project = prepared.project(&stage.0, true);
        if let Some(names) = docker.would_recreate(&project)? {
            return Ok(Self::Named(names));
        }
        // Of a resolved definition Compose's hash is that of the label, whatever it was resolved from.
        if let Ok(resolved) = docker.config(&project, &[])? {
            let path = stage.0.join("resolved.json");
            store.put(&path, resolved.to_string().as_bytes())?;
            project.files = vec![path];
        }
        Ok(Self::Hashes(docker.wanted_hashes(&project)?))
    }

    /// Whether a container would be made again.
    #[must_use]
    pub fn has(&self, container: &Running) -> bool {
        match self {
            Self::Named(names) => names.contains(container.name.trim_start_matches('/')),
            Self::Hashes(hashes) => {
                let label = container.label("com.docker.compose.config-hash");
                hashes.get(container.service()).is_some_and(|hash| Some(hash.as_str()) != label)
            }
        }
    }
}

/// A folder of staged private files; it goes when it is dropped.
pub struct Stage(pub PathBuf);

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // The folders above go only when nothing else is in them.
        for above in self.0.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(above);
        }
    }
}

fn remove_again(location: &Path, written: &[PathBuf]) {
    for path in written {
        let _ = fs::remove_file(path);
        for above in path.ancestors().skip(1).take_while(|above| *above != location) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
}

fn copy_name(index: usize) -> String {
    format!("compose-{index}.yaml")
}
