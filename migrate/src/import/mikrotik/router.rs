//! What one router's export says, apart from its rules, and what became of each of its commands.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use policy::prefix::is_private;
use policy::{Source, prefix, text};

use crate::import::draft::stem;
use crate::import::outcome::{Finding, FindingKind, ImportError, MAX_BYTES};
use crate::import::routeros::{self, Entry, Stray};

pub(super) struct Router {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) links: Vec<Link>,
    pub(super) peers: Vec<LinkPeer>,
    /// Interfaces of the WAN.
    pub(super) wan: BTreeSet<String>,
    entries: Vec<Entry>,
    strays: Vec<Stray>,
    settled: Vec<Vec<(FindingKind, String)>>,
}

/// A WireGuard interface.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) listen_port: u16,
    pub(super) mtu: Option<u16>,
    /// Own addresses with the length of their network.
    pub(super) address: Vec<IpNetwork>,
}

/// A peer of a WireGuard interface.
#[derive(Clone)]
pub(super) struct LinkPeer {
    pub(super) index: usize,
    pub(super) link: String,
    pub(super) name: String,
    pub(super) allowed: Vec<IpNetwork>,
    pub(super) endpoint: Option<String>,
    pub(super) keepalive: Option<u64>,
}

/// Where an interface name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Tunnel,
    OtherTunnel,
    Wan,
    Lan,
}

impl Router {
    pub(super) fn read(source: &Source<'_>) -> Result<Self, ImportError> {
        let file = source.name.display().to_string();
        if source.text.len() > MAX_BYTES {
            return Err(ImportError::TooLarge { file, bytes: source.text.len() });
        }
        let (entries, strays) = routeros::read(source);
        let settled = entries.iter().map(|_| Vec::new()).collect();
        let (name, wan) = (stem(source.name), wan(&entries));
        let mut router =
            Self { file, name, links: Vec::new(), peers: Vec::new(), wan, entries, strays, settled };
        router.links = router.links();
        router.peers = router.peers();
        Ok(router)
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The commands of a menu that are in force, by their number.
    pub(super) fn of<'r>(&'r self, menu: &'r str) -> impl Iterator<Item = (usize, &'r Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(move |(_, entry)| entry.is(menu, "add") && !entry.is_disabled())
    }

    fn links(&self) -> Vec<Link> {
        let link = |(index, entry): (usize, &Entry)| {
            let name = entry.value("name")?.to_owned();
            let on_it = |address: &Entry| address.value("interface") == Some(&name);
            let addresses = self.of("ip address").chain(self.of("ipv6 address"));
            let own = addresses.filter(|(_, entry)| on_it(entry)).map(|(_, entry)| entry);
            let address = own.filter_map(|entry| text::prefix(entry.value("address")?)).collect();
            let listen_port = entry.value("listen-port").and_then(text::port).unwrap_or(13_231);
            let mtu = entry.value("mtu").and_then(|mtu| mtu.parse().ok()).filter(|&mtu: &u16| mtu >= 576);
            Some(Link { index, name, listen_port, mtu, address })
        };
        self.of("interface wireguard").filter_map(link).collect()
    }

    fn peers(&self) -> Vec<LinkPeer> {
        let peer = |(index, entry): (usize, &Entry)| {
            let mut allowed: Vec<IpNetwork> = entry
                .list("allowed-address")
                .into_iter()
                .filter_map(text::prefix)
                .map(prefix::network)
                .collect();
            allowed.sort_unstable();
            allowed.dedup();
            let host = entry.value("endpoint-address").filter(|host| text::host(host).is_some());
            let port = entry.value("endpoint-port").and_then(text::port);
            let endpoint = host.zip(port).map(|(host, port)| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            });
            let name = entry.value("name").or_else(|| entry.value("comment")).unwrap_or("peer").to_owned();
            let link = entry.value("interface")?.to_owned();
            let keepalive = entry.value("persistent-keepalive").and_then(seconds);
            Some(LinkPeer { index, link, name, allowed, endpoint, keepalive })
        };
        self.of("interface wireguard peers").filter_map(peer).collect()
    }

    /// Networks of interfaces that are neither WAN nor WireGuard, IPv4 ones that are private and
    /// IPv6 ones that are unique-local; with the command that says so.
    pub(super) fn lan(&self) -> Vec<(usize, IpNetwork)> {
        let local = |interface: &str| {
            !self.wan.contains(interface) && self.links.iter().all(|link| link.name != interface)
        };
        let addresses = self.of("ip address").chain(self.of("ipv6 address"));
        let inside = addresses.filter(|(_, entry)| entry.value("interface").is_some_and(local));
        let networks = inside.filter_map(|(index, entry)| {
            Some((index, prefix::network(text::prefix(entry.value("address")?)?)))
        });
        networks.filter(|(_, network)| is_private(*network)).collect()
    }

    /// Where an interface or an interface list leads; `None` when its members lead to different
    /// sides.
    pub(super) fn side(&self, tunnel: &Link, name: &str, is_list: bool) -> Option<Side> {
        if !is_list {
            return Some(self.side_of_one(tunnel, name));
        }
        let members = self.of("interface list member").filter(|(_, entry)| entry.value("list") == Some(name));
        let mut sides =
            members.filter_map(|(_, entry)| Some(self.side_of_one(tunnel, entry.value("interface")?)));
        let first = sides.next().or_else(|| (name == "WAN").then_some(Side::Wan))?;
        sides.all(|side| side == first).then_some(first)
    }

    fn side_of_one(&self, tunnel: &Link, name: &str) -> Side {
        if name == tunnel.name {
            Side::Tunnel
        } else if self.links.iter().any(|link| link.name == name) {
            Side::OtherTunnel
        } else if self.wan.contains(name) {
            Side::Wan
        } else {
            Side::Lan
        }
    }

    /// The prefixes of an address list, and whether something in it is not a prefix.
    pub(super) fn address_list(&self, name: &str) -> (Vec<IpNetwork>, bool) {
        let entries = self.of("ip firewall address-list").chain(self.of("ipv6 firewall address-list"));
        let (mut prefixes, mut unreadable) = (BTreeSet::new(), false);
        for (_, entry) in entries.filter(|(_, entry)| entry.value("list") == Some(name)) {
            match entry.value("address").and_then(text::prefix) {
                Some(prefix) => drop(prefixes.insert(prefix::network(prefix))),
                None => unreadable = true,
            }
        }
        (prefixes.into_iter().collect(), unreadable)
    }

    /// Records what a command became; a command may become several things.
    pub(super) fn settle(&mut self, index: usize, kind: FindingKind, text: String) {
        if let Some(notes) = self.settled.get_mut(index) {
            notes.push((kind, text));
        }
    }

    pub(super) fn finding(&self, line: u32, kind: FindingKind, text: String) -> Finding {
        Finding { at: Some((self.file.clone(), line)), column: None, kind, text }
    }

    /// What became of every command, in the order of the export; a menu that has nothing to do with
    /// tunnels is one line.
    pub(super) fn ledger(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut quiet: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
        for (entry, notes) in self.entries.iter().zip(&self.settled) {
            if notes.is_empty() && !entry.is_disabled() && !concerns_traffic(entry) {
                let (_, count) = quiet.entry(&entry.menu).or_insert((entry.line, 0));
                *count += 1;
            }
            for (kind, text) in notes {
                findings.push(self.finding(entry.line, *kind, text.clone()));
            }
            if notes.is_empty() && entry.is_disabled() {
                let text = format!("disabled, so left out: {}", entry.summary());
                findings.push(self.finding(entry.line, FindingKind::Stays, text));
            } else if notes.is_empty() && concerns_traffic(entry) {
                findings.push(self.finding(entry.line, FindingKind::NoCounterpart, entry.summary()));
            }
        }
        for (menu, (line, count)) in quiet {
            let text = format!("/{menu}: {count} commands, the first of them here");
            findings.push(self.finding(line, FindingKind::Stays, text));
        }
        for stray in &self.strays {
            let text = format!("not a command of an export: {}", stray.text);
            findings.push(self.finding(stray.line, FindingKind::NoCounterpart, text));
        }
        findings.sort_by_key(|finding| finding.at.as_ref().map(|(_, line)| *line));
        findings
    }
}

/// The menu's commands, copied, so that they can be settled while they are read.
pub(super) fn commands(router: &Router, menu: &str) -> Vec<(usize, Entry)> {
    router.of(menu).map(|(index, entry)| (index, entry.clone())).collect()
}

/// Menus whose every command must be accounted for.
fn concerns_traffic(entry: &Entry) -> bool {
    const MENUS: [&str; 7] = [
        "ip firewall",
        "ipv6 firewall",
        "ip route",
        "ipv6 route",
        "routing rule",
        "routing table",
        "interface wireguard",
    ];
    MENUS.iter().any(|menu| entry.menu.starts_with(menu)) && entry.command != "set"
}

/// Interfaces of the list `WAN`, of default routes, and those that masquerade.
fn wan(entries: &[Entry]) -> BTreeSet<String> {
    let adds = || entries.iter().filter(|entry| entry.command == "add" && !entry.is_disabled());
    let in_list =
        adds().filter(|entry| entry.menu == "interface list member" && entry.value("list") == Some("WAN"));
    let in_list = in_list.filter_map(|entry| entry.value("interface"));
    let hidden =
        adds().filter(|entry| entry.menu == "ip firewall nat" && entry.value("action") == Some("masquerade"));
    let hidden = hidden.filter_map(|entry| entry.value("out-interface"));
    let is_link = |name: &str| {
        adds().any(|entry| entry.menu == "interface wireguard" && entry.value("name") == Some(name))
    };
    let clients =
        adds().filter(|entry| matches!(entry.menu.as_str(), "ip dhcp-client" | "interface pppoe-client"));
    let clients = clients.filter_map(|entry| match entry.menu.as_str() {
        "ip dhcp-client" => entry.value("interface"),
        _ => entry.value("name"),
    });
    let all = in_list.chain(hidden).chain(clients);
    all.filter(|name| !is_link(name) && !name.starts_with('!')).map(str::to_owned).collect()
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
