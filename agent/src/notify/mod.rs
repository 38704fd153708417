//! Notifications: what a daemon reports becomes messages, one when something is down and one when
//! it is over.
//!
//! - [`seen`] is what the daemon of this end says now, [`daemon`] asks for it. [`incidents`] takes
//!   that and the records of the history, and decides what is to be sent; [`text`] writes it.
//!   [`quiet`] holds messages back.
//! - [`outbox`] keeps what is not delivered yet, [`state`] both on the disk, [`send`] delivers.
//! - [`task`] is the life of all of it.
//!
//! A message is on the disk before it is sent, and is taken off once the receiver has it: an agent
//! that is killed between the two sends it again, with the same id.

pub mod daemon;
pub mod incidents;
pub mod notices;
pub mod outbox;
pub mod quiet;
pub mod seen;
pub mod send;
pub mod state;
pub mod task;
pub mod text;

use std::time::{SystemTime, UNIX_EPOCH};

/// The time, in Unix milliseconds.
#[must_use]
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
