//! Causeway's origin: the unprivileged peer that re-originates flows to local services.
//!
//! Pure modules take `now` and bytes and return values; the modules that touch sockets are few and thin.

pub mod cell;
pub mod cli;
pub mod config;
pub mod control;
pub mod datagram;
pub mod dataplane;
pub mod deadlines;
pub mod flow;
pub mod health;
pub mod icmp;
pub mod link;
pub mod metrics;
pub mod network;
pub mod outage;
pub mod places;
pub mod proxy_protocol;
pub mod reload;
pub mod run;
pub mod setup;
pub mod state;
pub mod stats;
pub mod upstream;
