//! One call of stackctl: the tree, the location, its variables, and how Docker is reached.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::arrange::without_services;
use crate::config::Stack;
use crate::dotenv;
use crate::envfile::{self, Entry};
use crate::fault::Fault;
use crate::hygiene::{SecretFileError, judge};
use crate::invocation::environment;
use crate::shell::docker::Docker;
use crate::shell::files::{self, Attributes};
use crate::shell::git::Git;
use crate::shell::lock::{self, Lock};
use crate::shell::process::notify;
use crate::shell::store::Store;
use crate::shell::{self, discover};
use crate::tree::{Location, Tree, choose, services};
use crate::vars::Vars;

/// What the command line says about every verb.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The tree's root, instead of looking for it.
    pub root: Option<PathBuf>,
    /// The location's name, instead of the current folder's location.
    pub location: Option<String>,
    /// Say what would change, change nothing.
    pub dry_run: bool,
    /// Break a lock that is old enough.
    pub break_lock: bool,
    /// Overwrite rendered files that were edited by hand.
    pub overwrite: bool,
    /// Work on this machine even where `[location]` names another.
    pub here: bool,
}

/// One call's view of the world.
pub struct Session {
    /// The command line's options.
    pub options: Options,
    /// The tree.
    pub tree: Tree,
    /// The location worked on.
    pub location: Location,
    /// `stack.toml`.
    pub stack: Stack,
    caller: Vec<(String, String)>,
    /// Files whose mode a dry run has mentioned.
    mentioned: RefCell<BTreeSet<PathBuf>>,
}

impl Session {
    /// Finds the tree and the location.
    pub fn open(options: Options, caller: Vec<(String, String)>, here: &Path) -> Result<Self, Fault> {
        let start = options.root.clone().unwrap_or_else(|| here.to_path_buf());
        let start = start.canonicalize().map_err(|e| Fault::Usage(format!("{}: {e}", start.display())))?;
        let root = match &options.root {
            Some(_) => start.clone(),
            None => discover::root(&start).ok_or_else(|| {
                Fault::Usage(format!(
                    "no tree at or above {}: change into one, or give --root (a tree has _base/, stack.toml, or folders with .env.user)",
                    start.display()
                ))
            })?,
        };
        let stack = discover::stack(&root)?;
        let tree = discover::tree(&root, &stack)?;
        let here = here.canonicalize().unwrap_or_else(|_| here.to_path_buf());
        let location = choose(&tree, options.location.as_deref(), &here).map_err(Fault::Usage)?.clone();
        let session = Self { options, tree, location, stack, caller, mentioned: RefCell::default() };
        session.refuse_shared_projects()?;
        Ok(session)
    }

    /// Refuses two services of one Compose project: each `up` would remove the other's containers.
    fn refuse_shared_projects(&self) -> Result<(), Fault> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for service in self.location.services.keys() {
            let project = self.project(service);
            if let Some(other) = owners.insert(project, service) {
                return Err(Fault::Invalid(format!(
                    "{other} and {service} are both the Compose project {project}: give each its own, by `name:` in its file or [project] in stack.toml"
                )));
            }
        }
        Ok(())
    }

    /// The Compose project of a service: `[project]`, else the `name:` of its files, else its own name.
    #[must_use]
    pub fn project<'s>(&'s self, service: &'s str) -> &'s str {
        let declared = self.stack.projects.get(service);
        let of_files = || self.location.services.get(service).and_then(|files| files.project.as_ref());
        declared.or_else(of_files).map_or(service, String::as_str)
    }

    /// Where the Compose commands of a service run: its own folder when it is one, else the location.
    #[must_use]
    pub fn workdir(&self, service: &str) -> &Path {
        let files = self.location.services.get(service);
        files.and_then(|files| files.folder.as_deref()).unwrap_or(&self.location.dir)
    }

    /// The `.env` files that Compose reads by itself for a service; the first has precedence.
    #[must_use]
    pub fn dotenv_paths(&self, service: &str) -> Vec<PathBuf> {
        let project_dir = self.location.services.get(service).and_then(|files| files.project_dir());
        let mut paths: Vec<PathBuf> =
            std::iter::once(self.workdir(service)).chain(project_dir).map(|dir| dir.join(".env")).collect();
        paths.dedup();
        paths.retain(|path| path.is_file());
        paths
    }

    /// The variables of one service: the location's over those of its `.env`.
    pub fn vars_of(&self, vars: &Vars, service: &str) -> Result<Vars, Fault> {
        let environment = self.environment(vars);
        let mut all = vars.clone();
        for path in self.dotenv_paths(service) {
            let text =
                files::read_text(&path).map_err(|error| unreadable(&path, &error))?.unwrap_or_default();
            let outer = |name: &str| {
                environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            };
            let settings = dotenv::parse(&text, &outer)
                .map_err(|error| Fault::Invalid(format!("{}:{error}", path.display())))?;
            let named = settings.iter().filter(|setting| envfile::is_name(&setting.name));
            let entries: Vec<Entry> =
                named.map(|setting| Entry::of(&setting.name, &setting.value, setting.line)).collect();
            all = all.over(&entries, &self.stack).map_err(|error| Fault::Invalid(error.to_string()))?;
        }
        Ok(all)
    }

    /// The same session at another location.
    pub fn at(&self, location: &str) -> Result<Self, Fault> {
        let location = choose(&self.tree, Some(location), &self.tree.root).map_err(Fault::Usage)?.clone();
        Ok(Self {
            options: self.options.clone(),
            tree: self.tree.clone(),
            location,
            stack: self.stack.clone(),
            caller: self.caller.clone(),
            mentioned: self.mentioned.clone(),
        })
    }

    /// The same session with another `stack.toml`.
    pub fn with_stack(&self, stack: Stack) -> Result<Self, Fault> {
        let mut other = self.at(&self.location.name)?;
        other.stack = stack;
        other.refuse_shared_projects()?;
        Ok(other)
    }

    /// Where the selected service is kept.
    #[must_use]
    pub fn selection_file(&self) -> PathBuf {
        self.tree.root.join("scripts/.service")
    }

    /// The selected service: `SERVICE=…` of the caller, else `scripts/.service`.
    #[must_use]
    pub fn selected(&self) -> Option<String> {
        let named = |text: String| Some(text.trim().to_owned()).filter(|name| !name.is_empty());
        let from_caller = self.caller.iter().find(|(name, _)| name == "SERVICE");
        let from_file = || files::read_text(&self.selection_file()).ok().flatten().and_then(named);
        from_caller.and_then(|(_, value)| named(value.clone())).or_else(from_file)
    }

    /// The services a verb means: the named one, else the selected one, else all, of which there must be one.
    pub fn services(&self, named: Option<&str>) -> Result<Vec<String>, Fault> {
        if named.is_none() {
            self.every_service()?;
        }
        services(&self.tree, &self.location, named, self.selected().as_deref()).map_err(|text| {
            let empty = self.location.services.is_empty();
            Fault::Usage(if empty { format!("{text}\n{}", without_services(self)) } else { text })
        })
    }

    /// All services of the location, of which there must be one.
    pub fn every_service(&self) -> Result<Vec<String>, Fault> {
        if self.location.services.is_empty() {
            return Err(Fault::Invalid(without_services(self)));
        }
        Ok(self.all_services())
    }

    /// All services of the location; there may be none.
    #[must_use]
    pub fn all_services(&self) -> Vec<String> {
        self.location.services.keys().cloned().collect()
    }

    /// The environment that children get.
    #[must_use]
    pub fn environment(&self, vars: &Vars) -> Vec<(String, String)> {
        environment(self.caller.iter().cloned(), vars, &self.location.dir)
    }

    /// Docker, as the caller reaches it.
    #[must_use]
    pub fn docker(&self, vars: &Vars) -> Docker {
        Docker::new(self.environment(vars))
    }

    /// The location's state folder.
    pub fn store(&self) -> Result<Store, Fault> {
        Store::open(self.location.state_dir(), !self.options.dry_run)
    }

    /// Takes the location's lock; a dry run needs none.
    pub fn lock(&self) -> Result<Option<Lock>, Fault> {
        if self.options.dry_run {
            return Ok(None);
        }
        let state = self.location.state_dir();
        files::private_dir(&state).map_err(|e| Fault::Failed(format!("{}: {e}", state.display())))?;
        lock::take(&state, self.options.break_lock).map(Some)
    }

    /// `.env.generated`.
    #[must_use]
    pub fn generated_path(&self) -> PathBuf {
        self.location.dir.join(".env.generated")
    }

    /// `.env.user`.
    #[must_use]
    pub fn user_path(&self) -> PathBuf {
        self.location.dir.join(".env.user")
    }

    /// How to give a variable a value here.
    #[must_use]
    pub fn value_fix(&self) -> String {
        let name = &self.location.name;
        if !self.user_path().exists() && self.location.dir.join(".env.user.example").exists() {
            return format!("there is no .env.user yet: copy {name}/.env.user.example to it and fill it in");
        }
        format!("give each a value in {name}/.env.user, or declare it as a secret in stack.toml")
    }

    /// The literal entries of one env file; none when there is no file.
    pub fn entries(&self, path: &Path) -> Result<Vec<Entry>, Fault> {
        self.check_secret_file(path)?;
        let text = files::read_text(path).map_err(|error| unreadable(path, &error))?;
        envfile::parse(text.as_deref().unwrap_or_default())
            .map_err(|error| Fault::Invalid(format!("{}:{error}", path.display())))
    }

    /// The location's variables, from files that are closed to others.
    pub fn vars(&self) -> Result<Vars, Fault> {
        let generated = self.entries(&self.generated_path())?;
        let user = self.entries(&self.user_path())?;
        Vars::join(&generated, &user, &self.stack).map_err(|error| Fault::Invalid(error.to_string()))
    }

    /// Refuses a secret file that git knows.
    pub fn check_untracked(&self, rendered: &[&str], vars: &Vars) -> Result<(), Fault> {
        let environment = self.environment(vars);
        let Some(git) = Git::of(&self.location.dir, &environment) else { return Ok(()) };
        let paths: Vec<&str> =
            [".env.user", ".env.generated", ".stack"].iter().chain(rendered).copied().collect();
        match git.tracked(&paths).into_iter().next() {
            Some(path) => Err(Fault::Permission(SecretFileError::Tracked { path }.to_string())),
            None => Ok(()),
        }
    }

    fn check_secret_file(&self, path: &Path) -> Result<(), Fault> {
        let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
        let name = path.display().to_string();
        match judge(&name, meta.mode() & 0o7777, meta.uid(), shell::user()) {
            Some(SecretFileError::Open { mode, .. }) => self.close(path, mode),
            Some(error) => Err(Fault::Permission(error.to_string())),
            None => Ok(()),
        }
    }

    /// Closes a secret file of ours that others can read, and says so.
    fn close(&self, path: &Path, mode: u32) -> Result<(), Fault> {
        let shown = path.strip_prefix(&self.tree.root).unwrap_or(path).display().to_string();
        if self.options.dry_run {
            if self.mentioned.borrow_mut().insert(path.to_path_buf()) {
                notify(&format!("would close {shown}: it has mode {mode:04o}, so others can read it"));
            }
            return Ok(());
        }
        let closed = Attributes { mode: 0o600, owner: None };
        files::set_attributes(path, closed).map_err(|error| {
            let open = SecretFileError::Open { path: path.display().to_string(), mode };
            Fault::Permission(format!("{open} ({error})"))
        })?;
        notify(&format!("closed {shown}: it had mode {mode:04o}, so others could read it; now 0600"));
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let owner = std::fs::metadata(path)
        .map(|meta| format!(" (it belongs to uid {})", meta.uid()))
        .unwrap_or_default();
    let text = format!("{}: {error}{owner}", path.display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        Fault::Permission(text)
    } else {
        Fault::Invalid(text)
    }
}
