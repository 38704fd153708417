//! The command line of the daemon.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::kernel::HELPER_COMMAND;

/// Run the edge: publish ports of machines behind a WireGuard tunnel.
#[derive(Parser)]
#[command(name = "gateway", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Run the daemon with this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Without one, the daemon runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "Without a command the daemon runs in the foreground; SIGHUP reloads the configuration.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 4 configuration invalid, 5 permission, capability or key-file mode, 6 conflict, \
    10 degraded";

/// What the program does in place of running the daemon.
#[derive(Subcommand)]
pub enum Command {
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
