//! What the two ends of a pairing send each other: JSON objects that name their type, one in a
//! frame.

use ipnetwork::IpNetwork;
use policy::{Name, PublicPorts};
use serde::{Deserialize, Serialize};

use crate::link::message::Bytes;

/// The version of the messages that this program knows; both ends need the same.
pub const SCHEMA: u32 = 2;
/// The longest message.
pub const MAX_MESSAGE: usize = 4 << 10;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Message {
    /// The edge's first one: it is bound to its nonce and terms from now on.
    Commitment {
        /// Covers the opening.
        commitment: Bytes<32>,
        /// The version of the messages.
        schema: u32,
    },
    /// The joiner's first one.
    Offer(Offer),
    /// What the edge was bound to.
    Opening {
        /// The edge's nonce.
        nonce: Bytes<32>,
        /// [`Terms`] as JSON; both ends take the digest of exactly these bytes.
        terms: String,
    },
    /// The operator at the edge has said yes, and the edge has the new peer.
    Accepted,
    /// There will be no pairing.
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// The joiner has written its configuration.
    Written,
    /// The edge keeps the new peer: the pairing is complete.
    Kept,
    /// The joiner does not go on.
    Failed {
        /// Why.
        reason: Failure,
    },
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Who joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its public key.
    pub key: Bytes<32>,
    /// Random, of this pairing alone.
    pub nonce: Bytes<32>,
    /// The name of the machine.
    pub name: Name,
    /// The version of the product there.
    pub version: Name,
}

/// What the edge offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The name of the new peer in the edge's configuration.
    pub peer: Name,
    /// The version of the product at the edge.
    pub version: Name,
    /// The new peer's addresses in the tunnel, with the length of its network.
    pub addresses: Vec<IpNetwork>,
    /// Public ports that the peer may open by itself, as [`PublicPorts`] are written.
    pub may_publish: Vec<String>,
    /// Whether the edge mixes a preshared key into the handshake, which is carried by hand.
    pub preshared_key: bool,
    /// The public key that the edge is to have next, while the code holds the one that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<Bytes<32>>,
}

impl Terms {
    /// The ports that the peer may open; `None` when one is not understood.
    #[must_use]
    pub fn ports(&self) -> Option<Vec<PublicPorts>> {
        self.may_publish.iter().map(|ports| PublicPorts::parse(ports)).collect()
    }
}

/// Why the edge refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Refusal {
    /// The operator has said no.
    #[error("the operator at the edge said no")]
    Declined,
    /// The key is another than the operator expects.
    #[error("the operator at the edge expects another key than this machine's")]
    OtherKey,
    /// The new configuration was refused at the edge.
    #[error("the edge could not take its new configuration; `causeway pair` there shows why")]
    NotApplied,
    /// The code is of no use any more.
    #[error("the code is of no use any more: a second machine came with it; run `causeway pair` again")]
    Burnt,
    /// What the joiner sent is no pairing.
    #[error(
        "the edge did not understand what this machine sent; are both machines of one version? run `causeway pair` again"
    )]
    Malformed,
    /// The joiner's key may not be used.
    #[error(
        "the edge refuses this machine's key, which is the edge's own or that of the code; join with --new-key, by a \
         new code"
    )]
    BadKey,
    /// The code has too little time left.
    #[error(
        "the \"yes\" at the edge came when the time of the code was nearly over; run `causeway pair` again"
    )]
    Late,
    /// Another reason, of a newer version.
    #[error("the edge refused")]
    Other,
}

impl From<String> for Refusal {
    fn from(word: String) -> Self {
        match word.as_str() {
            "declined" => Self::Declined,
            "other_key" => Self::OtherKey,
            "not_applied" => Self::NotApplied,
            "burnt" => Self::Burnt,
            "malformed" => Self::Malformed,
            "bad_key" => Self::BadKey,
            "late" => Self::Late,
            _ => Self::Other,
        }
    }
}

/// Why the joiner does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Failure {
    /// Its configuration has no place for this edge.
    #[error(
        "the other machine could not take the edge into its configuration; `causeway join` there shows why"
    )]
    Configuration,
    /// The preshared key is not there.
    #[error(
        "the other machine does not have the preshared key; `causeway join` there shows where it belongs"
    )]
    PresharedKey,
    /// The operator there has said no.
    #[error("the operator at the other machine said no")]
    Declined,
    /// The operator there has ended it.
    #[error("`causeway join` was ended at the other machine")]
    Ended,
    /// Another reason, of a newer version.
    #[error("the other machine did not go on")]
    Other,
}

impl From<String> for Failure {
    fn from(word: String) -> Self {
        match word.as_str() {
            "configuration" => Self::Configuration,
            "preshared_key" => Self::PresharedKey,
            "declined" => Self::Declined,
            "ended" => Self::Ended,
            _ => Self::Other,
        }
    }
}

impl Message {
    /// As the content of a frame.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Every field has a form in JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the content of a frame.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|_| bytes.len() <= MAX_MESSAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_way_and_an_unknown_one_is_another() {
        for reason in [
            Refusal::Declined,
            Refusal::OtherKey,
            Refusal::NotApplied,
            Refusal::Burnt,
            Refusal::Malformed,
            Refusal::BadKey,
            Refusal::Late,
            Refusal::Other,
        ] {
            let message = Message::Refused { reason };
            assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        }
        for reason in
            [Failure::Configuration, Failure::PresharedKey, Failure::Declined, Failure::Ended, Failure::Other]
        {
            let message = Message::Failed { reason };
            assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        }
        let newer = br#"{"type":"refused","reason":"moon","since":"noon"}"#;
        assert_eq!(Message::parse(newer), Some(Message::Refused { reason: Refusal::Other }));
        assert_eq!(Message::parse(br#"{"type":"weather"}"#), Some(Message::Unknown));
    }

    #[test]
    fn a_name_that_is_none_is_no_message() {
        let hostile = br#"{"type":"offer","key":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
            "nonce":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=","version":"1","name":"a\"]\n[[publish]]"}"#;
        assert_eq!(Message::parse(hostile), None);
    }
}
