//! The command line: the daemon itself and the commands that ask it.
#![allow(clippy::print_stdout, reason = "data goes to standard output, messages to standard error")]

mod check;
mod export;
mod show;
mod wait;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::control::client::ask;
use crate::control::report::Report;
use crate::places::{Environment, Place};
use crate::{config, daemon, exit};

/// The origin's peer: carries flows between a WireGuard tunnel and local services, without any privilege.
#[derive(Parser)]
#[command(name = "forwarder", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    /// The configuration; without a command the daemon runs by it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "Without a command the daemon runs in the foreground; SIGHUP reads the configuration again.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 configuration invalid, 5 permission or key-file mode, \
    6 conflict, 10 degraded, 11 broken";

#[derive(Subcommand)]
enum Command {
    /// Validates the configuration and the files it names; changes nothing and needs no privilege.
    Check {
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// How the daemon does: flows, entries, drops.
    Status(Asking),
    /// The peers, like `wg show`.
    Peers(Asking),
    /// One line; exit code 0 when every peer is up, 10 when some are not, 11 when none is.
    Health(Asking),
    /// Writes a part of another program's configuration.
    Export {
        #[command(subcommand)]
        exported: export::Exported,
    },
    /// Waits until a peer is up, or a reach target answers.
    Wait {
        /// A peer, or a `[[reach]]` entry.
        name: String,
        /// For how long.
        #[arg(long, default_value = "120s", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Args)]
struct Asking {
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// The daemon's control socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // To standard output for --help and --version, else to standard error; a closed pipe changes nothing.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::FAILED));
        }
    };
    ExitCode::from(run(&cli).unwrap_or_else(|(code, message)| {
        // Standard error may be closed; the code still tells.
        let _ = writeln!(std::io::stderr(), "{message}");
        code
    }))
}

/// What to do about a missing configuration.
const NAME_IT: &str = "name the configuration with --config FILE";

type Outcome = Result<u8, (u8, String)>;

fn run(cli: &Cli) -> Outcome {
    let config = cli.config.as_deref();
    match &cli.command {
        None => match config {
            Some(config) => {
                daemon::run(config).map(|()| exit::OK).map_err(|error| (error.exit_code(), error.to_string()))
            }
            None => Err((exit::USAGE, NAME_IT.to_owned())),
        },
        Some(Command::Check { json }) => {
            check::check(config.ok_or_else(|| (exit::USAGE, NAME_IT.to_owned()))?, *json)
        }
        Some(Command::Status(asking)) => {
            show(config, asking, |report| (report.clone(), show::status(report), exit::OK))
        }
        Some(Command::Peers(asking)) => {
            show(config, asking, |report| (show::peers_document(report), show::peers(report), exit::OK))
        }
        Some(Command::Health(asking)) => show(config, asking, |report| {
            (show::health_document(report), show::health(report), report.health.exit_code())
        }),
        Some(Command::Export { exported }) => {
            let config = config.ok_or_else(|| (exit::USAGE, NAME_IT.to_owned()))?;
            export::export(exported, config).map(|text| {
                print(text.trim_end());
                exit::OK
            })
        }
        Some(Command::Wait { name, timeout, asking }) => {
            let places = places(config, asking)?;
            wait::wait(&places, name, *timeout, asking.json).map(|line| {
                print(&line);
                exit::OK
            })
        }
    }
}

fn show<T: Serialize>(
    config: Option<&Path>,
    asking: &Asking,
    render: impl Fn(&Report) -> (T, String, u8),
) -> Outcome {
    let report = ask(&places(config, asking)?).map_err(|error| (error.exit_code(), error.to_string()))?;
    let (document, text, code) = render(&report);
    if asking.json {
        let json = serde_json::to_string(&document).map_err(|error| (exit::FAILED, error.to_string()))?;
        print(&json);
    } else {
        print(text.trim_end());
    }
    Ok(code)
}

/// The socket that was named, else the configuration's, else every place where a daemon may have made it.
fn places(config: Option<&Path>, asking: &Asking) -> Result<Vec<Place>, (u8, String)> {
    if let Some(socket) = &asking.socket {
        return Ok(vec![Place::at(socket.clone())]);
    }
    let policy = config.map(config::read).transpose();
    let policy = policy.map_err(|error| {
        (error.exit_code(), format!("{error}\nor name the daemon's socket with --socket"))
    })?;
    Ok(Environment::of_process().client_sockets(policy.as_ref()))
}

fn print(text: &str) {
    // A reader that has gone away, such as `head`, is no error.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// `120s`, `2m`, or seconds alone.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| "write it as 120s or 2m".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_or_minutes() {
        assert_eq!(duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("soon").is_err());
    }
}
