//! What `causeway pair` asks of the gateway over its control socket.

use std::net::IpAddr;

use policy::PublicKey;
use serde::{Deserialize, Serialize};

use crate::link::message::Bytes;

/// The longest time that a code is of use, in seconds.
pub const LIFETIME: u32 = 900;
/// A pairing that nothing was asked about for so many seconds ends: the command is gone.
pub const UNASKED: u32 = 10;
/// The most frames that wait in each direction.
pub const MAX_FRAMES: usize = 8;
/// The longest frame, in bytes.
pub const MAX_FRAME: usize = 4 << 10;

/// One request; there is one pairing at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "pairing", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairingRequest {
    /// Adds the temporary peer, in memory alone.
    Open {
        /// Its public key, which belongs to the code.
        #[serde(with = "as_bytes")]
        key: PublicKey,
        /// Its address in the tunnel, which is in no peer's allowed-ips.
        address: IpAddr,
    },
    /// Sends frames to the one who joins, and takes those that came.
    Exchange {
        /// The public key of the pairing that is meant.
        #[serde(with = "as_bytes")]
        key: PublicKey,
        /// In this order, each at most [`MAX_FRAME`] long; without a connection they are discarded.
        frames: Vec<Vec<u8>>,
    },
    /// Removes the temporary peer.
    Close {
        /// The public key of the pairing that is meant.
        #[serde(with = "as_bytes")]
        key: PublicKey,
    },
}

/// How the pairing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingReply {
    /// Datagrams that came to WireGuard's port since the pairing began, of whomever.
    pub datagrams: u64,
    /// Handshakes among them that no known peer made, nor the temporary one.
    pub unknown: u64,
    /// Whether an authentic datagram of the temporary peer came.
    pub is_heard: bool,
    /// Whether the temporary peer has a session.
    pub has_session: bool,
    /// Connections of the temporary peer that came, those that are over included.
    pub connections: u32,
    /// Whether one of them is open.
    pub is_connected: bool,
    /// Frames that came, in order; all of the newest connection.
    pub frames: Vec<Vec<u8>>,
    /// Why there is no pairing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PairingEnd>,
}

/// Why a pairing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairingEnd {
    /// The time of the code is over.
    Expired,
    /// A second one connected with the code while the first was connected.
    SecondJoiner,
    /// More or longer frames came than are allowed.
    TooMuch,
    /// It was closed, or never opened, or another one was opened, or the gateway was restarted, or a
    /// configuration was applied that has its key or its address.
    Closed,
}

mod as_bytes {
    use super::{Bytes, PublicKey};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        Bytes(*key.as_bytes()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        let Bytes(bytes) = Bytes::<32>::deserialize(deserializer)?;
        PublicKey::new(bytes).ok_or_else(|| serde::de::Error::custom("no public key"))
    }
}
