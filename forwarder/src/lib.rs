//! Causeway's origin: the unprivileged peer that re-originates flows to local services.
//!
//! Pure modules take `now` and bytes and return values; the modules that touch sockets are few and thin.

pub mod cell;
pub mod config;
pub mod dataplane;
pub mod deadlines;
pub mod exit;
pub mod flow;
pub mod icmp;
pub mod proxy_protocol;
pub mod resolve;
pub mod setup;
pub mod state;
pub mod stats;
pub mod upstream;
