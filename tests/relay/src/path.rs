//! One direction of the relay as a pure state machine in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::random::Random;

/// How many datagrams may be under way; more are lost and counted as `queue_full`.
pub const QUEUE_LIMIT: usize = 8192;

/// How many datagrams are kept for [`Path::replay`]; older ones are forgotten.
pub const RECORD_LIMIT: usize = 4096;

/// How long a datagram is held back for reordering when nothing overtakes it.
const HOLD_LIMIT: Duration = Duration::from_millis(100);

/// What happened to the datagrams of one direction: the ground truth that metrics are compared
/// with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Datagrams that came in.
    pub received: u64,
    /// Datagrams that went out, duplicates and replays included.
    pub delivered: u64,
    /// Lost by probability.
    pub dropped: u64,
    /// Delivered a second time.
    pub duplicated: u64,
    /// Held back behind later ones.
    pub reordered: u64,
    /// Delivered with one bit flipped.
    pub flipped: u64,
    /// Delivered shorter.
    pub truncated: u64,
    /// Lost for being longer than the MTU.
    pub too_long: u64,
    /// Lost in a black hole.
    pub swallowed: u64,
    /// Lost because too many were under way.
    pub queue_full: u64,
    /// Sent again on request.
    pub replayed: u64,
}

/// One direction: datagrams go in at any time and come out when they are due.
#[derive(Debug)]
pub struct Path {
    faults: Faults,
    random: Random,
    jitter: Random,
    counters: Counters,
    under_way: BinaryHeap<Reverse<Due>>,
    held: VecDeque<Held>,
    record: Option<VecDeque<Vec<u8>>>,
    sequence: u64,
    line_free_at: Duration,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    sequence: u64,
    datagram: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    until: Duration,
    overtaken: u64,
    datagram: Vec<u8>,
}

impl Path {
    /// A perfect path whose later faults follow `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            faults: Faults::default(),
            random: Random::new(seed),
            // A separate sequence: how many numbers it draws depends on the other faults.
            jitter: Random::new(seed.rotate_left(32)),
            counters: Counters::default(),
            under_way: BinaryHeap::new(),
            held: VecDeque::new(),
            record: None,
            sequence: 0,
            line_free_at: Duration::ZERO,
        }
    }

    /// Replaces the faults; what is under way keeps its time.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Restarts the faults' sequence, as that of a new path with this seed.
    pub fn reseed(&mut self, seed: u64) {
        let Self { random, jitter, .. } = Self::new(seed);
        (self.random, self.jitter) = (random, jitter);
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a datagram that arrived at `now`.
    pub fn handle_datagram(&mut self, now: Duration, datagram: &[u8]) {
        self.counters.received += 1;
        if let Some(record) = &mut self.record {
            if record.len() == RECORD_LIMIT {
                record.pop_front();
            }
            record.push_back(datagram.to_vec());
        }
        // Every fault draws its number, so that the fate of a datagram does not depend on the other
        // settings.
        let lost = self.random.chance(self.faults.drop);
        let twice = self.random.chance(self.faults.duplicate);
        let hold = self.random.chance(self.faults.reorder) && self.faults.reorder_depth > 0;
        let mut datagram = datagram.to_vec();
        let altered = self.alter(&mut datagram);
        if self.faults.swallows(now) {
            self.counters.swallowed += 1;
        } else if self.faults.mtu.is_some_and(|mtu| datagram.len() > mtu) {
            self.counters.too_long += 1;
        } else if lost {
            self.counters.dropped += 1;
        } else {
            self.counters.flipped += u64::from(altered.flipped);
            self.counters.truncated += u64::from(altered.truncated);
            self.admit(now, datagram, twice, hold);
        }
    }

    /// Returns one datagram that is due at `now`.
    pub fn poll_datagram(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.release_held(now);
        if self.under_way.peek().is_none_or(|Reverse(due)| due.at > now) {
            return None;
        }
        let Reverse(due) = self.under_way.pop()?;
        self.counters.delivered += 1;
        Some(due.datagram)
    }

    /// When [`Path::poll_datagram`] will next have something, if nothing else arrives.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = self.under_way.peek().map(|Reverse(due)| due.at);
        let held = self.held.iter().map(|held| held.until).min();
        due.into_iter().chain(held).min()
    }

    /// Starts or stops keeping what comes in, for [`Path::replay`].
    pub fn record(&mut self, on: bool) {
        self.record = on.then(VecDeque::new);
    }

    /// Sends the last `count` recorded datagrams again, unaltered, oldest first; answers how many
    /// there were.
    pub fn replay(&mut self, now: Duration, count: usize) -> usize {
        let Some(record) = &self.record else { return 0 };
        let again: Vec<Vec<u8>> = record.iter().skip(record.len().saturating_sub(count)).cloned().collect();
        let number = again.len();
        for datagram in again {
            self.counters.replayed += 1;
            self.enqueue(now, datagram);
        }
        number
    }

    fn alter(&mut self, datagram: &mut Vec<u8>) -> Altered {
        let flipped = self.random.chance(self.faults.flip);
        let truncated = self.random.chance(self.faults.truncate);
        let (bit, length) = (self.random.next_u64(), self.random.next_u64());
        let size = datagram.len() as u64;
        let cut = truncated && size > 1;
        if cut {
            datagram.truncate(usize::try_from(1 + length % (size - 1)).unwrap_or(usize::MAX));
        }
        let position = bit.checked_rem(datagram.len() as u64 * 8).unwrap_or(0);
        let byte = usize::try_from(position / 8).ok().and_then(|index| datagram.get_mut(index));
        let flipped = flipped && byte.is_some();
        if let (true, Some(byte)) = (flipped, byte) {
            *byte ^= 1 << (position % 8);
        }
        Altered { flipped, truncated: cut }
    }

    fn admit(&mut self, now: Duration, datagram: Vec<u8>, twice: bool, hold: bool) {
        for held in &mut self.held {
            held.overtaken += 1;
        }
        if twice {
            self.counters.duplicated += 1;
            self.enqueue(now, datagram.clone());
        }
        if hold && self.held.len() < QUEUE_LIMIT {
            self.counters.reordered += 1;
            self.held.push_back(Held { until: now + HOLD_LIMIT, overtaken: 0, datagram });
        } else {
            self.enqueue(now, datagram);
        }
        self.release_held(now);
    }

    fn release_held(&mut self, now: Duration) {
        let depth = self.faults.reorder_depth;
        let (ready, waiting): (VecDeque<Held>, VecDeque<Held>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.overtaken >= depth || held.until <= now);
        self.held = waiting;
        for held in ready {
            self.enqueue(now, held.datagram);
        }
    }

    fn enqueue(&mut self, now: Duration, datagram: Vec<u8>) {
        if self.under_way.len() >= QUEUE_LIMIT {
            self.counters.queue_full += 1;
            return;
        }
        let jitter = self.jitter.below(self.faults.jitter_ms.saturating_add(1));
        let mut at = now + Duration::from_millis(self.faults.delay_ms + jitter);
        if let Some(rate) = self.faults.rate {
            let nanos = (datagram.len() as u64).saturating_mul(1_000_000_000) / rate.max(1);
            self.line_free_at = self.line_free_at.max(now) + Duration::from_nanos(nanos);
            at += self.line_free_at - now;
        }
        self.sequence += 1;
        self.under_way.push(Reverse(Due { at, sequence: self.sequence, datagram }));
    }
}

struct Altered {
    flipped: bool,
    truncated: bool,
}
