//! The device of a cell: real headers outside, labels inside, super-packets both ways.
//!
//! smoltcp knows nothing of what the cell's own sender sends: its segments without data are given
//! the sender's sequence number on their way out, and what arrives acknowledges no more than its
//! handshake to it.

use std::net::IpAddr;

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::Ipv4Address;
use tunnel::offload::{Offload, SuperPacket};
use tunnel::packet::{Ip, Sum, Tcp, protocol, tcp_flags};

use super::path::{HEADERS, MIN_SEGMENT, Path, after};
use super::ring::Ring;
use super::sender::{Segment, Sizes};

/// What smoltcp takes for our address in every cell.
pub(super) const LOCAL: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
/// What smoltcp takes for the other end's.
pub(super) const REMOTE: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);

const LABEL_HEADER: usize = 20;
/// Bytes in front of a label packet that an IPv6 header needs more than an IPv4 one.
const HEADROOM: usize = 20;
/// Bytes of scratch space that [`Egress`] users bring: headroom and one packet.
pub const SCRATCH: usize = HEADROOM + 65_535;
/// Most bytes of inner packets that one segmented UDP send can carry, tunnel overhead taken off.
const SUPER_PACKET: usize = 62_000;
const HOP_LIMIT: u8 = 64;

/// Where a cell's packets go: into the tunnel.
pub trait Egress {
    /// Whether a super-packet of any size still fits.
    fn is_ready(&self) -> bool;
    /// Takes a packet; the bytes are used up.
    fn send(&mut self, packet: SuperPacket<'_>);
}

/// The state of the flow's headers.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) path: Path,
    /// MTU as smoltcp sees it, with the label header.
    pub(super) label_mtu: usize,
    /// Payload bytes of a full segment.
    pub(super) segment: usize,
    /// Sequence number after the last byte sent, highest so far.
    pub(super) next_sequence: u32,
    /// Acknowledgement number last sent.
    pub(super) acknowledgement: u32,
    /// Window last sent, scaled; that of a SYN is not.
    window: Option<u16>,
    /// What the segments of smoltcp get as sequence number, once the sender runs.
    pub(super) sequence: Option<u32>,
    /// SYNs sent.
    pub(super) syns: u32,
    pub(super) sent_scaled_window: bool,
    /// In TIME-WAIT: the last acknowledgement has left.
    pub(super) acknowledged_all: bool,
    /// The egress had no room for something.
    pub(super) blocked: bool,
    started: bool,
    id: u16,
}

impl Wire {
    pub(super) fn new(path: Path, label_mtu: usize, segment: usize) -> Self {
        Self {
            path,
            label_mtu,
            segment,
            next_sequence: 0,
            acknowledgement: 0,
            window: None,
            sequence: None,
            syns: 0,
            sent_scaled_window: false,
            acknowledged_all: false,
            blocked: false,
            started: false,
            id: 0,
        }
    }

    pub(super) fn shrink(&mut self, label_mtu: usize) {
        self.label_mtu = label_mtu;
        self.segment = self.segment.min(label_mtu - HEADERS).max(MIN_SEGMENT);
    }

    /// How long a segment and a super-packet may be.
    pub(super) fn sizes(&self) -> Sizes {
        let segments = (SUPER_PACKET / (self.segment + HEADERS + HEADROOM + 32)).max(1);
        Sizes { segment: self.segment, largest: segments * self.segment }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.label_mtu;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }

    /// Puts the label header directly before the TCP header and gives the packet that smoltcp shall
    /// see.
    ///
    /// A SYN's segment size option is remembered on the way; `acknowledgement` takes the place of
    /// the number that arrived.
    pub(super) fn relabel<'p>(
        &mut self,
        packet: &'p mut [u8],
        ip: &Ip,
        acknowledgement: Option<u32>,
    ) -> Option<&'p mut [u8]> {
        let start = ip.header_len.checked_sub(LABEL_HEADER)?;
        let frame = packet.get_mut(start..ip.total_len)?;
        let length = u16::try_from(frame.len()).ok()?.to_be_bytes();
        let (header, segment) = frame.split_first_chunk_mut::<LABEL_HEADER>()?;
        *header = label_header(length);
        let tcp = Tcp::parse(segment).ok()?;
        if tcp.flags & tcp_flags::SYN != 0
            && let Some(offered) = tcp.maximum_segment_size(segment)
        {
            self.segment = self.segment.min(usize::from(offered)).max(MIN_SEGMENT);
        }
        if let Some(number) = acknowledgement {
            put(segment, 8, &number.to_be_bytes());
        }
        Some(frame)
    }

    /// Turns smoltcp's label packet of `len` bytes in the scratch space into a real one and sends
    /// it.
    fn finish<E: Egress>(&mut self, scratch: &mut [u8], len: usize, egress: &mut E) {
        let Some(segment) = scratch.get_mut(HEADROOM + LABEL_HEADER..HEADROOM + len) else { return };
        let Ok(tcp) = Tcp::parse(segment) else { return };
        let is_syn = tcp.flags & tcp_flags::SYN != 0;
        if let Some(sequence) = self.sequence.filter(|_| !is_syn) {
            put(segment, 4, &sequence.to_be_bytes());
            // Our FIN was acknowledged before smoltcp was closed and could send one.
            put(segment, 13, &[tcp.flags & !tcp_flags::FIN]);
        }
        self.syns += u32::from(is_syn);
        if !is_syn {
            self.sent_scaled_window = true;
            self.window = Some(tcp.window);
        }
        if tcp.flags & tcp_flags::ACK != 0 {
            self.acknowledgement = tcp.acknowledgement;
        }
        self.acknowledged_all = true;
        if self.sequence.is_none() {
            self.note_end(tcp.sequence.wrapping_add(u32::from(is_syn)));
        }
        self.dispatch(scratch, HEADROOM + len, None, egress);
    }

    /// Sends a segment of the cell's own sender, its bytes copied from the ring; `unscaled` is the
    /// window to announce while smoltcp has announced none.
    pub(super) fn send<E: Egress>(
        &mut self,
        segment: &Segment,
        ring: &Ring,
        unscaled: u16,
        (egress, scratch): (&mut E, &mut [u8]),
    ) {
        let start = HEADROOM + HEADERS;
        let end = start + segment.len;
        if !scratch.get_mut(start..end).is_some_and(|payload| ring.copy(segment.at, payload)) {
            return;
        }
        let fin = if segment.fin { tcp_flags::FIN } else { 0 };
        let push = if segment.push && segment.len > 0 { tcp_flags::PSH } else { 0 };
        let mut header = [0; 20];
        put(&mut header, 0, &self.path.local.port().to_be_bytes());
        put(&mut header, 2, &self.path.remote.port().to_be_bytes());
        put(&mut header, 4, &segment.sequence.to_be_bytes());
        put(&mut header, 8, &self.acknowledgement.to_be_bytes());
        put(&mut header, 12, &[5 << 4, tcp_flags::ACK | fin | push]);
        put(&mut header, 14, &self.window.unwrap_or(unscaled).to_be_bytes());
        put(scratch, HEADROOM + LABEL_HEADER, &header);
        let length = u32::try_from(segment.len).unwrap_or(u32::MAX).wrapping_add(u32::from(segment.fin));
        self.note_end(segment.sequence.wrapping_add(length));
        let size = u16::try_from(self.segment).ok().filter(|_| segment.len > self.segment);
        self.dispatch(scratch, end, size, egress);
    }

    /// Puts checksum and real IP header on the packet that ends at `end` in the scratch space, and
    /// sends it.
    fn dispatch<E: Egress>(&mut self, scratch: &mut [u8], end: usize, size: Option<u16>, egress: &mut E) {
        let Some(segment) = scratch.get_mut(HEADROOM + LABEL_HEADER..end) else { return };
        if size.is_none() {
            put(segment, 16, &[0, 0]);
            let (src, dst) = (self.path.local.ip(), self.path.remote.ip());
            let sum = Sum::new().pseudo_header(src, dst, protocol::TCP, segment.len()).bytes(segment);
            put(segment, 16, &sum.checksum().to_be_bytes());
        }
        let transport = segment.len();
        let (start, offload) = match (self.path.local.ip(), self.path.remote.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = self.v4_header(src.octets(), dst.octets(), transport);
                put(scratch, HEADROOM, &header);
                (HEADROOM, size.map(|segment_size| Offload::Tcp4 { segment_size }))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = v6_header(src.octets(), dst.octets(), transport);
                put(scratch, 0, &header);
                (0, size.map(|segment_size| Offload::Tcp6 { segment_size }))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return,
        };
        let Some(bytes) = scratch.get_mut(start..end) else { return };
        egress.send(SuperPacket { bytes, offload: offload.unwrap_or_default() });
    }

    /// Remembers how far was sent.
    fn note_end(&mut self, end: u32) {
        if !self.started || after(end, self.next_sequence) {
            self.next_sequence = end;
            self.started = true;
        }
    }

    fn v4_header(&mut self, src: [u8; 4], dst: [u8; 4], transport: usize) -> [u8; 20] {
        self.id = self.id.wrapping_add(1);
        let mut header = label_header(clamp_length(transport + 20));
        [header[4], header[5]] = self.id.to_be_bytes();
        [header[12], header[13], header[14], header[15]] = src;
        [header[16], header[17], header[18], header[19]] = dst;
        let sum = Sum::new().bytes(&header).checksum();
        [header[10], header[11]] = sum.to_be_bytes();
        header
    }
}

fn label_header(length: [u8; 2]) -> [u8; LABEL_HEADER] {
    let ([a, b, c, d], [e, f, g, h]) = (REMOTE.octets(), LOCAL.octets());
    let [high, low] = length;
    [0x45, 0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, protocol::TCP, 0, 0, a, b, c, d, e, f, g, h]
}

fn v6_header(src: [u8; 16], dst: [u8; 16], transport: usize) -> [u8; 40] {
    let mut header = [0; 40];
    let [high, low] = clamp_length(transport);
    put(&mut header, 0, &[0x60, 0, 0, 0, high, low, protocol::TCP, HOP_LIMIT]);
    put(&mut header, 8, &src);
    put(&mut header, 24, &dst);
    header
}

fn clamp_length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}

/// The device for the length of one poll.
pub(super) struct Port<'p, E> {
    wire: &'p mut Wire,
    ingress: Option<&'p mut [u8]>,
    out: Option<(&'p mut E, &'p mut [u8])>,
}

/// The egress of a device that only reports its capabilities.
#[derive(Debug)]
pub(super) enum Nowhere {}

impl Egress for Nowhere {
    fn is_ready(&self) -> bool {
        match *self {}
    }

    fn send(&mut self, _: SuperPacket<'_>) {
        match *self {}
    }
}

impl<'p> Port<'p, Nowhere> {
    pub(super) fn idle(wire: &'p mut Wire) -> Self {
        Self { wire, ingress: None, out: None }
    }
}

impl<'p, E: Egress> Port<'p, E> {
    pub(super) fn new(
        wire: &'p mut Wire,
        ingress: Option<&'p mut [u8]>,
        out: (&'p mut E, &'p mut [u8]),
    ) -> Self {
        Self { wire, ingress, out: Some(out) }
    }

    fn token(&mut self) -> Option<Sending<'_, E>> {
        let (egress, scratch) = self.out.as_mut()?;
        Some(Sending { wire: self.wire, egress, scratch })
    }
}

impl<E: Egress> Device for Port<'_, E> {
    type RxToken<'a>
        = Arrived<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a, E>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrived<'_>, Sending<'_, E>)> {
        let frame = self.ingress.take()?;
        let token = self.token()?;
        Some((Arrived(frame), token))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_, E>> {
        let ready = self.out.as_ref().is_some_and(|(egress, _)| egress.is_ready());
        if !ready {
            self.wire.blocked = true;
            return None;
        }
        self.token()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.wire.capabilities()
    }
}

/// A packet on its way to smoltcp.
pub(super) struct Arrived<'a>(&'a mut [u8]);

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a packet on its way out.
pub(super) struct Sending<'a, E> {
    wire: &'a mut Wire,
    egress: &'a mut E,
    scratch: &'a mut [u8],
}

impl<E: Egress> TxToken for Sending<'_, E> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(label) = self.scratch.get_mut(HEADROOM..HEADROOM + len) else {
            // Beyond the capabilities, so smoltcp never requests it: built and discarded.
            return f(&mut vec![0; len]);
        };
        let result = f(label);
        self.wire.finish(self.scratch, len, self.egress);
        result
    }
}
