//! Everything that touches files, processes, the clock and random bytes.

pub mod discover;
pub mod docker;
pub mod files;
pub mod git;
pub mod history;
pub mod lock;
pub mod process;
pub mod ssh;
pub mod store;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970; zero before.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Fills a buffer with the system's random bytes.
pub fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(std::io::Error::other)
}

/// The user this process acts as.
#[must_use]
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}
