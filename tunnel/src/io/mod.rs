//! The only code of this crate that talks to the kernel: clock, UDP and TUN.

pub mod clock;
#[cfg(target_os = "linux")]
pub mod tun;
pub mod udp;
#[cfg(target_os = "linux")]
mod udp_linux;
mod udp_portable;

/// Whether a call may sleep for its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Sleep until there is something, or a signal arrives (then the call fails with `Interrupted`).
    Block,
    /// Fail with `WouldBlock` when there is nothing.
    No,
}
