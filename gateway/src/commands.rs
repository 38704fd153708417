//! What `gateway` does besides running: check and down; the guard is in [`crate::guard`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use policy::gateway::Policy;
use policy::ruleset::Ruleset;
use policy::trust::{closed_since_names, taken};
use policy::{Host, HostPort, Source, forwarder};

use crate::checked;
use crate::config;
use crate::edge::machine::Machine;
use crate::foreign::{Needs, obstacles};
use crate::kernel::{Listing, Reply, Request, Scope, answer_once};
use crate::listening::listeners;
use crate::privilege;
use crate::state::{Applied, State, Switched};
use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::LoadError;

/// The list of a proxy that publishes names under its own addresses and carries only HTTP.
const PROXY: &str = "cloudflare";
/// That list as of the build, for a configuration that has none.
const SHIPPED: &str = include_str!("../../configs/lists/cloudflare.list");
/// The longest a look-up of a name may take.
const LOOKUP: Duration = Duration::from_secs(2);

/// What `gateway check` found in a configuration that is valid.
struct Found {
    policy: Policy,
    /// What to know besides the warnings, in words.
    notes: Vec<String>,
    /// Who would be trusted on this machine, a line for each interface.
    trusted: Vec<String>,
    /// What does not pair up with the other end's file.
    unpaired: Vec<String>,
}

/// `gateway check`: validates and prints the effective configuration, as text or as JSON.
///
/// # Errors
/// [`Exit::Invalid`] or [`Exit::Permission`] with every error, [`Exit::Failed`] when the two files
/// do not pair up. As JSON the document says what is wrong, and only the code is returned.
pub fn check(path: &Path, with: Option<&Path>, is_json: bool) -> Result<Exit, ExitError> {
    match (inspect(path, with), is_json) {
        (Ok(found), true) => {
            let exit = if found.unpaired.is_empty() { Exit::Ok } else { Exit::Failed };
            let around = [&found.notes, &found.trusted, &found.unpaired].map(Vec::as_slice);
            let document = checked::valid(path, &found.policy, around);
            print(&format!("{document}\n")).map(|()| exit)
        }
        (Ok(found), false) => {
            for message in found.policy.warnings.iter().map(ToString::to_string).chain(found.notes) {
                print_to_stderr(&message);
            }
            print(&effective(path, &found.policy))?;
            found.trusted.iter().try_for_each(|line| print(&format!("# trusted: {line}\n")))?;
            if found.unpaired.is_empty() {
                Ok(Exit::Ok)
            } else {
                Err(ExitError::new(Exit::Failed, found.unpaired.join("\n")))
            }
        }
        (Err(error), true) => print(&format!("{}\n", checked::invalid(path, &error))).map(|()| error.exit()),
        (Err(error), false) => Err(error.into()),
    }
}

fn inspect(path: &Path, with: Option<&Path>) -> Result<Found, LoadError> {
    let policy = config::load_policy(path)?;
    let keys = config::inspect_keys(path, &policy);
    if !keys.errors.is_empty() {
        return Err(LoadError::Invalid(keys.errors));
    }
    let unseen = |file: &PathBuf| format!("{}: not looked into, only the daemon's user may", file.display());
    let mut notes: Vec<String> = keys.unseen.iter().map(unseen).collect();
    let Surroundings { obstacles, trusted, remarks } = surroundings(&policy);
    notes.extend(obstacles.into_iter().chain(remarks));
    let shown = path.display();
    notes.extend(policy.closed_to_authorities().iter().map(|note| format!("{shown}: {note}")));
    let endpoints = policy.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
    notes.extend(proxied(&policy, path, endpoints));
    let own = policy.wan.name.clone().map(|host| HostPort { host, port: policy.interface.listen_port });
    notes.extend(proxied(&policy, path, own.iter()));
    let mut unpaired = Vec::new();
    if let Some(with) = with {
        let far = far_end(with)?;
        notes.extend(proxied(&policy, with, far.peers.iter().map(|peer| &peer.endpoint)));
        unpaired = policy::pairing::pairing(&policy, &far).iter().map(ToString::to_string).collect();
    }
    Ok(Found { policy, notes, trusted, unpaired })
}

fn far_end(with: &Path) -> Result<forwarder::Policy, LoadError> {
    let text = daemon::files::read_text(with)
        .map_err(|error| LoadError::Unreadable { path: with.display().to_string(), error })?;
    forwarder::parse(&Source { name: with, text: &text }).map_err(LoadError::Invalid)
}

/// What a policy would mean on the running system.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Foreign rules that block the tunnel, each with its fix.
    pub obstacles: Vec<String>,
    /// Who would be trusted here, a line for each interface.
    pub trusted: Vec<String>,
    /// What would be closed, and what is not as the policy says, each with its fix.
    pub remarks: Vec<String>,
}

/// What this machine means for a policy; empty for a user who could not run the daemon here. It
/// only informs, since this need not be the edge's machine.
#[must_use]
pub fn surroundings(policy: &Policy) -> Surroundings {
    let obstacles = obstacles_here(policy);
    if privilege::require().is_err() {
        return Surroundings::default();
    }
    let Ok(system) = Machine::read(policy) else { return Surroundings { obstacles, ..Default::default() } };
    let machine = Machine::at_apply(policy, system, &State::at(&policy.state_directory).pins());
    let trust = machine.conditions(policy, None, (&[], &[])).trust;
    let listeners = listeners();
    let mut remarks = machine.remarks(policy);
    remarks.extend(closed_since_names(policy, machine.system(), &trust, &listeners));
    remarks.extend(taken(policy, &listeners));
    Surroundings { obstacles, trusted: machine.trusted(policy), remarks }
}

/// Foreign rules that block the tunnel, where this user may look at them.
fn obstacles_here(policy: &Policy) -> Vec<String> {
    let needs = Needs { device: policy.interface.name.to_string(), port: policy.interface.listen_port };
    all_rules().map(|listing| obstacles(&listing, &needs)).unwrap_or_default()
}

/// Every rule of this machine, as `nft -j list ruleset` prints it, where this user may look.
#[must_use]
pub fn all_rules() -> Option<String> {
    privilege::require().ok()?;
    list(Listing::Ruleset).ok()
}

/// Warnings about endpoints whose names lead to a proxy, which carries no WireGuard.
#[must_use]
pub fn proxied<'e>(
    policy: &Policy,
    file: &Path,
    endpoints: impl Iterator<Item = &'e HostPort>,
) -> Vec<String> {
    let listed =
        policy.lists.iter().find(|list| list.name.as_str() == PROXY).map(|list| list.prefixes.clone());
    let proxy = listed.filter(|prefixes| !prefixes.is_empty()).unwrap_or_else(|| {
        let source = Source { name: Path::new(PROXY), text: SHIPPED };
        policy::sections::parse_list(&source).unwrap_or_default()
    });
    let file = file.display();
    let warning = |endpoint: &HostPort| {
        let addresses = addresses_of(endpoint);
        let address =
            addresses.iter().find(|address| proxy.iter().any(|prefix| prefix.contains(**address)))?;
        Some(format!(
            "{file}: the endpoint {endpoint} leads to {address}, which is @{PROXY}: its proxy carries no WireGuard; \
             use a name that is not proxied (\"DNS only\"), or the edge's address"
        ))
    };
    endpoints.filter(|endpoint| matches!(endpoint.host, Host::Name(_))).filter_map(warning).collect()
}

/// What a name resolves to within two seconds; nothing when it does not.
#[must_use]
pub fn addresses_of(endpoint: &HostPort) -> Vec<IpAddr> {
    let (sender, receiver) = mpsc::channel();
    let name = endpoint.to_string();
    // A resolver that hangs is not waited for: the program ends soon anyway.
    let looking = thread::Builder::new().spawn(move || {
        let found = name.to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
        drop(sender.send(found.unwrap_or_default()));
    });
    looking.ok().and_then(|_| receiver.recv_timeout(LOOKUP).ok()).unwrap_or_default()
}

/// `gateway down`: removes every rule, route and device that the daemon created, and restores
/// switches.
///
/// Routes, device and forwarding go before the rules, so that nothing leaks on the way.
///
/// # Errors
/// [`Exit::Conflict`] while the daemon runs.
pub fn down(path: &Path) -> Result<(), ExitError> {
    let policy = config::load_policy(path)?;
    privilege::require().map_err(|error| ExitError::new(Exit::Permission, error))?;
    let state = State::at(&policy.state_directory);
    if state.is_locked() {
        return Err(ExitError::new(Exit::Conflict, "the daemon runs; stop it first: systemctl stop gateway"));
    }
    let scope = Scope::of_removal(&policy, path);
    remove_routing(&scope)?;
    // What the last start applied may differ from what the file says by now.
    if let Some(applied) = state.applied() {
        remove_applied(&scope, &applied)?;
    }
    restore_switches(&scope, &state)?;
    if !list(Listing::Table)?.is_empty() {
        apply(Ruleset::teardown().to_string())?;
        print("- table inet causeway\n")?;
    }
    let name = &policy.interface.name;
    for socket in [policy.control.socket.clone(), format!("/var/run/wireguard/{name}.sock").into()] {
        remove_dead_socket(&socket);
    }
    state.forget_applied().map_err(|error| ExitError::new(Exit::Failed, format!("the state folder: {error}")))
}

fn remove_routing(scope: &Scope) -> Result<(), ExitError> {
    match ask_within(scope, Request::RemoveRouting)? {
        Reply::Changed { lines } => lines.iter().try_for_each(|line| print(&format!("{line}\n"))),
        _ => Ok(()),
    }
}

/// Removes what the daemon's own record names in addition; what the record cannot be trusted with
/// stays, and is reported.
fn remove_applied(scope: &Scope, applied: &Applied) -> Result<(), ExitError> {
    if (applied.device.as_str(), applied.protocol) == (scope.device.as_str(), scope.protocol) {
        return Ok(());
    }
    match scope.of_untrusted(&applied.device, applied.protocol) {
        Ok(scope) => remove_routing(&scope),
        Err(failure) => {
            print_to_stderr(&failure.message);
            Ok(())
        }
    }
}

/// Restores the switches that the daemon changed, one by one, so that a wrong entry in the daemon's
/// record does not keep the others from being restored.
fn restore_switches(scope: &Scope, state: &State) -> Result<(), ExitError> {
    let changed = state.switches();
    let read = |path: &String| match answer_once(scope, Request::ReadSysctls { paths: vec![path.clone()] }) {
        Ok(Reply::Sysctls { values }) => values.into_iter().flatten().next(),
        Ok(_) => None,
        Err(failure) => {
            print_to_stderr(&format!("{path:?} was not set back: {failure}"));
            None
        }
    };
    let now: Vec<_> = changed.keys().map(read).collect();
    for (path, value) in to_restore(&changed, &now) {
        let switch = (path.clone(), value.clone());
        match answer_once(scope, Request::WriteSysctls { values: vec![switch] }) {
            Ok(Reply::Unwritable { switches }) => {
                for (path, value, reason) in switches {
                    print_to_stderr(&format!("{path} could not be set back to {value}: {reason}"));
                }
            }
            Ok(_) => {}
            Err(failure) => print_to_stderr(&format!("{path:?} was not set back to {value:?}: {failure}")),
        }
    }
    Ok(())
}

/// The switches that the daemon changed and that still have the value it gave them, with the values
/// they had before.
fn to_restore(changed: &BTreeMap<String, Switched>, now: &[Option<String>]) -> Vec<(String, String)> {
    let still_ours = changed.iter().zip(now).filter(|((_, change), now)| now.as_ref() == Some(&change.set));
    still_ours.map(|((path, change), _)| (path.clone(), change.before.clone())).collect()
}

/// Removes a socket that a killed daemon left behind.
fn remove_dead_socket(path: &Path) {
    let refused =
        UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused && let Err(error) = std::fs::remove_file(path) {
        print_to_stderr(&format!("{}: {error}", path.display()));
    }
}

pub(crate) fn list(what: Listing) -> Result<String, ExitError> {
    match ask(Request::List { what })? {
        Reply::Listed { json } => Ok(json),
        _ => Ok(String::new()),
    }
}

pub(crate) fn apply(ruleset: String) -> Result<(), ExitError> {
    ask(Request::ApplyRuleset { ruleset }).map(drop)
}

pub(crate) fn ask(request: Request) -> Result<Reply, ExitError> {
    ask_within(&Scope::closed(), request)
}

fn ask_within(scope: &Scope, request: Request) -> Result<Reply, ExitError> {
    Ok(answer_once(scope, request)?)
}

/// The effective configuration, a file by itself, and as comments what it asks of the kernel.
fn effective(path: &Path, policy: &Policy) -> String {
    let plan = policy.plan();
    let mut text =
        format!("# {}: valid. Every key as it is in effect:\n{}\n", path.display(), policy.to_toml());
    for service in &plan.ruleset.services {
        let _ = writeln!(
            text,
            "# {} {}: conntrack mark {:#x}",
            service.kind.as_str(),
            service.name,
            service.mark
        );
    }
    for switch in &plan.routing.sysctls {
        let _ = writeln!(
            text,
            "# sysctl {} = {}: {}",
            switch.path.replace('/', "."),
            switch.value,
            switch.reason
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_switches_that_still_have_the_daemons_value_are_set_back() {
        let change = |before: &str| Switched { before: before.to_owned(), set: "1".to_owned() };
        let changed = BTreeMap::from(["a", "b", "c"].map(|path| (path.to_owned(), change("0"))));
        let now = [Some("1".to_owned()), Some("2".to_owned()), None];
        assert_eq!(to_restore(&changed, &now), [("a".to_owned(), "0".to_owned())]);
    }
}
