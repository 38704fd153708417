//! Configuration, validation and plans of Causeway's daemons, with no I/O.
//!
//! A daemon reads a file and hands its text over as a [`Source`]; [`gateway::parse()`] and [`forwarder::parse()`]
//! give back a policy that cannot be invalid, or every error at once, each with its position and its mend.
//! [`gateway::Policy::plan`] compiles it; [`evaluator`] says, independently, what must happen to a packet.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod address;
mod change;
mod conditions;
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
mod reader;
pub mod ruleset;
pub mod sections;
mod source;
pub mod suggest;
pub mod system;
pub mod text;
pub mod trust;
pub mod uplinks;

pub use error::{ConfigError, Problem, Warning};
pub use file_ref::{FileLocation, FileRef};
pub use key::{KeyError, PublicKey, SecretKey};
pub use misplaced_keys::{KnownKeys, misplaced_keys};
pub use net::{
    AllowList, Bandwidth, Host, HostPort, InterfaceName, Mtu, Name, PortRange, Protocol, Protocols, Rate,
    RateUnit, Switch,
};
pub use source::{Position, Source};
