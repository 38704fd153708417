//! Flow cells: one TCP endpoint each, on a private smoltcp interface with a single socket.
//!
//! A cell owns no kernel socket and reads no clock. smoltcp always sees IPv4 between two private
//! addresses (labels), whatever the real family is; the real headers are built and verified at the
//! cell's device, where segments are super-packets. smoltcp does the handshake, the receiving
//! direction, resets and TIME-WAIT; data is sent by the cell's own [sender].

mod device;
mod pages;
mod path;
mod ring;
mod sender;
mod sending;
#[cfg(test)]
mod tests;

use std::time::Duration;

use smoltcp::iface::{Config, Interface};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use tunnel::packet::{Ip, Tcp, tcp_flags};
use tunnel::time::Instant;

pub use device::{Egress, SCRATCH};
use device::{LOCAL, Port, REMOTE, Wire};
use pages::Endpoint;
pub use path::Path;
use path::{HEADERS, MIN_SEGMENT, after};
pub use sender::Tally;
use sender::{Offer, Sender};

/// What a SYN without the option means (RFC 9293 §3.7.1).
const DEFAULT_SEGMENT: u16 = 536;

/// What a new cell is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Inner MTU of the tunnel in bytes.
    pub mtu: u16,
    /// Bytes of each ring, receive and transmit; their pages are only taken once they are used.
    pub ring: usize,
    /// Randomness for the initial sequence number, from the operating system.
    pub seed: u64,
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions were closed and acknowledged.
    Closed,
    /// The other end reset it, or refused it.
    Reset,
}

/// How [`Cell::poll_transmit`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// Everything that may leave now has left.
    All,
    /// The egress filled up; call again when there is room.
    Blocked,
}

/// A TCP endpoint inside the tunnel.
///
/// It has more than 25 methods because it is one: everything that a segment, its owner or the clock
/// may do to a flow passes here, and is given to smoltcp, to the [sender] or to both. What is
/// received is in this file, what is sent in [sending].
pub struct Cell {
    interface: Interface,
    endpoint: Endpoint,
    wire: Wire,
    /// From the end of the handshake on.
    sender: Option<Sender>,
    /// What the other end's SYN offered.
    offer: Offer,
    /// When our SYN left first.
    syn_at: Option<Instant>,
    settings: Settings,
    /// Highest receive-ring byte a peer may fill before it has seen a scaled window; `None` once it
    /// has.
    unscaled_limit: Option<u32>,
    reset: bool,
    /// Bytes that went through the receive ring since its pages were last given back; it wraps at
    /// its end only.
    walked: usize,
    trimmed_at: Instant,
    /// Sequence number after the last byte that arrived, holes included.
    arrived_end: u32,
    progress_at: Instant,
}

/// Bytes of ring pages that an idle cell keeps, so that thousands of them fit into a small machine.
const KEPT: u64 = 8 * 1024;
/// How long it must have been idle, and how often one that is not checks whether its transmit ring
/// is larger than needed.
const IDLE: Duration = Duration::from_secs(1);
/// Bytes of a page, on most systems; where pages are larger a cell takes more than it reports.
const PAGE: u64 = 4_096;

impl Cell {
    /// A cell that answers the SYN which the caller then gives to
    /// [`handle_segment`](Self::handle_segment).
    #[must_use]
    pub fn accept(now: Instant, path: Path, syn: (&Tcp, &[u8]), settings: Settings) -> Self {
        let offered = syn.0.maximum_segment_size(syn.1).unwrap_or(DEFAULT_SEGMENT);
        let mut cell = Self::new(now, path, settings, usize::from(offered));
        let endpoint = IpListenEndpoint { addr: Some(IpAddress::Ipv4(LOCAL)), port: path.local.port() };
        // Refused only for port 0, which the table never holds; the cell then appears reset at
        // once.
        cell.reset = cell.socket().listen(endpoint).is_err();
        cell.unscaled_limit = Some(cell.receive_limit(syn.0.sequence));
        cell
    }

    /// A cell that opens the flow itself; its SYN leaves by [`poll_transmit`](Self::poll_transmit).
    #[must_use]
    pub fn connect(now: Instant, path: Path, settings: Settings) -> Self {
        let mut cell = Self::new(now, path, settings, usize::from(u16::MAX));
        let socket = cell.endpoint.socket();
        let remote = (IpAddress::Ipv4(REMOTE), path.remote.port());
        cell.reset = socket
            .connect(cell.interface.context(), remote, (IpAddress::Ipv4(LOCAL), path.local.port()))
            .is_err();
        cell
    }

    fn new(now: Instant, path: Path, settings: Settings, offered: usize) -> Self {
        let label_mtu = usize::from(settings.mtu) - path.extra_header();
        let segment = (label_mtu - HEADERS).min(offered).max(MIN_SEGMENT);
        let mut wire = Wire::new(path, label_mtu, segment);
        let interface = private_interface(now, &mut wire, settings.seed);
        let mut endpoint = Endpoint::new(settings.ring, settings.ring);
        let socket = endpoint.socket();
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::None);
        Self {
            interface,
            endpoint,
            wire,
            sender: None,
            offer: Offer::default(),
            syn_at: None,
            settings,
            unscaled_limit: None,
            reset: false,
            walked: 0,
            trimmed_at: now,
            arrived_end: 0,
            progress_at: now,
        }
    }

    /// Takes one segment or coalesced run of segments, `packet` from its IP header on; the header
    /// is used up.
    ///
    /// Checksums must have been verified. At most one reply leaves at once, the rest by
    /// `poll_transmit`.
    pub fn handle_segment(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        headers: (&Ip, &Tcp),
        out: (&mut impl Egress, &mut [u8]),
    ) {
        let (ip, tcp) = headers;
        let payload = ip.total_len - ip.header_len - tcp.header_len;
        if !self.admits(tcp, payload) {
            return;
        }
        let ack = sending::read_ack(tcp, ip.payload(packet), payload);
        self.read_offer(tcp, ip.payload(packet));
        let acknowledged = self.handle_ack(now, tcp, &ack);
        self.wire.sequence = self.sender.as_ref().map(Sender::sequence);
        let Some(frame) = self.wire.relabel(packet, ip, acknowledged) else { return };
        let before = self.socket().state();
        let received = self.socket().recv_queue();
        let mut port = Port::new(&mut self.wire, Some(frame), out);
        self.interface.poll_ingress_single(smol(now), &mut port, self.endpoint.sockets());
        self.note_syn(now);
        self.after_segment(now, before, received, tcp);
        if self.sender.is_none() && self.is_established() {
            self.start_sender(now, tcp, &ack);
        }
    }

    fn after_segment(&mut self, now: Instant, before: tcp::State, had: usize, tcp: &Tcp) {
        let (state, received) = (self.socket().state(), self.socket().recv_queue());
        if received > had || state != before {
            self.progress_at = now;
        }
        if before != state && state == tcp::State::TimeWait {
            self.wire.acknowledged_all = false;
        }
        if received > had {
            self.walked = (self.walked + (received - had)).min(self.settings.ring);
        }
        if before == tcp::State::SynSent && tcp.flags & tcp_flags::SYN != 0 {
            self.unscaled_limit = Some(self.receive_limit(tcp.sequence));
        }
        let ended = matches!(state, tcp::State::Closed | tcp::State::Listen);
        let orderly = matches!(
            before,
            tcp::State::LastAck | tcp::State::TimeWait | tcp::State::Closing | tcp::State::Closed
        );
        let opened = before == tcp::State::Listen && state != tcp::State::Listen;
        self.reset |= ended && !orderly && !opened;
    }

    /// Whether a segment ends inside what was offered.
    ///
    /// smoltcp assumes a scaled window from the start, although a SYN's window is not scaled (RFC
    /// 7323 §2.2): until a peer has seen a scaled one, it could otherwise fill the ring past its
    /// end.
    fn admits(&mut self, tcp: &Tcp, payload: usize) -> bool {
        if self.wire.sent_scaled_window {
            self.unscaled_limit = None;
        }
        let end = tcp.sequence.wrapping_add(u32::try_from(payload).unwrap_or(u32::MAX));
        let controls = u32::from(tcp.flags & (tcp_flags::SYN | tcp_flags::FIN) != 0);
        let is_inside = self.unscaled_limit.is_none_or(|limit| !after(end, limit));
        if is_inside
            && (tcp.flags & tcp_flags::SYN != 0 || after(end.wrapping_add(controls), self.arrived_end))
        {
            self.arrived_end = end.wrapping_add(controls);
        }
        is_inside
    }

    fn receive_limit(&self, first: u32) -> u32 {
        first.wrapping_add(1).wrapping_add(u32::try_from(self.settings.ring).unwrap_or(u32::MAX))
    }

    /// Lets `write` take data that arrived out of the receive ring; it returns how much it took.
    ///
    /// `None`, without a call, when there is no data.
    pub fn drain<R>(&mut self, write: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let socket = self.endpoint.socket();
        if !socket.can_recv() {
            return None;
        }
        socket
            .recv(|data| {
                let (taken, result) = write(data);
                (taken.min(data.len()), result)
            })
            .ok()
    }

    /// Whether the three-way handshake is over.
    pub fn is_established(&mut self) -> bool {
        !matches!(self.socket().state(), tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived)
    }

    /// Whether the other end has closed and everything it sent has been drained.
    pub fn is_drained(&mut self) -> bool {
        let socket = self.socket();
        let closed = matches!(
            socket.state(),
            tcp::State::CloseWait
                | tcp::State::LastAck
                | tcp::State::Closing
                | tcp::State::TimeWait
                | tcp::State::Closed
        );
        closed && socket.recv_queue() == 0
    }

    /// When data was last acknowledged or received.
    #[must_use]
    pub fn progress_at(&self) -> Instant {
        self.progress_at
    }

    /// Ends the flow at once, with a reset that leaves by [`poll_transmit`](Self::poll_transmit).
    pub fn abort(&mut self) {
        self.socket().abort();
    }

    /// How the cell ended, once it has; a reset of our own counts once it has left.
    pub fn ending(&mut self) -> Option<Ending> {
        if self.reset {
            return Some(Ending::Reset);
        }
        let is_closed = self.sender.as_ref().is_some_and(Sender::is_closed);
        let socket = self.socket();
        let over = match socket.state() {
            tcp::State::Closed => socket.remote_endpoint().is_none(),
            // The other end acknowledged our FIN, even if smoltcp refused the segment that did so.
            tcp::State::Closing | tcp::State::LastAck => is_closed,
            tcp::State::TimeWait => true,
            tcp::State::Listen
            | tcp::State::SynSent
            | tcp::State::SynReceived
            | tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait => false,
        };
        over.then_some(Ending::Closed)
    }

    /// The next sequence number and the acknowledgement last sent: what a late segment is answered
    /// with.
    #[must_use]
    pub fn final_numbers(&self) -> (u32, u32) {
        (self.wire.next_sequence, self.wire.acknowledgement)
    }

    /// When the cell, idle as it is, can give its ring pages back; `None` when it has few, or holds
    /// data.
    pub fn release_at(&mut self) -> Option<Instant> {
        let is_empty = self.unacknowledged() == 0 && self.socket().recv_queue() == 0;
        // A hole in what arrived means that there is data behind it in the receive ring.
        let is_whole = self.arrived_end == self.wire.acknowledgement;
        (self.touched() > KEPT && is_empty && is_whole).then(|| self.progress_at.after(IDLE))
    }

    /// Gives ring pages back that are not needed any more, when it is time.
    pub fn release_idle(&mut self, now: Instant) {
        if self.release_at().is_some_and(|at| at <= now) {
            self.endpoint.release();
            self.walked = 0;
        } else if now.since(self.trimmed_at) >= IDLE {
            self.trimmed_at = now;
            self.endpoint.trim();
        }
    }

    /// What the sender counted since the last call.
    pub fn take_tally(&mut self) -> Tally {
        self.sender.as_mut().map(Sender::take_tally).unwrap_or_default()
    }

    /// Bytes of ring pages the cell has in use.
    pub fn touched(&mut self) -> u64 {
        let pages = |bytes: usize| (bytes as u64).next_multiple_of(PAGE);
        pages(self.walked) + pages(self.endpoint.transmit().touched())
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.endpoint.socket()
    }
}

fn private_interface(now: Instant, wire: &mut Wire, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Port::idle(wire), smol(now));
    interface.update_ip_addrs(|addresses| {
        // The list is empty and holds two.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(LOCAL), 24));
    });
    interface
}

fn smol(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.since_boot().as_micros()).unwrap_or(i64::MAX))
}
