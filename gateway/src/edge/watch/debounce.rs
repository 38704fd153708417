//! Reports only what stays wrong for a while: during a change of routes, or while a machine starts,
//! something may be wrong for a moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lines that count once every check has found them for long enough.
#[derive(Debug)]
pub(super) struct Debounce {
    /// How long every check must find a line before it counts.
    least: Duration,
    since: BTreeMap<String, Instant>,
    lasting: Vec<String>,
}

impl Debounce {
    /// For lines that count after `least`.
    pub(super) fn new(least: Duration) -> Self {
        Self { least, since: BTreeMap::new(), lasting: Vec::new() }
    }

    /// Takes what a check found; the lines that count from now on.
    pub(super) fn handle_check(&mut self, now: Instant, found: Vec<String>) -> Vec<String> {
        let before = std::mem::take(&mut self.since);
        self.since = found
            .into_iter()
            .map(|line| {
                let since = before.get(&line).copied().unwrap_or(now);
                (line, since)
            })
            .collect();
        let old = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= self.least);
        let lasting: Vec<String> = old.map(|(line, _)| line.clone()).collect();
        let new = lasting.iter().filter(|line| !self.lasting.contains(line)).cloned().collect();
        self.lasting = lasting;
        new
    }

    /// The lines that count.
    pub(super) fn lines(&self) -> &[String] {
        &self.lasting
    }

    /// Whether a line was found that does not count yet, so that another check is due after
    /// `least`.
    pub(super) fn is_settling(&self) -> bool {
        self.since.len() > self.lasting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(2);

    fn found() -> Vec<String> {
        vec!["a route is missing".to_owned()]
    }

    #[test]
    fn a_line_counts_once_every_check_has_found_it_for_long_enough() {
        let (mut lasting, start) = (Debounce::new(LEAST), Instant::now());
        assert!(lasting.handle_check(start, found()).is_empty() && lasting.is_settling());
        assert!(lasting.handle_check(start + LEAST / 2, found()).is_empty());
        assert_eq!(lasting.handle_check(start + LEAST, found()), found());
        assert_eq!(lasting.lines(), found());
        assert!(!lasting.is_settling());
        assert!(lasting.handle_check(start + LEAST * 2, found()).is_empty(), "it is new only once");
    }

    #[test]
    fn a_check_that_does_not_find_it_begins_the_time_again() {
        let (mut lasting, start) = (Debounce::new(LEAST), Instant::now());
        lasting.handle_check(start, found());
        lasting.handle_check(start + LEAST / 2, Vec::new());
        assert!(lasting.handle_check(start + LEAST, found()).is_empty());
        assert_eq!(lasting.handle_check(start + LEAST * 2, found()), found());
        assert!(lasting.handle_check(start + LEAST * 3, Vec::new()).is_empty() && lasting.lines().is_empty());
        assert!(lasting.handle_check(start + LEAST * 4, found()).is_empty(), "the time begins again");
    }
}
