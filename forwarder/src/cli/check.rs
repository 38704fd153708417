//! `forwarder check`: whether a configuration can be run, and the effective one.

use std::fmt::Write as _;
use std::path::Path;

use policy::forwarder::Policy;
use serde_json::{Value, json};

use super::Outcome;
use daemon::command_line::{invalid, print, print_to_stderr, valid};
use daemon::exit::Exit;

use crate::config::{Inspected, inspect};
use crate::places::Environment;

/// Validates the configuration and the files that it names, as far as this user may read them.
///
/// # Errors
/// What is wrong; as JSON it is in the document, and only the exit code is left.
pub(super) fn check(path: &Path, is_json: bool) -> Outcome {
    let environment = Environment::of_process();
    match (inspect(path), is_json) {
        (Ok(found), false) => {
            found
                .policy
                .warnings
                .iter()
                .map(ToString::to_string)
                .chain(notes(path, &found))
                .for_each(|message| print_to_stderr(&message));
            print(&effective(&found.policy, &environment)).map(|()| Exit::Ok)
        }
        (Ok(found), true) => {
            let notes: Vec<_> = notes(path, &found).collect();
            let configuration = configuration(&found.policy, &environment);
            let document = valid(path, &configuration, &found.policy.warnings, &notes);
            print(&format!("{document}\n")).map(|()| Exit::Ok)
        }
        (Err(error), false) => Err(error.into()),
        (Err(error), true) => print(&format!("{}\n", invalid(path, &error))).map(|()| error.exit()),
    }
}

fn notes(path: &Path, found: &Inspected) -> impl Iterator<Item = String> {
    let unseen = found
        .unseen
        .iter()
        .map(|file| format!("{}: not looked into, only the daemon's user may", file.display()));
    let closed = found.policy.closed_to_authorities().into_iter();
    unseen.chain(closed.map(move |note| format!("{}: {note}", path.display())))
}

/// The effective configuration, one line per entry.
fn effective(policy: &Policy, environment: &Environment) -> String {
    let mut text = String::from("the configuration is valid\n");
    for peer in &policy.peers {
        let own: Vec<String> = peer.address.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "peer {}: {} as {}", peer.name, peer.endpoint, own.join(", "));
    }
    for service in &policy.services {
        let upstreams: Vec<String> = service.upstreams.iter().map(ToString::to_string).collect();
        let to = upstreams.join(", ");
        let _ = writeln!(text, "service {}: {} -> {to}", service.name, service.matched());
    }
    for reach in &policy.reach {
        let _ =
            writeln!(text, "reach {}: {} -> {} by {}", reach.name, reach.listen, reach.target, reach.peer);
    }
    let sockets = sockets(policy, environment).join(", else ");
    let _ = writeln!(text, "run by this user: control socket {sockets}");
    let _ = writeln!(text, "run by this user: state in {}", environment.state_folder(Some(policy)).display());
    text
}

fn sockets(policy: &Policy, environment: &Environment) -> Vec<String> {
    let places = environment.sockets(Some(policy));
    places.iter().map(|place| place.socket.display().to_string()).collect()
}

/// What is in effect, as JSON.
fn configuration(policy: &Policy, environment: &Environment) -> Value {
    let texts = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>();
    let peers: Vec<Value> = policy
        .peers
        .iter()
        .map(|peer| {
            json!({"name": peer.name.as_str(), "endpoint": peer.endpoint.to_string(),
               "address": texts(&mut peer.address.iter().map(ToString::to_string)),
               "allowed_ips": texts(&mut peer.allowed_ips.iter().map(ToString::to_string))})
        })
        .collect();
    let services: Vec<Value> = policy
        .services
        .iter()
        .map(|entry| {
            json!({"name": entry.name.as_str(), "match": entry.matched(),
               "upstream": texts(&mut entry.upstreams.iter().map(ToString::to_string))})
        })
        .collect();
    let reach: Vec<Value> = policy
        .reach
        .iter()
        .map(|entry| {
            json!({"name": entry.name.as_str(), "listen": entry.listen.to_string(),
               "target": entry.target.to_string(), "peer": entry.peer.as_str()})
        })
        .collect();
    json!({
        "peer": peers, "service": services, "reach": reach,
        "control": {"socket": sockets(policy, environment)},
        "state": {"directory": environment.state_folder(Some(policy)).display().to_string()},
    })
}
