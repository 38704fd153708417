//! `gateway`: the edge daemon.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Parser as _;
use daemon::command_line::end;
use daemon::exit::{Exit, ExitError};
use gateway::cli::gateway::{Arguments, Command};
use gateway::{commands, guard, kernel, memory, privilege, run};

pub(crate) fn main() -> ExitCode {
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
