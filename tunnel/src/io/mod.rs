//! What talks to the kernel: clock, UDP, TUN, routes, key files, and the watchdog of threads.

pub mod clock;
pub mod counters;
pub mod key_files;
pub mod outcomes;
#[cfg(target_os = "linux")]
pub mod own_address;
#[cfg(target_os = "linux")]
pub mod routes;
#[cfg(target_os = "linux")]
pub mod self_test;
#[cfg(target_os = "linux")]
pub mod tun;
pub mod udp;
pub mod watchdog;

/// Bytes of a buffer for one packet or message of up to 64 KiB.
///
/// It is larger than needed, and above the size from which allocators use `mmap`: it therefore
/// comes from the kernel as zeros, and its pages take memory only once they are written.
pub(crate) const BUFFER: usize = 160 << 10;

/// Whether a call may sleep for its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Sleep until there is something, or a signal arrives (then the call fails with
    /// `Interrupted`).
    Block,
    /// Fail with `WouldBlock` when there is nothing.
    No,
}
