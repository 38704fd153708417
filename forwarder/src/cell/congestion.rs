//! The congestion window of a cell: CUBIC (RFC 9438) with appropriate byte counting (RFC 3465), an initial window of
//! ten segments (RFC 6928) and an exit from slow start once the delay grows (HyStart++, RFC 9406).
//!
//! It bounds the bytes that the transmit ring holds, acknowledged ones excluded. What it cannot do is choose what is
//! sent again: that is smoltcp's.

use std::time::Duration;

use tunnel::time::Instant;

use super::device::Burst;

/// RFC 9438 §4.6.
const BETA: f64 = 0.7;
/// RFC 9438 §5.
const C: f64 = 0.4;
/// RFC 6928.
const INITIAL_SEGMENTS: usize = 10;
/// smoltcp's shortest retransmission timeout: what is sent again after such a silence was timed out.
const TIMEOUT: Duration = Duration::from_secs(1);
/// RFC 9406 §4.3.
const MIN_DELAY: Duration = Duration::from_millis(4);
const MAX_DELAY: Duration = Duration::from_millis(16);
/// Round-trip samples above the threshold that end slow start.
const DELAYED_SAMPLES: u8 = 3;

/// The window and what it is reckoned from; all in bytes.
#[derive(Debug)]
pub(super) struct Congestion {
    segment: usize,
    window: usize,
    threshold: usize,
    /// Window before the last loss, and when the cubic curve began.
    before_loss: f64,
    epoch: Option<Instant>,
    /// Bytes acknowledged and bytes sent for the first time since the start.
    acknowledged: u64,
    sent: u64,
    /// No second reduction before this many bytes are acknowledged.
    recovered_at: u64,
    timing: Option<(u64, Instant)>,
    shortest: Option<Duration>,
    smoothed: Duration,
    delayed: u8,
}

impl Congestion {
    pub(super) fn new(segment: usize) -> Self {
        Self {
            segment,
            window: segment * INITIAL_SEGMENTS,
            threshold: usize::MAX,
            before_loss: 0.0,
            epoch: None,
            acknowledged: 0,
            sent: 0,
            recovered_at: 0,
            timing: None,
            shortest: None,
            smoothed: Duration::ZERO,
            delayed: 0,
        }
    }

    /// Bytes that may be queued or in flight.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// A new segment size; the initial window follows it, a grown one stays.
    pub(super) fn set_segment(&mut self, segment: usize) {
        if self.acknowledged == 0 {
            self.window = segment * INITIAL_SEGMENTS;
        }
        self.segment = segment;
    }

    /// `bytes` were acknowledged while `queued` were in the ring.
    pub(super) fn on_ack(&mut self, now: Instant, bytes: usize, queued: usize) {
        self.acknowledged += bytes as u64;
        self.sample(now);
        // A window that is not used says nothing about the path (RFC 9438 §5.8).
        if self.acknowledged < self.recovered_at || queued.saturating_mul(2) < self.window {
            return;
        }
        if self.window < self.threshold {
            self.window = self.window.saturating_add(bytes).min(self.threshold);
        } else {
            self.grow(now, bytes);
        }
    }

    /// A round of sending; bytes sent again mean that some were lost.
    pub(super) fn on_sent(&mut self, now: Instant, burst: Burst, queued: usize, silent: Duration) {
        self.sent += burst.new as u64;
        if burst.again > 0 {
            self.timing = None;
            self.on_loss(queued, silent >= TIMEOUT);
        } else if self.timing.is_none() && burst.new > 0 {
            self.timing = Some((self.sent, now));
        }
    }

    fn on_loss(&mut self, queued: usize, timed_out: bool) {
        if self.acknowledged < self.recovered_at {
            return;
        }
        self.recovered_at = self.sent;
        let flight = self.window.min(queued.max(self.segment)) as f64;
        // Fast convergence (RFC 9438 §4.7).
        self.before_loss = if flight < self.before_loss { flight * (1.0 + BETA) / 2.0 } else { flight };
        self.threshold = ((flight * BETA) as usize).max(2 * self.segment);
        self.window = if timed_out { 2 * self.segment } else { self.threshold };
        self.epoch = None;
    }

    /// Congestion avoidance: towards the cubic curve one round trip ahead, never slower than Reno would.
    fn grow(&mut self, now: Instant, bytes: usize) {
        let segment = self.segment as f64;
        let window = self.window as f64;
        if self.epoch.is_none() {
            self.before_loss = self.before_loss.max(window);
        }
        let epoch = *self.epoch.get_or_insert(now);
        let k = ((self.before_loss - self.before_loss * BETA).max(0.0) / segment / C).cbrt();
        let time = (now.since(epoch) + self.smoothed).as_secs_f64() - k;
        let target = (C * time * time * time).mul_add(segment, self.before_loss);
        let target = target.clamp(window, window * 1.5);
        let cubic = (target - window) * bytes as f64 / window;
        let reno = 3.0 * (1.0 - BETA) / (1.0 + BETA) * segment * bytes as f64 / window;
        self.window = self.window.saturating_add(cubic.max(reno) as usize);
    }

    fn sample(&mut self, now: Instant) {
        let Some((end, at)) = self.timing else { return };
        if self.acknowledged < end {
            return;
        }
        self.timing = None;
        let sample = now.since(at);
        let shortest = self.shortest.map_or(sample, |shortest| shortest.min(sample));
        self.shortest = Some(shortest);
        self.smoothed = if self.smoothed.is_zero() { sample } else { (self.smoothed * 7 + sample) / 8 };
        let allowed = shortest + (shortest / 8).clamp(MIN_DELAY, MAX_DELAY);
        self.delayed = if sample > allowed { self.delayed.saturating_add(1) } else { 0 };
        if self.delayed >= DELAYED_SAMPLES && self.window < self.threshold {
            self.threshold = self.window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 1_000;
    const ROUND: Duration = Duration::from_millis(50);

    #[test]
    fn it_starts_with_ten_segments_and_doubles_each_round() {
        let mut path = Path::new();
        assert_eq!(path.window(), 10 * SEGMENT);
        path.round();
        assert_eq!(path.window(), 20 * SEGMENT);
        path.round();
        assert_eq!(path.window(), 40 * SEGMENT);
    }

    #[test]
    fn an_idle_flow_does_not_grow_its_window() {
        let mut path = Path::new();
        for _ in 0..20 {
            path.send(SEGMENT);
            path.now = path.now.after(ROUND);
            path.congestion.on_ack(path.now, SEGMENT, SEGMENT);
        }
        assert_eq!(path.window(), 10 * SEGMENT);
    }

    #[test]
    fn one_window_of_losses_reduces_it_once_by_thirty_percent() {
        let mut path = Path::new();
        path.round();
        let before = path.window();
        path.send(before);
        for _ in 0..5 {
            path.lose(before, Duration::ZERO);
        }
        assert_eq!(path.window(), before * 7 / 10);
    }

    #[test]
    fn a_timeout_falls_back_to_two_segments_and_starts_slowly_again() {
        let mut path = Path::new();
        for _ in 0..4 {
            path.round();
        }
        let before = path.window();
        path.send(before);
        path.lose(before, Duration::from_secs(2));
        assert_eq!(path.window(), 2 * SEGMENT);
        path.congestion.on_ack(path.now, before, before);
        assert!(path.window() > 2 * SEGMENT && path.window() <= before * 7 / 10);
    }

    #[test]
    fn the_cubic_curve_comes_back_to_where_the_loss_was_and_goes_beyond() {
        let mut path = Path::new();
        for _ in 0..4 {
            path.round();
        }
        let before = path.window();
        path.send(before);
        path.lose(before, Duration::ZERO);
        path.congestion.on_ack(path.now, before, before);
        let mut rounds = 0;
        while path.window() < before {
            path.round();
            rounds += 1;
            assert!(rounds < 200, "stuck at {}", path.window());
        }
        for _ in 0..100 {
            path.round();
        }
        assert!(path.window() > before * 5 / 4, "{} after {before}", path.window());
    }

    #[test]
    fn a_growing_delay_ends_slow_start() {
        let mut path = Path::new();
        path.round();
        for extra in 1..10 {
            path.slow_round(Duration::from_millis(10 * extra));
        }
        let window = path.window();
        path.slow_round(Duration::from_millis(100));
        assert!(path.window() < window + window / 2, "{} after {window}", path.window());
    }

    struct Path {
        congestion: Congestion,
        now: Instant,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::from_boot(Duration::from_secs(1));
            Self { congestion: Congestion::new(SEGMENT), now }
        }

        fn window(&self) -> usize {
            self.congestion.window()
        }

        fn send(&mut self, bytes: usize) {
            self.congestion.on_sent(self.now, Burst { new: bytes, again: 0 }, bytes, Duration::ZERO);
        }

        fn lose(&mut self, queued: usize, silent: Duration) {
            self.congestion.on_sent(self.now, Burst { new: 0, again: SEGMENT }, queued, silent);
        }

        fn round(&mut self) {
            self.slow_round(Duration::ZERO);
        }

        fn slow_round(&mut self, extra: Duration) {
            let bytes = self.window();
            self.send(bytes);
            self.now = self.now.after(ROUND + extra);
            self.congestion.on_ack(self.now, bytes, bytes);
        }
    }
}
