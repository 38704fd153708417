//! A public port that a service requests, and what the edge replied.

use serde::{Deserialize, Serialize};

use crate::link::publish::{Answer, Port};

/// A public port, or a range of them, that a service requests of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The ports, such as `443`, `443/udp` or `5000-5010`.
    pub ports: String,
    /// The edge.
    pub peer: String,
    /// `granted`, `refused`, or `waiting` while the edge has not replied.
    pub state: String,
    /// Why it is refused, in one word.
    #[serde(default)]
    pub reason: Option<String>,
    /// What to do about a refusal, and where.
    #[serde(default)]
    pub fix: Option<String>,
}

impl Published {
    /// A port, with the edge's answer as far as there is one.
    #[must_use]
    pub fn of(peer: &policy::Name, port: &Port, answer: Option<Answer>) -> Self {
        let state = match answer {
            None => "waiting",
            Some(Answer::Granted) => "granted",
            Some(_) => "refused",
        };
        let refused = answer.filter(|answer| *answer != Answer::Granted);
        Self {
            ports: port.public().to_string(),
            peer: peer.to_string(),
            state: state.to_owned(),
            reason: refused.map(|answer| answer.label().to_owned()),
            fix: refused.and_then(|answer| answer.fix(port)),
        }
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { ports, peer, state, reason, fix } = self;
        let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let fix = fix.as_ref().map(|fix| format!(": {fix}")).unwrap_or_default();
        format!("publish {ports} at {peer}: {state}{reason}{fix}")
    }
}
