//! The control socket: one JSON object per line each way.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

/// Longest line in either direction, in bytes: a configuration of 10,000 services fits.
pub const MAX_LINE: usize = 32 << 20;
/// Longest line from a client that may only read.
pub const MAX_READER_LINE: usize = 4096;

/// What one request came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<R> {
    /// It was refused, or failed.
    Failed {
        /// The exit code for the program that asked.
        exit: u8,
        /// What happened and how to fix it.
        message: String,
    },
    /// The answer.
    #[serde(untagged)]
    Done(R),
}
