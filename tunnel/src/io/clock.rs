//! The machine's clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::time::{Instant, Now};

/// The monotonic clock that counts on during suspend.
#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;
/// On macOS this clock counts on during sleep.
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// The time of both clocks.
#[must_use]
pub fn now() -> Now {
    Now { instant: instant(), wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
}

/// The monotonic clock alone.
#[must_use]
pub fn instant() -> Instant {
    let time = clock_gettime(MONOTONIC);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Instant::from_boot(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_does_not_go_back() {
        let first = super::now();
        assert!(super::now().instant >= first.instant && first.wall.as_secs() > 1_700_000_000);
    }
}
