//! Timers of many flows: one entry each, the earliest first.

use std::collections::BTreeSet;

use tunnel::time::Instant;

/// A set of deadlines, each belonging to one `T`; an entry is armed once and fires once.
///
/// Flows arm it lazily: a deadline that moved later stays where it is, and the flow checks again
/// when it fires. So a busy flow costs one operation per timeout, not one per packet.
#[derive(Debug)]
pub struct Deadlines<T> {
    entries: BTreeSet<(Instant, T)>,
}

impl<T: Copy + Ord> Deadlines<T> {
    /// No deadline.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeSet::new() }
    }

    /// Makes `owner` fire no later than `at`; `armed` is where its entry is now, kept by the owner.
    pub fn arm(&mut self, owner: T, armed: &mut Option<Instant>, at: Instant) {
        if let Some(earlier) = *armed {
            if earlier <= at {
                return;
            }
            self.entries.remove(&(earlier, owner));
        }
        self.entries.insert((at, owner));
        *armed = Some(at);
    }

    /// Forgets the owner's entry.
    pub fn disarm(&mut self, owner: T, armed: &mut Option<Instant>) {
        if let Some(at) = armed.take() {
            self.entries.remove(&(at, owner));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// The owner of the earliest deadline, come or not; its entry is gone, it must clear what it
    /// kept as armed.
    pub fn poll_first(&mut self) -> Option<T> {
        self.entries.pop_first().map(|(_, owner)| owner)
    }

    /// One owner whose deadline has come; its entry is gone, it must clear what it kept as armed.
    pub fn poll_due(&mut self, now: Instant) -> Option<T> {
        let (at, owner) = *self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(owner)
    }
}

impl<T: Copy + Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_later_deadline_leaves_the_entry_where_it_is() {
        let (mut deadlines, mut armed) = (Deadlines::new(), None);
        deadlines.arm(1, &mut armed, at(5));
        deadlines.arm(1, &mut armed, at(9));
        assert_eq!(deadlines.next(), Some(at(5)));
        deadlines.arm(1, &mut armed, at(3));
        assert_eq!(deadlines.next(), Some(at(3)));
        assert_eq!(deadlines.entries.len(), 1);
    }

    #[test]
    fn what_is_due_comes_in_order_and_once() {
        let mut deadlines = Deadlines::new();
        for (owner, second) in [(1, 4), (2, 2), (3, 8)] {
            deadlines.arm(owner, &mut None, at(second));
        }
        assert_eq!(deadlines.poll_due(at(5)), Some(2));
        assert_eq!(deadlines.poll_due(at(5)), Some(1));
        assert_eq!(deadlines.poll_due(at(5)), None);
    }

    #[test]
    fn a_disarmed_entry_never_fires() {
        let (mut deadlines, mut armed) = (Deadlines::new(), None);
        deadlines.arm(1, &mut armed, at(5));
        deadlines.disarm(1, &mut armed);
        assert_eq!(deadlines.poll_due(at(9)), None);
        assert_eq!(armed, None);
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }
}
