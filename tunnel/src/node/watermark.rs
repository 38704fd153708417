//! The highest wall clock that a handshake timestamp of ours ever used, kept on disk: by it a
//! machine knows that its clock went back.
//!
//! A peer remembers the newest timestamp of ours and ignores older ones (WireGuard paper §5.4.2).
//! No handshake waits for that: a Causeway peer answers an old timestamp by an initiation of its
//! own, so a clock that once ran ahead costs a round trip, not a tunnel. The mark runs ahead of the
//! timestamps, so that the caller writes it once in half a minute of initiations, not at each.

use std::time::Duration;

use super::status::Event;
use crate::time::is_believable;

/// How far the mark runs ahead of the timestamps.
pub(super) const AHEAD: Duration = Duration::from_secs(60);

/// What a timestamp means for the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Nothing: the mark need not move.
    Below,
    /// This is the new mark, to be kept on disk.
    Raised(Duration),
    /// It is before what was used already, by this much: peers that know the newest timestamp take
    /// it for a replay.
    Behind(Duration),
}

/// The mark.
#[derive(Debug, Default)]
pub(super) struct Watermark {
    mark: Duration,
    reported: bool,
}

impl Watermark {
    /// A mark as it was kept, zero when none was; one that no clock can have reached counts as
    /// none.
    pub(super) fn new(mark: Duration) -> Self {
        Self { mark: if is_believable(mark) { mark } else { Duration::ZERO }, reported: false }
    }

    /// Another machine with the same key has used timestamps up to this mark.
    pub(super) fn raise(&mut self, mark: Duration) {
        if is_believable(mark) {
            self.mark = self.mark.max(mark);
        }
    }

    /// Takes the timestamp of an initiation that leaves: the mark to keep on disk when it rises,
    /// and that the clock went back, once.
    pub(super) fn note_timestamp(&mut self, wall: Duration) -> Option<Event> {
        match self.judge(wall) {
            Position::Below => None,
            Position::Raised(wall) => Some(Event::Watermark { wall }),
            Position::Behind(by) => self.report_once().then_some(Event::ClockBehind { by }),
        }
    }

    /// A session was agreed with a timestamp of `wall`, even if that is behind: the mark to keep on
    /// disk when it follows the clock.
    pub(super) fn note_session(&mut self, wall: Duration) -> Option<Event> {
        self.follow(wall).map(|wall| Event::Watermark { wall })
    }

    /// Judges a timestamp of wall clock `wall`, and raises the mark when it comes near.
    fn judge(&mut self, wall: Duration) -> Position {
        if let Some(by) = self.behind(wall) {
            return Position::Behind(by);
        }
        self.reported = false;
        if wall.saturating_add(AHEAD / 2) > self.mark {
            self.mark = wall.saturating_add(AHEAD);
            return Position::Raised(self.mark);
        }
        Position::Below
    }

    /// By how much the wall clock is before the timestamps used already.
    ///
    /// A kept mark is up to [`AHEAD`] past the last timestamp, so a clock within that span is not
    /// behind.
    pub(super) fn behind(&self, wall: Duration) -> Option<Duration> {
        let by = self.mark.saturating_sub(AHEAD).saturating_sub(wall);
        (!by.is_zero()).then_some(by)
    }

    /// A session was agreed although the clock is behind: from now on the clock counts. The new
    /// mark, if there is one.
    fn follow(&mut self, wall: Duration) -> Option<Duration> {
        self.behind(wall)?;
        self.reported = false;
        self.mark = wall.saturating_add(AHEAD);
        Some(self.mark)
    }

    /// Whether being behind is still to be reported; once until the clock is right or the mark
    /// follows it.
    const fn report_once(&mut self) -> bool {
        !std::mem::replace(&mut self.reported, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_mark_runs_ahead_of_the_timestamps_and_moves_rarely() {
        let mut mark = Watermark::new(Duration::ZERO);

        let raised = (0..600).filter(|s| mark.judge(secs(DAY + s)) != Position::Below).count();

        assert!((10..=21).contains(&raised), "{raised}");
    }

    #[test]
    fn a_restart_within_the_margin_is_not_behind() {
        let mut before = Watermark::new(Duration::ZERO);
        let Position::Raised(kept) = before.judge(secs(DAY)) else {
            panic!("the first timestamp raises the mark")
        };

        let mut after = Watermark::new(kept);
        assert_eq!(after.judge(secs(DAY + 1)), Position::Below);
        assert_eq!(after.judge(secs(DAY + 31)), Position::Raised(secs(DAY + 91)));
    }

    #[test]
    fn a_clock_in_the_past_is_behind_until_it_passes_and_that_is_reported_once() {
        let mut mark = Watermark::new(secs(DAY));

        assert_eq!(mark.judge(secs(10)), Position::Behind(secs(DAY - 70)));
        assert!(mark.report_once());
        assert!(!mark.report_once());
        assert_eq!(mark.judge(secs(DAY)), Position::Raised(secs(DAY + 60)));
        assert!(mark.report_once());
    }

    #[test]
    fn the_mark_follows_the_clock_once_a_session_was_agreed() {
        let mut mark = Watermark::new(secs(4000 * DAY));

        assert_eq!(mark.follow(secs(DAY)), Some(secs(DAY + 60)));
        assert_eq!(mark.follow(secs(DAY)), None);
        assert_eq!(mark.judge(secs(DAY + 1)), Position::Below);
    }

    #[test]
    fn a_mark_that_no_clock_can_have_reached_counts_as_none() {
        for kept in [Duration::MAX, Duration::from_secs(1 << 63), secs(200 * 366 * DAY)] {
            let mut mark = Watermark::new(kept);
            assert_eq!(mark.judge(secs(DAY)), Position::Raised(secs(DAY + 60)), "{kept:?}");
        }
        let ten_years_ahead = crate::time::WRITTEN + secs(3653 * DAY);
        assert!(Watermark::new(ten_years_ahead).behind(secs(DAY)).is_some());
    }

    #[test]
    fn the_mark_of_another_machine_raises_this_one_and_never_lowers_it() {
        let mut mark = Watermark::new(secs(DAY));
        mark.raise(secs(2 * DAY));
        mark.raise(secs(DAY));
        mark.raise(Duration::MAX);
        assert_eq!(mark.behind(secs(DAY)), Some(secs(DAY) - AHEAD));
    }

    #[test]
    fn a_clock_at_the_end_of_time_overflows_nothing() {
        let mut mark = Watermark::new(Duration::ZERO);
        assert_eq!(mark.judge(Duration::MAX), Position::Raised(Duration::MAX));
        assert_eq!(mark.judge(Duration::MAX), Position::Below);
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }
}
