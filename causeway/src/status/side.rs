//! What a daemon reported, in one shape for both roles.

use daemon::health::{HopShown, NameShown};
use daemon::peers::Peer;
use forwarder::control::report::Published;
use serde::Serialize;

/// A daemon of this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Side {
    /// `edge` or `origin`.
    pub(crate) role: &'static str,
    /// Its version.
    pub(crate) version: String,
    /// The other ends, with their tunnels and links.
    pub(crate) peers: Vec<Peer>,
    /// What it carries.
    pub(crate) services: Vec<Service>,
    /// What is wrong besides, each with its fix.
    pub(crate) problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    pub(crate) notes: Vec<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Whether visitors of the internet use it; `None` where this end does not know.
    pub(crate) is_public: Option<bool>,
    /// What is taken.
    pub(crate) from: String,
    /// Where it goes.
    pub(crate) to: String,
    /// `ok`, `failing` or `unknown`.
    pub(crate) state: String,
    /// The hop that fails.
    pub(crate) failing: Option<HopShown>,
    /// Every hop that this end knows.
    #[serde(skip)]
    pub(crate) hops: Vec<HopShown>,
    /// The names that its visitors use.
    pub(crate) names: Vec<NameShown>,
    /// What it requests of the edges, and what they replied.
    pub(crate) publish: Vec<Published>,
}

impl Service {
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether it works, as far as it is checked.
    pub(crate) fn is_ok(&self) -> bool {
        self.state == "ok"
    }
}
