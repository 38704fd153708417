//! Caddy at work: the file of a name's site, and Caddy's own command to validate and reload.
//!
//! - `command`: that command, with limits. `trust`: who may write what it reads.

mod command;
mod trust;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, read_text};
use policy::forwarder::Caddy;
use serde_json::Value;

use super::site::{file_name, has_site, is_as_written, is_loopback, is_ours};

/// Mode of a site's file: Caddy runs as another user.
const MODE: u32 = 0o644;

/// The folder of sites, and the Caddy that serves them.
pub(super) struct Sites<'a> {
    caddy: &'a Caddy,
}

/// A change of one site that is in force and can be taken back.
pub(super) struct Changed<'a> {
    sites: Sites<'a>,
    path: PathBuf,
    before: Option<String>,
    after: Option<String>,
}

impl<'a> Sites<'a> {
    /// Those of a configuration file. Its command is run by this user, who must be the one that
    /// may write it, and what Caddy reads.
    ///
    /// # Errors
    /// [`Exit::Permission`] when root would run what another user may write.
    pub(super) fn of(caddy: &'a Caddy, config: &Path) -> Result<Self, ExitError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { caddy });
        }
        if !daemon::changes::is_only_roots(config) {
            let config = config.display();
            let fix = format!("chown root {config} && chmod go-w {config}");
            let message = format!("[caddy] of {config} has a command for root to run: {fix}");
            return Err(ExitError::new(Exit::Permission, message));
        }
        let of_others = || trust::first_of_others(caddy, &trust::owners());
        match command::is_own(&caddy.command).then(of_others).flatten() {
            Some(path) => Err(open_to_others(&path)),
            None => Ok(Self { caddy }),
        }
    }

    /// Writes a name's site, and has Caddy take it.
    ///
    /// # Errors
    /// [`Exit::Conflict`] for a file that `publish` did not write or that was edited since, and for
    /// a site that Caddy has elsewhere; what Caddy refuses, and then everything is as before.
    pub(super) fn write(self, name: &str, text: &str) -> Result<Changed<'a>, ExitError> {
        let changed = Changed { after: Some(text.to_owned()), ..self.begin(name)? };
        if !changed.is_changed() {
            return changed.take_effect(|changed| changed.judge_site(name, None));
        }
        if changed.before.as_ref().is_some_and(|before| !is_as_written(before, name)) {
            return Err(kept(&changed.path, "was edited since causeway wrote it"));
        }
        let without = changed.sites.adapt()?;
        let has_other = changed.before.is_none() && has_site(&without, name);
        replace(&changed.path, text)?;
        changed.take_effect(|changed| changed.judge_site(name, Some(&without))).map_err(|refused| {
            if !has_other || refused.exit != Exit::Failed {
                return refused;
            }
            let message = format!(
                "Caddy has another site for {name}: publish the name without a port to keep it, or remove it there \
                 ({refused})"
            );
            ExitError::new(Exit::Conflict, message)
        })
    }

    /// Removes a name's site, and has Caddy take that; nothing where there is none of ours.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn remove(self, name: &str) -> Result<Option<Changed<'a>>, ExitError> {
        let changed = match self.begin(name) {
            Ok(changed) if changed.before.is_some() => changed,
            Ok(_) => return Ok(None),
            Err(error) if error.exit == Exit::Conflict => return Ok(None),
            Err(error) => return Err(error),
        };
        fs::remove_file(&changed.path).map_err(|error| failed(&changed.path, &error))?;
        changed.take_effect(|changed| changed.sites.run("validate").map(drop)).map(Some)
    }

    fn begin(self, name: &str) -> Result<Changed<'a>, ExitError> {
        let path = self.caddy.sites.join(file_name(name));
        let before = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path, &error)),
            Ok(found) => {
                let text = if found.is_file() { read_text(&path).ok() } else { None };
                Some(
                    text.filter(|text| is_ours(text))
                        .ok_or_else(|| kept(&path, "was not written by causeway"))?,
                )
            }
        };
        Ok(Changed { sites: self, path, before, after: None })
    }

    /// Runs Caddy's command on its configuration; what it printed on standard output.
    fn run(&self, verb: &str) -> Result<Vec<u8>, ExitError> {
        let words = &self.caddy.command;
        let (program, rest) = words.split_first().map_or(("caddy", &[][..]), |(first, rest)| (first, rest));
        let mut command = Command::new(program);
        command.args(rest).arg(verb).arg("--config").arg(&self.caddy.config).args(["--adapter", "caddyfile"]);
        let shown = format!("`{} {verb}`", words.join(" "));
        let output = command::run(&mut command, command::LIMIT).map_err(|error| {
            let has_run = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::InvalidData);
            let message = if has_run {
                format!("{shown}: {error}; correct [caddy] command, or see Caddy's log")
            } else {
                format!("{program}: {error}; install Caddy, or correct [caddy] command")
            };
            ExitError::new(Exit::of(&error), message)
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(ExitError::new(Exit::Failed, format!("{shown} refuses: {}", command::error_of(&output.stderr))))
    }

    /// Caddy's configuration as JSON.
    fn adapt(&self) -> Result<Value, ExitError> {
        let printed = self.run("adapt")?;
        serde_json::from_slice(&printed).map_err(|error| {
            let message = format!("`{} adapt` printed no JSON: {error}", self.caddy.command.join(" "));
            ExitError::new(Exit::Failed, message)
        })
    }
}

impl<'a> Changed<'a> {
    /// Caddy judges its whole configuration before it takes it; what it refuses is taken back.
    fn take_effect(self, judge: impl FnOnce(&Self) -> Result<(), ExitError>) -> Result<Self, ExitError> {
        let taken = judge(&self).and_then(|()| self.sites.run("reload").map(drop));
        let Err(refused) = taken else { return Ok(self) };
        let message = match self.restore() {
            Ok(()) => format!("{refused}; {} is as it was before", self.path.display()),
            Err(error) => format!("{refused}; it is not taken back: {error}"),
        };
        Err(ExitError::new(refused.exit, message))
    }

    /// Whether Caddy takes the configuration with the site, and reads the site: it then has it, and
    /// is not as it was without.
    fn judge_site(&self, name: &str, without: Option<&Value>) -> Result<(), ExitError> {
        self.sites.run("validate")?;
        let with = self.sites.adapt()?;
        if has_site(&with, name) && without != Some(&with) {
            return Ok(());
        }
        let Caddy { sites, config, command } = self.sites.caddy;
        let (config, sites) = (config.display(), sites.display());
        let message = if command::is_in_container(command) {
            format!(
                "{config} does not import {sites}: mount that folder into Caddy's container, and add the line \
                 `import FOLDER/*.caddy` to {config}, with FOLDER as the container has it"
            )
        } else {
            format!("{config} does not import {sites}: add the line `import {sites}/*.caddy` to it")
        };
        Err(ExitError::new(Exit::Failed, message))
    }

    /// Whether it made anything other than it was.
    pub(super) fn is_changed(&self) -> bool {
        self.before != self.after
    }

    /// Makes everything as it was before.
    ///
    /// # Errors
    /// What cannot be written, or is refused.
    pub(super) fn take_back(self) -> Result<(), ExitError> {
        if !self.is_changed() {
            return Ok(());
        }
        self.restore()?;
        self.sites.run("reload").map(drop)
    }

    fn restore(&self) -> Result<(), ExitError> {
        match &self.before {
            Some(text) => replace(&self.path, text),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.path, &error)),
                _ => Ok(()),
            },
        }
    }

    /// Where the site is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A note for a program on loopback behind a Caddy whose loopback is another.
pub(super) fn loopback_note(caddy: &Caddy, name: &str, upstream: &str) -> Option<String> {
    let is_loopback = is_loopback(upstream) && command::is_in_container(&caddy.command);
    is_loopback.then(|| {
        format!(
            "in Caddy's container {upstream} is the container itself, unless it has this machine's network: lead the \
             name to the program's own host with `causeway publish {name} HOST:PORT`"
        )
    })
}

/// What root would run Caddy on, although others may write it.
fn open_to_others(path: &Path) -> ExitError {
    let path = path.display();
    let message = format!(
        "root would run Caddy on what another user may write, {path}: chown root {path} && chmod go-w {path}; or have \
         Caddy's own user run it, such as by [caddy] command = [\"runuser\", \"-u\", \"caddy\", \"--\", \"caddy\"]"
    );
    ExitError::new(Exit::Permission, message)
}

/// A file of a site that is not replaced.
fn kept(path: &Path, how: &str) -> ExitError {
    let message = format!(
        "{} {how} and stays as it is: publish the name without a port to keep that site, or move it away",
        path.display()
    );
    ExitError::new(Exit::Conflict, message)
}

fn replace(path: &Path, text: &str) -> Result<(), ExitError> {
    let written = Replacement::prepare(path, Target::own(MODE), text.as_bytes());
    written.and_then(Replacement::finish).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> ExitError {
    let fixes = [
        (
            io::ErrorKind::NotFound,
            "; make the folder of [caddy] sites, and import it in Caddy's configuration",
        ),
        (io::ErrorKind::PermissionDenied, "; run the command as root, or as the owner of [caddy] sites"),
    ];
    let fix = fixes.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, fix)| *fix);
    ExitError::new(Exit::of(error), format!("{}: {error}{fix}", path.display()))
}

#[cfg(test)]
pub(super) mod tests;
