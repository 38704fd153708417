//! Starts the gateway by its units, where there are any.

use std::path::Path;

use daemon::exit::ExitError;
use gateway::exchange::CONFIGURATION;
use gateway::state::State;
use policy::gateway::Policy;

use crate::start::{Started, Unit};

/// The daemon, and the drop table that comes before it at boot.
const GATEWAY: Unit = Unit { daemon: "gateway", guard: Some("causeway-guard") };

/// Starts the gateway with this configuration by its unit, or says how it is started.
///
/// # Errors
/// When systemd does not start it.
pub(super) fn start(config: &Path, policy: &Policy) -> Result<Started, ExitError> {
    if config == Path::new(CONFIGURATION) && GATEWAY.is_installed() {
        return GATEWAY.start();
    }
    let is_running = State::at(&policy.state_directory).is_locked();
    let command = format!("gateway --config {}", config.display());
    Ok(if is_running { Started::Running } else { Started::By(command) })
}
