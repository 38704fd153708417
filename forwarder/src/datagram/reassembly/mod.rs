//! Fragments of UDP datagrams, joined within bounds of count, bytes and time (RFC 791, RFC 8200
//! §4.5, RFC 5722).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tunnel::packet::{Fragment, Ip};
use tunnel::time::Instant;

use crate::flow::{ClientPrefix, EdgeId};
use crate::stats::Dropped;

/// Datagrams that may wait for fragments at the same time; beyond it the oldest is given up.
pub const MAX_DATAGRAMS: usize = 256;
/// Of one client (/32 or /64); beyond it that client's oldest is given up.
pub const MAX_OF_CLIENT: usize = 16;
/// Bytes of all waiting datagrams together; beyond it the oldest is given up.
pub const MAX_BYTES: usize = 1 << 20;
/// Fragments of one datagram: 65,535 bytes in pieces of the smallest MTU.
pub const MAX_FRAGMENTS: usize = 128;
/// How long a datagram waits for its missing fragments, as Linux does.
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// The datagram is whole: everything after the IP header.
    Whole(Vec<u8>),
    /// Others are missing.
    Waiting,
    /// The datagram is given up.
    Refused(Dropped),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    edge: EdgeId,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Partial {
    place: (Instant, u64),
    bytes: Vec<u8>,
    /// Which bytes are there, in order, none touching the next.
    ranges: Vec<(usize, usize)>,
    fragments: usize,
    total: Option<usize>,
}

/// Datagrams of which some fragments have come.
#[derive(Debug, Default)]
pub struct Reassembly {
    partials: HashMap<Key, Partial>,
    order: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    counter: u64,
    given_up: u64,
}

impl Reassembly {
    /// Takes one fragment: its header, and what follows it.
    pub fn handle_fragment(&mut self, now: Instant, edge: EdgeId, ip: &Ip, content: &[u8]) -> Joined {
        let Some(fragment) = ip.fragment else { return Joined::Whole(content.to_vec()) };
        let key = Key { edge, src: ip.src, dst: ip.dst, protocol: ip.protocol, id: fragment.id };
        // An IPv6 datagram in a single fragment waits for no other (RFC 6946).
        if fragment.offset == 0 && !fragment.more {
            return Joined::Whole(content.to_vec());
        }
        if !is_sound(fragment, content.len()) {
            return Joined::Refused(Dropped::Malformed);
        }
        if !self.partials.contains_key(&key) {
            self.begin(now, key);
        }
        let Some(partial) = self.partials.get_mut(&key) else { return Joined::Waiting };
        let before = partial.bytes.len();
        let fits = partial.add(fragment, content);
        self.bytes += partial.bytes.len() - before;
        if !fits {
            self.remove(&key);
            return Joined::Refused(Dropped::FragmentOverlap);
        }
        if partial.is_whole() {
            let whole = self.remove(&key).map(|partial| partial.bytes).unwrap_or_default();
            return Joined::Whole(whole);
        }
        self.shrink(&key);
        Joined::Waiting
    }

    fn begin(&mut self, now: Instant, key: Key) {
        let client = ClientPrefix::from(key.src);
        let mine = self.order.values().filter(|other| ClientPrefix::from(other.src) == client);
        if mine.clone().count() >= MAX_OF_CLIENT
            && let Some(oldest) =
                mine.min_by_key(|key| self.partials.get(key).map(|partial| partial.place)).copied()
        {
            self.give_up(&oldest);
        }
        self.counter += 1;
        let place = (now.after(REASSEMBLY_TIMEOUT), self.counter);
        let partial = Partial { place, bytes: Vec::new(), ranges: Vec::new(), fragments: 0, total: None };
        self.partials.insert(key, partial);
        self.order.insert(place, key);
        self.shrink(&key);
    }

    /// Gives up the oldest until the bounds hold; the datagram in hand is never chosen.
    fn shrink(&mut self, kept: &Key) {
        while self.partials.len() > MAX_DATAGRAMS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.values().find(|key| *key != kept).copied() else { return };
            self.give_up(&oldest);
        }
    }

    /// Gives up what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((place, key)) = self.order.first_key_value()
            && place.0 <= now
        {
            let key = *key;
            self.give_up(&key);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.order.first_key_value().map(|(place, _)| place.0)
    }

    /// Bytes of waiting datagrams.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Datagrams given up since the last call.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    fn give_up(&mut self, key: &Key) {
        if self.remove(key).is_some() {
            self.given_up += 1;
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.partials.remove(key)?;
        self.order.remove(&partial.place);
        self.bytes -= partial.bytes.len();
        Some(partial)
    }
}

/// Whether a fragment can be part of any datagram.
fn is_sound(fragment: Fragment, length: usize) -> bool {
    let whole_words = !fragment.more || length.is_multiple_of(8);
    length > 0 && whole_words && usize::from(fragment.offset) + length <= usize::from(u16::MAX)
}

impl Partial {
    /// Adds a fragment; `false` when it contradicts the others, or there are too many.
    fn add(&mut self, fragment: Fragment, content: &[u8]) -> bool {
        let (start, end) = (usize::from(fragment.offset), usize::from(fragment.offset) + content.len());
        if self.ranges.contains(&(start, end)) || self.holds_again(start, content) {
            // The network may duplicate a packet.
            return true;
        }
        self.fragments += 1;
        let overlaps = self.ranges.iter().any(|(from, to)| start < *to && *from < end);
        let past_end = self.total.is_some_and(|total| end > total || (!fragment.more && end != total));
        let cut = !fragment.more && self.bytes.len() > end;
        if overlaps || past_end || cut || self.fragments > MAX_FRAGMENTS {
            return false;
        }
        if !fragment.more {
            self.total = Some(end);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(content);
        }
        self.note(start, end);
        true
    }

    /// Whether these very bytes are there already.
    fn holds_again(&self, start: usize, content: &[u8]) -> bool {
        let end = start + content.len();
        self.ranges.iter().any(|(from, to)| *from <= start && end <= *to)
            && self.bytes.get(start..end) == Some(content)
    }

    fn note(&mut self, start: usize, end: usize) {
        let at = self.ranges.partition_point(|(from, _)| *from < start);
        self.ranges.insert(at, (start, end));
        self.ranges.dedup_by(|later, earlier| {
            let touches = earlier.1 == later.0;
            if touches {
                earlier.1 = later.1;
            }
            touches
        });
    }

    fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.ranges.as_slice() == [(0, total)])
    }
}

#[cfg(test)]
mod tests;
