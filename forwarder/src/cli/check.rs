//! `forwarder check`: whether a configuration can be run, and the effective one.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use policy::forwarder::Policy;
use policy::{ConfigError, Position};
use serde_json::{Value, json};

use super::{Outcome, print};
use daemon::exit::Exit;
use daemon::files::{LoadError, fix_of};

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
            for message in messages(&found) {
                // Standard error may be closed; the message is then lost, the answer is not.
                let _ = writeln!(std::io::stderr(), "{message}");
            }
            print(&effective(&found.policy, &environment));
            Ok(Exit::Ok)
        }
        (Ok(found), true) => {
            print(&valid(path, &found, &environment).to_string());
            Ok(Exit::Ok)
        }
        (Err(error), false) => Err(error.into()),
        (Err(error), true) => {
            print(&invalid(path, &error).to_string());
            Ok(error.exit())
        }
    }
}

fn messages(found: &Inspected) -> Vec<String> {
    let warnings = found.policy.warnings.iter().map(ToString::to_string);
    warnings.chain(notes(found)).collect()
}

fn notes(found: &Inspected) -> impl Iterator<Item = String> {
    found.unseen.iter().map(|file| format!("{}: not looked into, only the daemon's user may", file.display()))
}

/// The effective configuration, one line per entry.
fn effective(policy: &Policy, environment: &Environment) -> String {
    let mut text = String::from("the configuration is valid\n");
    for peer in &policy.peers {
        let own: Vec<String> = peer.address.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "peer {}: {} as {}", peer.name, peer.endpoint, own.join(", "));
    }
    for inject in &policy.inject {
        let address = inject.address.map_or("*".to_owned(), |address| address.to_string());
        let upstreams: Vec<String> = inject.upstreams.iter().map(ToString::to_string).collect();
        let to = upstreams.join(", ");
        let _ = writeln!(text, "inject {}: {address}:{} -> {to}", inject.name, inject.ports);
    }
    for reach in &policy.reach {
        let _ =
            writeln!(text, "reach {}: {} -> {} by {}", reach.name, reach.listen, reach.target, reach.peer);
    }
    let sockets = sockets(policy, environment).join(", else ");
    let _ = writeln!(text, "run by this user: control socket {sockets}");
    let _ = writeln!(text, "run by this user: state in {}", environment.state_folder(Some(policy)).display());
    text.trim_end().to_owned()
}

fn sockets(policy: &Policy, environment: &Environment) -> Vec<String> {
    let places = environment.sockets(Some(policy));
    places.iter().map(|place| place.socket.display().to_string()).collect()
}

fn valid(path: &Path, found: &Inspected, environment: &Environment) -> Value {
    let policy = &found.policy;
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
    let inject: Vec<Value> = policy
        .inject
        .iter()
        .map(|entry| {
            let address = entry.address.map_or("*".to_owned(), |address| address.to_string());
            json!({"name": entry.name.as_str(), "match": format!("{address}:{}", entry.ports),
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
    let warnings: Vec<Value> =
        policy.warnings.iter().map(|warning| located(&warning.at, &warning.message)).collect();
    json!({
        "schema": 1, "file": path.display().to_string(), "valid": true,
        "configuration": {
            "peer": peers, "inject": inject, "reach": reach,
            "control": {"socket": sockets(policy, environment)},
            "state": {"directory": environment.state_folder(Some(policy)).display().to_string()},
        },
        "warnings": warnings, "notes": notes(found).collect::<Vec<_>>(), "errors": [],
    })
}

fn invalid(path: &Path, error: &LoadError) -> Value {
    let errors: Vec<Value> = match error {
        LoadError::Unreadable { path, error } => {
            let message = format!("{error}{}", fix_of(path, error));
            vec![json!({"file": path, "line": null, "column": null, "message": message})]
        }
        LoadError::Invalid(errors) => {
            let of_error = |error: &ConfigError| located(&error.at, &error.problem.to_string());
            errors.iter().map(of_error).collect()
        }
    };
    json!({
        "schema": 1, "file": path.display().to_string(), "valid": false,
        "warnings": [], "notes": [], "errors": errors,
    })
}

fn located(at: &Position, message: &str) -> Value {
    json!({"file": at.file.display().to_string(), "line": at.line, "column": at.column, "message": message})
}
