//! Receiving: `recvmmsg` with `UDP_GRO`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use rustix::event::PollFlags;

use super::Socket;
use super::control::{Control, ControlSpace};
use crate::io::Wait;
use crate::io::udp::address::unmapped;
use crate::io::udp::batch::{ReceiveBatch, Slot};
use crate::io::udp::portable::poll;
use crate::io::udp::stats::UdpStats;

/// Messages taken by one `recvmmsg` call.
const RECEIVE_BATCH: usize = 16;

impl Socket {
    pub(in crate::io::udp) fn receive(
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
        // SAFETY: the first `count` messages point to distinct live buffers of the lengths they
        // state.
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
        stats.received_datagrams.add(if joined { slot.len.div_ceil(slot.stride) } else { 1 });
        if self.has_unusable.load(Ordering::Relaxed) && *self.unusable.lock() == slot.to {
            self.has_unusable.store(false, Ordering::Relaxed);
        }
    }
}

/// Datagrams dropped because the socket's receive buffer was full; `None` when the
/// kernel does not count them.
pub(in crate::io::udp) fn queue_drops(socket: &socket2::Socket) -> Option<u32> {
    /// Place of `SK_MEMINFO_DROPS` in what `SO_MEMINFO` gives, an array of 32-bit numbers (Linux
    /// 4.12).
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the descriptor is open, `numbers` has `length` writable bytes, and the kernel writes
    // no more than that.
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

/// The address the kernel wrote, of either family.
fn socket_address(name: &MaybeUninit<libc::sockaddr_in6>, len: libc::socklen_t) -> Option<SocketAddr> {
    if (len as usize) < size_of::<libc::sockaddr_in>() {
        return None;
    }
    // SAFETY: the kernel wrote at least the 16 bytes of a `sockaddr_in`, which begin with the
    // family; the storage is aligned for both structures.
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
