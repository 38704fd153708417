//! Causeway's edge: the daemon `gateway`, and its command `gatewayctl`.
//!
//! - [`run`] starts the daemon and runs it until a signal ends it. [`edge`] is the running edge:
//!   the configuration in force, the data threads, checks and repairs, reports.
//! - [`kernel`] is everything that needs a capability, in a process of its own: nftables, routes,
//!   the TUN device. [`privilege`] and [`sandbox`] take rights away from both processes.
//! - [`config`] reads the configuration with its keys, [`state`] the state folder, [`listening`]
//!   the sockets of other programs, [`foreign`] their firewall rules that block the tunnel, and
//!   [`firewalls`] whose they are.
//! - [`cli`] is what the command lines of both programs accept.
//! - [`control`] has the requests, the reports, and their text for people.
//! - Commands: [`commands`] (`check`, `down`) with [`checked`] (`check --json`), [`guard`] (the
//!   boot-time drop table), [`lists`], and [`exchange`] (`import`, `export`).
//! - [`standby`] decides what an edge of a pair does.
//! - [`https`] is what TLS connections to servers trust, and [`fetch`] gets lists by them: the commands
//!   and `causeway-agent` do, never the daemon.
//! - [`memory`] returns memory that is needed only once to the system.
#![cfg(target_os = "linux")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums with a catch-all here are the system's and netlink's, which grow without us"
)]

pub mod checked;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod edge;
pub mod exchange;
pub mod fetch;
pub mod firewalls;
pub mod foreign;
pub mod guard;
pub mod https;
pub mod kernel;
pub mod listening;
pub mod lists;
pub mod memory;
pub mod privilege;
pub mod run;
pub mod sandbox;
pub mod standby;
pub mod state;
