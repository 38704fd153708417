//! `gatewayctl`: shows and changes the running edge, and creates keys.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use daemon::changes::{ChangeRequest, Commands, Trusted};
use daemon::command_line::{Verb, document, end, print};
use daemon::exit::{Exit, ExitError};
use daemon::files::{Owner, keygen};
use daemon::text::Style;
use gateway::cli::gatewayctl::{Arguments, Change, Command, Lists, Offload, Output};
use gateway::config::needs;
use gateway::control::client::{ask, ask_change};
use gateway::control::protocol::{Reply, Request};
use gateway::control::render;
use gateway::{exchange, fetch, lists};

pub(crate) fn main() -> ExitCode {
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
        Reply::Done
        | Reply::Diagnosis(_)
        | Reply::Pairing(_)
        | Reply::History(_)
        | Reply::FarHistory(_)
        | Reply::Change(_) => String::new(),
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
