//! What one edge of a pair sends the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::KeptGrants;

/// Endpoints in one message: far below the longest datagram.
pub const MAX_ENDPOINTS: usize = 256;

/// A part of what the active edge knows; an edge that is not active sends [`Body::Alive`] alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// It runs, and is active or not.
    Alive {
        /// Whether it has the shared address.
        active: bool,
    },
    /// Where peers were last heard, by their public keys.
    Endpoints(BTreeMap<String, SocketAddr>),
    /// The highest wall clock that a handshake was stamped with.
    ClockMark(Duration),
    /// What peers request to publish, with the names and numbers of what they were granted.
    Grants(KeptGrants),
}

/// What is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// The sender's challenge.
    pub(super) mine: Challenge,
    /// The receiver's challenge, as the sender last heard it.
    pub(super) yours: Challenge,
    pub(super) body: Body,
}

/// A random number that a message must repeat, so that it is no recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Challenge(pub(super) [u8; 16]);

impl Message {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let message: Self = serde_json::from_slice(bytes).ok()?;
        let is_within = match &message.body {
            Body::Endpoints(endpoints) => endpoints.len() <= MAX_ENDPOINTS,
            Body::Alive { .. } | Body::ClockMark(_) | Body::Grants(_) => true,
        };
        is_within.then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_endpoints_than_one_message_may_have_are_refused() {
        let with = |count: usize| {
            let endpoint = |number| (format!("key {number}"), "198.51.100.7:51820".parse().unwrap());
            let body = Body::Endpoints((0..count).map(endpoint).collect());
            Message { mine: Challenge::default(), yours: Challenge::default(), body }
        };
        let most = with(MAX_ENDPOINTS);
        assert_eq!(Message::parse(&most.to_bytes()), Some(most));
        assert_eq!(Message::parse(&with(MAX_ENDPOINTS + 1).to_bytes()), None);
        assert_eq!(Message::parse(b"{}"), None);
    }
}
