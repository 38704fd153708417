//! The control socket: what it speaks, and what it reports.

pub mod client;
pub mod protocol;
pub mod render;
pub mod report;
