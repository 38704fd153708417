//! Whether a thread makes progress: its heartbeat, and how another thread finds it stuck.
//!
//! A thread that carries packets counts its steps and records when it waits, and what for. Between
//! two samples a healthy one has made a step, or waits for what has not come. Samples are counted,
//! not time: while the whole process is stopped, or the machine asleep, there are no samples.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Instant;

/// Samples in a row that must find a thread at the same step, with something to do, until it counts
/// as stuck.
const SAMPLES: u32 = 3;
/// Bit of a step that is set while the thread waits.
const WAITS: u64 = 1;
/// The bits of a step that are the flags of [`Heartbeat::begin_wait`], and the first bit above
/// them.
const FLAGS: u64 = 0b1110;
const STEP: u64 = 16;

/// A thread's heartbeat: it alone writes it, any thread reads it.
#[derive(Debug, Default)]
pub struct Heartbeat {
    name: &'static str,
    /// Grows with every step. The lowest bits hold whether the thread waits, and what for.
    step: AtomicU64,
    /// The latest time until which it waits, in nanoseconds since boot.
    until: AtomicU64,
    /// The thread as the kernel numbers it; 0 before it began, and where threads have no number.
    id: AtomicI32,
    is_over: AtomicBool,
    has_panicked: AtomicBool,
}

/// A heartbeat at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    step: u64,
    until: Instant,
}

/// What follows from a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits, and there is nothing for it to do.
    Idle,
    /// It works, or is about to.
    Working,
    /// It has something to do and makes no step.
    Stuck,
}

/// What is wrong with a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ended by itself: by a panic, or ended by the kernel.
    #[error("the thread {name} (id {id}) is gone: a panic ended it, or the kernel did (see dmesg)")]
    Gone {
        /// The thread's name.
        name: &'static str,
        /// The kernel's number of the thread.
        id: i32,
    },
    /// It makes no step.
    #[error("the thread {name} (id {id}) has made no progress for {} s although it has something to do", .since.as_secs())]
    Stuck {
        /// The thread's name.
        name: &'static str,
        /// The kernel's number of the thread.
        id: i32,
        /// For how long it has been seen at the same step.
        since: Duration,
    },
}

/// Held by a thread while it runs; records its end when dropped.
#[derive(Debug)]
pub struct RunGuard<'p>(&'p Heartbeat);

impl Heartbeat {
    /// The heartbeat of a thread of that name, which has not begun.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// The thread itself calls this before anything else.
    pub(crate) fn begin(&self, id: i32) -> RunGuard<'_> {
        self.id.store(id, Ordering::Relaxed);
        self.step();
        RunGuard(self)
    }

    /// The thread's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The thread as the kernel numbers it, 0 where that is not known.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id.load(Ordering::Relaxed)
    }

    /// Whether the thread has ended as it should.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether a panic has ended the thread.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Relaxed)
    }

    /// A step forward: to be called in every round of the thread's loop.
    #[inline]
    pub fn step(&self) {
        let step = self.step.load(Ordering::Relaxed);
        self.step.store((step & !(FLAGS | WAITS)).wrapping_add(STEP), Ordering::Relaxed);
    }

    /// The thread is about to wait, for what `flags` mean (three bits, whose meaning is the
    /// thread's own), or until then.
    #[inline]
    pub fn begin_wait(&self, flags: u8, until: Instant) {
        let nanos = u64::try_from(until.since_boot().as_nanos()).unwrap_or(u64::MAX);
        self.until.store(nanos, Ordering::Relaxed);
        let step = self.step.load(Ordering::Relaxed) & !(FLAGS | WAITS);
        self.step.store(step.wrapping_add(STEP) | (u64::from(flags) << 1) & FLAGS | WAITS, Ordering::Relaxed);
    }

    /// The heartbeat now.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let until = Instant::from_boot(Duration::from_nanos(self.until.load(Ordering::Relaxed)));
        Sample { step: self.step.load(Ordering::Relaxed), until }
    }
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        let over = if std::thread::panicking() { &self.0.has_panicked } else { &self.0.is_over };
        over.store(true, Ordering::Relaxed);
    }
}

impl Sample {
    /// What the thread waits for; `None` when it works.
    #[must_use]
    pub const fn waits_for(&self) -> Option<u8> {
        if self.step & WAITS == 0 { None } else { Some(((self.step & FLAGS) >> 1) as u8) }
    }

    /// Whether it waits longer than it recorded.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.until < now
    }
}

/// Finds one thread stuck by samples that are a second or more apart.
#[derive(Debug, Default)]
pub struct StuckDetector {
    step: u64,
    unmoved: u32,
}

impl StuckDetector {
    /// Whether it made a step between the last two samples.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        self.unmoved == 0
    }

    /// Takes one sample; `has_work`: whether what it waits for, if it waits, is there.
    pub fn handle_sample(&mut self, sample: Sample, has_work: bool) -> Progress {
        let has_moved = std::mem::replace(&mut self.step, sample.step) != sample.step;
        if sample.waits_for().is_some() && !has_work {
            self.unmoved = 0;
            return Progress::Idle;
        }
        self.unmoved = if has_moved { 0 } else { self.unmoved + 1 };
        if self.unmoved >= SAMPLES { Progress::Stuck } else { Progress::Working }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Instant = Instant::from_boot(Duration::from_secs(100));

    #[test]
    fn a_thread_that_makes_steps_between_samples_is_working() {
        let (heartbeat, mut detector) = (Heartbeat::new("t"), StuckDetector::default());
        for _ in 0..100 {
            heartbeat.step();
            assert_eq!(detector.handle_sample(heartbeat.sample(), false), Progress::Working);
        }
    }

    #[test]
    fn a_thread_that_makes_no_step_is_stuck_after_three_more_samples() {
        let (heartbeat, mut detector) = (Heartbeat::new("t"), StuckDetector::default());
        heartbeat.step();
        let seen: Vec<_> = (0..4).map(|_| detector.handle_sample(heartbeat.sample(), false)).collect();
        assert_eq!(seen[..3], [Progress::Working; 3]);
        assert_eq!(seen[3], Progress::Stuck);
    }

    #[test]
    fn one_step_is_enough_to_begin_to_count_again() {
        let (heartbeat, mut detector) = (Heartbeat::new("t"), StuckDetector::default());
        for _ in 0..100 {
            heartbeat.step();
            for _ in 0..3 {
                assert_eq!(detector.handle_sample(heartbeat.sample(), false), Progress::Working);
            }
        }
    }

    #[test]
    fn a_thread_may_wait_for_ever_for_what_does_not_come_but_not_for_what_is_there() {
        let (heartbeat, mut detector) = (Heartbeat::new("t"), StuckDetector::default());
        heartbeat.begin_wait(0b101, LATE);
        for _ in 0..100 {
            assert_eq!(detector.handle_sample(heartbeat.sample(), false), Progress::Idle);
        }
        for _ in 0..2 {
            assert_eq!(detector.handle_sample(heartbeat.sample(), true), Progress::Working);
        }
        assert_eq!(detector.handle_sample(heartbeat.sample(), true), Progress::Stuck);
    }

    #[test]
    fn what_a_thread_waits_for_and_until_when_can_be_seen() {
        let heartbeat = Heartbeat::new("t");
        heartbeat.step();
        assert_eq!(heartbeat.sample().waits_for(), None);
        for flags in 0..8 {
            heartbeat.begin_wait(flags, LATE);
            assert_eq!(heartbeat.sample().waits_for(), Some(flags));
        }
        assert!(
            !heartbeat.sample().is_overdue(LATE)
                && heartbeat.sample().is_overdue(LATE.after(Duration::from_nanos(1)))
        );
        heartbeat.step();
        assert_eq!(heartbeat.sample().waits_for(), None);
    }

    #[test]
    fn an_end_and_a_panic_are_kept_apart() {
        let (ends, panics) = (Heartbeat::new("ends"), Heartbeat::new("panics"));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(ends.begin(1)));
            let panicking = scope.spawn(|| {
                let _life = panics.begin(2);
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(panicking.join().is_err());
        });
        assert!(ends.is_over() && !ends.has_panicked());
        assert!(panics.has_panicked() && !panics.is_over());
    }
}
