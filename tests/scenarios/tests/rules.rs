//! The compiled rules in a real kernel against the reference evaluator: random policies, random packets.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arbitrary::{Random, gateway_text, link_sockets, packet, surroundings, system};
use lab::{Lab, Node, PacketSocket, Topology, full_counts, scenario};
use policy::Source;
use policy::evaluator::{Arrival, Outcome, Packet, Surroundings, Transport, evaluate};
use policy::gateway::{Policy, parse};
use policy::plan::{Conditions, RouteKind, Routing, Selector};
use policy::ruleset::Ruleset;
use policy::system::System;
use policy::trust::Pins;
use policy::uplinks::uplinks;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

#[test]
fn a_real_kernel_does_with_every_packet_what_the_documents_say() -> Result<()> {
    let (policies, packets) = if full_counts() { (300, 100) } else { (8, 60) };
    let mut wrong = Vec::new();
    scenario(Topology::empty(), |lab| {
        let mut machine = Machine::build(lab)?;
        for seed in 0..policies {
            machine.adopt(seed)?;
            let random = &mut Random::new(seed ^ 0xface);
            for _ in 0..packets {
                let packet = sent_by_a_host(packet(random, &machine.policy));
                let expected = evaluate(&machine.policy, &surroundings(&machine.policy), &packet);
                let seen = machine.observe(&packet)?;
                if !seen.is(&expected, &packet) {
                    wrong.push(format!(
                        "policy {seed}: {packet:?}\n  documents: {expected:?}\n  kernel: {seen:?}"
                    ));
                }
            }
        }
        ensure!(wrong.is_empty(), "{} packets went another way:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    })
}

#[test]
fn whatever_passes_the_minimal_guard_passes_the_whole_one_too() -> Result<()> {
    let (policies, packets) = if full_counts() { (100, 100) } else { (6, 80) };
    let (mut passed, mut wrong) = (0, Vec::new());
    scenario(Topology::empty(), |lab| {
        let mut machine = Machine::build(lab)?;
        for seed in 0..policies {
            machine.adopt(seed)?;
            let whole = Policy { publish: Vec::new(), allow: Vec::new(), ..machine.policy.clone() };
            machine.load(&Ruleset::minimal_guard(&machine.policy))?;
            let random = &mut Random::new(seed ^ 0xface);
            for _ in 0..packets {
                let packet = sent_by_a_host(packet(random, &machine.policy));
                let seen = machine.observe(&packet)?;
                if !seen.is_something() {
                    continue;
                }
                passed += 1;
                // At boot nothing is known of the interfaces.
                let around = surroundings(&whole);
                let around = Surroundings {
                    pinned: Vec::new(),
                    bridges: Vec::new(),
                    public: Vec::new(),
                    link: Vec::new(),
                    ..around
                };
                let expected = evaluate(&whole, &around, &packet);
                if !seen.is(&expected, &packet) {
                    wrong.push(format!(
                        "policy {seed}: {packet:?}\n  whole: {expected:?}\n  minimal: {seen:?}"
                    ));
                }
            }
        }
        ensure!(wrong.is_empty(), "{} packets passed that must not:\n{}", wrong.len(), wrong.join("\n"));
        ensure!(
            passed > policies * packets / 10,
            "only {passed} packets passed: the comparison shows little"
        );
        Ok(())
    })
}

/// An edge with one policy in its kernel, and a neighbour on each of its interfaces; `gw0` is a veth here.
struct Machine {
    policy: Policy,
    system: System,
    edge: Node,
    neighbours: Vec<(String, PacketSocket)>,
    /// Raw sockets of the edge, for IPv4 and IPv6.
    own: [Socket; 2],
}

/// What the kernel did with one packet.
#[derive(Debug, Default)]
struct Seen {
    drops: Vec<String>,
    delivered: bool,
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    interface: String,
    source: IpAddr,
    to: IpAddr,
    port: u64,
}

impl Machine {
    fn build(lab: &Lab) -> Result<Self> {
        let policy = generated(0)?;
        let edge = lab.add_node("edge")?;
        let mut neighbours = Vec::new();
        for interface in ["eth0", "eth1", "docker0", "br-x", "gw0"] {
            let node = lab.add_node(&format!("by-{interface}"))?;
            // Without IPv6 the neighbour sends nothing but the test's packets.
            node.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
            lab.connect((&edge, interface), (&node, "eth0"))?;
            let socket = node.packet_socket("eth0", Some((&edge, interface)))?;
            neighbours.push((interface.to_owned(), socket));
        }
        edge.ip("address add 192.0.2.2/24 dev eth0\naddress add 2001:db8:2::2/64 dev eth0 nodad\n\
             address add 192.168.1.2/24 dev eth1\nroute add fd00:1::/64 dev eth1\n\
             address add 172.17.0.1/16 dev docker0\naddress add 198.18.5.1/24 dev br-x\n\
             route add default via 192.0.2.1\nroute add default via 2001:db8:2::1")?;
        edge.nft(
            "table ip dockerlike { chain prerouting { type nat hook prerouting priority -100;
               fib daddr type local tcp dport 9091 dnat to 172.17.0.2;
               fib daddr type local tcp dport 9092 dnat to 10.77.88.1:51899;
             }
             }",
        )?;
        edge.nft(WATCH)?;
        install_routing(&edge, &policy.plan().routing)?;
        let own = [Domain::IPV4, Domain::IPV6].map(|domain| {
            edge.within(|| Socket::new(domain, Type::RAW, Some(Protocol::from(255))))?.map_err(Into::into)
        });
        let [four, six]: [Result<Socket>; 2] = own;
        let own = [four?, six?];
        let links: Value = serde_json::from_str(&edge.run("ip -json link")?)?;
        let index = |name: &str| {
            let links = links.as_array().into_iter().flatten();
            let mut named = links.filter(|link| link.get("ifname").and_then(Value::as_str) == Some(name));
            let index = named.next().and_then(|link| link.get("ifindex")?.as_u64());
            index.and_then(|index| u32::try_from(index).ok()).unwrap_or(9_999)
        };
        Ok(Self { policy, system: system(index), edge, neighbours, own })
    }

    /// Puts another policy's rules in place; its routes are the same, since only services differ.
    fn adopt(&mut self, seed: u64) -> Result<()> {
        let policy = generated(seed)?;
        let trust = Pins::new(&policy, &self.system, &[]).trust(&policy, &self.system);
        let uplinks = uplinks(&policy, &self.system, &[]);
        let plan = policy.plan_under(&Conditions {
            trust,
            uplinks,
            link: link_sockets(&policy),
            ..Conditions::default()
        });
        ensure!(plan.routing.routes == self.policy.plan().routing.routes, "policy {seed} has other routes");
        self.load(&plan.ruleset)?;
        self.policy = policy;
        Ok(())
    }

    fn load(&self, ruleset: &Ruleset) -> Result<()> {
        let ruleset = ruleset.replace().to_string();
        self.edge.command("nft").args(["-j", "-f", "-"]).run_with_input(ruleset.as_bytes()).map(drop)
    }

    fn observe(&self, packet: &Packet) -> Result<Seen> {
        self.edge.output("conntrack -F")?;
        self.edge.run("nft reset counters table inet causeway")?;
        self.edge.nft("flush set inet labwatch left4\nflush set inet labwatch left6\nreset counter inet labwatch delivered")?;
        let bytes = encode(packet);
        match &packet.arrival {
            Arrival::Edge => {
                let to = SocketAddr::new(packet.destination, 0);
                // An unreachable route is this call's error.
                let [four, six] = &self.own;
                let _ = if to.is_ipv6() { six } else { four }.send_to(&bytes, &to.into());
            }
            Arrival::Interface(name) => {
                let neighbour = self.neighbours.iter().find(|(known, _)| known == name);
                neighbour.with_context(|| format!("no neighbour on {name}"))?.1.send(&bytes)?;
            }
        }
        let seen = self.read()?;
        if seen.is_something() {
            return Ok(seen);
        }
        // The packet may not have arrived yet.
        std::thread::sleep(Duration::from_millis(20));
        self.read()
    }

    fn read(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        let counters = json(&self.edge.run("nft -j list counters table inet causeway")?)?;
        for counter in counters.iter().filter_map(|object| object.get("counter")) {
            let name = counter.get("name").and_then(Value::as_str).unwrap_or_default();
            let packets = counter.get("packets").and_then(Value::as_u64).unwrap_or(0);
            if packets > 0 && name.starts_with("drop_") {
                seen.drops.push(name.to_owned());
            }
        }
        for object in json(&self.edge.run("nft -j list table inet labwatch")?)? {
            seen.delivered |= object.pointer("/counter/packets").and_then(Value::as_u64).unwrap_or(0) > 0;
            if let Some(elements) = object.pointer("/set/elem").and_then(Value::as_array) {
                seen.left = elements.first().map(left).transpose()?.or(seen.left);
            }
        }
        Ok(seen)
    }
}

impl Seen {
    fn is_something(&self) -> bool {
        self.delivered || self.left.is_some() || !self.drops.is_empty()
    }

    fn is(&self, expected: &Outcome, packet: &Packet) -> bool {
        match expected {
            Outcome::Delivered => self.delivered && self.way_in().is_empty(),
            Outcome::Dropped { stage, reason } => {
                let wanted = format!("drop_{stage}_{reason}");
                let others = self.way_in().iter().any(|drop| **drop != wanted);
                !self.delivered && self.left.is_none() && self.drops.contains(&wanted) && !others
            }
            Outcome::Unroutable => !self.is_something(),
            Outcome::Forwarded { interface, to, port, masqueraded } => {
                self.left.as_ref().is_some_and(|left| {
                    // What the edge sends itself has its own address already.
                    let own = packet.arrival == Arrival::Edge;
                    left.interface == *interface
                        && left.to == *to
                        && port.is_none_or(|port| u64::from(port) == left.port)
                        && (own || (left.source != packet.source) == *masqueraded)
                        && self.drops.is_empty()
                })
            }
        }
    }

    /// The reasons for which the packet itself can have been dropped. The edge's answer to it, such
    /// as an ICMP error, is a packet of its own.
    fn way_in(&self) -> Vec<&String> {
        let answer =
            |drop: &&String| drop.starts_with("drop_output_") || drop.starts_with("drop_postrouting_");
        self.drops.iter().filter(|drop| !answer(drop)).collect()
    }
}

/// Here every frame comes from the neighbour itself, never from a next hop.
fn sent_by_a_host(packet: Packet) -> Packet {
    Packet { relayed: false, ..packet }
}

/// First packets of flows, after everything else has seen them.
const WATCH: &str = "table inet labwatch {
  counter delivered { }
  set left4 { type ifname . ipv4_addr . ipv4_addr . inet_service; flags dynamic; size 64; }
  set left6 { type ifname . ipv6_addr . ipv6_addr . inet_service; flags dynamic; size 64; }
  chain input {
    type filter hook input priority 500;
    ct state new counter name delivered;
  }
  chain postrouting {
    type filter hook postrouting priority 500;
    oifname lo return;
    ct state new meta nfproto ipv4 add @left4 { oifname . ip saddr . ip daddr . th dport };
    ct state new meta nfproto ipv6 add @left6 { oifname . ip6 saddr . ip6 daddr . th dport };
  }
}";

fn generated(seed: u64) -> Result<Policy> {
    let text = gateway_text(seed);
    let policy = parse(&Source { name: Path::new("gateway.toml"), text: &text });
    policy.ok().with_context(|| format!("seed {seed} gives an invalid policy"))
}

fn install_routing(edge: &Node, routing: &Routing) -> Result<()> {
    // `ip -batch` takes no family per line.
    let (mut four, mut six) = (String::new(), String::new());
    let device = routing.device.name.as_str();
    for address in &routing.device.addresses {
        let (batch, nodad) = if address.is_ipv6() { (&mut six, "nodad") } else { (&mut four, "") };
        writeln!(batch, "address add {address} dev {device} {nodad}")?;
    }
    for route in &routing.routes {
        let to = match route.kind {
            RouteKind::Tunnel => format!("{} dev {device}", route.destination),
            RouteKind::Unreachable => format!("unreachable {}", route.destination),
        };
        let batch = if route.destination.is_ipv6() { &mut six } else { &mut four };
        writeln!(batch, "route add {to} table {} metric {}", route.table, route.metric)?;
    }
    for rule in &routing.rules {
        let selector = match rule.selector {
            Selector::Fwmark(mark) => format!("fwmark {mark}"),
            Selector::To(prefix) => format!("to {prefix}"),
            Selector::All => String::new(),
        };
        let batch = if rule.ipv6 { &mut six } else { &mut four };
        writeln!(batch, "rule add priority {} {selector} lookup {}", rule.priority, rule.table)?;
    }
    edge.ip(&four)?;
    edge.command("ip").args(["-6", "-batch", "-"]).run_with_input(six.as_bytes())?;
    for sysctl in &routing.sysctls {
        edge.sysctl(&sysctl.path, &sysctl.value.to_string())?;
    }
    Ok(())
}

fn json(text: &str) -> Result<Vec<Value>> {
    let answer: Value = serde_json::from_str(text)?;
    let list = answer.get("nftables").and_then(Value::as_array).context("no list from nft")?;
    Ok(list.clone())
}

fn left(element: &Value) -> Result<Left> {
    // Elements with a timeout or counter are wrapped once more.
    let element = element.pointer("/elem/val").unwrap_or(element);
    let parts = element.get("concat").and_then(Value::as_array).context("an element without parts")?;
    let [interface, source, to, port] = parts.as_slice() else {
        bail!("an element of {} parts", parts.len())
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).context("an element without text");
    Ok(Left {
        interface: text(interface)?,
        source: text(source)?.parse()?,
        to: text(to)?.parse()?,
        port: port.as_u64().unwrap_or(0),
    })
}

/// The packet as it is on a wire, with checksums.
fn encode(packet: &Packet) -> Vec<u8> {
    let (protocol, mut segment, checksum_at) = match packet.transport {
        Transport::Tcp { source, destination } => (6, tcp(source, destination, SYN), 16),
        Transport::Stray { source, destination } => (6, tcp(source, destination, ACK), 16),
        Transport::Udp { source, destination } => {
            let mut segment = ports(source, destination);
            segment.extend([0, 12, 0, 0, b'w', b'o', b'r', b'd']);
            (17, segment, 6)
        }
        Transport::Echo if packet.source.is_ipv4() => (1, vec![8, 0, 0, 0, 0, 1, 0, 1], 2),
        Transport::Echo => (58, vec![128, 0, 0, 0, 0, 1, 0, 1], 2),
    };
    let length = u16::try_from(segment.len()).unwrap_or(0);
    let mut covered = Vec::new();
    if protocol != 1 {
        covered.extend(octets(packet.source));
        covered.extend(octets(packet.destination));
        covered.extend([0, protocol]);
        covered.extend(length.to_be_bytes());
    }
    covered.extend(&segment);
    let sum = checksum(&covered).to_be_bytes();
    segment.iter_mut().skip(checksum_at).zip(sum).for_each(|(byte, sum)| *byte = sum);
    let mut header = header(packet, protocol, length);
    header.extend(segment);
    header
}

fn header(packet: &Packet, protocol: u8, length: u16) -> Vec<u8> {
    let mut header = Vec::new();
    if packet.source.is_ipv4() {
        header.extend([0x45, 0]);
        header.extend((length + 20).to_be_bytes());
        header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(octets(packet.source));
        header.extend(octets(packet.destination));
        let sum = checksum(&header).to_be_bytes();
        header.iter_mut().skip(10).zip(sum).for_each(|(byte, sum)| *byte = sum);
    } else {
        header.extend([0x60, 0, 0, 0]);
        header.extend(length.to_be_bytes());
        header.extend([protocol, 64]);
        header.extend(octets(packet.source));
        header.extend(octets(packet.destination));
    }
    header
}

/// Flags of TCP.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), low]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}
