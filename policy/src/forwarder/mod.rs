//! The origin's peer: `forwarder.toml` and what it means.

mod caddy;
mod check;
mod entries;
mod model;
mod parse;
mod reload;
mod requested;
mod steer;
mod upstream;

pub use caddy::Caddy;
pub use model::{
    Control, Interface, Limits, MAX_WATCHED_NAMES, OnDown, Peer, Policy, ProxyProtocol, Publish, Reach,
    Service, SourcePort,
};
pub use parse::parse;
pub use steer::Steer;
pub use upstream::{Check, Health, Upstream, UpstreamPort};
