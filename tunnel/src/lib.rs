//! The userspace WireGuard node both of Causeway's daemons share.
//!
//! Pure, without sockets, files or clocks (they take `now` and bytes, and return values):
//! - [`node`]: peers, handshakes, timers, recovery. [`offload`]: super-packets cut and joined.
//!   [`packet`]: headers, checksums, ICMP.
//! - What these and the kernel's side have in common: [`endpoint`], [`key`], [`time`], [`reason`],
//!   [`sink`] (inner packets in), [`transmit`] (datagrams out).
//! - Decisions of the threads: [`bucket`], [`busy_poll`], [`progress`], [`self_test`].
//!
//! Talking to the kernel: [`io`] (clock, UDP, TUN, routes, key files, watchdog), `device` (the
//! gateway's threads) and [`uapi`] (the socket of `wg`; its parser is pure).
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod bucket;
pub mod busy_poll;
#[cfg(target_os = "linux")]
pub mod device;
pub mod endpoint;
pub mod io;
pub mod key;
pub mod node;
pub mod offload;
pub mod packet;
pub mod progress;
pub mod reason;
pub mod self_test;
pub mod sink;
pub mod time;
pub mod transmit;
pub mod uapi;
