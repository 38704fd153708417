//! Lists of interfaces and of addresses.

use std::collections::{BTreeMap, BTreeSet};

use policy::text;

use super::ranges::{Family, Ranges, bounds, number};
use super::scripts;
use crate::import::routeros::{Entry, is_unknown};

/// The members of each list of interfaces.
pub(super) struct InterfaceLists(BTreeMap<String, Held<Ranges>>);

/// What a list holds.
#[derive(Clone, Default)]
pub(super) struct Held<T> {
    pub(super) known: T,
    /// Why it may hold more than the export says.
    pub(super) open: Option<&'static str>,
}

impl InterfaceLists {
    pub(super) fn of(entries: &[Entry], interfaces: &BTreeMap<String, u128>) -> Self {
        let in_force = || entries.iter().filter(|entry| entry.command == "add" && !entry.is_disabled());
        let mut direct: BTreeMap<String, Held<Ranges>> = BTreeMap::new();
        for entry in in_force().filter(|entry| &*entry.menu == "interface list member") {
            let (Some(list), Some(member)) = (entry.value("list"), entry.value("interface")) else {
                continue;
            };
            let members = direct.entry(list.to_owned()).or_default();
            let one = interfaces.get(member).map_or(Ranges::empty(), |id| Ranges::one(*id));
            members.known = one.or(&members.known);
        }
        for name in filled_lists(entries) {
            direct.entry(name.to_owned()).or_default().open = Some("is filled while the router runs");
        }
        let mut all = direct.clone();
        // A list may include others, which may do the same: a few rounds settle every export.
        for _ in 0..4 {
            for entry in in_force().filter(|entry| &*entry.menu == "interface list") {
                let Some(name) = entry.value("name") else { continue };
                let mut held = direct.get(name).cloned().unwrap_or_default();
                for list in entry.list("include") {
                    let other = Self::resolve(&all, list);
                    held.known = held.known.or(&other.known);
                    held.open = held.open.or(other.open);
                }
                for list in entry.list("exclude") {
                    let other = Self::resolve(&all, list);
                    // What may be excluded is no sure member.
                    held.known =
                        if other.open.is_some() { Ranges::empty() } else { held.known.minus(&other.known) };
                    held.open = held.open.or(other.open);
                }
                if held.open.is_none() && held.known.is_empty() {
                    held.open = Some("has no member in this export, so something else may fill it");
                }
                all.insert(name.to_owned(), held);
            }
        }
        Self(all)
    }

    fn resolve(lists: &BTreeMap<String, Held<Ranges>>, name: &str) -> Held<Ranges> {
        match name {
            "all" => Held { known: Ranges::all(), open: None },
            "none" => Held::default(),
            _ => lists.get(name).cloned().unwrap_or_else(|| Held {
                known: Ranges::empty(),
                open: Some("has no members in this export"),
            }),
        }
    }

    /// The members of a list, and why it may have more.
    pub(super) fn get(&self, name: &str) -> Held<Ranges> {
        Self::resolve(&self.0, name)
    }

    /// Whether an interface is certainly a member of a list.
    pub(super) fn has(&self, name: &str, id: u128) -> bool {
        self.get(name).known.contains(id)
    }
}

/// Lists of interfaces that a service of the router adds to.
fn filled_lists(entries: &[Entry]) -> impl Iterator<Item = &str> {
    const KEYS: [&str; 4] =
        ["interface-list", "wan-interface-list", "lan-interface-list", "internet-interface-list"];
    let fills = |entry: &&Entry| {
        !entry.is_disabled()
            && (&*entry.menu == "interface detect-internet"
                || ["ppp", "caps-man", "interface wifi", "interface ovpn"]
                    .iter()
                    .any(|start| entry.menu.starts_with(start)))
    };
    let named = entries.iter().filter(fills).flat_map(|entry| KEYS.map(|key| entry.value(key)));
    named.flatten().filter(|name| !["all", "none"].contains(name))
}

/// First and last addresses of ranges in any order.
type Pairs = Vec<(u128, u128)>;

/// The lists of addresses of both families.
pub(super) struct AddressLists {
    lists: BTreeMap<(Family, String), Held<Ranges>>,
    /// Whether a script adds to lists whose names it computes.
    is_any_filled: bool,
}

impl AddressLists {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut ranges: BTreeMap<(Family, String), Held<Pairs>> = BTreeMap::new();
        for (entry, family) in entries.iter().filter_map(|entry| Some((entry, family(entry)?))) {
            let Some(name) = entry.value("list") else { continue };
            let list = ranges.entry((family, name.to_owned())).or_default();
            let is_unknown = entry.values().any(|value| is_unknown(&entry.menu, &value.key));
            match entry.value("address").and_then(|address| range(address, family)) {
                Some(_) if is_unknown => list.open = Some("has a property that is not known here"),
                Some(range) if entry.value("timeout").is_none() => list.known.push(range),
                Some(_) => list.open = Some("has addresses with a timeout"),
                None => list.open = Some("has names, whose addresses change"),
            }
        }
        let (by_scripts, is_any_filled) = scripts::filled_lists(entries);
        let filled = filled_at_run_time(entries);
        let both = |name: &String| Family::BOTH.map(|family| (family, name.clone()));
        for key in filled.iter().flat_map(both) {
            ranges.entry(key).or_default().open = Some("is filled while the router runs");
        }
        for key in by_scripts.iter().flat_map(both) {
            ranges.entry(key).or_default().open = Some("is named by a script, which may fill it");
        }
        let list = |held: Held<Pairs>| Held { known: Ranges::union_of(held.known), open: held.open };
        let lists = ranges.into_iter().map(|(key, value)| (key, list(value))).collect();
        Self { lists, is_any_filled }
    }

    /// The addresses of a list, and why it may have more.
    pub(super) fn get(&self, family: Family, name: &str) -> Held<Ranges> {
        let held = self.lists.get(&(family, name.to_owned())).cloned();
        // What bouncers and scripts add is in no export.
        let nothing = Some("has no entry in this export, so something else may fill it");
        let mut held = held.unwrap_or(Held { known: Ranges::empty(), open: nothing });
        if self.is_any_filled && held.open.is_none() {
            held.open = Some("may be filled by a script, which computes the name of its list");
        }
        held
    }

    /// The name of a list that holds exactly these addresses.
    pub(super) fn named(&self, family: Family, addresses: &Ranges) -> Option<&str> {
        let same = |(key, list): &(&(Family, String), &Held<Ranges>)| {
            key.0 == family && list.known == *addresses && list.open.is_none() && !self.is_any_filled
        };
        self.lists.iter().find(same).map(|(key, _)| key.1.as_str())
    }
}

/// The family of a list's entry that is in force.
fn family(entry: &Entry) -> Option<Family> {
    let family = match &*entry.menu {
        "ip firewall address-list" => Family::V4,
        "ipv6 firewall address-list" => Family::V6,
        _ => return None,
    };
    (entry.command == "add" && !entry.is_disabled()).then_some(family)
}

/// Lists that rules, leases, secrets or DNS entries add to.
fn filled_at_run_time(entries: &[Entry]) -> BTreeSet<String> {
    let elsewhere = entries.iter().filter(|entry| !entry.is_disabled());
    let named = elsewhere.flat_map(|entry| ["address-list", "address-lists"].map(|key| entry.list(key)));
    named.flatten().map(str::to_owned).collect()
}

/// `10.0.0.0/8`, `10.0.0.1`, or `10.0.0.1-10.0.0.9`.
pub(super) fn range(written: &str, of: Family) -> Option<(u128, u128)> {
    if let Some(prefix) = text::prefix(written) {
        return bounds(prefix, of);
    }
    let (first, last) = written.split_once('-')?;
    let (first, last) = (number(text::address(first.trim())?), number(text::address(last.trim())?));
    (first.0 == of && last.0 == of && first.1 <= last.1).then_some((first.1, last.1))
}
