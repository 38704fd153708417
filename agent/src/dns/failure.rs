//! Why a step failed, and what is reported of it: pure.

use std::time::{Duration, Instant};

/// Why an authority did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It did not answer, or cannot at the moment.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It refuses, and will until a person acts.
    #[error("{0}")]
    Refused(String),
    /// The record is not as it was read: another program changed it in between.
    #[error("the record was changed by another hand at the same moment")]
    Outdated,
}

impl Failure {
    /// [`Failure::Unavailable`] with nothing but a reason.
    #[must_use]
    pub fn unavailable(reason: impl ToString) -> Self {
        Self::Unavailable { reason: reason.to_string(), retry_after: None }
    }
}

/// How long something temporary lasts before it is warned of.
const TEMPORARY: Duration = Duration::from_secs(60);

/// How a failure is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It may pass by itself.
    Info,
    /// A person should act.
    Warning,
}

/// What of repeated failures has been reported: each reason once, and a temporary one as a warning
/// only when it lasts.
#[derive(Debug, Default)]
pub struct Trouble {
    since: Option<Instant>,
    reason: String,
    severity: Option<Severity>,
}

impl Trouble {
    /// Notes a failure; how it is logged, if it is.
    pub fn handle_failure(&mut self, now: Instant, reason: &str, is_temporary: bool) -> Option<Severity> {
        let since = *self.since.get_or_insert(now);
        let is_new = self.severity.is_none() || self.reason != reason;
        let lasts = now.saturating_duration_since(since) >= TEMPORARY;
        let severity = if is_temporary && !lasts { Severity::Info } else { Severity::Warning };
        let was_warned = self.severity == Some(Severity::Warning);
        let is_due = match severity {
            Severity::Info => is_new,
            // Reasons of a server that is away alternate, such as a timeout and a refused
            // connection.
            Severity::Warning => !was_warned || (is_new && !is_temporary),
        };
        reason.clone_into(&mut self.reason);
        if is_due {
            self.severity = Some(severity);
        }
        is_due.then_some(severity)
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Notes a success; whether it ends failures that were reported.
    pub fn handle_success(&mut self) -> bool {
        std::mem::take(self).severity.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_warned_of_once_and_again_for_another_reason() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.handle_failure(now, "bad key", false), Some(Severity::Warning));
        assert_eq!(trouble.handle_failure(now, "bad key", false), None);
        assert_eq!(trouble.handle_failure(now, "not allowed", false), Some(Severity::Warning));
        assert!(trouble.handle_success() && !trouble.handle_success());
    }

    #[test]
    fn what_is_temporary_is_warned_of_when_it_lasts() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.handle_failure(now, "timeout", true), Some(Severity::Info));
        assert_eq!(trouble.handle_failure(now + TEMPORARY / 2, "timeout", true), None);
        assert_eq!(trouble.handle_failure(now + TEMPORARY, "timeout", true), Some(Severity::Warning));
        assert_eq!(trouble.handle_failure(now + TEMPORARY * 2, "refused", true), None);
        assert!(trouble.handle_success());
        assert_eq!(trouble.handle_failure(now + TEMPORARY * 3, "timeout", true), Some(Severity::Info));
    }
}
