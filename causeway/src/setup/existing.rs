//! A configuration that is there already, compared with what would be proposed now: pure.

use std::fmt;

use ipnetwork::IpNetwork;
use policy::gateway::{Accept, Answers, Policy};
use policy::prefix::covers;
use policy::{Host, Protocol};

use super::proposal::Settings;

/// The value of a key that a file does not have.
const NOT_THERE: &str = "not there";

/// A value that is not what would be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The key.
    key: &'static str,
    /// What the file says.
    file: String,
    /// What would be written now.
    proposed: String,
    /// Whether the operator answered it, so that it comes from no change of the machine.
    pub(super) is_answered: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, file, proposed, is_answered } = self;
        let who = if *is_answered { "the answer is" } else { "on this machine it would be" };
        write!(f, "{key} is {file}, and {who} {proposed}")
    }
}

/// The answers, with what the file has decided in place of what was not answered.
pub(super) fn answers(policy: &Policy, answers: &Answers) -> Answers {
    Answers {
        address: answers.address.clone().or_else(|| Some(policy.interface.address.clone())),
        listen_port: answers.listen_port.or(Some(policy.interface.listen_port)),
        name: answers.name.clone().or_else(|| policy.wan.name.clone()),
        accept: answers.accept.clone(),
        lan: answers.lan.clone(),
        lan_interfaces: answers.lan_interfaces.clone(),
    }
}

/// Where the file is not as the answers say, or lacks what the machine has.
pub(super) fn differences(policy: &Policy, answers: &Answers, settings: &Settings) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut answered = |key, file: String, proposed: Option<String>| {
        let differs = proposed.filter(|proposed| *proposed != file);
        found.extend(differs.map(|proposed| Difference { key, file, proposed, is_answered: true }));
    };
    let own = &policy.interface;
    answered("[interface] address", list(&own.address), answers.address.as_deref().map(list));
    answered(
        "[interface] listen_port",
        own.listen_port.to_string(),
        answers.listen_port.map(|port| port.to_string()),
    );
    let name = |name: &Host| format!("\"{name}\"");
    let file = policy.wan.name.as_ref().map_or_else(|| NOT_THERE.to_owned(), name);
    answered("[wan] name", file, answers.name.as_ref().map(name));
    answered("[wan] accept", list(&policy.wan.accept), answers.accept.as_deref().map(list));
    answered("[lan] prefixes", list(&policy.lan), answers.lan.as_deref().map(list));
    answered("[lan] interfaces", list(&policy.lan_interfaces), answers.lan_interfaces.as_deref().map(list));
    found.extend(unnamed(policy, answers, settings));
    found.extend(accept(policy, answers, settings));
    found.extend(lan(policy, answers, settings));
    found
}

/// A public name that the machine has and the file does not.
fn unnamed(policy: &Policy, answers: &Answers, settings: &Settings) -> Option<Difference> {
    let name = settings.name.as_ref().filter(|_| policy.wan.name.is_none() && answers.name.is_none())?;
    Some(Difference {
        key: "[wan] name",
        file: NOT_THERE.to_owned(),
        proposed: format!("\"{name}\""),
        is_answered: false,
    })
}

/// Ports by which the operator comes and that the file closes.
fn accept(policy: &Policy, answers: &Answers, settings: &Settings) -> Option<Difference> {
    let is_open =
        |accept: &Accept| {
            policy.wan.accept.iter().any(|open| {
                open.protocols.contains(Protocol::Tcp) && open.ports.contains(accept.ports.first())
            })
        };
    let lacks = answers.accept.is_none() && !settings.accept.iter().all(is_open);
    lacks.then(|| Difference {
        key: "[wan] accept",
        file: list(&policy.wan.accept),
        proposed: list(&settings.accept),
        is_answered: false,
    })
}

/// Networks of the machine that the file does not name.
fn lan(policy: &Policy, answers: &Answers, settings: &Settings) -> Option<Difference> {
    let is_known = |found: &IpNetwork| policy.lan.iter().any(|lan| covers(*lan, *found));
    let lacks = answers.lan.is_none() && !settings.lan.prefixes.iter().all(is_known);
    lacks.then(|| Difference {
        key: "[lan] prefixes",
        file: list(&policy.lan),
        proposed: list(&settings.lan.prefixes),
        is_answered: false,
    })
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}
