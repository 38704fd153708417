//! Why a verb ended, as the exit code that scripts read.

/// A verb's failure; the variant is the exit code, the text says what happened, where, and how to
/// fix it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Something else went wrong (exit 1).
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that does not exist (exit 2).
    #[error("{0}")]
    Usage(String),
    /// Docker, or the machine behind `host`, does not answer (exit 3).
    #[error("{0}")]
    Unreachable(String),
    /// A configuration file, template or Compose file is wrong; nothing was changed (exit 4).
    #[error("{0}")]
    Invalid(String),
    /// A secret file is open to others, tracked by git, or not ours to read (exit 5).
    #[error("{0}")]
    Permission(String),
    /// The work of another operator would be overwritten (exit 6).
    #[error("{0}")]
    Conflict(String),
    /// The change did not become healthy and the previous generation runs again (exit 7).
    #[error("{0}")]
    RolledBack(String),
    /// What is rendered is older than its templates (exit 8).
    #[error("{0}")]
    Stale(String),
    /// Part of what was asked succeeded (exit 10).
    #[error("{0}")]
    Degraded(String),
    /// A check found something broken (exit 11).
    #[error("{0}")]
    Broken(String),
}

impl Fault {
    /// The process exit code, as docs/STACKS.md lists them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Invalid(_) => 4,
            Self::Permission(_) => 5,
            Self::Conflict(_) => 6,
            Self::RolledBack(_) => 7,
            Self::Stale(_) => 8,
            Self::Degraded(_) => 10,
            Self::Broken(_) => 11,
        }
    }

    /// The same failure with its exit code kept and a prefix before its text.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        let text = format!("{place}: {self}");
        self.with(text)
    }

    /// The same failure with its exit code kept and more said behind its text.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        let text = format!("{self}; {more}");
        self.with(text)
    }

    fn with(self, text: String) -> Self {
        match self {
            Self::Failed(_) => Self::Failed(text),
            Self::Usage(_) => Self::Usage(text),
            Self::Unreachable(_) => Self::Unreachable(text),
            Self::Invalid(_) => Self::Invalid(text),
            Self::Permission(_) => Self::Permission(text),
            Self::Conflict(_) => Self::Conflict(text),
            Self::RolledBack(_) => Self::RolledBack(text),
            Self::Stale(_) => Self::Stale(text),
            Self::Degraded(_) => Self::Degraded(text),
            Self::Broken(_) => Self::Broken(text),
        }
    }
}
