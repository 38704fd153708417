//! Locations on other machines: verbs run there, over ssh, by that machine's own stackctl.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::session::Session;
use super::status::Row;
use crate::config::Machine;
use crate::fault::Fault;
use crate::shell::process::{Call, error_output};
use crate::shell::ssh;
use crate::vars::Vars;

/// The machine a session's location lives on, when that is another one.
#[must_use]
pub fn machine(session: &Session) -> Option<&Machine> {
    if session.options.here { None } else { session.stack.locations.get(&session.location.name) }
}

/// Runs a verb on the location's machine with this terminal; its exit code.
pub fn run(session: &Session, machine: &Machine, words: &[String]) -> Result<u8, Fault> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let status = over_ssh(session, machine, words, terminal, |call| call.run());
    let status = status.map_err(|error| Fault::Failed(format!("ssh: {error}")))?;
    match status.code() {
        // ssh's own code for a connection that failed.
        None | Some(255) => {
            Err(Fault::Unreachable(format!("{} does not answer at {}", session.location.name, machine.host)))
        }
        Some(127) => Err(Fault::Failed(format!(
            "{} has no `{}`: install stackctl there, or set command in [location.{}]",
            machine.host, machine.command, session.location.name
        ))),
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
    }
}

/// The status rows of a far location.
pub fn rows(session: &Session, machine: &Machine, timeout: Duration) -> Result<Vec<Row>, Fault> {
    let words = ["all-status", "--json"].map(str::to_owned);
    let output = over_ssh(session, machine, &words, false, |call| call.capture_within(timeout));
    let output = output.map_err(|error| Fault::Unreachable(error.to_string()))?;
    // 10 and 11 come with the rows that they are about.
    if !matches!(output.status.code(), Some(0 | 10 | 11)) {
        return Err(Fault::Unreachable(error_output(&output)));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| Fault::Failed(format!("its answer: {error}")))?;
    Ok(answer.containers)
}

/// Makes the call of the far stackctl.
fn over_ssh<T>(
    session: &Session,
    machine: &Machine,
    words: &[String],
    terminal: bool,
    make: impl FnOnce(&Call<'_>) -> T,
) -> T {
    let workdir = &session.tree.root;
    let arguments = ssh::arguments(machine, workdir, &session.location.name, words, terminal);
    let environment = session.environment(&Vars::default());
    make(&Call { program: "ssh", arguments: &arguments, environment: &environment, workdir })
}

#[derive(serde::Deserialize)]
struct Answer {
    containers: Vec<Row>,
}
