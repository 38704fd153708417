//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pairs the two machines, publishes services and shows how they are.
#[derive(Debug, Parser)]
#[command(name = "causeway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

pub(crate) fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {}
}
