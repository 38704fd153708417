//! `gatewayctl`: shows and changes the running edge, and creates keys.

mod fetch;

use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use daemon::changes::{ChangeRequest, Commands, Trusted};
use daemon::command_line::{Verb, document, end, print};
use daemon::exit::{Exit, ExitError};
use daemon::files::{Owner, keygen};
use daemon::text::{Style, lasting};
use gateway::config::needs;
use gateway::control::client::{DEFAULT_SOCKET, ask, ask_change};
use gateway::control::protocol::{Reply, Request};
use gateway::control::render;
use gateway::exchange::{self, CONFIGURATION, Exported, Imported};
use gateway::lists;

/// Show and change the running edge.
#[derive(Parser)]
#[command(name = "gatewayctl", version, after_help = EXIT_CODES)]
struct Arguments {
    /// Connect to this control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 configuration invalid, \
    5 permission, 6 conflict, 7 rolled back, 8 stale, 10 degraded, 11 broken";

#[derive(Subcommand)]
enum Command {
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
enum Change {
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

#[derive(Subcommand)]
enum Offload {
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
enum Lists {
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
struct Own {
    /// Use FILE as the daemon's own configuration file; no other is ever written.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    config: PathBuf,
}

#[derive(Args, Clone, Copy)]
struct Output {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Refresh every SECONDS (default: 2).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    watch: Option<f64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(run(&arguments))
}

fn run(arguments: &Arguments) -> Result<Exit, ExitError> {
    let socket = &arguments.socket;
    match &arguments.command {
        Command::Peers { dump: true, show_keys, .. } => {
            show(socket, &Request::Dump { show_keys: *show_keys }, Output { json: false, watch: None })
        }
        Command::Peers { output, .. } => show(socket, &Request::Peers, *output),
        Command::Services { output } => show(socket, &Request::Services, *output),
        Command::Status { output } => show(socket, &Request::Status, *output),
        Command::Bans { output } => show(socket, &Request::Bans, *output),
        Command::Ban { address, period } => {
            send(socket, &Request::Ban { address: *address, seconds: period.map(|time| time.as_secs()) })
        }
        Command::Unban { address } => send(socket, &Request::Unban { address: *address }),
        Command::Change(command) => change(socket, command),
        Command::Import(what) => exchange::import(what),
        Command::Export(what) => print(&exchange::export(what)?).map(|()| Exit::Ok),
        Command::Flows { service, address, limit, output } => {
            let service = service.clone();
            show(socket, &Request::Flows { service, address: *address, limit: *limit }, *output)
        }
        Command::Offload { command, json } => {
            let request = match command {
                Some(Offload::Set { switches }) => Request::SetOffloads { switches: switches.clone() },
                Some(Offload::Show) | None => Request::Offloads,
            };
            show(socket, &request, Output { json: *json, watch: None })
        }
        Command::Lists(what) => refresh(what),
        Command::Keygen { dir, name, owner } => make_keys(dir, name, owner.as_deref()),
    }
}

fn show(socket: &Path, request: &Request, output: Output) -> Result<Exit, ExitError> {
    let Some(seconds) = output.watch else { return show_once(socket, request, output.json, "") };
    let pause = Duration::try_from_secs_f64(seconds.max(0.1))
        .map_err(|error| ExitError::new(Exit::Usage, format!("--watch={seconds}: {error}")))?;
    let clear = if io::stdout().is_terminal() && !output.json { "\x1b[H\x1b[2J" } else { "" };
    loop {
        show_once(socket, request, output.json, clear)?;
        thread::sleep(pause);
    }
}

fn show_once(socket: &Path, request: &Request, json: bool, before: &str) -> Result<Exit, ExitError> {
    let reply = ask(socket, request)?;
    let style = Style::of_stdout();
    let exit = if let Reply::Status(status) = &reply { status.health.exit() } else { Exit::Ok };
    let text = match &reply {
        Reply::Dump(text) => text.clone(),
        Reply::Peers(report) => document(json, report, || report.text(style))?,
        Reply::Services(report) => document(json, report, || render::services(report, style))?,
        Reply::Status(report) => document(json, report, || render::status(report, style))?,
        Reply::Flows(report) => document(json, report, || render::flows(report, style))?,
        Reply::Offloads(report) => document(json, report, || render::offloads(report))?,
        Reply::Bans(report) => document(json, report, || render::bans(report))?,
        Reply::Done | Reply::Pairing(_) | Reply::Change(_) => String::new(),
    };
    print(&format!("{before}{text}"))?;
    Ok(exit)
}

/// Carries out what changes the configuration, or would.
fn change(socket: &Path, command: &Change) -> Result<Exit, ExitError> {
    let ask = |request: &ChangeRequest| ask_change(socket, request);
    let commands = Commands { program: "gatewayctl", ask: &ask, needs, trusted: Trusted::OthersOnly };
    let (verb, own, json) = match command {
        Change::Plan { file, json } => (Verb::Plan(file), None, json),
        Change::Apply { file, confirm, json, own } => (Verb::Apply(file, *confirm), Some(own), json),
        Change::Confirm { own } => (Verb::Confirm, Some(own), &false),
        Change::Rollback { own } => (Verb::Rollback, Some(own), &false),
        Change::Reload { json, own } => (Verb::Reload, Some(own), json),
    };
    commands.carry_out(verb, own.map(|own| own.config.as_path()), *json)
}

fn send(socket: &Path, request: &Request) -> Result<Exit, ExitError> {
    ask(socket, request).map(|_| Exit::Ok)
}

fn refresh(what: &Lists) -> Result<Exit, ExitError> {
    let Lists::Refresh { file, from, config, only, ca } = what;
    let lines = match file {
        Some(file) => vec![lists::refresh_file(file, from.as_deref())?],
        None => {
            let client = fetch::Client::new(ca.as_deref())?;
            lists::refresh_all(config, only, |url| client.text(url))?
        }
    };
    lines.iter().try_for_each(|line| print(&format!("{line}\n")))?;
    Ok(Exit::Ok)
}

fn make_keys(dir: &Path, name: &str, owner: Option<&str>) -> Result<Exit, ExitError> {
    let owner = owner.map(user).transpose()?;
    let public = keygen(dir, name, owner).map_err(|error| {
        let exits = [
            (io::ErrorKind::AlreadyExists, Exit::Conflict),
            (io::ErrorKind::PermissionDenied, Exit::Permission),
        ];
        let exit =
            exits.into_iter().find(|(kind, _)| *kind == error.kind()).map_or(Exit::Failed, |(_, exit)| exit);
        ExitError::new(exit, format!("{}: {error}", dir.display()))
    })?;
    print(&format!("{public}\n"))?;
    Ok(Exit::Ok)
}

/// Looks a user up where system users of ours are.
fn user(name: &str) -> Result<Owner, ExitError> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Owner::find(name, &passwd).ok_or_else(|| {
        let fix = "make the users with: systemd-sysusers (scripts/install does)";
        ExitError::new(Exit::Usage, format!("--owner {name}: there is no such user; {fix}"))
    })
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
