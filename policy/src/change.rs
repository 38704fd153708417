//! What a change of the configuration alters, line by line.

use std::fmt::{self, Display};

/// One difference between two plans, as a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What part of the plan: `ruleset`, `route`, `rule`, `sysctl`, `device` or `peer`; of other
    /// settings the section.
    pub part: &'static str,
    /// `+ …`, `- …` or `~ … → …`.
    pub line: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.line)
    }
}

/// Lines about settings that have another value.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) lines: Vec<Change>,
}

impl Settings {
    /// One setting, as it is shown.
    pub(crate) fn field(&mut self, part: &'static str, what: &str, old: &str, new: &str) {
        if old != new {
            self.lines.push(Change { part, line: format!("~ {what} {old} → {new}") });
        }
    }

    /// One that may have no value.
    pub(crate) fn option<T: Display>(
        &mut self,
        part: &'static str,
        what: &str,
        old: Option<&T>,
        new: Option<&T>,
    ) {
        let shown = |value: Option<&T>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
        self.field(part, what, &shown(old), &shown(new));
    }

    /// One with several values.
    pub(crate) fn values<T: Display>(&mut self, part: &'static str, what: &str, old: &[T], new: &[T]) {
        let shown = |values: &[T]| {
            let values: Vec<_> = values.iter().map(ToString::to_string).collect();
            format!("[{}]", values.join(", "))
        };
        self.field(part, what, &shown(old), &shown(new));
    }
}
