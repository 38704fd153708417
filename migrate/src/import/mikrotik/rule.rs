//! A firewall rule: what it does, and with which flows.

use super::flows::{ECHO, Flow, TCP, UDP};
use super::lists::range;
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
    /// Whether the first packet of a flow is among those that it asks for.
    pub(super) is_for_new: bool,
    /// Whether packets of known flows are.
    is_for_established: bool,
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
    /// The rules of a menu that are in force, in order.
    pub(super) fn all(router: &Router, family: Family, table: &str) -> Vec<Self> {
        let menu = format!("{} firewall {table}", family.menu());
        router.of(&menu).map(|(index, entry)| Reader::new(router, family, entry).rule(index, table)).collect()
    }

    /// Whether the rule cannot decide about the first packet of such a flow.
    pub(super) fn passes_by(&self, is_translated: bool, is_local: bool) -> bool {
        // What refuses the packets of a known flow refuses the flow.
        let applies = self.is_for_new || self.action == Action::Drop && self.is_for_established;
        !applies
            || self.translated.is_some_and(|asked| asked != is_translated)
            || self.local.is_some_and(|asked| asked != is_local)
    }

    /// Whether nothing is asked of a packet.
    pub(super) fn is_for_everything(&self) -> bool {
        self.certain == Flow::all() && self.translated.is_none() && self.local.is_none() && self.is_for_new
    }
}

struct Reader<'r> {
    router: &'r Router,
    family: Family,
    entry: &'r Entry,
    rule: Rule,
}

/// What a condition asks for; `None` for one that has no counterpart.
type Asked = Option<Ranges>;

impl<'r> Reader<'r> {
    fn new(router: &'r Router, family: Family, entry: &'r Entry) -> Self {
        let rule = Rule {
            index: 0,
            chain: entry.value("chain").unwrap_or_default().to_owned(),
            action: action(entry, family),
            certain: Flow::all(),
            possible: Flow::all(),
            doubts: Vec::new(),
            translated: None,
            local: None,
            is_for_new: true,
            is_for_established: true,
        };
        Self { router, family, entry, rule }
    }

    fn rule(mut self, index: usize, table: &str) -> Rule {
        self.rule.index = index;
        let mut seen: Vec<&str> = Vec::new();
        for value in self.entry.values().filter(|value| !NO_CONDITION.contains(&value.key.as_str())) {
            if seen.contains(&value.key.as_str()) {
                self.doubt(value, "written twice");
            }
            seen.push(&value.key);
            self.condition(value);
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

    /// An action that is not one of its table leaves open what becomes of the packet.
    fn unknown_action(&mut self, table: &str) {
        let is_known = match &self.rule.action {
            Action::Drop => table != "nat",
            Action::Translate(_) | Action::Hide(_) => table == "nat",
            Action::Other => {
                matches!(self.entry.value("action"), Some("redirect" | "same")) && table == "nat"
                    || self.entry.value("action") == Some("notrack") && table == "raw"
            }
            Action::Accept | Action::Jump(_) | Action::Return | Action::Continue => true,
        };
        if !is_known && let Some(value) = self.entry.values().find(|value| value.key == "action") {
            let at = value.at;
            let place = format!("{}:{}:{}", self.router.file, at.line, at.column);
            self.rule.doubts.push(format!("the action {} ({place})", value.text.as_str()));
            self.rule.action = Action::Other;
            self.rule.certain.ports = Ranges::empty();
        }
    }

    fn condition(&mut self, value: &Value) {
        let (is_negated, written) = match value.text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, value.text.as_str()),
        };
        match value.key.as_str() {
            "protocol" => {
                let asked = self.protocol(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.protocols);
            }
            "dst-port" => {
                let asked = self.ports(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.ports);
            }
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
                let asked = self.interfaces(&value.key, written);
                self.ask(value, asked, is_negated, |flow| &mut flow.arrives);
            }
            "out-interface" | "out-interface-list" => {
                let asked = self.interfaces(&value.key, written);
                self.ask(value, asked, is_negated, |flow| &mut flow.leaves);
            }
            "icmp-options" => {
                let asked = self.icmp(written);
                self.ask(value, asked, is_negated, |flow| &mut flow.protocols);
            }
            _ => self.state(value, written, is_negated),
        }
    }

    /// Conditions that are about no part of [`Flow`].
    fn state(&mut self, value: &Value, written: &str, is_negated: bool) {
        match (value.key.as_str(), written) {
            ("connection-state", _) => {
                let named: Vec<&str> = written.split(',').map(str::trim).collect();
                self.rule.is_for_new = named.contains(&"new") != is_negated;
                self.rule.is_for_established = named.contains(&"established") != is_negated;
            }
            ("connection-nat-state", "dstnat") => self.rule.translated = Some(!is_negated),
            ("dst-address-type", "local") => self.rule.local = Some(!is_negated),
            ("dst-address-type", "unicast") if !is_negated => {}
            ("dst-address-type", "broadcast" | "multicast") if is_negated => {}
            ("tcp-flags", "syn" | "syn,!ack") if !is_negated => {
                self.ask(value, Some(Ranges::one(TCP)), false, |flow| &mut flow.protocols);
            }
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

    /// A list that may hold more than the export says applies to its known addresses in any case,
    /// and to every other one perhaps.
    fn list(&mut self, value: &Value, name: &str, is_negated: bool, part: fn(&mut Flow) -> &mut Ranges) {
        let list = self.router.address_lists.get(self.family, name);
        let known = list.map(|list| list.addresses.clone()).unwrap_or_default();
        let Some(open) = list.and_then(|list| list.open) else {
            return self.ask(value, Some(known), is_negated, part);
        };
        let at = value.at;
        let place = format!("{}:{}:{}", self.router.file, at.line, at.column);
        self.rule.doubts.push(format!("the list {name:?} {open} ({place})"));
        let (certain, possible) = match is_negated {
            false => (known, Ranges::all()),
            true => (Ranges::empty(), known.complement()),
        };
        for (flow, asked) in [(&mut self.rule.certain, certain), (&mut self.rule.possible, possible)] {
            let part = part(flow);
            *part = part.and(&asked);
        }
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
        matches!(self.entry.value("protocol"), Some("tcp" | "udp" | "6" | "17")).then_some(())?;
        let ranges = written.split(',').map(|item| text::ports(item.trim()));
        let ranges = ranges.map(|range| range.map(|range| (range.first().into(), range.last().into())));
        Some(Ranges::union_of(ranges.collect::<Option<Vec<(u128, u128)>>>()?))
    }

    fn icmp(&self, written: &str) -> Asked {
        let request = if self.family == Family::V4 { "8" } else { "128" };
        let (kind, code) = written.split_once(':').unwrap_or((written, "0-255"));
        kind.parse::<u8>().ok()?;
        let is_request = kind == request && (code == "0" || code.starts_with("0-"));
        Some(if is_request { Ranges::one(ECHO) } else { Ranges::empty() })
    }

    fn interfaces(&self, key: &str, written: &str) -> Asked {
        if key.ends_with("list") {
            return self.router.interface_lists.members(written);
        }
        let is_group = ["all-ethernet", "all-wireless", "all-vlan", "all-ppp", "dynamic"].contains(&written);
        self.router.interface(written).filter(|_| !is_group).map(Ranges::one)
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
