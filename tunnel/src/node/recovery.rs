//! The recovery ladder: what is tried, and when, while a peer does not answer.

use std::time::Duration;

use fastrand::Rng;

use super::random::below;
use super::status::RecoveryStep;
use crate::time::Instant;

/// Time between two steps of one round.
const STEP_SPACING: Duration = Duration::from_secs(2);
/// Jitter on every delay, up to a fifth, so that peers which lost the same path do not come back at
/// the same time.
const JITTER_SHARE: u32 = 5;

/// Which steps there are, and how long to wait before each round of them.
pub(super) struct Ladder {
    steps: &'static [RecoveryStep],
    delays: &'static [Duration],
}

/// For a peer that the node dials: every step. A round takes four seconds, so the last delay keeps
/// name look-ups to four a minute.
pub(super) const DIAL: Ladder = Ladder {
    steps: &[RecoveryStep::Handshake, RecoveryStep::Rebind, RecoveryStep::Resolve],
    delays: &[secs(0), secs(5), secs(8), secs(11)],
};
/// For a peer that only a handshake can bring back.
pub(super) const PLAIN: Ladder = Ladder {
    steps: &[RecoveryStep::Handshake],
    delays: &[secs(1), secs(2), secs(5), secs(10), secs(20), secs(40), secs(60)],
};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Where on its ladder a peer is.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    round: Option<Round>,
    /// Rounds since the path was last proven.
    rounds: usize,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// The next step, by its place on the ladder.
    next: usize,
    at: Instant,
}

impl Recovery {
    /// Starts a round, unless one is under way; the more rounds have failed, the later.
    pub(super) fn start(&mut self, now: Instant, ladder: &Ladder, random: &mut Rng) {
        if self.round.is_none() {
            let at = now.after(self.delay(ladder, random));
            self.round = Some(Round { next: 0, at });
        }
    }

    /// Starts from the first step at once, as after a change of the network.
    pub(super) const fn restart(&mut self, now: Instant) {
        self.rounds = 0;
        self.round = Some(Round { next: 0, at: now });
    }

    /// The step that is due, if one is.
    pub(super) fn poll(&mut self, now: Instant, ladder: &Ladder, random: &mut Rng) -> Option<RecoveryStep> {
        let round = self.round.filter(|round| round.at <= now)?;
        let step = ladder.steps.get(round.next).copied();
        let next = if round.next + 1 < ladder.steps.len() {
            Round { next: round.next + 1, at: now.after(jittered(STEP_SPACING, random)) }
        } else {
            self.rounds = self.rounds.saturating_add(1);
            Round { next: 0, at: now.after(self.delay(ladder, random)) }
        };
        self.round = Some(next);
        step
    }

    /// A session was agreed: the round ends, but it counts as failed until the path is proven.
    pub(super) const fn pause(&mut self) {
        if self.round.take().is_some() {
            self.rounds = self.rounds.saturating_add(1);
        }
    }

    /// The path is proven: nothing failed.
    pub(super) const fn stop(&mut self) {
        self.round = None;
        self.rounds = 0;
    }

    /// Whether a round is under way.
    pub(super) const fn is_running(&self) -> bool {
        self.round.is_some()
    }

    /// When the next step is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.round.map(|round| round.at)
    }

    fn delay(&self, ladder: &Ladder, random: &mut Rng) -> Duration {
        let last = ladder.delays.len().saturating_sub(1);
        jittered(ladder.delays.get(self.rounds.min(last)).copied().unwrap_or_default(), random)
    }
}

fn jittered(delay: Duration, random: &mut Rng) -> Duration {
    delay + below(random, delay / JITTER_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_come_in_order_again_and_again() {
        let steps = steps(&DIAL, 1, secs(3600));

        for round in steps.chunks_exact(3) {
            let round: Vec<_> = round.iter().map(|(_, step)| *step).collect();
            assert_eq!(round, [RecoveryStep::Handshake, RecoveryStep::Rebind, RecoveryStep::Resolve]);
        }
        assert!(steps.last().unwrap().0 > secs(3570));
    }

    #[test]
    fn a_name_is_resolved_at_most_four_times_a_minute_and_at_least_every_18_seconds() {
        let resolves: Vec<_> = steps(&DIAL, 2, secs(3600))
            .into_iter()
            .filter_map(|(at, step)| (step == RecoveryStep::Resolve).then_some(at))
            .collect();

        assert!(resolves[0] < secs(6));
        for window in resolves.windows(5).skip(3) {
            assert!(window[4] - window[0] >= secs(60));
        }
        assert!(resolves.windows(2).all(|pair| pair[1] - pair[0] <= secs(18)));
    }

    #[test]
    fn plain_peers_back_off_to_a_minute() {
        let steps = steps(&PLAIN, 3, secs(3600));
        let gaps: Vec<_> = steps.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();

        assert!(steps[0].0 >= secs(1) && steps[0].0 < secs(2));
        for (gap, wanted) in gaps.iter().zip([2, 5, 10, 20, 40, 60, 60, 60]) {
            assert!(*gap >= secs(wanted) && *gap <= secs(wanted).mul_f64(1.21), "{gap:?} for {wanted}");
        }
    }

    #[test]
    fn two_peers_do_not_recover_at_the_same_times() {
        let (one, other) = (steps(&PLAIN, 4, secs(1200)), steps(&PLAIN, 5, secs(1200)));

        assert!(one.iter().zip(&other).skip(3).all(|(a, b)| a.0 != b.0));
    }

    #[test]
    fn a_session_that_does_not_help_leads_to_a_later_round() {
        let (mut recovery, mut random) = (Recovery::default(), Rng::with_seed(6));
        recovery.start(at(secs(0)), &DIAL, &mut random);
        for second in 0..8 {
            recovery.poll(at(secs(second)), &DIAL, &mut random);
        }
        recovery.pause();
        assert_eq!(recovery.deadline(), None);

        recovery.start(at(secs(10)), &DIAL, &mut random);
        assert!(recovery.deadline().unwrap() >= at(secs(15)), "the second round waits for five seconds");

        recovery.stop();
        recovery.start(at(secs(20)), &DIAL, &mut random);
        assert_eq!(recovery.deadline(), Some(at(secs(20))));
    }

    fn steps(ladder: &Ladder, seed: u64, span: Duration) -> Vec<(Duration, RecoveryStep)> {
        let (mut recovery, mut random) = (Recovery::default(), Rng::with_seed(seed));
        recovery.start(at(Duration::ZERO), ladder, &mut random);
        let mut taken = Vec::new();
        while let Some(due) = recovery.deadline().filter(|due| *due <= at(span)) {
            let step = recovery.poll(due, ladder, &mut random).expect("the step is due");
            taken.push((due.since(at(Duration::ZERO)), step));
        }
        taken
    }

    fn at(since: Duration) -> Instant {
        Instant::from_boot(secs(1000) + since)
    }
}
