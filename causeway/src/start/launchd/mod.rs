//! macOS: the forwarder as a daemon with a user of its own, or as an agent of the user who joins.
//!
//! `accounts`, `plist` and `plan` decide what is to be done, and are pure. `shell` looks at the
//! machine and carries it out.

mod accounts;
mod plan;
mod plist;
#[cfg(target_os = "macos")]
mod shell;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use forwarder::places::{Environment, MAC_FOLDER};

#[cfg(target_os = "macos")]
pub(crate) use shell::{forwarder_user, prepare_forwarder, start_forwarder};

/// The name of the job, which its file has too.
const LABEL: &str = "com.causeway.forwarder";

/// Who the forwarder runs for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Domain {
    /// The machine: a daemon, from the boot on.
    System,
    /// One user: an agent, from the login on.
    User {
        /// The user.
        uid: u32,
        /// The user's home folder.
        home: PathBuf,
        /// State, control socket and log.
        state: PathBuf,
    },
}

impl Domain {
    /// Whose the forwarder of `config` is; `None` for a file that is in neither place, which its
    /// user starts some other way.
    fn of(config: &Path, environment: &Environment) -> Option<Self> {
        let Environment { uid, home, .. } = environment;
        if *uid == 0 {
            return (config == environment.machines_config()).then_some(Self::System);
        }
        let is_own = environment.own_config().is_some_and(|own| own == config);
        let home = home.clone().filter(|_| is_own)?;
        Some(Self::User { uid: *uid, home, state: environment.state_folder(None) })
    }

    /// As launchctl names it.
    fn target(&self) -> String {
        match self {
            Self::System => "system".to_owned(),
            Self::User { uid, .. } => format!("gui/{uid}"),
        }
    }

    /// The job in it, as launchctl names it.
    fn job(&self) -> String {
        format!("{}/{LABEL}", self.target())
    }

    /// The job's description.
    fn plist(&self) -> PathBuf {
        let folder = match self {
            Self::System => PathBuf::from("/Library/LaunchDaemons"),
            Self::User { home, .. } => home.join("Library/LaunchAgents"),
        };
        folder.join(format!("{LABEL}.plist"))
    }

    /// The folder of state, control socket and log.
    fn state(&self) -> PathBuf {
        match self {
            Self::System => MAC_FOLDER.into(),
            Self::User { state, .. } => state.clone(),
        }
    }

    /// What starts a job that is described already.
    fn bootstrap(&self) -> String {
        let sudo = if *self == Self::System { "sudo " } else { "" };
        format!("{sudo}launchctl bootstrap {} {}", self.target(), self.plist().display())
    }
}
