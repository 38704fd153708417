//! Configuration, validation and plans of Causeway's daemons, with no I/O.
//!
//! A daemon reads a file and passes its text as a [`Source`]. [`gateway::parse()`] and
//! [`forwarder::parse()`] return a policy that cannot be invalid, or every error at once, each with
//! its position and how to fix it.
//!
//! - `reader`, `fields`, `names` and `text` read TOML and single values; [`sections`] has what both
//!   files share.
//! - [`gateway`] and [`forwarder`]: `model` has the types, `parse` reads sections, `check` compares
//!   entries, `reload` compares two policies. [`pairing`] compares an edge's policy with an
//!   origin's; `misplaced_keys` finds wrong keys.
//! - [`gateway::Policy::plan`] compiles a policy to a [`plan`]: the nftables [`ruleset`], routes,
//!   rules, peers.
//! - [`system`] describes the machine, [`trust`] which interfaces are trusted, [`uplinks`] where
//!   replies leave.
//! - `dns` has what names in the DNS need at either end.
//! - `authorities` notes entries that certificate authorities cannot reach.
//! - [`evaluator`] computes independently what must happen to a packet; it shares no code with the
//!   compiler.
//! - [`feed`] checks fetched lists, [`http_host`] the `Host` of requests, [`prefix`] and
//!   [`suggest`] are small helpers.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod address;
mod authorities;
mod change;
mod conditions;
mod dns;
mod error;
pub mod evaluator;
pub mod feed;
mod fields;
mod file_ref;
pub mod forwarder;
pub mod gateway;
pub mod http_host;
mod key;
mod misplaced_keys;
mod names;
mod net;
pub mod pairing;
pub mod plan;
pub mod prefix;
mod problem;
mod public_ports;
mod reader;
pub mod ruleset;
pub mod sections;
mod source;
pub mod suggest;
pub mod system;
pub mod text;
pub mod trust;
pub mod uplinks;

pub use dns::Authority;
pub use error::{ConfigError, Warning};
pub use file_ref::{FileLocation, FileRef};
pub use key::{KeyError, PublicKey, SecretKey};
pub use misplaced_keys::{KnownKeys, misplaced_keys};
pub use net::{
    AllowList, Bandwidth, Host, HostPort, InterfaceName, Mtu, Name, PortRange, Protocol, Protocols, Rate,
    RateUnit, Switch,
};
pub use problem::Problem;
pub use public_ports::PublicPorts;
pub use source::{Position, Source};
