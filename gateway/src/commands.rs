//! What `gateway` does besides running: check, guard and down.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use policy::gateway::Policy;
use policy::ruleset::Ruleset;
use policy::{Host, HostPort, Source, forwarder};

use crate::config::{self, LoadError};
use crate::edge::blueprint::guard as guard_ruleset;
use crate::edge::refusal;
use crate::exit::{Exit, Stop};
use crate::foreign::{Needs, obstacles};
use crate::kernel::{Failure, FailureKind, Listing, Reply, Request, Scope, answer_once};
use crate::privilege;
use crate::state::{Applied, State};

/// The list of the proxy that publishes names as its own addresses, and carries HTTP alone.
const PROXY: &str = "cloudflare";
/// It, as it was when this was built, for a configuration that has no such list.
const SHIPPED: &str = include_str!("../../configs/lists/cloudflare.list");
/// The longest a look-up of a name may take.
const LOOKUP: Duration = Duration::from_secs(2);
/// Where the state is when the configuration cannot be read.
const DEFAULT_STATE: &str = "/var/lib/causeway";

/// `gateway check`: validates and prints the effective configuration.
///
/// # Errors
/// [`Exit::Invalid`] or [`Exit::Permission`] with every error, [`Exit::Failed`] when the two files do not pair up.
pub fn check(path: &Path, with: Option<&Path>) -> Result<(), Stop> {
    let policy = config::load_policy(path)?;
    let keys = config::inspect_keys(&policy);
    if !keys.errors.is_empty() {
        return Err(LoadError::Invalid(keys.errors).into());
    }
    for file in keys.unseen {
        tell(&format!("{}: not looked into, only the daemon's user may", file.display()));
    }
    for warning in &policy.warnings {
        tell(&warning.to_string());
    }
    for obstacle in obstacles_here(&policy) {
        tell(&obstacle);
    }
    let endpoints = policy.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
    warn_of_proxied(&policy, path, endpoints);
    let findings = with.map(|with| pair(&policy, with)).transpose()?.unwrap_or_default();
    print(&effective(path, &policy))?;
    if findings.is_empty() { Ok(()) } else { Err(Stop::new(Exit::Failed, findings.join("\n"))) }
}

fn pair(policy: &Policy, with: &Path) -> Result<Vec<String>, Stop> {
    let text = config::read_text(with)
        .map_err(|error| LoadError::Unreadable { path: with.display().to_string(), error })?;
    let far = forwarder::parse(&Source { name: with, text: &text }).map_err(LoadError::Invalid)?;
    warn_of_proxied(policy, with, far.peers.iter().map(|peer| &peer.endpoint));
    Ok(policy::pairing::pairing(policy, &far).iter().map(ToString::to_string).collect())
}

/// Foreign rules that stand in the way, where this user may look at them.
fn obstacles_here(policy: &Policy) -> Vec<String> {
    if privilege::require().is_err() {
        return Vec::new();
    }
    let needs = Needs { device: policy.interface.name.to_string(), port: policy.interface.listen_port };
    list(Listing::Everybody).map(|listing| obstacles(&listing, &needs)).unwrap_or_default()
}

/// Warns of endpoints whose names lead to a proxy, which carries no WireGuard.
fn warn_of_proxied<'e>(policy: &Policy, file: &Path, endpoints: impl Iterator<Item = &'e HostPort>) {
    let listed =
        policy.lists.iter().find(|list| list.name.as_str() == PROXY).map(|list| list.prefixes.clone());
    let proxy = listed.filter(|prefixes| !prefixes.is_empty()).unwrap_or_else(|| {
        let source = Source { name: Path::new(PROXY), text: SHIPPED };
        policy::gateway::parse_list(&source).unwrap_or_default()
    });
    for endpoint in endpoints.filter(|endpoint| matches!(endpoint.host, Host::Name(_))) {
        let addresses = addresses_of(endpoint);
        if let Some(address) =
            addresses.iter().find(|address| proxy.iter().any(|prefix| prefix.contains(**address)))
        {
            let file = file.display();
            tell(&format!(
                "{file}: the endpoint {endpoint} leads to {address}, which is @{PROXY}: its proxy carries no WireGuard; \
                 use a name that is not proxied (\"DNS only\"), or the edge's address"
            ));
        }
    }
}

/// What a name resolves to within [`LOOKUP`]; nothing when it does not.
fn addresses_of(endpoint: &HostPort) -> Vec<IpAddr> {
    let (sender, receiver) = mpsc::channel();
    let name = endpoint.to_string();
    // A resolver that hangs is left behind: the program ends soon anyway.
    let looking = thread::Builder::new().spawn(move || {
        let found = name.to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
        drop(sender.send(found.unwrap_or_default()));
    });
    looking.ok().and_then(|_| receiver.recv_timeout(LOOKUP).ok()).unwrap_or_default()
}

/// `gateway guard`: the drop table of the boot, unless a table is in place already.
///
/// # Errors
/// [`Exit::Degraded`] when the last good table had to stand in for an unreadable configuration; else as usual.
pub fn guard(path: &Path) -> Result<(), Stop> {
    privilege::require().map_err(|error| Stop::new(Exit::Permission, error))?;
    if !list(Listing::Table)?.is_empty() {
        return print("a table is in place already; nothing was changed\n");
    }
    match config::load_policy(path) {
        Ok(policy) => {
            apply(guard_ruleset(&policy))?;
            print("the drop table is in place\n")
        }
        Err(error) => {
            let Some(kept) = State::at(Path::new(DEFAULT_STATE)).guard() else { return Err(error.into()) };
            apply(kept)?;
            let stood_in = "the drop table of the last good configuration is in place instead";
            Err(Stop::new(Exit::Degraded, format!("{error}\n{stood_in}")))
        }
    }
}

/// `gateway down`: takes away every rule, route and device the daemon made, and restores switches.
///
/// Routes and device go before the rules, so that nothing leaks on the way.
///
/// # Errors
/// [`Exit::Conflict`] while the daemon runs.
pub fn down(path: &Path) -> Result<(), Stop> {
    let policy = config::load_policy(path)?;
    privilege::require().map_err(|error| Stop::new(Exit::Permission, error))?;
    let state = State::at(&policy.state_directory);
    if state.is_locked() {
        return Err(Stop::new(Exit::Conflict, "the daemon runs; stop it first: systemctl stop gateway"));
    }
    let scope = Scope::of_removal(&policy, path);
    remove_routing(&scope)?;
    // What the last start applied may differ from what the file says by now.
    if let Some(applied) = state.applied() {
        remove_applied(&scope, &applied)?;
    }
    if !list(Listing::Table)?.is_empty() {
        apply(Ruleset::teardown().to_string())?;
        print("- table inet causeway\n")?;
    }
    restore_switches(&scope, &state)?;
    let name = &policy.interface.name;
    for socket in [policy.control.socket.clone(), format!("/var/run/wireguard/{name}.sock").into()] {
        remove_dead_socket(&socket);
    }
    state.forget_applied().map_err(|error| Stop::new(Exit::Failed, format!("the state folder: {error}")))
}

fn remove_routing(scope: &Scope) -> Result<(), Stop> {
    match ask_within(scope, Request::RemoveRouting)? {
        Reply::Changed { lines } => lines.iter().try_for_each(|line| print(&format!("{line}\n"))),
        _ => Ok(()),
    }
}

/// Removes what the daemon's own note names besides; what it cannot be trusted about stays, and is said.
fn remove_applied(scope: &Scope, applied: &Applied) -> Result<(), Stop> {
    if (applied.device.as_str(), applied.protocol) == (scope.device.as_str(), scope.protocol) {
        return Ok(());
    }
    match scope.of_hearsay(&applied.device, applied.protocol) {
        Ok(scope) => remove_routing(&scope),
        Err(failure) => {
            tell(&failure.message);
            Ok(())
        }
    }
}

fn restore_switches(scope: &Scope, state: &State) -> Result<(), Stop> {
    for switch in state.sysctls() {
        let (path, value) = switch.clone();
        match answer_once(scope, Request::WriteSysctls { values: vec![switch] }) {
            Ok(Reply::Unwritable { switches }) => {
                for (path, value, reason) in switches {
                    tell(&format!("{path} could not be set back to {value}: {reason}"));
                }
            }
            Ok(_) => {}
            Err(failure) => tell(&format!("{path:?} was not set back to {value:?}: {failure}")),
        }
    }
    Ok(())
}

/// Removes a socket that a killed daemon left behind.
fn remove_dead_socket(path: &Path) {
    let refused =
        UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused && let Err(error) = std::fs::remove_file(path) {
        tell(&format!("{}: {error}", path.display()));
    }
}

fn list(what: Listing) -> Result<String, Stop> {
    match ask(Request::List { what })? {
        Reply::Listed { json } => Ok(json),
        _ => Ok(String::new()),
    }
}

fn apply(ruleset: String) -> Result<(), Stop> {
    ask(Request::ApplyRuleset { ruleset }).map(drop)
}

fn ask(request: Request) -> Result<Reply, Stop> {
    ask_within(&Scope::closed(), request)
}

fn ask_within(scope: &Scope, request: Request) -> Result<Reply, Stop> {
    answer_once(scope, request).map_err(|failure: Failure| match failure.kind {
        FailureKind::Ruleset => Stop::new(Exit::Failed, failure),
        _ => refusal(failure),
    })
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

fn print(text: &str) -> Result<(), Stop> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Stop::new(Exit::Failed, error)),
    }
}

fn tell(message: &str) {
    // Nobody is left to tell when this fails too.
    drop(writeln!(io::stderr().lock(), "{message}"));
}
