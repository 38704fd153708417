//! What a change of the configuration alters, line by line.

use std::fmt;

/// One difference between two plans, as a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What part of the plan: `ruleset`, `route`, `rule`, `sysctl`, `device` or `peer`; of other
    /// settings the section.
    pub part: &'static str,
    /// `+ …`, `- …` or `~ … → …`.
    pub line: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.line)
    }
}
