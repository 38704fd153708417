//! Everything that needs a capability, in a process of its own.
//!
//! The daemon starts with `CAP_NET_ADMIN` and, before its first thread, starts this same program
//! again as the *kernel helper*. The helper keeps `CAP_NET_ADMIN` and nothing else; the daemon then
//! drops every capability. So the process that parses packets, control requests and scrapes holds
//! none, and the process that may change the kernel parses nothing but typed, bounded requests from
//! the one socket it was born with. Before anything from the network is parsed it receives one
//! scope: which device, protocol number and table are the gateway's. It holds every request against
//! that (`scope`): a ruleset may contain only what `policy` compiles, switches only the planned
//! values, and only services of the tunnel's own prefixes are led anywhere. Wider prefixes it takes
//! from root's own files alone, which it reads itself. What it trusts the daemon with is the rest
//! of our own table: a daemon that was taken over could open the WAN guard, but could not touch
//! another's rules or routes, lead ports elsewhere, read files or run programs with rights.
//!
//! One process would have been less code, with `CAP_NET_ADMIN` next to every parser; a helper that
//! compiles the policy itself would trust the daemon with nothing, and have to parse the
//! configuration with rights. This lies between.

mod client;
mod conntrack;
mod ctnetlink;
mod devices;
mod flows;
mod frame;
mod interfaces;
mod links;
mod netlink;
pub mod nft;
mod protocol;
mod refusal;
mod routes;
mod scope;
mod server;
mod sysctl;
mod texts;
mod uplinks;
mod watch;

pub use client::{HELPER_COMMAND, Helper};
pub use frame::decode;
pub use interfaces::{ForeignRule, read_system, rules_before};
pub use protocol::{
    Failure, FailureKind, Flow, FlowQuery, Listing, MAX_FDS, MAX_FRAME, Numbered, Reply, Request, Route,
    Routing, Rule, UplinkTable,
};
pub use scope::{Asked, Removal, Scope, Texts};
pub use server::{answer_once, serve};
