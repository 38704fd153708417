//! The protocol of the control socket: one JSON object per line each way.

use daemon::changes::{ChangeReply, ChangeRequest};
use daemon::diagnosis::Diagnosis;
use daemon::history;
use daemon::link::history::FarHistory;
use daemon::link::message::ReportedHop;
use serde::{Deserialize, Serialize};

use super::report::Report;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything that the commands show.
    Report,
    /// The same, once every name was visited from the internet; only for writers.
    Visit,
    /// What happened.
    History(history::Query),
    /// What happened at the edges in so many seconds until now.
    FarHistory {
        /// How far back.
        seconds: u64,
    },
    /// Notes that `stackctl` changed a stack; only for writers.
    NoteStack {
        /// The stack.
        stack: String,
        /// What was done.
        what: String,
    },
    /// The agent has reported what fails at this hop: announces that to the edges. A reader may ask
    /// it, as it changes nothing here.
    Reported {
        /// The hop.
        hop: ReportedHop,
    },
    /// The agent has led the name of `[steer]` to an edge again, or leads it there no longer: notes
    /// that. A reader may ask it; what is not of the configuration is refused.
    Steered {
        /// The name.
        name: String,
        /// The edge.
        edge: String,
        /// Whether the name leads to it now.
        present: bool,
    },
    /// What is wrong, at this end and, by their links, at the edges.
    Diagnose {
        /// Only the service of this name is tried; the first few when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// A request about changes of the configuration.
    #[serde(untagged)]
    Change(ChangeRequest),
}

impl Request {
    /// Whether only root and the daemon's own user may ask this.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        match self {
            Self::Report
            | Self::Diagnose { .. }
            | Self::History(_)
            | Self::FarHistory { .. }
            | Self::Reported { .. }
            | Self::Steered { .. } => false,
            Self::Visit | Self::NoteStack { .. } => true,
            Self::Change(request) => request.is_privileged(),
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Report`] and [`Request::Visit`].
    Report(Box<Report>),
    /// To [`Request::History`].
    History(history::Page),
    /// To [`Request::FarHistory`].
    FarHistory(Vec<FarHistory>),
    /// To [`Request::NoteStack`], [`Request::Reported`] and [`Request::Steered`].
    Noted,
    /// To [`Request::Diagnose`].
    Diagnosis(Diagnosis),
    /// To [`Request::Change`].
    #[serde(untagged)]
    Change(ChangeReply),
}
