//! The outer UDP socket: batched and segmented by the kernel where it can, plain elsewhere.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

#[cfg(target_os = "linux")]
use super::udp_linux;
use super::udp_portable;
use super::{BUFFER, Wait};
use crate::endpoint::LocalSide;
use crate::node::Received;
use crate::transmit::Transmit;

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

/// The outer UDP socket, of both families where the system has IPv6. Every method takes `&self`: threads share it.
#[derive(Debug)]
pub struct UdpSocket {
    inner: Inner,
    stats: Arc<UdpStats>,
}

#[derive(Debug)]
enum Inner {
    #[cfg(target_os = "linux")]
    Linux(udp_linux::Socket),
    Portable(udp_portable::Socket),
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

    /// Takes a bound UDP socket that somebody else opened; the port of `options` is not used.
    ///
    /// # Errors
    /// When it is no UDP socket, or the mark is not permitted.
    pub fn from_fd(fd: OwnedFd, options: &UdpOptions) -> io::Result<Self> {
        let socket = Socket::from(fd);
        #[cfg(target_os = "linux")]
        if options.backend == Backend::Auto {
            let inner = Inner::Linux(udp_linux::Socket::new(socket, options)?);
            return Ok(Self { inner, stats: Arc::default() });
        }
        let inner = Inner::Portable(udp_portable::Socket::new(socket, options)?);
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

    /// Receives as many messages as `batch` has slots for, and returns how many came; what it held before is gone.
    ///
    /// # Errors
    /// `WouldBlock` and `Interrupted` as [`Wait`] says; anything else may be tried again, and is counted
    /// ([`UdpStats::receives`]).
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

    /// Sends runs of datagrams in order and returns how many runs are done with: sent, or dropped and counted.
    ///
    /// With [`Wait::Block`] it waits for room, so that all are; fewer when a signal came, or there was no room for a second.
    /// With [`Wait::No`] it waits only for the rest of a run that must go out one datagram at a time and was begun: a second
    /// at most, then that rest is lost and counted.
    #[inline]
    pub fn send<'a>(&self, transmits: impl Iterator<Item = Transmit<'a>>, wait: Wait) -> usize {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.send(transmits, wait, &self.stats),
            Inner::Portable(socket) => socket.send(transmits, wait, &self.stats),
        }
    }

    /// Switches the offloads of this socket at run time; without any in the backend nothing happens.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nothing to switch"))]
    pub fn set_offload(&self, gso: bool, gro: bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.set_offload(gso, gro),
            Inner::Portable(_) => {}
        }
    }

    /// Whether it can send a datagram that no router may cut; elsewhere [`Transmit::is_whole`] has no effect.
    #[must_use]
    pub const fn can_forbid_fragments(&self) -> bool {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(_) => true,
            Inner::Portable(_) => false,
        }
    }

    /// Has refusals of sent datagrams come back as errors of [`receive`](Self::receive), or no more; Linux only.
    ///
    /// For a socket with one peer that does not answer: anybody on the way can make such an error, and it costs the
    /// datagram that is sent while one waits.
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

    /// Sets the firewall mark of everything sent; 0 is none.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN, `Unsupported` where there are no marks.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        set_mark(self.socket(), mark)
    }

    /// Whether the kernel has segmented sends and joined receives, whatever is switched on.
    #[must_use]
    pub const fn known_offload(&self) -> (bool, bool) {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Linux(socket) => socket.known_offload(),
            Inner::Portable(_) => (false, false),
        }
    }

    /// What it has done; readable at any time.
    #[must_use]
    pub fn stats(&self) -> &UdpStats {
        &self.stats
    }

    /// Asks the kernel how many datagrams it dropped because the receive buffer was full; where it does not say
    /// (before Linux 4.12, other systems), [`UdpStats::receive_queue_drops`] stays 0.
    pub fn sample_queue_drops(&self) {
        #[cfg(target_os = "linux")]
        if let Some(drops) = udp_linux::queue_drops(self.socket()) {
            self.stats.receive_queue_drops.raise_to(drops.into());
        }
    }

    /// The same for whoever outlives the socket.
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

#[cfg(target_os = "linux")]
pub(super) fn set_mark(socket: &Socket, mark: u32) -> io::Result<()> {
    // Reading needs no privilege, and a helper may have set it.
    if socket.mark().is_ok_and(|present| present == mark) { Ok(()) } else { socket.set_mark(mark) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_mark(_: &Socket, mark: u32) -> io::Result<()> {
    if mark == 0 { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Whether the socket is of the IPv6 family, so that IPv4 addresses must be mapped.
pub(super) fn is_v6(socket: &Socket) -> io::Result<bool> {
    Ok(socket.local_addr()?.is_ipv6())
}

/// An address as the rest of the crate holds it: IPv4 never mapped.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// An address as a socket of the IPv6 family takes it.
pub(super) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

/// Room for the messages of one receive call, allocated once: each has room for the longest.
///
/// While messages are long, two are taken at a time, which stay in the processor's cache; short ones come by the batch.
pub struct ReceiveBatch {
    pub(super) slots: Vec<Slot>,
    pub(super) filled: usize,
    is_long: bool,
}

/// Messages taken by one call while they are long.
const LONG_LIMIT: usize = 2;
/// Bytes from which on a message is long.
const LONG: usize = 8192;

/// One message with what came beside it.
pub(super) struct Slot {
    pub(super) bytes: Box<[u8]>,
    pub(super) len: usize,
    pub(super) stride: usize,
    pub(super) from: SocketAddr,
    pub(super) to: Option<LocalSide>,
    pub(super) ecn: u8,
}

impl ReceiveBatch {
    /// Room for `messages` messages, at least one and at most 64.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let slot = || Slot {
            bytes: vec![0; BUFFER].into_boxed_slice(),
            len: 0,
            stride: 1,
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
            to: None,
            ecn: 0,
        };
        Self { slots: (0..messages.clamp(1, 64)).map(|_| slot()).collect(), filled: 0, is_long: false }
    }

    /// The slots to fill next.
    #[inline]
    pub(super) fn free_slots(&mut self) -> &mut [Slot] {
        let most = if self.is_long { LONG_LIMIT } else { usize::MAX };
        let count = self.slots.len().min(most);
        self.slots.get_mut(..count).unwrap_or_default()
    }

    /// Keeps what was received, and learns from it how much to take next.
    #[inline]
    pub(super) fn keep(&mut self, filled: usize) {
        self.filled = filled;
        self.is_long = self.slots.iter().take(filled).any(|slot| slot.len >= LONG);
    }

    /// Whether a message of the last receive call was long: then one that continues it may be there already.
    #[must_use]
    pub fn was_long(&self) -> bool {
        self.filled > 0 && self.is_long
    }

    /// The messages of the last receive call, in order; empty ones are left out.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        self.slots.iter_mut().take(self.filled).filter(|slot| slot.len > 0).map(|slot| Received {
            from: slot.from,
            to: slot.to,
            ecn: slot.ecn,
            stride: slot.stride,
            contents: slot.bytes.get_mut(..slot.len).unwrap_or_default(),
        })
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $field:ident $(: $other:ty)?,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$doc])* pub $field: crate::io::udp::counters!(@type $($other)?),)+ }
    };
    (@type) => { crate::io::udp::Counter };
    (@type $other:ty) => { $other };
}
pub(crate) use counters;

/// A number that only grows; every thread may read it without a lock.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn raise_to(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

counters! {
    /// What an outer socket has done since it was opened.
    UdpStats {
        /// Bytes received one datagram at a time.
        received_bytes_plain,
        /// Bytes received as joined datagrams.
        received_bytes_joined,
        /// Receive calls that brought something.
        receive_calls,
        /// How receive calls have ended of late.
        receives: crate::io::outcomes::Outcomes,
        /// Datagrams the kernel dropped because the receive buffer was full, when it was last asked
        /// ([`UdpSocket::sample_queue_drops`]).
        receive_queue_drops,
        /// Messages longer than a slot; dropped.
        receive_truncated,
        /// Bytes sent one datagram at a time.
        sent_bytes_plain,
        /// Bytes sent by segmented calls.
        sent_bytes_segmented,
        /// Send calls.
        send_calls,
        /// Times a send had to wait for room.
        send_waits,
        /// Runs or datagrams the network refused; dropped.
        send_errors,
        /// Runs a segmented send refused, which then went out one datagram at a time.
        segment_fallbacks,
        /// Times a local side was no longer usable and the kernel chose another.
        source_cleared,
    }
}

#[cfg(test)]
mod tests;
