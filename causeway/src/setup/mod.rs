//! `causeway setup`: makes this machine an edge.
//!
//! - `look` and `hops` read the facts, which `machine` holds. `key` and `start` change the machine.
//! - All else decides, and is pure: `proposal` with `tunnel_network` makes the configuration,
//!   `text` writes it, `findings`, `router` and `records` say what is to be known and done,
//!   `existing` compares a file that is there.

mod existing;
mod finding;
mod findings;
mod hops;
mod key;
mod look;
mod machine;
mod proposal;
mod records;
mod router;
mod start;
#[cfg(test)]
mod tests;
mod text;
mod tunnel_network;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::{LoadError, Replacement, Target, fix_of_write, read_text};
use daemon::health::HopName;
use gateway::commands::{Surroundings, addresses_of, proxied, surroundings};
use gateway::config::{inspect_keys, load_policy};
use gateway::exchange::CONFIGURATION;
use gateway::listening::{listeners, programs};
use gateway::privilege;
use policy::gateway::{Answers, Policy};
use policy::trust::Listener;
use policy::{Host, HostPort, Protocol, Source};

use crate::lines::{Answer, Lines};
use crate::start::Started;

pub(crate) use finding::Finding;
use machine::Machine;
use proposal::{Named, Proposal, own_name};

#[derive(Args, Debug)]
pub(crate) struct Setup {
    /// Take every proposal without a question.
    #[arg(long)]
    yes: bool,
    /// Read answers from FILE, by the names of gateway.toml: `address` and `listen_port` of
    /// `[interface]`, `name` and `accept` of `[wan]`, `prefixes` and `interfaces` of `[lan]`.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print the proposal and change nothing; needs no privilege, but sees more as root.
    #[arg(long)]
    dry_run: bool,
    /// Write FILE in place of the daemon's own configuration file.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    config: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the answers, with a file that is there, or with this machine.
pub(crate) fn setup(arguments: &Setup) -> Result<Exit, ExitError> {
    let answers = answers(arguments)?;
    if !arguments.dry_run {
        require_root()?;
    }
    match fs::symlink_metadata(&arguments.config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => first(arguments, answers),
        Ok(_) | Err(_) => again(arguments, &answers),
    }
}

fn answers(arguments: &Setup) -> Result<Answers, ExitError> {
    let Some(file) = &arguments.answers else { return Ok(Answers::default()) };
    let unreadable = |error| ExitError::new(Exit::Invalid, format!("--answers {}: {error}", file.display()));
    let text = read_text(file).map_err(unreadable)?;
    let answers = policy::gateway::parse_answers(&Source { name: file, text: &text });
    Ok(answers.map_err(LoadError::Invalid)?)
}

fn require_root() -> Result<(), ExitError> {
    let denied = |message: String| ExitError::new(Exit::Permission, message);
    if !rustix::process::geteuid().is_root() {
        let fix = "run it as root (sudo causeway setup); --dry-run shows the proposal to everyone";
        return Err(denied(format!("setup writes the configuration and starts the gateway: {fix}")));
    }
    privilege::require().map_err(|error| denied(error.to_string()))
}

/// Sets up a machine that has no configuration.
fn first(arguments: &Setup, mut answers: Answers) -> Result<Exit, ExitError> {
    let config = arguments.config.as_path();
    let machine = look::machine(None)?;
    let is_asking = !arguments.yes && !arguments.dry_run;
    let lines = is_asking.then(Lines::read).transpose();
    let lines = lines.map_err(|error| ExitError::new(Exit::Failed, error))?;
    if let Some(lines) = lines.as_ref().filter(|_| answers.name.is_none()) {
        answers.name = ask_name(&machine, config, lines)?;
    }
    let proposal = proposed(&machine, &answers)?;
    let policy = parsed(config, &proposal.text)?;
    refuse_proxied(config, &policy)?;
    let around = report(&proposal, &policy);
    if arguments.dry_run {
        print(&proposal.text)?;
    } else {
        if !machine.is_connected() {
            // What is the LAN and what the way to the internet is not known yet.
            return Err(ExitError::new(
                Exit::Failed,
                "nothing was changed: this machine has no default route",
            ));
        }
        if lines.is_some_and(|lines| !is_agreed(config, &proposal, &lines)) {
            return Err(ExitError::new(Exit::Failed, "nothing was changed"));
        }
        let (public, is_new) = key::read_or_make_next_to(config)?;
        refuse_keys(config, &policy)?;
        write(config, &proposal.text)?;
        let made = if is_new { "a new key pair" } else { "the key pair that was there" };
        print_to_stderr(&format!("wrote {} with {made}; public key {public}", config.display()));
        report_start(&start::start(config, &policy)?, true);
    }
    report_next(&machine, &proposal, &policy);
    Ok(exit_of(&proposal, &around))
}

/// Compares the file that is there with this machine and the answers, and starts the gateway where
/// it does not run.
fn again(arguments: &Setup, answers: &Answers) -> Result<Exit, ExitError> {
    let config = arguments.config.as_path();
    let policy = load_policy(config)?;
    let machine = look::machine(Some(&policy))?;
    let proposal = proposed(&machine, &existing::answers(&policy, answers))?;
    let around = report(&proposal, &policy);
    let differences = existing::differences(&policy, answers, &proposal.settings);
    let shown = config.display();
    print_to_stderr(&format!("{shown} is there and was not changed"));
    for difference in &differences {
        print_to_stderr(&format!("  {difference}"));
    }
    if differences.iter().any(|difference| difference.is_answered) {
        let fix = "edit it, or move it away and run causeway setup again";
        return Err(ExitError::new(Exit::Conflict, format!("{shown} is not as the answers say: {fix}")));
    }
    refuse_proxied(config, &policy)?;
    refuse_keys(config, &policy)?;
    if !arguments.dry_run {
        let started = start::start(config, &policy)?;
        report_start(&started, false);
        if differences.is_empty() && started == Started::Running && exit_of(&proposal, &around) == Exit::Ok {
            print_to_stderr("nothing is to be done");
        }
    }
    report_next(&machine, &proposal, &policy);
    Ok(exit_of(&proposal, &around))
}

/// What this machine means for a configuration that is there, each with the hop that it belongs to;
/// nothing is changed, and the gateway need not run.
///
/// # Errors
/// What is wrong with the file or its keys, and when the kernel does not list its interfaces.
pub(crate) fn examine(config: &Path) -> Result<Vec<(HopName, Finding)>, ExitError> {
    let policy = load_policy(config)?;
    refuse_keys(config, &policy)?;
    let machine = look::machine(Some(&policy))?;
    let proposal = proposed(&machine, &existing::answers(&policy, &Answers::default()))?;
    let addresses = policy.wan.name.as_ref().filter(|name| matches!(name, Host::Name(_))).map(leads_to);
    let named = Named { addresses: addresses.as_deref() };
    let mut found = findings::by_hop(&machine, &proposal.settings, named);
    if let Err(error) = refuse_proxied(config, &policy) {
        found.push((HopName::PublicName, Finding::Missing(error.message)));
    }
    found.extend(port_of_another(&policy).map(|text| (HopName::WanPort, Finding::Missing(text))));
    let around = surroundings(&policy);
    found.extend(around.obstacles.into_iter().map(|text| (HopName::Ruleset, Finding::Missing(text))));
    found.extend(around.remarks.into_iter().map(|text| (HopName::WanPort, Finding::Note(text))));
    Ok(found)
}

/// Another program on WireGuard's port; the gateway itself may run.
fn port_of_another(policy: &Policy) -> Option<String> {
    let port = policy.interface.listen_port;
    let is_it = |listener: &Listener| listener.protocol == Protocol::Udp && listener.port == port;
    let held = listeners().into_iter().find(is_it)?;
    let program = programs().remove(&held);
    if program.as_deref() == Some("gateway") {
        return None;
    }
    let whose = program.map_or_else(
        || "another program, or the kernel's own WireGuard,".to_owned(),
        |name| format!("the program {name}"),
    );
    Some(format!(
        "{whose} has udp/{port}, which the gateway needs; stop it (ss -lunp names it), or write another [interface] listen_port"
    ))
}

/// The proposal, with what its public name leads to.
fn proposed(machine: &Machine, answers: &Answers) -> Result<Proposal, ExitError> {
    let addresses = answers.name.as_ref().filter(|name| matches!(name, Host::Name(_))).map(leads_to);
    let named = Named { addresses: addresses.as_deref() };
    Proposal::of(machine, answers, named).map_err(|error| ExitError::new(Exit::Conflict, error))
}

fn leads_to(name: &Host) -> Vec<IpAddr> {
    let mut addresses = addresses_of(&HostPort { host: name.clone(), port: 443 });
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn parsed(config: &Path, text: &str) -> Result<Policy, ExitError> {
    Ok(policy::gateway::parse(&Source { name: config, text }).map_err(LoadError::Invalid)?)
}

/// A proxy carries no WireGuard, so that a name that leads to one is of no use.
fn refuse_proxied(config: &Path, policy: &Policy) -> Result<(), ExitError> {
    let own = policy.wan.name.clone().map(|host| HostPort { host, port: policy.interface.listen_port });
    match proxied(policy, config, own.iter()).into_iter().next() {
        Some(message) => Err(ExitError::new(Exit::Invalid, message)),
        None => Ok(()),
    }
}

fn refuse_keys(config: &Path, policy: &Policy) -> Result<(), ExitError> {
    let errors = inspect_keys(config, policy).errors;
    if errors.is_empty() { Ok(()) } else { Err(LoadError::Invalid(errors).into()) }
}

/// Asks for the public name until there is one that no proxy answers for; an empty line takes the
/// address of this machine, or none.
fn ask_name(machine: &Machine, config: &Path, lines: &Lines) -> Result<Option<Host>, ExitError> {
    let own = own_name(machine);
    let default = own.as_ref().map_or_else(|| "none yet".to_owned(), ToString::to_string);
    let question = format!(
        "what is the public name of this edge, such as kyiv.example.com, whose DNS record leads here without a proxy? \
         Enter for {default}"
    );
    loop {
        print_to_stderr(&question);
        let Some(line) = lines.wait().filter(|line| !line.is_empty()) else { return Ok(None) };
        let Some(name) = policy::text::host(&line) else {
            print_to_stderr(&format!("{line:?} is neither a DNS name nor an address"));
            continue;
        };
        let answers = Answers { name: Some(name.clone()), ..Answers::default() };
        let proposal = Proposal::of(machine, &answers, Named::default())
            .map_err(|error| ExitError::new(Exit::Conflict, error))?;
        match refuse_proxied(config, &parsed(config, &proposal.text)?) {
            Ok(()) => return Ok(Some(name)),
            Err(error) => print_to_stderr(&error.message),
        }
    }
}

/// Shows the proposal and asks whether it is to be written.
fn is_agreed(config: &Path, proposal: &Proposal, lines: &Lines) -> bool {
    let question = format!("write this to {}, and start the gateway? yes or no", config.display());
    print_to_stderr(&format!("\n{}", proposal.text));
    lines.forget();
    print_to_stderr(&question);
    loop {
        match lines.answer(&question) {
            Some(answer) => return answer == Answer::Yes,
            None => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}

/// Prints what was found, and what `gateway check` finds with this configuration.
fn report(proposal: &Proposal, policy: &Policy) -> Surroundings {
    print_to_stderr("this machine:");
    for finding in &proposal.findings {
        print_to_stderr(&finding.to_string());
    }
    let around = surroundings(policy);
    for warning in &policy.warnings {
        print_to_stderr(&warning.to_string());
    }
    for obstacle in &around.obstacles {
        print_to_stderr(&format!("  missing: {obstacle}"));
    }
    for note in around.remarks.iter().chain(&policy.closed_to_authorities()) {
        print_to_stderr(&format!("  note: {note}"));
    }
    around
}

fn report_start(started: &Started, is_first: bool) {
    match started {
        Started::Running if is_first => {
            print_to_stderr(
                "a gateway runs with this state already: gatewayctl reload puts the file in force",
            );
        }
        Started::Running => print_to_stderr("the gateway runs"),
        Started::Now | Started::AtLogin { .. } => {
            print_to_stderr("the gateway runs, and starts at each boot");
        }
        Started::By(command) => print_to_stderr(&format!("next, start the gateway: {command}")),
    }
}

fn report_next(machine: &Machine, proposal: &Proposal, policy: &Policy) {
    let visit = router::visit(machine, &proposal.settings);
    for line in visit.iter().chain(&records::records(machine, &proposal.settings)) {
        print_to_stderr(line);
    }
    if policy.peers.is_empty() && !visit.is_empty() {
        print_to_stderr("then: sudo causeway pair NAME, with a name for the other machine");
    }
}

/// Starts the gateway with a configuration that is there.
///
/// # Errors
/// What is wrong in it, or with its keys; when systemd does not start the gateway.
pub(crate) fn start_gateway(config: &Path) -> Result<Started, ExitError> {
    let policy = load_policy(config)?;
    let lines: Vec<_> = inspect_keys(config, &policy).errors.iter().map(ToString::to_string).collect();
    if !lines.is_empty() {
        return Err(ExitError::new(Exit::Invalid, lines.join("\n")));
    }
    start::start(config, &policy)
}

/// [`Exit::Degraded`] while something is missing.
fn exit_of(proposal: &Proposal, around: &Surroundings) -> Exit {
    let is_missing = proposal.findings.iter().any(Finding::is_missing);
    if is_missing || !around.obstacles.is_empty() { Exit::Degraded } else { Exit::Ok }
}

/// Writes a file that is not there yet. It holds no secret, and the daemon's user must be able to
/// read it.
fn write(config: &Path, text: &str) -> Result<(), ExitError> {
    let written =
        Replacement::prepare(config, Target::own(0o644), text.as_bytes()).and_then(Replacement::finish_new);
    written.map_err(|error| {
        let is_there = error.kind() == io::ErrorKind::AlreadyExists;
        let exit = if is_there { Exit::Conflict } else { Exit::of(&error) };
        let fix = fix_of_write(&error, "it is written by root");
        ExitError::new(exit, format!("{}: {error}; {fix}", config.display()))
    })
}
