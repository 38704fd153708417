//! What was found about the machine, in words.

use std::fmt;

/// One line of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be.
    Fine(String),
    /// What the operator should know.
    Note(String),
    /// What visitors or pairing still need, with the fix.
    Missing(String),
}

impl Finding {
    /// Whether something is needed that is not there.
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine(text) => write!(f, "  ok: {text}"),
            Self::Note(text) => write!(f, "  note: {text}"),
            Self::Missing(text) => write!(f, "  missing: {text}"),
        }
    }
}
