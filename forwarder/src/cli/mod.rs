//! The command line: the daemon itself and the commands that ask it.

mod check;
mod export;
mod show;
mod wait;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use daemon::changes::{ChangeRequest, Commands, Trusted};
use daemon::command_line::{NAME_IT, Verb, document, end, print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::fix_of_write;
use daemon::text::{Style, lasting, time};

use crate::control::client::{ask_change, ask_report};
use crate::control::report::Report;
use crate::places::{Environment, Place};
use crate::{config, run};

/// Run the forwarder at the origin: carry flows between a WireGuard tunnel and local services,
/// without privileges.
#[derive(Parser)]
#[command(name = "forwarder", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    /// Use this configuration; without a command, run the daemon with it. Commands look for it in
    /// the usual places.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the daemon's log to FILE in place of standard error: at most 20 MiB, in FILE and
    /// FILE.1 to FILE.3.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "Without a command the daemon runs in the foreground; SIGHUP reloads the configuration.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 configuration invalid, 5 permission or key-file mode, \
    6 conflict, 7 rolled back, 10 degraded, 11 broken";

#[derive(Subcommand)]
enum Command {
    /// Validate the configuration and the files it names; changes nothing, needs no privileges.
    Check {
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show the state of the daemon: flows, entries, drops.
    Status(Asking),
    /// Show peers, like `wg show`.
    Peers(Asking),
    /// Show health in one line; exits 0 when all peers are up, 10 when some are, 11 when none is.
    Health(Asking),
    #[command(flatten)]
    Change(Change),
    /// Print a part of another program's configuration.
    Export {
        #[command(subcommand)]
        exported: export::Exported,
    },
    /// Wait until a peer is up, or a reach target answers.
    Wait {
        /// Wait for this peer or `[[reach]]` entry.
        name: String,
        /// Give up after this time.
        #[arg(long, default_value = "120s", value_parser = time)]
        timeout: Duration,
        #[command(flatten)]
        asking: Asking,
    },
}

/// What changes the configuration, or would.
#[derive(Subcommand)]
enum Change {
    /// Show what a configuration would change, line by line.
    Plan {
        /// Compare this configuration with the one in force.
        file: PathBuf,
        #[command(flatten)]
        asking: Asking,
    },
    /// Apply a configuration to the running daemon and save it as the daemon's own file (--config).
    ///
    /// Keys and lists with relative names are looked for next to the daemon's own file.
    Apply {
        /// Apply this configuration.
        file: PathBuf,
        /// Roll back unless `forwarder confirm` follows within TIME (default: 60s); save when
        /// confirmed.
        #[arg(long, value_name = "TIME", value_parser = lasting, num_args = 0..=1, default_missing_value = "60s")]
        confirm: Option<Duration>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Keep what `apply --confirm` changed; exits 7 when it was already rolled back.
    Confirm(Asking),
    /// Undo the change that waits for `confirm`, else apply the previous configuration.
    Rollback(Asking),
    /// Reload configuration, lists and keys; flows go on.
    Reload(Asking),
}

#[derive(Args)]
struct Asking {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Connect to this control socket of the daemon.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The command line, as man page and shell completions show it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // To standard output for --help and --version, else to standard error; a closed pipe
            // changes nothing.
            let _ = error.print();
            return Exit::from_code(u8::try_from(error.exit_code()).unwrap_or(1)).into();
        }
    };
    end(carry_out(&cli))
}

fn no_file() -> ExitError {
    ExitError::new(Exit::Usage, NAME_IT)
}

/// The file that was named, else the one in the usual places.
///
/// # Errors
/// [`Exit::Usage`] when there is none.
fn found(config: Option<&Path>) -> Result<PathBuf, ExitError> {
    config.map(Path::to_owned).or_else(|| Environment::of_process().config()).ok_or_else(no_file)
}

type Outcome = Result<Exit, ExitError>;

fn carry_out(cli: &Cli) -> Outcome {
    let config = cli.config.as_deref();
    match &cli.command {
        None => {
            let config = config.ok_or_else(no_file)?;
            if let Some(file) = &cli.log {
                log_to(file);
            }
            run::run(config).map(|()| Exit::Ok)
        }
        Some(_) if cli.log.is_some() => {
            Err(ExitError::new(Exit::Usage, "--log is the daemon's: it goes with no command"))
        }
        Some(Command::Check { json }) => check::check(&found(config)?, *json),
        Some(Command::Status(asking)) => {
            show(config, asking, |report| (report.clone(), show::status(report), Exit::Ok))
        }
        Some(Command::Peers(asking)) => show(config, asking, |report| {
            let peers = show::peers(report);
            let text = peers.text(Style::of_stdout());
            (peers, text, Exit::Ok)
        }),
        Some(Command::Health(asking)) => show(config, asking, |report| {
            (show::health_document(report), show::health(report), report.health.exit())
        }),
        Some(Command::Change(command)) => change(config, command),
        Some(Command::Export { exported }) => {
            print(&export::export(exported, &found(config)?)?).map(|()| Exit::Ok)
        }
        Some(Command::Wait { name, timeout, asking }) => {
            let places = places(config, asking)?;
            let line = wait::wait(&places, name, *timeout, asking.json)?;
            print(&format!("{line}\n")).map(|()| Exit::Ok)
        }
    }
}

/// Has the daemon's log written to a file, from its first line on. Without it flows are carried all
/// the same.
fn log_to(file: &Path) {
    if let Err(error) = daemon::log::to_file(file) {
        let fix = fix_of_write(&error, "give the daemon's user permission, or name another file");
        print_to_stderr(&format!("--log {}: {error}; {fix}; the log goes on here", file.display()));
    }
}

/// Carries out what changes the configuration, or would.
fn change(config: Option<&Path>, command: &Change) -> Outcome {
    let (Change::Plan { asking, .. }
    | Change::Apply { asking, .. }
    | Change::Confirm(asking)
    | Change::Rollback(asking)
    | Change::Reload(asking)) = command;
    let places = places(config, asking)?;
    let ask = |request: &ChangeRequest| ask_change(&places, request);
    let config = found(config).ok();
    let config = config.as_deref();
    let trusted = config.map_or(Trusted::OthersOnly, Trusted::by_owner_of);
    let commands = Commands { program: "forwarder", ask: &ask, needs: config::needs, trusted };
    let verb = match command {
        Change::Plan { file, .. } => Verb::Plan(file),
        Change::Apply { file, confirm, .. } => Verb::Apply(file, *confirm),
        Change::Confirm(_) => Verb::Confirm,
        Change::Rollback(_) => Verb::Rollback,
        Change::Reload(_) => Verb::Reload,
    };
    commands.carry_out(verb, config, asking.json)
}

fn show<T: Serialize>(
    config: Option<&Path>,
    asking: &Asking,
    render: impl Fn(&Report) -> (T, String, Exit),
) -> Outcome {
    let report = ask_report(&places(config, asking)?)?;
    let (report, text, code) = render(&report);
    print(&document(asking.json, &report, || text)?).map(|()| code)
}

/// The socket that was named, else the configuration's, else every place where a daemon may have
/// made it.
fn places(config: Option<&Path>, asking: &Asking) -> Result<Vec<Place>, ExitError> {
    if let Some(socket) = &asking.socket {
        return Ok(vec![Place::at(socket.clone())]);
    }
    let policy = config.map(config::read).transpose();
    let policy = policy.map_err(|error| {
        ExitError::new(error.exit(), format!("{error}\nor name the daemon's socket with --socket"))
    })?;
    let environment = Environment::of_process();
    // One that is not named may be another daemon's, or wrong: the daemon answers all the same.
    let policy = policy.or_else(|| config::read(&environment.config()?).ok());
    Ok(environment.client_sockets(policy.as_ref()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
