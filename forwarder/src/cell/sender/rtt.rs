//! Round-trip times and the retransmission timeout (RFC 6298), with Linux's minimum of 200 ms
//! instead of one second.

use std::time::Duration;

use tunnel::time::Instant;

/// RFC 6298 §2.1.
const INITIAL: Duration = Duration::from_secs(1);
/// What the timeout is longer than the smoothed round trip at least: Linux's `TCP_RTO_MIN`, below
/// RFC 6298's second.
const MARGIN: Duration = Duration::from_millis(200);
/// The longest timeout, however often it was doubled (RFC 6298 §2.5: at least 60 s).
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// Less than so much cannot be distinguished from the delays of sender and receiver.
const NOTICED: Duration = Duration::from_millis(1);
/// How long a shortest round trip is believed (RFC 8985 §6.2 wants a windowed minimum; Linux takes
/// 300 s too).
const SHORTEST_HOLDS: Duration = Duration::from_secs(300);

/// The measured delay of the path.
#[derive(Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    shortest: Option<(Duration, Instant)>,
    lately: Lately,
    doublings: u32,
}

/// The shortest round trips of this smoothed round trip and of the one before.
#[derive(Debug, Default)]
struct Lately {
    since: Option<Instant>,
    current: Option<Duration>,
    before: Option<Duration>,
}

impl Rtt {
    /// Round trips of the first and the last of what was just acknowledged and sent once only
    /// (Karn's rule is the caller's): the first counts for the timeout, the last for what the path
    /// takes.
    pub(super) fn sample(&mut self, now: Instant, (sample, last): (Duration, Duration)) {
        self.doublings = 0;
        let forgotten = |(_, at): (Duration, Instant)| now.since(at) > SHORTEST_HOLDS;
        if self.shortest.is_none_or(|shortest| last <= shortest.0 || forgotten(shortest)) {
            self.shortest = Some((last, now));
        }
        self.lately.sample(now, last, self.smoothed.unwrap_or(last));
        self.smoothed = Some(match self.smoothed {
            None => {
                self.variation = sample / 2;
                sample
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                (smoothed * 7 + sample) / 8
            }
        });
    }

    /// The smoothed round trip, once there was a sample.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The shortest round trip of the last minutes.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.shortest.map(|(shortest, _)| shortest)
    }

    /// Whether packets lately waited in a queue on the path: the shortest round trip of the last
    /// one or two is an eighth, and at least [`NOTICED`], above the shortest of the path.
    pub(super) fn is_queued(&self) -> bool {
        let lately = self.lately.current.into_iter().chain(self.lately.before).min();
        let (Some(lately), Some(shortest)) = (lately, self.shortest()) else { return true };
        lately > shortest + (shortest / 8).max(NOTICED)
    }

    /// The retransmission timeout, doubled as often as it ran out in a row.
    pub(super) fn timeout(&self) -> Duration {
        let base = self.smoothed.map_or(INITIAL, |smoothed| smoothed + MARGIN.max(self.variation * 4));
        base.saturating_mul(1_u32.checked_shl(self.doublings).unwrap_or(u32::MAX)).min(LONGEST)
    }

    /// The timeout ran out: the next is twice as long.
    pub(super) fn back_off(&mut self) {
        self.doublings = (self.doublings + 1).min(16);
    }

    /// Forgets the doublings; `true` when there were some.
    pub(super) fn reset_back_off(&mut self) -> bool {
        std::mem::take(&mut self.doublings) > 0
    }
}

impl Lately {
    fn sample(&mut self, now: Instant, sample: Duration, round_trip: Duration) {
        if self.since.is_none_or(|since| now.since(since) >= round_trip) {
            self.since = Some(now);
            self.before = self.current.take();
        }
        self.current = Some(self.current.map_or(sample, |current| current.min(sample)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_second_until_something_was_measured() {
        assert_eq!(Rtt::default().timeout(), INITIAL);
    }

    #[test]
    fn a_steady_path_leaves_two_hundred_milliseconds_of_margin() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(at(1), both(50));
        }
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(50)));
        assert_eq!(rtt.timeout(), Duration::from_millis(250));
    }

    #[test]
    fn backing_off_doubles_up_to_a_minute_and_a_sample_ends_it() {
        let mut rtt = Rtt::default();
        rtt.sample(at(1), both(100));
        let first = rtt.timeout();
        rtt.back_off();
        assert_eq!(rtt.timeout(), first * 2);
        for _ in 0..100 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), LONGEST);
        rtt.sample(at(2), both(100));
        assert!(rtt.timeout() <= first);
    }

    #[test]
    fn an_old_shortest_round_trip_is_forgotten() {
        let mut rtt = Rtt::default();
        rtt.sample(at(1), both(10));
        rtt.sample(at(200), both(30));
        assert_eq!(rtt.shortest(), Some(Duration::from_millis(10)));
        rtt.sample(at(400), both(30));
        assert_eq!(rtt.shortest(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn a_queue_shows_in_every_round_trip_of_late_and_not_in_single_ones() {
        let mut rtt = Rtt::default();
        assert!(rtt.is_queued(), "nothing is known");
        for tenth in 0..100 {
            rtt.sample(
                at(1).after(Duration::from_millis(tenth * 10)),
                both(if tenth % 4 == 0 { 40 } else { 55 }),
            );
        }
        assert!(!rtt.is_queued(), "some are late, not all");
        for tenth in 0..40 {
            rtt.sample(at(3).after(Duration::from_millis(tenth * 10)), both(50));
        }
        assert!(rtt.is_queued());
        for tenth in 0..40 {
            rtt.sample(at(4).after(Duration::from_millis(tenth * 10)), both(42));
        }
        assert!(!rtt.is_queued());
    }

    fn both(milliseconds: u64) -> (Duration, Duration) {
        (Duration::from_millis(milliseconds), Duration::from_millis(milliseconds))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }
}
