//! What to send next.

use tunnel::time::Instant;

use super::Sender;
use super::black_hole::SHORT;
use super::cubic::Cubic;
use super::recovery::Phase;
use super::scoreboard::Run;
use super::timers::Probe;

/// How long segments are, in bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cell) struct Sizes {
    /// The longest one on the path.
    pub(in crate::cell) segment: usize,
    /// The most that may be sent at once, a multiple of `segment`.
    pub(in crate::cell) largest: usize,
}

/// A segment to send, or several of [`Sizes::segment`] bytes in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cell) struct Segment {
    /// Sequence number of its first byte.
    pub(in crate::cell) sequence: u32,
    /// Where its bytes begin, counted from the first unacknowledged one.
    pub(in crate::cell) at: usize,
    /// Bytes of payload.
    pub(in crate::cell) len: usize,
    /// Nothing that was written follows it.
    pub(in crate::cell) push: bool,
    /// The flow ends with it.
    pub(in crate::cell) fin: bool,
}

/// How much of the congestion window was used: one that was not does not show what the path carries
/// (RFC 9438 §5.8).
#[derive(Debug, Default)]
pub(super) struct Usage {
    is_limited: bool,
    most: u64,
    until: u64,
}

impl Usage {
    /// Whether the window may grow; judged over a round trip, as acknowledgements come in bursts.
    pub(super) fn is_full(&self, cubic: &Cubic) -> bool {
        self.is_limited || (cubic.is_slow_start() && (cubic.window() as u64) < 2 * self.most)
    }
}

impl Sender {
    /// The next segment to send now, which counts as sent; `None` when nothing may be.
    pub(in crate::cell) fn poll_segment(&mut self, now: Instant) -> Option<Segment> {
        if std::mem::take(&mut self.timers.window_probe_due) {
            // One before the first: no receiver takes it, and every one replies with its window.
            let sequence = self.sequence_of(self.board.acknowledged()).wrapping_sub(1);
            return Some(Segment { sequence, at: 0, len: 0, push: false, fin: false });
        }
        if std::mem::take(&mut self.timers.probe_due)
            && let Some(run) = self.probe_run()
        {
            let again = run.0 < self.board.next();
            self.probe = Some(Probe { end: run.1, again });
            let segment = self.send(now, run);
            self.timers.probe = None;
            self.timers.retransmit = Some(now.after(self.rtt.timeout()));
            return Some(segment);
        }
        let Some(run) = self.lost_run().or_else(|| self.new_run(now)) else {
            self.note_usage();
            self.watch_window(now);
            return None;
        };
        Some(self.send(now, run))
    }

    /// Bytes that the congestion window allows now.
    pub(super) fn allowance(&self) -> u64 {
        let in_flight = self.in_flight();
        let allowance = match self.recovery.phase() {
            Phase::Open | Phase::Timeout => (self.cubic.window() as u64).saturating_sub(in_flight),
            Phase::Fast => self.recovery.quota(),
        };
        // With nothing on the path nothing would ever come back.
        if in_flight == 0 { allowance.max(self.sizes.segment as u64) } else { allowance }
    }

    fn lost_run(&mut self) -> Option<Run> {
        let segment = self.sizes.segment as u64;
        let allowance = self.allowance();
        let is_enough = allowance >= self.board.lost();
        let most = if is_enough { allowance } else { allowance / segment * segment };
        let is_trying = self.black_hole.is_trying(self.sizes.segment);
        let longest = if is_trying { SHORT } else { self.sizes.largest as u64 };
        if most == 0 {
            return None;
        }
        let run = self.board.first_lost(most.min(longest))?;
        if is_trying && run.0 == self.board.acknowledged() && run.1 - run.0 == SHORT {
            self.black_hole.handle_short(run.1);
        }
        Some(run)
    }

    fn new_run(&mut self, now: Instant) -> Option<Run> {
        let next = self.board.next();
        let unsent = self.stream_end() - next;
        if unsent == 0 || self.board.lost() > 0 {
            return None;
        }
        if !self.board.has_room() {
            self.tally.full += 1;
            return None;
        }
        if self.board.outstanding() == 0 {
            self.cubic.rest(now.since(self.last_sent), self.rtt.timeout());
        }
        let (allowance, room) = (self.allowance(), self.window.edge.saturating_sub(next));
        let len = self.cut(unsent, allowance, room);
        (len > 0).then_some((next, next + len))
    }

    /// How much of what is unsent leaves in one piece: whole segments, or all there is.
    fn cut(&self, unsent: u64, allowance: u64, room: u64) -> u64 {
        let segment = self.sizes.segment as u64;
        let wanted = unsent.min(self.sizes.largest as u64);
        let len = wanted.min(allowance).min(room);
        if len == wanted {
            return len;
        }
        let whole = len / segment * segment;
        // A window smaller than a segment is used once there is nothing to wait for (RFC 9293
        // §3.8.6.2.1).
        let is_small =
            room <= allowance && (self.board.outstanding() == 0 || room * 2 >= self.window.largest);
        if whole == 0 && is_small { len } else { whole }
    }

    /// Everything that may leave has left: is it the congestion window that is full?
    fn note_usage(&mut self) {
        let (is_limited, in_flight) = (self.allowance() < self.sizes.segment as u64, self.in_flight());
        let usage = &mut self.usage;
        let is_new = self.board.acknowledged() >= usage.until;
        if is_new || is_limited || (!usage.is_limited && in_flight > usage.most) {
            *usage = Usage { is_limited, most: in_flight, until: self.board.next() };
        }
    }

    /// What a tail loss probe sends: something new where the window allows it, or the last segment
    /// again.
    fn probe_run(&self) -> Option<Run> {
        let (next, segment) = (self.board.next(), self.sizes.segment as u64);
        let new = self.stream_end().min(self.window.edge).saturating_sub(next).min(segment);
        match new > 0 && self.board.has_room() {
            true => Some((next, next + new)),
            false => self.board.last(segment),
        }
    }

    fn send(&mut self, now: Instant, run: Run) -> Segment {
        let (acknowledged, again) = (self.board.acknowledged(), run.0 < self.board.next());
        if again {
            self.board.sent_again(now, run);
        } else {
            self.board.push(now, run.1 - run.0);
        }
        self.recovery.sent(run.1 - run.0, again, self.board.next());
        self.last_sent = now;
        if self.timers.retransmit.is_none() || (again && run.0 == acknowledged) {
            self.timers.retransmit = Some(now.after(self.rtt.timeout()));
        }
        self.arm_probe(now);
        let data_end = run.1.min(self.end);
        if again {
            self.tally.resent += data_end.saturating_sub(run.0);
        }
        Segment {
            sequence: self.sequence_of(run.0),
            at: usize::try_from(run.0 - acknowledged).unwrap_or(usize::MAX),
            len: usize::try_from(data_end - run.0).unwrap_or(0),
            push: data_end == self.end,
            fin: run.1 > self.end,
        }
    }
}
