//! A token bucket for replies that unauthenticated sources can cause.

use std::time::Duration;

use tunnel::time::Instant;

/// Lets `rate` replies per second through, and bursts of `burst`.
#[derive(Debug)]
pub struct Bucket {
    interval: Duration,
    depth: Duration,
    /// When the bucket will be full again (a virtual-scheduling leaky bucket).
    full_at: Instant,
}

impl Bucket {
    /// A full bucket; `rate` is at least 1.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { interval, depth: interval * burst.max(1), full_at: Instant::default() }
    }

    /// Whether one more reply may be sent now.
    pub fn take(&mut self, now: Instant) -> bool {
        let from = self.full_at.max(now);
        if from.since(now) + self.interval > self.depth {
            return false;
        }
        self.full_at = from.after(self.interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 5);
        let start = Instant::from_boot(Duration::from_secs(100));
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 5);
        let later = start.after(Duration::from_secs(1));
        let passed = (0..1000).filter(|n| bucket.take(later.after(Duration::from_millis(*n)))).count();
        assert!((14..=15).contains(&passed), "{passed}");
    }
}
