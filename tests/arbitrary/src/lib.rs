//! Policies and packets made from a seed, for tests that compare the evaluator with the kernel.
//!
//! The same seed gives the same policy and the same packets on every machine.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use policy::Protocol;
use policy::evaluator::{Arrival, Packet, Redirect, Surroundings, Transport};
use policy::gateway::{Policy, Service};
use policy::system::{Link, LinkKind, LinkRoute, Neighbour, System};

/// A small generator of numbers (Steele, Lea and Flood, "SplitMix", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`; `None` when there are none.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> Option<&'i T> {
        let bound = u64::try_from(items.len()).unwrap_or(0);
        let index = usize::try_from(self.below(bound)).unwrap_or(0);
        items.get(index)
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.below(38_000)).unwrap_or(0).saturating_add(1_000)
    }
}

/// The text of a valid `gateway.toml` with the worked example's addresses: peers `wroclaw`
/// (192.168.88.0/24, fd00:88::/64) and `second` (192.168.89.0/24, and the half 192.168.88.128/25 of
/// the other's), the WAN on `eth0`, the LAN 192.168.1.0/24 and, where that is stated, the hosts
/// around `eth0`.
#[must_use]
pub fn gateway_text(seed: u64) -> String {
    let random = &mut Random::new(seed);
    let mut text = String::from(HEAD);
    for accept in [random.chance(70), random.chance(30)].into_iter().enumerate().filter(|(_, wanted)| *wanted)
    {
        let entry = if accept.0 == 0 { "\"tcp/22\"" } else { "\"tcp+udp/900-905\"" };
        let _ = write!(text, "{entry}, ");
    }
    text.push_str("]\n[lan]\nprefixes = [\"192.168.1.0/24\", \"fd00:1::/64\", \"192.0.2.0/24\"]\n");
    // Some edges say that their uplink is the LAN's interface as well.
    if random.chance(30) {
        text.push_str("interfaces = [\"eth0\", \"eth1\"]\n");
    }
    text.push_str(PEERS);
    let mut next_port = 2_000;
    for number in 0..3 + random.below(5) {
        publish(random, number, &mut next_port, &mut text);
    }
    if random.chance(30) {
        text.push_str(BEFORE_DOCKER);
    }
    for number in 0..3 + random.below(5) {
        allow(random, number, &mut text);
    }
    if random.chance(30) {
        let who =
            random.pick(&["server = \"192.0.2.53\"", "provider = \"cloudflare\""]).copied().unwrap_or("");
        let _ = writeln!(text, "[dns]\nname = \"kyiv.example.com\"\n{who}\nkey_file = \"kyiv.tsig\"");
    }
    if random.chance(25) {
        // On the uplink's own network, behind its router, on a link of its own, and by IPv6.
        let other = random.pick(&OTHER_EDGES).copied().unwrap_or("192.0.2.50");
        let _ = writeln!(text, "[standby]\naddress = \"192.0.2.2\"\nother = \"{other}\"");
    }
    text
}

/// The other edge of a pair: sources of [`packet`].
const OTHER_EDGES: [&str; 5] =
    ["192.0.2.50", "203.0.113.10", "198.18.5.9", "2001:db8:1::10", "2001:db8:1::66"];

const HEAD: &str = r#"[interface]
address = ["10.77.88.1/24", "fd00:77::1/64"]
private_key_file = "kyiv.key"
[wan]
accept = ["#;

const PEERS: &str = r#"[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "fd00:77::2/128", "192.168.88.0/24", "fd00:88::/64"]
[[peer]]
name = "second"
public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
allowed_ips = ["10.77.88.3/32", "192.168.89.0/24", "192.168.88.128/25"]
[[list]]
name = "partners"
file = "partners.list"
"#;

/// A service on the port that a container publishes as well.
const BEFORE_DOCKER: &str = r#"[[publish]]
name = "before-docker"
listen = "9091"
target = "192.168.88.2:80"
"#;

/// What the file of the list `partners`, which some services refer to, holds.
pub const PARTNERS: &str = "203.0.113.192/26\n198.51.100.0/24\n2001:db8:9::/48\n";

fn publish(random: &mut Random, number: u64, next_port: &mut u16, text: &mut String) {
    let count = if random.chance(40) { 1 + random.below(8) } else { 1 };
    let count = u16::try_from(count).unwrap_or(1);
    let first = *next_port;
    *next_port = next_port.saturating_add(20);
    let range =
        |first: u16| if count == 1 { first.to_string() } else { format!("{first}-{}", first + count - 1) };
    let to = if random.chance(50) { first } else { random.port() };
    let (v4, v6) = (format!("\"192.168.88.2:{}\"", range(to)), format!("\"[fd00:88::2]:{}\"", range(to)));
    let target = match random.below(4) {
        0 => v6,
        1 => format!("[{v4}, {v6}]"),
        2 => format!("\"192.168.89.7:{}\"", range(to)),
        _ => v4,
    };
    let bound = !target.contains("fd00") && random.chance(20);
    let listen = match bound {
        true => format!("192.0.2.2:{}", range(first)),
        false if random.chance(20) => format!("wan:{}", range(first)),
        false => range(first),
    };
    let protocol =
        random.pick(&["[\"tcp\"]", "[\"udp\"]", "[\"tcp\", \"udp\"]"]).copied().unwrap_or_default();
    let _ = write!(text, "[[publish]]\nname = \"p{number}\"\nprotocol = {protocol}\nlisten = \"{listen}\"\n");
    let _ = writeln!(text, "target = {target}");
    // At least one service of a policy is not for everyone.
    match if number == 0 { random.below(3) } else { random.below(9) } {
        0 => text.push_str("allow = [\"203.0.113.0/25\", \"192.0.2.0/24\", \"2001:db8:1::/48\"]\n"),
        1 => text.push_str("allow = [\"@partners\"]\n"),
        2 => text.push_str("allow = [\"203.0.113.8/29\", \"203.0.113.0/28\", \"@partners\"]\n"),
        _ => {}
    }
    if random.chance(25) {
        text.push_str("source = \"masquerade\"\n");
    }
    if random.chance(25) {
        text.push_str("limits = { new_per_source = \"10000/second\", flows_per_source = 100000, bandwidth = \"10gbit\" }\n");
    }
}

fn allow(random: &mut Random, number: u64, text: &mut String) {
    let inward = random.chance(50);
    let (from, to): (&[&str], &[&str]) = if inward {
        (&["\"peer:wroclaw\"", "\"peer:second\"", "\"peer:wroclaw\", \"peer:second\""], INWARD)
    } else {
        (
            &[
                "\"self\"",
                "\"192.168.1.0/24\"",
                "\"self\", \"192.168.1.50\"",
                "\"192.168.1.0/24\", \"fd00:1::/64\"",
            ],
            OUTWARD,
        )
    };
    let from = random.pick(from).copied().unwrap_or_default();
    let to = random.pick(to).copied().unwrap_or_default();
    let is_wan = inward && random.chance(25);
    let to = if is_wan { "\"wan\"" } else { to };
    let _ = write!(text, "[[allow]]\nname = \"a{number}\"\nfrom = [{from}]\nto = [{to}]\n");
    if !is_wan && random.chance(20) {
        text.push_str("protocol = [\"icmp\"]\n");
    } else {
        let protocol = random.pick(&["\"tcp\"", "\"udp\"", "\"tcp\", \"udp\""]).copied().unwrap_or_default();
        let first = random.port();
        let _ = writeln!(
            text,
            "protocol = [{protocol}]\nports = [\"{first}-{}\", \"9091\", \"9092\", \"2049\"]",
            first + 40
        );
    }
    if random.chance(30) {
        text.push_str("source = \"masquerade\"\n");
    }
}

const INWARD: &[&str] =
    &["\"self\"", "\"192.168.1.2\"", "\"192.168.1.50\"", "\"192.168.1.0/24\"", "\"10.77.88.1\", \"self\""];
const OUTWARD: &[&str] = &[
    "\"192.168.88.2\"",
    "\"192.168.88.0/24\", \"192.168.89.7\"",
    "\"peer:wroclaw\"",
    "\"peer:second\", \"192.168.88.2\"",
];

/// The worked example's surroundings: the WAN on `eth0` with 192.0.2.2, the LAN on `eth1`, a
/// container on `docker0` that publishes tcp/9091, a DNAT of tcp/9092 to the port of the link, and `br-x`, a bridge over a network card that is
/// not in the configuration.
#[must_use]
pub fn surroundings(policy: &Policy) -> Surroundings {
    let pinned = match policy.lan_interfaces.as_slice() {
        [] => vec!["eth1".to_owned()],
        stated => stated.iter().map(ToString::to_string).collect(),
    };
    Surroundings {
        addresses: [V4_WAN, V4_LAN, V4_CONTAINERS, V4_BRIDGE]
            .map(IpAddr::V4)
            .into_iter()
            .chain([IpAddr::V6(V6_WAN)])
            .collect(),
        links: LINKS
            .iter()
            .filter_map(|(name, text)| Some(((*name).to_owned(), text.parse().ok()?)))
            .collect(),
        default_routes: vec![("eth0".to_owned(), false), ("eth0".to_owned(), true)],
        // 192.0.2.2 lies in [lan].
        public: vec![IpAddr::V6(V6_WAN)],
        pinned,
        bridges: vec![("docker0".to_owned(), false), ("br-x".to_owned(), true)],
        redirects: vec![
            Redirect { protocol: Protocol::Tcp, port: 9_091, to: (V4_CONTAINER, 9_091).into() },
            Redirect { protocol: Protocol::Tcp, port: 9_092, to: (V4_TUNNEL, 51_899).into() },
        ],
        banned: Vec::new(),
        link: link_sockets(policy),
    }
}

/// Sockets of the link that the daemon owns: none, that of IPv4, both, or one that another policy
/// had. Which, the policy decides.
#[must_use]
pub fn link_sockets(policy: &Policy) -> Vec<SocketAddr> {
    let own = policy.interface.address.iter().map(|own| own.ip());
    match (policy.publish.len() + policy.allow.len()) % 4 {
        0 => Vec::new(),
        1 => own.take(1).map(|own| (own, policy.link.port).into()).collect(),
        2 => own.map(|own| (own, policy.link.port).into()).collect(),
        _ => own
            .map(|own| (own, policy.link.port + 1).into())
            .chain([(V4_LAN, policy.link.port).into()])
            .collect(),
    }
}

const LINKS: &[(&str, &str)] = &[
    ("eth0", "192.0.2.2/24"),
    ("eth0", "2001:db8:2::2/64"),
    ("eth1", "192.168.1.2/24"),
    ("eth1", "fd00:1::/64"),
    ("docker0", "172.17.0.1/16"),
    ("br-x", "198.18.5.1/24"),
];

/// The link-layer address of the next hop by `eth0` in [`system`].
pub const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// [`surroundings`] as the kernel lists them, for interfaces of these indexes.
#[must_use]
pub fn system(index: impl Fn(&str) -> u32) -> System {
    let link = |name: &str, kind, master: Option<&str>| Link {
        index: index(name),
        name: name.to_owned(),
        kind,
        master: master.map(&index),
        addresses: LINKS
            .iter()
            .filter(|(at, network)| *at == name && !network.starts_with("fd00"))
            .filter_map(|(_, network)| network.parse().ok())
            .collect(),
    };
    let route = |name: &str, destination: &str, gateway: Option<&str>| {
        Some(LinkRoute {
            destination: destination.parse().ok()?,
            link: index(name),
            gateway: gateway.and_then(|text| text.parse().ok()),
            table: 254,
            metric: 0,
            protocol: 3,
        })
    };
    let hop = IpAddr::from([192, 0, 2, 1]);
    System {
        links: vec![
            link("lo", LinkKind::Loopback, None),
            link("eth0", LinkKind::Other, None),
            link("eth1", LinkKind::Other, None),
            link("docker0", LinkKind::Bridge, None),
            link("br-x", LinkKind::Bridge, None),
            link("eth7", LinkKind::Other, Some("br-x")),
            link("gw0", LinkKind::Virtual, None),
        ],
        routes: [route("eth0", "0.0.0.0/0", Some("192.0.2.1")), route("eth1", "fd00:1::/64", None)]
            .into_iter()
            .flatten()
            .collect(),
        neighbours: vec![Neighbour { link: index("eth0"), address: hop, mac: NEXT_HOP }],
        rules: Vec::new(),
        has_foreign_rules: false,
    }
}

const V4_WAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const V4_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const V4_CONTAINERS: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const V4_BRIDGE: Ipv4Addr = Ipv4Addr::new(198, 18, 5, 1);
const V4_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 77, 88, 1);
const V4_CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const V6_WAN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// A packet that is likely to be about something in the policy.
///
/// It arrives in [`surroundings`]: from a client on the WAN or on a link that is not in the
/// configuration, a LAN host, a container, a peer, or the edge. Clients 203.0.113.66 and
/// 2001:db8:1::66 are there to be banned.
pub fn packet(random: &mut Random, policy: &Policy) -> Packet {
    let v6 = random.chance(25);
    let (arrival, sources): (Option<&str>, &[&str]) = match (random.below(13), v6) {
        (0..4, false) => (
            Some("eth0"),
            &[
                "192.0.2.50",
                "192.0.2.50",
                "203.0.113.10",
                "203.0.113.10",
                "203.0.113.200",
                "203.0.113.200",
                "198.51.100.7",
                "198.51.100.7",
                "203.0.113.66",
                "192.168.88.9",
                "192.168.1.50",
            ],
        ),
        (0..4, true) => (
            Some("eth0"),
            &[
                "2001:db8:1::10",
                "2001:db8:1::10",
                "2001:db8:9::10",
                "2001:db8:9::10",
                "2001:db8:1::66",
                "fd00:88::9",
            ],
        ),
        (4..6, false) => {
            (Some("eth1"), &["192.168.1.50", "192.168.1.50", "192.168.1.51", "192.168.1.51", "10.77.88.2"])
        }
        (4..6, true) => (Some("eth1"), &["fd00:1::50", "fd00:1::50", "2001:db8:7::1"]),
        (6, _) => (Some("docker0"), &["172.17.0.2", "172.17.0.2", "172.17.0.2", "192.168.1.50"]),
        (11 | 12, false) => {
            (Some("br-x"), &["198.18.5.9", "203.0.113.10", "203.0.113.66", "192.168.1.50", "192.168.88.9"])
        }
        (11 | 12, true) => (Some("br-x"), &["2001:db8:1::10", "2001:db8:1::66", "fd00:88::9"]),
        (7 | 8, false) => (
            Some("gw0"),
            &[
                "192.168.88.2",
                "192.168.88.2",
                "192.168.88.200",
                "10.77.88.2",
                "192.168.89.7",
                "10.77.88.3",
                "192.168.1.50",
            ],
        ),
        (7 | 8, true) => (Some("gw0"), &["fd00:88::2", "fd00:77::2"]),
        (_, false) => (None, &["10.77.88.1", "10.77.88.1", "192.0.2.2", "192.168.1.2"]),
        (_, true) => (None, &["fd00:77::1", "2001:db8:2::2"]),
    };
    let source = address(random, sources);
    let destination = address(random, if source.is_ipv4() { DESTINATIONS } else { DESTINATIONS_V6 });
    let arrival = arrival.map_or(Arrival::Edge, |name| Arrival::Interface(name.to_owned()));
    let relayed = arrival == Arrival::Interface("eth0".to_owned()) && random.chance(50);
    let transport = match (transport(random, policy), &arrival) {
        // The edge's own programs send by sockets, which send no such thing.
        (Transport::Tcp { source, destination }, Arrival::Interface(_)) if random.chance(20) => {
            Transport::Stray { source, destination }
        }
        (transport, _) => transport,
    };
    let packet = Packet { arrival, source, destination, transport, relayed };
    match &policy.standby {
        Some(standby) => of_the_other_edge(packet, standby.other),
        None => packet,
    }
}

/// A packet to the ports of a pair comes from the other edge, whatever it arrives by.
fn of_the_other_edge(packet: Packet, other: IpAddr) -> Packet {
    let is_possible = packet.arrival != Arrival::Edge && packet.destination.is_ipv4() == other.is_ipv4();
    let Transport::Udp { source, destination: 3_780 | 51_898 } = packet.transport else { return packet };
    if is_possible && source % 2 == 0 { Packet { source: other, ..packet } } else { packet }
}

const DESTINATIONS: &[&str] = &[
    "192.0.2.2",
    "192.0.2.2",
    "192.168.1.2",
    "192.168.1.2",
    "192.168.1.50",
    "198.18.5.1",
    "192.168.88.2",
    "192.168.88.2",
    "192.168.88.200",
    "192.168.89.7",
    "10.77.88.1",
    "198.51.100.9",
    "198.51.100.9",
];
const DESTINATIONS_V6: &[&str] =
    &["2001:db8:2::2", "2001:db8:2::2", "fd00:88::2", "fd00:77::1", "fd00:1::50", "2001:db8:5::9"];

fn address(random: &mut Random, choices: &[&str]) -> IpAddr {
    let text = random.pick(choices).copied().unwrap_or_default();
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn transport(random: &mut Random, policy: &Policy) -> Transport {
    if random.chance(10) {
        return Transport::Echo;
    }
    let link = policy.link.port;
    let mut ports: Vec<u16> = vec![22, 902, 9_091, 9_092, 2_049, 51_820, 51_820, 443, link, link + 1];
    for publish in &policy.publish {
        ports.extend([publish.ports.first(), publish.ports.last(), publish.ports.last().saturating_add(1)]);
    }
    for entry in &policy.allow {
        if let Service::Ports { ports: open, .. } = &entry.service {
            ports.extend(open.iter().map(|range| range.first()));
        }
    }
    if policy.standby.is_some() {
        ports.extend([3_780, 51_898, 51_898]);
    }
    let destination =
        if random.chance(10) { random.port() } else { random.pick(&ports).copied().unwrap_or(1) };
    let source = 40_000 + u16::try_from(random.below(20_000)).unwrap_or(0);
    if random.chance(60) {
        Transport::Tcp { source, destination }
    } else {
        Transport::Udp { source, destination }
    }
}
