//! The userspace WireGuard node both of Causeway's daemons share.
//!
//! The core takes `now` and bytes and returns values: [`node`] and what it is made of. Beside it stands the only code
//! that talks to the kernel.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod admission;
mod allowed_ips;
pub mod busy_poll;
#[cfg(target_os = "linux")]
pub mod device;
mod dice;
pub mod endpoint;
mod event_queue;
pub mod io;
pub mod key;
mod liveness;
pub mod node;
pub mod offload;
pub mod packet;
mod path_mtu;
pub mod progress;
pub mod reason;
mod recovery;
mod schedule;
pub mod self_test;
pub mod sink;
pub mod time;
pub mod transmit;
pub mod uapi;
mod watermark;
mod wire;
