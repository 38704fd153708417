//! What a daemon reports, in one shape for both roles.

use serde::Serialize;

use super::Published;
use crate::health::{HopShown, NameShown};
use crate::peers::Peer;

/// A daemon of this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// `edge` or `origin`.
    pub role: &'static str,
    /// Its version.
    pub version: String,
    /// The other ends, with their tunnels and links.
    pub peers: Vec<Peer>,
    /// What it carries.
    pub services: Vec<Service>,
    /// What is wrong besides, each with its fix.
    pub problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    pub notes: Vec<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Whether visitors of the internet use it; `None` where this end does not know.
    pub is_public: Option<bool>,
    /// What is taken.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// The peers that it goes through, as far as this end knows.
    pub peers: Vec<String>,
    /// `ok`, `failing` or `unknown`.
    pub state: String,
    /// For how long, in seconds, as far as it is known.
    pub seconds: Option<u64>,
    /// The hop that fails.
    pub failing: Option<HopShown>,
    /// Every hop that this end knows.
    #[serde(skip)]
    pub hops: Vec<HopShown>,
    /// The names that its visitors use.
    pub names: Vec<NameShown>,
    /// What it requests of the edges, and what they replied.
    pub publish: Vec<Published>,
    /// Bytes towards the target.
    pub bytes_in: u64,
    /// Bytes back.
    pub bytes_out: u64,
}

impl Service {
    /// Whether a hop fails.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether it works, as far as it is checked.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.state == "ok"
    }
}
