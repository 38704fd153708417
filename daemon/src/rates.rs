//! Bytes per second over the last few seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tunnel::key::PublicKey;
use tunnel::time::Instant;

/// Rates are over so long, or over the last two samples where those are further apart.
const WINDOW: Duration = Duration::from_secs(5);

/// A reader of rates takes a sample first if the last one is older.
const STALE: Duration = Duration::from_secs(1);

/// Bytes received and sent by one peer so far.
pub type Bytes = (u64, u64);

/// The last few samples of the counters of every peer, or of whatever else `K` names.
#[derive(Debug)]
pub struct Rates<K = PublicKey> {
    samples: VecDeque<(Instant, BTreeMap<K, Bytes>)>,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { samples: VecDeque::new() }
    }
}

impl<K: Ord> Rates<K> {
    /// Takes a sample; those older than the window go. Returns how many bytes all peers received
    /// and sent since the last.
    pub fn handle_sample(&mut self, now: Instant, bytes: BTreeMap<K, Bytes>) -> u64 {
        let total = |bytes: &BTreeMap<K, Bytes>| bytes.values().map(|(rx, tx)| rx + tx).sum::<u64>();
        let before = self.samples.back().map_or(0, |(_, bytes)| total(bytes));
        let moved = total(&bytes).saturating_sub(before);
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        moved
    }

    /// Whether the last sample is too old, as in an idle daemon.
    pub fn are_stale(&self, now: Instant) -> bool {
        self.samples.back().is_none_or(|(at, _)| now.since(*at) > STALE)
    }

    /// How many samples there are.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Bytes received and sent per second by one peer; zero until there are two samples of it.
    #[must_use]
    pub fn of(&self, key: &K) -> (f64, f64) {
        let mut seen =
            self.samples.iter().filter_map(|(when, bytes)| bytes.get(key).map(|bytes| (when, bytes)));
        let (Some((start, first)), Some((end, last))) = (seen.next(), seen.next_back()) else {
            return (0.0, 0.0);
        };
        let span = end.since(*start);
        if span < Duration::from_millis(100) {
            return (0.0, 0.0);
        }
        // A peer that was removed and added again starts from zero.
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / span.as_secs_f64();
        (rate(first.0, last.0), rate(first.1, last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate() {
        let mut rates = Rates::<PublicKey>::default();
        for second in 0..20 {
            rates.handle_sample(at(second), BTreeMap::from([(key(), (second * 1000, second * 10))]));
        }
        assert_eq!(rates.of(&key()), (1000.0, 10.0));
    }

    #[test]
    fn samples_far_apart_have_the_rate_between_them() {
        let mut rates = Rates::<PublicKey>::default();
        for second in [0, 10, 20, 30] {
            let moved = rates.handle_sample(at(second), BTreeMap::from([(key(), (second * 1000, 0))]));
            assert_eq!(moved, if second == 0 { 0 } else { 10_000 });
        }
        assert_eq!((rates.of(&key()), rates.samples.len()), ((1000.0, 0.0), 2));
    }

    #[test]
    fn one_sample_is_no_rate() {
        let mut rates = Rates::<PublicKey>::default();
        rates.handle_sample(at(1), BTreeMap::from([(key(), (1000, 1000))]));
        assert_eq!(rates.of(&key()), (0.0, 0.0));
    }

    #[test]
    fn counters_that_start_again_are_no_negative_rate() {
        let mut rates = Rates::<PublicKey>::default();
        rates.handle_sample(at(1), BTreeMap::from([(key(), (1000, 1000))]));
        rates.handle_sample(at(2), BTreeMap::from([(key(), (0, 0))]));
        assert_eq!(rates.of(&key()), (0.0, 0.0));
    }

    fn at(second: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(second))
    }

    fn key() -> PublicKey {
        tunnel::key::PrivateKey::from_bytes([7; 32]).public()
    }
}
