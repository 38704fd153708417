//! The worked example's surroundings, out of veth pairs in one namespace: the edge has one end of
//! each pair, the test sends into and captures at the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pnet::datalink::{self, Channel, DataLinkReceiver, DataLinkSender};
use policy::evaluator::{Arrival, Outcome, Packet, Transport};
use policy::gateway::Policy;
use policy::plan::{Conditions, Plan, RouteKind, Routing, Selector};
use policy::ruleset::{Present, Ruleset};
use policy::trust::Pins;
use policy::uplinks::uplinks;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netfilter::Netfilter;
use crate::wire;

const INTERFACES: [&str; 5] = ["eth0", "eth1", "docker0", "br-x", "gw0"];

/// Sources under a ban, whatever the policy.
pub(crate) const BANNED: [&str; 2] = ["203.0.113.66", "2001:db8:1::66"];

/// A compiled policy: the commands that fill an empty table, and the routing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) commands: Vec<Value>,
    pub(crate) routing: Routing,
}

pub(crate) struct Stage {
    wires: BTreeMap<&'static str, Wire>,
    netfilter: Netfilter,
    /// What is installed already, which most policies have in common.
    routing: Option<Routing>,
    /// Source port, or identifier of an echo request, that identifies the packet under way.
    identity: u16,
}

/// What happened to a packet.
#[derive(Debug)]
pub(crate) struct Observed {
    /// `None` when it vanished without a trace.
    pub(crate) outcome: Option<Outcome>,
    /// Counters of services, in the direction of a flow's first packet, that counted something.
    pub(crate) counted: Vec<String>,
}

struct Wire {
    mac: [u8; 6],
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Compiled {
    pub(crate) fn of(plan: &Plan) -> Self {
        let install = plan.ruleset.install(&Present::nothing());
        let commands = install["nftables"].as_array().unwrap().clone();
        Self { commands, routing: plan.routing.clone() }
    }
}

impl Stage {
    /// What a policy compiles to for the interfaces of this stage.
    pub(crate) fn plan(policy: &Policy) -> Plan {
        Self::plan_with(policy, arbitrary::link_sockets(policy))
    }

    /// The same while the daemon owns these sockets of the link.
    pub(crate) fn plan_with(policy: &Policy, link: Vec<SocketAddr>) -> Plan {
        policy.plan_under(&Self::conditions(policy, link))
    }

    /// What the interfaces of this stage are to a plan.
    pub(crate) fn conditions(policy: &Policy, link: Vec<SocketAddr>) -> Conditions {
        let interfaces = datalink::interfaces();
        let index = |name: &str| interfaces.iter().find(|it| it.name == name).map_or(9_999, |it| it.index);
        let system = arbitrary::system(index);
        let trust = Pins::new(policy, &system, &[]).trust(policy, &system);
        let uplinks = uplinks(policy, &system, &[]);
        Conditions { trust, uplinks, link, ..Conditions::default() }
    }

    pub(crate) fn build() -> Self {
        shell(SURROUNDINGS);
        let wires = INTERFACES.iter().map(|&name| (name, Wire::open(name))).collect();
        Self { wires, netfilter: Netfilter::open(), routing: None, identity: 40_000 }
    }

    /// Installs a plan in place of whatever there is, as a daemon does: in one transaction that
    /// keeps what lives on.
    pub(crate) fn change_to(&mut self, plan: &Plan) {
        let tables = run("nft", &["-j", "list", "ruleset", "inet"], "");
        let present = Present::from_listing(&tables).unwrap();
        let install = plan.ruleset.install(&present);
        self.put(install["nftables"].as_array().unwrap(), &plan.routing);
    }

    /// Removes the table, and installs another one that has nothing of it.
    pub(crate) fn install_table(&mut self, plan: &Plan) {
        run("nft", &["-j", "-f", "-"], &plan.ruleset.replace().to_string());
        shell(&routing_script(&plan.routing));
        self.netfilter.forget_flows();
    }

    /// Removes everything, and installs a plan that may have a fault.
    pub(crate) fn install(&mut self, compiled: &Compiled) {
        let teardown = Ruleset::teardown();
        let commands = teardown["nftables"].as_array().unwrap().iter().chain(&compiled.commands);
        self.put(&commands.cloned().collect::<Vec<_>>(), &compiled.routing);
    }

    fn put(&mut self, commands: &[Value], routing: &Routing) {
        let bans = BANNED.iter().map(|address| {
            let set = if address.contains(':') { "bans6" } else { "bans4" };
            let element = json!({"elem": {"val": address, "timeout": 3600}});
            json!({"add": {"element": {"family": "inet", "table": "causeway", "name": set, "elem": [element]}}})
        });
        let commands: Vec<Value> = commands.iter().cloned().chain(bans).collect();
        run("nft", &["-j", "-f", "-"], &json!({"nftables": commands}).to_string());
        if self.routing.as_ref() != Some(routing) {
            shell(&routing_script(routing));
            self.routing = Some(routing.clone());
        }
        self.netfilter.forget_flows();
    }

    /// The packet with a source port that no packet before it had; an echo request has such an
    /// identifier.
    pub(crate) fn numbered(&mut self, mut packet: Packet) -> Packet {
        self.identity = if self.identity == u16::MAX { 40_000 } else { self.identity + 1 };
        match &mut packet.transport {
            Transport::Tcp { source, .. }
            | Transport::Stray { source, .. }
            | Transport::Udp { source, .. } => *source = self.identity,
            Transport::Echo => {}
        }
        packet
    }

    /// Sends one packet and finds out what happened to it; `timeout` is how long to wait for one
    /// that vanishes.
    pub(crate) fn send(&mut self, packet: &Packet, timeout: Duration) -> Observed {
        let delivered = self.netfilter.counters("probe");
        let before = self.netfilter.counters("causeway");
        let routeless = routeless();
        match &packet.arrival {
            Arrival::Interface(name) => {
                self.wires.get_mut(name.as_str()).unwrap().send(packet, self.identity);
            }
            Arrival::Edge => send_from_edge(packet, self.identity),
        }
        let sent = Instant::now();
        loop {
            let captured = self.captured(packet);
            let after = self.netfilter.counters("causeway");
            let outcome = captured
                .or_else(|| (self.netfilter.counters("probe") != delivered).then_some(Outcome::Delivered))
                .or_else(|| dropped(&before, &after))
                .or_else(|| (self::routeless() != routeless).then_some(Outcome::Unroutable));
            if outcome.is_some() || sent.elapsed() > timeout {
                return Observed { outcome, counted: counted(&before, &after) };
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn captured(&mut self, packet: &Packet) -> Option<Outcome> {
        let mut found = None;
        for (name, wire) in &mut self.wires {
            while let Ok(frame) = wire.receiver.next() {
                let Some(seen) = wire::seen(frame, wire.mac) else { continue };
                if seen.identity == self.identity {
                    found = Some(Outcome::Forwarded {
                        interface: (*name).to_owned(),
                        to: seen.destination,
                        port: seen.port,
                        masqueraded: seen.source != packet.source,
                    });
                }
            }
        }
        found
    }
}

impl Wire {
    fn open(name: &str) -> Self {
        let interfaces = datalink::interfaces();
        let find = |wanted: &str| interfaces.iter().find(|interface| interface.name == wanted).unwrap();
        let mac = find(name).mac.unwrap().octets();
        let config = datalink::Config { read_timeout: Some(Duration::ZERO), ..Default::default() };
        match datalink::channel(find(&format!("{name}x")), config).unwrap() {
            Channel::Ethernet(sender, receiver) => Self { mac, sender, receiver },
            _ => panic!("not an Ethernet channel"),
        }
    }

    fn send(&mut self, packet: &Packet, identity: u16) {
        let frame = wire::frame(packet, identity, self.mac);
        self.sender.send_to(&frame, None).unwrap().unwrap();
    }
}

/// Sends through an ordinary socket; when the rules drop the packet, the call may fail.
fn send_from_edge(packet: &Packet, identity: u16) {
    let ipv6 = packet.source.is_ipv6();
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    match packet.transport {
        Transport::Udp { source, destination } => {
            let socket = UdpSocket::bind((packet.source, source)).unwrap();
            let _ = socket.send_to(b"abcd", (packet.destination, destination));
        }
        Transport::Tcp { source, destination } => {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((packet.source, source)).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&SocketAddr::from((packet.destination, destination)).into());
        }
        Transport::Stray { .. } => panic!("sockets send no such thing"),
        Transport::Echo => {
            let protocol = if ipv6 { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            socket.bind(&SocketAddr::from((packet.source, 0)).into()).unwrap();
            let to = SocketAddr::from((packet.destination, 0)).into();
            let _ = socket.send_to(&wire::echo(identity, ipv6), &to);
        }
    }
}

/// How many IPv6 packets found no route.
fn routeless() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/net/snmp6").unwrap();
    let words: Vec<&str> = counters.split_whitespace().collect();
    let wanted = |name: &str| matches!(name, "Ip6InNoRoutes" | "Ip6OutNoRoutes");
    words.chunks(2).filter(|pair| wanted(pair[0])).map(|pair| pair[1].parse::<u64>().unwrap()).sum()
}

fn counted(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    let service = |name: &str| name.starts_with("publish_in_") || name.starts_with("allow_in_");
    let grown = after.iter().filter(|(name, packets)| service(name) && before.get(*name) != Some(packets));
    grown.map(|(name, _)| name.clone()).collect()
}

fn dropped(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Option<Outcome> {
    let grown =
        after.iter().find(|(name, packets)| name.starts_with("drop_") && before.get(*name) != Some(packets));
    let (stage, reason) = grown?.0.strip_prefix("drop_")?.split_once('_')?;
    // The evaluator's reasons are static strings, so these few must be as well.
    Some(Outcome::Dropped { stage: stage.to_owned().leak(), reason: reason.to_owned().leak() })
}

/// Replaces the routes and rules that an earlier plan made.
fn routing_script(routing: &Routing) -> String {
    let mut script = String::from(
        "set +e\nfor f in -4 -6; do ip $f route flush table 4357; for p in 4357 4358 4359; do\n\
         while ip $f rule del priority $p; do :; done; done; done 2>/dev/null\nset -e\n",
    );
    for route in &routing.routes {
        let (kind, device) = match route.kind {
            RouteKind::Tunnel => ("", format!("dev {}", routing.device.name)),
            RouteKind::Unreachable => ("unreachable ", String::new()),
        };
        let family = if route.destination.is_ipv6() { "-6" } else { "-4" };
        let (to, table, metric) = (route.destination, route.table, route.metric);
        writeln!(script, "ip {family} route add {kind}{to} {device} table {table} metric {metric}").unwrap();
    }
    for rule in &routing.rules {
        let selector = match rule.selector {
            Selector::Fwmark(mark) => format!("fwmark {mark}"),
            Selector::To(prefix) => format!("to {prefix}"),
            Selector::All => String::new(),
        };
        let family = if rule.ipv6 { "-6" } else { "-4" };
        let (priority, table) = (rule.priority, rule.table);
        writeln!(script, "ip {family} rule add priority {priority} {selector} lookup {table}").unwrap();
    }
    for sysctl in &routing.sysctls {
        writeln!(script, "echo {} > /proc/sys/{}", sysctl.value, sysctl.path).unwrap();
    }
    script
}

fn shell(script: &str) {
    run("sh", &["-e", "-s"], script);
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} must be there: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}\n{input}");
    String::from_utf8(output.stdout).unwrap()
}

const SURROUNDINGS: &str = "
mount -t sysfs none /sys 2>/dev/null || true
ip link set lo up
for name in eth0 eth1 docker0 br-x gw0; do
  ip link add $name type veth peer name ${name}x
  echo 1 > /proc/sys/net/ipv6/conf/${name}x/disable_ipv6
  echo 0 > /proc/sys/net/ipv6/conf/$name/accept_dad
  ip link set $name arp off
  ip link set $name up
  ip link set ${name}x up
done
ip addr add 192.0.2.2/24 dev eth0
ip addr add 2001:db8:2::2/64 dev eth0 nodad
ip addr add 192.168.1.2/24 dev eth1
ip addr add 172.17.0.1/16 dev docker0
ip addr add 198.18.5.1/24 dev br-x
ip addr add 10.77.88.1/24 dev gw0
ip addr add fd00:77::1/64 dev gw0 nodad
ip -6 route add fd00:1::/64 dev eth1
ip route add default dev eth0
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
for name in eth0 eth1 docker0 br-x gw0; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done
nft -f - <<'E'
table netdev probe {
  chain eth0x { type filter hook ingress device eth0x priority 0; drop
  }
  chain eth1x { type filter hook ingress device eth1x priority 0; drop
  }
  chain br-xx { type filter hook ingress device br-xx priority 0; drop
  }
  chain docker0x { type filter hook ingress device docker0x priority 0; drop
  }
  chain gw0x { type filter hook ingress device gw0x priority 0; drop
  }
}
table ip containers {
  chain prerouting {
    type nat hook prerouting priority -100;
    fib daddr type local tcp dport 9091 dnat to 172.17.0.2:9091
    fib daddr type local tcp dport { 9092, 9093 } dnat to 10.77.88.1:51899
  }
}
table inet probe {
  counter delivered {
  }
  chain input {
    type filter hook input priority 500;
    meta l4proto { tcp, udp } th sport >= 40000 counter name delivered
    icmp type echo-request counter name delivered
    icmpv6 type echo-request counter name delivered
  }
}
E
echo 0 > /proc/sys/net/netfilter/nf_conntrack_checksum
";
