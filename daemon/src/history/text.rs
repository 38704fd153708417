//! Records for people.

use std::fmt::Write as _;

use super::record::{UPGRADE, What};
use crate::text::bytes;

/// What happened, in one line.
#[must_use]
pub fn line(what: &What) -> String {
    match what {
        What::Started { version, failed: None } => format!("the daemon started (version {version})"),
        What::Started { version, failed: Some(failed) } => {
            format!("the daemon started (version {version} again, since version {failed} failed)")
        }
        What::Stopping { notice: Some(notice) } if notice == UPGRADE => {
            "the daemon was upgraded in place: a new process goes on, and open flows with it".to_owned()
        }
        What::Stopping { notice: Some(notice) } => format!("the daemon was stopped; announced: {notice}"),
        What::Stopping { notice: None } => "the daemon was stopped".to_owned(),
        What::Service { .. } => service(what),
        What::Visitor { service, name, state, reason } => {
            format!("the path of {name} ({service}) from the internet is {state}{}", in_brackets(reason))
        }
        What::Peer { peer, from, to } => format!("the tunnel with {peer} is {to} (before: {from})"),
        What::Link { peer, up: true, .. } => format!("the link with {peer} is up"),
        What::Link { peer, up: false, reason } => {
            format!("the link with {peer} is down{}", in_brackets(reason))
        }
        What::Roamed { peer } => format!("{peer} has another endpoint"),
        What::Notice { peer, notice } => format!("{peer} announced: {notice}"),
        What::Applied { how, changes, .. } => applied(how, *changes),
        What::Repaired { what } if what.is_empty() => "something was put back into the kernel".to_owned(),
        What::Repaired { what } => format!("put back into the kernel: {what}"),
        What::Stack { stack, what } if what.is_empty() => format!("stack {stack} was changed"),
        What::Stack { stack, what } => format!("stack {stack}: {what}"),
        What::Steered { name, edge, present: true } => format!("{name} leads to {edge} again"),
        What::Steered { name, edge, present: false } => {
            format!("{name} no longer leads to {edge}, which is silent")
        }
        What::Minute { peer, round_trip_ms, loss, received, sent } => {
            let round_trip = round_trip_ms.map_or_else(|| "no reply".to_owned(), |ms| format!("{ms:.1} ms"));
            let (received, sent) = (bytes(*received), bytes(*sent));
            format!("{peer}: {round_trip}, {:.0} % lost, {received} received, {sent} sent", loss * 100.0)
        }
        What::Unknown => "something that this version does not know".to_owned(),
    }
}

fn service(what: &What) -> String {
    let What::Service { service, name, state, hop, reason, evidence, .. } = what else {
        return String::new();
    };
    let mut text = match name {
        Some(name) => format!("{name} ({service})"),
        None => format!("service {service}"),
    };
    // Writing to a String cannot fail.
    let _ = match hop {
        Some(hop) => write!(text, ": {} is {state}", hop.replace('_', " ")),
        None => write!(text, " is {state}"),
    };
    text += &in_brackets(reason);
    if let Some(evidence) = evidence {
        // It may be the other end's words: they are quoted.
        let _ = write!(text, ": {evidence:?}");
    }
    text
}

/// How to fix it, where that is known here.
#[must_use]
pub fn fix(what: &What) -> Option<&str> {
    match what {
        What::Service { fix, .. } => fix.as_deref(),
        _ => None,
    }
}

fn applied(how: &str, changes: u32) -> String {
    let differences = if changes == 1 { "1 change".to_owned() } else { format!("{changes} changes") };
    match how {
        "confirm" => "the change of the configuration was confirmed".to_owned(),
        "rollback" => format!("the configuration was rolled back ({differences})"),
        "grant" => format!("what peers publish by themselves has changed ({differences})"),
        "reload" => format!("the configuration was read again ({differences})"),
        _ => format!("a configuration was applied ({differences})"),
    }
}

fn in_brackets(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_a_sentence_and_the_other_ends_words_are_quoted() {
        let some = |text: &str| Some(text.to_owned());
        let what = What::Service {
            service: "https".to_owned(),
            name: None,
            state: "failing".to_owned(),
            hop: some("service_entry"),
            reason: some("no_entry"),
            evidence: some("say \"no\""),
            peer: None,
            fix: some("add it"),
        };
        let cases = [
            (what, r#"service https: service entry is failing (no_entry): "say \"no\"""#),
            (
                What::Applied { how: "apply".to_owned(), changes: 1, summary: Vec::new() },
                "a configuration was applied (1 change)",
            ),
            (
                What::Started { version: "0.1.0".to_owned(), failed: some("0.2.0") },
                "the daemon started (version 0.1.0 again, since version 0.2.0 failed)",
            ),
            (
                What::Peer { peer: "kyiv".to_owned(), from: "up".to_owned(), to: "stale".to_owned() },
                "the tunnel with kyiv is stale (before: up)",
            ),
            (
                What::Minute {
                    peer: "kyiv".to_owned(),
                    round_trip_ms: Some(21.25),
                    loss: 0.1,
                    received: 2_048,
                    sent: 0,
                },
                "kyiv: 21.2 ms, 10 % lost, 2.00 KiB received, 0 B sent",
            ),
        ];
        for (what, expected) in cases {
            assert_eq!(line(&what), expected);
        }
    }
}
