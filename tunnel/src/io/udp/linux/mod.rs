//! Batches of segmented datagrams: `sendmmsg` with `UDP_SEGMENT`, `recvmmsg` with `UDP_GRO`.
#![allow(unsafe_code)]

mod control;

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::PollFlags;

use super::Wait;
use super::udp::{ReceiveBatch, Slot, UdpOptions, UdpStats, is_v6, mapped, set_mark, unmapped};
use super::udp_portable::{poll, wait_for_room};
use crate::endpoint::LocalSide;
use crate::transmit::Transmit;
use control::{Control, ControlSpace};

/// Runs handed to one `sendmmsg` call.
const SEND_BATCH: usize = 16;
/// Messages taken by one `recvmmsg` call.
const RECEIVE_BATCH: usize = 16;

#[derive(Debug)]
pub(super) struct Socket {
    socket: socket2::Socket,
    is_v6: bool,
    gso: AtomicBool,
    gro: AtomicBool,
    /// Whether the kernel knows segmented sends and joined receives.
    known: (bool, bool),
    /// A local side that sending was refused from; the kernel chooses until something arrives there again.
    unusable: Mutex<Option<LocalSide>>,
    has_unusable: AtomicBool,
    /// Held while the socket's datagrams may not be cut.
    whole: Mutex<()>,
}

/// One message for `sendmmsg`: a whole run, or one datagram of it.
struct Outgoing<'a> {
    contents: &'a [u8],
    /// Set when the kernel is to cut it.
    segment_size: Option<u16>,
    to: SocketAddr,
    from: Option<LocalSide>,
    ecn: u8,
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
            known: (false, false),
            unusable: Mutex::new(None),
            has_unusable: AtomicBool::new(false),
            whole: Mutex::new(()),
        };
        this.ask_for_ancillary_data()?;
        this.set_buffers(options.buffer);
        // A kernel without segmented sends (before 4.18) or joined receives (before 5.0) does not know the option either.
        let knows = |option| this.option(libc::SOL_UDP, option, 0).is_ok();
        this.known = (knows(libc::UDP_SEGMENT), knows(libc::UDP_GRO));
        this.set_offload(options.gso, options.gro);
        Ok(this)
    }

    pub(super) const fn socket(&self) -> &socket2::Socket {
        &self.socket
    }

    pub(super) fn set_offload(&self, gso: bool, gro: bool) {
        self.gso.store(gso && self.known.0, Ordering::Relaxed);
        let set = self.option(libc::SOL_UDP, libc::UDP_GRO, i32::from(gro));
        self.gro.store(gro && set.is_ok(), Ordering::Relaxed);
    }

    pub(super) const fn known_offload(&self) -> (bool, bool) {
        self.known
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
    /// Not the drop counter (`SO_RXQ_OVFL`): with it kernels 6.1 and 6.12 were seen to fail in `put_cmsg`.
    ///
    /// IPv4 leaves without DF and ignores learned path MTUs (`OMIT`), so that neither a black hole nor a forged
    /// "fragmentation needed" stops the tunnel; routers may fragment. IPv6 routers cannot, so there the learned
    /// path MTU is used and the kernel fragments (`DONT`).
    fn ask_for_ancillary_data(&self) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        if self.is_v6 {
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        } else {
            self.option(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        self.allow_fragments()
    }

    /// Has what ICMP says about sent datagrams come back as errors of the next receive call (`IP_RECVERR`), or no more;
    /// what waits in the queue of such errors goes.
    pub(super) fn set_error_reports(&self, on: bool) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_RECVERR, i32::from(on))?;
        if self.is_v6 {
            self.option(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, i32::from(on))?;
        }
        Ok(())
    }

    fn allow_fragments(&self) -> io::Result<()> {
        self.discover((libc::IP_PMTUDISC_OMIT, libc::IPV6_PMTUDISC_DONT))
    }

    fn discover(&self, (v4, v6): (i32, i32)) -> io::Result<()> {
        self.option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)?;
        if self.is_v6 { self.option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6) } else { Ok(()) }
    }

    /// Sends a probe of the path's size with DF set and no regard to learned path MTUs (`PROBE`). The switch is the whole
    /// socket's: what another thread sends in this moment has DF too, and is lost like any packet if the path is narrower.
    /// A probe that our own link cannot take counts as lost.
    fn send_whole(&self, message: &Outgoing<'_>, stats: &UdpStats) {
        let _held = self.whole.lock();
        let sent = self
            .discover((libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE))
            .and_then(|()| self.send_messages(&[Some(Outgoing { ..*message })]));
        match sent {
            Ok(_) => {
                stats.send_calls.add(1);
                stats.sent_bytes_plain.add(message.contents.len());
            }
            Err(error) => tracing::trace!(%error, "probe of the path's size not sent"),
        }
        if let Err(error) = self.allow_fragments() {
            tracing::info!(%error, "datagrams of this socket can no longer be cut");
        }
    }

    /// The wanted size by privilege, or as much as the system's limit allows; never less than there is already,
    /// since a privileged helper may have set it.
    fn set_buffers(&self, size: usize) {
        let wanted = i32::try_from(size).unwrap_or(i32::MAX);
        let (receive, send) = (self.socket.recv_buffer_size(), self.socket.send_buffer_size());
        for (forced, plain, present) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send)]
        {
            // The kernel doubles what is asked for, and says so.
            let is_enough = present.is_ok_and(|present| present / 2 >= size);
            if !is_enough
                && self.option(libc::SOL_SOCKET, forced, wanted).is_err()
                && let Err(error) = self.option(libc::SOL_SOCKET, plain, wanted)
            {
                tracing::debug!(%error, size, "socket buffer stays at the system's default");
            }
        }
    }

    pub(super) fn receive(
        &self,
        batch: &mut ReceiveBatch,
        wait: Wait,
        stats: &UdpStats,
    ) -> io::Result<usize> {
        let filled = loop {
            match self.receive_messages(batch.free_slots(), wait, stats) {
                // The descriptor was handed over as non-blocking.
                Err(error) if wait == Wait::Block && error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&self.socket, PollFlags::IN)?;
                }
                other => break other?,
            }
        };
        batch.keep(filled);
        stats.receive_calls.add(1);
        Ok(filled)
    }

    fn receive_messages(&self, slots: &mut [Slot], wait: Wait, stats: &UdpStats) -> io::Result<usize> {
        let mut names = [MaybeUninit::<libc::sockaddr_in6>::uninit(); RECEIVE_BATCH];
        let mut controls = [ControlSpace::new(); RECEIVE_BATCH];
        // SAFETY: all-zero bytes are valid for these plain C structures.
        let (mut vectors, mut messages): ([libc::iovec; RECEIVE_BATCH], [libc::mmsghdr; RECEIVE_BATCH]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let count = slots.len().min(RECEIVE_BATCH);
        for ((((message, vector), slot), name), control) in
            messages.iter_mut().zip(&mut vectors).zip(&mut *slots).zip(&mut names).zip(&mut controls)
        {
            vector.iov_base = slot.bytes.as_mut_ptr().cast();
            vector.iov_len = slot.bytes.len();
            let header = &mut message.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            control.attach(header);
        }
        let flags = match wait {
            Wait::Block => libc::MSG_WAITFORONE,
            Wait::No => libc::MSG_DONTWAIT,
        };
        // SAFETY: the first `count` messages point to distinct live buffers of the lengths they state.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for ((slot, message), name) in slots.iter_mut().zip(&messages).zip(&names).take(received) {
            self.read_message(slot, message, name, stats);
        }
        Ok(received)
    }

    fn read_message(
        &self,
        slot: &mut Slot,
        message: &libc::mmsghdr,
        name: &MaybeUninit<libc::sockaddr_in6>,
        stats: &UdpStats,
    ) {
        let control = Control::read(&message.msg_hdr);
        slot.len = (message.msg_len as usize).min(slot.bytes.len());
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            stats.receive_truncated.add(1);
            slot.len = 0;
        }
        match socket_address(name, message.msg_hdr.msg_namelen) {
            Some(from) => slot.from = unmapped(from),
            None => slot.len = 0,
        }
        slot.stride = control.segment_size.filter(|size| *size > 0).unwrap_or(slot.len).max(1);
        slot.to = control.local;
        slot.ecn = control.ecn;
        let joined = slot.stride < slot.len;
        let bytes = if joined { &stats.received_bytes_joined } else { &stats.received_bytes_plain };
        bytes.add(slot.len);
        if self.has_unusable.load(Ordering::Relaxed) && *self.unusable.lock() == slot.to {
            self.has_unusable.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn send<'a>(
        &self,
        transmits: impl Iterator<Item = Transmit<'a>>,
        wait: Wait,
        stats: &UdpStats,
    ) -> usize {
        let mut transmits = transmits.peekable();
        let mut done = 0;
        while transmits.peek().is_some() {
            let mut batch = [const { None }; SEND_BATCH];
            let mut count = 0;
            let gso = self.gso.load(Ordering::Relaxed);
            while let Some(place) = batch.get_mut(count) {
                // A run that the kernel may not cut goes alone, below.
                let Some(transmit) =
                    transmits.next_if(|transmit| !transmit.is_whole && (gso || is_single(transmit)))
                else {
                    break;
                };
                *place = Some(self.outgoing(&transmit));
                count += 1;
            }
            let batch: &[Option<Outgoing<'_>>] = batch.get(..count).unwrap_or_default();
            let sent = self.send_all(batch, wait, stats);
            done += sent;
            if sent < count {
                return done;
            }
            if count == 0
                && let Some(transmit) = transmits.next()
            {
                if transmit.is_whole {
                    self.send_whole(&self.outgoing(&transmit), stats);
                } else if !self.send_cut(&self.outgoing(&transmit), transmit.segment_size, wait, stats) {
                    return done;
                }
                done += 1;
            }
        }
        done
    }

    fn outgoing<'a>(&self, transmit: &Transmit<'a>) -> Outgoing<'a> {
        let is_run = transmit.contents.len() > transmit.segment_size;
        let remote = transmit.endpoint.remote;
        let unusable = self.has_unusable.load(Ordering::Relaxed);
        let from = transmit.endpoint.local.filter(|local| !unusable || *self.unusable.lock() != Some(*local));
        Outgoing {
            contents: transmit.contents,
            segment_size: u16::try_from(transmit.segment_size).ok().filter(|_| is_run),
            to: if self.is_v6 { mapped(remote) } else { remote },
            from,
            ecn: transmit.ecn,
        }
    }

    /// Sends messages in order; fewer than all only when waiting was not allowed or a signal came.
    fn send_all(&self, mut batch: &[Option<Outgoing<'_>>], wait: Wait, stats: &UdpStats) -> usize {
        let mut done = 0;
        while let Some(Some(first)) = batch.first() {
            let count = match self.send_messages(batch) {
                Ok(count) => {
                    for message in batch.iter().take(count).flatten() {
                        let bytes = match message.segment_size {
                            Some(_) => &stats.sent_bytes_segmented,
                            None => &stats.sent_bytes_plain,
                        };
                        bytes.add(message.contents.len());
                    }
                    stats.send_calls.add(1);
                    count
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stats.send_waits.add(1);
                    if wait == Wait::No || !wait_for_room(&self.socket) {
                        return done;
                    }
                    0
                }
                Err(error) => {
                    if !self.send_refused(first, &error, wait, stats) {
                        return done;
                    }
                    1
                }
            };
            done += count;
            batch = batch.get(count..).unwrap_or_default();
        }
        done
    }

    /// Tries a refused message the other ways there are: from another local side, then cut by ourselves.
    fn send_refused(&self, message: &Outgoing<'_>, error: &io::Error, wait: Wait, stats: &UdpStats) -> bool {
        let errno = error.raw_os_error().unwrap_or(0);
        if let (Some(local), libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL) = (message.from, errno) {
            *self.unusable.lock() = Some(local);
            self.has_unusable.store(true, Ordering::Relaxed);
            stats.source_cleared.add(1);
            tracing::debug!(%error, "local address no longer usable, the kernel chooses");
            let without = Outgoing { from: None, ..*message };
            return self.send_all(&[Some(without)], wait, stats) == 1;
        }
        // Segments above the interface's MTU are EMSGSIZE (EINVAL in older kernels); single datagrams are fragmented.
        if let (Some(size), libc::EIO | libc::EINVAL | libc::EMSGSIZE) = (message.segment_size, errno) {
            stats.segment_fallbacks.add(1);
            if errno == libc::EIO && self.gso.swap(false, Ordering::Relaxed) {
                tracing::info!(%error, "segmented sends are not possible here, sending datagrams one by one");
            }
            return self.send_cut(message, usize::from(size), wait, stats);
        }
        tracing::trace!(%error, "run refused");
        stats.send_errors.add(1);
        true
    }

    /// Sends a run as single datagrams; `false` when it could not begin. Once begun it waits for room, or the caller would
    /// send the beginning again; what finds none is lost and counted.
    fn send_cut(&self, run: &Outgoing<'_>, segment_size: usize, mut wait: Wait, stats: &UdpStats) -> bool {
        let mut datagrams = run.contents.chunks(segment_size.max(1)).peekable();
        let mut is_begun = false;
        while datagrams.peek().is_some() {
            let mut batch = [const { None }; SEND_BATCH];
            let mut count = 0;
            for (place, contents) in batch.iter_mut().zip(datagrams.by_ref()) {
                *place = Some(Outgoing { contents, segment_size: None, ..*run });
                count += 1;
            }
            let batch: &[Option<Outgoing<'_>>] = batch.get(..count).unwrap_or_default();
            let mut sent = self.send_all(batch, wait, stats);
            if sent == 0 && !is_begun {
                return false;
            }
            (is_begun, wait) = (true, Wait::Block);
            sent += self.send_all(batch.get(sent..).unwrap_or_default(), wait, stats);
            if sent < count {
                stats.send_errors.add(1);
                return true;
            }
        }
        true
    }

    fn send_messages(&self, batch: &[Option<Outgoing<'_>>]) -> io::Result<usize> {
        // SAFETY: all-zero bytes are valid for these plain C structures.
        let (mut vectors, mut messages): ([libc::iovec; SEND_BATCH], [libc::mmsghdr; SEND_BATCH]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut names = [const { None }; SEND_BATCH];
        let mut controls = [ControlSpace::new(); SEND_BATCH];
        let mut count = 0;
        for ((((outgoing, message), vector), name), control) in
            batch.iter().flatten().zip(&mut messages).zip(&mut vectors).zip(&mut names).zip(&mut controls)
        {
            let address: &socket2::SockAddr = name.insert(socket2::SockAddr::from(outgoing.to));
            vector.iov_base = outgoing.contents.as_ptr().cast_mut().cast();
            vector.iov_len = outgoing.contents.len();
            let header = &mut message.msg_hdr;
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            control.write(header, outgoing, self.is_v6);
            count += 1;
        }
        // SAFETY: the first `count` messages point to live addresses, buffers and control data of the lengths they
        // state, which the call only reads.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Datagrams dropped because the socket's receive buffer was full; `None` when the kernel does not say.
pub(super) fn queue_drops(socket: &socket2::Socket) -> Option<u32> {
    /// Place of `SK_MEMINFO_DROPS` in what `SO_MEMINFO` gives, an array of 32-bit numbers (Linux 4.12).
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the descriptor is open, `numbers` has `length` writable bytes, and the kernel writes no more than that.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (done == 0 && length as usize == size_of_val(&numbers)).then_some(numbers[DROPS])
}

const fn is_single(transmit: &Transmit<'_>) -> bool {
    transmit.contents.len() <= transmit.segment_size
}

/// The address the kernel wrote, of either family.
fn socket_address(name: &MaybeUninit<libc::sockaddr_in6>, len: libc::socklen_t) -> Option<SocketAddr> {
    if (len as usize) < size_of::<libc::sockaddr_in>() {
        return None;
    }
    // SAFETY: the kernel wrote at least the 16 bytes of a `sockaddr_in`, which begin with the family; the storage is
    // aligned for both structures.
    let v4 = unsafe { name.as_ptr().cast::<libc::sockaddr_in>().read() };
    match i32::from(v4.sin_family) {
        libc::AF_INET => {
            let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 if len as usize >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: the kernel wrote a whole `sockaddr_in6`.
            let v6 = unsafe { name.assume_init_read() };
            let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
            Some(std::net::SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
