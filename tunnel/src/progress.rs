//! Whether a thread makes progress: the signs it gives, and how another thread judges them.
//!
//! A thread that carries packets counts its steps and says when it waits, and what for. Between two looks a healthy one
//! has moved or waits for what has not come. Looks are counted, not time: while the whole process is stopped, or the
//! machine asleep, there are no looks.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Instant;

/// Looks in a row that must find a thread where it was, with something to do, until it counts as stuck.
const LOOKS: u32 = 3;
/// Bit of a step that says that the thread waits.
const WAITS: u64 = 1;
/// The bits of a step that are the flags of [`Pulse::rest`], and the first bit above them.
const FLAGS: u64 = 0b1110;
const STEP: u64 = 16;

/// A thread's signs of life: it alone writes them, any thread reads them.
#[derive(Debug, Default)]
pub struct Pulse {
    name: &'static str,
    /// Grows with every sign. The lowest bits say whether the thread waits, and what for.
    step: AtomicU64,
    /// Until when it waits at the longest, in nanoseconds since boot.
    until: AtomicU64,
    /// The thread as the kernel numbers it; 0 before it began, and where threads have no number.
    id: AtomicI32,
    is_over: AtomicBool,
    has_panicked: AtomicBool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    step: u64,
    until: Instant,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It waits, and there is nothing for it to do.
    AtRest,
    /// It works, or is about to.
    AtWork,
    /// It has something to do and does not move.
    Stuck,
}

/// What is wrong with a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ended without having been asked to: by a panic, or ended by the kernel.
    #[error("the thread {name} (id {id}) is gone: a panic ended it, or the kernel did (see dmesg)")]
    Gone {
        /// The thread's name.
        name: &'static str,
        /// The kernel's number of the thread.
        id: i32,
    },
    /// It does not move.
    #[error("the thread {name} (id {id}) has made no progress for {} s although it has something to do", .since.as_secs())]
    Stuck {
        /// The thread's name.
        name: &'static str,
        /// The kernel's number of the thread.
        id: i32,
        /// For how long it has been seen where it is.
        since: Duration,
    },
}

/// Held by a thread while it runs; says that it is over when dropped.
#[derive(Debug)]
pub struct Life<'p>(&'p Pulse);

impl Pulse {
    /// The pulse of a thread of that name, which has not begun.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// To be called by the thread itself before anything else.
    pub(crate) fn begin(&self, id: i32) -> Life<'_> {
        self.id.store(id, Ordering::Relaxed);
        self.work();
        Life(self)
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

    /// A step forward: to be called at every turn of the thread's loop.
    #[inline]
    pub fn work(&self) {
        let step = self.step.load(Ordering::Relaxed);
        self.step.store((step & !(FLAGS | WAITS)).wrapping_add(STEP), Ordering::Relaxed);
    }

    /// The thread is about to wait, for what `flags` say (three bits, whose meaning is the thread's own), or until then.
    #[inline]
    pub fn rest(&self, flags: u8, until: Instant) {
        let nanos = u64::try_from(until.since_boot().as_nanos()).unwrap_or(u64::MAX);
        self.until.store(nanos, Ordering::Relaxed);
        let step = self.step.load(Ordering::Relaxed) & !(FLAGS | WAITS);
        self.step.store(step.wrapping_add(STEP) | (u64::from(flags) << 1) & FLAGS | WAITS, Ordering::Relaxed);
    }

    /// Looks at the thread.
    #[must_use]
    pub fn look(&self) -> Sight {
        let until = Instant::from_boot(Duration::from_nanos(self.until.load(Ordering::Relaxed)));
        Sight { step: self.step.load(Ordering::Relaxed), until }
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let over = if std::thread::panicking() { &self.0.has_panicked } else { &self.0.is_over };
        over.store(true, Ordering::Relaxed);
    }
}

impl Sight {
    /// What the thread waits for; `None` when it works.
    #[must_use]
    pub const fn waits_for(&self) -> Option<u8> {
        if self.step & WAITS == 0 { None } else { Some(((self.step & FLAGS) >> 1) as u8) }
    }

    /// Whether it waits longer than it said.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.until < now
    }
}

/// Judges one thread by looks that are a second or more apart.
#[derive(Debug, Default)]
pub struct Judge {
    step: u64,
    unmoved: u32,
}

impl Judge {
    /// Whether it was elsewhere at the last look than at the one before.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        self.unmoved == 0
    }

    /// Takes one look; `has_work` says whether what it waits for, if it waits, is there.
    pub fn handle_look(&mut self, sight: Sight, has_work: bool) -> Judgement {
        let has_moved = std::mem::replace(&mut self.step, sight.step) != sight.step;
        if sight.waits_for().is_some() && !has_work {
            self.unmoved = 0;
            return Judgement::AtRest;
        }
        self.unmoved = if has_moved { 0 } else { self.unmoved + 1 };
        if self.unmoved >= LOOKS { Judgement::Stuck } else { Judgement::AtWork }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Instant = Instant::from_boot(Duration::from_secs(100));

    #[test]
    fn a_thread_that_moves_between_looks_is_at_work() {
        let (pulse, mut judge) = (Pulse::new("t"), Judge::default());
        for _ in 0..100 {
            pulse.work();
            assert_eq!(judge.handle_look(pulse.look(), false), Judgement::AtWork);
        }
    }

    #[test]
    fn a_thread_that_does_not_move_is_stuck_after_three_more_looks() {
        let (pulse, mut judge) = (Pulse::new("t"), Judge::default());
        pulse.work();
        let seen: Vec<_> = (0..4).map(|_| judge.handle_look(pulse.look(), false)).collect();
        assert_eq!(seen[..3], [Judgement::AtWork; 3]);
        assert_eq!(seen[3], Judgement::Stuck);
    }

    #[test]
    fn one_step_is_enough_to_begin_to_count_again() {
        let (pulse, mut judge) = (Pulse::new("t"), Judge::default());
        for _ in 0..100 {
            pulse.work();
            for _ in 0..3 {
                assert_eq!(judge.handle_look(pulse.look(), false), Judgement::AtWork);
            }
        }
    }

    #[test]
    fn a_thread_may_wait_for_ever_for_what_does_not_come_but_not_for_what_is_there() {
        let (pulse, mut judge) = (Pulse::new("t"), Judge::default());
        pulse.rest(0b101, LATE);
        for _ in 0..100 {
            assert_eq!(judge.handle_look(pulse.look(), false), Judgement::AtRest);
        }
        for _ in 0..2 {
            assert_eq!(judge.handle_look(pulse.look(), true), Judgement::AtWork);
        }
        assert_eq!(judge.handle_look(pulse.look(), true), Judgement::Stuck);
    }

    #[test]
    fn what_a_thread_waits_for_and_until_when_can_be_seen() {
        let pulse = Pulse::new("t");
        pulse.work();
        assert_eq!(pulse.look().waits_for(), None);
        for flags in 0..8 {
            pulse.rest(flags, LATE);
            assert_eq!(pulse.look().waits_for(), Some(flags));
        }
        assert!(
            !pulse.look().is_overdue(LATE) && pulse.look().is_overdue(LATE.after(Duration::from_nanos(1)))
        );
        pulse.work();
        assert_eq!(pulse.look().waits_for(), None);
    }

    #[test]
    fn an_end_and_a_panic_are_kept_apart() {
        let (ends, panics) = (Pulse::new("ends"), Pulse::new("panics"));
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
