//! A firewall rule: what it does, and with which flows.

use super::flows::{ECHO, Flow, TCP, UDP};
use super::lists::{Held, range};
use super::ranges::{Family, Ranges};
use super::router::Router;
use crate::import::routeros::{Entry, Value};
use policy::{PortRange, text};

/// A rule of a chain.
pub(super) struct Rule {
    /// The number of its command.
    pub(super) index: usize,
    pub(super) chain: String,
    pub(super) action: Action,
    /// What it applies to in any case.
    pub(super) certain: Flow,
    /// What it may apply to; more than [`certain`](Self::certain) when a condition has no
    /// counterpart.
    pub(super) possible: Flow,
    /// The conditions that have no counterpart, with their places.
    pub(super) doubts: Vec<String>,
    /// Whether it asks for packets that a dst-nat has changed, or for those that none has.
    pub(super) translated: Option<bool>,
    /// Whether it asks for packets to an address of the router itself, or for others.
    pub(super) local: Option<bool>,
    /// Whether such packets of a flow are among those that it asks for.
    pub(super) is_for_such: bool,
}

/// Which packet of a flow a rule is read for.
///
/// A flow passes when all three do: rules are asked for each packet, whatever became of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// The first, which opens the flow.
    First,
    /// Those that follow it the same way.
    Later,
    /// Those that come back. [`Flow::ports`] are their source ports: the ports of the service.
    Reply,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Drop,
    Jump(String),
    Return,
    /// Nothing that decides.
    Continue,
    Translate(Translation),
    /// The source becomes the router's own, or one of these.
    Hide(Option<Ranges>),
    /// Something that this reader does not know, or that leads to the router itself.
    Other,
}

/// Where a dst-nat or netmap leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) to: Option<(u128, u128)>,
    pub(super) ports: Option<PortRange>,
    /// The destinations that are mapped one by one.
    pub(super) mapped: Option<(u128, u128)>,
    /// The ports that the rule names, when they are one range.
    pub(super) from_ports: Option<(u128, u128)>,
}

/// Properties that say what a rule does or how it is shown, not when it applies.
const NO_CONDITION: [&str; 23] = [
    "action",
    "chain",
    "comment",
    "disabled",
    "log",
    "log-prefix",
    "passthrough",
    "to-address",
    "to-addresses",
    "to-ports",
    "new-connection-mark",
    "new-routing-mark",
    "new-packet-mark",
    "new-mss",
    "jump-target",
    "reject-with",
    "hw-offload",
    "address-list",
    "address-list-timeout",
    "randomise-ports",
    "same-not-by-dst",
    "new-dscp",
    "new-ttl",
];

/// Protocols that are neither TCP, UDP nor ICMP.
const OTHER_PROTOCOLS: [&str; 14] = [
    "gre",
    "ipsec-esp",
    "ipsec-ah",
    "ospf",
    "igmp",
    "ipip",
    "ipencap",
    "sctp",
    "udp-lite",
    "vrrp",
    "pim",
    "l2tp",
    "etherip",
    "rsvp",
];

impl Rule {
    /// The rules of a table that are in force, in order, as one kind of packet meets them.
    pub(super) fn all(router: &Router, family: Family, table: Table, packet: Packet) -> Vec<Self> {
        let menu = match table {
            Table::Bridge => "interface bridge filter".to_owned(),
            Table::Raw | Table::Mangle | Table::Nat | Table::Filter => {
                format!("{} firewall {}", family.menu(), table.name())
            }
        };
        let rules = router.of(&menu);
        rules.map(|(index, entry)| Reader::new(router, family, entry, packet).rule(index, table)).collect()
    }

    /// Whether the rule cannot decide about such packets of such a flow.
    pub(super) fn passes_by(&self, is_translated: bool, is_local: bool) -> bool {
        !self.is_for_such
            || self.translated.is_some_and(|asked| asked != is_translated)
            || self.local.is_some_and(|asked| asked != is_local)
    }

    /// Whether nothing is asked of a packet.
    pub(super) fn is_for_everything(&self) -> bool {
        self.certain == Flow::all() && self.translated.is_none() && self.local.is_none() && self.is_for_such
    }
}

/// A table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
    /// The filter of bridges, which has one menu for both families.
    Bridge,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter | Self::Bridge => "filter",
        }
    }
}

struct Reader<'r> {
    router: &'r Router,
    family: Family,
    packet: Packet,
    entry: &'r Entry,
    rule: Rule,
}

/// What a condition asks for; `None` for one that has no counterpart.
type Asked = Option<Ranges>;

impl<'r> Reader<'r> {
    fn new(router: &'r Router, family: Family, entry: &'r Entry, packet: Packet) -> Self {
        let rule = Rule {
            index: 0,
            chain: entry.value("chain").unwrap_or_default().to_owned(),
            action: action(entry, family),
            certain: Flow::all(),
            possible: Flow::all(),
            doubts: Vec::new(),
            translated: None,
            local: None,
            is_for_such: true,
        };
        Self { router, family, packet, entry, rule }
    }

    fn rule(mut self, index: usize, table: Table) -> Rule {
        self.rule.index = index;
        let mut seen: Vec<&str> = Vec::new();
        for value in self.entry.values().filter(|value| !NO_CONDITION.contains(&value.key.as_str())) {
            if seen.contains(&value.key.as_str()) {
                self.doubt(value, "written twice");
            }
            seen.push(&value.key);
            if table == Table::Bridge {
                self.bridge_condition(value);
            } else {
                self.condition(value);
            }
        }
        self.unknown_action(table);
        if !self.entry.target.is_empty() {
            let at = self.entry.at;
            let text = format!("{:?} ({}:{}:{})", self.entry.target, self.router.file, at.line, at.column);
            self.rule.doubts.push(text);
            self.rule.certain = Flow { ports: Ranges::empty(), ..Flow::all() };
        }
        self.rule
    }

    /// An action that is not one of its table leaves open what becomes of the packet; so does one
    /// that is not written, next to a property that may be it.
    fn unknown_action(&mut self, table: Table) {
        let written = self.entry.values().find(|value| value.key == "action");
        let text = written.map(|value| value.text.as_str());
        let is_known = match &self.rule.action {
            Action::Drop => !matches!(table, Table::Nat | Table::Mangle),
            Action::Translate(_) | Action::Hide(_) => table == Table::Nat,
            Action::Other => {
                matches!(text, Some("redirect" | "same")) && table == Table::Nat
                    || text == Some("notrack") && table == Table::Raw
                    || matches!(text, Some("mark-packet" | "set-priority")) && table == Table::Bridge
                    || table == Table::Mangle
            }
            Action::Accept => text.is_some() || self.rule.doubts.is_empty(),
            Action::Jump(_) | Action::Return | Action::Continue => true,
        };
        if !is_known {
            let at = written.map_or(self.entry.at, |value| value.at);
            let place = format!("{}:{}:{}", self.router.file, at.line, at.column);
            let action = text.map_or_else(|| "no action".to_owned(), |text| format!("the action {text}"));
            self.rule.doubts.push(format!("{action} ({place})"));
            self.rule.action = Action::Other;
            self.rule.certain.ports = Ranges::empty();
        }
        if table == Table::Bridge && matches!(text, Some("mark-packet" | "set-priority")) {
            self.rule.action = Action::Continue;
        }
    }

    /// A condition of the filter of bridges, which names things in its own way.
    fn bridge_condition(&mut self, value: &Value) {
        let (is_negated, written) = negation(value);
        let protocols: fn(&mut Flow) -> &mut Ranges = |flow| &mut flow.protocols;
        let is_ipv4 = self.family == Family::V4;
        match value.key.as_str() {
            "in-bridge" | "in-bridge-list" => {
                self.interfaces(value, written, is_negated, |flow| &mut flow.arrives);
            }
            "out-bridge" | "out-bridge-list" => {
                self.interfaces(value, written, is_negated, |flow| &mut flow.leaves);
            }
            "mac-protocol" => {
                let asked = match (written, is_ipv4) {
                    ("ip", true) | ("ipv6", false) => Some(Ranges::all()),
                    ("ip" | "ipv6" | "arp" | "rarp" | "ipx" | "lldp" | "pppoe" | "pppoe-discovery", _) => {
                        Some(Ranges::empty())
                    }
                    _ => None,
                };
                self.ask(value, asked, is_negated, protocols);
            }
            "ip-protocol" => {
                let asked = self.protocol(written);
                self.ask(value, asked, is_negated, protocols);
            }
            "src-address" | "dst-address" if !is_ipv4 => {
                self.ask(value, Some(Ranges::empty()), false, protocols);
            }
            "src-address6" | "dst-address6" if is_ipv4 => {
                self.ask(value, Some(Ranges::empty()), false, protocols);
            }
            "src-address" | "src-address6" => {
                let asked = range(written, self.family).map(|(first, last)| Ranges::of(first, last));
                self.ask(value, asked, is_negated, |flow| &mut flow.sources);
            }
            "dst-address" | "dst-address6" => {
                let asked = range(written, self.family).map(|(first, last)| Ranges::of(first, last));
                self.ask(value, asked, is_negated, |flow| &mut flow.destinations);
            }
            _ => self.doubt(value, "no counterpart"),
        }
    }

    fn condition(&mut self, value: &Value) {
        let (is_negated, written) = negation(value);
        match value.key.as_str() {
            "protocol" => {
                let asked = self.protocol(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.protocols);
            }
            // The port of the service is the source port of a reply.
            "dst-port" if self.packet == Packet::Reply => self.client_ports(value, written, is_negated),
            "dst-port" => {
                let asked = self.ports(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.ports);
            }
            "src-port" if self.packet == Packet::Reply => {
                let asked = self.ports(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.ports);
            }
            "port" => self.any_port(value, written, is_negated),
            "src-address" => {
                let asked = range(written, self.family).map(|(first, last)| Ranges::of(first, last));
                self.ask(value, asked, is_negated, |flow| &mut flow.sources);
            }
            "dst-address" => {
                let asked = range(written, self.family).map(|(first, last)| Ranges::of(first, last));
                self.ask(value, asked, is_negated, |flow| &mut flow.destinations);
            }
            "src-address-list" => self.list(value, written, is_negated, |flow| &mut flow.sources),
            "dst-address-list" => self.list(value, written, is_negated, |flow| &mut flow.destinations),
            "in-interface" | "in-interface-list" => {
                self.interfaces(value, written, is_negated, |flow| &mut flow.arrives);
            }
            "out-interface" | "out-interface-list" => {
                self.interfaces(value, written, is_negated, |flow| &mut flow.leaves);
            }
            "icmp-options" => {
                let asked = self.icmp(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.protocols);
            }
            _ => self.state(value, written, is_negated),
        }
    }

    /// The ports of clients, which are any above 1,023: a rule about few of them is about few flows
    /// of a client, and not about the client.
    fn client_ports(&mut self, value: &Value, written: &str, is_negated: bool) {
        let clients = Ranges::of(1_024, 65_535);
        let Some(asked) = self.ports(written) else { return self.doubt(value, "no counterpart") };
        let asked = if is_negated { asked.complement() } else { asked }.and(&clients);
        if is_few(&asked) {
            self.ask(value, Some(Ranges::empty()), false, |flow| &mut flow.protocols);
        } else if !asked.covers(&clients) {
            self.doubt(value, "no counterpart");
        }
    }

    /// A port at either end.
    fn any_port(&mut self, value: &Value, written: &str, is_negated: bool) {
        let clients = Ranges::of(1_024, 65_535);
        let asked = self.ports(written).filter(|asked| !is_negated && is_few(&asked.and(&clients)));
        self.ask(value, asked, false, |flow| &mut flow.ports);
    }

    /// Flags of TCP, of which each kind of packet has few combinations.
    fn flags(&mut self, value: &Value) {
        let packets: &[&[&str]] = match self.packet {
            Packet::First => &[&["syn"]],
            Packet::Later => &[&["ack"], &["ack", "psh"], &["ack", "fin"]],
            Packet::Reply => &[&["syn", "ack"], &["ack"], &["ack", "psh"], &["ack", "fin"]],
        };
        let asked: Vec<&str> = value.text.split(',').map(str::trim).collect();
        let has = |packet: &[&str]| {
            asked.iter().all(|flag| match flag.strip_prefix('!') {
                Some(flag) => !packet.contains(&flag),
                None => packet.contains(flag),
            })
        };
        let is_known =
            |flag: &&str| ["fin", "syn", "rst", "psh", "ack", "urg"].contains(&flag.trim_start_matches('!'));
        let count = packets.iter().filter(|packet| has(packet)).count();
        let protocols = match count {
            _ if !asked.iter().all(is_known) => None,
            0 => Some(Ranges::empty()),
            all if all == packets.len() => Some(Ranges::one(TCP)),
            _ => None,
        };
        self.ask(value, protocols, false, |flow| &mut flow.protocols);
    }

    /// Conditions that are about no part of [`Flow`].
    fn state(&mut self, value: &Value, written: &str, is_negated: bool) {
        match (value.key.as_str(), written) {
            ("connection-state", _) => {
                let asked = if self.packet == Packet::First { "new" } else { "established" };
                self.rule.is_for_such = written.split(',').any(|named| named.trim() == asked) != is_negated;
            }
            ("connection-nat-state", "dstnat") => self.rule.translated = Some(!is_negated),
            ("dst-address-type", "local") => self.rule.local = Some(!is_negated),
            ("dst-address-type", "unicast") if !is_negated => {}
            ("dst-address-type", "broadcast" | "multicast") if is_negated => {}
            ("tcp-flags", _) => self.flags(value),
            // What is carried is never under IPsec.
            ("ipsec-policy", "in,none" | "out,none") if !is_negated => {}
            ("ipsec-policy", "in,ipsec" | "out,ipsec") if !is_negated => {
                self.ask(value, Some(Ranges::empty()), false, |flow| &mut flow.protocols);
            }
            _ => self.doubt(value, "no counterpart"),
        }
    }

    fn ask(&mut self, value: &Value, asked: Asked, is_negated: bool, part: fn(&mut Flow) -> &mut Ranges) {
        let Some(asked) = asked else { return self.doubt(value, "no counterpart") };
        let asked = if is_negated { asked.complement() } else { asked };
        for flow in [&mut self.rule.certain, &mut self.rule.possible] {
            let part = part(flow);
            *part = part.and(&asked);
        }
    }

    fn doubt(&mut self, value: &Value, why: &str) {
        let at = value.at;
        let place = format!("{}:{}:{}", self.router.file, at.line, at.column);
        let note = if why == "no counterpart" { String::new() } else { format!(", {why}") };
        self.rule.doubts.push(format!("the condition {}={}{note} ({place})", value.key, value.text.as_str()));
        self.rule.certain.ports = Ranges::empty();
    }

    /// A list that may hold more than the export says applies to what it is known to hold in any
    /// case, and to everything else perhaps.
    fn held(
        &mut self,
        value: &Value,
        held: Held<Ranges>,
        is_negated: bool,
        part: fn(&mut Flow) -> &mut Ranges,
    ) {
        let Some(open) = held.open else { return self.ask(value, Some(held.known), is_negated, part) };
        let at = value.at;
        let place = format!("{}:{}:{}", self.router.file, at.line, at.column);
        let name = value.text.trim_start_matches('!');
        self.rule.doubts.push(format!("the list {name:?} {open} ({place})"));
        let (certain, possible) = match is_negated {
            false => (held.known, Ranges::all()),
            true => (Ranges::empty(), held.known.complement()),
        };
        for (flow, asked) in [(&mut self.rule.certain, certain), (&mut self.rule.possible, possible)] {
            let part = part(flow);
            *part = part.and(&asked);
        }
    }

    fn list(&mut self, value: &Value, name: &str, is_negated: bool, part: fn(&mut Flow) -> &mut Ranges) {
        self.held(value, self.router.address_lists.get(self.family, name), is_negated, part);
    }

    fn protocol(&self, written: &str) -> Asked {
        Some(match (written, self.family) {
            ("tcp" | "6", _) => Ranges::one(TCP),
            ("udp" | "17", _) => Ranges::one(UDP),
            ("icmp" | "1", Family::V4) | ("icmpv6" | "ipv6-icmp" | "58", Family::V6) => Ranges::one(ECHO),
            // The icmpv6 of an IPv4 rule and the other way round.
            ("icmp" | "icmpv6" | "ipv6-icmp" | "1" | "58", _) => Ranges::empty(),
            (other, _) if OTHER_PROTOCOLS.contains(&other) => Ranges::empty(),
            (number, _) if number.parse::<u8>().is_ok() => Ranges::empty(),
            _ => return None,
        })
    }

    /// Ports, which only TCP and UDP have.
    fn ports(&self, written: &str) -> Asked {
        let protocol = self.entry.value("protocol").or_else(|| self.entry.value("ip-protocol"));
        matches!(protocol, Some("tcp" | "udp" | "6" | "17")).then_some(())?;
        let ranges = written.split(',').map(|item| port_range(item.trim()));
        Some(Ranges::union_of(ranges.collect::<Option<Vec<(u128, u128)>>>()?))
    }

    fn icmp(&self, written: &str) -> Asked {
        let echo = match (self.family, self.packet) {
            (Family::V4, Packet::Reply) => "0",
            (Family::V4, _) => "8",
            (Family::V6, Packet::Reply) => "129",
            (Family::V6, _) => "128",
        };
        let (kind, code) = written.split_once(':').unwrap_or((written, "0-255"));
        kind.parse::<u8>().ok()?;
        let is_echo = kind == echo && (code == "0" || code.starts_with("0-"));
        Some(if is_echo { Ranges::one(ECHO) } else { Ranges::empty() })
    }

    /// An interface, or the members of a list of them.
    fn interfaces(
        &mut self,
        value: &Value,
        written: &str,
        is_negated: bool,
        part: fn(&mut Flow) -> &mut Ranges,
    ) {
        if value.key.ends_with("list") {
            return self.held(value, self.router.interface_lists.get(written), is_negated, part);
        }
        let is_group = ["all-ethernet", "all-wireless", "all-vlan", "all-ppp", "dynamic"].contains(&written);
        let asked = self.router.interface(written).filter(|_| !is_group).map(Ranges::one);
        self.ask(value, asked, is_negated, part);
    }
}

/// Whether ports are few of those that clients have.
fn is_few(ports: &Ranges) -> bool {
    const FEW: usize = 1_024;
    ports.numbers().take(FEW).count() < FEW
}

/// First and last of a range of ports, which begin at 0.
fn port_range(written: &str) -> Option<(u128, u128)> {
    let (first, last) = written.split_once('-').unwrap_or((written, written));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first <= last).then_some((first.into(), last.into()))
}

/// Whether a value is negated, and the rest of it.
fn negation(value: &Value) -> (bool, &str) {
    match value.text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, value.text.as_str()),
    }
}

fn action(entry: &Entry, family: Family) -> Action {
    let to = || {
        let written = entry.value("to-addresses").or_else(|| entry.value("to-address"))?;
        range(written, family)
    };
    match entry.value("action").unwrap_or("accept") {
        "accept" => Action::Accept,
        "drop" | "reject" | "tarpit" => Action::Drop,
        "jump" => Action::Jump(entry.value("jump-target").unwrap_or_default().to_owned()),
        "return" => Action::Return,
        "log"
        | "passthrough"
        | "fasttrack-connection"
        | "add-src-to-address-list"
        | "add-dst-to-address-list" => Action::Continue,
        "dst-nat" => Action::Translate(translation(entry, to())),
        "netmap" if entry.value("chain") != Some("srcnat") => {
            let mut translation = translation(entry, to());
            translation.mapped = entry.value("dst-address").and_then(|written| range(written, family));
            Action::Translate(translation)
        }
        "masquerade" => Action::Hide(None),
        "src-nat" => {
            Action::Hide(Some(to().map_or_else(Ranges::empty, |(first, last)| Ranges::of(first, last))))
        }
        _ => Action::Other,
    }
}

fn translation(entry: &Entry, to: Option<(u128, u128)>) -> Translation {
    let written = entry.value("dst-port").and_then(text::ports);
    // Ports that cannot be read lead nowhere.
    let unreadable = entry.value("to-ports").is_some_and(|ports| text::ports(ports).is_none());
    Translation {
        to: to.filter(|_| !unreadable),
        ports: entry.value("to-ports").and_then(text::ports),
        mapped: None,
        from_ports: written.map(|range| (range.first().into(), range.last().into())),
    }
}

impl Translation {
    /// Where a packet to `destination` is sent.
    pub(super) fn target(&self, destination: u128) -> Option<u128> {
        let (first, last) = self.to?;
        match self.mapped {
            Some((begin, end)) if end - begin == last - first => {
                first.checked_add(destination.checked_sub(begin)?)
            }
            _ => (first == last).then_some(first),
        }
    }
}
