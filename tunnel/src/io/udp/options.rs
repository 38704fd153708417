//! How a socket is opened.

use std::io;

use socket2::Socket;

/// Which code moves the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best one for this system.
    #[default]
    Auto,
    /// One datagram per call, no offload, no local side: what macOS has.
    Portable,
}

/// How the outer socket is opened.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    /// The port; 0 lets the kernel choose.
    pub port: u16,
    /// Firewall mark of everything sent (Linux, needs CAP_NET_ADMIN); 0 is none.
    pub mark: u32,
    /// Which code moves the datagrams.
    pub backend: Backend,
    /// Send runs of datagrams with one segmented call.
    pub gso: bool,
    /// Receive joined datagrams.
    pub gro: bool,
    /// Wanted kernel buffer in each direction, in bytes; a kernel limit may make it less.
    pub buffer: usize,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { port: 0, mark: 0, backend: Backend::Auto, gso: true, gro: true, buffer: 7 << 20 }
    }
}

#[cfg(target_os = "linux")]
pub(super) fn set_mark(socket: &Socket, mark: u32) -> io::Result<()> {
    // Reading needs no privilege, and a helper may have set it.
    if socket.mark().is_ok_and(|present| present == mark) { Ok(()) } else { socket.set_mark(mark) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_mark(_: &Socket, mark: u32) -> io::Result<()> {
    if mark == 0 { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}
