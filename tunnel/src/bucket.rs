//! A token bucket: how often another end may cause something.

use std::time::Duration;

use crate::time::Instant;

/// Lets `rate` events per second through, and bursts of `burst`.
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
        Self::every(Duration::from_secs(1) / rate.max(1), burst)
    }

    /// A full bucket that lets one event through per `interval`.
    #[must_use]
    pub const fn every(interval: Duration, burst: u32) -> Self {
        let burst = if burst == 0 { 1 } else { burst };
        Self { interval, depth: interval.saturating_mul(burst), full_at: Instant::from_boot(Duration::ZERO) }
    }

    /// Whether one more may happen now; it then has.
    pub fn take(&mut self, now: Instant) -> bool {
        let from = self.full_at.max(now);
        if from.since(now) + self.interval > self.depth {
            return false;
        }
        self.full_at = from.after(self.interval);
        true
    }

    /// When [`take`](Self::take) succeeds next; not later than now when it would now.
    #[must_use]
    pub const fn ready_at(&self) -> Instant {
        let full = self.full_at.since_boot();
        Instant::from_boot(full.saturating_sub(self.depth.saturating_sub(self.interval)))
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

    #[test]
    fn an_empty_bucket_knows_when_the_next_may_happen() {
        let mut bucket = Bucket::new(10, 2);
        let start = Instant::from_boot(Duration::from_secs(100));
        assert!(bucket.ready_at() <= start);
        assert!(bucket.take(start) && bucket.ready_at() <= start);
        assert!(bucket.take(start));
        assert_eq!(bucket.ready_at(), start.after(Duration::from_millis(100)));
        assert!(!bucket.take(start.after(Duration::from_millis(99))));
        assert!(bucket.take(bucket.ready_at()));
    }
}
