//! The edge: `gateway.toml` and what it means.

mod answers;
mod check;
mod dns;
mod entries;
mod grants;
mod link_port;
mod may_publish;
mod model;
mod parse;
mod reload;
mod render;
mod sides;
mod standby;

pub use answers::{Answers, parse_answers};
pub use dns::{AddressSource, Dns};
pub use grants::{Judged, MAX_ALL_GRANTS, Request, Requests};
pub use may_publish::{MAX_GRANTS, granted};
pub use model::{
    Accept, Allow, Control, Grant, Interface, InterfacePattern, Kernel, Limits, Party, Peer, Policy, Publish,
    Refusal, Requested, Service, SourceHandling, Target, Wan,
};
pub use parse::parse;
pub(crate) use standby::PORTS as STANDBY_PORTS;
pub use standby::{CONNTRACKD_PORT, REPLICATION_PORT, Standby};
