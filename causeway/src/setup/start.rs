//! Starts the gateway by its units, where there are any.

use std::path::Path;
use std::process::{Command, Stdio};

use daemon::exit::{Exit, ExitError};
use gateway::exchange::CONFIGURATION;
use gateway::state::State;
use policy::gateway::Policy;

/// Where units are, in the order of systemd.unit(5).
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The daemon's unit.
const UNIT: &str = "gateway.service";

/// How the gateway runs now, or can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// It ran before.
    Running,
    /// By its unit, now and after each boot.
    Now,
    /// This has to be run.
    By(String),
}

/// Starts the gateway with this configuration by its unit, or says how it is started.
///
/// # Errors
/// When systemd does not start it.
pub(super) fn start(config: &Path, policy: &Policy) -> Result<Started, ExitError> {
    let has_unit = config == Path::new(CONFIGURATION)
        && Path::new("/run/systemd/system").is_dir()
        && FOLDERS.iter().any(|folder| Path::new(folder).join(UNIT).exists());
    if !has_unit {
        let is_running = State::at(&policy.state_directory).is_locked();
        let command = format!("gateway --config {}", config.display());
        return Ok(if is_running { Started::Running } else { Started::By(command) });
    }
    if systemctl(&["is-active", "--quiet", UNIT]) && systemctl(&["is-enabled", "--quiet", UNIT]) {
        return Ok(Started::Running);
    }
    if systemctl(&["enable", "--now", "causeway-guard.service", UNIT]) {
        return Ok(Started::Now);
    }
    let fix = "see what it says: journalctl -u gateway; then: systemctl enable --now causeway-guard gateway";
    Err(ExitError::new(Exit::Failed, format!("systemd did not start the gateway; {fix}")))
}

fn systemctl(arguments: &[&str]) -> bool {
    let status =
        Command::new("systemctl").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
