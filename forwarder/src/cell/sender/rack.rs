//! Which of what was sent is lost: RACK (RFC 8985 §6), distinguished from reordering by time.

use std::time::Duration;

use super::rtt::Rtt;
use super::scoreboard::AckSummary;
use tunnel::time::Instant;

/// Segments that arrived out of order before reordering was ever seen: then a gap is a loss (RFC
/// 8985 §6.2, step 4).
const DUPLICATE_THRESHOLD: u64 = 3;
/// Recoveries after which a widened window returns to normal (RFC 8985 §6.2, step 4).
const PERSIST: u32 = 16;

/// What the newest delivery and the reordering of the path are.
#[derive(Debug)]
pub(super) struct Rack {
    newest: Option<(Instant, u64)>,
    round_trip: Duration,
    reordering_seen: bool,
    /// Quarters of the shortest round trip that a late segment may take.
    quarters: u32,
    persist: u32,
    /// No second widening before this offset is acknowledged: once per round trip.
    widened_until: u64,
}

impl Rack {
    pub(super) fn new() -> Self {
        Self {
            newest: None,
            round_trip: Duration::ZERO,
            reordering_seen: false,
            quarters: 1,
            persist: 0,
            widened_until: 0,
        }
    }

    /// Takes what an acknowledgement reported.
    pub(super) fn handle_ack_summary(&mut self, now: Instant, summary: &AckSummary) {
        if let Some(newest) = summary.newest {
            self.round_trip = now.since(newest.0);
            self.newest = Some(self.newest.map_or(newest, |known| known.max(newest)));
        }
        self.reordering_seen |= summary.reordered;
    }

    /// Something arrived twice: what was sent again had not been lost. Widens the window once per
    /// round trip.
    pub(super) fn handle_duplicate(&mut self, acknowledged: u64, next: u64) {
        self.reordering_seen = true;
        if acknowledged >= self.widened_until {
            self.widened_until = next;
            // The window never exceeds a smoothed round trip, so more would mean nothing.
            self.quarters = (self.quarters + 1).min(64);
        }
        self.persist = PERSIST;
    }

    /// A recovery came to its end.
    pub(super) fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }

    /// The newest delivery, if there was one: when it was sent, and its end.
    pub(super) fn newest(&self) -> Option<(Instant, u64)> {
        self.newest
    }

    /// How long after it was sent something may arrive without being lost: a round trip and the
    /// reordering window.
    pub(super) fn allowance(&self, rtt: &Rtt, is_recovering: bool, arrived_segments: u64) -> Duration {
        self.round_trip + self.window(rtt, is_recovering, arrived_segments)
    }

    fn window(&self, rtt: &Rtt, is_recovering: bool, arrived_segments: u64) -> Duration {
        if !self.reordering_seen && (is_recovering || arrived_segments >= DUPLICATE_THRESHOLD) {
            return Duration::ZERO;
        }
        let widest = rtt.smoothed().unwrap_or_default();
        (rtt.shortest().unwrap_or_default() / 4 * self.quarters).min(widest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_reordering_three_segments_make_a_loss_at_once() {
        let (rack, rtt) = (Rack::new(), rtt());
        assert_eq!(rack.window(&rtt, false, 2), Duration::from_millis(10));
        assert_eq!(rack.window(&rtt, false, 3), Duration::ZERO);
        assert_eq!(rack.window(&rtt, true, 0), Duration::ZERO);
    }

    #[test]
    fn a_path_that_reorders_is_given_a_quarter_of_a_round_trip() {
        let mut rack = Rack::new();
        rack.handle_ack_summary(at(50), &AckSummary { reordered: true, ..AckSummary::default() });
        assert_eq!(rack.window(&rtt(), true, 9), Duration::from_millis(10));
    }

    #[test]
    fn duplicates_widen_the_window_once_per_round_trip_up_to_a_whole_one() {
        let mut rack = Rack::new();
        rack.handle_duplicate(0, 100);
        rack.handle_duplicate(50, 200);
        assert_eq!(rack.window(&rtt(), true, 9), Duration::from_millis(20));
        for round in 1..100 {
            rack.handle_duplicate(round * 100, round * 100 + 100);
        }
        assert_eq!(rack.window(&rtt(), true, 9), Duration::from_millis(40));
        for _ in 0..PERSIST {
            rack.recovered();
        }
        assert_eq!(rack.window(&rtt(), true, 9), Duration::from_millis(10));
    }

    fn rtt() -> Rtt {
        let mut rtt = Rtt::default();
        rtt.sample(at(1), (Duration::from_millis(40), Duration::from_millis(40)));
        rtt
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }
}
