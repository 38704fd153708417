//! Scripts that a router holds: what they may change while it runs.

use std::collections::BTreeSet;

use super::router::Router;
use crate::import::outcome::FindingKind::NoCounterpart;
use crate::import::routeros::{Entry, Value};

/// Properties that are text for people.
const TEXTS: [&str; 4] = ["comment", "note", "name", "log-prefix"];

/// Parts of the router's configuration that decide what passes.
const PARTS: [&str; 9] = [
    "firewall",
    "interface disable",
    "interface enable",
    "interface list",
    "interface set",
    "interface wireguard",
    "ip route",
    "ip settings",
    "routing rule",
];

/// Commands that change something.
const CHANGES: [&str; 7] = ["add", "set", "remove", "enable", "disable", "move", "unset"];

/// The text of a property as words of commands, when it is a script that names a part of the
/// router that is read.
fn script(entry: &Entry, value: &Value) -> Option<String> {
    if entry.menu.contains("firewall") || TEXTS.contains(&value.key.as_str()) {
        return None;
    }
    let text = value.text.to_ascii_lowercase().replace('/', " ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = PARTS.iter().any(|part| text.contains(part));
    (names && text.contains(' ')).then_some(text)
}

fn scripts(entries: &[Entry]) -> impl Iterator<Item = (usize, String)> {
    let of = |(index, entry): (usize, &Entry)| -> Vec<(usize, String)> {
        let in_force = entry.values().filter(|_| !entry.is_disabled());
        in_force.filter_map(|value| Some((index, script(entry, value)?))).collect()
    };
    entries.iter().enumerate().flat_map(of)
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|other| other == word)
}

/// The lists of addresses that scripts name, and whether one computes a name.
pub(super) fn filled_lists(entries: &[Entry]) -> (BTreeSet<String>, bool) {
    let with_lists: Vec<&Entry> = scripts(entries)
        .filter(|(_, text)| text.contains("address-list"))
        .filter_map(|(index, _)| entries.get(index))
        .collect();
    let mut names = BTreeSet::new();
    let mut is_any = false;
    for text in with_lists.iter().flat_map(|entry| entry.values()).map(|value| &value.text) {
        for rest in text.split("list=").skip(1) {
            let rest = rest.trim_start_matches(['"', '\\']);
            let end = rest.find(|c: char| c.is_whitespace() || "\";]\\)}".contains(c)).unwrap_or(rest.len());
            match rest.get(..end) {
                Some(name) if !name.is_empty() && !name.starts_with(['$', '(', '[']) => {
                    names.insert(name.to_owned());
                }
                _ => is_any = true,
            }
        }
    }
    (names, is_any)
}

/// The first script that changes rules or lists of interfaces.
pub(super) fn changes_rules(router: &Router) -> Option<usize> {
    let decides = |text: &str| {
        let tables = ["filter", "nat", "raw", "mangle"];
        text.contains("interface list")
            || text.contains("firewall") && tables.iter().any(|one| has_word(text, one))
    };
    let changes = |text: &str| CHANGES.iter().any(|word| has_word(text, word));
    scripts(&router.entries).find(|(_, text)| decides(text) && changes(text)).map(|(index, _)| index)
}

/// Reports each script that names a part of the router that is read.
pub(super) fn settle(router: &mut Router) {
    let found: BTreeSet<usize> = scripts(&router.entries).map(|(index, _)| index).collect();
    for index in found {
        let entry = router.entry(index);
        // Its text may hold secrets.
        let name = entry.and_then(|entry| entry.value("name").or_else(|| entry.value("interface")));
        let menu = entry.map(|entry| entry.menu.to_string()).unwrap_or_default();
        let text = "a script that may change rules, lists, routes or the tunnel while the router runs; what it does is \
                    not carried";
        router.settle(index, NoCounterpart, format!("{text}: /{menu} {}", name.unwrap_or_default()));
    }
}
