//! What the new process knows of the old one: which flows are its, and until when.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tunnel::packet::icmp_error::IcmpError;
use tunnel::packet::{Ip, Tcp, Udp, protocol};
use tunnel::time::Instant;

use crate::flow::{EdgeId, FlowKey};

/// A flow of the old process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PassedFlow {
    /// TCP or UDP, as in the IP header.
    pub protocol: u8,
    /// Its edge and ends.
    pub key: FlowKey,
}

/// Edge, our address and the other one: all that a fragment has.
type Ends = (EdgeId, IpAddr, IpAddr);

/// The old process, as long as it has flows.
#[derive(Debug)]
pub struct OldProcess {
    flows: HashSet<PassedFlow>,
    /// Its UDP flows by their addresses.
    datagrams: HashMap<Ends, u32>,
    limit: usize,
    is_complete: bool,
    ends: Instant,
}

impl OldProcess {
    /// An old process that has not reported any flow yet. It may have `limit` flows, as `[limits]`
    /// has it, and they end at `ends` at the latest.
    #[must_use]
    pub fn new(limit: usize, ends: Instant) -> Self {
        let (flows, datagrams) = (HashSet::new(), HashMap::new());
        Self { flows, datagrams, limit, is_complete: false, ends }
    }

    /// Takes flows that it has. Returns how many were beyond the limit: their packets are treated as
    /// those of unknown flows.
    pub fn handle_flows(&mut self, flows: impl IntoIterator<Item = PassedFlow>) -> usize {
        let mut beyond = 0;
        for flow in flows {
            if self.flows.contains(&flow) {
                continue;
            }
            if self.flows.len() >= self.limit {
                beyond += 1;
                continue;
            }
            self.flows.insert(flow);
            if flow.protocol == protocol::UDP {
                *self.datagrams.entry(ends(&flow)).or_default() += 1;
            }
        }
        beyond
    }

    /// It has reported all of its flows, and they end at `ends` at the latest.
    pub const fn handle_take_over(&mut self, ends: Instant) {
        self.is_complete = true;
        self.ends = ends;
    }

    /// One of its flows has ended: the next packet of that key begins a flow here.
    pub fn handle_ended(&mut self, flow: &PassedFlow) {
        if self.flows.remove(flow)
            && flow.protocol == protocol::UDP
            && let Some(count) = self.datagrams.get_mut(&ends(flow))
        {
            *count -= 1;
            if *count == 0 {
                self.datagrams.remove(&ends(flow));
            }
        }
    }

    /// Whether it has reported all of its flows.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether a flow is its. What opens a flow with the key of one of its own is for it too: it
    /// knows whether that is the same flow, still opening.
    #[must_use]
    pub fn has(&self, flow: &PassedFlow) -> bool {
        self.flows.contains(flow)
    }

    /// Whether a packet out of an edge's tunnel is for it. A fragment is, where it has a UDP flow
    /// between the two addresses: it has no port.
    #[must_use]
    pub fn takes(&self, edge: EdgeId, packet: &[u8]) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let Ok(ip) = Ip::parse(packet) else { return false };
        let Some(packet) = packet.get(..ip.total_len) else { return false };
        if ip.fragment.is_some() {
            return ip.protocol == protocol::UDP && self.datagrams.contains_key(&(edge, ip.dst, ip.src));
        }
        let flow = |ports: (u16, u16)| PassedFlow {
            protocol: ip.protocol,
            key: FlowKey { edge, local: (ip.dst, ports.0).into(), remote: (ip.src, ports.1).into() },
        };
        match ip.protocol {
            protocol::TCP => Tcp::parse(ip.payload(packet))
                .is_ok_and(|tcp| self.has(&flow((tcp.destination_port, tcp.source_port)))),
            protocol::UDP => Udp::parse(ip.payload(packet))
                .is_ok_and(|udp| self.has(&flow((udp.destination_port, udp.source_port)))),
            protocol::ICMP | protocol::ICMPV6 => IcmpError::parse(&ip, packet).is_some_and(|error| {
                let key = FlowKey { edge, local: error.local, remote: error.remote };
                self.has(&PassedFlow { protocol: error.protocol, key })
            }),
            _ => false,
        }
    }

    /// How many flows it has, for `status` and the metrics.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// When its time is over.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.ends
    }
}

const fn ends(flow: &PassedFlow) -> Ends {
    (flow.key.edge, flow.key.local.ip(), flow.key.remote.ip())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::datagram::Buffer;

    #[test]
    fn a_flow_is_its_until_it_ends() {
        let mut old = OldProcess::new(10, at(30));
        assert_eq!(old.handle_flows([flow(1), flow(2)]), 0);
        assert!(!old.is_complete());
        old.handle_take_over(at(40));
        assert!(old.is_complete() && old.deadline() == at(40));
        assert!(old.has(&flow(1)) && !old.has(&flow(3)));
        let udp = PassedFlow { protocol: protocol::UDP, ..flow(1) };
        assert!(!old.has(&udp), "the same ends in another protocol");
        old.handle_ended(&flow(1));
        assert!(!old.has(&flow(1)));
        assert_eq!(old.flows(), 1);
    }

    #[test]
    fn flows_beyond_the_limit_are_not_taken_and_one_that_is_named_twice_counts_once() {
        let mut old = OldProcess::new(2, at(30));
        assert_eq!(old.handle_flows([flow(1), flow(1), flow(2), flow(3), flow(1)]), 1);
        assert_eq!(old.flows(), 2);
        assert!(!old.has(&flow(3)));
        old.handle_ended(&flow(1));
        assert_eq!(old.handle_flows([flow(3)]), 0, "there is room again");
    }

    #[test]
    fn a_packet_and_each_fragment_of_its_flows_are_for_it_and_those_of_another_edge_are_not() {
        let udp = PassedFlow { protocol: protocol::UDP, ..flow(1) };
        let mut old = OldProcess::new(2, at(30));
        old.handle_flows([udp]);
        let (edge, other) = (EdgeId(0), EdgeId(1));
        for packet in packets(&udp, 10).iter().chain(&packets(&udp, 3_000)) {
            assert!(old.takes(edge, packet) && !old.takes(other, packet));
        }
        let whole = |port| packets(&PassedFlow { protocol: protocol::UDP, ..flow(port) }, 10);
        assert!(whole(2).iter().all(|packet| !old.takes(edge, packet)), "another port");
        assert!(!old.takes(edge, b"") && !old.takes(edge, &[0x45; 20]));
        old.handle_ended(&udp);
        old.handle_ended(&udp);
        assert!(packets(&udp, 3_000).iter().all(|packet| !old.takes(edge, packet)));
    }

    /// What the other end of a UDP flow sends.
    fn packets(flow: &PassedFlow, length: usize) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let ends = (flow.key.remote, flow.key.local);
        Buffer::default().packets(ends, length, (1_400, 7), |packet| packets.push(packet.to_vec()));
        packets
    }

    fn flow(port: u16) -> PassedFlow {
        let end = |address: [u8; 4], port| SocketAddr::from((address, port));
        let (local, remote) = (end([192, 168, 88, 2], 443), end([203, 0, 113, 10], port));
        PassedFlow { protocol: protocol::TCP, key: FlowKey { edge: EdgeId(0), local, remote } }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }
}
