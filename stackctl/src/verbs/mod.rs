//! What each verb does: the pure core's decisions, carried out through [`crate::shell`].

pub mod actions;
pub mod adopt;
pub mod arrange;
pub mod clean;
pub mod diff;
pub mod doctor;
pub mod names;
pub mod prepare;
pub mod remote;
pub mod rollback;
pub mod secrets;
pub mod session;
pub mod setup;
pub mod status;
pub mod up;

use serde_json::Value;

/// What a verb has to say: one text for people, one value for programs.
pub struct Report {
    /// For standard output without `--json`.
    pub text: String,
    /// For standard output with `--json`.
    pub json: Value,
    /// The failure that decides the exit code although there is a report.
    pub fault: Option<crate::fault::Fault>,
}

impl Report {
    /// A report of success.
    #[must_use]
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, fault: None }
    }
}
