//! Whether another program keeps undoing repairs; while it does, there is more time between them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Repairs within [`CONTENTION_WINDOW`] from which on there is contention.
const CONTENTION: usize = 12;
/// See [`CONTENTION`].
const CONTENTION_WINDOW: Duration = Duration::from_secs(60);
/// The longest pause between repairs during contention.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether another program keeps undoing repairs: when they were made, and the pause before the
/// next.
#[derive(Debug, Default)]
pub(super) struct Contention {
    repairs: VecDeque<Instant>,
    /// Repairs since the start.
    pub(super) total: u64,
    pub(super) is_on: bool,
}

impl Contention {
    /// Counts a repair; whether contention begins with it.
    pub(super) fn handle_repair(&mut self, now: Instant) -> bool {
        self.total += 1;
        self.repairs.push_back(now);
        let was_on = self.is_on;
        self.is_on = self.recent(now) >= CONTENTION;
        self.is_on && !was_on
    }

    /// How long to wait before the next check: not at all, or twice as long with each repair during
    /// contention.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let recent = self.recent(now);
        self.is_on = recent >= CONTENTION;
        let doublings = u32::try_from(recent.saturating_sub(CONTENTION)).unwrap_or(u32::MAX);
        if self.is_on {
            Duration::from_secs(1 << doublings.min(6)).min(LONGEST_PAUSE)
        } else {
            Duration::ZERO
        }
    }

    fn recent(&mut self, now: Instant) -> usize {
        while self.repairs.front().is_some_and(|first| now.duration_since(*first) > CONTENTION_WINDOW) {
            self.repairs.pop_front();
        }
        self.repairs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_now_and_then_is_no_contention() {
        let mut contention = Contention::default();
        let start = Instant::now();
        for minute in 0..20 {
            let now = start + Duration::from_secs(60 * minute);
            assert!(!contention.handle_repair(now));
            assert_eq!(contention.pause(now), Duration::ZERO);
        }
    }

    #[test]
    fn contention_is_logged_once_and_slows_down_repairs_but_never_ends_them() {
        let mut contention = Contention::default();
        let start = Instant::now();
        let mut logged = 0;
        for second in 0..30 {
            logged += u32::from(contention.handle_repair(start + Duration::from_secs(second)));
        }
        assert_eq!(logged, 1);
        assert_eq!(contention.pause(start + Duration::from_secs(30)), LONGEST_PAUSE);
        assert_eq!(contention.pause(start + Duration::from_secs(120)), Duration::ZERO);
        assert!(!contention.is_on);
    }
}
