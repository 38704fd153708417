//! `causeway join`: makes this machine a peer of an edge, by the code that `causeway pair` printed.
//!
//! - `keys`: the own key pair. `file`: the text of forwarder.toml. `write`: where it goes.
//! - `client`: the temporary tunnel; `stream`: the connection in it. `silence`: what no answer means.

mod client;
mod file;
pub(crate) mod keys;
mod silence;
mod stream;
mod write;

use std::fs;
use std::io::{self, BufRead as _, Read as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{LoadError, text_of};
use daemon::pairing::code::Code;
use daemon::pairing::joiner::{JoinEvent, JoinFault, JoinPairing};
use daemon::pairing::message::{Failure, Terms};
use daemon::text::time;
use forwarder::places::Environment;
use policy::forwarder::Policy;
use policy::{HostPort, Name, Source};
use zeroize::Zeroizing;

use crate::machine::{self, is_interactive};
use client::Client;
use file::Edge;
use keys::{OwnKey, folder_of};
use write::{Draft, Written};

/// The longest code that is read.
const MAX_CODE: u64 = 16 << 10;
/// Longest time without something to do.
const STEP: Duration = Duration::from_millis(200);
/// After so long without an answer, what that means is reported.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last message may take to arrive.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Read the code from FILE (default: ask at the terminal, else read standard input).
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    /// Write FILE, the forwarder's configuration, or add the edge to it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name the edge NAME in the configuration (default: its name in the code).
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<Name>,
    /// Make a new key pair, although this machine has one.
    #[arg(long)]
    new_key: bool,
    /// Give up when the edge does not answer within TIME.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    timeout: Duration,
}

fn name(text: &str) -> Result<Name, String> {
    Name::try_from(text.to_owned()).map_err(str::to_owned)
}

/// What this machine has already.
struct Existing {
    text: String,
    policy: Policy,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the code, the configuration or the way to the edge, or that the edge refuses.
pub(crate) fn join(arguments: &Join) -> Result<Exit, ExitError> {
    let config = arguments.config.clone().map_or_else(usual_configuration, Ok)?;
    let existing = read_existing(&config)?;
    let code = read_code(arguments.code_file.as_deref())?;
    let name = arguments.name.clone().unwrap_or_else(|| code.edge.clone());
    let key = own_key(&config, existing.as_ref(), &code, &name, arguments.new_key)?;
    print_to_stderr(&format!("this machine's public key: {}", key.public));
    let addresses = resolved(&code.endpoints)?;
    let targets = addresses.iter().map(|(_, address)| *address).collect();
    let client = Client::open(&code, targets).map_err(|error| ExitError::new(Exit::of(&error), error))?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| ExitError::new(Exit::Failed, error))?;
    let pairing =
        JoinPairing::new(code.clone(), key.public, nonce, machine::name_or("origin")?, machine::version()?);
    let mut course = Course { client, pairing, began: Instant::now(), is_reported: false };
    let (terms, words) = course.wait_for_terms(arguments.timeout, &addresses)?;
    report_terms(&terms, &code, &words.to_string());
    let edge = edge_of(&terms, &code, name, &key, course.endpoint(&addresses));
    let draft = match draft(&config, existing.as_ref(), &terms, edge) {
        Ok(draft) => draft,
        Err((error, reason)) => {
            course.pairing.fail(reason);
            course.flush();
            return Err(error);
        }
    };
    course.wait_for_decision()?;
    complete(course, draft, &code, &config, &key)
}

/// Writes the configuration and reports that to the edge, which rolls back without the report.
fn complete(
    mut course: Course,
    draft: Draft,
    code: &Code,
    config: &Path,
    key: &OwnKey,
) -> Result<Exit, ExitError> {
    let mut step = || drop(course.client.step(STEP));
    let written = match draft.write(&code.edge_key, key.old.is_some(), &mut step) {
        Ok(written) => written,
        Err(error) => {
            course.pairing.fail(Failure::Configuration);
            course.flush();
            return Err(error);
        }
    };
    course.pairing.written();
    let is_known = course.flush();
    if let Written::Tried(running) = &written {
        running.settle(is_known)?;
    }
    report_written(config, key, &written);
    Ok(if matches!(written, Written::NotTaken) { Exit::Degraded } else { Exit::Ok })
}

/// The rounds with the edge.
struct Course {
    client: Client,
    pairing: JoinPairing,
    began: Instant,
    is_reported: bool,
}

impl Course {
    fn wait_for_terms(
        &mut self,
        timeout: Duration,
        addresses: &[(HostPort, SocketAddr)],
    ) -> Result<(Box<Terms>, daemon::pairing::words::Words), ExitError> {
        loop {
            match self.round()? {
                Some(JoinEvent::Offered { terms, words }) => return Ok((terms, words)),
                Some(JoinEvent::Accepted) | None => {}
                Some(JoinEvent::Ended(fault)) => return Err(ended(fault)),
            }
            let silence = self.began.elapsed();
            let tried: Vec<_> = addresses.iter().map(|(_, address)| *address).collect();
            if silence >= SILENCE && !self.is_reported {
                self.is_reported = true;
                print_to_stderr(&silence::meaning(self.client.reached(), &tried));
            }
            if silence >= timeout {
                let meaning = silence::meaning(self.client.reached(), &tried);
                return Err(ExitError::new(Exit::Failed, format!("gave up: {meaning}")));
            }
        }
    }

    fn wait_for_decision(&mut self) -> Result<(), ExitError> {
        loop {
            match self.round()? {
                Some(JoinEvent::Accepted) => return Ok(()),
                Some(JoinEvent::Offered { .. }) | None => {}
                Some(JoinEvent::Ended(JoinFault::Gone)) => {
                    let fix = "if the edge took this machine, pair again, else nothing was changed";
                    let message = format!("{}; {fix}", JoinFault::Gone);
                    return Err(ExitError::new(Exit::Failed, message));
                }
                Some(JoinEvent::Ended(fault)) => return Err(ended(fault)),
            }
        }
    }

    /// Waits for something, carries messages both ways, and returns what happened.
    fn round(&mut self) -> Result<Option<JoinEvent>, ExitError> {
        let failed = |error: io::Error| ExitError::new(Exit::Failed, error);
        if let Some(event) = self.pairing.poll_event() {
            return Ok(Some(event));
        }
        self.client.step(STEP).map_err(failed)?;
        while let Some(frame) = self.client.receive().map_err(failed)? {
            self.pairing.handle_frame(&frame);
        }
        if self.client.is_over() {
            self.pairing.handle_disconnected();
        }
        while let Some(frame) = self.pairing.poll_frame() {
            self.client.send(&frame);
        }
        Ok(self.pairing.poll_event())
    }

    /// Gives the last message time to arrive; whether it did.
    fn flush(&mut self) -> bool {
        while let Some(frame) = self.pairing.poll_frame() {
            self.client.send(&frame);
        }
        let begun = Instant::now();
        while begun.elapsed() < FLUSH_WITHIN && !self.client.is_flushed() && self.client.step(STEP).is_ok() {}
        self.client.is_flushed()
    }

    /// The endpoint that answered, as the code has it.
    fn endpoint(&self, addresses: &[(HostPort, SocketAddr)]) -> Option<HostPort> {
        let answered = self.client.answered()?;
        addresses.iter().find(|(_, address)| *address == answered).map(|(endpoint, _)| endpoint.clone())
    }
}

fn ended(fault: JoinFault) -> ExitError {
    ExitError::new(Exit::Failed, format!("{fault}; nothing was changed here"))
}

/// The code, from the file, the terminal or standard input; never an argument, which others see.
fn read_code(file: Option<&Path>) -> Result<Code, ExitError> {
    let failed = |error: io::Error| ExitError::new(Exit::of(&error), error);
    let mut text = Zeroizing::new(String::with_capacity(1024));
    match file {
        Some(path) => {
            let named =
                |error: io::Error| ExitError::new(Exit::of(&error), format!("{}: {error}", path.display()));
            let opened = fs::File::open(path).map_err(named)?;
            opened.take(MAX_CODE).read_to_string(&mut text).map_err(named)?;
        }
        None if is_interactive() => {
            print_to_stderr("paste the code that `causeway pair` printed at the edge:");
            io::stdin().lock().read_line(&mut text).map_err(failed)?;
        }
        None => {
            io::stdin().lock().take(MAX_CODE).read_to_string(&mut text).map_err(failed)?;
        }
    }
    Code::parse(&text).map_err(|error| ExitError::new(Exit::Usage, error))
}

fn read_existing(config: &Path) -> Result<Option<Existing>, ExitError> {
    if !config.exists() {
        return Ok(None);
    }
    let text = text_of(config)?;
    let policy =
        policy::forwarder::parse(&Source { name: config, text: &text }).map_err(LoadError::Invalid)?;
    Ok(Some(Existing { text, policy }))
}

fn own_key(
    config: &Path,
    existing: Option<&Existing>,
    code: &Code,
    name: &Name,
    is_new: bool,
) -> Result<OwnKey, ExitError> {
    let Some(Existing { policy, .. }) = existing else { return keys::first(config) };
    let is_edge = |peer: &&policy::forwarder::Peer| {
        peer.public_key.as_bytes() == code.edge_key.as_bytes() || peer.name == *name
    };
    let of_peer = policy.peers.iter().find(is_edge).map(|peer| &peer.private_key_file);
    let file = of_peer.unwrap_or(&policy.interface.private_key_file);
    if is_new { keys::renewed(config, policy, file) } else { keys::named(file) }
}

/// Every address of every endpoint, in their order.
fn resolved(endpoints: &[HostPort]) -> Result<Vec<(HostPort, SocketAddr)>, ExitError> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for endpoint in endpoints {
        match endpoint.to_string().to_socket_addrs() {
            Ok(addresses) => found.extend(addresses.map(|address| (endpoint.clone(), address))),
            Err(error) => errors.push(format!("{endpoint}: {error}")),
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let fix =
        "this machine finds no address of the edge; look at its name server, or pair with --endpoint ADDRESS";
    Err(ExitError::new(Exit::Failed, format!("{}\n{fix}", errors.join("\n"))))
}

fn edge_of(terms: &Terms, code: &Code, name: Name, key: &OwnKey, endpoint: Option<HostPort>) -> Option<Edge> {
    let preshared_key_file = terms.preshared_key.then(|| format!("keys/{name}.psk"));
    Some(Edge {
        name,
        key: code.edge_key,
        endpoint: endpoint.or_else(|| code.endpoints.first().cloned())?,
        address: code.edge_address,
        own: terms.addresses.clone(),
        link_port: code.link_port,
        key_file: key.file.clone(),
        preshared_key_file,
    })
}

/// The new text, everything that could refuse it done; else the error, and what the edge gets.
fn draft(
    config: &Path,
    existing: Option<&Existing>,
    terms: &Terms,
    edge: Option<Edge>,
) -> Result<Draft, (ExitError, Failure)> {
    let configuration = |error: ExitError| (error, Failure::Configuration);
    let invalid = |message: String| configuration(ExitError::new(Exit::Invalid, message));
    let mut edge = edge.ok_or_else(|| invalid("the code has no endpoint".to_owned()))?;
    let named = |error: file::EditError| invalid(format!("{}: {error}", config.display()));
    if let Some(Existing { policy, .. }) = existing
        && file::known(policy, &edge).map_err(named)?.is_some_and(|peer| peer.preshared_key_file.is_some())
    {
        edge.preshared_key_file = None;
    }
    if let Some(file) = &edge.preshared_key_file {
        let path = folder_of(config).join(file);
        if !path.exists() {
            let message = format!(
                "the edge has a preshared key for {}: put the same key into {}, mode 0600, and pair again",
                terms.peer,
                path.display()
            );
            return Err((ExitError::new(Exit::Invalid, message), Failure::PresharedKey));
        }
    }
    let text = match existing {
        None => file::new_text(config, &edge),
        Some(Existing { text, policy }) => file::with_edge(config, text, policy, &edge),
    };
    Draft::prepare(
        config,
        existing.map(|existing| (existing.text.as_str(), &existing.policy)),
        text.map_err(named)?,
    )
    .map_err(configuration)
}

fn report_terms(terms: &Terms, code: &Code, words: &str) {
    let addresses: Vec<String> = terms.addresses.iter().map(ToString::to_string).collect();
    let ports = if terms.may_publish.is_empty() { "none".to_owned() } else { terms.may_publish.join(", ") };
    print_to_stderr(&format!(
        "the edge {} (Causeway {}) takes this machine as peer {} with address {}; public ports that it may open by \
         itself: {ports}",
        code.edge,
        terms.version,
        terms.peer,
        addresses.join(", ")
    ));
    print_to_stderr(&format!("  four words: {words}"));
    print_to_stderr("compare them with those at the edge, and say yes there; nothing is to be done here");
}

fn report_written(config: &Path, key: &OwnKey, written: &Written) {
    let file = config.display();
    print_to_stderr(&format!("paired: {file} is written, this machine's key is in {}", key.path.display()));
    let next = match written {
        Written::New if is_system(config) => {
            "next: sudo systemctl enable --now forwarder, then publish a service".to_owned()
        }
        Written::New => format!("next: forwarder --config {file}, then publish a service"),
        Written::Taken | Written::Tried(_) => {
            "the running forwarder has taken it: forwarder peers shows the tunnel".to_owned()
        }
        Written::Restart => "restart the forwarder, which takes this change only then".to_owned(),
        Written::NotRunning => "no forwarder runs with this file: start it".to_owned(),
        Written::NotTaken => {
            "the running forwarder did not take it; fix what is said above, then: forwarder reload".to_owned()
        }
    };
    print_to_stderr(&next);
    if let Some(old) = &key.old {
        print_to_stderr(&format!("the old key stays in {}; remove it once the tunnel is up", old.display()));
    }
}

/// Whether the system's own unit reads the file.
fn is_system(config: &Path) -> bool {
    config == Path::new(SYSTEM)
}

/// Where the system's unit has it.
const SYSTEM: &str = "/etc/causeway/forwarder.toml";
/// And launchd's.
const SYSTEM_MAC: &str = "/usr/local/etc/causeway/forwarder.toml";

/// The configuration of root's forwarder, or of this user's.
fn usual_configuration() -> Result<PathBuf, ExitError> {
    let environment = Environment::of_process();
    match (environment.uid, environment.is_mac, environment.home) {
        (0, false, _) => Ok(SYSTEM.into()),
        (0, true, _) => Ok(SYSTEM_MAC.into()),
        (_, _, Some(home)) => Ok(home.join(".config/causeway/forwarder.toml")),
        (_, _, None) => Err(ExitError::new(Exit::Usage, daemon::command_line::NAME_IT)),
    }
}
