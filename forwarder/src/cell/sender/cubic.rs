//! The congestion window: CUBIC (RFC 9438) with appropriate byte counting (RFC 3465), an initial
//! window of ten segments (RFC 6928) and HyStart++ (RFC 9406), without its limit per
//! acknowledgement: receivers acknowledge whole super-packets.
//!
//! On a round trip shorter than the delay that HyStart++ waits for, a queue overflows before it is
//! seen. There slow start ends as well when more in flight brings no more per second, as BBR's does
//! (draft-ietf-ccwg-bbr §5.3.1.2).
//!
//! A single loss on a path without a queue is more likely noise than congestion, and reduces the
//! window by less (after RFC 8511, and as Veno does).

use std::time::Duration;

use tunnel::time::Instant;

/// RFC 9438 §4.6.
const BETA: f64 = 0.7;
/// The same where the queue is known to be short, as RFC 8511 §3 takes it: a queue that is not
/// there need not be emptied.
const BETA_SHORT_QUEUE: f64 = 0.85;
/// RFC 9438 §5.
const C: f64 = 0.4;
/// What Reno would grow by per round trip, to be as fair as CUBIC is after its smaller reduction
/// (RFC 9438 §4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 6928.
const INITIAL_SEGMENTS: usize = 10;
/// The smallest window after a loss.
const SMALLEST_SEGMENTS: usize = 2;
/// RFC 9406 §4.3.
const MIN_DELAY: Duration = Duration::from_millis(4);
const MAX_DELAY: Duration = Duration::from_millis(16);
const SAMPLES: u32 = 8;
/// Slow start is this much slower while it is not certain that the path is full.
const SLOWER: usize = 4;
const CAREFUL_ROUNDS: u32 = 5;
/// A round that delivers less than this much faster than the fastest before is one without growth,
/// and so many of them end slow start.
const FASTER: f64 = 1.25;
const STALLED_ROUNDS: u32 = 3;

/// The window and what it is computed from; in bytes.
#[derive(Debug)]
pub(super) struct Cubic {
    segment: usize,
    window: usize,
    threshold: usize,
    /// Window before the last loss (`W_max`).
    before_loss: f64,
    curve: Option<Curve>,
    /// What a reduction that proves to be a mistake is undone to: window and threshold.
    before_reduction: Option<(usize, usize)>,
    start: SlowStart,
}

/// One stretch of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Curve {
    since: Instant,
    /// Window at its beginning, bytes.
    first: f64,
    /// What Reno's window would be (`W_est`), bytes.
    reno: f64,
}

/// HyStart++: the delays of this round of slow start and the one before.
#[derive(Debug, Default)]
struct SlowStart {
    round_end: u64,
    last: Option<Duration>,
    current: Option<Duration>,
    samples: u32,
    /// Rounds left in conservative slow start, and the delay that began it.
    careful: Option<(u32, Duration)>,
    /// When this round began, and what was acknowledged then.
    began: Option<(Instant, u64)>,
    /// Bytes per second of the fastest round, and how many in a row were hardly faster.
    fastest: f64,
    stalled: u32,
}

/// One measurement of the round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) now: Instant,
    pub(super) round_trip: Duration,
    /// The shortest round trip of the path.
    pub(super) shortest: Duration,
    /// Bytes that the acknowledgement reported.
    pub(super) delivered: u64,
    /// What is acknowledged and what was sent: offsets that show when a round is over.
    pub(super) acknowledged: u64,
    pub(super) next: u64,
    /// Whether the window, and not the flow's owner, held back what was sent.
    pub(super) is_full: bool,
}

impl Cubic {
    pub(super) fn new(segment: usize) -> Self {
        Self {
            segment,
            window: segment * INITIAL_SEGMENTS,
            threshold: usize::MAX,
            before_loss: 0.0,
            curve: None,
            before_reduction: None,
            start: SlowStart::default(),
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The window that a reduction leads to.
    pub(super) fn threshold(&self) -> usize {
        self.threshold
    }

    pub(super) fn is_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// A smaller segment; the window in bytes stays.
    pub(super) fn set_segment(&mut self, segment: usize) {
        self.segment = segment;
    }

    /// `bytes` more have arrived, and the window was what kept more from being sent.
    pub(super) fn grow(&mut self, now: Instant, bytes: usize, smoothed: Duration) {
        if self.is_slow_start() {
            let is_careful = self.start.careful.is_some() || self.start.stalled > 0;
            let growth = if is_careful { bytes / SLOWER } else { bytes };
            self.window = self.window.saturating_add(growth).min(self.threshold);
        } else {
            self.avoid(now, bytes as f64, smoothed);
        }
    }

    /// Congestion avoidance: towards the cubic curve one round trip ahead, never slower than Reno.
    fn avoid(&mut self, now: Instant, bytes: f64, smoothed: Duration) {
        let (segment, window) = (self.segment as f64, self.window as f64);
        if self.curve.is_none() && self.before_loss < window {
            // Nothing is known of the path beyond this window: the curve begins flat.
            self.before_loss = window;
        }
        let before_loss = self.before_loss;
        let curve = self.curve.get_or_insert(Curve { since: now, first: window, reno: window });
        let k = ((before_loss - curve.first) / segment / C).cbrt();
        let time = (now.since(curve.since) + smoothed).as_secs_f64() - k;
        let target = (C * time * time * time).mul_add(segment, before_loss).clamp(window, window * 1.5);
        let alpha = if curve.reno >= before_loss { 1.0 } else { ALPHA };
        curve.reno += alpha * segment * bytes / window;
        let grown = ((target - window) * bytes / window + window).max(curve.reno);
        self.window = grown as usize;
    }

    /// Something was lost: the threshold is the window's next value, which the caller sets. With
    /// `is_queued` there was a queue on the path, or it is not known; else the loss is less likely
    /// congestion. With `is_one` this and the last reduction are undone together.
    pub(super) fn reduce(&mut self, is_queued: bool, is_one: bool) {
        let beta = if is_queued { BETA } else { BETA_SHORT_QUEUE };
        let before = self.before_reduction.filter(|_| is_one);
        self.before_reduction = before.or(Some((self.window, self.threshold)));
        let window = self.window as f64;
        // Fast convergence (RFC 9438 §4.7).
        self.before_loss = if window < self.before_loss { window * (1.0 + beta) / 2.0 } else { window };
        self.threshold = ((window * beta) as usize).max(SMALLEST_SEGMENTS * self.segment);
        self.curve = None;
        self.start.careful = None;
    }

    /// The window after a reduction.
    pub(super) fn set_window(&mut self, window: usize) {
        self.window = window.max(self.segment);
    }

    /// The last reduction was a mistake.
    pub(super) fn undo(&mut self) {
        if let Some((window, threshold)) = self.before_reduction.take() {
            self.window = self.window.max(window);
            self.threshold = self.threshold.max(threshold);
            self.before_loss = self.before_loss.max(window as f64);
            self.curve = None;
        }
    }

    /// Nothing was sent for a while: the window no longer shows what the path carries (RFC 5681
    /// §4.1, as Linux does it).
    pub(super) fn rest(&mut self, idle: Duration, timeout: Duration) {
        let halvings = idle.as_nanos().checked_div(timeout.as_nanos()).unwrap_or(0).min(32);
        if halvings == 0 {
            return;
        }
        self.threshold =
            if self.threshold == usize::MAX { usize::MAX } else { self.threshold.max(self.window / 4 * 3) };
        let smallest = self.window.min(self.segment * INITIAL_SEGMENTS);
        self.window = (self.window >> halvings).max(smallest);
        self.curve = None;
    }

    /// A round trip was measured.
    pub(super) fn handle_sample(&mut self, sample: Sample) {
        if !self.is_slow_start() {
            return;
        }
        self.start.check_rate(&sample);
        let Sample { round_trip: sample, acknowledged, next, delivered, .. } = sample;
        if self.start.stalled >= STALLED_ROUNDS {
            self.threshold = self.window;
            self.start = SlowStart::default();
            return;
        }
        let start = &mut self.start;
        if acknowledged > start.round_end {
            start.round_end = next;
            start.last = start.current.take();
            start.samples = 0;
            if let Some((rounds, _)) = &mut start.careful {
                *rounds -= 1;
                if *rounds == 0 {
                    self.threshold = self.window;
                    start.careful = None;
                    return;
                }
            }
        }
        let current = start.current.map_or(sample, |current| current.min(sample));
        start.current = Some(current);
        // The RFC assumes an acknowledgement for every other segment; one for a whole super-packet
        // counts as many.
        let pairs = delivered / (2 * self.segment.max(1) as u64);
        start.samples = start.samples.saturating_add(u32::try_from(pairs).unwrap_or(u32::MAX).max(1));
        if start.samples < SAMPLES {
            return;
        }
        match (start.careful, start.last) {
            (Some((_, baseline)), _) if current < baseline => start.careful = None,
            (None, Some(last)) if current >= last + (last / 8).clamp(MIN_DELAY, MAX_DELAY) => {
                start.careful = Some((CAREFUL_ROUNDS, current));
            }
            _ => {}
        }
    }
}

impl SlowStart {
    /// Compares what this round brought per second with the rounds before, where delays show too
    /// little.
    fn check_rate(&mut self, sample: &Sample) {
        if sample.acknowledged <= self.round_end {
            return;
        }
        let began = self.began.replace((sample.now, sample.acknowledged));
        let Some((at, from)) = began.filter(|_| sample.is_full && sample.shortest < MIN_DELAY) else {
            self.stalled = 0;
            return;
        };
        // What came at once has no rate.
        let seconds = sample.now.since(at).max(sample.round_trip).as_secs_f64();
        let rate = (sample.acknowledged - from) as f64 / seconds.max(1e-6);
        if rate >= self.fastest * FASTER {
            self.fastest = rate;
            self.stalled = 0;
        } else {
            self.stalled += 1;
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
        assert_eq!(path.cubic.window(), 10 * SEGMENT);
        path.round();
        assert_eq!(path.cubic.window(), 20 * SEGMENT);
        path.round();
        assert_eq!(path.cubic.window(), 40 * SEGMENT);
    }

    #[test]
    fn a_loss_reduces_it_by_thirty_percent_and_undoing_brings_it_back() {
        let mut path = Path::new();
        path.round();
        path.lose();
        assert_eq!(path.cubic.window(), 14 * SEGMENT);
        path.cubic.undo();
        assert_eq!(path.cubic.window(), 20 * SEGMENT);
        assert!(path.cubic.is_slow_start());
        path.cubic.undo();
        assert_eq!(path.cubic.window(), 20 * SEGMENT);
    }

    #[test]
    fn a_loss_without_a_queue_reduces_it_by_half_as_much() {
        let mut path = Path::new();
        path.round();
        path.lose_from(false);
        assert_eq!(path.cubic.window(), 17 * SEGMENT);
        path.cubic.undo();
        assert_eq!(path.cubic.window(), 20 * SEGMENT);
    }

    #[test]
    fn reductions_that_are_one_are_undone_together() {
        let mut path = Path::new();
        path.round();
        path.lose();
        path.cubic.reduce(true, true);
        path.cubic.set_window(path.cubic.threshold());
        path.cubic.undo();
        assert!(path.cubic.window() == 20 * SEGMENT && path.cubic.is_slow_start());
    }

    #[test]
    fn the_curve_is_flat_where_the_loss_was_and_goes_beyond() {
        let mut path = Path::new();
        for _ in 0..6 {
            path.round();
        }
        let before = path.cubic.window();
        path.lose();
        let mut rounds = 0;
        while path.cubic.window() < before {
            path.round();
            rounds += 1;
            assert!(rounds < 200, "stuck at {}", path.cubic.window());
        }
        let expected = (0.3 * 640.0 / C).cbrt() / ROUND.as_secs_f64();
        assert!((f64::from(rounds) - expected).abs() < 12.0, "{rounds} rounds, {expected} by the formula");
        for _ in 0..200 {
            path.round();
        }
        assert!(path.cubic.window() > before * 5 / 4, "{} after {before}", path.cubic.window());
    }

    #[test]
    fn a_small_window_grows_as_fast_as_reno() {
        let mut path = Path::new();
        path.lose();
        let before = path.cubic.window();
        for _ in 0..10 {
            path.round();
        }
        let grown = path.cubic.window() - before;
        assert!((5 * SEGMENT..12 * SEGMENT).contains(&grown), "{grown}");
    }

    #[test]
    fn a_growing_delay_slows_slow_start_and_then_ends_it() {
        let mut path = Path::new();
        path.round();
        path.slow_round(Duration::from_millis(20));
        let window = path.cubic.window();
        for _ in 0..CAREFUL_ROUNDS {
            path.slow_round(Duration::from_millis(20));
        }
        assert!(path.cubic.window() < 4 * window, "{} after {window}", path.cubic.window());
        assert!(!path.cubic.is_slow_start());
    }

    #[test]
    fn a_delay_that_goes_away_again_ends_nothing() {
        let mut path = Path::new();
        path.round();
        path.slow_round(Duration::from_millis(20));
        for _ in 0..4 {
            path.round();
        }
        assert!(path.cubic.is_slow_start() && path.cubic.start.careful.is_none());
    }

    #[test]
    fn a_rest_of_some_timeouts_leaves_the_initial_window() {
        let mut path = Path::new();
        for _ in 0..5 {
            path.round();
        }
        let timeout = Duration::from_millis(250);
        path.cubic.rest(timeout / 2, timeout);
        assert_eq!(path.cubic.window(), 320 * SEGMENT);
        path.cubic.rest(timeout, timeout);
        assert_eq!(path.cubic.window(), 160 * SEGMENT);
        path.cubic.rest(timeout * 100, timeout);
        assert_eq!(path.cubic.window(), 10 * SEGMENT);
    }

    struct Path {
        cubic: Cubic,
        now: Instant,
        acknowledged: u64,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::from_boot(Duration::from_secs(1));
            Self { cubic: Cubic::new(SEGMENT), now, acknowledged: 0 }
        }

        fn lose(&mut self) {
            self.lose_from(true);
        }

        fn lose_from(&mut self, is_queued: bool) {
            self.cubic.reduce(is_queued, false);
            self.cubic.set_window(self.cubic.threshold());
        }

        fn round(&mut self) {
            self.slow_round(Duration::ZERO);
        }

        fn slow_round(&mut self, extra: Duration) {
            let bytes = self.cubic.window();
            self.now = self.now.after(ROUND + extra);
            let next = self.acknowledged + 2 * bytes as u64;
            for _ in 0..10 {
                self.acknowledged += bytes as u64 / 10;
                let (now, acknowledged) = (self.now, self.acknowledged);
                let round_trip = ROUND + extra;
                let (shortest, delivered) = (ROUND, SEGMENT as u64);
                let is_full = true;
                self.cubic.handle_sample(Sample {
                    now,
                    round_trip,
                    shortest,
                    delivered,
                    acknowledged,
                    next,
                    is_full,
                });
                self.cubic.grow(self.now, bytes / 10, ROUND);
            }
        }
    }
}
