//! `causeway status`: how the daemons of this machine are, the most important sentence first.
//!
//! - `side`: what a daemon reported, in one shape for both roles. `edge` and `origin` make it.
//! - `sentence`: the first line. `text`: the rest for people.

#[cfg(target_os = "linux")]
mod edge;
mod origin;
mod sentence;
mod side;
mod text;

use std::path::{Path, PathBuf};

use clap::Args;
use daemon::command_line::{document, print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::text::Style;
use serde::Serialize;

use self::sentence::Summary;
use self::side::Side;

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
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
    let summary = sentence::summary(&sides);
    let shown = Document { schema: SCHEMA, summary: &summary, daemons: &sides };
    print(&document(arguments.json, &shown, || text::text(&summary, &sides, Style::of_stdout()))?)?;
    Ok(if summary.is_failing() { Exit::Degraded } else { Exit::Ok })
}

/// What each daemon of this machine reports. Most machines have one of the two: that the other does
/// not answer is no news, but that it may not be asked is.
fn sides(arguments: &Status) -> Result<Vec<Side>, ExitError> {
    let socket = arguments.socket.as_deref();
    let asked = [ask_edge(socket), origin::ask(arguments.config.as_deref(), socket)];
    let mut sides = Vec::new();
    let mut errors = Vec::new();
    for (role, asked) in ["edge", "origin"].into_iter().zip(asked) {
        match asked {
            Ok(side) => sides.push(side),
            Err(error) => errors.push((role, error)),
        }
    }
    if sides.is_empty() {
        let exits: Vec<Exit> = errors.iter().map(|(_, error)| error.exit).collect();
        let exit = exits.iter().copied().find(|exit| *exit != Exit::Unreachable).unwrap_or(Exit::Unreachable);
        let lines: Vec<String> = errors.into_iter().map(|(role, error)| format!("{role}: {error}")).collect();
        return Err(ExitError::new(exit, lines.join("\n")));
    }
    for (role, error) in errors.iter().filter(|(_, error)| error.exit != Exit::Unreachable) {
        print_to_stderr(&format!("{role}: {error}"));
    }
    Ok(sides)
}

#[cfg(target_os = "linux")]
fn ask_edge(socket: Option<&Path>) -> Result<Side, ExitError> {
    edge::ask(socket)
}

#[cfg(not(target_os = "linux"))]
fn ask_edge(_: Option<&Path>) -> Result<Side, ExitError> {
    Err(ExitError::new(Exit::Unreachable, "an edge runs on Linux"))
}
