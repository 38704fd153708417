//! Entries of `forwarder.toml` as they are read, each with the places that a later check may
//! report.

use ipnetwork::IpNetwork;

use super::model::{Peer, Reach};
use crate::Position;
use crate::fields::At;

pub(super) struct PeerAt {
    pub(super) value: Peer,
    pub(super) key_at: Position,
    pub(super) next_key_at: Option<Position>,
    pub(super) prefixes: Vec<At<IpNetwork>>,
}

pub(super) struct ReachAt {
    pub(super) value: Reach,
    pub(super) listen_at: Position,
    pub(super) target_at: Position,
}
