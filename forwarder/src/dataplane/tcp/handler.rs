//! What happens to TCP flows: segments out of the tunnel, ready sockets, timers.

use std::net::SocketAddr;

use tunnel::packet::icmp_error::{IcmpError, Kind};
use tunnel::packet::{Bare, Ip, Tcp, tcp_flags};
use tunnel::time::Now;

use super::dialler::Dialler;
use super::flow::Flow;
use super::flows::TcpFlows;
use super::open::{Open, TurnResult};
use crate::cell::Ending;
use crate::dataplane::context::Context;
use crate::dataplane::edge::Edge;
use crate::dataplane::edges::Edges;
use crate::dataplane::owner::Owner;
use crate::flow::{EdgeId, FlowKey, SlotId};
use crate::stats::{Dropped, add};
use crate::upstream::Lease;

/// Changes TCP flows, at one moment.
pub(crate) struct TcpHandler<'a> {
    pub(crate) now: Now,
    pub(crate) flows: &'a mut TcpFlows,
    pub(crate) context: &'a mut Context,
}

impl TcpHandler<'_> {
    fn dialler<'e>(&'e mut self, edge: &'e mut Edge) -> Dialler<'e> {
        Dialler { now: self.now, edge, flows: self.flows, context: self.context }
    }

    /// Takes one segment or joined run of segments that came out of an edge's tunnel.
    pub(crate) fn handle_packet(&mut self, edge: &mut Edge, ip: &Ip, bytes: &mut [u8], is_unverified: bool) {
        let stats = &self.context.stats;
        let Ok(tcp) = Tcp::parse(ip.payload(bytes)) else { return stats.refuse(Dropped::Malformed) };
        if is_unverified && !ip.transport_checksum_is_valid(bytes) {
            return stats.refuse(Dropped::BadChecksum);
        }
        let key = FlowKey {
            edge: edge.id,
            local: (ip.dst, tcp.destination_port).into(),
            remote: (ip.src, tcp.source_port).into(),
        };
        let opens = tcp.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN;
        match self.flows.table.flows.find(&key) {
            Some(id) => self.handle_segment(edge, (id, key), (ip, &tcp), bytes, opens),
            None if opens => self.dialler(edge).handle_syn(key, (ip, &tcp), bytes),
            None => {
                stats.refuse(Dropped::NoFlow);
                self.context.send_reset(self.now, edge, ip, &tcp);
            }
        }
    }

    /// Takes a segment of a flow that is known.
    fn handle_segment(
        &mut self,
        edge: &mut Edge,
        (id, key): (SlotId, FlowKey),
        (ip, tcp): (&Ip, &Tcp),
        bytes: &mut [u8],
        opens: bool,
    ) {
        let table = &mut self.flows.table;
        if opens && table.flows.get_mut(id).is_some_and(|(_, flow)| flow.was_reset()) {
            // The client uses the port again before the flow that it reset had another turn.
            self.flows.finish(self.now.instant, id, Ending::Reset);
            return self.dialler(edge).handle_syn(key, (ip, tcp), bytes);
        }
        match table.flows.get_mut(id) {
            Some((_, Flow::Open(open))) => {
                let out = (&mut edge.outlet(self.now), &mut *self.flows.scratch);
                open.cell.handle_segment(self.now.instant, bytes, (ip, tcp), out);
                open.mark(id, &mut table.queue);
            }
            Some((_, Flow::Dial(dial))) => {
                if tcp.flags & tcp_flags::RST != 0 {
                    self.flows.abandon(id);
                } else {
                    dial.handle_again(bytes, opens);
                    self.context.stats.refuse(Dropped::DialPending);
                }
            }
            Some((_, &mut Flow::Lingering { sequence, acknowledgement, .. })) => {
                if opens {
                    table.forget(id);
                    self.dialler(edge).handle_syn(key, (ip, tcp), bytes);
                } else if tcp.flags & tcp_flags::RST != 0 {
                    table.forget(id);
                } else if tcp.flags & tcp_flags::FIN != 0 {
                    let (source, destination) = (key.local, key.remote);
                    let acknowledgement = Some(acknowledgement);
                    let ack = Bare { source, destination, sequence, acknowledgement, flags: 0 };
                    edge.send(self.now, ack.packet());
                }
            }
            None => {}
        }
    }

    /// A router or host reports an error about a segment of ours.
    pub(crate) fn handle_icmp_error(&mut self, edge: &Edge, error: &IcmpError) {
        let key = FlowKey { edge: edge.id, local: error.local, remote: error.remote };
        let (table, stats) = (&mut self.flows.table, &self.context.stats);
        let Some(id) = table.flows.find(&key) else { return stats.refuse(Dropped::UnrelatedIcmp) };
        let Some((_, Flow::Open(open))) = table.flows.get_mut(id) else { return };
        if !open.cell.is_unanswered(error.sequence) {
            return stats.refuse(Dropped::UnrelatedIcmp);
        }
        match error.kind {
            Kind::TooBig(mtu) => open.cell.handle_too_big(mtu),
            // A hard error while opening, a soft error later (RFC 5461).
            Kind::Unreachable | Kind::Prohibited | Kind::PortUnreachable if !open.cell.is_established() => {
                tracing::debug!(kind = ?error.kind, "an ICMP error ends a flow that is opening");
                open.abort();
            }
            Kind::Unreachable | Kind::Prohibited | Kind::PortUnreachable => {}
        }
        open.mark(id, &mut table.queue);
    }

    /// The name of an upstream was resolved, or has no address.
    pub(crate) fn handle_resolved(&mut self, id: SlotId, addresses: &[SocketAddr], edges: &mut Edges) {
        let Some((key, _)) = self.flows.table.dial_mut(id) else { return };
        let Some(edge) = edges.get_mut(key.edge) else { return };
        self.dialler(edge).handle_resolved(id, addresses);
    }

    /// The socket of a flow is ready to be read, to be written, or both.
    pub(crate) fn handle_ready(&mut self, id: SlotId, ready: (bool, bool), edges: &mut Edges) {
        let table = &mut self.flows.table;
        match table.flows.get_mut(id) {
            Some((_, Flow::Open(open))) => {
                open.upstream.ready(ready.0, ready.1);
                open.mark(id, &mut table.queue);
            }
            Some((key, Flow::Dial(_))) => {
                let Some(edge) = edges.get_mut(key.edge) else { return };
                self.dialler(edge).handle_ready(id);
            }
            Some((_, Flow::Lingering { .. })) | None => {}
        }
    }

    /// Gives a flow a turn soon.
    pub(crate) fn mark(&mut self, id: SlotId) {
        self.flows.table.mark(id);
    }

    /// Gives every flow that has something to do one turn; `true` when some want another at once.
    pub(crate) fn take_turns(&mut self, edges: &mut Edges) -> bool {
        let mut again = false;
        for _ in 0..self.flows.table.queue.len() {
            let Some(id) = self.flows.table.queue.pop_front() else { break };
            again |= self.take_turn(id, edges);
        }
        again
    }

    fn take_turn(&mut self, id: SlotId, edges: &mut Edges) -> bool {
        let TcpFlows { table, admission, scratch, .. } = &mut *self.flows;
        let Some((key, Flow::Open(open))) = table.flows.get_mut(id) else { return false };
        let Some(edge) = edges.get_mut(key.edge) else { return false };
        open.is_queued = false;
        let result = open.turn(self.now, edge, scratch);
        admission.account(open);
        let tally = open.cell.take_tally();
        add(&self.context.stats.resent, tally.resent);
        add(&self.context.stats.scoreboard_full, tally.full);
        if open.is_established() {
            admission.end_half_open(id, open);
        }
        match result {
            TurnResult::Wait(at) => {
                table.deadlines.arm(id, &mut open.armed, at);
                false
            }
            TurnResult::Again | TurnResult::Blocked => {
                edge.flush();
                // A flow that waits for a socket that is full goes on when that is writable;
                // another turn costs nothing then.
                let has_room = result == TurnResult::Again || edge.has_room();
                if has_room {
                    open.mark(id, &mut table.queue);
                } else {
                    edge.blocked.insert(id);
                }
                has_room
            }
            TurnResult::Over(ending) => {
                self.flows.finish(self.now.instant, id, ending);
                false
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, edges: &mut Edges) {
        let now = self.now.instant;
        while let Some(id) = self.flows.table.deadlines.poll_due(now) {
            let table = &mut self.flows.table;
            match table.flows.get_mut(id) {
                Some((_, Flow::Open(open))) => {
                    open.armed = None;
                    open.mark(id, &mut table.queue);
                }
                Some((key, Flow::Dial(dial))) => {
                    dial.armed = None;
                    if let Some(edge) = edges.get_mut(key.edge) {
                        self.dialler(edge).handle_timeout(id);
                    }
                }
                Some((_, Flow::Lingering { armed, .. })) => {
                    *armed = None;
                    table.forget(id);
                }
                None => {}
            }
        }
    }

    /// Ends the flows at once, with resets both ways, for whose edge, owner and upstream `should_end`
    /// is `true`.
    pub(crate) fn abort(&mut self, should_end: impl Fn(EdgeId, &Owner, Option<&Lease>) -> bool) {
        let table = &mut self.flows.table;
        let mut abandoned = Vec::new();
        for id in table.ids() {
            match table.flows.get_mut(id) {
                Some((key, Flow::Open(open))) if should_end(key.edge, &open.owner, open.lease.as_ref()) => {
                    open.abort();
                    open.mark(id, &mut table.queue);
                }
                Some((key, Flow::Dial(dial))) if should_end(key.edge, &dial.owner(), dial.lease.as_ref()) => {
                    abandoned.push(id);
                }
                Some(_) | None => {}
            }
        }
        for id in abandoned {
            self.flows.abandon(id);
        }
    }

    /// Ends every flow of an edge: with resets both ways, of which its tunnel carries what it has
    /// room for.
    pub(crate) fn end_flows_of(&mut self, edge: EdgeId, edges: &mut Edges) {
        self.change_flows_of(edge, |open| {
            open.abort();
            true
        });
        self.take_turns(edges);
        for id in self.flows.table.ids() {
            if self.flows.table.flows.get_mut(id).is_some_and(|(key, _)| key.edge == edge) {
                self.flows.finish(self.now.instant, id, Ending::Reset);
                self.flows.abandon(id);
                self.flows.table.forget(id);
            }
        }
    }

    /// A session with an edge is new: flows that wait for a doubled timeout send now.
    pub(crate) fn resume(&mut self, edge: EdgeId) {
        let now = self.now.instant;
        self.change_flows_of(edge, |open| open.cell.resume(now));
    }

    /// The path to an edge carries `mtu` bytes: flows with larger segments send smaller ones from
    /// now on.
    pub(crate) fn shrink(&mut self, edge: EdgeId, mtu: u16) {
        self.change_flows_of(edge, |open| {
            open.cell.handle_too_big(mtu);
            false
        });
    }

    /// Changes every open flow of an edge; those for which `change` is `true` have a turn soon.
    fn change_flows_of(&mut self, edge: EdgeId, change: impl Fn(&mut Open) -> bool) {
        let table = &mut self.flows.table;
        for id in table.ids() {
            if let Some((key, Flow::Open(open))) = table.flows.get_mut(id)
                && key.edge == edge
                && change(open)
            {
                open.mark(id, &mut table.queue);
            }
        }
    }
}
