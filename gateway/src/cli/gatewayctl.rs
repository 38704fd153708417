//! The command line of `gatewayctl`.
#![expect(
    missing_docs,
    reason = "what is flattened is documented where it is defined; clap would show it twice"
)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use daemon::text::lasting;

use crate::control::client::DEFAULT_SOCKET;
use crate::exchange::{CONFIGURATION, Exported, Imported};

/// Show and change the running edge.
#[derive(Parser)]
#[command(name = "gatewayctl", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Connect to this control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 configuration invalid, \
    5 permission, 6 conflict, 7 rolled back, 8 stale, 10 degraded, 11 broken";

/// What is shown or changed.
#[derive(Subcommand)]
pub enum Command {
    /// Show peers, like `wg show` with names, states, round-trip times and rates.
    Peers {
        #[command(flatten)]
        output: Output,
        /// Print the exact lines of `wg show all dump`, with "(hidden)" for keys.
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        dump: bool,
        /// Print private and preshared keys with --dump; root only.
        #[arg(long, requires = "dump")]
        show_keys: bool,
    },
    /// Show published ports and private flows.
    Services {
        #[command(flatten)]
        output: Output,
    },
    /// Show edge health; exits 10 when degraded, 11 when broken.
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// Show who talks to whom through published ports and private flows.
    Flows {
        /// Show only flows of this publish or allow.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Show only flows with this address as client, as what the client sends to, or as target.
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
        /// Show at most COUNT flows, up to 10000.
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Show or change offloads of the tunnel's device and socket.
    Offload {
        #[command(subcommand)]
        command: Option<Offload>,
        /// Print one JSON object instead of text.
        #[arg(long, global = true)]
        json: bool,
    },
    /// Show banned source addresses.
    Bans {
        #[command(flatten)]
        output: Output,
    },
    /// Ban a source address.
    Ban {
        /// Ban this address.
        address: IpAddr,
        /// Lift the ban after TIME, such as 10m or 24h; permanent if omitted.
        #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
        period: Option<Duration>,
    },
    /// Lift a ban.
    Unban {
        /// Unban this address.
        address: IpAddr,
    },
    #[command(flatten)]
    Change(Change),
    /// Convert a configuration from another product, for both ends.
    #[command(subcommand)]
    Import(Imported),
    /// Print a configuration for another product.
    #[command(subcommand)]
    Export(Exported),
    /// Manage prefix lists.
    #[command(subcommand)]
    Lists(Lists),
    /// Create a key pair, NAME.key (0600) and NAME.pub, in DIR, and print the public key.
    Keygen {
        /// Write to this folder; create it if missing, keep its mode otherwise.
        dir: PathBuf,
        /// Give the two files this name.
        #[arg(long, default_value = "private", value_parser = plain_name)]
        name: String,
        /// Make USER, a name or a number, the owner of the private key: the user that the daemon
        /// runs as.
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
}

/// What changes the configuration, or would.
#[derive(Subcommand)]
pub enum Change {
    /// Show what a configuration would change, line by line.
    Plan {
        /// Compare this configuration with the one in force.
        file: PathBuf,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Apply a configuration to the running edge and save it as the daemon's own file (--config).
    ///
    /// Keys and lists with relative names are looked for next to the daemon's own file.
    Apply {
        /// Apply this configuration.
        file: PathBuf,
        /// Roll back unless `gatewayctl confirm` follows within TIME (default: 60s); save when
        /// confirmed.
        #[arg(long, value_name = "TIME", value_parser = lasting, num_args = 0..=1, default_missing_value = "60s")]
        confirm: Option<Duration>,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        own: Own,
    },
    /// Keep what `apply --confirm` changed; exits 7 when it was already rolled back.
    Confirm {
        #[command(flatten)]
        own: Own,
    },
    /// Undo the change that waits for `confirm`, else apply the previous configuration.
    Rollback {
        #[command(flatten)]
        own: Own,
    },
    /// Reload configuration, lists and keys.
    Reload {
        #[command(flatten)]
        own: Own,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

/// What is done with offloads.
#[derive(Subcommand)]
pub enum Offload {
    /// Show the offloads in use, and where they differ from the configuration.
    Show,
    /// Turn offloads on or off until the next apply.
    Set {
        /// Set tun_tcp, tun_udp, udp_gso, udp_gro or busy_poll, such as `tun_tcp=off`.
        #[arg(required = true, value_name = "NAME=on|off", value_parser = switch)]
        switches: Vec<(String, bool)>,
    },
}

/// What is done with list files.
#[derive(Subcommand)]
pub enum Lists {
    /// Replace lists whose fetched text is plausible; exits 8 when an old list had to stay.
    Refresh {
        /// Replace this file from --from or standard input; fetch the configuration's lists if
        /// omitted.
        file: Option<PathBuf>,
        /// Read the fetched text from FILE; standard input if omitted.
        #[arg(long, value_name = "FILE", requires = "file")]
        from: Option<PathBuf>,
        /// Fetch the lists of this configuration that have a url.
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION, conflicts_with = "file")]
        config: PathBuf,
        /// Fetch only the list of this name; may be repeated.
        #[arg(long = "list", value_name = "NAME", conflicts_with = "file")]
        only: Vec<String>,
        /// Trust these certificates instead of the system's.
        #[arg(long, value_name = "PEM", conflicts_with = "file")]
        ca: Option<PathBuf>,
    },
}

/// The file that a command may write.
#[derive(Args)]
pub struct Own {
    /// Use FILE as the daemon's own configuration file; no other is ever written.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    pub config: PathBuf,
}

/// How a report is printed.
#[derive(Args, Clone, Copy)]
pub struct Output {
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// Refresh every SECONDS (default: 2).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    pub watch: Option<f64>,
}

fn switch(text: &str) -> Result<(String, bool), String> {
    match text.split_once('=') {
        Some((name, "on")) => Ok((name.to_owned(), true)),
        Some((name, "off")) => Ok((name.to_owned(), false)),
        _ => Err("NAME=on or NAME=off".to_owned()),
    }
}

fn plain_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if plain && !text.is_empty() && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err("letters, digits, '-', '_' and '.'".to_owned())
}
