//! What a daemon reported, in one shape for both roles.

use daemon::health::{HopShown, NameShown};
use daemon::peers::Peer;
use forwarder::control::report::Published;
use serde::Serialize;

/// A daemon of this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Side {
    /// `edge` or `origin`.
    pub(super) role: &'static str,
    /// Its version.
    pub(super) version: String,
    /// The other ends, with their tunnels and links.
    pub(super) peers: Vec<Peer>,
    /// What it carries.
    pub(super) services: Vec<Service>,
    /// What is wrong besides, each with its fix.
    pub(super) problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    pub(super) notes: Vec<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Service {
    /// Its name.
    pub(super) name: String,
    /// Whether visitors of the internet use it; `None` where this end does not know.
    pub(super) is_public: Option<bool>,
    /// What is taken.
    pub(super) from: String,
    /// Where it goes.
    pub(super) to: String,
    /// `ok`, `failing` or `unknown`.
    pub(super) state: String,
    /// The hop that fails.
    pub(super) failing: Option<HopShown>,
    /// The names that its visitors use.
    pub(super) names: Vec<NameShown>,
    /// What it requests of the edges, and what they replied.
    pub(super) publish: Vec<Published>,
}

impl Service {
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether it works, as far as it is checked.
    pub(super) fn is_ok(&self) -> bool {
        self.state == "ok"
    }
}
