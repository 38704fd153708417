//! Whether two machines use one key at the same time: a peer's, as its endpoint and sessions show,
//! or our own.
//!
//! Two machines with one key take the session from each other every few seconds. For their peer the
//! endpoint alternates, each time with a new session. For each of them a session works, falls
//! silent, and works again once renewed.

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// How long an event counts.
const WINDOW: Duration = Duration::from_secs(60);
/// How long there must be no sign before it is reported again.
const QUIET: Duration = Duration::from_secs(600);
/// Endpoints remembered.
const PLACES: usize = 4;
/// More returns to an endpoint, and sessions, within the window than one machine has.
const RETURNS: usize = 3;
const SESSIONS: usize = 4;
/// Sessions of ours within the window that worked and were lost.
const LOST: usize = 5;
/// Sessions within the window that lost probes and worked again: more than that is a path that loses
/// packets. A session that another machine took away never works again.
const SURVIVED: usize = 3;

/// A key that two machines seem to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedKey {
    /// When the last sign of it was seen.
    pub at: Instant,
    /// The last two endpoints of the peer whose key it is; `None` when the key is our own.
    pub ends: Option<[SocketAddr; 2]>,
}

impl SharedKey {
    /// Whether it was seen within the last minute.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.at) < WINDOW
    }
}

/// The signs of it that one peer shows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedKeyDetector {
    places: [Option<SocketAddr>; PLACES],
    returns: Times,
    sessions: Times,
    lost: Times,
    survived: Times,
    reported: Option<Instant>,
}

impl SharedKeyDetector {
    /// The peer's endpoint moved by an authenticated packet.
    pub(super) fn note_move(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) {
        if self.places.contains(&Some(to)) {
            self.returns.push(now);
        }
        let [first, second, third, _] = self.places.map(|place| place.filter(|place| *place != from));
        self.places = [Some(from), first, second, third];
    }

    /// A session was agreed; `worked` when it is ours, and the one before it worked.
    pub(super) fn note_session(&mut self, now: Instant, worked: bool) {
        self.sessions.push(now);
        if worked {
            self.lost.push(now);
        }
    }

    /// A probe was answered in a session that had lost some since the last answer.
    pub(super) fn note_survival(&mut self, now: Instant) {
        self.survived.push(now);
    }

    /// The conclusion at `now`, with the peer at `at`; and whether it is to be reported.
    pub(super) fn judge(&mut self, now: Instant, at: Option<SocketAddr>) -> Option<(SharedKey, bool)> {
        let moves = self.returns.within(now) >= RETURNS && self.sessions.within(now) >= SESSIONS;
        let ends = self.places[0].zip(at).filter(|_| moves).map(<[SocketAddr; 2]>::from);
        let is_lost = self.lost.within(now) >= LOST && self.survived.within(now) <= SURVIVED;
        if ends.is_none() && !is_lost {
            return None;
        }
        let is_news = self.reported.is_none_or(|at| now.since(at) >= QUIET);
        self.reported = Some(now);
        Some((SharedKey { at: now, ends }, is_news))
    }
}

/// When something last happened, the newest first.
#[derive(Clone, Copy, Debug, Default)]
struct Times([Option<Instant>; LOST]);

impl Times {
    fn push(&mut self, now: Instant) {
        self.0.rotate_right(1);
        self.0[0] = Some(now);
    }

    fn within(&self, now: Instant) -> usize {
        self.0.iter().flatten().filter(|at| now.since(**at) < WINDOW).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_alternates_with_a_session_each_time_is_a_shared_key() {
        let mut detector = SharedKeyDetector::default();
        let mut seen = Vec::new();
        for round in 0..12_u64 {
            let (from, to) = (place(round % 2), place((round + 1) % 2));
            detector.note_move(at(round * 5), from, to);
            detector.note_session(at(round * 5), false);
            seen.extend(detector.judge(at(round * 5), Some(to)));
        }
        assert!(seen.len() >= 8, "{seen:?}");
        assert_eq!(seen.iter().filter(|(_, is_news)| *is_news).count(), 1);
        assert_eq!(seen[0].0.ends.map(|ends| ends[0] != ends[1]), Some(true));
        assert!(seen[0].0.is_fresh(at(60)) && !seen[0].0.is_fresh(at(600)));
    }

    #[test]
    fn one_machine_with_two_ways_out_or_a_nat_that_forgets_is_none() {
        let mut two_ways = SharedKeyDetector::default();
        let mut rebinding = SharedKeyDetector::default();
        for round in 0..600 {
            two_ways.note_move(at(round), place(round % 2), place((round + 1) % 2));
            rebinding.note_move(at(round), place(round), place(round + 1));
            rebinding.note_session(at(round), false);
            if round % 120 == 0 {
                two_ways.note_session(at(round), false);
            }
            assert_eq!(two_ways.judge(at(round), Some(place(0))), None, "{round}");
            assert_eq!(rebinding.judge(at(round), Some(place(0))), None, "{round}");
        }
    }

    #[test]
    fn sessions_of_ours_that_work_and_are_lost_every_few_seconds_are_a_shared_key() {
        let mut detector = SharedKeyDetector::default();
        for round in 0..4 {
            detector.note_session(at(round * 8), true);
            assert_eq!(detector.judge(at(round * 8), None), None);
        }
        detector.note_session(at(32), true);
        assert_eq!(detector.judge(at(32), None), Some((SharedKey { at: at(32), ends: None }, true)));
        // A path that loses packets: sessions that lost probes work again.
        let mut lossy = SharedKeyDetector::default();
        for round in 0..100 {
            lossy.note_survival(at(round * 8));
            lossy.note_session(at(round * 8 + 4), true);
            assert_eq!(lossy.judge(at(round * 8 + 4), None), None);
        }
        // Renewals in time, and sessions that never worked, are not counted.
        let mut calm = SharedKeyDetector::default();
        for round in 0..100 {
            calm.note_session(at(round * 120), true);
            calm.note_session(at(round * 120 + 1), false);
            assert_eq!(calm.judge(at(round * 120), None), None);
        }
    }

    fn place(last: u64) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 7], 1_000 + last as u16))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
