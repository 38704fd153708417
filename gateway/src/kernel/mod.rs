//! Everything that needs a capability, in a process of its own.
//!
//! The daemon starts with `CAP_NET_ADMIN` and, before its first thread, starts this same program
//! again as the *kernel helper*. The helper keeps `CAP_NET_ADMIN` and nothing else; the daemon then
//! drops every capability. So the process that parses packets, control requests and scrapes has no
//! capability, and the process that may change the kernel parses nothing but typed, bounded
//! requests from the one socket that it was started with. Before anything from the network is
//! parsed it receives one scope: which device, protocol number and table are the gateway's. It
//! checks every request against that scope (`scope`): a ruleset may contain only what `policy`
//! compiles, switches get only the planned values, and services lead only to the tunnel's own
//! prefixes. It takes wider prefixes only from root's own files, which it reads itself. It trusts
//! the daemon with the rest of our own table: a compromised daemon could open the WAN guard, but
//! could not change rules or routes of others, lead ports elsewhere, read files, or run programs
//! with privileges.
//!
//! The alternatives: a single process would be less code, with `CAP_NET_ADMIN` next to every
//! parser; a helper that compiles the policy itself would not have to trust the daemon at all, but
//! would parse the configuration with a capability. This design is a compromise between the two.

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
pub use watch::{wake_at_changes, watch_addresses, watch_own_addresses};
