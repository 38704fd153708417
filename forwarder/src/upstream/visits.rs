//! What the visitor's probes of one name say together, over time.

use std::time::Duration;

use daemon::link::visitor::{Cause, Proof, SeenVisit};
use tunnel::time::Instant;

/// From one probe to the next.
const EVERY: Duration = Duration::from_secs(60);
/// The least time between two probes: what decides about a first failure comes then.
pub const LEAST: Duration = Duration::from_secs(2);
/// From one probe to the next while a hop is failing.
const WHILE_FAILING: Duration = Duration::from_secs(30);
/// How long a success proves the path.
const PROVES: Duration = EVERY.saturating_mul(3);
/// Probes in a row without success after which the path is not proven any more.
const FALL: u32 = 2;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The whole path works.
    Proven {
        /// Whether this system trusts who signed the certificate.
        trusted: Option<bool>,
    },
    /// A hop fails.
    Failing(Cause),
    /// Nothing can be said.
    Unknown(Cause),
}

/// The probes so far.
#[derive(Debug, Default)]
pub struct Visits {
    shown: Option<Finding>,
    since: Instant,
    /// When the last success was.
    proven_at: Option<Instant>,
    /// Probes without success since then.
    failed: u32,
    /// All probes.
    count: u64,
}

impl Visits {
    /// Takes what a probe found; whether what the probes say is another than before.
    pub fn handle_finding(&mut self, now: Instant, finding: Finding) -> bool {
        let before = self.seen(now);
        self.count += 1;
        match finding {
            Finding::Proven { .. } => {
                self.failed = 0;
                self.proven_at = Some(now);
            }
            Finding::Failing(_) | Finding::Unknown(_) => self.failed = self.failed.saturating_add(1),
        }
        if self.decides(finding) {
            let is_as_before = self.shown.is_some() && before.state == proof(finding);
            self.since = if is_as_before { before.since } else { now };
            self.shown = Some(finding);
        }
        let after = self.seen(now);
        (before.state, before.cause, before.trusted) != (after.state, after.cause, after.trusted)
    }

    /// Whether a finding is shown at once: one failure in a row may be chance.
    fn decides(&self, finding: Finding) -> bool {
        match (finding, self.shown) {
            (Finding::Proven { .. }, _)
            | (_, Some(Finding::Failing(_)))
            | (Finding::Unknown(_), None | Some(Finding::Unknown(_))) => true,
            (Finding::Failing(_), None | Some(Finding::Unknown(_))) | (_, Some(Finding::Proven { .. })) => {
                self.failed >= FALL
            }
        }
    }

    /// What the probes say.
    #[must_use]
    pub fn seen(&self, now: Instant) -> SeenVisit {
        let seen = |state, cause| SeenVisit { state, since: self.since, cause, trusted: None };
        match self.shown {
            None => seen(Proof::Unknown, Some(Cause::NotTried)),
            Some(Finding::Failing(cause)) => seen(Proof::Failing, Some(cause)),
            Some(Finding::Unknown(cause)) => seen(Proof::Unknown, Some(cause)),
            Some(Finding::Proven { trusted }) => {
                let ends = self.proven_at.unwrap_or_default().after(PROVES);
                if now < ends {
                    SeenVisit { trusted, ..seen(Proof::Proven, None) }
                } else {
                    SeenVisit { since: ends, ..seen(Proof::Unknown, Some(Cause::Stale)) }
                }
            }
        }
    }

    /// How many there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The pause until the next probe.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        match self.shown {
            // These are seen without a connection.
            Some(
                Finding::Failing(Cause::NotPublished)
                | Finding::Unknown(Cause::TunnelDown | Cause::UpstreamFailing),
            ) => LEAST,
            Some(Finding::Failing(_)) => WHILE_FAILING,
            Some(Finding::Unknown(_)) if self.failed >= FALL => EVERY,
            Some(_) | None if 0 < self.failed => LEAST,
            Some(_) | None => EVERY,
        }
    }
}

const fn proof(finding: Finding) -> Proof {
    match finding {
        Finding::Proven { .. } => Proof::Proven,
        Finding::Failing(_) => Proof::Failing,
        Finding::Unknown(_) => Proof::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVEN: Finding = Finding::Proven { trusted: Some(true) };
    const CLOSED: Finding = Finding::Failing(Cause::NotForwarded);

    #[test]
    fn a_path_is_proven_by_one_probe_and_for_three_intervals() {
        let mut visits = Visits::default();
        assert_eq!(shown(&visits, 0), (Proof::Unknown, Some(Cause::NotTried)));
        assert!(visits.handle_finding(at(1), PROVEN));
        assert_eq!(visits.pause(), EVERY);
        assert_eq!(shown(&visits, 180), (Proof::Proven, None));
        assert_eq!(shown(&visits, 181), (Proof::Unknown, Some(Cause::Stale)));
        assert_eq!(visits.seen(at(191)).since, at(181));
        assert!(visits.handle_finding(at(200), PROVEN));
        assert_eq!((shown(&visits, 379), visits.seen(at(379)).since), ((Proof::Proven, None), at(200)));
    }

    #[test]
    fn a_failure_is_decided_by_a_second_one_soon_and_a_success_ends_it() {
        let mut visits = Visits::default();
        visits.handle_finding(at(1), PROVEN);
        assert!(!visits.handle_finding(at(61), CLOSED), "one may be chance");
        assert_eq!((shown(&visits, 61), visits.pause()), ((Proof::Proven, None), LEAST));
        assert!(visits.handle_finding(at(66), CLOSED));
        assert_eq!(shown(&visits, 66), (Proof::Failing, Some(Cause::NotForwarded)));
        assert_eq!(visits.pause(), WHILE_FAILING);
        assert!(visits.handle_finding(at(96), Finding::Failing(Cause::PortRefused)), "another cause");
        assert_eq!(visits.seen(at(96)).since, at(66), "and the same state");
        assert!(visits.handle_finding(at(126), PROVEN));
        assert_eq!(shown(&visits, 126), (Proof::Proven, None));
    }

    #[test]
    fn failures_that_are_not_in_a_row_decide_nothing() {
        let mut visits = Visits::default();
        for second in [0, 70, 140, 210] {
            visits.handle_finding(at(second), PROVEN);
            visits.handle_finding(at(second + 60), CLOSED);
            assert_eq!(shown(&visits, second + 65), (Proof::Proven, None));
        }
    }

    #[test]
    fn what_says_nothing_is_shown_at_once_but_ends_no_proof_by_itself() {
        let private = Finding::Unknown(Cause::PrivateAddress);
        let mut visits = Visits::default();
        assert!(visits.handle_finding(at(1), private));
        assert_eq!(shown(&visits, 1), (Proof::Unknown, Some(Cause::PrivateAddress)));
        visits.handle_finding(at(6), PROVEN);
        assert!(!visits.handle_finding(at(66), private));
        assert!(visits.handle_finding(at(71), private));
        assert_eq!(
            (shown(&visits, 71), visits.pause()),
            ((Proof::Unknown, Some(Cause::PrivateAddress)), EVERY)
        );
    }

    #[test]
    fn the_first_failure_of_a_new_name_waits_for_the_second() {
        let mut visits = Visits::default();
        assert!(!visits.handle_finding(at(1), CLOSED));
        assert_eq!((shown(&visits, 1), visits.pause()), ((Proof::Unknown, Some(Cause::NotTried)), LEAST));
        assert!(visits.handle_finding(at(6), CLOSED));
        assert_eq!(shown(&visits, 6), (Proof::Failing, Some(Cause::NotForwarded)));
    }

    fn shown(visits: &Visits, second: u64) -> (Proof, Option<Cause>) {
        let seen = visits.seen(at(second));
        (seen.state, seen.cause)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
