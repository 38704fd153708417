//! Whether another machine uses a key at the same time: a peer's, as its endpoint and sessions show it, or our own.
//!
//! Two machines with one key take the session from each other every few seconds. To their peer the endpoint goes to and
//! fro, each time with a session of its own. To each of them a session works, falls silent, and works again once renewed.

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// How long what happened counts.
const WINDOW: Duration = Duration::from_secs(60);
/// How long nothing must be seen before it is reported again.
const QUIET: Duration = Duration::from_secs(600);
/// Endpoints remembered.
const PLACES: usize = 4;
/// Returns to an endpoint, and sessions, within the window that one machine does not have.
const RETURNS: usize = 3;
const SESSIONS: usize = 4;
/// Sessions of ours within the window that worked and were lost all the same.
const LOST: usize = 5;

/// That a key is used by two machines, as far as it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedKey {
    /// When it was last seen.
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

/// What points to it, of one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rivals {
    places: [Option<SocketAddr>; PLACES],
    returns: Times,
    sessions: Times,
    lost: Times,
    reported: Option<Instant>,
}

impl Rivals {
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

    /// What follows at `now`, with the peer at `at`; and whether that is to be reported.
    pub(super) fn judge(&mut self, now: Instant, at: Option<SocketAddr>) -> Option<(SharedKey, bool)> {
        let moves = self.returns.within(now) >= RETURNS && self.sessions.within(now) >= SESSIONS;
        let ends = self.places[0].zip(at).filter(|_| moves).map(<[SocketAddr; 2]>::from);
        if ends.is_none() && self.lost.within(now) < LOST {
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
    fn an_endpoint_that_goes_to_and_fro_with_a_session_each_time_is_a_shared_key() {
        let mut rivals = Rivals::default();
        let mut seen = Vec::new();
        for turn in 0..12_u64 {
            let (from, to) = (place(turn % 2), place((turn + 1) % 2));
            rivals.note_move(at(turn * 5), from, to);
            rivals.note_session(at(turn * 5), false);
            seen.extend(rivals.judge(at(turn * 5), Some(to)));
        }
        assert!(seen.len() >= 8, "{seen:?}");
        assert_eq!(seen.iter().filter(|(_, is_news)| *is_news).count(), 1);
        assert_eq!(seen[0].0.ends.map(|ends| ends[0] != ends[1]), Some(true));
        assert!(seen[0].0.is_fresh(at(60)) && !seen[0].0.is_fresh(at(600)));
    }

    #[test]
    fn one_machine_with_two_ways_out_or_a_nat_that_forgets_is_none() {
        let mut two_ways = Rivals::default();
        let mut rebinding = Rivals::default();
        for turn in 0..600 {
            two_ways.note_move(at(turn), place(turn % 2), place((turn + 1) % 2));
            rebinding.note_move(at(turn), place(turn), place(turn + 1));
            rebinding.note_session(at(turn), false);
            if turn % 120 == 0 {
                two_ways.note_session(at(turn), false);
            }
            assert_eq!(two_ways.judge(at(turn), Some(place(0))), None, "{turn}");
            assert_eq!(rebinding.judge(at(turn), Some(place(0))), None, "{turn}");
        }
    }

    #[test]
    fn sessions_of_ours_that_work_and_are_lost_every_few_seconds_are_a_shared_key() {
        let mut rivals = Rivals::default();
        for turn in 0..4 {
            rivals.note_session(at(turn * 8), true);
            assert_eq!(rivals.judge(at(turn * 8), None), None);
        }
        rivals.note_session(at(32), true);
        assert_eq!(rivals.judge(at(32), None), Some((SharedKey { at: at(32), ends: None }, true)));
        // Renewals in time, and sessions that never worked, are not counted.
        let mut calm = Rivals::default();
        for turn in 0..100 {
            calm.note_session(at(turn * 120), true);
            calm.note_session(at(turn * 120 + 1), false);
            assert_eq!(calm.judge(at(turn * 120), None), None);
        }
    }

    fn place(last: u64) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 7], 1_000 + last as u16))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
