//! Sending: `sendmmsg` with `UDP_SEGMENT`, and what is done where the kernel refuses a run.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::Socket;
use super::control::{ControlSpace, Outgoing};
use crate::io::udp::address::mapped;
use crate::io::udp::portable::wait_for_room;
use crate::io::udp::stats::UdpStats;
use crate::io::{Wait, clock, own_address};
use crate::transmit::Transmit;

/// Runs handed to one `sendmmsg` call.
const SEND_BATCH: usize = 16;

impl Socket {
    pub(in crate::io::udp) fn send<'a>(
        &self,
        transmits: impl Iterator<Item = Transmit<'a>>,
        wait: Wait,
        stats: &UdpStats,
    ) -> usize {
        if !self.may_send() {
            let withheld = transmits.count();
            stats.withheld.add(withheld);
            return withheld;
        }
        let mut transmits = transmits.peekable();
        let mut done = 0;
        while transmits.peek().is_some() {
            let mut batch = [const { None }; SEND_BATCH];
            let mut count = 0;
            let gso = self.gso.load(Ordering::Relaxed);
            while let Some(place) = batch.get_mut(count) {
                // A run that the kernel does not segment goes alone, below.
                let Some(transmit) =
                    transmits.next_if(|transmit| !transmit.dont_fragment && (gso || is_single(transmit)))
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
                if transmit.dont_fragment {
                    self.send_unfragmented(&self.outgoing(&transmit), stats);
                } else if !self.send_one_by_one(&self.outgoing(&transmit), transmit.segment_size, wait, stats)
                {
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
        let arrived_at =
            || transmit.endpoint.local.filter(|local| !unusable || *self.unusable.lock() != Some(*local));
        let from = self.source.load().as_ref().map(|source| source.local()).or_else(arrived_at);
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

    /// Tries a refused message in the other possible ways: from another local side, then one
    /// datagram at a time.
    fn send_refused(&self, message: &Outgoing<'_>, error: &io::Error, wait: Wait, stats: &UdpStats) -> bool {
        let errno = error.raw_os_error().unwrap_or(0);
        let is_of_source = matches!(errno, libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL);
        if let (Some(source), true) = (&*self.source.load(), is_of_source) {
            let is_here = own_address::is_own(source.local().address).unwrap_or(false);
            source.set(clock::instant(), is_here);
            if !is_here {
                stats.withheld.add(1);
                return true;
            }
        } else if let (Some(local), true) = (message.from, is_of_source) {
            *self.unusable.lock() = Some(local);
            self.has_unusable.store(true, Ordering::Relaxed);
            stats.source_cleared.add(1);
            tracing::debug!(%error, "local address no longer usable, the kernel chooses");
            let without = Outgoing { from: None, ..*message };
            return self.send_all(&[Some(without)], wait, stats) == 1;
        }
        // Segments above the interface's MTU are EMSGSIZE (EINVAL in older kernels); single
        // datagrams are fragmented.
        if let (Some(size), libc::EIO | libc::EINVAL | libc::EMSGSIZE) = (message.segment_size, errno) {
            stats.segment_fallbacks.add(1);
            if errno == libc::EIO && self.gso.swap(false, Ordering::Relaxed) {
                tracing::info!(%error, "segmented sends are not possible here, sending datagrams one by one");
            }
            return self.send_one_by_one(message, usize::from(size), wait, stats);
        }
        tracing::trace!(%error, "run refused");
        stats.send_errors.add(1);
        true
    }

    /// Sends a run as single datagrams; `false` when it could not begin. Once begun it waits for
    /// room, or the caller would send the beginning again; what finds none is lost and counted.
    fn send_one_by_one(
        &self,
        run: &Outgoing<'_>,
        segment_size: usize,
        mut wait: Wait,
        stats: &UdpStats,
    ) -> bool {
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
        // SAFETY: the first `count` messages point to live addresses, buffers and control data of
        // the lengths they state, which the call only reads.
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

    /// Sends a probe of the path's size with DF set, whatever path MTU was learned (`PROBE`). The
    /// option is the whole socket's: what another thread sends in this moment has DF too, and is
    /// lost like any packet if the path is narrower. A probe that our own link cannot send counts
    /// as lost.
    fn send_unfragmented(&self, message: &Outgoing<'_>, stats: &UdpStats) {
        let _held = self.unfragmented.lock();
        let sent = self
            .set_mtu_discovery((libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE))
            .and_then(|()| self.send_messages(&[Some(Outgoing { ..*message })]));
        match sent {
            Ok(_) => {
                stats.send_calls.add(1);
                stats.sent_bytes_plain.add(message.contents.len());
            }
            Err(error) => tracing::trace!(%error, "probe of the path's size not sent"),
        }
        if let Err(error) = self.allow_fragments() {
            tracing::info!(%error, "datagrams of this socket can no longer be fragmented");
        }
    }
}

const fn is_single(transmit: &Transmit<'_>) -> bool {
    transmit.contents.len() <= transmit.segment_size
}
