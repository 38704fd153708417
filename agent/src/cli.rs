//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use daemon::command_line::end;
use gateway::exchange::CONFIGURATION;

use crate::run;

/// Send what is down to the receivers of `[[notify]]`, and keep the edge's DNS records at its public
/// address, as `[dns]` says.
#[derive(Parser)]
#[command(name = "causeway-agent", version, after_help = AFTER_HELP)]
struct Arguments {
    /// Use this configuration, the daemon's own: gateway.toml or forwarder.toml.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    config: PathBuf,
    /// Make every DNS record right once, and end.
    #[arg(long)]
    once: bool,
}

const AFTER_HELP: &str = "Without --once it runs in the foreground; it follows the file, and SIGHUP reads it at once.\n\
    Exit codes: 0 ok or nothing to do, 1 failed, 2 usage, 4 configuration invalid, 5 permission or key-file mode";

/// The command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    end(if arguments.once { run::once(&arguments.config) } else { run::run(&arguments.config) })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
