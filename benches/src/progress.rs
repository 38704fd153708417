//! What a long bench is at, and how long it still takes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The steps of a run, reported on standard error: a line per step, or on a terminal one line that
/// changes.
#[derive(Debug)]
pub struct Progress {
    program: &'static str,
    plan: Plan,
    begun: Instant,
    is_terminal: bool,
}

/// The steps and what they are expected to take, without a clock.
#[derive(Debug)]
struct Plan {
    steps: usize,
    begun: usize,
    /// Seconds that were expected of all steps, of those that are done, and of the one that runs.
    all: f64,
    done: f64,
    now: f64,
    /// When the one that runs began.
    since: Duration,
}

impl Progress {
    /// A run with a step for each of these expected seconds.
    #[must_use]
    pub fn new(program: &'static str, expected: impl IntoIterator<Item = f64>) -> Self {
        Self {
            program,
            plan: Plan::new(expected),
            begun: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Begins a step that is expected to take this many seconds.
    pub fn begin(&mut self, what: &str, expected: f64) {
        let elapsed = self.begun.elapsed();
        self.plan.begin(expected, elapsed);
        let line = self.plan.line(what, elapsed);
        if self.is_terminal {
            self.rewrite(&line);
        } else {
            self.line(&line);
        }
    }

    /// What the step is at; only a terminal shows it.
    pub fn detail(&self, what: &str) {
        if self.is_terminal {
            self.rewrite(&self.plan.line(what, self.begun.elapsed()));
        }
    }

    /// Something that stays to be read.
    pub fn note(&self, what: &str) {
        if self.is_terminal {
            self.rewrite("");
        }
        self.line(what);
    }

    /// All is done.
    pub fn end(&self) {
        let took = self.begun.elapsed();
        self.note(&format!(
            "{} of {} steps, {}",
            self.plan.begun,
            self.plan.steps,
            minutes(took.as_secs_f64())
        ));
    }

    // Progress output may fail: standard error may be closed.
    fn line(&self, what: &str) {
        let _ = writeln!(std::io::stderr(), "{}{}: {what}", self.start(), self.program);
    }

    fn rewrite(&self, what: &str) {
        let _ = write!(std::io::stderr(), "{}{}: {what}", self.start(), self.program);
    }

    /// Back to the beginning of a line that is cleared.
    fn start(&self) -> &'static str {
        if self.is_terminal { "\r\x1b[K" } else { "" }
    }
}

impl Plan {
    fn new(expected: impl IntoIterator<Item = f64>) -> Self {
        let expected: Vec<f64> = expected.into_iter().collect();
        Self {
            steps: expected.len(),
            begun: 0,
            all: expected.iter().sum(),
            done: 0.0,
            now: 0.0,
            since: Duration::ZERO,
        }
    }

    fn begin(&mut self, expected: f64, elapsed: Duration) {
        self.since = elapsed;
        self.begun += 1;
        self.done += self.now;
        self.now = expected;
    }

    /// What runs, how many steps are left after it, and how long all that will take.
    fn line(&self, what: &str, elapsed: Duration) -> String {
        let left = self.steps.saturating_sub(self.begun);
        format!(
            "{} of {}: {what}; {left} left, about {}",
            self.begun,
            self.steps,
            minutes(self.left(elapsed))
        )
    }

    /// Seconds that are left when the machine keeps its pace: what it took for the steps that are
    /// done, over what was expected of them.
    fn left(&self, elapsed: Duration) -> f64 {
        let pace = if self.done > 0.0 { self.since.as_secs_f64() / self.done } else { 1.0 };
        let here = elapsed.saturating_sub(self.since).as_secs_f64();
        ((self.all - self.done) * pace - here).max(0.0)
    }
}

fn minutes(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_expected_to_take_what_was_said() {
        let mut plan = Plan::new([60.0, 60.0, 120.0]);
        plan.begin(60.0, Duration::ZERO);
        assert_eq!(plan.line("wireguard-go", Duration::ZERO), "1 of 3: wireguard-go; 2 left, about 4 min");
        assert_eq!(plan.left(Duration::from_secs(1000)), 0.0, "never less than nothing");
    }

    #[test]
    fn what_was_needed_so_far_says_how_long_the_rest_takes() {
        let mut plan = Plan::new([60.0, 60.0, 120.0]);
        plan.begin(60.0, Duration::ZERO);
        let slow = Duration::from_secs(120);
        plan.begin(60.0, slow);
        assert_eq!(plan.line("gotatun", slow), "2 of 3: gotatun; 1 left, about 6 min");
        let quick = Duration::from_secs(60);
        plan.begin(120.0, quick);
        assert_eq!(plan.line("onetun", quick), "3 of 3: onetun; 0 left, about 60 s");
        assert_eq!(plan.left(Duration::from_secs(70)), 50.0);
    }
}
