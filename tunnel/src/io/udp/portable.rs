//! One datagram per call through plain sockets: macOS, and anything else without batches.

use std::io;
use std::net::SocketAddr;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};

use super::address::{is_v6, mapped, unmapped};
use super::batch::{ReceiveBatch, Slot};
use super::options::{UdpOptions, set_mark};
use super::stats::UdpStats;
use crate::io::Wait;
use crate::transmit::Transmit;

#[derive(Debug)]
pub(super) struct Socket {
    socket: socket2::Socket,
    is_v6: bool,
}

impl Socket {
    pub(super) fn new(socket: socket2::Socket, options: &UdpOptions) -> io::Result<Self> {
        let is_v6 = is_v6(&socket)?;
        if options.mark != 0 {
            set_mark(&socket, options.mark)?;
        }
        // The system may refuse the wanted size: request less until it agrees.
        set_largest(options.buffer, |size| socket.set_recv_buffer_size(size));
        set_largest(options.buffer, |size| socket.set_send_buffer_size(size));
        Ok(Self { socket, is_v6 })
    }

    pub(super) const fn socket(&self) -> &socket2::Socket {
        &self.socket
    }

    pub(super) fn receive(
        &self,
        batch: &mut ReceiveBatch,
        wait: Wait,
        stats: &UdpStats,
    ) -> io::Result<usize> {
        let mut filled = 0;
        for slot in batch.free_slots() {
            match self.receive_one(slot, wait == Wait::Block && filled == 0) {
                Ok(()) => filled += 1,
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
            stats.received_datagrams.add(1);
            stats.received_bytes_plain.add(slot.len);
        }
        stats.receive_calls.add(1);
        batch.keep(filled);
        Ok(filled)
    }

    fn receive_one(&self, slot: &mut Slot, may_wait: bool) -> io::Result<()> {
        let (len, from) = loop {
            match rustix::net::recvfrom(&self.socket, &mut *slot.bytes, RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::WOULDBLOCK) if may_wait => poll(&self.socket, PollFlags::IN)?,
                other => break other.map(|(len, _, from)| (len, from))?,
            }
        };
        slot.len = len;
        slot.stride = len.max(1);
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        slot.from = from.map(unmapped).ok_or(io::ErrorKind::InvalidData)?;
        slot.to = None;
        slot.ecn = 0;
        Ok(())
    }

    pub(super) fn send<'a>(
        &self,
        transmits: impl Iterator<Item = Transmit<'a>>,
        wait: Wait,
        stats: &UdpStats,
    ) -> usize {
        let mut done = 0;
        for transmit in transmits {
            let (to, mut wait) = (self.address(transmit.endpoint.remote), wait);
            for (number, datagram) in transmit.contents.chunks(transmit.segment_size.max(1)).enumerate() {
                if !self.send_one(datagram, &to, wait, stats) {
                    if number == 0 {
                        return done;
                    }
                    // There is no room for the rest: it is lost, or the caller would send the
                    // beginning again.
                    stats.send_errors.add(1);
                    break;
                }
                wait = Wait::Block;
            }
            done += 1;
        }
        done
    }

    /// Sends one datagram; `false` when there was no room for it.
    fn send_one(&self, datagram: &[u8], to: &SocketAddr, wait: Wait, stats: &UdpStats) -> bool {
        loop {
            match rustix::net::sendto(&self.socket, datagram, SendFlags::DONTWAIT, to) {
                Ok(_) => {
                    stats.send_calls.add(1);
                    stats.sent_bytes_plain.add(datagram.len());
                    return true;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    stats.send_waits.add(1);
                    if wait == Wait::No || !wait_for_room(&self.socket) {
                        return false;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::trace!(%error, "datagram refused");
                    stats.send_errors.add(1);
                    return true;
                }
            }
        }
    }

    fn address(&self, remote: SocketAddr) -> SocketAddr {
        if self.is_v6 { mapped(remote) } else { remote }
    }
}

/// Sleeps until the socket is ready; an error when a signal came first.
pub(super) fn poll(socket: &socket2::Socket, flags: PollFlags) -> io::Result<()> {
    rustix::event::poll(&mut [PollFd::new(socket, flags)], None)?;
    Ok(())
}

/// Longest sleep until a socket has room, so that the heartbeat of the thread goes on.
const ROOM_LIMIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Sleeps until the socket has room, a second at most; false when it has none by then, or a signal
/// came first.
pub(super) fn wait_for_room(socket: &socket2::Socket) -> bool {
    let ready = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&ROOM_LIMIT));
    ready.is_ok_and(|ready| ready > 0)
}

fn set_largest(wanted: usize, mut set: impl FnMut(usize) -> io::Result<()>) {
    let mut size = wanted;
    while size >= 64 << 10 && set(size).is_err() {
        size /= 2;
    }
}
