//! `causeway status`: how the daemons of this machine are, the most important sentence first.
//!
//! `edge` and `origin` ask the daemons; `text` is what people read.

#[cfg(target_os = "linux")]
pub(crate) mod edge;
pub(crate) mod origin;
mod text;

use std::path::{Path, PathBuf};

use clap::Args;
use daemon::command_line::{document, print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::status::{self, Side, Summary};
use daemon::text::Style;
use serde::Serialize;

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    /// At the origin, visit every name from the internet first; takes up to 30 seconds.
    #[arg(long)]
    now: bool,
    /// Use FILE as the forwarder's configuration file, to find its control socket.
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Connect to this control socket, of either daemon.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// `status --json`
#[derive(Serialize)]
struct Document<'a> {
    /// The version of the schema.
    schema: u32,
    #[serde(flatten)]
    summary: &'a Summary,
    /// The daemons that run here.
    daemons: &'a [Side],
}

/// The version of [`Document`].
const SCHEMA: u32 = 1;

/// `causeway status`
pub(crate) fn status(arguments: &Status) -> Result<Exit, ExitError> {
    let sides = sides(arguments)?;
    let summary = status::summary(&sides);
    let shown = Document { schema: SCHEMA, summary: &summary, daemons: &sides };
    print(&document(arguments.json, &shown, || text::text(&summary, &sides, Style::of_stdout()))?)?;
    Ok(if summary.is_failing() { Exit::Degraded } else { Exit::Ok })
}

/// What each daemon of this machine reports.
fn sides(arguments: &Status) -> Result<Vec<Side>, ExitError> {
    let socket = arguments.socket.as_deref();
    let asked = [
        ("edge", ask_edge(socket)),
        ("origin", origin::ask(arguments.config.as_deref(), socket, arguments.now)),
    ];
    let (sides, errors) = answered(asked, socket.is_some())?;
    errors.iter().for_each(|error| print_to_stderr(error));
    Ok(sides)
}

/// Those that answered, and the errors of the others that matter. Most machines have one of the
/// two: that the other does not answer is no news, but that it may not be asked is. One socket is
/// that of one daemon: the other's request is refused there.
fn answered(
    asked: [(&str, Result<Side, ExitError>); 2],
    is_one_socket: bool,
) -> Result<(Vec<Side>, Vec<String>), ExitError> {
    let mut sides = Vec::new();
    let mut errors = Vec::new();
    for (role, asked) in asked {
        match asked {
            Ok(side) => sides.push(side),
            Err(error) => errors.push((role, error)),
        }
    }
    let line = |(role, error): &(&str, ExitError)| format!("{role}: {error}");
    if sides.is_empty() {
        let exits: Vec<Exit> = errors.iter().map(|(_, error)| error.exit).collect();
        let exit = exits.iter().copied().find(|exit| *exit != Exit::Unreachable).unwrap_or(Exit::Unreachable);
        return Err(ExitError::new(exit, errors.iter().map(line).collect::<Vec<_>>().join("\n")));
    }
    errors.retain(|(_, error)| !is_one_socket && error.exit != Exit::Unreachable);
    Ok((sides, errors.iter().map(line).collect()))
}

#[cfg(target_os = "linux")]
fn ask_edge(socket: Option<&Path>) -> Result<Side, ExitError> {
    edge::ask(socket)
}

#[cfg(not(target_os = "linux"))]
fn ask_edge(_: Option<&Path>) -> Result<Side, ExitError> {
    Err(ExitError::new(Exit::Unreachable, "an edge runs on Linux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_is_of_one_daemon_and_the_other_is_no_error() {
        let (sides, errors) = answered([("edge", Ok(side("edge"))), ("origin", refused())], true).unwrap();
        assert_eq!((sides.len(), errors.len()), (1, 0));
        let (sides, errors) = answered([("edge", refused()), ("origin", Ok(side("origin")))], true).unwrap();
        assert_eq!((sides.len(), errors.len()), (1, 0));
    }

    #[test]
    fn a_daemon_that_refuses_is_an_error_unless_it_does_not_run() {
        let (_, errors) = answered([("edge", refused()), ("origin", Ok(side("origin")))], false).unwrap();
        assert_eq!(errors, ["edge: not a request"]);
        let none = || Err(ExitError::new(Exit::Unreachable, "no socket"));
        let (_, errors) = answered([("edge", none()), ("origin", Ok(side("origin")))], false).unwrap();
        assert!(errors.is_empty());
        for is_one_socket in [true, false] {
            let error = answered([("edge", none()), ("origin", refused())], is_one_socket).unwrap_err();
            assert_eq!(
                (error.exit, error.message.as_str()),
                (Exit::Usage, "edge: no socket\norigin: not a request")
            );
        }
    }

    fn side(role: &'static str) -> Side {
        Side {
            role,
            version: String::new(),
            peers: vec![],
            services: vec![],
            problems: vec![],
            notes: vec![],
        }
    }

    fn refused() -> Result<Side, ExitError> {
        Err(ExitError::new(Exit::Usage, "not a request"))
    }
}
