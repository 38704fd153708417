//! Flow cells: one TCP endpoint each, on a private smoltcp interface with a single socket.
//!
//! A cell owns no kernel socket and reads no clock. smoltcp always sees IPv4 between two private labels, whatever
//! the real family is; the real headers are built and verified at the cell's device, where segments are super-packets.
//! The sender's congestion window is the cell's own: smoltcp only ever holds as many bytes as it allows.

mod congestion;
mod device;
mod pages;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use tunnel::packet::{Ip, Tcp, tcp_flags};
use tunnel::time::Instant;

use congestion::Congestion;
pub use device::{Egress, SCRATCH};
use device::{LOCAL, Port, REMOTE, Wire};
use pages::Endpoint;

/// Bytes of IPv4 and TCP header without options; the label header has the IPv4 size for both families.
const HEADERS: usize = 40;
/// The smallest segment a peer may impose (Linux's `TCP_MIN_SND_MSS`).
const MIN_SEGMENT: usize = 48;
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

/// The two ends of a flow as the tunnel sees them; both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions were closed and acknowledged.
    Closed,
    /// The other end reset it, or refused it.
    Reset,
}

/// What [`Cell::poll_transmit`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// Everything that may leave now has left.
    All,
    /// The egress filled up; call again when there is room.
    Blocked,
}

/// A TCP endpoint inside the tunnel.
pub struct Cell {
    interface: Interface,
    endpoint: Endpoint,
    wire: Wire,
    congestion: Congestion,
    settings: Settings,
    /// Highest receive-ring byte a peer may fill before it has seen a scaled window; `None` once it has.
    unscaled_limit: Option<u32>,
    reset: bool,
    walked: Walked,
    /// Sequence number after the last byte that arrived, holes not looked at.
    arrived_end: u32,
    progress_at: Instant,
}

/// Bytes of ring pages that an idle cell keeps, and how long it must have been idle.
const KEPT: usize = 256 * 1024;
const IDLE: Duration = Duration::from_secs(1);

/// How far each ring has walked since it was last empty: the pages it has touched.
#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    transmit: usize,
    receive: usize,
    touched: usize,
}

impl Cell {
    /// A cell that answers the SYN which the caller then gives to [`handle_segment`](Self::handle_segment).
    #[must_use]
    pub fn accept(now: Instant, path: Path, syn: (&Tcp, &[u8]), settings: Settings) -> Self {
        let offered = syn.0.maximum_segment_size(syn.1).unwrap_or(DEFAULT_SEGMENT);
        let mut cell = Self::new(now, path, settings, usize::from(offered));
        let endpoint = IpListenEndpoint { addr: Some(IpAddress::Ipv4(LOCAL)), port: path.local.port() };
        // Refused only for port 0, which the table never holds; the cell then looks reset at once.
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
        // A ring that is a multiple of the segment size has no short super-packet where it wraps.
        let transmit = settings.ring.next_multiple_of(segment);
        let mut endpoint = Endpoint::new(settings.ring, transmit);
        let socket = endpoint.socket();
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::None);
        Self {
            interface,
            endpoint,
            wire,
            congestion: Congestion::new(segment),
            settings,
            unscaled_limit: None,
            reset: false,
            walked: Walked::default(),
            arrived_end: 0,
            progress_at: now,
        }
    }

    /// Takes one segment or coalesced run of segments, `packet` from its IP header on; the header is used up.
    ///
    /// Checksums must have been verified. At most one answer leaves at once, the rest by `poll_transmit`.
    pub fn handle_segment(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        headers: (&Ip, &Tcp),
        out: (&mut impl Egress, &mut [u8]),
    ) {
        let (ip, tcp) = headers;
        if !self.admits(tcp, ip.total_len - ip.header_len - tcp.header_len) {
            return;
        }
        let Some(frame) = self.wire.relabel(packet, ip) else { return };
        let before = self.socket().state();
        let queued = self.socket().send_queue();
        let received = self.socket().recv_queue();
        let mut port = Port::new(&mut self.wire, Some(frame), out);
        self.interface.poll_ingress_single(smol(now), &mut port, self.endpoint.sockets());
        self.after_segment(now, before, (queued, received), tcp);
    }

    fn after_segment(&mut self, now: Instant, before: tcp::State, queues: (usize, usize), tcp: &Tcp) {
        let (state, queued, received) = {
            let socket = self.socket();
            (socket.state(), socket.send_queue(), socket.recv_queue())
        };
        let acknowledged = queues.0.saturating_sub(queued);
        if acknowledged > 0 {
            self.congestion.on_ack(now, acknowledged, queues.0);
        }
        if acknowledged > 0 || received > queues.1 || state != before {
            self.progress_at = now;
        }
        if before != state && state == tcp::State::TimeWait {
            self.wire.acknowledged_all = false;
        }
        if received > queues.1 {
            self.walked.receive += received - queues.1;
            self.walked.touch(self.settings.ring);
        }
        if before == tcp::State::SynSent && tcp.flags & tcp_flags::SYN != 0 {
            let segment = self.wire.segment;
            self.unscaled_limit = Some(self.receive_limit(tcp.sequence));
            self.congestion.set_segment(segment);
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
    /// smoltcp reckons with a scaled window from the start, although a SYN's window is not scaled (RFC 7323 §2.2):
    /// until a peer has seen a scaled one, it could otherwise fill the ring past its end.
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

    /// Sends what is due: data, acknowledgements, window updates, retransmissions, resets.
    pub fn poll_transmit(&mut self, now: Instant, out: (&mut impl Egress, &mut [u8])) -> Transmitted {
        if self.socket().state() == tcp::State::TimeWait && self.wire.acknowledged_all {
            return Transmitted::All;
        }
        let (egress, scratch) = out;
        self.wire.begin_burst();
        loop {
            let mut port = Port::new(&mut self.wire, None, (&mut *egress, &mut *scratch));
            let result = self.interface.poll_egress(smol(now), &mut port, self.endpoint.sockets());
            if result == PollResult::None {
                break;
            }
        }
        if let Some(sent) = self.wire.end_burst() {
            let queued = self.socket().send_queue();
            let idle = now.since(self.progress_at);
            self.congestion.on_sent(now, sent, queued, idle);
        }
        if self.wire.blocked { Transmitted::Blocked } else { Transmitted::All }
    }

    /// When [`poll_transmit`](Self::poll_transmit) is next due; `None` when only a packet or data can change anything.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.socket().state() == tcp::State::TimeWait {
            return None;
        }
        let at = self.interface.poll_at(smol(now), self.endpoint.sockets())?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(Instant::from_boot(Duration::from_micros(micros)).max(now))
    }

    /// Lets `read` write data for the other end into the transmit ring, as much as the congestion window allows.
    ///
    /// `read` gets a buffer that is not empty and says how much of it it filled. `None`, without a call, when there
    /// is no room now.
    pub fn fill<R>(&mut self, read: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let window = self.congestion.window();
        let socket = self.endpoint.socket();
        let queued = socket.send_queue();
        let room = window.saturating_sub(queued);
        if room == 0 || !socket.can_send() {
            return None;
        }
        let mut filled = 0;
        let result = socket
            .send(|ring| {
                let room = room.min(ring.len());
                let (len, result) = read(ring.get_mut(..room).unwrap_or_default());
                filled = len.min(room);
                (filled, result)
            })
            .ok();
        if queued == 0 {
            self.walked.transmit = 0;
        }
        self.walked.transmit += filled;
        self.walked.touch(self.settings.ring);
        result
    }

    /// Lets `write` take data that arrived out of the receive ring; it says how much it took.
    ///
    /// `None`, without a call, when there is no data.
    pub fn drain<R>(&mut self, write: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let socket = self.endpoint.socket();
        if !socket.can_recv() {
            return None;
        }
        let result = socket
            .recv(|data| {
                let (taken, result) = write(data);
                (taken.min(data.len()), result)
            })
            .ok();
        if self.socket().recv_queue() == 0 {
            self.walked.receive = 0;
        }
        result
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

    /// Bytes that wait to be sent or acknowledged.
    pub fn unacknowledged(&mut self) -> usize {
        self.socket().send_queue()
    }

    /// When data was last acknowledged or received.
    #[must_use]
    pub fn progress_at(&self) -> Instant {
        self.progress_at
    }

    /// Sends a FIN after what is queued; the other direction stays open.
    pub fn close(&mut self) {
        self.socket().close();
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
        let socket = self.socket();
        let over = match socket.state() {
            tcp::State::Closed => socket.remote_endpoint().is_none(),
            tcp::State::TimeWait => true,
            tcp::State::Listen
            | tcp::State::SynSent
            | tcp::State::SynReceived
            | tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait
            | tcp::State::Closing
            | tcp::State::LastAck => false,
        };
        over.then_some(Ending::Closed)
    }

    /// The next sequence number and the acknowledgement last sent: what a late segment is answered with.
    #[must_use]
    pub fn last_words(&self) -> (u32, u32) {
        (self.wire.next_sequence, self.wire.acknowledgement)
    }

    /// A router on the way cannot carry packets above `mtu` bytes: sends smaller segments from now on.
    ///
    /// Ignored when it is not smaller, or below what any link must carry (RFC 8201 §4: 1280; IPv4: 576).
    pub fn handle_too_big(&mut self, now: Instant, mtu: u16) {
        let floor = if self.wire.path.local.is_ipv4() { 576 } else { 1280 };
        let label_mtu = usize::from(mtu.max(floor)) - self.wire.path.extra_header();
        if label_mtu >= self.wire.label_mtu {
            return;
        }
        self.wire.shrink(label_mtu);
        self.congestion.set_segment(self.wire.segment);
        self.interface = private_interface(now, &mut self.wire, self.settings.seed.rotate_left(17));
    }

    /// When the cell, idle as it is, can give its ring pages back; `None` when it has few, or holds data.
    pub fn release_at(&mut self) -> Option<Instant> {
        let socket = self.endpoint.socket();
        let is_empty = socket.send_queue() == 0 && socket.recv_queue() == 0;
        // A hole in what arrived means that data lies behind it in the receive ring.
        let is_whole = self.arrived_end == self.wire.acknowledgement;
        (self.walked.touched > KEPT && is_empty && is_whole).then(|| self.progress_at.after(IDLE))
    }

    /// Gives the ring pages back when it is time.
    pub fn release_idle(&mut self, now: Instant) {
        if self.release_at().is_some_and(|at| at <= now) {
            self.endpoint.release();
            self.walked = Walked::default();
        }
    }

    /// Bytes of ring pages the cell has used so far.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.walked.touched as u64
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.endpoint.socket()
    }
}

impl Walked {
    fn touch(&mut self, ring: usize) {
        let now = self.transmit.min(ring) + self.receive.min(ring);
        self.touched = self.touched.max(now);
    }
}

impl Path {
    /// Bytes by which the real IP header is longer than the label's.
    const fn extra_header(&self) -> usize {
        if self.local.is_ipv4() { 0 } else { 20 }
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

/// Whether sequence number `a` lies after `b` (RFC 9293 §3.4).
const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
