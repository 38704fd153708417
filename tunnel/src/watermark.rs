//! The highest wall clock our handshake stamps ever used: a machine without a clock must not initiate with an older one.
//!
//! A peer remembers the newest stamp of ours and ignores older ones (WireGuard paper §5.4.2). The mark runs ahead of
//! the stamps, so that the shell writes it once in half a minute of initiations, not at each.

use std::time::Duration;

/// How far the mark runs ahead of the stamps.
pub(crate) const AHEAD: Duration = Duration::from_secs(60);

/// Whether a stamp may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// It may; the mark need not move.
    Usable,
    /// It may, once this new mark is on disk.
    Raised(Duration),
    /// It lies before what was used already, by this much: only answer.
    Behind(Duration),
}

/// The mark.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    mark: Duration,
    told: bool,
}

impl Watermark {
    /// A mark as it was kept, zero when none was.
    pub(crate) const fn new(mark: Duration) -> Self {
        Self { mark, told: false }
    }

    /// Judges a stamp of wall clock `wall`, and raises the mark when it comes near.
    ///
    /// A kept mark lies up to [`AHEAD`] past the last stamp, so a clock within that span is not behind.
    pub(crate) fn judge(&mut self, wall: Duration) -> Stamp {
        if wall + AHEAD < self.mark {
            return Stamp::Behind(self.mark - AHEAD - wall);
        }
        self.told = false;
        if wall + AHEAD / 2 > self.mark {
            self.mark = wall + AHEAD;
            return Stamp::Raised(self.mark);
        }
        Stamp::Usable
    }

    /// Whether being behind is still to be told; once until the clock has passed the mark.
    pub(crate) const fn tell_once(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_mark_runs_ahead_of_the_stamps_and_moves_rarely() {
        let mut mark = Watermark::new(Duration::ZERO);

        let raised = (0..600).filter(|s| mark.judge(secs(DAY + s)) != Stamp::Usable).count();

        assert!((10..=21).contains(&raised), "{raised}");
    }

    #[test]
    fn a_restart_within_the_margin_is_not_behind() {
        let mut before = Watermark::new(Duration::ZERO);
        let Stamp::Raised(kept) = before.judge(secs(DAY)) else { panic!("the first stamp raises the mark") };

        let mut after = Watermark::new(kept);
        assert_eq!(after.judge(secs(DAY + 1)), Stamp::Usable);
        assert_eq!(after.judge(secs(DAY + 31)), Stamp::Raised(secs(DAY + 91)));
    }

    #[test]
    fn a_clock_in_the_past_is_behind_until_it_passes_and_says_so_once() {
        let mut mark = Watermark::new(secs(DAY));

        assert_eq!(mark.judge(secs(10)), Stamp::Behind(secs(DAY - 70)));
        assert!(mark.tell_once());
        assert!(!mark.tell_once());
        assert_eq!(mark.judge(secs(DAY)), Stamp::Raised(secs(DAY + 60)));
        assert!(mark.tell_once());
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }
}
