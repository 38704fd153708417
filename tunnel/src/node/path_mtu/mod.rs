//! The search for the largest packet that a path carries: padded echo requests that must not be
//! fragmented (RFC 8899 in its terms). Of a given size only whether it passes is found: those may be
//! fragmented, as all other packets.
//!
//! It counts inner sizes: the outer packet is 60 bytes longer over IPv4 and 80 over IPv6. Every
//! probe goes with a small one; only while the small one is answered does the loss of the large one
//! show that its size is too large.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use fastrand::Rng;

use super::config::MtuRange;
use super::liveness::{PROBE_LEN, SIZE_MARK};
use crate::time::Instant;

/// What most paths carry whatever the outer family, so it is tried first.
const FIRST: u16 = 1420;
/// What is assumed when the size in use is lost (RFC 8899 §5.1.2, BASE_PLPMTU), within the range.
const BASE: u16 = 1280;
/// How closely the size is searched.
const STEP: u16 = 4;
/// The least time from one probe to the next.
const SPACING: Duration = Duration::from_secs(1);
/// Lost probes of one size that make it too large (RFC 8899 §5.1.2, MAX_PROBES).
const TRIES: u32 = 3;
/// Lost probes of the size in use that make the path a new one: more, since that size is probed
/// thousands of times a day.
const TRIES_IN_USE: u32 = 5;
/// How often the size in use is tried again, when it was searched and when it was given.
const VERIFY: Duration = Duration::from_secs(15);
const VERIFY_GIVEN: Duration = Duration::from_secs(60);
/// How often a larger size is tried (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
const RAISE: Duration = Duration::from_secs(600);

/// One padded echo request to send, its packet exactly `size` bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct SizeProbe {
    pub(in crate::node) id: u16,
    pub(in crate::node) sequence: u16,
    pub(in crate::node) size: u16,
    pub(in crate::node) data: [u8; PROBE_LEN],
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Search,
    Verify,
    Raise,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u16,
    at: Instant,
    overdue: Instant,
}

/// One size under trial.
#[derive(Clone, Copy, Debug)]
struct Trial {
    aim: Aim,
    size: u16,
    lost: u32,
    sent: Option<Sent>,
}

/// What is left of a search: the path carries `low` (if `is_proven`) and not `high`.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: u16,
    high: u16,
    is_proven: bool,
}

/// The search on the path to one peer.
pub(in crate::node) struct Search {
    range: MtuRange,
    id: u16,
    sequence: u16,
    tokens: RandomState,
    is_active: bool,
    /// Set while searching.
    bounds: Option<Bounds>,
    trial: Option<Trial>,
    last: Option<Instant>,
    verify_at: Instant,
    raise_at: Instant,
    found: Option<u16>,
    /// Whether not even the least size passed, the last time.
    is_refused: bool,
}

impl Search {
    pub(in crate::node) fn new(range: MtuRange, random: &mut Rng) -> Self {
        Self {
            range,
            id: random.u16(..),
            sequence: random.u16(..),
            tokens: RandomState::new(),
            is_active: false,
            bounds: Some(Bounds::of(range)),
            trial: None,
            last: None,
            verify_at: Instant::default(),
            raise_at: Instant::default(),
            found: None,
            is_refused: false,
        }
    }

    /// The sizes it keeps to.
    pub(in crate::node) const fn range(&self) -> MtuRange {
        self.range
    }

    /// The largest inner packet that the path carries, once it is known.
    pub(in crate::node) const fn found(&self) -> Option<u16> {
        self.found
    }

    /// The given size, while packets of it do not pass and small ones do.
    pub(in crate::node) const fn lost(&self) -> Option<u16> {
        if self.range.may_fragment && self.is_refused { Some(self.range.most) } else { None }
    }

    /// There is a session: the size in use is tried at once, or the search continues.
    pub(in crate::node) const fn activate(&mut self, now: Instant) {
        self.is_active = true;
        self.verify_at = now;
    }

    /// There is no session to probe through; what was found stays.
    pub(in crate::node) const fn deactivate(&mut self) {
        self.is_active = false;
        self.trial = None;
    }

    /// The path is another one: searches it from the start. Until that ends, what was found stays.
    pub(in crate::node) const fn restart(&mut self) {
        self.bounds = Some(Bounds::of(self.range));
        self.trial = None;
    }

    /// The probe that is due, if one is; lost after `timeout` without an answer.
    pub(in crate::node) fn poll(&mut self, now: Instant, timeout: Duration) -> Option<SizeProbe> {
        if !self.is_active || self.trial.is_some_and(|trial| trial.sent.is_some()) || self.due() > now {
            return None;
        }
        let mut trial = match self.trial {
            Some(trial) => trial,
            None => self.next_trial(now)?,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let sent = Sent {
            sequence: self.sequence,
            at: now,
            overdue: now.after(timeout.max(Duration::from_millis(1))),
        };
        trial.sent = Some(sent);
        self.trial = Some(trial);
        self.last = Some(now);
        let data = self.data(&sent);
        Some(SizeProbe { id: self.id, sequence: sent.sequence, size: trial.size, data })
    }

    /// Counts a probe that was not answered in time, if a small one that left with it or later was:
    /// `answered` is when the peer last answered one. Otherwise the path is down or lossy, and the
    /// probe shows nothing about its size.
    pub(in crate::node) fn handle_timeout(&mut self, now: Instant, answered: Option<Instant>) {
        let Some(mut trial) = self.trial else { return };
        let Some(sent) = trial.sent.filter(|sent| sent.overdue <= now) else { return };
        trial.sent = None;
        trial.lost += u32::from(answered.is_some_and(|at| at >= sent.at));
        let tries = if trial.aim == Aim::Verify { TRIES_IN_USE } else { TRIES };
        if trial.lost < tries {
            self.trial = Some(trial);
        } else {
            self.trial = None;
            self.refused(&trial, now);
        }
    }

    /// Takes an echo reply; returns whether it answers the probe under way.
    pub(in crate::node) fn handle_reply(
        &mut self,
        id: u16,
        sequence: u16,
        data: &[u8],
        now: Instant,
    ) -> bool {
        let Some((trial, sent)) = self.trial.and_then(|trial| Some((trial, trial.sent?))) else {
            return false;
        };
        // Other implementations answer with the padding.
        let answers = id == self.id && sequence == sent.sequence && data.starts_with(&self.data(&sent));
        if answers {
            self.trial = None;
            self.carried(&trial, now);
        }
        answers
    }

    /// When [`poll`](Self::poll) or [`handle_timeout`](Self::handle_timeout) is next due.
    pub(in crate::node) fn deadline(&self) -> Option<Instant> {
        let overdue = self.trial.and_then(|trial| trial.sent).map(|sent| sent.overdue);
        self.is_active.then(|| overdue.unwrap_or_else(|| self.due()))
    }

    /// When the next probe may leave.
    fn due(&self) -> Instant {
        let spaced = self.last.map_or(Instant::default(), |last| last.after(SPACING));
        if self.trial.is_some() || self.bounds.is_some() {
            return spaced;
        }
        let wanted = if self.found.is_some() { self.verify_at.min(self.raise_at) } else { self.raise_at };
        wanted.max(spaced)
    }

    fn next_trial(&mut self, now: Instant) -> Option<Trial> {
        if let Some(bounds) = self.bounds {
            return Some(Trial::new(Aim::Search, bounds.candidate(self.range)));
        }
        let Some(found) = self.found else {
            // Nothing was answered the last time, not even the least.
            self.restart();
            return Some(Trial::new(Aim::Search, Bounds::of(self.range).candidate(self.range)));
        };
        if self.raise_at > now {
            return Some(Trial::new(Aim::Verify, found));
        }
        self.raise_at = now.after(RAISE);
        (found + STEP <= self.range.most).then(|| Trial::new(Aim::Raise, found + STEP))
    }

    fn carried(&mut self, trial: &Trial, now: Instant) {
        self.verify_at = now.after(self.verify_every());
        let bounds = match (trial.aim, self.bounds) {
            (Aim::Search, Some(bounds)) => Bounds { low: trial.size, is_proven: true, ..bounds },
            (Aim::Raise, _) => Bounds { low: trial.size, is_proven: true, ..Bounds::of(self.range) },
            _ => return,
        };
        self.narrow(bounds, now);
    }

    fn refused(&mut self, trial: &Trial, now: Instant) {
        match (trial.aim, self.bounds) {
            (Aim::Search, Some(bounds)) if trial.size <= bounds.low => self.settle(None, now),
            (Aim::Search, Some(bounds)) => self.narrow(Bounds { high: trial.size, ..bounds }, now),
            (Aim::Verify, _) => {
                self.found = Some(BASE.clamp(self.range.least, trial.size));
                self.bounds = Some(Bounds { high: trial.size, ..Bounds::of(self.range) });
            }
            _ => {}
        }
    }

    fn narrow(&mut self, bounds: Bounds, now: Instant) {
        if bounds.is_closed() && bounds.is_proven {
            self.settle(Some(bounds.low), now);
        } else {
            self.bounds = Some(bounds);
        }
    }

    const fn settle(&mut self, found: Option<u16>, now: Instant) {
        self.found = found;
        self.is_refused = found.is_none();
        self.bounds = None;
        self.verify_at = now.after(self.verify_every());
        // A given size that was refused is tried again as soon as one that passed.
        let is_given = self.range.may_fragment && self.is_refused;
        self.raise_at = now.after(if is_given { VERIFY_GIVEN } else { RAISE });
    }

    const fn verify_every(&self) -> Duration {
        if self.range.may_fragment { VERIFY_GIVEN } else { VERIFY }
    }

    fn data(&self, sent: &Sent) -> [u8; PROBE_LEN] {
        let token = self.tokens.hash_one((sent.sequence, sent.at)).to_le_bytes();
        let mut data = [0; PROBE_LEN];
        for (byte, from) in data.iter_mut().zip(SIZE_MARK.into_iter().chain(token)) {
            *byte = from;
        }
        data
    }
}

impl Trial {
    const fn new(aim: Aim, size: u16) -> Self {
        Self { aim, size, lost: 0, sent: None }
    }
}

impl Bounds {
    const fn of(range: MtuRange) -> Self {
        Self { low: range.least, high: range.most.saturating_add(STEP), is_proven: false }
    }

    const fn is_closed(self) -> bool {
        self.high.saturating_sub(self.low) <= STEP
    }

    /// What to try next: the usual size, the largest, then the middle; the least when nothing else
    /// is left.
    fn candidate(self, range: MtuRange) -> u16 {
        if self.is_closed() {
            return self.low;
        }
        if self.high > range.most {
            let first = if self.low < FIRST { FIRST } else { range.most };
            return first.min(range.most);
        }
        let middle = self.low.midpoint(self.high);
        middle - (middle - range.least) % STEP
    }
}

#[cfg(test)]
mod tests;
