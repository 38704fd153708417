//! Lists of interfaces and of addresses.

use std::collections::{BTreeMap, BTreeSet};

use policy::text;

use super::ranges::{Family, Ranges, bounds, number};
use crate::import::routeros::Entry;

/// The members of each list of interfaces.
pub(super) struct InterfaceLists(BTreeMap<String, Ranges>);

impl InterfaceLists {
    pub(super) fn of(entries: &[Entry], interfaces: &BTreeMap<String, u128>) -> Self {
        let in_force = || entries.iter().filter(|entry| entry.command == "add" && !entry.is_disabled());
        let mut direct: BTreeMap<String, Ranges> = BTreeMap::new();
        for entry in in_force().filter(|entry| &*entry.menu == "interface list member") {
            let (Some(list), Some(member)) = (entry.value("list"), entry.value("interface")) else {
                continue;
            };
            let members = direct.entry(list.to_owned()).or_default();
            *members = interfaces.get(member).map_or(Ranges::empty(), |id| Ranges::one(*id)).or(members);
        }
        let mut all = direct.clone();
        // A list may include others, which may do the same: a few rounds settle every export.
        for _ in 0..4 {
            for entry in in_force().filter(|entry| &*entry.menu == "interface list") {
                let Some(name) = entry.value("name") else { continue };
                let joined = |key: &str, from: &BTreeMap<String, Ranges>| {
                    let known = entry.list(key).into_iter().map(|list| Self::resolve(from, list));
                    known.fold(Ranges::empty(), |all, list| all.or(&list.unwrap_or_default()))
                };
                let own = direct.get(name).cloned().unwrap_or_default().or(&joined("include", &all));
                let members = own.minus(&joined("exclude", &all));
                all.insert(name.to_owned(), members);
            }
        }
        Self(all)
    }

    fn resolve(lists: &BTreeMap<String, Ranges>, name: &str) -> Option<Ranges> {
        match name {
            "all" => Some(Ranges::all()),
            "none" => Some(Ranges::empty()),
            _ => lists.get(name).cloned(),
        }
    }

    /// The members of a list; `None` for one whose members the export does not say.
    pub(super) fn members(&self, name: &str) -> Option<Ranges> {
        Self::resolve(&self.0, name)
    }
}

/// The addresses of one list.
#[derive(Default)]
pub(super) struct AddressList {
    pub(super) addresses: Ranges,
    /// Why it may hold more than the export says.
    pub(super) open: Option<&'static str>,
}

/// The ranges of a list, and why it may hold more.
type Held = (Vec<(u128, u128)>, Option<&'static str>);

/// The lists of addresses of both families.
pub(super) struct AddressLists(BTreeMap<(Family, String), AddressList>);

impl AddressLists {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut ranges: BTreeMap<(Family, String), Held> = BTreeMap::new();
        let filled = filled_at_run_time(entries);
        for (entry, family) in entries.iter().filter_map(|entry| Some((entry, family(entry)?))) {
            let Some(name) = entry.value("list") else { continue };
            let list = ranges.entry((family, name.to_owned())).or_default();
            match entry.value("address").and_then(|address| range(address, family)) {
                Some(range) if entry.value("timeout").is_none() => list.0.push(range),
                Some(_) => list.1 = Some("has addresses with a timeout"),
                None => list.1 = Some("has names, whose addresses change"),
            }
        }
        for (family, name) in
            Family::BOTH.into_iter().flat_map(|family| filled.iter().map(move |n| (family, n)))
        {
            ranges.entry((family, name.clone())).or_default().1 = Some("is filled while the router runs");
        }
        let list = |(ranges, open): Held| AddressList { addresses: Ranges::union_of(ranges), open };
        Self(ranges.into_iter().map(|(key, value)| (key, list(value))).collect())
    }

    /// `None` for a list that has nothing in this export.
    pub(super) fn get(&self, family: Family, name: &str) -> Option<&AddressList> {
        self.0.get(&(family, name.to_owned()))
    }

    /// The name of a list that holds exactly these addresses.
    pub(super) fn named(&self, family: Family, addresses: &Ranges) -> Option<&str> {
        let same = |(key, list): &(&(Family, String), &AddressList)| {
            key.0 == family && list.addresses == *addresses && list.open.is_none()
        };
        self.0.iter().find(same).map(|(key, _)| key.1.as_str())
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
