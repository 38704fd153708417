//! TCP flows: one cell and one kernel socket each.

pub(super) mod dial;
pub(super) mod open;
mod reach;

pub use reach::Listener;
