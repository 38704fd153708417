//! Decrypted packets joined into super-packets.
//!
//! Packets are decrypted straight to where they are expected to belong: directly behind the payload
//! of the group that the packet before joined, so that its header lands on that payload's tail,
//! which is saved meanwhile. When the guess holds, as it does in bulk, nothing is copied; otherwise
//! one packet is.
//!
//! Checksums are verified before anything merges, so that corruption from before the tunnel never
//! gets a valid checksum; within a flow nothing overtakes; acknowledgements without data never
//! merge.

mod group;

use crate::endpoint::PeerId;
use crate::offload::{Offload, SuperPacket};
use crate::packet::{FiveTuple, incremental};
use crate::sink::InnerSink;
use group::{Candidate, Group, Kind, MAX_HEADER, MAX_PACKET, Rules};

/// Groups open at a time; a packet that would start another goes out alone.
const LANES: usize = 16;
/// Room of a group: the longest packet, and a slot that begins inside it.
const LANE_LEN: usize = MAX_PACKET + 2048 + 1;
/// Room for packets that stay alone.
const SINGLES_LEN: usize = 2 * LANE_LEN;
/// Packets and groups waiting to be drained.
const MAX_ITEMS: usize = 512;

/// What may be coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceOptions {
    /// Join TCP segments.
    pub tcp: bool,
    /// Join UDP datagrams; only where the receiver takes UDP super-packets.
    pub udp: bool,
}

/// What a coalescer has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalesceStats {
    /// Packets committed.
    pub packets: u64,
    /// Packets and super-packets handed out.
    pub emitted: u64,
    /// Packets left alone because a checksum of theirs was wrong.
    pub bad_checksums: u64,
}

/// Joins decrypted packets of each flow into super-packets; a bounded arena of about 1.2 MiB.
pub struct Coalescer {
    arena: Box<[u8]>,
    rules: Rules,
    groups: [Option<Group>; LANES],
    /// Bytes in each lane.
    lens: [usize; LANES],
    free: Vec<usize>,
    singles_used: usize,
    items: Vec<Item>,
    drained: usize,
    /// The lane the last packet joined, where the next is expected.
    expected: Option<usize>,
    /// Whether the last packet stayed alone.
    was_single: bool,
    pending: Option<Pending>,
    stats: CoalesceStats,
}

enum Item {
    Lane(usize),
    Single { origin: PeerId, start: usize, end: usize },
}

/// A slot handed out and not yet committed.
struct Pending {
    place: Place,
    start: usize,
    len: usize,
    /// What the slot's first bytes hold for the group before it.
    saved: [u8; MAX_HEADER],
    saved_len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind this lane's payload, its header over the payload's tail.
    Tail(usize),
    /// At the start of this free lane.
    Fresh(usize),
    Singles,
}

impl Coalescer {
    /// An empty coalescer.
    #[must_use]
    pub fn new(options: CoalesceOptions) -> Self {
        Self {
            arena: vec![0; LANES * LANE_LEN + SINGLES_LEN].into_boxed_slice(),
            rules: Rules { tcp: options.tcp, udp: options.udp },
            groups: [const { None }; LANES],
            lens: [0; LANES],
            free: (0..LANES).rev().collect(),
            singles_used: 0,
            items: Vec::with_capacity(MAX_ITEMS),
            drained: 0,
            expected: None,
            was_single: false,
            pending: None,
            stats: CoalesceStats::default(),
        }
    }

    /// Changes what may be coalesced from the next packet on.
    pub fn set_options(&mut self, options: CoalesceOptions) {
        self.rules = Rules { tcp: options.tcp, udp: options.udp };
        self.close_all();
    }

    /// Whether whatever one received message can hold still fits: 64 KiB, 128 packets.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.singles_used + LANE_LEN <= SINGLES_LEN && self.items.len() + 128 <= MAX_ITEMS
    }

    /// Whether nothing waits to be drained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CoalesceStats {
        self.stats
    }

    /// The next packet or super-packet in order, with the peer it came from.
    ///
    /// A group is closed by being handed out. Once this returned `None` the whole arena is free
    /// again.
    pub fn poll_packet(&mut self) -> Option<(PeerId, SuperPacket<'_>)> {
        self.forget_slot();
        let Some(item) = self.items.get(self.drained) else {
            self.items.clear();
            self.drained = 0;
            self.singles_used = 0;
            return None;
        };
        self.drained += 1;
        self.stats.emitted += 1;
        match *item {
            Item::Single { origin, start, end } => {
                let bytes = self.arena.get_mut(start..end)?;
                Some((origin, SuperPacket { bytes, offload: Offload::None }))
            }
            Item::Lane(lane) => {
                let group = self.groups.get_mut(lane)?.take()?;
                self.free.push(lane);
                if self.expected == Some(lane) {
                    self.expected = None;
                }
                let start = lane * LANE_LEN;
                let bytes = self.arena.get_mut(start..start + self.lens.get(lane)?)?;
                let offload = group.finish(bytes);
                Some((group.origin, SuperPacket { bytes, offload }))
            }
        }
    }

    /// As [`poll_packet`](Self::poll_packet), but `None` also when the next in order may still
    /// grow.
    pub fn poll_complete(&mut self) -> Option<(PeerId, SuperPacket<'_>)> {
        match self.items.get(self.drained) {
            Some(Item::Lane(lane)) if self.group(*lane).is_some_and(|group| group.is_open) => None,
            _ => self.poll_packet(),
        }
    }

    /// Where the next packet is decrypted to: where the last one belonged, if that has room.
    fn choose(&self, len: usize) -> (Place, usize, usize) {
        if let Some((lane, group)) = self.expected.and_then(|lane| Some((lane, self.group(lane)?))) {
            let filled = self.lens.get(lane).copied().unwrap_or(0);
            // The saved bytes must be payload only, or the group's own header could not be
            // compared.
            let begin = filled.saturating_sub(group.header_len);
            if group.is_open && begin >= group.header_len && begin + len <= LANE_LEN {
                return (Place::Tail(lane), lane * LANE_LEN + begin, group.header_len);
            }
        }
        match self.free.last() {
            Some(&lane) if !self.was_single && len <= LANE_LEN => (Place::Fresh(lane), lane * LANE_LEN, 0),
            _ => (Place::Singles, LANES * LANE_LEN + self.singles_used, 0),
        }
    }

    fn group(&self, lane: usize) -> Option<&Group> {
        self.groups.get(lane)?.as_ref()
    }

    /// Puts back what an uncommitted slot covered.
    fn forget_slot(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.restore(&pending);
        }
    }

    #[inline]
    fn restore(&mut self, pending: &Pending) {
        let end = pending.start + pending.saved_len;
        if let (Some(place), Some(saved)) =
            (self.arena.get_mut(pending.start..end), pending.saved.get(..pending.saved_len))
        {
            place.copy_from_slice(saved);
        }
    }

    fn take(&mut self, origin: PeerId, pending: &Pending, len: usize) {
        let end = pending.start + len;
        let packet = self.arena.get(pending.start..end).unwrap_or_default();
        let (kind, is_bad) = self.rules.judge(packet);
        self.stats.bad_checksums += u64::from(is_bad);
        let candidate = match kind {
            Kind::Mergeable(candidate) => candidate,
            Kind::Alone(flow) => {
                self.close(origin, &flow);
                return self.keep_single(origin, pending, len);
            }
            Kind::Unknown => {
                self.close_all();
                return self.keep_single(origin, pending, len);
            }
        };
        if let Some(lane) = self.find(origin, &candidate.flow) {
            if self.extends(lane, &candidate, pending) {
                return self.append(lane, &candidate, pending);
            }
            self.close_lane(lane);
        }
        match self.free.pop() {
            Some(lane) if candidate.may_grow() => self.start(lane, origin, &candidate, pending, len),
            lane => {
                self.free.extend(lane);
                self.keep_single(origin, pending, len);
            }
        }
    }

    /// The open group of a flow; the expected lane is tried first.
    #[inline]
    fn find(&self, origin: PeerId, flow: &FiveTuple) -> Option<usize> {
        let is_it = |group: &Group| group.is_open && group.origin == origin && group.flow == *flow;
        if let Some(lane) = self.expected
            && self.group(lane).is_some_and(is_it)
        {
            return Some(lane);
        }
        self.groups.iter().position(|group| group.as_ref().is_some_and(is_it))
    }

    fn extends(&self, lane: usize, candidate: &Candidate, pending: &Pending) -> bool {
        let (Some(group), Some(&len)) = (self.group(lane), self.lens.get(lane)) else { return false };
        let header = |start: usize| self.arena.get(start..start + candidate.header_len).unwrap_or_default();
        group.takes(candidate, len, header(lane * LANE_LEN), header(pending.start))
    }

    fn append(&mut self, lane: usize, candidate: &Candidate, pending: &Pending) {
        let payload = pending.start + candidate.header_len;
        let tail = lane * LANE_LEN + self.lens.get(lane).copied().unwrap_or(0);
        if pending.place == Place::Tail(lane) {
            // The payload already lies where it belongs.
            self.restore(pending);
        } else {
            self.arena.copy_within(payload..payload + candidate.payload_len, tail);
            self.restore(pending);
        }
        if let (Some(Some(group)), Some(len)) = (self.groups.get_mut(lane), self.lens.get_mut(lane)) {
            *len += candidate.payload_len;
            group.append(candidate, *len);
        }
        self.expected = Some(lane);
        self.was_single = false;
    }

    fn start(
        &mut self,
        lane: usize,
        origin: PeerId,
        candidate: &Candidate,
        pending: &Pending,
        packet_len: usize,
    ) {
        if pending.place != Place::Fresh(lane) {
            self.arena.copy_within(pending.start..pending.start + packet_len, lane * LANE_LEN);
            self.restore(pending);
        }
        if let (Some(group), Some(len)) = (self.groups.get_mut(lane), self.lens.get_mut(lane)) {
            *group = Some(Group::new(origin, candidate));
            *len = packet_len;
        }
        self.items.push(Item::Lane(lane));
        self.expected = Some(lane);
        self.was_single = false;
    }

    fn keep_single(&mut self, origin: PeerId, pending: &Pending, len: usize) {
        let start = LANES * LANE_LEN + self.singles_used;
        if pending.place != Place::Singles {
            self.arena.copy_within(pending.start..pending.start + len, start);
            self.restore(pending);
        }
        self.singles_used += len;
        self.items.push(Item::Single { origin, start, end: start + len });
        self.was_single = true;
    }

    fn close(&mut self, origin: PeerId, flow: &FiveTuple) {
        if let Some(lane) = self.find(origin, flow) {
            self.close_lane(lane);
        }
    }

    fn close_lane(&mut self, lane: usize) {
        if let Some(Some(group)) = self.groups.get_mut(lane) {
            group.is_open = false;
        }
    }

    fn close_all(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            group.is_open = false;
        }
    }
}

impl InnerSink for Coalescer {
    #[inline]
    fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.forget_slot();
        // It must be possible to keep any packet alone.
        if self.singles_used + len > SINGLES_LEN || self.items.len() >= MAX_ITEMS || len > LANE_LEN {
            return None;
        }
        let (place, start, saved_len) = self.choose(len);
        let mut saved = [0; MAX_HEADER];
        saved.get_mut(..saved_len)?.copy_from_slice(self.arena.get(start..start + saved_len)?);
        self.pending = Some(Pending { place, start, len, saved, saved_len });
        self.arena.get_mut(start..start + len)
    }

    #[inline]
    fn commit(&mut self, peer: PeerId, len: usize, ecn: u8) {
        let Some(pending) = self.pending.take() else { return };
        if len == 0 || len > pending.len {
            return self.restore(&pending);
        }
        self.stats.packets += 1;
        if ecn & 3 == CONGESTION_EXPERIENCED
            && let Some(packet) = self.arena.get_mut(pending.start..pending.start + len)
        {
            mark_congestion(packet);
        }
        self.take(peer, &pending, len);
    }
}

const CONGESTION_EXPERIENCED: u8 = 3;

/// Carries the outer congestion mark into an ECN-capable inner header (RFC 6040 §4.2); a packet
/// that is not ECN-capable stays as it is, as in the kernel's WireGuard.
fn mark_congestion(packet: &mut [u8]) {
    match packet {
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if *first >> 4 == 4 && *tos & 3 != 0 => {
            let old = u16::from_be_bytes([*first, *tos]);
            *tos |= CONGESTION_EXPERIENCED;
            let checksum = incremental(u16::from_be_bytes([*high, *low]), old, old | 3);
            [*high, *low] = checksum.to_be_bytes();
        }
        [first, class, ..] if *first >> 4 == 6 && *class & 0x30 != 0 => *class |= 0x30,
        _ => {}
    }
}
