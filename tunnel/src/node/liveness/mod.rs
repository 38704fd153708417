//! Whether a peer answers: probes, their round trip and loss, and the state that follows from what
//! was heard.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use fastrand::Rng;

use super::config::Liveness;
use super::status::PeerState;
use crate::time::Instant;

/// The first bytes of every probe's data, so that a node knows those it is to answer.
const MARK: [u8; 8] = *b"causeway";
/// Bytes of a probe's data: the mark, and a token that only the prober can make.
pub(in crate::node) const PROBE_LEN: usize = 16;
/// Probes remembered, answered late or not at all.
const REMEMBERED: usize = 8;
/// Probes that a peer gets which has never answered one; then it counts as a plain peer, and is
/// probed again after [`RETRY`].
const UNANSWERED: u32 = 5;
/// Lost probes in a row that are an interruption, and no loss of single packets.
const INTERRUPTION: u32 = 4;
/// Longer than a session lives unused, so that probes alone never keep one alive.
const RETRY: Duration = Duration::from_secs(600);
/// Age past which no session can be alive (reject-after-time, WireGuard paper §6.1).
const SESSION_LIFE: Duration = Duration::from_secs(180);

/// The first bytes of a probe of the path's size; after the token come zeros up to that size.
pub(in crate::node) const SIZE_MARK: [u8; 8] = *b"cw-sizes";

/// What the answer to an echo has to carry, if the echo is a probe: no padding, so that one
/// direction is measured alone.
pub(in crate::node) fn probe_data(data: &[u8]) -> Option<&[u8]> {
    let is_plain = data.len() == PROBE_LEN && data.starts_with(&MARK);
    (is_plain || data.starts_with(&SIZE_MARK)).then(|| data.get(..PROBE_LEN)).flatten()
}

/// One echo request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct Probe {
    pub(in crate::node) id: u16,
    pub(in crate::node) sequence: u16,
    pub(in crate::node) data: [u8; PROBE_LEN],
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u16,
    at: Instant,
    lost: bool,
}

/// The probes of one peer.
pub(in crate::node) struct Prober {
    rules: Liveness,
    id: u16,
    sequence: u16,
    tokens: RandomState,
    sent: VecDeque<Sent>,
    next: Option<Instant>,
    /// Probes left for a peer that has never answered one, and since when.
    tries_left: u32,
    tried_since: Option<Instant>,
    answered: bool,
    answered_at: Option<Instant>,
    lost_run: u32,
    lost_total: u64,
    /// The last 32 outcomes, the newest in the lowest bit, set when lost.
    outcomes: u32,
    decided: u32,
    round_trip: Option<RoundTrip>,
}

#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: Duration,
    deviation: Duration,
}

impl Prober {
    pub(in crate::node) fn new(rules: Liveness, random: &mut Rng) -> Self {
        Self {
            rules,
            id: random.u16(..),
            sequence: random.u16(..),
            tokens: RandomState::new(),
            sent: VecDeque::with_capacity(REMEMBERED),
            next: None,
            tries_left: 0,
            tried_since: None,
            answered: false,
            answered_at: None,
            lost_run: 0,
            lost_total: 0,
            outcomes: 0,
            decided: 0,
            round_trip: None,
        }
    }

    /// A session was agreed: probe at once.
    pub(in crate::node) fn activate(&mut self, now: Instant) {
        self.next = Some(now);
        // What was lost since the last answer was lost with the session before, and what is still
        // unanswered says nothing about this one.
        self.forget_run();
        self.sent.iter_mut().for_each(|sent| sent.lost = true);
        // One that answers handshakes but stopped answering probes long ago is a plain peer now.
        self.answered &= self.answered_at.is_some_and(|at| now.since(at) < RETRY);
        if self.tried_since.is_none_or(|at| now.since(at) >= RETRY) {
            self.tries_left = UNANSWERED;
            self.tried_since = Some(now);
        }
    }

    /// Probes by other rules from now on.
    pub(in crate::node) fn change_rules(&mut self, rules: Liveness, now: Instant) {
        self.rules = rules;
        self.next = self.next.map(|next| next.min(now.after(self.interval())));
    }

    /// There is no session to probe through.
    pub(in crate::node) fn deactivate(&mut self) {
        self.next = None;
        self.sent.clear();
        self.lost_run = 0;
    }

    /// The probe that is due, if one is.
    pub(in crate::node) fn poll(&mut self, now: Instant) -> Option<Probe> {
        self.next.filter(|next| *next <= now)?;
        if !self.answered {
            if self.tries_left == 0 {
                self.next = None;
                return None;
            }
            self.tries_left -= 1;
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sequence = self.sequence.wrapping_add(1);
        let sent = Sent { sequence: self.sequence, at: now, lost: false };
        self.sent.push_back(sent);
        self.next = Some(now.after(self.interval()));
        Some(Probe { id: self.id, sequence: self.sequence, data: self.data(&sent) })
    }

    /// Counts the probes that were not answered in time; returns whether so many in a row that
    /// recovery is due.
    ///
    /// A peer that never answered one does not lose any: it may be unable to answer.
    pub(in crate::node) fn handle_timeout(&mut self, now: Instant) -> bool {
        let timeout = self.reply_timeout();
        let overdue = |sent: &&mut Sent| !sent.lost && sent.at.after(timeout) <= now;
        let lost = self.sent.iter_mut().filter(overdue).map(|sent| sent.lost = true).count();
        if lost == 0 || !self.answered {
            return false;
        }
        for _ in 0..lost {
            self.decide(true);
            self.lost_run = self.lost_run.saturating_add(1);
            self.lost_total += 1;
        }
        let soon = self.sent.back().map_or(now, |sent| sent.at.after(self.rules.interval_lost)).max(now);
        self.next = self.next.map(|next| next.min(soon));
        self.lost_run >= self.rules.tolerated
    }

    /// Takes an echo reply; returns whether it answers a probe of ours, at most once each.
    pub(in crate::node) fn handle_reply(
        &mut self,
        id: u16,
        sequence: u16,
        data: &[u8],
        now: Instant,
    ) -> bool {
        let Some(at) = self.sent.iter().position(|sent| sent.sequence == sequence) else { return false };
        let Some(sent) = self.sent.get(at).copied() else { return false };
        if id != self.id || data != self.data(&sent) {
            return false;
        }
        self.sent.remove(at);
        self.measure(now.since(sent.at));
        if !sent.lost {
            self.decide(false);
        }
        self.answered = true;
        self.answered_at = Some(now);
        if self.lost_run >= INTERRUPTION {
            self.forget_run_before(!sent.lost);
        }
        self.lost_run = 0;
        true
    }

    /// When [`poll`](Self::poll) or [`handle_timeout`](Self::handle_timeout) is next due.
    pub(in crate::node) fn deadline(&self) -> Option<Instant> {
        let timeout = self.reply_timeout();
        let overdue = self.sent.iter().filter(|sent| !sent.lost).map(|sent| sent.at.after(timeout)).min();
        self.next.into_iter().chain(overdue).min()
    }

    /// Makes the next probe due at once, to go with another packet.
    pub(in crate::node) const fn probe_now(&mut self, now: Instant) {
        if self.next.is_some() {
            self.next = Some(now);
        }
    }

    /// Whether it ever answered a probe.
    pub(in crate::node) const fn has_answered(&self) -> bool {
        self.answered
    }

    /// When it last answered one.
    pub(in crate::node) const fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// Smoothed round trip.
    pub(in crate::node) fn rtt(&self) -> Option<Duration> {
        self.round_trip.map(|round_trip| round_trip.smoothed)
    }

    /// Lost and decided probes among the last 32.
    pub(in crate::node) const fn recent(&self) -> (u32, u32) {
        (self.outcomes.count_ones(), self.decided)
    }

    /// Probes lost since the start.
    pub(in crate::node) const fn lost_total(&self) -> u64 {
        self.lost_total
    }

    const fn interval(&self) -> Duration {
        if self.lost_run > 0 { self.rules.interval_lost } else { self.rules.interval }
    }

    /// How long to wait for an answer: as TCP's retransmission timer (RFC 6298), within the
    /// interval of the probes.
    pub(in crate::node) fn reply_timeout(&self) -> Duration {
        let (low, high) = (self.rules.interval_lost, self.rules.interval.max(self.rules.interval_lost));
        self.round_trip.map_or(low, |trip| (trip.smoothed + trip.deviation * 4).clamp(low, high))
    }

    fn measure(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { smoothed: sample, deviation: sample / 2 },
            Some(RoundTrip { smoothed, deviation }) => RoundTrip {
                smoothed: (smoothed * 7 + sample) / 8,
                deviation: (deviation * 3 + smoothed.abs_diff(sample)) / 4,
            },
        });
    }

    /// Takes the run of lost probes that a session ended out of what counts as loss.
    fn forget_run(&mut self) {
        self.forget_run_before(false);
        self.lost_run = 0;
    }

    /// The same for a run that `is_followed` by the outcome of the probe that ended it.
    fn forget_run_before(&mut self, is_followed: bool) {
        let newest = u32::from(is_followed);
        let run = self.lost_run.min(self.decided.saturating_sub(newest));
        let older = self.outcomes.checked_shr(run + newest).unwrap_or(0);
        self.outcomes = older.checked_shl(newest).unwrap_or(0);
        self.decided -= run;
    }

    /// Whether the last probes were lost, in the session in use.
    pub(in crate::node) const fn is_losing(&self) -> bool {
        self.lost_run > 0
    }

    const fn decide(&mut self, lost: bool) {
        self.outcomes = self.outcomes << 1 | lost as u32;
        if self.decided < u32::BITS {
            self.decided += 1;
        }
    }

    fn data(&self, sent: &Sent) -> [u8; PROBE_LEN] {
        let token = self.tokens.hash_one((sent.sequence, sent.at)).to_le_bytes();
        let mut data = [0; PROBE_LEN];
        for (byte, from) in data.iter_mut().zip(MARK.into_iter().chain(token)) {
            *byte = from;
        }
        data
    }
}

/// The facts that a peer's state follows from.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct Facts {
    /// The last authenticated packet.
    pub(in crate::node) heard: Option<Instant>,
    /// The last agreed session.
    pub(in crate::node) handshake: Option<Instant>,
    /// Whether it ever answered a probe.
    pub(in crate::node) answered: bool,
    /// Whether the last attempt at a session was given up.
    pub(in crate::node) failed: bool,
}

impl Facts {
    /// The state at `now`, and when time alone will change it.
    pub(in crate::node) fn judge(
        &self,
        rules: Option<&Liveness>,
        now: Instant,
    ) -> (PeerState, Option<Instant>) {
        let Some(heard) = self.heard else { return (PeerState::Never, None) };
        let (since, within) = match (rules, self.handshake) {
            (Some(rules), _) if self.answered => (heard, rules.up_within),
            (Some(rules), Some(handshake)) => (handshake, rules.plain_up_within),
            (None, Some(handshake)) => (handshake, SESSION_LIFE),
            (_, None) => (heard, Duration::ZERO),
        };
        let (stale, down) = (since.after(within), heard.after(SESSION_LIFE));
        if now < stale {
            (PeerState::Up, Some(stale))
        } else if now < down && self.answered && !self.failed {
            (PeerState::Stale, Some(down))
        } else {
            (PeerState::Down, None)
        }
    }
}

#[cfg(test)]
mod tests;
