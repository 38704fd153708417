//! What was read from the TUN and not yet encrypted: a bounded queue that is fair between flows.
//!
//! The TUN's own queue counts packets of any size and is first-in first-out, so that one bulk
//! transfer makes all other flows wait behind megabytes. Hence it is emptied into this one at once,
//! which is bounded in bytes, serves flows by deficit round robin with new flows first (the
//! scheduling of RFC 8290), and when it is full drops from the flow that holds the most.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use crate::io::BUFFER;
use crate::offload::virtio::HEADER_LEN;
use crate::offload::{Offload, SuperPacket};
use crate::packet::{FiveTuple, Ip, Tcp, protocol, tcp_flags};

/// Packets of up to [`SMALL_LEN`] bytes that may wait.
const SMALL: usize = 512;
/// Bytes of a small packet's slot: any single packet of common MTUs.
const SMALL_LEN: usize = 2048;
/// Super-packets that may wait: 3 MiB, five milliseconds at 5 Gbit/s, which only the flow that
/// fills them waits for. With half of it four transfers that share the tunnel lose so much that
/// they carry a fifth less.
const LARGE: usize = 48;
/// Queues that flows are hashed onto.
const FLOWS: usize = 256;
/// Bytes a flow may send before the next one is served.
const QUANTUM: isize = 16 << 10;

/// The queue. A packet is read into [`read_buffer`](Self::read_buffer), and [`push`](Self::push)
/// keeps it.
pub(super) struct Backlog {
    read_buffer: Box<[u8]>,
    small: Box<[u8]>,
    large: Vec<Box<[u8]>>,
    free_small: Vec<usize>,
    free_large: Vec<usize>,
    flows: Vec<Flow>,
    /// Flows that became active just now, served before all others.
    fresh: VecDeque<usize>,
    /// Flows that were served once.
    old: VecDeque<usize>,
    hasher: RandomState,
    dropped: usize,
    /// Whether a sparse packet came ([`has_sparse`](Self::has_sparse)).
    has_sparse: bool,
}

#[derive(Default)]
struct Flow {
    packets: VecDeque<Packet>,
    /// Packets held of each kind.
    held: [usize; 2],
    deficit: isize,
    is_listed: bool,
}

#[derive(Clone, Copy)]
struct Packet {
    place: Place,
    len: usize,
    offload: Offload,
}

#[derive(Clone, Copy)]
enum Place {
    Small(usize),
    Large(usize),
}

impl Place {
    const fn kind(self) -> usize {
        match self {
            Self::Small(_) => 0,
            Self::Large(_) => 1,
        }
    }
}

impl Backlog {
    /// An empty queue whose slots hold reads of up to `buffer_len` bytes, virtio header included.
    pub(super) fn new(buffer_len: usize) -> Self {
        let buffer = || vec![0; BUFFER.max(buffer_len)].into_boxed_slice();
        Self {
            read_buffer: buffer(),
            small: vec![0; SMALL * SMALL_LEN].into_boxed_slice(),
            large: (0..LARGE).map(|_| buffer()).collect(),
            free_small: (0..SMALL).rev().collect(),
            free_large: (0..LARGE).rev().collect(),
            flows: (0..FLOWS).map(|_| Flow::default()).collect(),
            fresh: VecDeque::with_capacity(FLOWS),
            old: VecDeque::with_capacity(FLOWS),
            hasher: RandomState::new(),
            dropped: 0,
            has_sparse: false,
        }
    }

    /// Where the next packet is read to, behind its virtio header.
    pub(super) fn read_buffer(&mut self) -> &mut [u8] {
        &mut self.read_buffer
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.old.is_empty()
    }

    /// Whether a sparse packet came since the last [`forget_sparse`](Self::forget_sparse): a small one
    /// that is no mere acknowledgement, of a flow of which nothing waited.
    pub(super) const fn has_sparse(&self) -> bool {
        self.has_sparse
    }

    /// What came so far is about to be sent.
    pub(super) const fn forget_sparse(&mut self) {
        self.has_sparse = false;
    }

    /// Packets dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    /// Keeps the packet of `len` bytes that was just read; a full queue makes room first.
    pub(super) fn push(&mut self, len: usize, offload: Offload) {
        let Some(bytes) = self.read_buffer.get(HEADER_LEN..HEADER_LEN + len) else { return };
        let (index, is_sparse) = (self.flow_of(bytes), len <= SMALL_LEN && !is_acknowledgement(bytes));
        let Some(place) = self.place(len) else { return };
        let Some(flow) = self.flows.get_mut(index) else { return };
        self.has_sparse |= is_sparse && flow.packets.is_empty();
        flow.packets.push_back(Packet { place, len, offload });
        if let Some(held) = flow.held.get_mut(place.kind()) {
            *held += 1;
        }
        if !flow.is_listed {
            flow.is_listed = true;
            flow.deficit = QUANTUM;
            self.fresh.push_back(index);
        }
    }

    fn flow_of(&self, packet: &[u8]) -> usize {
        let flow = Ip::parse(packet).ok().and_then(|ip| FiveTuple::of(&ip, packet));
        flow.map_or(0, |flow| self.hasher.hash_one(flow) as usize % FLOWS)
    }

    /// Moves the packet that was just read to a slot: a small one is copied, for a large one
    /// buffers are swapped.
    fn place(&mut self, len: usize) -> Option<Place> {
        if len <= SMALL_LEN {
            if self.free_small.is_empty() {
                self.evict(0);
            }
            let slot = self.free_small.pop()?;
            let bytes = self.small.get_mut(slot * SMALL_LEN..)?.get_mut(..len)?;
            bytes.copy_from_slice(self.read_buffer.get(HEADER_LEN..HEADER_LEN + len)?);
            return Some(Place::Small(slot));
        }
        if self.free_large.is_empty() {
            self.evict(1);
        }
        let slot = self.free_large.pop()?;
        std::mem::swap(&mut self.read_buffer, self.large.get_mut(slot)?);
        Some(Place::Large(slot))
    }

    /// Drops the oldest packets of the flow that holds the most slots of a kind, until it has freed
    /// one.
    #[cold]
    fn evict(&mut self, kind: usize) {
        let held = |flow: &Flow| flow.held.get(kind).copied().unwrap_or(0);
        let Some(index) = (0..FLOWS).max_by_key(|index| self.flows.get(*index).map_or(0, held)) else {
            return;
        };
        while let Some(packet) = self.flows.get_mut(index).and_then(Flow::pop) {
            self.release(packet.place);
            self.dropped += 1;
            if packet.place.kind() == kind {
                return;
            }
        }
    }

    /// The next packet in fair order. Its slot is free again with the next call.
    pub(super) fn pop(&mut self) -> Option<SuperPacket<'_>> {
        let packet = self.next()?;
        self.release(packet.place);
        let bytes = match packet.place {
            Place::Small(slot) => self.small.get_mut(slot * SMALL_LEN..)?.get_mut(..packet.len)?,
            Place::Large(slot) => self.large.get_mut(slot)?.get_mut(HEADER_LEN..HEADER_LEN + packet.len)?,
        };
        Some(SuperPacket { bytes, offload: packet.offload })
    }

    fn next(&mut self) -> Option<Packet> {
        loop {
            let was_fresh = !self.fresh.is_empty();
            let list = if was_fresh { &mut self.fresh } else { &mut self.old };
            let index = *list.front()?;
            let flow = self.flows.get_mut(index)?;
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
            } else if let Some(packet) = flow.pop() {
                flow.deficit -= isize::try_from(packet.len).unwrap_or(QUANTUM);
                return Some(packet);
            } else if !was_fresh {
                list.pop_front();
                flow.is_listed = false;
                continue;
            }
            // A new flow whose queue is empty waits once among the old ones, or it could always
            // come first.
            list.pop_front();
            self.old.push_back(index);
        }
    }

    fn release(&mut self, place: Place) {
        match place {
            Place::Small(slot) => self.free_small.push(slot),
            Place::Large(slot) => self.free_large.push(slot),
        }
    }
}

/// Whether a packet is a TCP acknowledgement and nothing else.
fn is_acknowledgement(packet: &[u8]) -> bool {
    let Ok(ip) = Ip::parse(packet) else { return false };
    let segment = ip.payload(packet);
    ip.protocol == protocol::TCP
        && Tcp::parse(segment).is_ok_and(|tcp| tcp.flags == tcp_flags::ACK && tcp.header_len == segment.len())
}

impl Flow {
    fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        if let Some(held) = self.held.get_mut(packet.place.kind()) {
            *held -= 1;
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER_LEN: usize = HEADER_LEN + 65_536;

    #[test]
    fn packets_of_one_flow_come_out_in_order() {
        let mut backlog = queue();
        let lens = [60, 65_000, 1400, 2048, 2049, 60, 30_000];
        for (i, len) in lens.into_iter().enumerate() {
            push(&mut backlog, 1, len, i as u8);
        }
        let out: Vec<_> = std::iter::from_fn(|| pop(&mut backlog)).collect();
        assert_eq!(out, lens.into_iter().enumerate().map(|(i, len)| (1, len, i as u8)).collect::<Vec<_>>());
        assert!(backlog.is_empty() && pop(&mut backlog).is_none());
    }

    #[test]
    fn a_small_request_does_not_wait_behind_bulk() {
        let mut backlog = queue();
        for i in 0..20 {
            push(&mut backlog, 1, 65_000, i);
        }
        assert_eq!(pop(&mut backlog), Some((1, 65_000, 0)));
        push(&mut backlog, 2, 60, 99);
        let next: Vec<_> = (0..2).filter_map(|_| pop(&mut backlog)).collect();
        assert!(next.contains(&(2, 60, 99)), "{next:?}");
    }

    #[test]
    fn two_bulk_flows_share_alike_whatever_their_packets_size() {
        let mut backlog = queue();
        let mut sent = [0; 3];
        for _ in 0..2000 {
            for (flow, len, count) in [(1, 60_000, 1), (2, 1400, 40)] {
                for _ in 0..count {
                    push(&mut backlog, flow, len, 0);
                }
            }
            for _ in 0..20 {
                if let Some((flow, len, _)) = pop(&mut backlog) {
                    sent[usize::from(flow)] += len;
                }
            }
        }
        let ratio = sent[1] as f64 / sent[2] as f64;
        assert!((0.8..1.25).contains(&ratio), "{sent:?}");
    }

    #[test]
    fn a_full_queue_drops_from_the_flow_that_holds_most_and_never_grows() {
        let mut backlog = queue();
        push(&mut backlog, 2, 65_000, 7);
        push(&mut backlog, 3, 60, 8);
        for i in 0..200 {
            push(&mut backlog, 1, 65_000, i);
        }
        for i in 0..1000 {
            push(&mut backlog, 4, 60, i as u8);
        }
        assert_eq!(backlog.take_dropped(), 200 - (LARGE - 1) + 1000 - (SMALL - 1));
        let out: Vec<_> = std::iter::from_fn(|| pop(&mut backlog)).collect();
        assert!(out.contains(&(2, 65_000, 7)) && out.contains(&(3, 60, 8)));
        // Only the newest packets of the flow that held most are kept.
        let kept: Vec<_> = out.iter().filter(|packet| packet.0 == 1).map(|packet| packet.2).collect();
        assert_eq!(kept, (200 - (LARGE as u8 - 1)..200).collect::<Vec<_>>());
        assert_eq!((backlog.free_small.len(), backlog.free_large.len()), (SMALL, LARGE));
    }

    #[test]
    fn bytes_that_are_no_packet_are_carried_like_any_other() {
        let mut backlog = queue();
        backlog.read_buffer()[HEADER_LEN..HEADER_LEN + 3].copy_from_slice(&[0xff; 3]);
        backlog.push(3, Offload::None);
        backlog.push(BUFFER, Offload::None);
        assert_eq!(backlog.pop().map(|packet| packet.bytes.to_vec()), Some(vec![0xff; 3]));
        assert!(backlog.pop().is_none());
    }

    #[test]
    fn a_small_packet_of_a_flow_that_has_nothing_else_waiting_is_sparse() {
        let mut backlog = queue();
        assert!(!backlog.has_sparse());
        push(&mut backlog, 1, 65_000, 0);
        assert!(!backlog.has_sparse(), "a large one");
        push(&mut backlog, 1, 60, 1);
        assert!(!backlog.has_sparse(), "one behind others of its flow");
        push(&mut backlog, 2, 60, 2);
        assert!(backlog.has_sparse());
        backlog.forget_sparse();
        assert!(!backlog.has_sparse());
    }

    #[test]
    fn an_acknowledgement_alone_is_not_sparse_but_one_with_data_or_another_flag_is() {
        for (flags, data, is_sparse) in [
            (tcp_flags::ACK, 0, false),
            (tcp_flags::ACK, 1, true),
            (tcp_flags::ACK | tcp_flags::FIN, 0, true),
            (tcp_flags::SYN, 0, true),
        ] {
            let mut backlog = queue();
            let packet = &mut backlog.read_buffer()[HEADER_LEN..HEADER_LEN + 41];
            packet.fill(0);
            packet[0] = 0x45;
            packet[3] = 40 + data;
            packet[9] = protocol::TCP;
            (packet[32], packet[33]) = (5 << 4, flags);
            backlog.push(40 + usize::from(data), Offload::None);
            assert_eq!(backlog.has_sparse(), is_sparse, "{flags:#x} with {data} bytes");
        }
    }

    /// A queue in which no two flows of these tests share a bucket.
    fn queue() -> Backlog {
        loop {
            let mut backlog = Backlog::new(BUFFER_LEN);
            for flow in 1..=4 {
                push(&mut backlog, flow, 60, 0);
            }
            let apart = backlog.fresh.len() == 4;
            while backlog.pop().is_some() {}
            backlog.forget_sparse();
            if apart {
                return backlog;
            }
        }
    }

    /// A UDP packet of a flow, its last byte a label.
    fn push(backlog: &mut Backlog, flow: u8, len: usize, label: u8) {
        let packet = &mut backlog.read_buffer()[HEADER_LEN..HEADER_LEN + len];
        packet.fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[9] = protocol::UDP;
        packet[12..20].copy_from_slice(&[10, 77, 88, 2, 10, 77, 88, 1]);
        packet[21] = flow;
        packet[len - 1] = label;
        backlog.push(len, Offload::None);
    }

    fn pop(backlog: &mut Backlog) -> Option<(u8, usize, u8)> {
        backlog.pop().map(|packet| (packet.bytes[21], packet.bytes.len(), *packet.bytes.last().unwrap()))
    }
}
