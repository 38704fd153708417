//! The control socket's language: one JSON object per line each way.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use daemon::peers::Peers;

use super::report::{Bans, Changes, Flows, Offloads, Services, Status};

/// Most flows in one answer.
pub const MAX_FLOWS: usize = 10_000;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The peers as they are.
    Peers,
    /// The text of `wg show all dump`.
    Dump {
        /// Whether private and preshared keys are written out; only for writers.
        #[serde(default)]
        show_keys: bool,
    },
    /// Published ports and private flows.
    Services,
    /// How the edge does.
    Status,
    /// Which file the daemon was started with.
    OwnFile,
    /// Banned sources.
    Bans,
    /// Flows of published ports and private flows.
    Flows {
        /// Only of the service of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Only with this address at one of their ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// Most that are told, up to [`MAX_FLOWS`].
        limit: usize,
    },
    /// Which offloads are in use.
    Offloads,
    /// Turns offloads on or off until the next apply; only for writers.
    SetOffloads {
        /// Name and whether it is on.
        switches: Vec<(String, bool)>,
    },
    /// Bans a source; only for writers.
    Ban {
        /// The source.
        address: IpAddr,
        /// For how long; for good when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
    /// Lifts a ban; only for writers.
    Unban {
        /// The source.
        address: IpAddr,
    },
    /// What a configuration would change.
    Plan {
        /// The file's name, for messages; files that the text names are looked for beside the daemon's own file.
        name: PathBuf,
        /// Its text.
        text: String,
    },
    /// Applies a configuration; only for writers.
    Apply {
        /// The file's name, for messages; files that the text names are looked for beside the daemon's own file.
        name: PathBuf,
        /// Its text.
        text: String,
        /// Goes back by itself without [`Request::Confirm`] in time; stays when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<Confirmation>,
    },
    /// Keeps the change that waits; only for writers.
    Confirm {
        /// What root's folder calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Takes back the change that waits, if one does; only for writers.
    TakeBack,
    /// Reads the daemon's own file, its lists and keys again; only for writers.
    Reload,
}

/// A change that goes back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// What root's folder calls it.
    pub id: String,
    /// After so many seconds.
    pub seconds: u64,
}

impl Request {
    /// Whether only root and the daemon's own user may ask this.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        match self {
            Self::Peers
            | Self::Dump { show_keys: false }
            | Self::Services
            | Self::Status
            | Self::OwnFile
            | Self::Flows { .. }
            | Self::Offloads
            | Self::Bans => false,
            // A plan reads the key files that the text names, so it is not for everybody either.
            Self::Dump { show_keys: true }
            | Self::Ban { .. }
            | Self::SetOffloads { .. }
            | Self::Unban { .. }
            | Self::Plan { .. }
            | Self::Apply { .. }
            | Self::Confirm { .. }
            | Self::TakeBack
            | Self::Reload => true,
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Peers`].
    Peers(Peers),
    /// To [`Request::Dump`].
    Dump(String),
    /// To [`Request::Services`].
    Services(Services),
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::OwnFile`].
    OwnFile {
        /// Its absolute path, links not followed.
        path: PathBuf,
        /// Whether it holds what is in force.
        in_force: bool,
        /// Seconds for which a change still waits for its confirmation; `None` when none does.
        waits_seconds: Option<u64>,
    },
    /// To [`Request::Bans`].
    Bans(Bans),
    /// To [`Request::Flows`].
    Flows(Flows),
    /// To [`Request::Offloads`] and [`Request::SetOffloads`].
    Offloads(Offloads),
    /// To [`Request::Plan`], [`Request::Apply`] and [`Request::Reload`].
    Changes(Changes),
    /// To [`Request::TakeBack`].
    TakenBack {
        /// Whether a change waited.
        was_waiting: bool,
    },
    /// To [`Request::Confirm`], [`Request::Ban`] and [`Request::Unban`].
    Done,
}
