//! Random jitter; it guards no secret.

use std::time::Duration;

use fastrand::Rng;

/// A random duration below `limit`, to the millisecond.
pub(super) fn below(random: &mut Rng, limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random.u64(..limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_stay_below_their_limit_and_differ() {
        let mut random = Rng::with_seed(1);
        let limit = Duration::from_millis(333);
        let drawn: Vec<_> = (0..100).map(|_| below(&mut random, limit)).collect();

        assert!(drawn.iter().all(|duration| *duration < limit));
        assert!(drawn.iter().any(|duration| *duration != drawn[0]));
        assert_eq!(below(&mut random, Duration::ZERO), Duration::ZERO);
    }
}
