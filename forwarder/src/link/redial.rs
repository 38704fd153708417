//! When the link to an edge is dialled next.

use std::time::Duration;

use tunnel::time::Instant;

/// The pause after a link that was up, and after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause for an edge that had a link before.
const LONGEST: Duration = Duration::from_secs(30);
/// And for one that never had: most likely it is a plain WireGuard peer, which costs next to
/// nothing so.
const LONGEST_WITHOUT: Duration = Duration::from_secs(300);
/// Pauses grow by up to a fifth, so that many ends which lost the same edge do not come back at the
/// same time.
const JITTER_SHARE: u32 = 5;

/// The pauses between dials.
#[derive(Debug, Default)]
pub(super) struct Redial {
    failures: u32,
    had_link: bool,
    next: Instant,
}

impl Redial {
    /// A connection came to an end; whether it had become a link. `random` is any number.
    pub(super) fn handle_end(&mut self, now: Instant, was_open: bool, random: u32) {
        self.had_link |= was_open;
        if was_open {
            self.failures = 0;
        }
        let longest = if self.had_link { LONGEST } else { LONGEST_WITHOUT };
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.next = now.after(pause + (pause / JITTER_SHARE / 256) * (random & 0xff));
    }

    /// The tunnel came up: whatever failed before, failed without it.
    pub(super) fn handle_peer_up(&mut self, now: Instant) {
        self.failures = 0;
        self.next = now;
    }

    /// When to dial.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_after_a_link_and_begin_again_with_the_next() {
        let mut redial = Redial { had_link: true, ..Redial::default() };
        assert_eq!(pauses(&mut redial, 7, 0), [1, 2, 4, 8, 16, 30, 30]);
        redial.handle_end(at(100), true, 0);
        assert_eq!(redial.next(), at(101));
    }

    #[test]
    fn an_edge_that_never_had_a_link_is_asked_every_five_minutes() {
        let mut redial = Redial::default();
        assert_eq!(pauses(&mut redial, 12, 0)[8..], [256, 300, 300, 300]);
        assert_eq!(pauses(&mut redial, 1_000, 0).last(), Some(&300), "however often");
    }

    #[test]
    fn jitter_adds_up_to_a_fifth() {
        for random in [0, 1, 255, u32::MAX] {
            let mut redial = Redial::default();
            let pause = pauses(&mut redial, 10, random).pop().unwrap();
            assert!((300..=360).contains(&pause), "{pause}");
        }
    }

    #[test]
    fn a_tunnel_that_comes_up_is_tried_at_once() {
        let mut redial = Redial::default();
        pauses(&mut redial, 10, 0);
        redial.handle_peer_up(at(7));
        assert_eq!(redial.next(), at(7));
        redial.handle_end(at(7), false, 0);
        assert_eq!(redial.next(), at(8));
    }

    fn pauses(redial: &mut Redial, count: usize, random: u32) -> Vec<u64> {
        let pause = |_| {
            redial.handle_end(at(0), false, random);
            redial.next().since(at(0)).as_secs()
        };
        (0..count).map(pause).collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
