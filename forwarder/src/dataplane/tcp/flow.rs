//! The states of a TCP flow.

use tunnel::time::Instant;

use super::dial::Dial;
use super::open::Open;
use crate::cell::Ending;

/// A TCP flow.
pub(super) enum Flow {
    /// Its SYN is held until the upstream has answered.
    Dial(Box<Dial>),
    /// It carries data.
    Open(Box<Open>),
    /// It is over; a late FIN is acknowledged again.
    Lingering {
        /// Our next sequence number.
        sequence: u32,
        /// What we have acknowledged.
        acknowledgement: u32,
        /// Where its timer entry is.
        armed: Option<Instant>,
    },
}

impl Flow {
    /// Whether the client has reset it, and it only waits for its last turn.
    pub(super) fn was_reset(&mut self) -> bool {
        match self {
            Self::Open(open) => open.cell.ending() == Some(Ending::Reset),
            Self::Dial(_) | Self::Lingering { .. } => false,
        }
    }
}
