//! Batches of segmented datagrams: `sendmmsg` with `UDP_SEGMENT`, `recvmmsg` with `UDP_GRO`.
#![allow(unsafe_code)]

mod control;
pub(super) mod receive;
mod send;

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::address::is_v6;
use super::options::{UdpOptions, set_mark};
use super::source::Source;
use crate::endpoint::LocalSide;
use crate::io::{clock, own_address};

#[derive(Debug)]
pub(super) struct Socket {
    socket: socket2::Socket,
    is_v6: bool,
    gso: AtomicBool,
    gro: AtomicBool,
    /// Whether the kernel supports segmented sends and joined receives.
    supported: (bool, bool),
    /// A local side that sending was refused from; the kernel chooses until something arrives there
    /// again.
    unusable: Mutex<Option<LocalSide>>,
    has_unusable: AtomicBool,
    /// The one address to send from, if there is one.
    source: ArcSwapOption<Source>,
    /// Held while the socket's datagrams must not be fragmented.
    unfragmented: Mutex<()>,
}

impl Socket {
    pub(super) fn new(socket: socket2::Socket, options: &UdpOptions) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let is_v6 = is_v6(&socket)?;
        if options.mark != 0 {
            set_mark(&socket, options.mark)?;
        }
        let mut this = Self {
            socket,
            is_v6,
            gso: AtomicBool::new(false),
            gro: AtomicBool::new(false),
            supported: (false, false),
            unusable: Mutex::new(None),
            has_unusable: AtomicBool::new(false),
            source: ArcSwapOption::empty(),
            unfragmented: Mutex::new(()),
        };
        this.request_ancillary_data()?;
        this.set_buffers(options.buffer);
        // A kernel without segmented sends (before 4.18) or joined receives (before 5.0) refuses
        // the option.
        let supports = |option| this.option(libc::SOL_UDP, option, 0).is_ok();
        this.supported = (supports(libc::UDP_SEGMENT), supports(libc::UDP_GRO));
        this.set_offload(options.gso, options.gro);
        Ok(this)
    }

    pub(super) const fn socket(&self) -> &socket2::Socket {
        &self.socket
    }

    pub(super) fn set_source(&self, source: Option<IpAddr>) {
        if self.source_address() != source {
            self.source.store(source.map(|address| Arc::new(Source::new(address))));
        }
    }

    pub(super) fn source_address(&self) -> Option<IpAddr> {
        self.source.load().as_ref().map(|source| source.local().address)
    }

    pub(super) fn note_source(&self, is_here: bool) {
        if let Some(source) = &*self.source.load() {
            source.set(clock::instant(), is_here);
        }
    }

    /// Whether anything may leave now.
    fn may_send(&self) -> bool {
        let source = self.source.load();
        // What cannot be found out is not here.
        let is_own = |address| own_address::is_own(address).unwrap_or(false);
        source.as_ref().is_none_or(|source| source.may_send(clock::instant(), is_own))
    }

    pub(super) fn set_offload(&self, gso: bool, gro: bool) {
        self.gso.store(gso && self.supported.0, Ordering::Relaxed);
        let set = self.option(libc::SOL_UDP, libc::UDP_GRO, i32::from(gro));
        self.gro.store(gro && set.is_ok(), Ordering::Relaxed);
    }

    pub(super) const fn supported_offload(&self) -> (bool, bool) {
        self.supported
    }

    pub(super) fn offload(&self) -> (bool, bool) {
        (self.gso.load(Ordering::Relaxed), self.gro.load(Ordering::Relaxed))
    }

    fn option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        let length = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the pointer names `length` readable bytes.
        let done = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Local side and ECN bits of what arrives; and no DF on what leaves.
    ///
    /// Not the drop counter (`SO_RXQ_OVFL`): with it kernels 6.1 and 6.12 were seen to fail in
    /// `put_cmsg`.
    ///
    /// IPv4 leaves without DF and ignores learned path MTUs (`OMIT`), so that neither a black hole
    /// nor a forged "fragmentation needed" stops the tunnel; routers may fragment. IPv6 routers
    /// cannot, so there the learned path MTU is used and the kernel fragments (`DONT`).
    fn request_ancillary_data(&self) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        if self.is_v6 {
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        } else {
            self.option(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        self.allow_fragments()
    }

    /// Makes ICMP errors about sent datagrams come back as errors of the next receive call
    /// (`IP_RECVERR`), or no more; the queue of such errors is emptied.
    pub(super) fn set_error_reports(&self, on: bool) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_RECVERR, i32::from(on))?;
        if self.is_v6 {
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, i32::from(on))?;
        }
        Ok(())
    }

    fn allow_fragments(&self) -> io::Result<()> {
        self.set_mtu_discovery((libc::IP_PMTUDISC_OMIT, libc::IPV6_PMTUDISC_DONT))
    }

    /// Sets whether the kernel discovers path MTUs, for IPv4 and IPv6.
    fn set_mtu_discovery(&self, (v4, v6): (i32, i32)) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)?;
        if self.is_v6 { self.option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6) } else { Ok(()) }
    }

    /// The wanted size by privilege, or as much as the system's limit allows; never less than there
    /// is already, since a privileged helper may have set it.
    fn set_buffers(&self, size: usize) {
        let wanted = i32::try_from(size).unwrap_or(i32::MAX);
        let (receive, send) = (self.socket.recv_buffer_size(), self.socket.send_buffer_size());
        for (forced, plain, present) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send)]
        {
            // The kernel doubles the requested size, and returns the double.
            let is_enough = present.is_ok_and(|present| present / 2 >= size);
            if !is_enough
                && self.option(libc::SOL_SOCKET, forced, wanted).is_err()
                && let Err(error) = self.option(libc::SOL_SOCKET, plain, wanted)
            {
                tracing::debug!(%error, size, "socket buffer stays at the system's default");
            }
        }
    }
}
