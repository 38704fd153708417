//! What a RouterOS router does with one packet, read from its export by hand.
//!
//! It shares no code with the import that it judges: it reads the text with a few lines of its own,
//! goes rule by rule with one packet, and where it does not know a condition it follows both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

type Command = (String, BTreeMap<String, String>);

/// A router's export.
pub(crate) struct Router {
    commands: Vec<Command>,
    /// What a `set` holds, which lists of interfaces are filled by among others.
    settings: Vec<BTreeMap<String, String>>,
}

/// Which packet of a flow it is; all must pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Later,
    Reply,
}

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) arrives: String,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

/// What is known of a packet on its way through a chain.
#[derive(Clone, Copy)]
struct State<'a> {
    leaves: &'a str,
    translated: bool,
    turn: Turn,
    /// Addresses that the edge has and no export names.
    unnamed: &'a [IpAddr],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Return,
    Rule(usize),
}

impl Router {
    pub(crate) fn read(text: &str) -> Self {
        let joined = text.replace("\r\n", "\n").replace("\\\n    ", "").replace("\\\n", "");
        let (mut menu, mut commands, mut settings) = (String::new(), Vec::new(), Vec::new());
        for line in joined.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix('/') {
                Some(path) => menu = path.to_owned(),
                None if line.starts_with("add ") => commands.push((menu.clone(), values(line))),
                None => settings.push(values(line)),
            }
        }
        commands.retain(|(_, values)| values.get("disabled").is_none_or(|disabled| disabled != "yes"));
        Self { commands, settings }
    }

    /// The table that a mark sends a packet to.
    pub(crate) fn mark(&self, packet: &Packet, unnamed: &[IpAddr]) -> String {
        let state = State { leaves: "", translated: false, turn: Turn::First, unnamed };
        let rules = self.rules(packet, "mangle");
        let mark = rules.into_iter().find(|rule| {
            rule["action"] == "mark-routing"
                && rule["chain"] == "prerouting"
                && self.matches(packet, rule, state).1
        });
        mark.map_or_else(|| "main".to_owned(), |rule| rule["new-routing-mark"].clone())
    }

    /// The interface by which an address is reached, by the longest route; `None` for nowhere.
    pub(crate) fn route(&self, to: IpAddr, table: &str) -> Option<String> {
        self.route_of_table(to, table).or_else(|| self.route_of_table(to, "main")).flatten()
    }

    fn route_of_table(&self, to: IpAddr, name: &str) -> Option<Option<String>> {
        let menu = if to.is_ipv4() { "ip route" } else { "ipv6 route" };
        let table = |route: &&BTreeMap<String, String>| {
            route.get("routing-table").map_or("main", String::as_str) == name
        };
        let mut best: Option<(u128, u32, Option<String>)> = None;
        let mut offer = |written: &str, distance: u32, by: Option<String>| {
            if !in_range(to, written) {
                return;
            }
            let (first, last) = bounds(written).unwrap();
            if best.as_ref().is_none_or(|(size, far, _)| (last - first, distance) < (*size, *far)) {
                best = Some((last - first, distance, by));
            }
        };
        for (interface, own) in self.addresses().into_iter().filter(|_| name == "main") {
            offer(&format!("{}/{}", own.network(), own.prefix()), 0, Some(interface));
        }
        for route in self.of(menu).filter(table) {
            let everyone = if to.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let written = route.get("dst-address").map_or(everyone, String::as_str);
            let distance = route.get("distance").map_or(1, |distance| distance.parse().unwrap());
            offer(written, distance, route.get("gateway").map(|gateway| self.by(gateway)));
        }
        if self.of("ip dhcp-client").next().is_some() && to.is_ipv4() && name == "main" {
            offer("0.0.0.0/0", 1, Some("a lease".to_owned()));
        }
        best.map(|(_, _, by)| by)
    }

    /// Whether the export shows how anything is routed.
    pub(crate) fn shows_routes(&self, family: IpAddr) -> bool {
        let menu = if family.is_ipv4() { "ip route" } else { "ipv6 route" };
        let protocols = self.commands.iter().any(|(menu, _)| menu.starts_with("routing ospf"));
        let lease = family.is_ipv4() && self.of("ip dhcp-client").next().is_some();
        !protocols
            && (self.of(menu).next().is_some() || lease || self.of("interface pppoe-client").next().is_some())
    }

    fn by(&self, gateway: &str) -> String {
        let named = gateway.split('%').next_back().unwrap().trim_end_matches("@main");
        match named.parse::<IpAddr>() {
            Err(_) => named.to_owned(),
            Ok(address) => {
                let own = self.addresses().into_iter().find(|(_, own)| own.contains(address));
                own.map_or_else(|| "elsewhere".to_owned(), |(interface, _)| interface)
            }
        }
    }

    pub(crate) fn of<'r>(&'r self, menu: &'r str) -> impl Iterator<Item = &'r BTreeMap<String, String>> {
        self.commands.iter().filter(move |(of, _)| of == menu).map(|(_, values)| values)
    }

    fn menu(family: IpAddr, table: &str) -> String {
        format!("{} firewall {table}", if family.is_ipv4() { "ip" } else { "ipv6" })
    }

    /// Own addresses with their interfaces.
    pub(crate) fn addresses(&self) -> Vec<(String, IpNetwork)> {
        let all = self.of("ip address").chain(self.of("ipv6 address"));
        all.map(|own| (own["interface"].clone(), own["address"].parse().unwrap())).collect()
    }

    pub(crate) fn members(&self, list: &str) -> BTreeSet<String> {
        let members = self.of("interface list member").filter(|member| member["list"] == list);
        members.map(|member| member["interface"].clone()).collect()
    }

    pub(crate) fn link(&self) -> String {
        self.of("interface wireguard").next().unwrap()["name"].clone()
    }

    /// Every value of every rule, for packets around them.
    pub(crate) fn words(&self) -> Vec<String> {
        let rules =
            self.commands.iter().filter(|(menu, _)| menu.contains("firewall") || menu.ends_with("address"));
        rules.flat_map(|(_, values)| values.values()).cloned().collect()
    }

    /// Where a packet out of this router's dst-nat and filters ends, if it is sure to pass: its
    /// destination, its port, and whether its source becomes that of the interface.
    pub(crate) fn passes(
        &self,
        packet: &Packet,
        route: &dyn Fn(IpAddr) -> Option<String>,
        unnamed: &[IpAddr],
    ) -> Option<(IpAddr, u16, bool)> {
        let state = State { leaves: "", translated: false, turn: Turn::First, unnamed };
        let raw = self.walk(packet, "raw", "prerouting", state);
        if raw.iter().any(|end| *end != End::Accept && *end != End::Return) {
            return None;
        }
        let ends = self.walk(packet, "nat", "dstnat", state);
        let [end] = ends.as_slice() else { return None };
        let (mut after, translated) = (packet.clone(), matches!(end, End::Rule(_)));
        if let End::Rule(rule) = end {
            (after.destination, after.port) = self.translated(packet, *rule)?;
        }
        let is_own = self.addresses().iter().any(|(_, own)| own.ip() == after.destination)
            || unnamed.contains(&after.destination);
        let leaves = if is_own { String::new() } else { route(after.destination)? };
        let state = State { leaves: &leaves, translated, turn: Turn::First, unnamed };
        let chain = if is_own { "input" } else { "forward" };
        let is_passed = |packet: &Packet, table: &str, chain: &str, state: State<'_>| {
            self.walk(packet, table, chain, state).iter().all(|end| matches!(end, End::Accept | End::Return))
        };
        if !is_passed(&after, "filter", chain, state)
            || !is_passed(&after, "filter", chain, State { turn: Turn::Later, ..state })
        {
            return None;
        }
        let ends = self.walk(&after, "nat", "srcnat", state);
        let hidden = match ends.as_slice() {
            [End::Accept | End::Return] => false,
            [End::Rule(rule)] if self.rules(&after, "nat")[*rule]["action"] == "masquerade" => true,
            _ => return None,
        };
        let reply = Packet {
            arrives: leaves.clone(),
            source: after.destination,
            destination: packet.source,
            ..after.clone()
        };
        let back = State { leaves: &packet.arrives, turn: Turn::Reply, ..state };
        let is_answered = is_own
            || is_passed(&reply, "filter", "forward", back)
                && (hidden || is_passed(&reply, "raw", "prerouting", State { leaves: "", ..back }));
        is_answered.then_some((after.destination, after.port, hidden))
    }

    fn rules(&self, packet: &Packet, table: &str) -> Vec<&BTreeMap<String, String>> {
        let menu = Self::menu(packet.destination, table);
        self.commands.iter().filter(|(of, _)| *of == menu).map(|(_, values)| values).collect()
    }

    /// Every way that a packet may leave a chain.
    fn walk(&self, packet: &Packet, table: &str, chain: &str, state: State<'_>) -> Vec<End> {
        let mut ends = self.chain(packet, table, chain, state, 0);
        ends.sort_by_key(|end| format!("{end:?}"));
        ends.dedup();
        // What comes out at the end is accepted.
        if ends.iter().all(|end| matches!(end, End::Return | End::Accept)) { vec![End::Accept] } else { ends }
    }

    fn chain(&self, packet: &Packet, table: &str, chain: &str, state: State<'_>, depth: u8) -> Vec<End> {
        let mut ends = Vec::new();
        for (at, rule) in self.rules(packet, table).into_iter().enumerate() {
            let action = rule.get("action").map_or("accept", String::as_str);
            if rule.get("chain").is_none_or(|of| of != chain) || depth > 9 {
                continue;
            }
            let (may, must) = self.matches(packet, rule, state);
            if !may {
                continue;
            }
            match action {
                "accept" => ends.push(End::Accept),
                "drop" | "reject" | "tarpit" | "notrack" => ends.push(End::Drop),
                "return" => ends.push(End::Return),
                "jump" => {
                    let inside = self.chain(packet, table, &rule["jump-target"], state, depth + 1);
                    let comes_back = inside.contains(&End::Return);
                    ends.extend(inside.into_iter().filter(|end| *end != End::Return));
                    if must && !comes_back {
                        return ends;
                    }
                    continue;
                }
                "dst-nat" | "netmap" | "redirect" | "masquerade" | "src-nat" => ends.push(End::Rule(at)),
                _ => continue,
            }
            if must {
                return ends;
            }
        }
        ends.push(End::Return);
        ends
    }

    /// Whether a rule may apply to a packet, and whether it must.
    fn matches(&self, packet: &Packet, rule: &BTreeMap<String, String>, state: State<'_>) -> (bool, bool) {
        let mut must = true;
        for (key, written) in rule.iter().filter(|(_, value)| !value.is_empty()) {
            let (negated, value) = match written.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, written.as_str()),
            };
            let known = match key.as_str() {
                "protocol" => Some(value == packet.protocol),
                // A client's port is 40,000.
                "dst-port" => {
                    let port = if state.turn == Turn::Reply { 40_000 } else { packet.port };
                    Some(value.split(',').any(|range| in_ports(port, range)))
                }
                "src-port" if state.turn == Turn::Reply => {
                    Some(value.split(',').any(|range| in_ports(packet.port, range)))
                }
                "tcp-flags" => has_flags(written, state.turn).map(|has| has != negated),
                "port" if value == "0" => Some(false),
                "src-address" => Some(in_range(packet.source, value)),
                "dst-address" => Some(in_range(packet.destination, value)),
                "src-address-list" | "dst-address-list" => {
                    let address = if key.starts_with("src") { packet.source } else { packet.destination };
                    self.in_list(address, value)
                }
                "in-interface" => Some(value == packet.arrives),
                "out-interface" => Some(value == state.leaves),
                "in-interface-list" => self.is_member(&packet.arrives, value),
                "out-interface-list" => self.is_member(state.leaves, value),
                "connection-state" => {
                    let states: Vec<&str> = value.split(',').collect();
                    Some(states.contains(if state.turn == Turn::First { &"new" } else { &"established" }))
                }
                "connection-nat-state" if value == "dstnat" => Some(state.translated),
                "dst-address-type" if value == "local" => {
                    let mut own = self.addresses().into_iter().map(|(_, own)| own.ip());
                    Some(
                        own.any(|own| own == packet.destination)
                            || state.unnamed.contains(&packet.destination),
                    )
                }
                "ipsec-policy" => Some(value.ends_with(",none")),
                "action"
                | "chain"
                | "comment"
                | "log"
                | "hw-offload"
                | "new-routing-mark"
                | "passthrough"
                | "to-addresses"
                | "to-address"
                | "to-ports"
                | "jump-target"
                | "address-list"
                | "address-list-timeout"
                | "disabled" => Some(!negated),
                _ => None,
            };
            match known {
                Some(is) if is == negated => return (false, false),
                Some(_) => {}
                None => must = false,
            }
        }
        (true, must)
    }

    /// `None` for a list that has no member, or that something fills, unless it has the interface.
    fn is_member(&self, interface: &str, list: &str) -> Option<bool> {
        let members = self.listed(list, 0);
        let is_filled = self
            .settings
            .iter()
            .any(|values| values.iter().any(|(key, value)| key.ends_with("interface-list") && value == list));
        if members.contains(interface) {
            Some(true)
        } else {
            (!is_filled && !members.is_empty()).then_some(false)
        }
    }

    /// The members of a list and of those that it includes.
    fn listed(&self, list: &str, depth: u8) -> BTreeSet<String> {
        let mut members = self.members(list);
        let lists = self.of("interface list").filter(|made| made["name"] == list);
        for other in lists.filter_map(|made| made.get("include")).flat_map(|all| all.split(',')) {
            members.extend(if depth < 5 { self.listed(other, depth + 1) } else { BTreeSet::new() });
        }
        members
    }

    /// `None` for a list that rules fill, or that has nothing, unless it holds the address already.
    fn in_list(&self, address: IpAddr, list: &str) -> Option<bool> {
        let menu = Self::menu(address, "address-list");
        let held = self.of(&menu).any(|entry| entry["list"] == list && in_range(address, &entry["address"]));
        let is_filled =
            self.commands.iter().any(|(_, values)| values.get("address-list").is_some_and(|of| of == list));
        let is_open = is_filled || self.of(&menu).all(|entry| entry["list"] != list);
        if is_open && !held { None } else { Some(held) }
    }

    fn translated(&self, packet: &Packet, at: usize) -> Option<(IpAddr, u16)> {
        let rule = self.rules(packet, "nat")[at];
        if !matches!(rule["action"].as_str(), "dst-nat" | "netmap") {
            return None;
        }
        let to = rule.get("to-addresses").or_else(|| rule.get("to-address"))?;
        let (first, last) = bounds(to)?;
        let offset = match rule.get("dst-address").filter(|_| first != last) {
            Some(from) => number(packet.destination) - bounds(from)?.0,
            None => 0,
        };
        let to = address(first + offset, packet.destination);
        let ports = rule.get("to-ports").filter(|ports| !ports.is_empty());
        let port = match ports.map(|ports| ports.split_once('-').unwrap_or((ports, ports))) {
            None => packet.port,
            Some((first, last)) if first == last => first.parse().ok()?,
            Some((first, _)) => {
                let from: u16 = rule["dst-port"].split('-').next()?.parse().ok()?;
                first.parse::<u16>().ok()? + (packet.port - from)
            }
        };
        Some((to, port))
    }
}

fn values(line: &str) -> BTreeMap<String, String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether the packets of a turn have flags and lack others; `None` when some do.
fn has_flags(written: &str, turn: Turn) -> Option<bool> {
    let packets = match turn {
        Turn::First => vec!["syn"],
        Turn::Later => vec!["ack", "ack psh", "fin ack"],
        Turn::Reply => vec!["syn ack", "ack", "ack psh", "fin ack"],
    };
    let has = |packet: &&&str| {
        written.split(',').all(|flag| packet.contains(flag.trim_start_matches('!')) != flag.starts_with('!'))
    };
    match packets.iter().filter(has).count() {
        0 => Some(false),
        all if all == packets.len() => Some(true),
        _ => None,
    }
}

fn in_ports(port: u16, range: &str) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port)
}

fn in_range(address: IpAddr, written: &str) -> bool {
    let same = written.contains(':') == address.is_ipv6();
    same && bounds(written).is_some_and(|(first, last)| (first..=last).contains(&number(address)))
}

/// First and last address of a prefix or a range.
pub(crate) fn bounds(written: &str) -> Option<(u128, u128)> {
    if let Some((first, last)) = written.split_once('-') {
        return Some((number(first.parse().ok()?), number(last.parse().ok()?)));
    }
    let prefix: IpNetwork = written.parse().ok()?;
    match prefix {
        IpNetwork::V4(prefix) => Some((number(prefix.network().into()), number(prefix.broadcast().into()))),
        IpNetwork::V6(prefix) => Some((number(prefix.network().into()), number(prefix.broadcast().into()))),
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of this number in the family of another.
pub(crate) fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::from(u32::try_from(number & 0xffff_ffff).unwrap()).into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::from(number).into(),
    }
}
