//! The sending half of a cell: between its owner, its [sender](super::sender) and the wire.

use std::time::Duration;

use smoltcp::iface::PollResult;
use smoltcp::socket::tcp;
use tunnel::packet::{Tcp, tcp_flags};
use tunnel::time::Instant;

use super::device::{Egress, Port};
use super::sender::{Ack, AckResult, Blocks, Offer, Sender};
use super::{Cell, Transmitted, smol};

/// An IP packet of so many bytes is carried by every path (RFC 8200 §5).
const EVERY_PATH: u16 = 1280;

impl Cell {
    /// Sends what is due: data, acknowledgements, window updates, retransmissions, resets.
    pub fn poll_transmit(&mut self, now: Instant, out: (&mut impl Egress, &mut [u8])) -> Transmitted {
        if self.socket().state() == tcp::State::TimeWait && self.wire.acknowledged_all {
            return Transmitted::All;
        }
        let (egress, scratch) = out;
        self.wire.blocked = false;
        self.wire.sequence = self.sender.as_ref().map(Sender::sequence);
        loop {
            let mut port = Port::new(&mut self.wire, None, (&mut *egress, &mut *scratch));
            let result = self.interface.poll_egress(smol(now), &mut port, self.endpoint.sockets());
            if result == PollResult::None {
                break;
            }
        }
        self.note_syn(now);
        self.send_data(now, (egress, scratch));
        if self.wire.blocked { Transmitted::Blocked } else { Transmitted::All }
    }

    fn send_data(&mut self, now: Instant, (egress, scratch): (&mut impl Egress, &mut [u8])) {
        if !self.may_send() || self.wire.blocked {
            return;
        }
        let unscaled = self.unscaled_window();
        let Some(sender) = &mut self.sender else { return };
        sender.handle_timeout(now);
        if sender.take_black_hole() {
            self.handle_too_big(EVERY_PATH);
        }
        let Some(sender) = &mut self.sender else { return };
        loop {
            if !egress.is_ready() {
                self.wire.blocked = true;
                return;
            }
            let Some(segment) = sender.poll_segment(now) else { return };
            let ring = self.endpoint.transmit();
            self.wire.send(&segment, ring, unscaled, (&mut *egress, &mut *scratch));
        }
    }

    /// The window that a segment announces before smoltcp has announced a scaled one: no more than
    /// in the SYN.
    fn unscaled_window(&self) -> u16 {
        // As smoltcp shifts: by what a ring takes beyond 16 bits, unless the other end shifts
        // nothing.
        let bits = usize::BITS - self.settings.ring.leading_zeros();
        let shift = if self.offer.scale.is_some() { bits.saturating_sub(16) } else { 0 };
        u16::try_from(self.settings.ring.min(usize::from(u16::MAX)) >> shift).unwrap_or(u16::MAX)
    }

    /// When [`poll_transmit`](Self::poll_transmit) is next due; `None` when only a packet or data
    /// can change anything.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.socket().state() == tcp::State::TimeWait {
            return None;
        }
        let own = if self.may_send() { self.sender.as_ref().and_then(Sender::poll_timeout) } else { None };
        let at = self.interface.poll_at(smol(now), self.endpoint.sockets());
        let smoltcp = at.map(|at| {
            Instant::from_boot(Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
        });
        own.into_iter().chain(smoltcp).min().map(|at| at.max(now))
    }

    /// Lets `read` write data for the other end into the transmit ring, about as much as the
    /// congestion window allows.
    ///
    /// `read` gets a buffer that is not empty and returns how much of it it filled. `None`, without
    /// a call, when there is no room now.
    pub fn fill<R>(&mut self, read: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        if !self.may_send() {
            return None;
        }
        let sender = self.sender.as_mut()?;
        let ring = self.endpoint.transmit();
        let room = ring.room(sender.room());
        if room.is_empty() {
            return None;
        }
        let len = room.len();
        let (filled, result) = read(room);
        let filled = filled.min(len);
        ring.commit(filled);
        sender.written(filled);
        Some(result)
    }

    /// Whether [`fill`](Self::fill) would have room now.
    pub fn has_room(&mut self) -> bool {
        self.may_send()
            && self.sender.as_ref().is_some_and(|sender| sender.room() > 0)
            && self.endpoint.transmit().has_room()
    }

    /// Bytes that wait to be sent or acknowledged.
    pub fn unacknowledged(&mut self) -> usize {
        if self.may_send() { self.sender.as_ref().map_or(0, Sender::unacknowledged) } else { 0 }
    }

    /// Sends a FIN after what is written; the other direction stays open.
    pub fn close(&mut self) {
        match &mut self.sender {
            Some(sender) => sender.close(),
            None => self.socket().close(),
        }
    }

    /// A router on the path cannot carry packets above `mtu` bytes: sends smaller segments from now
    /// on.
    ///
    /// Ignored when it is not smaller, or below what any link must carry (RFC 8201 §4: 1280; IPv4:
    /// 576).
    pub fn handle_too_big(&mut self, mtu: u16) {
        let floor = if self.wire.path.local.is_ipv4() { 576 } else { 1280 };
        let label_mtu = usize::from(mtu.max(floor)) - self.wire.path.extra_header();
        if label_mtu >= self.wire.label_mtu {
            return;
        }
        self.wire.shrink(label_mtu);
        if let Some(sender) = &mut self.sender {
            sender.shrink(self.wire.sizes());
        }
    }

    /// The path is back: what waits for a doubled timeout is due now. `true` when something is.
    pub fn resume(&mut self, now: Instant) -> bool {
        self.may_send() && self.sender.as_mut().is_some_and(|sender| sender.resume(now))
    }

    /// Whether a segment that begins at `sequence` was sent and is not acknowledged: nothing else
    /// is on the path (RFC 5927 §4.1).
    pub fn is_unanswered(&self, sequence: u32) -> bool {
        match &self.sender {
            Some(sender) => sender.is_outstanding(sequence),
            // Our SYN, the one thing sent so far, is the number before the next.
            None => self.wire.syns > 0 && sequence == self.wire.next_sequence.wrapping_sub(1),
        }
    }

    /// Whether there is an open connection to send on: not before the handshake's end, not after a
    /// reset.
    fn may_send(&mut self) -> bool {
        !matches!(
            self.socket().state(),
            tcp::State::Closed
                | tcp::State::Listen
                | tcp::State::SynSent
                | tcp::State::SynReceived
                | tcp::State::TimeWait
        )
    }

    /// Remembers what a SYN offers.
    pub(super) fn read_offer(&mut self, tcp: &Tcp, segment: &[u8]) {
        let state = self.socket().state();
        if tcp.flags & tcp_flags::SYN != 0 && matches!(state, tcp::State::Listen | tcp::State::SynSent) {
            self.offer = Offer::parse(segment.get(20..tcp.header_len).unwrap_or_default());
        }
    }

    /// Remembers when our first SYN left: its acknowledgement gives the first round trip.
    pub(super) fn note_syn(&mut self, now: Instant) {
        if self.wire.syns > 0 && self.syn_at.is_none() {
            self.syn_at = Some(now);
        }
    }

    /// The handshake is over: the sender starts behind our SYN.
    pub(super) fn start_sender(&mut self, now: Instant, tcp: &Tcp, ack: &Ack) {
        let is_syn = tcp.flags & tcp_flags::SYN != 0;
        // A SYN sent twice does not show the round trip (Karn).
        let round_trip = self.syn_at.filter(|_| self.wire.syns == 1).map(|at| now.since(at));
        let (first, sizes) = (self.wire.next_sequence, self.wire.sizes());
        self.sender = Some(Sender::new(now, first, sizes, self.offer, ack, is_syn, round_trip));
    }

    /// Gives an acknowledgement to the sender; returns the number that smoltcp is to see instead.
    pub(super) fn handle_ack(&mut self, now: Instant, tcp: &Tcp, ack: &Ack) -> Option<u32> {
        let flags = tcp.flags & (tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK);
        let is_near = self.is_near(tcp.sequence);
        let sender = self.sender.as_mut().filter(|_| flags == tcp_flags::ACK)?;
        if is_near {
            match sender.handle_ack(now, ack) {
                AckResult::NeverSent => return None,
                AckResult::Taken(0) => {}
                AckResult::Taken(bytes) => {
                    self.endpoint.transmit().release(bytes);
                    self.progress_at = now;
                }
            }
        }
        let (is_closed, base) = (sender.is_closed(), sender.first());
        if !is_closed {
            return Some(base);
        }
        if self.socket().may_send() {
            self.socket().close();
            self.progress_at = now;
        }
        Some(base.wrapping_add(1))
    }

    /// Whether a segment begins within a window of what we expect: an older or a forged one is
    /// ignored (RFC 5961 §5).
    fn is_near(&self, sequence: u32) -> bool {
        let distance = sequence.wrapping_sub(self.wire.acknowledgement) as i32;
        distance.unsigned_abs() as usize <= self.settings.ring.max(usize::from(u16::MAX))
    }
}

/// The acknowledgement of a segment with so many bytes of payload.
pub(super) fn read_ack(tcp: &Tcp, segment: &[u8], payload: usize) -> Ack {
    Ack {
        number: tcp.acknowledgement,
        window: tcp.window,
        sequence: tcp.sequence,
        has_data: payload > 0 || tcp.flags & tcp_flags::FIN != 0,
        blocks: Blocks::parse(segment.get(20..tcp.header_len).unwrap_or_default()),
    }
}
