//! A change that failed: why, and what is left of it, as a check of the kernel found it.

use crate::kernel::{Failure, FailureKind};
use daemon::exit::{Exit, ExitError};

/// A change that failed.
#[derive(Debug)]
pub(in crate::edge) struct Undone {
    /// Why.
    pub failure: Failure,
    /// What is left of it.
    pub left: Left,
}

/// What is left of a change that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::edge) enum Left {
    /// It was refused before anything was changed.
    NotBegun,
    /// What was found to differ from what was before, after it was put back; nothing, as a rule.
    Compared(Vec<String>),
    /// Whether anything differs is not known.
    Unknown(Failure),
}

impl Undone {
    /// A change that was refused before anything was changed.
    pub(super) const fn not_begun(failure: Failure) -> Self {
        Self { failure, left: Left::NotBegun }
    }

    /// A change whose end is not known.
    pub(super) fn unknown(failure: Failure) -> Self {
        Self { left: Left::Unknown(failure.clone()), failure }
    }

    /// The error that a command ends with.
    pub(in crate::edge) fn stop(self) -> ExitError {
        // A refused ruleset is no change that was undone: none was begun.
        let is_refused = self.failure.kind == FailureKind::Ruleset;
        match &self.left {
            left if left.is_nothing() && is_refused => self.failure.into(),
            left => left.stop(&self.failure),
        }
    }
}

impl Left {
    /// Adds what the caller found.
    pub(in crate::edge) fn and(self, more: impl IntoIterator<Item = String>) -> Self {
        match self {
            Self::Compared(mut lines) => {
                lines.extend(more);
                Self::Compared(lines)
            }
            other => other,
        }
    }

    /// Whether everything is as it was.
    pub(in crate::edge) fn is_nothing(&self) -> bool {
        match self {
            Self::NotBegun => true,
            Self::Compared(lines) => lines.is_empty(),
            Self::Unknown(_) => false,
        }
    }

    /// The error that a command ends with, for `reason`.
    pub(in crate::edge) fn stop(&self, reason: &dyn std::fmt::Display) -> ExitError {
        let again = "the edge goes on trying, see gatewayctl status";
        match self {
            Self::NotBegun => ExitError::new(Exit::RolledBack, format!("{reason}; nothing was changed")),
            Self::Compared(lines) if lines.is_empty() => {
                ExitError::new(Exit::RolledBack, format!("{reason}; everything is as it was"))
            }
            Self::Compared(lines) => {
                let differs = lines.join("; ");
                ExitError::new(
                    Exit::Failed,
                    format!("{reason}; not everything is as it was ({differs}): {again}"),
                )
            }
            Self::Unknown(failure) => {
                let unknown = format!("whether everything is as it was is not known ({failure})");
                ExitError::new(Exit::Failed, format!("{reason}; {unknown}: {again}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_everything_is_as_it_was_is_reported_only_after_a_comparison_that_found_nothing() {
        let failure = |kind| Failure::new(kind, "no");
        let said = |kind, left| {
            let stop = Undone { failure: failure(kind), left }.stop();
            (stop.exit, stop.message)
        };
        let (exit, message) = said(FailureKind::Kernel, Left::Compared(Vec::new()));
        assert_eq!((exit, message.as_str()), (Exit::RolledBack, "no; everything is as it was"));
        let (exit, message) = said(FailureKind::Kernel, Left::NotBegun);
        assert_eq!((exit, message.as_str()), (Exit::RolledBack, "no; nothing was changed"));
        for left in [
            Left::Compared(vec!["- route".to_owned()]),
            Left::Unknown(failure(FailureKind::Kernel)),
            Left::Compared(Vec::new()).and(Some("the port".to_owned())),
        ] {
            for kind in [FailureKind::Kernel, FailureKind::Ruleset] {
                let (exit, message) = said(kind, left.clone());
                assert_eq!(exit, Exit::Failed);
                assert!(!message.contains("; everything is as it was"), "{message}");
            }
        }
        assert_eq!(said(FailureKind::Ruleset, Left::Compared(Vec::new())), (Exit::Failed, "no".to_owned()));
    }
}
