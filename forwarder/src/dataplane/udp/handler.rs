//! What happens to UDP flows: datagrams out of the tunnel, ready sockets, timers.

use std::io;
use std::net::SocketAddr;

use tunnel::packet::icmp::Error;
use tunnel::packet::icmp_error::{IcmpError, Kind};
use tunnel::packet::{Ip, Sum, Udp, protocol};
use tunnel::time::Now;

use super::dialler::Dialler;
use super::flow::{self, Side, UdpFlow};
use super::flows::UdpFlows;
use super::reach::ListenerReader;
use crate::datagram::Joined;
use crate::dataplane::context::Context;
use crate::dataplane::edge::Edge;
use crate::dataplane::edges::Edges;
use crate::dataplane::owner::Owner;
use crate::flow::{EdgeId, FlowKey, SlotId};
use crate::stats::{Dropped, add};
use crate::upstream::Lease;

/// Datagrams a socket may hand over before the next one has its turn.
const BUDGET: usize = 64;
/// Times in a row that a client's machine may report "port unreachable" before the flow is ended.
const UNREACHABLE: u8 = 2;

/// Changes UDP flows, at one moment.
pub(crate) struct UdpHandler<'a> {
    pub(crate) now: Now,
    pub(crate) flows: &'a mut UdpFlows,
    pub(crate) context: &'a mut Context,
}

impl UdpHandler<'_> {
    fn dialler(&mut self) -> Dialler<'_> {
        Dialler { now: self.now, flows: self.flows, context: self.context }
    }

    /// Takes a UDP packet that came out of an edge's tunnel, or a fragment of one.
    pub(crate) fn handle_packet(&mut self, edge: &mut Edge, ip: &Ip, bytes: &[u8]) {
        let content = ip.payload(bytes);
        if ip.fragment.is_none() {
            return self.handle_datagram(edge, ip, content);
        }
        match self.flows.reassembly.handle_fragment(self.now.instant, edge.id, ip, content) {
            Joined::Whole(datagram) => self.handle_datagram(edge, ip, &datagram),
            Joined::Waiting => {}
            Joined::Refused(reason) => self.context.stats.refuse(reason),
        }
        self.flows.count_incomplete(&self.context.stats);
    }

    fn handle_datagram(&mut self, edge: &mut Edge, ip: &Ip, datagram: &[u8]) {
        let stats = &self.context.stats;
        let Ok(udp) = Udp::parse(datagram) else { return stats.refuse(Dropped::Malformed) };
        let Some(datagram) = datagram.get(..udp.length) else { return stats.refuse(Dropped::Malformed) };
        if !is_intact(ip, &udp, datagram) {
            return stats.refuse(Dropped::BadChecksum);
        }
        let payload = datagram.get(Udp::HEADER_LEN..).unwrap_or_default();
        let key = FlowKey {
            edge: edge.id,
            local: (ip.dst, udp.destination_port).into(),
            remote: (ip.src, udp.source_port).into(),
        };
        let id = match self.flows.table.find(&key) {
            Some(id) => id,
            None => match self.dialler().begin(edge, key) {
                Some(id) => id,
                None => return,
            },
        };
        self.deliver(edge, id, payload);
    }

    /// Sends a datagram out of the tunnel to the local side of its flow.
    fn deliver(&mut self, edge: &mut Edge, id: SlotId, payload: &[u8]) {
        let (flows, stats) = (&mut *self.flows, &self.context.stats);
        let Some((&key, flow)) = flows.table.get_mut(id) else { return };
        let opened_here = matches!(flow.side, Side::Listener { .. });
        let mut was_refused = false;
        let sent = match &mut flow.side {
            Side::Waiting(held) => return held.push(payload, stats),
            Side::Socket(socket) => socket.send(payload).or_else(|error| {
                was_refused = flow::is_refusal(&error);
                // A refusal is about the datagram before; this one has not been tried.
                if was_refused { socket.send(payload) } else { Err(error) }
            }),
            Side::Listener { listener, client } => match flows.listeners.get(listener) {
                Some(listener) => listener.send(payload, *client),
                None => return,
            },
        };
        match sent {
            Ok(_) => add(&flow.stats.received, payload.len() as u64),
            Err(_) => stats.refuse(Dropped::UpstreamFull),
        }
        if was_refused {
            self.context.send_datagram_error(self.now, edge, key, Error::PortUnreachable);
        }
        if !opened_here {
            self.flows.note_activity(self.now.instant, id);
        }
    }

    /// The name of a flow's upstream was resolved, or has no address.
    pub(crate) fn handle_resolved(&mut self, id: SlotId, addresses: &[SocketAddr]) {
        self.dialler().handle_resolved(id, addresses);
    }

    /// The poll reports something about the socket of a flow.
    pub(crate) fn handle_ready(&mut self, id: SlotId) {
        self.flows.mark(id);
    }

    /// The poll reports that datagrams wait at a listener.
    pub(crate) fn handle_listener_ready(&mut self, number: u32) {
        self.flows.listener_ready(number);
    }

    /// Gives every socket that has something one turn; `true` when some want another at once.
    pub(crate) fn take_turns(&mut self, edges: &mut Edges) -> bool {
        let mut again = false;
        for _ in 0..self.flows.queue.len() {
            let Some(id) = self.flows.queue.pop_front() else { break };
            again |= self.take_turn(id, edges);
        }
        let mut reader = ListenerReader { now: self.now, flows: self.flows, context: self.context };
        again | reader.read_all(edges, BUDGET)
    }

    fn take_turn(&mut self, id: SlotId, edges: &mut Edges) -> bool {
        let Some((&key, flow)) = self.flows.table.get_mut(id) else { return false };
        let Some(edge) = edges.get_mut(key.edge) else { return false };
        flow.is_queued = false;
        for _ in 0..BUDGET {
            if !edge.make_room() {
                // The edge's socket is full: the poll reports when it is not, and this flow has its
                // turn then.
                self.flows.mark(id);
                return false;
            }
            let flows = &mut *self.flows;
            let Some((_, UdpFlow { side: Side::Socket(socket), .. })) = flows.table.get_mut(id) else {
                return false;
            };
            match socket.recv(flows.buffer.payload_mut()) {
                Ok(length) => flows.send_buffer(self.now, edge, id, length),
                Err(error) if flow::is_refusal(&error) => {
                    self.context.send_datagram_error(self.now, edge, key, Error::PortUnreachable);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.flows.mark(id);
        true
    }

    /// A router or host reports an error about a datagram of ours; `from` is the message's header.
    pub(crate) fn handle_icmp_error(&mut self, edge: &Edge, from: &Ip, error: &IcmpError) {
        let key = FlowKey { edge: edge.id, local: error.local, remote: error.remote };
        let flows = &mut *self.flows;
        let Some(id) = flows.table.find(&key) else {
            return self.context.stats.refuse(Dropped::UnrelatedIcmp);
        };
        let Some((_, flow)) = flows.table.get_mut(id) else { return };
        match error.kind {
            Kind::TooBig(mtu) => flow.mtu = flow.mtu.min(mtu.max(smallest_mtu(&key))),
            // No message may end a flow whose client sends (RFC 4787 REQ-10). But one whose client
            // is gone, as its own machine reported twice, is closed: from then on the system sends
            // the upstream the same error.
            Kind::PortUnreachable if from.src == key.remote.ip() => {
                flow.unreachable = flow.unreachable.saturating_add(1);
                if flow.unreachable >= UNREACHABLE {
                    flows.close(self.now.instant, id);
                }
            }
            Kind::PortUnreachable | Kind::Prohibited | Kind::Unreachable => {}
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self) {
        self.flows.expire(self.now.instant);
        self.flows.reassembly.handle_timeout(self.now.instant);
        self.flows.count_incomplete(&self.context.stats);
    }

    /// Ends every flow of an edge.
    pub(crate) fn end_flows_of(&mut self, edge: EdgeId) {
        let ids: Vec<SlotId> = self.flows.table.ids().collect();
        for id in ids {
            if self.flows.table.get_mut(id).is_some_and(|(key, _)| key.edge == edge) {
                self.flows.close(self.now.instant, id);
            }
        }
    }

    /// Ends the flows for whose edge, owner and upstream `should_end` is `true`.
    pub(crate) fn close(&mut self, should_end: impl Fn(EdgeId, &Owner, Option<&Lease>) -> bool) {
        let ids: Vec<SlotId> = self.flows.table.ids().collect();
        for id in ids {
            if let Some((key, flow)) = self.flows.table.get_mut(id)
                && should_end(key.edge, &flow.owner, flow.lease.as_ref())
            {
                self.flows.close(self.now.instant, id);
            }
        }
    }
}

/// Whether the checksum is right; over IPv4 there may be none (RFC 768).
fn is_intact(ip: &Ip, udp: &Udp, datagram: &[u8]) -> bool {
    let sum = || Sum::new().pseudo_header(ip.src, ip.dst, protocol::UDP, datagram.len()).bytes(datagram);
    if udp.checksum == 0 { ip.is_v4() } else { sum().is_valid() }
}

/// What every link must carry (RFC 8200 §5; RFC 791 requires 576).
const fn smallest_mtu(key: &FlowKey) -> u16 {
    if key.local.is_ipv4() { 576 } else { 1280 }
}
