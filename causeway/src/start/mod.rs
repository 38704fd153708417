//! What runs the daemon of this machine: systemd, launchd, or a person.
//!
//! - `systemd` starts a unit that is installed.
//! - `launchd` writes what macOS starts the forwarder by, and starts it.
//!
//! Both have the same three functions for the forwarder: what it needs before it has a key, its
//! start, and its user.

#[cfg(any(target_os = "macos", test))]
mod launchd;
#[cfg(target_os = "linux")]
mod systemd;

#[cfg(target_os = "macos")]
pub(crate) use launchd::{forwarder_user, prepare_forwarder, start_forwarder};
#[cfg(target_os = "linux")]
pub(crate) use systemd::{Unit, forwarder_user, prepare_forwarder, start_forwarder};

/// How a daemon runs now, or can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// It ran before.
    Running,
    /// Now, and at each boot.
    Now,
    /// Whenever its user logs in, and not before.
    #[cfg_attr(not(any(target_os = "macos", test)), expect(dead_code, reason = "agents are macOS's"))]
    AtLogin {
        /// Whether the user is logged in, so that it runs now.
        runs: bool,
    },
    /// This has to be run.
    By(String),
}
