//! What is wrong besides the hops of services: at this end, where it is known in words, and at the
//! other one, of which only kinds, numbers, checked names and one quoted text come by the link.
//!
//! `causeway doctor` asks the daemon of its machine for a [`Diagnosis`], and puts it in order.

mod cause;
mod far;

pub use cause::Cause;
pub use far::{Far, FarAnswer, Found, Half, MAX_FOUND, Probed};

use serde::{Deserialize, Serialize};

/// The version of [`Diagnosis`]; it rises when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// What the daemon replies to `diagnose` on its control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// What is wrong at this end.
    pub problems: Vec<Problem>,
    /// What a try of this end's own service entries found; the origin alone has some.
    #[serde(default)]
    pub probed: Vec<Probed>,
    /// What the other ends replied.
    pub far: Vec<Far>,
}

/// Service entries that one diagnosis has tried, at most.
pub const MAX_PROBES: usize = 4;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its kind.
    pub cause: Cause,
    /// What is wrong and how to fix it, in a line, as `status` shows it.
    pub text: String,
}

impl Problem {
    /// One of this kind.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into() }
    }

    /// Several of one kind.
    pub fn all(cause: Cause, texts: impl IntoIterator<Item = String>) -> impl Iterator<Item = Self> {
        texts.into_iter().map(move |text| Self { cause, text })
    }

    /// What is wrong, and what to do: the text in two at its first semicolon. A text that is one
    /// piece says both at once.
    #[must_use]
    pub fn halves(&self) -> (&str, &str) {
        self.text.split_once("; ").unwrap_or((&self.text, &self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_what_is_wrong_and_what_to_do() {
        let problem = Problem::new(Cause::Switch, "x should be 1 and is 0; run: sysctl -w x=1; see also y");
        assert_eq!(problem.halves(), ("x should be 1 and is 0", "run: sysctl -w x=1; see also y"));
        let whole = Problem::new(Cause::Clock, "the clock is wrong: set it");
        assert_eq!(whole.halves().0, whole.halves().1);
    }
}
