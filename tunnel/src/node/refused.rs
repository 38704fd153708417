//! Handshakes for another key, or by an unknown one: a source that repeats them has a mistake in a
//! configuration; a single one is noise.

use std::net::IpAddr;
use std::time::Duration;

use super::handshake_limiter::prefix;
use crate::key::PublicKey;
use crate::time::Instant;

/// How far back handshakes count.
const WINDOW: Duration = Duration::from_secs(60);
/// This many handshakes of one source or key within [`WINDOW`] are no accident: a peer that is not
/// answered sends a dozen.
const REPEATED: usize = 3;
/// The first and the last of them are at least this far apart: a peer waits for a response before
/// it tries again, a scanner does not.
const MIN_SPAN: Duration = Duration::from_secs(4);
/// Sources that are followed at once; the one silent for longest makes room.
const SOURCES: usize = 64;
/// Keys that are followed at once.
const KEYS: usize = 16;
/// Keys that are reported at once.
const REPORTED: usize = 4;
/// Handshakes of one that are remembered.
const REMEMBERED: usize = 32;

/// Handshakes of the last minute that look like a mistake in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Initiations made for another public key than the node's, by sources that repeat them.
    pub foreign: usize,
    /// Unknown keys that keep trying, at most four. A source that knows the node's public key can
    /// name any key here: compare it before you trust it.
    pub unknown: Vec<RefusedKey>,
}

/// An unknown key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedKey {
    /// The key.
    pub key: PublicKey,
    /// Its initiations in the last minute, at most 32.
    pub count: usize,
}

/// What a node remembers of such handshakes.
#[derive(Default)]
pub(super) struct RefusedLog {
    sources: Vec<History<u128>>,
    keys: Vec<History<PublicKey>>,
}

/// The last handshakes of one source or key, the oldest first.
struct History<T> {
    of: T,
    times: Vec<Instant>,
}

impl RefusedLog {
    /// Notes an initiation that was made for another key.
    pub(super) fn note_foreign(&mut self, source: IpAddr, now: Instant) {
        note(&mut self.sources, SOURCES, prefix(source), now);
    }

    /// Notes an initiation by an unknown key.
    pub(super) fn note_unknown(&mut self, key: PublicKey, now: Instant) {
        note(&mut self.keys, KEYS, key, now);
    }

    /// What of it looks like a mistake.
    pub(super) fn report(&self, now: Instant) -> Refused {
        let unknown = self
            .keys
            .iter()
            .filter_map(|history| Some(RefusedKey { key: history.of, count: history.repeated(now)? }));
        Refused {
            foreign: self.sources.iter().filter_map(|history| history.repeated(now)).sum(),
            unknown: unknown.take(REPORTED).collect(),
        }
    }
}

impl<T> History<T> {
    /// How many there were in the window, when that is no accident.
    fn repeated(&self, now: Instant) -> Option<usize> {
        let recent = || self.times.iter().filter(|at| now.since(**at) < WINDOW);
        let (first, last) = (recent().next()?, recent().next_back()?);
        Some(recent().count()).filter(|count| *count >= REPEATED && last.since(*first) >= MIN_SPAN)
    }
}

fn note<T: PartialEq>(histories: &mut Vec<History<T>>, most: usize, of: T, now: Instant) {
    // The last to send is last in the list: the first makes room.
    let known = histories.iter().position(|history| history.of == of);
    let mut history =
        known.map_or_else(|| History { of, times: Vec::new() }, |place| histories.remove(place));
    if history.times.len() >= REMEMBERED {
        history.times.remove(0);
    }
    history.times.push(now);
    if histories.len() >= most {
        histories.remove(0);
    }
    histories.push(history);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;

    #[test]
    fn a_source_that_repeats_a_handshake_for_another_key_is_counted_and_noise_is_not() {
        let mut log = RefusedLog::default();
        for n in 0..50 {
            log.note_foreign(source(n), at(n.into()));
        }
        for _ in 0..20 {
            log.note_foreign(source(200), at(50));
        }
        assert_eq!(log.report(at(51)), Refused::default(), "a handshake each, and a burst");

        for second in [0, 5, 10, 15] {
            log.note_foreign(source(201), at(60 + second));
        }
        assert_eq!(log.report(at(75)).foreign, 4);
        assert_eq!(log.report(at(60 + 59)).foreign, 4, "the whole of the last minute");
        assert_eq!(log.report(at(60 + 15 + 60)), Refused::default());
    }

    #[test]
    fn a_key_that_keeps_trying_is_named_and_only_a_few_are() {
        let mut log = RefusedLog::default();
        let key = |n| PrivateKey::from_bytes([n; 32]).public();
        log.note_unknown(key(1), at(0));
        log.note_unknown(key(1), at(5));
        assert!(log.report(at(6)).unknown.is_empty());
        log.note_unknown(key(1), at(10));
        assert_eq!(log.report(at(11)).unknown, [RefusedKey { key: key(1), count: 3 }]);

        for second in [12, 17, 22] {
            for n in 1..=40 {
                log.note_unknown(key(n), at(second));
            }
        }
        assert!(log.report(at(23)).unknown.len() <= REPORTED);
        assert!(log.keys.len() <= KEYS);
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_room_and_pushes_the_oldest_out() {
        let mut log = RefusedLog::default();
        for n in 0..10_000 {
            log.note_foreign(source(n), at((n / 100).into()));
        }
        for n in 0..1_000 {
            log.note_foreign(source(7), at(200 + n));
        }
        assert!(log.sources.len() <= SOURCES);
        assert!(log.sources.iter().all(|history| history.times.len() <= REMEMBERED));
    }

    fn source(n: u32) -> IpAddr {
        IpAddr::V4((0xc633_6400 + n).into())
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
