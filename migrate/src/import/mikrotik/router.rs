//! What one router's export says, apart from its rules.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use policy::prefix::is_private;
use policy::{Source, prefix, text};

use super::lists::{AddressLists, InterfaceLists};
use super::ranges::{Family, Ranges, addresses};
use super::scripts;
use super::uplinks::{Uplink, uplinks};
use crate::import::draft::stem;
use crate::import::outcome::{FindingKind, ImportError, MAX_BYTES};
use crate::import::routeros::{self, Entry, Place, Stray, is_of_a_script, is_read, is_unknown};

pub(super) struct Router {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) links: Vec<Link>,
    pub(super) peers: Vec<LinkPeer>,
    /// Interfaces of the WAN.
    pub(super) wan: Vec<Uplink>,
    pub(super) own: Vec<Own>,
    pub(super) interface_lists: InterfaceLists,
    pub(super) address_lists: AddressLists,
    pub(super) entries: Vec<Entry>,
    pub(super) strays: Vec<Stray>,
    pub(super) settled: Vec<Vec<(FindingKind, String)>>,
    interfaces: BTreeMap<String, u128>,
    /// Interfaces that are switched off.
    pub(super) disabled: BTreeSet<u128>,
    /// Interfaces that are on top of another, as VRRP is: upper and lower.
    above: Vec<(u128, u128)>,
    /// Whether the export is the operator's, and not made up for a router that was not given.
    pub(super) is_given: bool,
}

/// A WireGuard interface.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) index: usize,
    pub(super) id: u128,
    pub(super) name: String,
    pub(super) listen_port: u16,
    pub(super) mtu: Option<u16>,
    /// Own addresses with the length of their network.
    pub(super) address: Vec<IpNetwork>,
    /// What `network=` names next to a single address: the other end.
    pub(super) others: Vec<IpNetwork>,
}

/// A peer of a WireGuard interface.
#[derive(Clone)]
pub(super) struct LinkPeer {
    pub(super) index: usize,
    pub(super) link: String,
    pub(super) name: Option<String>,
    pub(super) allowed: Vec<IpNetwork>,
    pub(super) endpoint: Option<String>,
    pub(super) keepalive: Option<u64>,
}

/// An own address.
pub(super) struct Own {
    pub(super) index: usize,
    pub(super) interface: u128,
    pub(super) address: IpNetwork,
}

impl Router {
    pub(super) fn read(source: &Source<'_>) -> Result<Self, ImportError> {
        let file = source.name.display().to_string();
        if source.text.len() > MAX_BYTES {
            return Err(ImportError::TooLarge { file, bytes: source.text.len() });
        }
        let (entries, strays) = routeros::read(source);
        if let Some(stray) = strays.iter().find(|stray| stray.hides_rules) {
            let at = format!("{file}:{}:{}", stray.at.line, stray.at.column);
            return Err(ImportError::RulesHidden { at, text: stray.text.clone() });
        }
        if let Some((entry, what)) = entries.iter().find_map(|entry| Some((entry, out_of_order(entry)?))) {
            let at = format!("{file}:{}:{}", entry.at.line, entry.at.column);
            return Err(ImportError::RulesHidden { at, text: what });
        }
        let interfaces = interfaces(&entries);
        let mut router = Self {
            file,
            name: stem(source.name),
            links: Vec::new(),
            peers: Vec::new(),
            wan: Vec::new(),
            own: Vec::new(),
            interface_lists: InterfaceLists::of(&entries, &interfaces),
            address_lists: AddressLists::of(&entries),
            settled: entries.iter().map(|_| Vec::new()).collect(),
            entries,
            strays,
            interfaces,
            disabled: BTreeSet::new(),
            above: Vec::new(),
            is_given: true,
        };
        router.disabled = router.disabled();
        router.own = router.own_addresses();
        router.above = router.above();
        router.links = router.links();
        router.peers = router.peers();
        router.wan = uplinks(&router);
        router.unknown_properties();
        scripts::settle(&mut router);
        Ok(router)
    }

    /// Reports the properties that are not known of commands that are read.
    fn unknown_properties(&mut self) {
        let mut found = Vec::new();
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| !entry.is_disabled()) {
            for value in entry.values().filter(|value| is_unknown(&entry.menu, &value.key)) {
                let Place { line, column } = value.at;
                let place = format!("{}:{line}:{column}", self.file);
                found.push((index, format!("the property {} ({place}) has no counterpart", value.key)));
            }
        }
        for (index, text) in found {
            let summary = self.entry(index).map(Entry::summary).unwrap_or_default();
            self.settle(index, FindingKind::NoCounterpart, format!("{text}: {summary}"));
        }
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn place(&self, index: usize) -> Place {
        self.entry(index).map(|entry| entry.at).unwrap_or_default()
    }

    /// The number of an interface of this name.
    pub(super) fn interface(&self, name: &str) -> Option<u128> {
        self.interfaces.get(name).copied()
    }

    pub(super) fn interface_name(&self, id: u128) -> &str {
        self.interfaces.iter().find(|(_, known)| **known == id).map_or("?", |(name, _)| name)
    }

    /// The commands of a menu that are in force, by their number.
    pub(super) fn of<'r>(&'r self, menu: &'r str) -> impl Iterator<Item = (usize, &'r Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(move |(_, entry)| entry.is(menu, "add") && !entry.is_disabled())
    }

    /// Interfaces that a command switches off, by the name that it gives them or had by default.
    fn disabled(&self) -> BTreeSet<u128> {
        let off =
            self.entries.iter().filter(|entry| entry.menu.starts_with("interface ") && entry.is_disabled());
        let default = |entry: &'_ Entry| {
            let (_, name) = entry.target.split_once("default-name=")?;
            self.interface(name.trim_matches('"'))
        };
        off.filter_map(|entry| {
            entry.value("name").map_or_else(|| default(entry), |name| self.interface(name))
        })
        .collect()
    }

    fn own_addresses(&self) -> Vec<Own> {
        let entries = self.of("ip address").chain(self.of("ipv6 address"));
        let own = entries.filter_map(|(index, entry)| {
            let interface = self.interface(entry.value("interface")?)?;
            // The export does not say which address it is.
            let is_computed =
                entry.value("from-pool").is_some() || matches!(entry.value("eui-64"), Some("yes"));
            if is_computed || self.disabled.contains(&interface) {
                return None;
            }
            Some(Own { index, interface, address: text::prefix(entry.value("address")?)? })
        });
        own.collect()
    }

    /// VRRP and MAC-VLAN interfaces receive what is sent on the one below.
    fn above(&self) -> Vec<(u128, u128)> {
        let entries = self.of("interface vrrp").chain(self.of("interface macvlan"));
        let pairs = entries.filter_map(|(_, entry)| {
            Some((self.interface(entry.value("name")?)?, self.interface(entry.value("interface")?)?))
        });
        pairs.collect()
    }

    fn links(&self) -> Vec<Link> {
        let link = |(index, entry): (usize, &Entry)| {
            let name = entry.value("name")?.to_owned();
            let id = self.interface(&name)?;
            let own: Vec<&Own> = self.own.iter().filter(|own| own.interface == id).collect();
            let others = own.iter().filter_map(|own| {
                let network = text::prefix(self.entry(own.index)?.value("network")?)?;
                (prefix::host(own.address).is_some() && network.ip() != own.address.ip()).then_some(network)
            });
            let (others, address) = (others.collect(), own.iter().map(|own| own.address).collect());
            let listen_port = entry.value("listen-port").and_then(text::port).unwrap_or(13_231);
            let mtu = entry.value("mtu").and_then(|mtu| mtu.parse().ok()).filter(|&mtu: &u16| mtu >= 576);
            Some(Link { index, id, name, listen_port, mtu, address, others })
        };
        self.of("interface wireguard").filter_map(link).collect()
    }

    fn peers(&self) -> Vec<LinkPeer> {
        let peer = |(index, entry): (usize, &Entry)| {
            let prefixes = entry.list("allowed-address").into_iter().filter_map(text::prefix);
            let mut allowed: Vec<IpNetwork> = prefixes.map(prefix::network).collect();
            allowed.sort_unstable();
            allowed.dedup();
            let host = entry.value("endpoint-address").filter(|host| text::host(host).is_some());
            let port = entry.value("endpoint-port").and_then(text::port);
            let endpoint = host.zip(port).map(|(host, port)| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            });
            // A responder never dials, whatever endpoint it knows.
            let endpoint = endpoint.filter(|_| !matches!(entry.value("responder"), Some("yes" | "true")));
            let endpoint = endpoint.filter(|_| !matches!(entry.value("is-responder"), Some("yes" | "true")));
            let name = entry.value("name").map(str::to_owned);
            let link = entry.value("interface")?.to_owned();
            let keepalive = entry.value("persistent-keepalive").and_then(seconds);
            Some(LinkPeer { index, link, name, allowed, endpoint, keepalive })
        };
        self.of("interface wireguard peers").filter_map(peer).collect()
    }

    /// The bridges.
    pub(super) fn bridges(&self) -> Ranges {
        let made = self.of("interface bridge").filter_map(|(_, entry)| self.interface(entry.value("name")?));
        Ranges::union_of(made.map(|id| (id, id)).collect())
    }

    /// Private networks of interfaces that are neither the WAN's nor tunnels; with the command that
    /// says so and the interface.
    pub(super) fn lan(&self) -> impl Iterator<Item = (&Own, IpNetwork)> {
        let inside = self.own.iter().filter(|own| self.is_inside(own.interface));
        let networks = inside.map(|own| (own, prefix::network(own.address)));
        networks.filter(|(_, network)| is_private(*network))
    }

    /// Whether an interface is neither the WAN's nor a tunnel.
    pub(super) fn is_inside(&self, id: u128) -> bool {
        self.wan.iter().all(|uplink| uplink.id != id) && !self.tunnels().contains(&id)
    }

    /// Interfaces that lead to other sites.
    pub(super) fn tunnels(&self) -> BTreeSet<u128> {
        const KINDS: [&str; 12] = [
            "wireguard",
            "gre",
            "gre6",
            "ipip",
            "ipipv6",
            "eoip",
            "eoipv6",
            "6to4",
            "zerotier",
            "ovpn-client",
            "l2tp-client",
            "vxlan",
        ];
        let is_kind = |menu: &str| menu.strip_prefix("interface ").is_some_and(|kind| KINDS.contains(&kind));
        let made = self.entries.iter().filter(|entry| entry.command == "add" && is_kind(&entry.menu));
        made.filter_map(|entry| self.interface(entry.value("name")?)).collect()
    }

    /// The networks whose hosts are reached by an interface.
    pub(super) fn direct_networks(&self, interface: u128, family: Family) -> Ranges {
        addresses(self.own.iter().filter(|own| own.interface == interface).map(|own| &own.address), family)
    }

    /// The networks whose packets may arrive by an interface.
    pub(super) fn networks(&self, interface: u128, family: Family) -> Ranges {
        let lower = self.above.iter().filter(|(upper, _)| *upper == interface).map(|(_, lower)| *lower);
        let on: Vec<u128> = lower.chain([interface]).collect();
        let own = self.own.iter().filter(|own| on.contains(&own.interface));
        addresses(own.map(|own| &own.address), family)
    }

    /// The router's own addresses.
    pub(super) fn own(&self, family: Family) -> Ranges {
        let hosts: Vec<IpNetwork> = self.own.iter().map(|own| IpNetwork::from(own.address.ip())).collect();
        addresses(&hosts, family)
    }

    /// Interfaces that have addresses of the family and are neither the WAN's nor tunnels.
    pub(super) fn inside(&self, family: Family) -> BTreeSet<u128> {
        let lan = self.lan().filter(|(own, _)| Family::of(own.address.is_ipv4()) == family);
        let direct: BTreeSet<u128> = lan.map(|(own, _)| own.interface).collect();
        let upper = self.above.iter().filter(|(_, lower)| direct.contains(lower)).map(|(upper, _)| *upper);
        direct.iter().copied().chain(upper).collect()
    }

    /// Whether a command refuses everything that no rule before it let pass.
    pub(super) fn is_last_drop(&self, index: usize) -> bool {
        let shown = ["action", "chain", "comment", "log", "log-prefix", "disabled"];
        self.entry(index).is_some_and(|entry| {
            entry.value("action") == Some("drop")
                && entry.values().all(|value| shown.contains(&value.key.as_str()))
        })
    }

    /// Records what a command became; a command may become several things.
    pub(super) fn settle(&mut self, index: usize, kind: FindingKind, text: impl Into<String>) {
        let text = text.into();
        if let Some(notes) = self.settled.get_mut(index)
            && !notes.contains(&(kind, text.clone()))
        {
            notes.push((kind, text));
        }
    }
}

/// A command that moves or changes what others made, which an export never holds.
fn out_of_order(entry: &Entry) -> Option<String> {
    let is_read = is_read(&entry.menu);
    let copies = || entry.values().find(|value| ["place-before", "copy-from"].contains(&value.key.as_str()));
    let what = match copies().filter(|_| is_read && entry.command == "add") {
        Some(value) => value.key.as_str(),
        None if is_of_a_script(&entry.menu, &entry.command, &entry.target) => entry.command.as_str(),
        None => return None,
    };
    Some(format!(
        "{what} in /{} changes the order or the rules, so this is a script and no export",
        entry.menu
    ))
}

/// Every interface that is named anywhere, numbered.
fn interfaces(entries: &[Entry]) -> BTreeMap<String, u128> {
    let mut names = BTreeSet::new();
    for entry in entries {
        let is_interface = entry.menu.starts_with("interface ") && &*entry.menu != "interface list";
        let keys = ["interface", "in-interface", "out-interface", "bridge", "in-bridge", "out-bridge"];
        let named = keys.iter().filter_map(|key| entry.value(key));
        let own = entry.value("name").filter(|_| is_interface);
        let all = named.chain(own).map(|name| name.trim_start_matches('!'));
        names.extend(all.map(str::to_owned));
    }
    (1..).zip(names).map(|(number, name)| (name, number)).collect()
}

/// `25`, `25s`, `1m30s` or `00:00:25`, as 1 to 65,535 seconds.
fn seconds(written: &str) -> Option<u64> {
    let mut total: u64 = 0;
    if written.contains(':') {
        for part in written.split(':') {
            total = total.checked_mul(60)?.checked_add(part.parse().ok()?)?;
        }
    } else {
        let mut rest = written;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, unit) = rest.split_at_checked(end)?;
            let scale = match unit.chars().next() {
                None | Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3_600,
                Some(_) => return None,
            };
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
            rest = unit.get(1..).unwrap_or_default();
        }
    }
    (1..=65_535).contains(&total).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_the_ways_routers_write_them() {
        for (written, expected) in [
            ("25", Some(25)),
            ("25s", Some(25)),
            ("1m", Some(60)),
            ("1m30s", Some(90)),
            ("00:00:25", Some(25)),
            ("1d", None),
            ("0s", None),
            ("", None),
        ] {
            assert_eq!(seconds(written), expected, "{written}");
        }
    }
}
