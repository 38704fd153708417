//! Configurations for the other side, written from ours: a plain WireGuard router instead of the
//! forwarder, the edge's router in case it must take over again, the web server behind the
//! forwarder, and what moves an address and its connections between two edges.
//!
//! No text holds a secret: private and preshared keys are read from files, or made by the device.

mod caddy;
mod far_end;
mod mikrotik;
mod pair;
mod wg_quick;

pub use caddy::caddy;
pub use far_end::{EdgeSide, ExportError};
pub use mikrotik::{mikrotik, mikrotik_edge};
pub use pair::{PairError, PairSide, conntrackd, keepalived};
pub use wg_quick::wg_quick;
