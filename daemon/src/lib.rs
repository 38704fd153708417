//! What both Causeway daemons share. The gateway and the forwarder are two roles that use it.
//!
//! - [`agent`]: how `causeway` asks `causeway-agent`.
//! - [`exit`]: the exit codes of all programs, and the error that ends one.
//! - [`log`]: log lines, on standard error or in a file of limited size.
//! - [`files`]: configurations, lists and keys that are read; state that is replaced in one step.
//! - [`clock_mark`]: the highest wall clock ever used, kept across restarts.
//! - [`changes`]: changes of the configuration: plan, apply, confirm, rollback, reload, on both sides of the socket.
//! - [`command_line`]: what the programs print, how they end, and the verbs of changes.
//! - [`control`]: the control socket, both sides: who may send requests; one JSON object per line
//!   each way.
//! - [`diagnosis`]: what is wrong besides the hops of services, at this end and at the other one.
//! - [`endpoint_name`]: names of peers, each of their addresses tried in turn.
//! - [`peers`], [`rates`] and [`text`]: peers with their rates as JSON and as text, the same at
//!   both ends.
//! - [`metrics`]: the page with its listeners, and what both ends show on it.
//! - [`health`]: whether a service works, hop by hop, the same model at both ends.
//! - [`history`]: what happened, in a ring that a restart and a power cut leave as it is.
//! - [`http`]: a small HTTP server, for [`metrics`] and [`page`].
//! - [`page`]: the status page, made from [`status`] and [`history`].
//! - [`life`]: systemd, signals, and the watched configuration file.
//! - [`link`]: the control channel between the two ends, without its sockets.
//! - [`totals`]: what was carried with each peer, from an orderly end to the next start.
//! - [`local_network`]: what macOS may deny, and how to allow it. [`local_time`]: time as people write it.
//!
//! Only the parts for systemd are specific to Linux: the forwarder runs on macOS as well.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums with a catch-all here are the system's, which grow without us"
)]

pub mod agent;
pub mod changes;
pub mod clock_mark;
pub mod command_line;
pub mod control;
pub mod diagnosis;
pub mod endpoint_name;
pub mod exit;
pub mod files;
pub mod health;
pub mod history;
pub mod http;
pub mod life;
pub mod link;
pub mod local_network;
pub mod local_time;
pub mod log;
pub mod metrics;
pub mod page;
pub mod pairing;
pub mod peers;
pub mod rates;
pub mod status;
pub mod text;
pub mod totals;
