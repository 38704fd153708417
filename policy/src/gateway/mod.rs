//! The edge: `gateway.toml` and what it means.

mod check;
mod entries;
mod link_port;
mod model;
mod parse;
mod reload;
mod render;
mod sides;

pub use model::{
    Accept, Allow, Control, Interface, InterfacePattern, Kernel, Limits, Party, Peer, Policy, Publish,
    Service, SourceHandling, Target, Wan,
};
pub use parse::parse;
