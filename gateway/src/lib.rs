//! Causeway's edge: the daemon gateway and its companion gatewayctl.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums with a catch-all here are the system's and netlink's, which grow without us"
)]

pub mod checked;
pub mod commands;
pub mod config;
pub mod control;
pub mod edge;
pub mod exchange;
pub mod foreign;
pub mod guard;
pub mod kernel;
pub mod keygen;
pub mod listening;
pub mod lists;
pub mod memory;
pub mod privilege;
pub mod run;
pub mod sandbox;
pub mod state;
