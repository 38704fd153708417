//! The protocol of the control socket: one JSON object per line each way.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use daemon::changes::{ChangeReply, ChangeRequest};
use daemon::diagnosis::Diagnosis;
use daemon::history;
use daemon::link::history::FarHistory;
use daemon::pairing::control::{PairingReply, PairingRequest};
use daemon::peers::Peers;

use super::report::{Bans, Flows, Offloads, Services, Status};

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
    /// Overall status.
    Status,
    /// What is wrong, at this end and, by their links, at the other ones.
    Diagnose {
        /// Only the service of this name is tried at its origin; the first few when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
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
        /// Most that are shown, up to [`MAX_FLOWS`].
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
        /// For how long; permanently when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
    /// Lifts a ban; only for writers.
    Unban {
        /// The source.
        address: IpAddr,
    },
    /// What happened.
    History(history::Query),
    /// What happened at the peers in so many seconds until now.
    FarHistory {
        /// How far back.
        seconds: u64,
    },
    /// A request of `causeway pair`; only for writers.
    Pairing(PairingRequest),
    /// A request about changes of the configuration.
    #[serde(untagged)]
    Change(ChangeRequest),
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
            | Self::Flows { .. }
            | Self::Diagnose { .. }
            | Self::Offloads
            | Self::History(_)
            | Self::FarHistory { .. }
            | Self::Bans => false,
            Self::Change(request) => request.is_privileged(),
            Self::Dump { show_keys: true }
            | Self::Pairing(_)
            | Self::Ban { .. }
            | Self::SetOffloads { .. }
            | Self::Unban { .. } => true,
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
    /// To [`Request::Diagnose`].
    Diagnosis(Diagnosis),
    /// To [`Request::Bans`].
    Bans(Bans),
    /// To [`Request::Flows`].
    Flows(Flows),
    /// To [`Request::Offloads`] and [`Request::SetOffloads`].
    Offloads(Offloads),
    /// To [`Request::Ban`] and [`Request::Unban`].
    Done,
    /// To [`Request::History`].
    History(history::Page),
    /// To [`Request::FarHistory`].
    FarHistory(Vec<FarHistory>),
    /// To [`Request::Pairing`].
    Pairing(PairingReply),
    /// To [`Request::Change`].
    #[serde(untagged)]
    Change(ChangeReply),
}

#[cfg(test)]
mod tests {
    use policy::PublicKey;

    use super::*;

    #[test]
    fn a_request_of_a_pairing_is_for_writers_and_survives_the_line_it_is_sent_in() {
        let key = PublicKey::new([7; 32]).unwrap();
        for (request, expected) in [
            (
                PairingRequest::Open { key, address: [10, 77, 88, 9].into() },
                r#"{"command":"pairing","pairing":"open","key":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","address":"10.77.88.9"}"#,
            ),
            (
                PairingRequest::Exchange { key, frames: vec![vec![1, 2], Vec::new()] },
                r#"{"command":"pairing","pairing":"exchange","key":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","frames":[[1,2],[]]}"#,
            ),
            (
                PairingRequest::Close { key },
                r#"{"command":"pairing","pairing":"close","key":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}"#,
            ),
        ] {
            let request = Request::Pairing(request);
            assert!(request.is_privileged());
            assert_eq!(serde_json::to_string(&request).unwrap(), expected);
            assert_eq!(serde_json::from_str::<Request>(expected).unwrap(), request);
        }
    }
}
