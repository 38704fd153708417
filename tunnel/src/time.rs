//! Points in time, as the pure core sees them.

use std::time::Duration;

/// A point on the machine's monotonic clock that goes on during suspend (`CLOCK_BOOTTIME`), as time since boot.
///
/// Virtual in tests; the shell reads it with [`crate::io::clock`].
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

    /// How long ago `earlier` was, zero when it lies in the future.
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

/// What both clocks say at one moment: the monotonic one, and the wall clock as time since the UNIX epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: everything but the handshake stamp is reckoned in it.
    pub instant: Instant,
    /// Wall-clock time since the UNIX epoch; may be wrong and may jump.
    pub wall: Duration,
}
