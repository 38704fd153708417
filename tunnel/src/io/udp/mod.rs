//! The outer UDP socket: batched and segmented by the kernel where it can, plain elsewhere.

mod address;
mod batch;
#[cfg(target_os = "linux")]
mod linux;
mod options;
mod portable;
#[cfg(target_os = "linux")]
mod source;
mod stats;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::Wait;
use crate::transmit::Transmit;
pub use batch::ReceiveBatch;
pub use options::{Backend, UdpOptions};
pub use stats::UdpStats;

/// The outer UDP socket, of both families where the system has IPv6. Every method takes `&self`:
/// threads share it.
#[derive(Debug)]
pub struct UdpSocket {
    inner: Inner,
    stats: Arc<UdpStats>,
}

#[derive(Debug)]
enum Inner {
    #[cfg(target_os = "linux")]
    Linux(linux::Socket),
    Portable(portable::Socket),
}

impl UdpSocket {
    /// Opens and binds a socket to the wildcard address.
    ///
    /// # Errors
    /// From the system: the port is taken, or the mark is not permitted.
    pub fn open(options: &UdpOptions) -> io::Result<Self> {
        let socket = match bind(Domain::IPV6, options.port) {
            Ok(socket) => socket,
            // IPv6 may be switched off altogether.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => bind(Domain::IPV4, options.port)?,
        };
        Self::from_fd(socket.into(), options)
    }

    /// Takes a bound UDP socket that another process opened; the port of `options` is not used.
    ///
    /// # Errors
    /// When it is no UDP socket, or the mark is not permitted.
    pub fn from_fd(fd: OwnedFd, options: &UdpOptions) -> io::Result<Self> {
        let socket = Socket::from(fd);
        #[cfg(target_os = "linux")]
        if options.backend == Backend::Auto {
            let inner = Inner::Linux(linux::Socket::new(socket, options)?);
            return Ok(Self { inner, stats: Arc::default() });
        }
        let inner = Inner::Portable(portable::Socket::new(socket, options)?);
        Ok(Self { inner, stats: Arc::default() })
    }

    /// The port it is bound to.
    ///
    /// # Errors
    /// From the system.
    pub fn local_port(&self) -> io::Result<u16> {
        let address = self.socket().local_addr()?.as_socket();
        address.map(|address| address.port()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Receives as many messages as `batch` has slots for, and returns how many came; what it held
    /// before is gone.
    ///
    /// # Errors
    /// `WouldBlock` and `Interrupted` as in [`Wait`]; after any other the call may be repeated, and
    /// it is counted ([`UdpStats::receives`]).
    #[inline]
    pub fn receive(&self, batch: &mut ReceiveBatch, wait: Wait) -> io::Result<usize> {
        batch.filled = 0;
        let received = match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.receive(batch, wait, &self.stats),
            Inner::Portable(socket) => socket.receive(batch, wait, &self.stats),
        };
        match &received {
            Ok(_) => self.stats.receives.record_success(),
            Err(error) => self.stats.receives.record_error(error),
        }
        received
    }

    /// Sends runs of datagrams in order and returns how many runs are done: sent, or dropped and
    /// counted.
    ///
    /// With [`Wait::Block`] it waits for room, so that all are; fewer when a signal came, or there
    /// was no room for a second. With [`Wait::No`] it waits only for the rest of a run that must go
    /// out one datagram at a time and was begun: a second at most, then that rest is lost and
    /// counted.
    #[inline]
    pub fn send<'a>(&self, transmits: impl Iterator<Item = Transmit<'a>>, wait: Wait) -> usize {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.send(transmits, wait, &self.stats),
            Inner::Portable(socket) => socket.send(transmits, wait, &self.stats),
        }
    }

    /// Switches the offloads of this socket at run time; without any in the backend nothing
    /// happens.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nothing to switch"))]
    pub fn set_offload(&self, gso: bool, gro: bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.set_offload(gso, gro),
            Inner::Portable(_) => {}
        }
    }

    /// Whether it can send a datagram that must not be fragmented; elsewhere
    /// [`Transmit::dont_fragment`] has no effect.
    #[must_use]
    pub const fn can_forbid_fragments(&self) -> bool {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(_) => true,
            Inner::Portable(_) => false,
        }
    }

    /// Makes ICMP errors about sent datagrams come back as errors of [`receive`](Self::receive), or
    /// no more; Linux only.
    ///
    /// For a socket with one peer that does not answer: any host on the path can forge such an
    /// error, and it costs the datagram that is sent while one waits.
    ///
    /// # Errors
    /// From the system, and `Unsupported` elsewhere.
    pub fn set_error_reports(&self, on: bool) -> io::Result<()> {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.set_error_reports(on),
            Inner::Portable(_) => {
                let _ = on;
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Whether segmented sends and joined receives are on; a failed one switches itself off.
    #[must_use]
    pub fn offload(&self) -> (bool, bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.offload(),
            Inner::Portable(_) => (false, false),
        }
    }

    /// Sends from this address alone, and only while the machine has it, asked again once a second
    /// at most; with `None` the kernel chooses, or what a datagram came to. Linux only.
    ///
    /// # Errors
    /// `Unsupported` elsewhere.
    pub fn set_source(&self, source: Option<IpAddr>) -> io::Result<()> {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.set_source(source),
            Inner::Portable(_) if source.is_some() => return Err(io::ErrorKind::Unsupported.into()),
            Inner::Portable(_) => {}
        }
        Ok(())
    }

    /// The address of [`set_source`](Self::set_source).
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.source_address(),
            Inner::Portable(_) => None,
        }
    }

    /// Takes what the caller found out: whether the machine has the address of
    /// [`set_source`](Self::set_source) now.
    pub fn note_source(&self, is_here: bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.note_source(is_here),
            Inner::Portable(_) => {
                let _ = is_here;
            }
        }
    }

    /// Sets the firewall mark of everything sent; 0 is none.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN, `Unsupported` where there are no marks.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        options::set_mark(self.socket(), mark)
    }

    /// Whether the kernel supports segmented sends and joined receives, whatever is switched on.
    #[must_use]
    pub const fn supported_offload(&self) -> (bool, bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.supported_offload(),
            Inner::Portable(_) => (false, false),
        }
    }

    /// What it has done; readable at any time.
    #[must_use]
    pub fn stats(&self) -> &UdpStats {
        &self.stats
    }

    /// Reads from the kernel how many datagrams it dropped because the receive buffer was full;
    /// where it does not count them (before Linux 4.12, other systems),
    /// [`UdpStats::receive_queue_drops`] stays 0.
    pub fn sample_queue_drops(&self) {
        #[cfg(target_os = "linux")]
        if let Some(drops) = linux::receive::queue_drops(self.socket()) {
            self.stats.receive_queue_drops.raise_to(drops.into());
        }
    }

    /// The same, to be kept beyond the socket's life.
    #[must_use]
    pub fn shared_stats(&self) -> Arc<UdpStats> {
        Arc::clone(&self.stats)
    }

    fn socket(&self) -> &Socket {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.socket(),
            Inner::Portable(socket) => socket.socket(),
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

fn bind(domain: Domain, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let any = if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
    } else {
        SocketAddr::from(([0, 0, 0, 0], port))
    };
    socket.bind(&any.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
