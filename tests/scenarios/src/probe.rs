//! Raw packets that try ports, and a record of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Node, PacketSocket, until};
use serde_json::Value;
use tunnel::packet::tcp_flags;

use crate::forge::{datagram, segment, syn};

/// How many packets are sent at most before the sender waits until the receiver has counted them.
const BURST: usize = 1_000;

/// Tries ports of other machines from one interface of a node, with any source address.
#[derive(Debug)]
pub struct Probe {
    node: Node,
    socket: PacketSocket,
    source: Ipv4Addr,
}

impl Probe {
    /// Sends from `source` out of `interface`, to `neighbour` there, and records from now on what
    /// comes in by it.
    pub fn new(node: &Node, interface: &str, neighbour: Option<(&Node, &str)>, source: &str) -> Result<Self> {
        node.nft(&format!(
            "table inet probe {{
               set tcp_from {{ type ipv4_addr . inet_service; flags dynamic; size 131072; }}
               set udp_from {{ type ipv4_addr . inet_service; flags dynamic; size 131072; }}
               counter unreachable {{ }}
               chain in {{ type filter hook prerouting priority -500;
                 iifname {interface} tcp flags & (syn | ack) != syn add @tcp_from {{ ip saddr . tcp sport }}
                 iifname {interface} meta l4proto udp add @udp_from {{ ip saddr . udp sport }}
                 iifname {interface} icmp type destination-unreachable counter name unreachable
               }}
             }}"
        ))?;
        if neighbour.is_none() {
            // A TUN's queue must hold a burst.
            node.run(&format!("ip link set {interface} txqueuelen {}", 2 * BURST))?;
        }
        let socket = node.packet_socket(interface, neighbour)?;
        Ok(Self { node: node.clone(), socket, source: source.parse()? })
    }

    /// Sends one SYN to each port of `target`. `counted` says how many packets the receiver has
    /// seen by its own counters; the next burst waits until it has seen the one before, so that
    /// none is lost in a queue.
    pub fn syns(&self, target: &str, ports: &[u16], counted: impl Fn() -> Result<u64>) -> Result<()> {
        self.bursts(ports, counted, |port| syn(self.source, target.parse()?, (40_000, port)))
    }

    /// As [`Probe::syns`], with datagrams.
    pub fn datagrams(&self, target: &str, ports: &[u16], counted: impl Fn() -> Result<u64>) -> Result<()> {
        self.bursts(ports, counted, |port| datagram(self.source, target.parse()?, (40_000, port), b"word"))
    }

    /// Sends one SYN from this port.
    pub fn syn(&self, from: u16, target: &str, port: u16) -> Result<()> {
        self.socket.send(&syn(self.source, target.parse()?, (from, port))?)
    }

    /// Sends one segment of a flow that is under way from this port.
    pub fn ack(&self, from: u16, target: &str, port: u16) -> Result<()> {
        self.socket.send(&segment(self.source, target.parse()?, (from, port), tcp_flags::ACK)?)
    }

    fn bursts(
        &self,
        ports: &[u16],
        counted: impl Fn() -> Result<u64>,
        packet: impl Fn(u16) -> Result<Vec<u8>>,
    ) -> Result<()> {
        for burst in ports.chunks(BURST) {
            let goal = counted()? + burst.len() as u64;
            for &port in burst {
                self.socket.send(&packet(port)?)?;
            }
            until(Duration::from_secs(30), "every try to be counted", || {
                Ok((counted()? >= goal).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The TCP ports of `target` from which anything came, a refusal included; a SYN of its own, such
    /// as the edge's that tries a service, is no reply.
    pub fn tcp_answers(&self, target: &str) -> Result<BTreeSet<u16>> {
        self.answers("tcp", target)
    }

    /// The UDP ports of `target` from which anything came.
    pub fn udp_answers(&self, target: &str) -> Result<BTreeSet<u16>> {
        self.answers("udp", target)
    }

    /// Whether any ICMP error said that a port or a host cannot be reached.
    pub fn got_unreachable(&self) -> Result<bool> {
        let text = self.node.run("nft list counter inet probe unreachable")?;
        Ok(!text.contains("packets 0 "))
    }

    fn answers(&self, set: &str, target: &str) -> Result<BTreeSet<u16>> {
        let ports =
            self.elements(set)?.into_iter().filter_map(|(from, port)| (from == target).then_some(port));
        Ok(ports.filter_map(|port| u16::try_from(port).ok()).collect())
    }

    fn elements(&self, set: &str) -> Result<Vec<(String, u64)>> {
        let text = self.node.run(&format!("nft -nj list set inet probe {set}_from"))?;
        let answer: Value = serde_json::from_str(&text)?;
        let objects = answer.get("nftables").and_then(Value::as_array).context("no list from nft")?;
        let elements =
            objects.iter().find_map(|object| object.pointer("/set/elem")).and_then(Value::as_array);
        elements.into_iter().flatten().map(pair).collect()
    }
}

/// The gateway's own counters, by name, with the number of packets of each.
pub fn packet_counters(edge: &Node) -> Result<BTreeMap<String, u64>> {
    let text = edge.run("nft -j list counters table inet causeway")?;
    let answer: Value = serde_json::from_str(&text)?;
    let objects = answer.get("nftables").and_then(Value::as_array).context("no list from nft")?;
    let counters = objects.iter().filter_map(|object| object.get("counter"));
    Ok(counters
        .filter_map(|counter| {
            let name = counter.get("name").and_then(Value::as_str)?;
            Some((name.to_owned(), counter.get("packets").and_then(Value::as_u64)?))
        })
        .collect())
}

/// How much each of the gateway's counters has grown since an earlier reading; those that have not
/// are left out.
pub fn growth(edge: &Node, before: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>> {
    let now = packet_counters(edge)?;
    let grown = now.into_iter().map(|(name, packets)| {
        let more = packets - before.get(&name).copied().unwrap_or(0).min(packets);
        (name, more)
    });
    Ok(grown.filter(|(_, more)| *more > 0).collect())
}

fn pair(element: &Value) -> Result<(String, u64)> {
    // Elements with a timeout or counter are wrapped once more.
    let element = element.pointer("/elem/val").unwrap_or(element);
    let parts = element.get("concat").and_then(Value::as_array).context("an element without parts")?;
    let from = parts.first().and_then(Value::as_str).context("an element without an address")?;
    let what = parts.get(1).context("an element of one part")?;
    Ok((from.to_owned(), what.as_u64().unwrap_or(0)))
}
