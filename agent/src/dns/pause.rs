//! How long to wait after failures, and how many changes are made in a time: pure.

use std::time::{Duration, Instant};

/// The pause after the first failure of something temporary.
const FIRST: Duration = Duration::from_secs(1);
/// And after a refusal, which nothing but a person ends.
const FIRST_REFUSED: Duration = Duration::from_secs(30);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);
/// Pauses grow by up to a fifth, so that many edges do not come back at the same time.
const JITTER_SHARE: u32 = 5;

/// The pauses between attempts that fail.
#[derive(Debug, Default)]
pub struct Pause {
    failures: u32,
}

impl Pause {
    /// The pause after one more failure, at least what the server asks for; `random` is any number.
    pub fn handle_failure(
        &mut self,
        is_refusal: bool,
        retry_after: Option<Duration>,
        random: u8,
    ) -> Duration {
        let first = if is_refusal { FIRST_REFUSED } else { FIRST };
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let pause = pause.max(retry_after.unwrap_or_default().min(LONGEST_ASKED));
        pause + (pause / JITTER_SHARE / 256) * u32::from(random)
    }

    /// The next pause is the first again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The most changes at once.
const BURST: u32 = 5;
/// The time in which one more is allowed.
const EACH: Duration = Duration::from_secs(60);

/// Limits how often records change, so that a line that flaps does not flood the authority.
#[derive(Debug)]
pub struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    /// Nothing has changed yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Takes one change.
    ///
    /// # Errors
    /// When the next one is allowed.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.left < BURST && now.saturating_duration_since(self.since) >= EACH {
            self.left += 1;
            self.since += EACH;
        }
        if self.left == BURST {
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.since + EACH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_five_minutes_and_begin_again_after_a_success() {
        let mut pause = Pause::default();
        let seconds: Vec<u64> = (0..11).map(|_| pause.handle_failure(false, None, 0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        pause.reset();
        assert_eq!(pause.handle_failure(true, None, 0).as_secs(), 30);
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_up_to_an_hour() {
        let mut pause = Pause::default();
        assert_eq!(pause.handle_failure(false, Some(Duration::from_secs(90)), 0).as_secs(), 90);
        assert_eq!(pause.handle_failure(false, Some(Duration::from_secs(90_000)), 0), LONGEST_ASKED);
        let jittered = pause.handle_failure(false, Some(Duration::from_secs(100)), 255);
        assert!((100..=120).contains(&jittered.as_secs()), "{jittered:?}");
    }

    #[test]
    fn five_changes_may_be_made_at_once_and_then_one_a_minute() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.take(now), Ok(()));
        }
        assert_eq!(pace.take(now), Err(now + EACH));
        assert_eq!(pace.take(now + EACH), Ok(()));
        assert_eq!(pace.take(now + EACH), Err(now + EACH * 2));
        let rested = now + EACH * 20;
        assert_eq!((0..9).filter(|_| pace.take(rested).is_ok()).count(), 5);
    }
}
