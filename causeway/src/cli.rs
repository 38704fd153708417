//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use daemon::command_line::end;

use crate::join::{Join, join};
#[cfg(target_os = "linux")]
use crate::pair::{Pair, pair};

/// Pairs the two machines, publishes services and shows how they are.
#[derive(Debug, Parser)]
#[command(name = "causeway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a peer to this edge, or give one another key, by a code for the other machine; root only.
    #[cfg(target_os = "linux")]
    Pair(Pair),
    /// Make this machine a peer of an edge, by the code that `causeway pair` printed there.
    Join(Join),
}

pub(crate) fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    end(match &command {
        #[cfg(target_os = "linux")]
        Command::Pair(arguments) => pair(arguments),
        Command::Join(arguments) => join(arguments),
    })
}
