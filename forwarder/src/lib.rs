//! Causeway's origin: the unprivileged peer that re-originates flows to local services.
//!
//! Pure modules take `now` and bytes and return values; the modules that touch sockets are few and thin.

pub mod cell;
pub mod deadlines;
pub mod flow;
pub mod proxy_protocol;
