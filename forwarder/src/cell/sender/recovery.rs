//! How much may be sent while losses are repaired: proportional rate reduction (RFC 6937), and when
//! a reduction was a mistake.

use super::scoreboard::Run;

/// What the sender is doing about losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// Losses were reported by acknowledgements.
    Fast,
    /// The retransmission timeout ran out.
    Timeout,
}

/// An episode of recovery, or none.
#[derive(Debug)]
pub(super) struct Recovery {
    phase: Phase,
    /// Over once this offset is acknowledged.
    point: u64,
    rate: Rate,
    /// Bytes sent again since the last reduction, minus those that arrived twice; `None` when it
    /// cannot be undone.
    resent: Option<u64>,
    /// Where the last reduction was: duplicates below are not about it.
    reduced_at: u64,
    /// What was sent last when something was sent again: once that is acknowledged, any
    /// duplicate has been reported.
    answered_at: u64,
}

/// The counters of RFC 6937 §3.
#[derive(Debug, Default)]
struct Rate {
    window: u64,
    delivered: u64,
    out: u64,
    quota: u64,
}

/// One acknowledgement during recovery, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) delivered: u64,
    pub(super) in_flight: u64,
    /// The window's next value.
    pub(super) threshold: u64,
    /// The acknowledgement advanced, and nothing more was found lost.
    pub(super) is_good: bool,
    pub(super) segment: u64,
}

impl Recovery {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Open,
            point: 0,
            rate: Rate::default(),
            resent: None,
            reduced_at: 0,
            answered_at: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Losses were found; `window` is what it was before the reduction, `sent` the bytes between
    /// first and next.
    pub(super) fn begin(&mut self, window: u64, sent: Run) {
        self.phase = Phase::Fast;
        self.rate = Rate { window: window.max(1), ..Rate::default() };
        self.reduced(sent);
    }

    /// The timeout ran out; `is_new` when the window was reduced for it.
    pub(super) fn time_out(&mut self, sent: Run, is_new: bool) {
        self.phase = Phase::Timeout;
        match is_new {
            true => self.reduced(sent),
            false => self.resent = None,
        }
        self.point = sent.1;
    }

    /// Whether something was sent again of which it cannot be known yet whether it arrived twice:
    /// then the next reduction is one with the last, and both are undone together or not at all.
    pub(super) fn is_unanswered(&self, acknowledged: u64) -> bool {
        self.has_resent() && acknowledged <= self.answered_at
    }

    fn reduced(&mut self, sent: Run) {
        self.point = sent.1;
        if !self.is_unanswered(sent.0) {
            self.reduced_at = sent.0;
            self.resent = Some(0);
        }
    }

    /// Whether everything sent before the episode began is acknowledged.
    pub(super) fn is_over(&self, acknowledged: u64) -> bool {
        self.phase != Phase::Open && acknowledged >= self.point
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Open;
    }

    /// Bytes that may leave now.
    pub(super) fn quota(&self) -> u64 {
        self.rate.quota
    }

    /// Computes the quota again (RFC 6937 §3, with the slow start reduction bound).
    pub(super) fn step(&mut self, step: Step) {
        let Step { delivered, in_flight, threshold, is_good, segment } = step;
        let rate = &mut self.rate;
        rate.delivered += delivered;
        let quota = if in_flight > threshold {
            (rate.delivered * threshold).div_ceil(rate.window).saturating_sub(rate.out)
        } else {
            let bound = rate.delivered.saturating_sub(rate.out).max(delivered);
            (bound + if is_good { segment } else { 0 }).min(threshold - in_flight)
        };
        // The first retransmission always leaves.
        rate.quota = if rate.out == 0 { quota.max(segment) } else { quota };
    }

    /// Something left, and with it all up to `next`.
    pub(super) fn sent(&mut self, len: u64, again: bool, next: u64) {
        self.rate.out += len;
        self.rate.quota = self.rate.quota.saturating_sub(len);
        if let Some(resent) = self.resent.as_mut().filter(|_| again) {
            *resent += len;
            self.answered_at = next;
        }
    }

    /// Whether something was sent again since the last reduction of which it is not known that it
    /// arrived twice.
    pub(super) fn has_resent(&self) -> bool {
        self.resent.is_some_and(|resent| resent > 0)
    }

    /// A run arrived twice; `true` when by now everything sent again did, so that the reduction was
    /// a mistake.
    pub(super) fn handle_duplicate(&mut self, run: Run) -> bool {
        let Some(resent) = self.resent.as_mut().filter(|resent| **resent > 0) else { return false };
        if run.1 <= self.reduced_at {
            return false;
        }
        *resent = resent.saturating_sub(run.1 - run.0);
        *resent == 0
    }

    /// Whether an episode comes to its end with nothing sent again: what was thought lost arrived
    /// by itself.
    pub(super) fn is_needless(&self) -> bool {
        self.phase == Phase::Fast && self.resent == Some(0)
    }

    /// Whether the reduction may still be undone; only once.
    pub(super) fn take_undo(&mut self) -> bool {
        self.resent.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1_000;

    #[test]
    fn the_first_retransmission_leaves_and_then_seven_of_ten_arrivals_are_answered() {
        let mut recovery = Recovery::new();
        recovery.begin(100 * SEGMENT, (0, 100 * SEGMENT));
        let mut in_flight = 95 * SEGMENT;
        let mut out = 0;
        for arrival in 1..=60 {
            in_flight -= SEGMENT;
            recovery.step(step(in_flight, 70 * SEGMENT));
            while recovery.quota() >= SEGMENT {
                recovery.sent(SEGMENT, true, 100 * SEGMENT);
                in_flight += SEGMENT;
                out += 1;
            }
            let expected = (arrival * 7_u64).div_ceil(10);
            assert!(out <= expected.max(1) && out + 1 >= expected, "{out} after {arrival}");
        }
    }

    #[test]
    fn below_the_threshold_it_grows_like_slow_start_and_not_beyond() {
        let mut recovery = Recovery::new();
        recovery.begin(100 * SEGMENT, (0, 100 * SEGMENT));
        recovery.step(Step { is_good: true, ..step(20 * SEGMENT, 70 * SEGMENT) });
        assert_eq!(recovery.quota(), 2 * SEGMENT);
        recovery.step(Step { is_good: true, ..step(69_500, 70 * SEGMENT) });
        assert_eq!(recovery.quota(), SEGMENT, "the first one");
        recovery.sent(SEGMENT, true, 100 * SEGMENT);
        recovery.step(step(69_500, 70 * SEGMENT));
        assert_eq!(recovery.quota(), 500);
    }

    #[test]
    fn a_reduction_is_a_mistake_once_everything_sent_again_arrived_twice() {
        let mut recovery = Recovery::new();
        assert!(!recovery.handle_duplicate((0, 10)));
        recovery.begin(100, (100, 200));
        recovery.sent(20, true, 200);
        recovery.sent(50, false, 250);
        assert!(!recovery.handle_duplicate((50, 100)), "it was sent before the reduction");
        assert!(!recovery.handle_duplicate((100, 110)));
        assert!(recovery.handle_duplicate((110, 120)));
        assert!(recovery.take_undo() && !recovery.take_undo());
        assert!(!recovery.handle_duplicate((120, 130)));
    }

    #[test]
    fn two_reductions_in_one_round_trip_are_one_mistake_or_none() {
        let mut recovery = Recovery::new();
        recovery.begin(100, (100, 200));
        recovery.sent(20, true, 200);
        recovery.end();
        assert!(recovery.is_unanswered(200));
        recovery.begin(70, (200, 260));
        recovery.sent(10, true, 260);
        assert!(!recovery.handle_duplicate((100, 120)));
        assert!(recovery.handle_duplicate((200, 210)));
        // Once what left after it is acknowledged, no duplicate of it can be reported any more.
        recovery.begin(100, (300, 400));
        recovery.sent(20, true, 400);
        recovery.end();
        assert!(!recovery.is_unanswered(401));
        recovery.begin(70, (401, 500));
        assert!(!recovery.has_resent());
    }

    #[test]
    fn an_episode_is_over_when_what_was_sent_before_is_acknowledged() {
        let mut recovery = Recovery::new();
        assert!(!recovery.is_over(1_000));
        recovery.time_out((100, 200), true);
        assert!(!recovery.is_over(199) && recovery.is_over(200));
        recovery.end();
        assert_eq!(recovery.phase(), Phase::Open);
    }

    fn step(in_flight: u64, threshold: u64) -> Step {
        Step { delivered: SEGMENT, in_flight, threshold, is_good: false, segment: SEGMENT }
    }
}
