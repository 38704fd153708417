//! The worked example's surroundings, out of veth pairs in one namespace: the edge has one end of each pair, the test
//! sends into and captures at the other.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use pnet::datalink::{self, Channel, DataLinkReceiver, DataLinkSender};
use policy::evaluator::{Arrival, Outcome, Packet, Transport};
use policy::plan::{Plan, RouteKind, Selector};
use policy::ruleset::Present;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire;

const INTERFACES: [&str; 4] = ["eth0", "eth1", "docker0", "gw0"];

pub(crate) struct Stage {
    wires: BTreeMap<&'static str, Wire>,
    /// Source port, or identifier of an echo request, by which the packet under way is known.
    identity: u16,
}

struct Wire {
    mac: [u8; 6],
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Stage {
    pub(crate) fn build() -> Self {
        shell(SURROUNDINGS);
        let wires = INTERFACES.iter().map(|&name| (name, Wire::open(name))).collect();
        Self { wires, identity: 40_000 }
    }

    /// Installs the rules and the routes of a plan in place of those before.
    pub(crate) fn install(&mut self, plan: &Plan) {
        run("nft", &["-j", "-f", "-"], &plan.ruleset.replace().to_string());
        let present =
            Present::from_listing(&run("nft", &["-j", "list", "table", "inet", "causeway"], "")).unwrap();
        run("nft", &["-j", "-f", "-"], &plan.ruleset.install(&present).to_string());
        let mut script = String::from(
            "set +e\nfor f in -4 -6; do ip $f route flush table 4357; for p in 4357 4358 4359; do\n",
        );
        script.push_str("while ip $f rule del priority $p; do :; done; done; done 2>/dev/null\nset -e\n");
        for route in &plan.routing.routes {
            let kind = match route.kind {
                RouteKind::Tunnel => (String::new(), format!("dev {}", plan.routing.device.name)),
                RouteKind::Unreachable => ("unreachable ".to_owned(), String::new()),
            };
            script.push_str(&format!(
                "ip {} route add {}{} {} table {} metric {}\n",
                if route.destination.is_ipv6() { "-6" } else { "-4" },
                kind.0,
                route.destination,
                kind.1,
                route.table,
                route.metric
            ));
        }
        for rule in &plan.routing.rules {
            let selector = match rule.selector {
                Selector::Fwmark(mark) => format!("fwmark {mark}"),
                Selector::To(prefix) => format!("to {prefix}"),
                Selector::All => String::new(),
            };
            let family = if rule.ipv6 { "-6" } else { "-4" };
            script.push_str(&format!(
                "ip {family} rule add priority {} {selector} lookup {}\n",
                rule.priority, rule.table
            ));
        }
        for sysctl in &plan.routing.sysctls {
            script.push_str(&format!("echo {} > /proc/sys/{}\n", sysctl.value, sysctl.path));
        }
        shell(&script);
    }

    /// The packet with a source port that no packet before it had; an echo request has such an identifier.
    pub(crate) fn numbered(&mut self, mut packet: Packet) -> Packet {
        self.identity = if self.identity == u16::MAX { 40_000 } else { self.identity + 1 };
        match &mut packet.transport {
            Transport::Tcp { source, .. } | Transport::Udp { source, .. } => *source = self.identity,
            Transport::Echo => {}
        }
        packet
    }

    /// Sends one packet and finds out what became of it.
    pub(crate) fn send(&mut self, packet: &Packet) -> Outcome {
        let delivered = counters("probe");
        let before = counters("causeway");
        match &packet.arrival {
            Arrival::Interface(name) => {
                self.wires.get_mut(name.as_str()).unwrap().send(packet, self.identity)
            }
            Arrival::Edge => send_from_edge(packet, self.identity),
        }
        for attempt in 0..3 {
            if let Some(outcome) = self.captured(packet) {
                return outcome;
            }
            if counters("probe") != delivered {
                return Outcome::Delivered;
            }
            if let Some(outcome) = dropped(&before, &counters("causeway")) {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(5 * attempt));
        }
        Outcome::Unroutable
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
        let config = datalink::Config { read_timeout: Some(Duration::from_millis(1)), ..Default::default() };
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

/// Through an ordinary socket; a packet that the rules drop may be an error of the call.
fn send_from_edge(packet: &Packet, identity: u16) {
    match packet.transport {
        Transport::Udp { source, destination } => {
            let socket = UdpSocket::bind((packet.source, source)).unwrap();
            let _ = socket.send_to(b"abcd", (packet.destination, destination));
        }
        Transport::Tcp { source, destination } => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((packet.source, source)).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&SocketAddr::from((packet.destination, destination)).into());
        }
        Transport::Echo => {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
            socket.bind(&SocketAddr::from((packet.source, 0)).into()).unwrap();
            let _ = socket
                .send_to(&wire::echo(identity, false), &SocketAddr::from((packet.destination, 0)).into());
        }
    }
}

/// Packets in each counter of one of our tables.
fn counters(table: &str) -> BTreeMap<String, u64> {
    let listing: Value =
        serde_json::from_str(&run("nft", &["-j", "list", "counters", "table", "inet", table], "")).unwrap();
    let counters = listing["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("counter"));
    counters.map(|c| (c["name"].as_str().unwrap().to_owned(), c["packets"].as_u64().unwrap())).collect()
}

fn dropped(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Option<Outcome> {
    let grown =
        after.iter().find(|(name, packets)| name.starts_with("drop_") && before.get(*name) != Some(packets));
    let (stage, reason) = grown?.0.strip_prefix("drop_")?.split_once('_')?;
    // The evaluator's words live for ever; so do these few of the test.
    Some(Outcome::Dropped { stage: stage.to_owned().leak(), reason: reason.to_owned().leak() })
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
for name in eth0 eth1 docker0 gw0; do
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
ip addr add 10.77.88.1/24 dev gw0
ip addr add fd00:77::1/64 dev gw0 nodad
ip -6 route add fd00:1::/64 dev eth1
ip route add default dev eth0
ip -6 route add default dev eth0
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
for name in eth0 eth1 docker0 gw0; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done
nft -f - <<'E'
table netdev probe {
  chain eth0x { type filter hook ingress device eth0x priority 0; drop
  }
  chain eth1x { type filter hook ingress device eth1x priority 0; drop
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
