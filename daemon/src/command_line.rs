//! What the programs print, how they end, and the verbs of changes that both ends have.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use policy::{ConfigError, Position, Warning};
use serde::Serialize;
use serde_json::{Value, json};

use crate::changes::{Changes, Commands};
use crate::exit::{Exit, ExitError};
use crate::files::{LoadError, fix_of};
use crate::text::{Style, period};

/// What to do about a missing configuration.
pub const NAME_IT: &str = "name the configuration with --config FILE";

/// Prints data on standard output.
///
/// # Errors
/// When it cannot be written; a reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> Result<(), ExitError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| ExitError::new(Exit::Failed, error)),
    }
}

/// Prints a message on standard error, without a prefix, so that editors find `file:line:column`.
pub fn print_to_stderr(message: &str) {
    // There is no other place to report a failed write.
    drop(writeln!(io::stderr().lock(), "{message}"));
}

/// A report as JSON, or as text.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn document(
    is_json: bool,
    report: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<String, ExitError> {
    if !is_json {
        return Ok(text());
    }
    serde_json::to_string(report).map(|line| line + "\n").map_err(|error| ExitError::new(Exit::Failed, error))
}

/// Ends a program: prints the error, if there is one, and gives its code.
#[must_use]
pub fn end(ended: Result<Exit, ExitError>) -> ExitCode {
    let exit = ended.unwrap_or_else(|error| {
        print_to_stderr(&error.message);
        error.exit
    });
    exit.into()
}

/// A command about the running daemon's configuration, with its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Verb<'a> {
    /// Shows what a file would change.
    Plan(&'a Path),
    /// Applies a file; with a time, it is rolled back unless it is confirmed within that.
    Apply(&'a Path, Option<Duration>),
    /// Keeps the change that waits.
    Confirm,
    /// Returns to the previous configuration.
    Rollback,
    /// Reads the daemon's own file again.
    Reload,
}

impl Commands<'_> {
    /// Carries out a verb and prints what it changes; `own` is the daemon's own file, which a plan
    /// does not need.
    ///
    /// # Errors
    /// What the daemon refuses, or what cannot be written.
    pub fn carry_out(&self, verb: Verb<'_>, own: Option<&Path>, is_json: bool) -> Result<Exit, ExitError> {
        let show =
            |changes: &Changes| print(&document(is_json, changes, || changes.text(Style::of_stdout()))?);
        let own = || own.ok_or_else(|| ExitError::new(Exit::Usage, NAME_IT));
        match verb {
            Verb::Plan(file) => show(&self.plan(file)?)?,
            Verb::Apply(file, confirm_within) => {
                show(&self.apply(own()?, file, confirm_within)?)?;
                if let Some(confirm_within) = confirm_within {
                    let time = period(confirm_within.as_secs());
                    print_to_stderr(&format!("in force for {time}, unless: {} confirm", self.program));
                }
            }
            Verb::Confirm => self.confirm(own()?)?,
            Verb::Rollback => self.roll_back(own()?)?,
            Verb::Reload => show(&self.reload(own()?)?)?,
        }
        Ok(Exit::Ok)
    }
}

/// `check --json` of a valid configuration; `configuration` is what is in effect.
#[must_use]
pub fn valid(path: &Path, configuration: &Value, warnings: &[Warning], notes: &[String]) -> Value {
    let warnings: Vec<Value> =
        warnings.iter().map(|warning| located(&warning.at, &warning.message)).collect();
    json!({
        "schema": 1, "file": path.display().to_string(), "valid": true, "configuration": configuration,
        "warnings": warnings, "notes": notes, "errors": [],
    })
}

/// `check --json` when there is no valid configuration; `line` and `column` are `null` for a file
/// that cannot be read at all.
#[must_use]
pub fn invalid(path: &Path, error: &LoadError) -> Value {
    let errors: Vec<Value> = match error {
        LoadError::Unreadable { path, error } => {
            let message = format!("{error}{}", fix_of(path, error));
            vec![json!({"file": path, "line": null, "column": null, "message": message})]
        }
        LoadError::Invalid(errors) => {
            let of_error = |error: &ConfigError| located(&error.at, &error.problem.to_string());
            errors.iter().map(of_error).collect()
        }
    };
    json!({
        "schema": 1, "file": path.display().to_string(), "valid": false,
        "warnings": [], "notes": [], "errors": errors,
    })
}

fn located(at: &Position, message: &str) -> Value {
    json!({"file": at.file.display().to_string(), "line": at.line, "column": at.column, "message": message})
}
