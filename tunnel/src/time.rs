//! Points in time, as the pure core sees them.

use std::time::Duration;

/// A point on the machine's monotonic clock that counts on during suspend (`CLOCK_BOOTTIME`), as
/// time since boot.
///
/// Virtual in tests; otherwise read with [`crate::io::clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The instant `since_boot` after boot.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Time since boot.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was, zero when it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `delay` later; the end of time instead of an overflow.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

/// The time of both clocks at one moment: the monotonic one, and the wall clock as time since the
/// UNIX epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: everything but the handshake timestamp is measured in it.
    pub instant: Instant,
    /// Wall-clock time since the UNIX epoch; may be wrong and may jump.
    pub wall: Duration,
}

/// 2026-06-01, before this version was written: a wall clock before it is wrong.
pub const WRITTEN: Duration = Duration::from_secs(1_780_272_000);
/// No clock is past [`WRITTEN`] by more than this.
const CENTURY: Duration = Duration::from_secs(100 * 36_525 * 864);

/// Whether a clock can have had this time: no later than a century after this version was written.
#[must_use]
pub fn is_believable(wall: Duration) -> bool {
    wall <= WRITTEN + CENTURY
}

/// What is known to be wrong with a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockFault {
    /// It is before the time when this version was written.
    #[error("the wall clock is before June 2026: set it, or start a time service")]
    Early,
    /// It is a century after that.
    #[error("the wall clock is more than a century ahead: set it, or start a time service")]
    Late,
    /// It is this much behind the latest one that a handshake of this machine used.
    #[error("the wall clock is {} seconds behind the latest one used here: it was set back, or had run ahead", .0.as_secs())]
    Behind(Duration),
}

impl ClockFault {
    /// What the wall clock alone shows.
    #[must_use]
    pub fn of(wall: Duration) -> Option<Self> {
        match wall {
            _ if wall < WRITTEN => Some(Self::Early),
            _ if is_believable(wall) => None,
            _ => Some(Self::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_this_version_or_a_century_after_it_is_wrong() {
        assert_eq!(ClockFault::of(Duration::ZERO), Some(ClockFault::Early));
        assert_eq!(ClockFault::of(WRITTEN), None);
        assert_eq!(ClockFault::of(WRITTEN + CENTURY), None);
        assert_eq!(ClockFault::of(WRITTEN + CENTURY * 2), Some(ClockFault::Late));
    }
}
