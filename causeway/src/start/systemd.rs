//! Starts a daemon by its unit, which package or `scripts/install` put in place with its user.

use std::path::Path;
use std::process::{Command, Stdio};

use daemon::exit::{Exit, ExitError};
use daemon::files::Owner;
use forwarder::places::Environment;

use super::Started;
use crate::join::keys::daemon_user;

/// Where units are, in the order of systemd.unit(5).
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The forwarder's unit.
const FORWARDER: Unit = Unit { daemon: "forwarder", guard: None };

/// There is nothing to prepare.
///
/// # Errors
/// None.
pub(crate) fn prepare_forwarder(_config: &Path) -> Result<(), ExitError> {
    Ok(())
}

/// Starts the forwarder of `config`, now and at each boot, or says how it is started.
///
/// # Errors
/// When systemd does not start it.
pub(crate) fn start_forwarder(config: &Path) -> Result<Started, ExitError> {
    if config != Environment::of_process().machines_config() || !FORWARDER.is_installed() {
        return Ok(Started::By(format!("forwarder --config {}", config.display())));
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root { FORWARDER.start() } else { Ok(Started::By(FORWARDER.command())) }
}

/// The user that the forwarder runs as, where this machine has it.
pub(crate) fn forwarder_user() -> Option<Owner> {
    daemon_user("causeway-forwarder")
}

/// A daemon's unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// The daemon, as its unit is named.
    pub(crate) daemon: &'static str,
    /// What is enabled with it, and comes before it at boot.
    pub(crate) guard: Option<&'static str>,
}

impl Unit {
    /// Whether systemd runs here and has the unit.
    pub(crate) fn is_installed(self) -> bool {
        let unit = self.service();
        Path::new("/run/systemd/system").is_dir()
            && FOLDERS.iter().any(|folder| Path::new(folder).join(&unit).exists())
    }

    /// Starts the daemon now and at each boot.
    ///
    /// # Errors
    /// When systemd does not start it.
    pub(crate) fn start(self) -> Result<Started, ExitError> {
        let unit = self.service();
        if systemctl(&["is-active", "--quiet", &unit]) && systemctl(&["is-enabled", "--quiet", &unit]) {
            return Ok(Started::Running);
        }
        let mut arguments = vec!["enable", "--now"];
        arguments.extend(self.guard);
        arguments.push(self.daemon);
        if systemctl(&arguments) {
            return Ok(Started::Now);
        }
        let (daemon, command) = (self.daemon, self.command());
        let fix = format!("see what it says: journalctl -u {daemon}; then: {command}");
        Err(ExitError::new(Exit::Failed, format!("systemd did not start the {daemon}; {fix}")))
    }

    /// What starts the daemon now and at each boot.
    pub(crate) fn command(self) -> String {
        let guard = self.guard.map(|guard| format!("{guard} ")).unwrap_or_default();
        format!("sudo systemctl enable --now {guard}{}", self.daemon)
    }

    fn service(self) -> String {
        format!("{}.service", self.daemon)
    }
}

fn systemctl(arguments: &[&str]) -> bool {
    let status =
        Command::new("systemctl").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_enables_the_guard_with_its_daemon() {
        let gateway = Unit { daemon: "gateway", guard: Some("causeway-guard") };
        assert_eq!(gateway.command(), "sudo systemctl enable --now causeway-guard gateway");
        let forwarder = Unit { daemon: "forwarder", guard: None };
        assert_eq!(forwarder.command(), "sudo systemctl enable --now forwarder");
    }
}
