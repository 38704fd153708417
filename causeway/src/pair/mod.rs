//! `causeway pair`: adds a peer to the edge, or gives one another key.
//!
//! - `plan`: what the pairing is about. `address`: addresses in the tunnel. `file`: the text of the
//!   configuration.
//! - `exchange`: the rounds with the gateway until the other machine has joined.

mod address;
mod exchange;
mod file;
mod plan;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use daemon::changes::{ChangeReply, ChangeRequest, Commands, Trusted};
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{LoadError, read_key, text_of};
use daemon::pairing::code::MAX_ENDPOINTS;
use daemon::pairing::edge::{EdgePairing, Joiner};
use daemon::pairing::message::Refusal;
use daemon::text::period;
use gateway::commands::proxied;
use gateway::config::needs;
use gateway::control::client::ask_change;
use gateway::exchange::CONFIGURATION;
use policy::gateway::Policy;
use policy::{FileLocation, FileRef, HostPort, Name, Position, PublicPorts, Source};
use tunnel::key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::lines::{Answer, Line, Lines};
use crate::machine::is_interactive;
use exchange::Exchange;
pub(crate) use plan::USUAL;
use plan::{Plan, Wanted, name_of};

/// How long the edge has the new peer without the other machine's report; then it is as it was.
const CONFIRM_WITHIN: Duration = Duration::from_secs(120);

#[derive(Args, Debug)]
pub(crate) struct Pair {
    /// Give the new peer this name; the name of a peer that is there gives that one another key.
    #[arg(value_parser = name)]
    name: Name,
    /// Let the peer open these public ports by itself, such as `443`, `443/udp` or `5000-5010`, or
    /// `none` (default: 80, 443 and 443/udp; a peer that is there keeps its own).
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    may_publish: Vec<String>,
    /// Give the peer this address in the tunnel (default: the lowest free one).
    #[arg(long)]
    address: Option<IpAddr>,
    /// Let the other machine find the edge here (default: `[wan] name` and WireGuard's port); may
    /// be repeated.
    #[arg(long, value_name = "HOST[:PORT]")]
    endpoint: Vec<String>,
    /// Give the other machine the public half of the private key in FILE as the key that the edge is
    /// to have next.
    #[arg(long, value_name = "FILE")]
    next_key: Option<PathBuf>,
    /// Accept without a question; only with --expect.
    #[arg(long, requires = "expect")]
    yes: bool,
    /// Refuse any other public key than this one.
    #[arg(long, value_name = "KEY")]
    expect: Option<PublicKey>,
    /// Use FILE as the daemon's own configuration file.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    config: PathBuf,
    /// Connect to this control socket of the gateway (default: that of the configuration).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn name(text: &str) -> Result<Name, String> {
    Name::try_from(text.to_owned()).map_err(str::to_owned)
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the request, the configuration, or what came with the code.
pub(crate) fn pair(arguments: &Pair) -> Result<Exit, ExitError> {
    let text = text_of(&arguments.config)?;
    let source = Source { name: &arguments.config, text: &text };
    let policy = policy::gateway::parse(&source).map_err(LoadError::Invalid)?;
    let one_time = PrivateKey::from_bytes(*random()?);
    let wanted = wanted(arguments, &policy)?;
    refuse_proxied(&arguments.config, &policy, &wanted)?;
    let mut plan = Plan::of((arguments.config.as_path(), text.as_str()), &policy, wanted, one_time.public())?;
    let lines = Lines::read().map_err(|error| ExitError::new(Exit::Failed, error))?;
    if !arguments.yes && lines.is_over() {
        let message = "standard input is at its end, so that no one can say yes: run this at a terminal, or accept one \
                       key with --yes --expect KEY";
        return Err(ExitError::new(Exit::Usage, message));
    }
    let socket = arguments.socket.clone().unwrap_or_else(|| policy.control.socket.clone());
    commands(&|request| ask_change(&socket, request)).check_ready(&arguments.config)?;
    if is_interactive() && arguments.may_publish.is_empty() && !arguments.yes && !plan.is_known {
        ask_ports(&mut plan, (arguments.config.as_path(), text.as_str()), &lines)?;
    }
    report_plan(&plan);
    let code = plan.code(one_time, own_key(&policy)?, name_of(&policy)?);
    exchange::refuse_other_key(&socket, &code.edge_key)?;
    print_to_stderr(&format!("this edge's public key: {}", code.edge_key));
    let key = policy::PublicKey::new(*code.one_time.public().as_bytes())
        .ok_or_else(|| ExitError::new(Exit::Failed, "the random key may not be used; pair again"))?;
    let pairing = EdgePairing::new(code.clone(), *random()?, plan.terms());
    let port = policy.interface.listen_port;
    let mut exchange = Exchange::open(&socket, key, code.address.ip(), pairing, port)?;
    let line = Zeroizing::new(format!("{}\n", *code.to_text()));
    daemon::command_line::print(&line)?;
    print_to_stderr(&format!(
        "run `causeway join` at the other machine within {} and give it this code; it is good for one machine",
        period(u64::from(daemon::pairing::control::LIFETIME)),
    ));
    let outcome = complete(arguments, &plan, &socket, &mut exchange, &lines);
    exchange.close();
    outcome
}

/// Waits for the other machine, asks, and writes.
fn complete(
    arguments: &Pair,
    plan: &Plan,
    socket: &Path,
    exchange: &mut Exchange<'_>,
    lines: &Lines,
) -> Result<Exit, ExitError> {
    let joiner = exchange.wait_for_joiner()?;
    report_joiner(plan, &joiner);
    let decision = decide(arguments, exchange, &joiner, lines)?;
    if let Err(refusal) = decision.and_then(|()| exchange.refuse_late()) {
        exchange.refuse(refusal);
        let (exit, message) = match refusal {
            Refusal::OtherKey => {
                (Exit::Conflict, "the key is another than --expect has: nothing was changed")
            }
            Refusal::Late => (
                Exit::Failed,
                "the time of the code is nearly over, too little for the other machine to write its file: nothing was \
                 changed, pair again",
            ),
            Refusal::Declined
            | Refusal::NotApplied
            | Refusal::Burnt
            | Refusal::Malformed
            | Refusal::BadKey
            | Refusal::Other => (Exit::Failed, "refused: nothing was changed"),
        };
        return Err(ExitError::new(exit, message));
    }
    let ask = |request: &_| ask_change(socket, request);
    let commands = commands(&ask);
    let config = arguments.config.as_path();
    let mut edit = |_: &Path, text: &str| plan.text_with(config, text, joiner.key);
    if let Err(error) = commands.edit_unconfirmed(config, &mut edit, CONFIRM_WITHIN) {
        exchange.refuse(Refusal::NotApplied);
        return Err(error);
    }
    let peer = &plan.terms().peer;
    if exchange.accept() {
        if let Err(error) = commands.confirm(config) {
            exchange.refuse(Refusal::NotApplied);
            return Err(error);
        }
        exchange.keep();
        print_to_stderr(&format!("{peer} is paired: gatewayctl peers shows its tunnel"));
        if let Some(file) = &arguments.next_key {
            report_next(peer, file);
        }
        return Ok(Exit::Ok);
    }
    // What the gateway rolls back by itself if this fails, or if this program is killed.
    commands.roll_back(config)?;
    let message = format!(
        "the other machine did not report that it wrote its own file: the edge is as it was; pair {peer} again"
    );
    Err(ExitError::new(Exit::RolledBack, message))
}

/// The commands that change the edge's configuration.
fn commands<'a>(ask: &'a dyn Fn(&ChangeRequest) -> Result<ChangeReply, ExitError>) -> Commands<'a> {
    Commands { program: "gatewayctl", ask, needs, trusted: Trusted::OthersOnly }
}

/// What the operator decides, or has decided before.
fn decide(
    arguments: &Pair,
    exchange: &mut Exchange<'_>,
    joiner: &Joiner,
    lines: &Lines,
) -> Result<Result<(), Refusal>, ExitError> {
    match arguments.expect {
        Some(expected) if expected != joiner.key => return Ok(Err(Refusal::OtherKey)),
        Some(_) if arguments.yes => return Ok(Ok(())),
        Some(_) | None => {}
    }
    let question = "does the other machine show the same four words? yes or no";
    lines.forget();
    print_to_stderr(question);
    loop {
        exchange.round()?;
        match lines.answer(question) {
            Some(Answer::Yes) => return Ok(Ok(())),
            Some(Answer::No) => return Ok(Err(Refusal::Declined)),
            None => exchange.pause(),
        }
    }
}

fn wanted(arguments: &Pair, policy: &Policy) -> Result<Wanted, ExitError> {
    let usage = |message: String| ExitError::new(Exit::Usage, message);
    let endpoint = |text: &String| {
        let with_port =
            || policy::text::host(text).map(|host| HostPort { host, port: policy.interface.listen_port });
        let found = policy::text::host_port(text).or_else(with_port);
        found.ok_or_else(|| {
            usage(format!("--endpoint {text}: expected a name or an address, with or without a port"))
        })
    };
    if arguments.endpoint.len() > MAX_ENDPOINTS {
        return Err(usage(format!("--endpoint: a code has room for {MAX_ENDPOINTS} of them at most")));
    }
    let endpoints = arguments.endpoint.iter().map(endpoint).collect::<Result<_, _>>()?;
    let may_publish = match arguments.may_publish.as_slice() {
        [] => None,
        ports => Some(
            ports_of(ports.iter().map(String::as_str))
                .map_err(|error| usage(format!("--may-publish: {error}")))?,
        ),
    };
    let next_key = arguments.next_key.as_deref().map(|file| next_key(file, policy)).transpose()?;
    Ok(Wanted { name: arguments.name.clone(), may_publish, address: arguments.address, endpoints, next_key })
}

/// Ports as people write them in a line; "none" is none.
fn ports_of<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Vec<PublicPorts>, String> {
    let texts: Vec<&str> = texts.map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts == ["none"] {
        return Ok(Vec::new());
    }
    let expected = "expected a port or a range, with \"/udp\" for UDP, such as 443, 443/udp or 5000-5010";
    texts
        .into_iter()
        .map(|text| PublicPorts::parse(text).ok_or_else(|| format!("{text:?}: {expected}")))
        .collect()
}

/// A proxy carries no WireGuard, so that a name that leads to one is of no use.
fn refuse_proxied(file: &Path, policy: &Policy, wanted: &Wanted) -> Result<(), ExitError> {
    let own = policy.wan.name.clone().map(|host| HostPort { host, port: policy.interface.listen_port });
    let named = if wanted.endpoints.is_empty() { own.as_slice() } else { wanted.endpoints.as_slice() };
    match proxied(policy, file, named.iter()).into_iter().next() {
        Some(message) => Err(ExitError::new(Exit::Invalid, message)),
        None => Ok(()),
    }
}

/// Asks which ports the peer may open by itself; an empty line takes what was planned.
fn ask_ports(plan: &mut Plan, (file, text): (&Path, &str), lines: &Lines) -> Result<(), ExitError> {
    let planned = plan.terms().may_publish.join(", ");
    let planned = if planned.is_empty() { "none".to_owned() } else { planned };
    let question = format!(
        "which public ports may {} open by itself? Enter for {planned}; or others, such as 443, 443/udp; or none",
        plan.terms().peer
    );
    print_to_stderr(&question);
    loop {
        match lines.next() {
            Line::None => std::thread::sleep(exchange::PAUSE),
            Line::End => return Ok(()),
            Line::Text(line) if line.is_empty() => return Ok(()),
            Line::Text(line) => {
                let ports = ports_of(line.split([',', ' ']));
                let set = ports.map_err(|error| ExitError::new(Exit::Usage, error));
                match set.and_then(|ports| plan.set_ports(file, text, ports)) {
                    Ok(()) => return Ok(()),
                    Err(error) => print_to_stderr(&format!("{error}\n{question}")),
                }
            }
        }
    }
}

fn report_plan(plan: &Plan) {
    let terms = plan.terms();
    for ports in &plan.left_out {
        print_to_stderr(&format!(
            "{} may not open {ports} by itself: the edge or another peer has it",
            terms.peer
        ));
    }
    let what = match (plan.is_known, plan.next_key()) {
        (false, _) => "is added with address",
        (true, None) => "gets another key and keeps its address",
        (true, Some(_)) => "is paired again and keeps its address",
    };
    let addresses: Vec<String> = terms.addresses.iter().map(|address| address.ip().to_string()).collect();
    let ports = if terms.may_publish.is_empty() { "none".to_owned() } else { terms.may_publish.join(", ") };
    print_to_stderr(&format!(
        "peer {} {what} {}; public ports that it may open by itself: {ports}",
        terms.peer,
        addresses.join(", ")
    ));
    if let Some(key) = plan.next_key() {
        print_to_stderr(&format!("it takes {key} as the key that the edge is to have next"));
    }
    if terms.preshared_key {
        print_to_stderr(
            "it keeps its preshared key, which is never sent: put the same file at the other machine first",
        );
    }
}

fn report_joiner(plan: &Plan, joiner: &Joiner) {
    let Joiner { key, name, version, words } = joiner;
    let peer = &plan.terms().peer;
    print_to_stderr(&format!("a machine named {name:?} (Causeway {version}) wants to be peer {peer}"));
    print_to_stderr(&format!("  its key:    {key}\n  four words: {words}"));
}

/// The public key of the edge: by its key file, which the daemon has in force.
fn own_key(policy: &Policy) -> Result<PublicKey, ExitError> {
    public_half(&policy.interface.private_key_file)
}

/// The public half of the key that the edge is to have next.
fn next_key(file: &Path, policy: &Policy) -> Result<PublicKey, ExitError> {
    let at = Position { file: file.into(), line: 1, column: 1 };
    let next = public_half(&FileRef { location: FileLocation::Path(file.to_owned()), at })?;
    let refused = |what: String| {
        let message = format!(
            "--next-key {}: {what}; make a new one: gatewayctl keygen DIR --name NAME --owner causeway",
            file.display()
        );
        Err(ExitError::new(Exit::Usage, message))
    };
    if next == own_key(policy)? {
        return refused("the configuration names this key already".to_owned());
    }
    match policy.peers.iter().find(|peer| peer.public_key.as_bytes() == next.as_bytes()) {
        Some(peer) => refused(format!("it is the key of peer {}", peer.name)),
        None => Ok(next),
    }
}

fn public_half(file: &FileRef) -> Result<PublicKey, ExitError> {
    let private =
        read_key(file).map_err(|error| ExitError::new(Exit::from_code(error.exit_code()), error))?;
    Ok(PrivateKey::from_bytes(*private.as_bytes()).public())
}

fn report_next(peer: &Name, file: &Path) {
    print_to_stderr(&format!(
        "{peer} takes the key in {} when the edge has it: once every origin was paired with it, name it as [interface] \
         private_key_file and apply",
        file.display()
    ));
}

fn random() -> Result<Zeroizing<[u8; 32]>, ExitError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| ExitError::new(Exit::Failed, error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        pair: Pair,
    }

    #[test]
    fn an_endpoint_that_has_no_room_in_the_code_is_refused() {
        let text = "[interface]\naddress = [\"10.77.88.1/24\"]\nprivate_key_file = \"k\"\n";
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap();
        let of = |count: usize| {
            let endpoints = (0..count).flat_map(|_| ["--endpoint", "192.0.2.2"]);
            let arguments = Arguments::parse_from(["causeway", "wroclaw"].into_iter().chain(endpoints));
            wanted(&arguments.pair, &policy)
        };
        assert_eq!(of(MAX_ENDPOINTS).ok().unwrap().endpoints.len(), MAX_ENDPOINTS);
        assert_eq!(of(MAX_ENDPOINTS + 1).err().unwrap().exit, Exit::Usage);
    }
}
