//! The userspace WireGuard node both of Causeway's daemons share.
//!
//! The core takes `now` and bytes and returns values: [`node`] and what it is made of. Beside it stands the only code
//! that talks to the kernel.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

#[cfg(target_os = "linux")]
pub mod device;
pub mod endpoint;
pub mod io;
pub mod key;
pub mod node;
pub mod offload;
pub mod packet;
pub mod reason;
pub mod sink;
pub mod time;
pub mod transmit;
