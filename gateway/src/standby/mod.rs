//! One of two edges at a site: what decides, without a socket or a clock.
//!
//! - `role`: whether this edge is active.
//! - `message`: what the active edge sends the other, so that it can take over.
//! - `seal`: how a message is encrypted.
//! - `replication`: which messages are new, and what comes of them.

mod message;
mod replication;
mod role;
mod seal;

pub use message::{Body, MAX_ENDPOINTS};
pub use replication::{Received, Refused, Replication};
pub use role::{Role, Turn};
pub use seal::{BOOT, MAX_DATAGRAM, Seal};
