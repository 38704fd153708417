//! The recovery ladder: what is tried, and when, while a peer does not answer.

use std::time::Duration;

use crate::dice::Dice;
use crate::node::RecoveryStep;
use crate::time::Instant;

/// Time between two rungs of one climb.
const RUNG: Duration = Duration::from_secs(2);
/// Jitter on every delay, so that peers which lost the same path do not come back in step: up to a fifth.
const JITTER_SHARE: u32 = 5;

/// Which rungs there are, and how long to wait before each climb.
pub(crate) struct Ladder {
    rungs: &'static [RecoveryStep],
    delays: &'static [Duration],
}

/// For a peer we dial: every rung. A climb takes four seconds, so the last delay keeps name look-ups to four a minute.
pub(crate) const DIAL: Ladder = Ladder {
    rungs: &[RecoveryStep::Handshake, RecoveryStep::Rebind, RecoveryStep::Resolve],
    delays: &[secs(0), secs(5), secs(8), secs(11)],
};
/// For a peer that only a handshake can bring back.
pub(crate) const PLAIN: Ladder = Ladder {
    rungs: &[RecoveryStep::Handshake],
    delays: &[secs(1), secs(2), secs(5), secs(10), secs(20), secs(40), secs(60)],
};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Where on its ladder a peer stands.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    climb: Option<Climb>,
    climbs: usize,
}

#[derive(Clone, Copy, Debug)]
struct Climb {
    rung: usize,
    at: Instant,
}

impl Recovery {
    /// Starts to climb, unless that is under way; the more climbs have failed, the later.
    pub(crate) fn start(&mut self, now: Instant, ladder: &Ladder, dice: &mut Dice) {
        if self.climb.is_none() {
            let at = now.after(self.delay(ladder, dice));
            self.climb = Some(Climb { rung: 0, at });
        }
    }

    /// Starts from the first rung at once, as after a change of the network.
    pub(crate) const fn restart(&mut self, now: Instant) {
        self.climbs = 0;
        self.climb = Some(Climb { rung: 0, at: now });
    }

    /// The rung that is due, if one is.
    pub(crate) fn poll(&mut self, now: Instant, ladder: &Ladder, dice: &mut Dice) -> Option<RecoveryStep> {
        let climb = self.climb.filter(|climb| climb.at <= now)?;
        let step = ladder.rungs.get(climb.rung).copied();
        let next = if climb.rung + 1 < ladder.rungs.len() {
            Climb { rung: climb.rung + 1, at: now.after(jittered(RUNG, dice)) }
        } else {
            self.climbs = self.climbs.saturating_add(1);
            Climb { rung: 0, at: now.after(self.delay(ladder, dice)) }
        };
        self.climb = Some(next);
        step
    }

    /// A session was agreed: the climb ends, but it counts as failed until the path is proven.
    pub(crate) const fn pause(&mut self) {
        if self.climb.take().is_some() {
            self.climbs = self.climbs.saturating_add(1);
        }
    }

    /// The path is proven: all is forgotten.
    pub(crate) const fn stop(&mut self) {
        self.climb = None;
        self.climbs = 0;
    }

    /// Whether the ladder is being climbed.
    pub(crate) const fn is_climbing(&self) -> bool {
        self.climb.is_some()
    }

    /// When the next rung is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.climb.map(|climb| climb.at)
    }

    fn delay(&self, ladder: &Ladder, dice: &mut Dice) -> Duration {
        let last = ladder.delays.len().saturating_sub(1);
        jittered(ladder.delays.get(self.climbs.min(last)).copied().unwrap_or_default(), dice)
    }
}

fn jittered(delay: Duration, dice: &mut Dice) -> Duration {
    delay + dice.below(delay / JITTER_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rungs_come_in_order_and_for_ever() {
        let steps = climb(&DIAL, 1, secs(3600));

        for round in steps.chunks_exact(3) {
            let round: Vec<_> = round.iter().map(|(_, step)| *step).collect();
            assert_eq!(round, [RecoveryStep::Handshake, RecoveryStep::Rebind, RecoveryStep::Resolve]);
        }
        assert!(steps.last().unwrap().0 > secs(3570));
    }

    #[test]
    fn a_name_is_resolved_at_most_four_times_a_minute_and_at_least_every_18_seconds() {
        let resolves: Vec<_> = climb(&DIAL, 2, secs(3600))
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
        let steps = climb(&PLAIN, 3, secs(3600));
        let gaps: Vec<_> = steps.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();

        assert!(steps[0].0 >= secs(1) && steps[0].0 < secs(2));
        for (gap, wanted) in gaps.iter().zip([2, 5, 10, 20, 40, 60, 60, 60]) {
            assert!(*gap >= secs(wanted) && *gap <= secs(wanted).mul_f64(1.21), "{gap:?} for {wanted}");
        }
    }

    #[test]
    fn two_peers_do_not_stay_in_step() {
        let (one, other) = (climb(&PLAIN, 4, secs(1200)), climb(&PLAIN, 5, secs(1200)));

        assert!(one.iter().zip(&other).skip(3).all(|(a, b)| a.0 != b.0));
    }

    #[test]
    fn a_session_that_does_not_help_leads_to_a_later_climb() {
        let (mut recovery, mut dice) = (Recovery::default(), Dice::seeded(6));
        recovery.start(at(secs(0)), &DIAL, &mut dice);
        for second in 0..8 {
            recovery.poll(at(secs(second)), &DIAL, &mut dice);
        }
        recovery.pause();
        assert_eq!(recovery.deadline(), None);

        recovery.start(at(secs(10)), &DIAL, &mut dice);
        assert!(recovery.deadline().unwrap() >= at(secs(15)), "the second climb waits for five seconds");

        recovery.stop();
        recovery.start(at(secs(20)), &DIAL, &mut dice);
        assert_eq!(recovery.deadline(), Some(at(secs(20))));
    }

    fn climb(ladder: &Ladder, seed: u64, span: Duration) -> Vec<(Duration, RecoveryStep)> {
        let (mut recovery, mut dice) = (Recovery::default(), Dice::seeded(seed));
        recovery.start(at(Duration::ZERO), ladder, &mut dice);
        let mut steps = Vec::new();
        while let Some(due) = recovery.deadline().filter(|due| *due <= at(span)) {
            let step = recovery.poll(due, ladder, &mut dice).expect("the rung is due");
            steps.push((due.since(at(Duration::ZERO)), step));
        }
        steps
    }

    fn at(since: Duration) -> Instant {
        Instant::from_boot(secs(1000) + since)
    }
}
