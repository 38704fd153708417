//! The control socket: its protocol and its reports.

pub mod client;
pub mod protocol;
pub mod render;
pub mod report;
