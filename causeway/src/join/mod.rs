//! `causeway join`: makes this machine a peer of an edge, by the code that `causeway pair` printed.
//!
//! - `consent`: whether the operator here compares the words as well.
//! - `keys`: the own key pair. `file`: the text of forwarder.toml. `write`: where it goes.
//! - `course`: the rounds with the edge. `endpoints`: where it is. `signals`: what ends the
//!   command.
//! - `client`: the temporary tunnel; `stream`: the connection in it. `silence`: what no answer
//!   means.

mod client;
mod consent;
mod course;
mod endpoints;
mod file;
pub(crate) mod keys;
mod signals;
mod silence;
mod stream;
mod write;

use std::fs;
use std::io::{self, BufRead, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{LoadError, text_of};
use daemon::link::message::Bytes;
use daemon::pairing::code::Code;
use daemon::pairing::message::{Failure, Terms};
use daemon::text::time;
use policy::forwarder::Policy;
use policy::{HostPort, Name, Source};
use tunnel::key::PublicKey;
use zeroize::Zeroizing;

use crate::lines::Lines;
use crate::machine::is_interactive;
use crate::origin;
use crate::start::{self, Started};
use course::Course;
use endpoints::Endpoints;
use file::Edge;
use keys::{OwnKey, folder_of};
use write::{Draft, Written};

/// The longest code that is read.
const MAX_CODE: u64 = 16 << 10;

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
    /// Refuse an edge with any other public key than this one; nothing is asked here then.
    #[arg(long, value_name = "KEY")]
    expect: Option<PublicKey>,
    /// Refuse any other key than this one as the edge's next; nothing is asked here about it then.
    #[arg(long, value_name = "KEY")]
    expect_next: Option<PublicKey>,
    /// Connect to this control socket of the forwarder (default: that of the configuration).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
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

/// What is to be joined, and where.
struct Joining<'a> {
    arguments: &'a Join,
    config: &'a Path,
    existing: Option<&'a Existing>,
    code: &'a Code,
    name: Name,
    key: &'a OwnKey,
    endpoints: &'a Endpoints,
    /// The operator here, where the words are to be compared here as well.
    operator: Option<Lines>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the code, the configuration or the way to the edge, or that the edge refuses.
pub(crate) fn join(arguments: &Join) -> Result<Exit, ExitError> {
    let config = arguments.config.clone().map_or_else(origin::file_to_write, Ok)?;
    let existing = read_existing(&config)?;
    start::prepare_forwarder(&config)?;
    let code = read_code(arguments.code_file.as_deref())?;
    let policy = existing.as_ref().map(|existing| &existing.policy);
    let is_asked = consent::is_asked(policy, &code.edge_key, arguments.expect.as_ref())?;
    let operator = is_asked.then(|| consent::operator(&config, &code.edge_key)).transpose()?;
    let name = arguments.name.clone().unwrap_or_else(|| code.edge.clone());
    let endpoints = Endpoints::resolved(&code.endpoints)?;
    let key = own_key(&config, existing.as_ref(), &code, &name, arguments.new_key)?;
    print_to_stderr(&format!("this machine's public key: {}", key.public));
    let joining = Joining {
        arguments,
        config: &config,
        existing: existing.as_ref(),
        code: &code,
        name,
        key: &key,
        endpoints: &endpoints,
        operator,
    };
    let written = joining.agree().and_then(|(course, draft)| joining.write(course, draft));
    let (course, written) = written.inspect_err(|_| key.forget())?;
    complete(course, &written, (&config, &code.edge_key), &key)
}

impl Joining<'_> {
    /// Agrees with the edge on what is to be written here.
    fn agree(&self) -> Result<(Course, Draft), ExitError> {
        let Self { code, config, existing, .. } = *self;
        let mut course = Course::begin(code, self.key.public, self.endpoints)?;
        let (terms, words) = course.wait_for_terms(self.arguments.timeout, self.endpoints)?;
        report_terms(&terms, code, &words.to_string());
        let edge = edge_of(&terms, code, self.name.clone(), self.key, course.endpoint(self.endpoints));
        let draft = match draft(config, existing, self.arguments.socket.as_deref(), &terms, edge) {
            Ok(draft) => draft,
            Err((error, reason)) => {
                course.give_up(reason);
                return Err(error);
            }
        };
        let late = match self.operator_of_next(&terms) {
            Ok(late) => late,
            Err(error) => {
                course.give_up(Failure::Declined);
                return Err(error);
            }
        };
        let operator = self.operator.as_ref().or(late.as_ref());
        if operator.is_none() {
            print_to_stderr(
                "compare them with those at the edge, and say yes there; nothing is to be done here",
            );
        }
        course.wait_for_decision(operator)?;
        Ok((course, draft))
    }

    /// Who is asked here because of the edge's next key alone.
    fn operator_of_next(&self, terms: &Terms) -> Result<Option<Lines>, ExitError> {
        let next = next_key(terms);
        let is_asked = consent::is_asked_about_next(next.as_ref(), self.arguments.expect_next.as_ref())?;
        let next = next.filter(|_| is_asked && self.operator.is_none());
        next.map(|next| consent::operator_of_next(&next)).transpose()
    }

    /// Writes the configuration.
    fn write(&self, mut course: Course, draft: Draft) -> Result<(Course, Written), ExitError> {
        let written = draft.write(&self.code.edge_key, self.key.old.is_some(), &mut || course.step());
        match written {
            Ok(written) => Ok((course, written)),
            Err(error) => {
                course.give_up(Failure::Configuration);
                Err(error)
            }
        }
    }
}

/// Reports to the edge what is written, which rolls back without the report.
fn complete(
    mut course: Course,
    written: &Written,
    (config, edge): (&Path, &PublicKey),
    key: &OwnKey,
) -> Result<Exit, ExitError> {
    let is_kept = course.wait_until_kept();
    if let Written::Tried(running) = written {
        running.settle(is_kept, edge)?;
    } else if !is_kept {
        let message = format!(
            "{} is written, but the edge did not confirm that it keeps this machine, and goes back: pair again",
            config.display()
        );
        return Err(ExitError::new(Exit::RolledBack, message));
    }
    report_written(config, key, written);
    let is_in_force = match written {
        Written::New | Written::NotRunning => is_started(config),
        Written::Taken | Written::Tried(_) | Written::Restart => true,
        Written::NotTaken => false,
    };
    Ok(if is_in_force { Exit::Ok } else { Exit::Degraded })
}

/// Starts the forwarder, which did not run with this file, or says how it is started; whether there
/// is nothing that fails.
fn is_started(config: &Path) -> bool {
    match start::start_forwarder(config) {
        Ok(started) => print_to_stderr(&how(&started)),
        Err(error) => {
            print_to_stderr(&error.message);
            return false;
        }
    }
    true
}

fn how(started: &Started) -> String {
    match started {
        Started::Running => "the forwarder runs; next: publish a service".to_owned(),
        Started::Now => "the forwarder runs, and starts at each boot; next: publish a service".to_owned(),
        Started::AtLogin { runs } => {
            let now = if *runs { "runs now, and " } else { "" };
            format!(
                "the forwarder {now}starts when you log in, not before; sudo causeway join, with another code, makes \
                 one that starts at each boot; next: publish a service"
            )
        }
        Started::By(command) => format!("next: {command}, then publish a service"),
    }
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
            return code_of_lines(io::stdin().lock());
        }
        None => {
            io::stdin().lock().take(MAX_CODE).read_to_string(&mut text).map_err(failed)?;
        }
    }
    Code::parse(&text).map_err(|error| ExitError::new(Exit::Usage, error))
}

/// The code from as many lines as a terminal or a mail has made of it; an empty line ends it.
fn code_of_lines(mut input: impl BufRead) -> Result<Code, ExitError> {
    let failed = |error: io::Error| ExitError::new(Exit::of(&error), error);
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let mut is_reported = false;
    loop {
        let before = text.len();
        let room = MAX_CODE.saturating_sub(u64::try_from(before).unwrap_or(MAX_CODE));
        input.by_ref().take(room).read_line(&mut text).map_err(failed)?;
        let is_last = text.get(before..).is_none_or(|line| line.trim().is_empty());
        match Code::parse(&text) {
            Ok(code) => return Ok(code),
            Err(error) if is_last || !Code::is_beginning(&text) => {
                return Err(ExitError::new(Exit::Usage, error));
            }
            Err(_) if !is_reported => {
                is_reported = true;
                print_to_stderr("the code goes on in the next line; an empty line ends it");
            }
            Err(_) => {}
        }
    }
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
    let Some(Existing { policy, .. }) = existing else { return keys::first(config, is_new) };
    let is_edge = |peer: &&policy::forwarder::Peer| file::has_key(peer, &code.edge_key) || peer.name == *name;
    let of_peer = policy.peers.iter().find(is_edge).map(|peer| &peer.private_key_file);
    let file = of_peer.unwrap_or(&policy.interface.private_key_file);
    if is_new { keys::renewed(config, policy, file) } else { keys::named(file) }
}

/// The key that the edge is to have next; what the joiner takes was checked.
fn next_key(terms: &Terms) -> Option<PublicKey> {
    terms.next_key.and_then(|Bytes(key)| PublicKey::from_bytes(key).ok())
}

fn edge_of(terms: &Terms, code: &Code, name: Name, key: &OwnKey, endpoint: HostPort) -> Edge {
    let preshared_key_file = terms.preshared_key.then(|| format!("keys/{name}.psk"));
    Edge {
        name,
        key: code.edge_key,
        next_key: next_key(terms),
        endpoint,
        endpoints: code.endpoints.clone(),
        address: code.edge_address,
        own: terms.addresses.clone(),
        link_port: code.link_port,
        key_file: key.file.clone(),
        preshared_key_file,
    }
}

/// The new text, everything that could refuse it done; else the error, and what the edge gets.
fn draft(
    config: &Path,
    existing: Option<&Existing>,
    socket: Option<&Path>,
    terms: &Terms,
    mut edge: Edge,
) -> Result<Draft, (ExitError, Failure)> {
    let configuration = |error: ExitError| (error, Failure::Configuration);
    let invalid = |message: String| configuration(ExitError::new(Exit::Invalid, message));
    let named = |error: file::EditError| invalid(format!("{}: {error}", config.display()));
    if let Some(Existing { policy, .. }) = existing
        && let Some(peer) = file::known(policy, &edge).map_err(named)?
    {
        file::changes(peer, &edge).iter().for_each(|line| print_to_stderr(line));
        edge.preshared_key_file = edge.preshared_key_file.filter(|_| peer.preshared_key_file.is_none());
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
        socket,
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
    if let Some(key) = next_key(terms) {
        print_to_stderr(&format!("  its next key: {key}, which is written as next_public_key"));
    }
    print_to_stderr(&format!("  edge's key: {}\n  four words: {words}", code.edge_key));
}

fn report_written(config: &Path, key: &OwnKey, written: &Written) {
    let file = config.display();
    let taken = if matches!(written, Written::NotTaken) { "paired, but not in force" } else { "paired" };
    print_to_stderr(&format!("{taken}: {file} is written, this machine's key is in {}", key.path.display()));
    if let Some(next) = next_step(written) {
        print_to_stderr(next);
    }
    if let Some(old) = key.old.as_ref().filter(|old| old.exists()) {
        print_to_stderr(&format!("the old key stays in {}; remove it once the tunnel is up", old.display()));
    }
}

/// What is to be done about a forwarder that runs with this file.
const fn next_step(written: &Written) -> Option<&'static str> {
    match written {
        Written::New | Written::NotRunning => None,
        Written::Taken | Written::Tried(_) => {
            Some("the running forwarder has taken it: forwarder peers shows the tunnel")
        }
        Written::Restart => Some("restart the forwarder, which takes this change only then"),
        Written::NotTaken => {
            Some("the running forwarder did not take it; fix what is said above, then: forwarder reload")
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn what_starts_the_forwarder_is_named_where_join_does_not_and_an_agent_waits_for_its_user() {
        let by_hand = how(&Started::By("forwarder --config /home/kyiv/forwarder.toml".to_owned()));
        assert!(by_hand.starts_with("next: forwarder --config /home/kyiv/forwarder.toml, then"), "{by_hand}");
        assert!(how(&Started::Now).contains("starts at each boot"));
        let agent = [true, false].map(|runs| how(&Started::AtLogin { runs }));
        assert!(agent.iter().all(|text| text.contains("starts when you log in, not before")), "{agent:?}");
        assert_eq!(agent.each_ref().map(|text| text.contains("runs now")), [true, false]);
    }

    #[test]
    fn a_code_that_was_wrapped_into_lines_is_read_until_it_is_complete() {
        let code = code();
        let text = code.to_text();
        for width in [5, 9, 10, 11, 40, 79, 1000] {
            let lines: Vec<&str> =
                text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let wrapped = format!("{}\nmore\n", lines.join("\r\n"));
            let mut input = wrapped.as_bytes();
            let read = code_of_lines(&mut input).unwrap_or_else(|error| panic!("{width}: {error}"));
            assert_eq!(read.one_time.as_bytes(), code.one_time.as_bytes());
            assert_eq!(input, b"more\n", "what comes after it is an answer to a question");
        }
    }

    #[test]
    fn a_text_that_cannot_become_a_code_is_refused_at_once_and_a_part_at_an_empty_line() {
        let text = code().to_text();
        let refused = |input: &str| {
            let mut rest = input.as_bytes();
            let error = code_of_lines(&mut rest).err().unwrap();
            assert_eq!(error.exit, Exit::Usage);
            (error.message, rest.len())
        };
        assert_eq!(refused("wg genkey\nrest").1, 4);
        let groups: Vec<&str> = text.split('-').collect();
        let typed = text.replacen(groups[3], "00000000", 1);
        let (message, left) = refused(&format!("{typed}\nrest"));
        assert!(message.contains("group 3") && left == 4, "{message}");
        let (message, left) = refused(&format!("{}\n\nrest", groups[..groups.len() - 3].join("-")));
        assert!(message.contains("missing") && left == 4, "{message}");
        assert_eq!(refused("").1, 0);
    }

    fn code() -> Code {
        Code {
            one_time: PrivateKey::from_bytes([5; 32]),
            edge_key: PrivateKey::from_bytes([1; 32]).public(),
            edge: Name::new("kyiv").unwrap(),
            endpoints: vec![policy::text::host_port("kyiv.example.com:51820").unwrap()],
            edge_address: "10.77.88.1".parse().unwrap(),
            address: "10.77.88.254/24".parse().unwrap(),
            link_port: 51_899,
        }
    }
}
