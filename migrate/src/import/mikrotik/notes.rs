//! What became of each command of both routers.

use std::collections::{BTreeMap, BTreeSet};

use super::router::Router;
use crate::import::outcome::{Finding, FindingKind};
use crate::import::routeros::Entry;

/// Notes about the commands of the edge's and the origin's router, made while both are only read.
#[derive(Default)]
pub(super) struct Notes {
    /// Verdicts by side, 0 the edge, and command.
    pub(super) verdicts: Vec<(usize, usize, FindingKind, String)>,
    /// What each command lets pass, by side.
    pub(super) passes: [BTreeMap<usize, BTreeSet<String>>; 2],
    /// What each command takes a part of, by side.
    pub(super) limits: [BTreeMap<usize, BTreeSet<String>>; 2],
    /// Whether something is masqueraded into the tunnel.
    pub(super) hides: bool,
}

/// The edge's side of [`Notes`].
pub(super) const EDGE: usize = 0;
/// The origin's side of [`Notes`].
pub(super) const ORIGIN: usize = 1;

impl Notes {
    pub(super) fn verdict(&mut self, side: usize, index: usize, kind: FindingKind, text: impl Into<String>) {
        self.verdicts.push((side, index, kind, text.into()));
    }

    pub(super) fn passing(&mut self, side: usize, indexes: &BTreeSet<usize>, what: &str) {
        if let Some(passes) = self.passes.get_mut(side) {
            for index in indexes {
                passes.entry(*index).or_default().insert(what.to_owned());
            }
        }
    }

    pub(super) fn limiting(&mut self, side: usize, indexes: &BTreeSet<usize>, what: &str) {
        if let Some(limits) = self.limits.get_mut(side) {
            for index in indexes {
                limits.entry(*index).or_default().insert(what.to_owned());
            }
        }
    }

    pub(super) fn passed(&self, side: usize, index: usize) -> Option<String> {
        self.passes.get(side)?.get(&index).map(joined)
    }

    pub(super) fn limited(&self, side: usize, index: usize) -> Option<String> {
        self.limits.get(side)?.get(&index).map(joined)
    }

    /// Moves the verdicts to the routers.
    pub(super) fn settle(self, edge: &mut Router, origin: &mut Router) {
        for (side, index, kind, text) in self.verdicts {
            let router = if side == EDGE { &mut *edge } else { &mut *origin };
            router.settle(index, kind, text);
        }
    }
}

/// At most four names.
fn joined(names: &BTreeSet<String>) -> String {
    let mut shown: Vec<&str> = names.iter().take(4).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(4));
    if names.len() > 4 {
        shown.push(&more);
    }
    shown.join(", ")
}

/// Lists of addresses that are longer than this are one finding.
const LONG_LIST: usize = 64;

impl Router {
    pub(super) fn finding(&self, line: u32, kind: FindingKind, text: impl Into<String>) -> Finding {
        Finding { at: Some((self.file.clone(), line)), column: None, kind, text: text.into() }
    }

    /// What became of every command, in the order of the export; a menu that has nothing to do with
    /// tunnels is one line.
    pub(super) fn ledger(&self) -> Vec<Finding> {
        if !self.is_given {
            return lost(self);
        }
        let mut findings = Vec::new();
        let mut quiet: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
        for (entry, notes) in self.entries.iter().zip(&self.settled) {
            if notes.is_empty() && !entry.is_disabled() && !concerns_traffic(entry) {
                let (_, count) = quiet.entry(&entry.menu).or_insert((entry.at.line, 0));
                *count += 1;
            }
            for (kind, text) in notes {
                findings.push(self.finding(entry.at.line, *kind, text.clone()));
            }
            if notes.is_empty() && entry.is_disabled() {
                let text = format!("disabled, so left out: {}", entry.summary());
                findings.push(self.finding(entry.at.line, FindingKind::Stays, text));
            } else if notes.is_empty() && concerns_traffic(entry) {
                findings.push(self.finding(entry.at.line, FindingKind::NoCounterpart, entry.summary()));
            }
        }
        for (menu, (line, count)) in quiet {
            let text = format!("/{menu}: {count} commands, the first of them here");
            findings.push(self.finding(line, FindingKind::Stays, text));
        }
        for stray in &self.strays {
            findings.push(self.finding(stray.at.line, FindingKind::NoCounterpart, stray.text.clone()));
        }
        findings.sort_by_key(|finding| finding.at.as_ref().map(|(_, line)| *line));
        findings
    }

    /// Says of each list of addresses where it is used: line by line for a short one.
    pub(super) fn settle_lists(&mut self, used_by: impl Fn(&str) -> Option<String>) {
        for menu in ["ip firewall address-list", "ipv6 firewall address-list"] {
            let mut lists: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (index, entry) in self.of(menu) {
                lists.entry(entry.value("list").unwrap_or_default().to_owned()).or_default().push(index);
            }
            for (list, indexes) in lists {
                let (kind, text) = match used_by(&list) {
                    Some(text) => (FindingKind::Carried, text),
                    None => (FindingKind::Stays, format!("list {list:?} is used by nothing that is carried")),
                };
                let count = indexes.len();
                let is_long = count > LONG_LIST;
                for index in indexes.into_iter().take(if is_long { 1 } else { LONG_LIST }) {
                    let more = if is_long { format!("; so are all {count} of it") } else { String::new() };
                    self.settle(index, kind, format!("{text}{more}"));
                }
            }
        }
    }
}

/// What is not carried of a router that was made up, whose lines the operator does not have.
fn lost(router: &Router) -> Vec<Finding> {
    let notes = router.settled.iter().flatten();
    let lost = notes.filter(|(kind, _)| matches!(kind, FindingKind::NoCounterpart | FindingKind::Assumed));
    let finding = |(kind, text): &(FindingKind, String)| Finding {
        at: None,
        column: None,
        kind: *kind,
        text: format!("{}: {text}", router.file),
    };
    lost.map(finding).collect()
}

/// Menus whose every command must be accounted for.
fn concerns_traffic(entry: &Entry) -> bool {
    const MENUS: [&str; 12] = [
        "ip firewall",
        "ipv6 firewall",
        "ip route",
        "ipv6 route",
        "routing rule",
        "routing table",
        "interface wireguard",
        "interface bridge filter",
        "interface bridge nat",
        "interface ethernet switch rule",
        "ip ipsec policy",
        "ip vrf",
    ];
    let is_list = entry.menu.ends_with("firewall address-list");
    MENUS.iter().any(|menu| entry.menu.starts_with(menu)) && entry.command != "set" && !is_list
}
