//! `gateway`: the edge daemon.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use daemon::command_line::end;
use daemon::exit::{Exit, ExitError};
use gateway::kernel::HELPER_COMMAND;
use gateway::{commands, guard, kernel, memory, privilege, run};

/// Run the edge: publish ports of machines behind a WireGuard tunnel.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Arguments {
    /// Run the daemon with this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "Without a command the daemon runs in the foreground; SIGHUP reloads the configuration.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 4 configuration invalid, 5 permission, capability or key-file mode, 6 conflict, \
    10 degraded";

#[derive(Subcommand)]
enum Command {
    /// Validate a configuration and print the effective one; needs no privileges.
    Check {
        /// Check this configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Compare with the other end's configuration and list what does not match.
        #[arg(long, value_name = "FORWARDER.TOML")]
        with: Option<PathBuf>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Remove every rule, route and device that the daemon created, and nothing else.
    Down {
        /// Remove what a daemon with this configuration created.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Install the boot-time drop table, before the network comes up.
    Guard {
        /// Install the drop table of this configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run the process that keeps CAP_NET_ADMIN; only the daemon starts it.
    #[command(name = HELPER_COMMAND, hide = true)]
    KernelHelper,
}

fn main() -> ExitCode {
    memory::limit_heap();
    let arguments = Arguments::parse();
    let ended = match (arguments.command, arguments.config) {
        (Some(Command::Check { config, with, json }), _) => commands::check(&config, with.as_deref(), json),
        (Some(Command::Down { config }), _) => commands::down(&config).map(|()| Exit::Ok),
        (Some(Command::Guard { config }), _) => guard::guard(&config).map(|()| Exit::Ok),
        (Some(Command::KernelHelper), _) => help().map(|()| Exit::Ok),
        (None, Some(config)) => run::run(&config).map(|()| Exit::Ok),
        (None, None) => Err(ExitError::new(Exit::Usage, "--config FILE is missing; try gateway --help")),
    };
    end(ended)
}

/// Serves the daemon at standard input, with nothing but `CAP_NET_ADMIN`.
fn help() -> Result<(), ExitError> {
    privilege::become_helper().map_err(|error| ExitError::new(Exit::Permission, error))?;
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = UnixStream::from(input.map_err(|error| ExitError::new(Exit::Failed, error))?);
    kernel::serve(&socket).map_err(|error| ExitError::new(Exit::Failed, format!("kernel helper: {error}")))
}
