//! What probes of one upstream say together.

use std::time::Duration;

use super::State;
use crate::link::message::{Evidence, Reason};

/// Failed probes in a row after which an upstream is failing.
const FALL: u32 = 2;
/// The pause before the probe that decides about a first failure.
pub const CONFIRM_AFTER: Duration = Duration::from_millis(500);

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// In one word.
    pub reason: Reason,
    /// What was seen.
    pub evidence: Evidence,
}

/// The probes so far.
#[derive(Debug, Default)]
pub struct Tries {
    failed: u32,
    is_known: bool,
    last: Option<CheckFailure>,
}

impl Tries {
    /// Takes the result of a probe; whether the state is another than before.
    pub fn handle_probe(&mut self, result: Result<(), CheckFailure>) -> bool {
        let before = self.state();
        match result {
            Ok(()) => *self = Self { is_known: true, ..Self::default() },
            Err(failure) => {
                self.failed = self.failed.saturating_add(1);
                self.is_known |= self.failed >= FALL;
                self.last = Some(failure);
            }
        }
        self.state() != before
    }

    /// Failing after two failures in a row, ok again at the first success.
    #[must_use]
    pub const fn state(&self) -> State {
        match (self.is_known, self.failed >= FALL) {
            (false, _) => State::Unknown,
            (true, true) => State::Failing,
            (true, false) => State::Ok,
        }
    }

    /// Whether the last probe failed, and the next one decides.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        0 < self.failed && self.failed < FALL
    }

    /// Why the last failed probe failed; `None` after a success.
    #[must_use]
    pub const fn failure(&self) -> Option<&CheckFailure> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_a_row_are_failing_and_one_success_is_ok() {
        let mut tries = Tries::default();
        let failed = || Err(CheckFailure { reason: Reason::Refused, evidence: Evidence::of("refused") });
        assert_eq!(tries.state(), State::Unknown);
        assert!(!tries.handle_probe(failed()), "one lost reply is none");
        assert!(tries.is_in_doubt());
        assert!(tries.handle_probe(failed()));
        assert_eq!((tries.state(), tries.is_in_doubt()), (State::Failing, false));
        assert!(!tries.handle_probe(failed()));
        assert!(tries.handle_probe(Ok(())));
        assert_eq!((tries.state(), tries.failure()), (State::Ok, None));
        tries.handle_probe(failed());
        assert_eq!(tries.state(), State::Ok);
        tries.handle_probe(Ok(()));
        tries.handle_probe(failed());
        assert_eq!(tries.state(), State::Ok, "not in a row");
    }
}
