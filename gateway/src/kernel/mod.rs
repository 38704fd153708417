//! Everything that needs a capability, in a process of its own.
//!
//! The daemon starts with `CAP_NET_ADMIN` and, before its first thread, starts this same program again as the *kernel
//! helper*. The helper keeps `CAP_NET_ADMIN` and nothing else; the daemon then drops every capability. So the process
//! that parses packets, control requests and scrapes holds none, and the process that may change the kernel parses
//! nothing but typed, bounded requests from the one socket it was born with. It checks them too: a ruleset
//! may name no table but ours, a switch must lie under `net/`, only a TUN is ever deleted, and routes and rules
//! are ours only by their protocol number. What it trusts the daemon with is our own table: a daemon that was taken
//! over could open it, but could not touch another's rules, read files or run programs with rights.
//!
//! One process would have been less code, with `CAP_NET_ADMIN` beside every parser; a helper that compiles the policy
//! itself would trust the daemon with nothing, and have to parse the configuration with rights. This lies between.

mod client;
mod conntrack;
mod devices;
mod flows;
mod frame;
mod links;
mod netlink;
pub mod nft;
mod protocol;
mod refusal;
mod routes;
mod server;
mod sysctl;
mod watch;

pub use client::{HELPER_COMMAND, Helper};
pub use protocol::{
    Failure, FailureKind, Flow, FlowQuery, Listing, MAX_FDS, MAX_FRAME, Reply, Request, Route, Routing, Rule,
};
pub use server::{answer_once, serve};
