//! Caddy at work: the file of a name's site, and Caddy's own command to validate and reload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, read_text};
use policy::forwarder::Caddy;

use super::site::{error_of, file_name, has_site, is_ours};

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
}

impl<'a> Sites<'a> {
    /// Those of a configuration file. Its command is run by this user, who must be the one that
    /// may write it.
    ///
    /// # Errors
    /// [`Exit::Permission`] when root would run what another user may write.
    pub(super) fn of(caddy: &'a Caddy, config: &Path) -> Result<Self, ExitError> {
        if rustix::process::geteuid().is_root() && !daemon::changes::is_only_roots(config) {
            let config = config.display();
            let fix = format!("chown root {config} && chmod go-w {config}");
            let message = format!("[caddy] of {config} has a command for root to run: {fix}");
            return Err(ExitError::new(Exit::Permission, message));
        }
        Ok(Self { caddy })
    }

    /// Writes a name's site, and has Caddy take it.
    ///
    /// # Errors
    /// [`Exit::Conflict`] for a file that `publish` did not write; what Caddy refuses, and then
    /// everything is as before.
    pub(super) fn write(self, name: &str, text: &str) -> Result<Changed<'a>, ExitError> {
        let changed = self.begin(name)?;
        if changed.before.as_deref() != Some(text) {
            replace(&changed.path, text)?;
        }
        changed.take_effect(Some(name))
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
        changed.take_effect(None).map(Some)
    }

    fn begin(self, name: &str) -> Result<Changed<'a>, ExitError> {
        let path = self.caddy.sites.join(file_name(name));
        let before = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path, &error)),
            Ok(found) => {
                let text = if found.is_file() { read_text(&path).ok() } else { None };
                Some(text.filter(|text| is_ours(text)).ok_or_else(|| {
                    let message = format!(
                        "{} was not written by causeway and stays as it is: publish the name without a port to \
                         keep that site, or move it away",
                        path.display()
                    );
                    ExitError::new(Exit::Conflict, message)
                })?)
            }
        };
        Ok(Changed { sites: self, path, before })
    }

    /// Runs Caddy's command on its configuration; what it printed on standard output.
    fn run(&self, verb: &str) -> Result<Vec<u8>, ExitError> {
        let words = &self.caddy.command;
        let (program, rest) = words.split_first().map_or(("caddy", &[][..]), |(first, rest)| (first, rest));
        let mut command = Command::new(program);
        command.args(rest).arg(verb).arg("--config").arg(&self.caddy.config).args(["--adapter", "caddyfile"]);
        let output = command.output().map_err(|error| {
            let message = format!("{program}: {error}; install Caddy, or correct [caddy] command");
            ExitError::new(Exit::of(&error), message)
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        let message = format!("`{} {verb}` refuses: {}", words.join(" "), error_of(&printed));
        Err(ExitError::new(Exit::Failed, message))
    }
}

impl<'a> Changed<'a> {
    /// Caddy judges its whole configuration before it takes it; what it refuses is taken back.
    fn take_effect(self, added: Option<&str>) -> Result<Self, ExitError> {
        let taken = self.judge(added).and_then(|()| self.sites.run("reload").map(drop));
        match taken {
            Ok(()) => Ok(self),
            Err(refused) => {
                self.restore()?;
                let message = format!("{}; {} is as it was before", refused.message, self.path.display());
                Err(ExitError::new(refused.exit, message))
            }
        }
    }

    fn judge(&self, added: Option<&str>) -> Result<(), ExitError> {
        self.sites.run("validate")?;
        let Some(name) = added else { return Ok(()) };
        let adapted = serde_json::from_slice(&self.sites.run("adapt")?);
        if adapted.is_ok_and(|adapted| has_site(&adapted, name)) {
            return Ok(());
        }
        let Caddy { sites, config, .. } = self.sites.caddy;
        let message = format!(
            "{} does not import {}: add the line `import {}/*.caddy` to it",
            config.display(),
            sites.display(),
            sites.display()
        );
        Err(ExitError::new(Exit::Failed, message))
    }

    /// Makes everything as it was before.
    ///
    /// # Errors
    /// What cannot be written, or is refused.
    pub(super) fn take_back(self) -> Result<(), ExitError> {
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
