//! The highest wall clock our handshake stamps ever used, kept on disk: by it a machine knows that its clock went back.
//!
//! A peer remembers the newest stamp of ours and ignores older ones (WireGuard paper §5.4.2). No handshake waits for that:
//! a peer of our own kind answers an old stamp by an initiation of its own, so a clock that once ran ahead costs a round
//! trip, not a tunnel. The mark runs ahead of the stamps, so that the shell writes it once in half a minute of
//! initiations, not at each.

use std::time::Duration;

use crate::time::is_believable;

/// How far the mark runs ahead of the stamps.
pub(crate) const AHEAD: Duration = Duration::from_secs(60);

/// What a stamp means for the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// Nothing: the mark need not move.
    Below,
    /// This is the new mark, to be kept on disk.
    Raised(Duration),
    /// It lies before what was used already, by this much: peers that know the mark take it for a replay.
    Behind(Duration),
}

/// The mark.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    mark: Duration,
    reported: bool,
}

impl Watermark {
    /// A mark as it was kept, zero when none was; one that no clock can have reached counts as none.
    pub(crate) fn new(mark: Duration) -> Self {
        Self { mark: if is_believable(mark) { mark } else { Duration::ZERO }, reported: false }
    }

    /// Judges a stamp of wall clock `wall`, and raises the mark when it comes near.
    pub(crate) fn judge(&mut self, wall: Duration) -> Stamp {
        if let Some(by) = self.behind(wall) {
            return Stamp::Behind(by);
        }
        self.reported = false;
        if wall.saturating_add(AHEAD / 2) > self.mark {
            self.mark = wall.saturating_add(AHEAD);
            return Stamp::Raised(self.mark);
        }
        Stamp::Below
    }

    /// By how much the wall clock lies before the stamps used already.
    ///
    /// A kept mark lies up to [`AHEAD`] past the last stamp, so a clock within that span is not behind.
    pub(crate) fn behind(&self, wall: Duration) -> Option<Duration> {
        let by = self.mark.saturating_sub(AHEAD).saturating_sub(wall);
        (!by.is_zero()).then_some(by)
    }

    /// A session was agreed although the clock is behind: from now on what it says counts. The new mark, if there is one.
    pub(crate) fn follow(&mut self, wall: Duration) -> Option<Duration> {
        self.behind(wall)?;
        self.reported = false;
        self.mark = wall.saturating_add(AHEAD);
        Some(self.mark)
    }

    /// Whether being behind is still to be reported; once until the clock is right or the mark follows it.
    pub(crate) const fn report_once(&mut self) -> bool {
        !std::mem::replace(&mut self.reported, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_mark_runs_ahead_of_the_stamps_and_moves_rarely() {
        let mut mark = Watermark::new(Duration::ZERO);

        let raised = (0..600).filter(|s| mark.judge(secs(DAY + s)) != Stamp::Below).count();

        assert!((10..=21).contains(&raised), "{raised}");
    }

    #[test]
    fn a_restart_within_the_margin_is_not_behind() {
        let mut before = Watermark::new(Duration::ZERO);
        let Stamp::Raised(kept) = before.judge(secs(DAY)) else { panic!("the first stamp raises the mark") };

        let mut after = Watermark::new(kept);
        assert_eq!(after.judge(secs(DAY + 1)), Stamp::Below);
        assert_eq!(after.judge(secs(DAY + 31)), Stamp::Raised(secs(DAY + 91)));
    }

    #[test]
    fn a_clock_in_the_past_is_behind_until_it_passes_and_that_is_reported_once() {
        let mut mark = Watermark::new(secs(DAY));

        assert_eq!(mark.judge(secs(10)), Stamp::Behind(secs(DAY - 70)));
        assert!(mark.report_once());
        assert!(!mark.report_once());
        assert_eq!(mark.judge(secs(DAY)), Stamp::Raised(secs(DAY + 60)));
        assert!(mark.report_once());
    }

    #[test]
    fn the_mark_follows_the_clock_once_a_session_was_agreed() {
        let mut mark = Watermark::new(secs(4000 * DAY));

        assert_eq!(mark.follow(secs(DAY)), Some(secs(DAY + 60)));
        assert_eq!(mark.follow(secs(DAY)), None);
        assert_eq!(mark.judge(secs(DAY + 1)), Stamp::Below);
    }

    #[test]
    fn a_mark_that_no_clock_can_have_reached_counts_as_none() {
        for kept in [Duration::MAX, Duration::from_secs(1 << 63), secs(200 * 366 * DAY)] {
            let mut mark = Watermark::new(kept);
            assert_eq!(mark.judge(secs(DAY)), Stamp::Raised(secs(DAY + 60)), "{kept:?}");
        }
        let ten_years_ahead = crate::time::WRITTEN + secs(3653 * DAY);
        assert!(Watermark::new(ten_years_ahead).behind(secs(DAY)).is_some());
    }

    #[test]
    fn a_clock_at_the_end_of_time_overflows_nothing() {
        let mut mark = Watermark::new(Duration::ZERO);
        assert_eq!(mark.judge(Duration::MAX), Stamp::Raised(Duration::MAX));
        assert_eq!(mark.judge(Duration::MAX), Stamp::Below);
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }
}
