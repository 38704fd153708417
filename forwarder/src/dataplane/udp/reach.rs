//! Datagrams of local clients, from the listeners into the tunnel.

use std::io;
use std::net::SocketAddr;

use tunnel::node::PeerState;
use tunnel::packet::protocol;
use tunnel::time::Now;

use super::flow::{Side, UdpFlow};
use super::flows::UdpFlows;
use crate::dataplane::context::Context;
use crate::dataplane::edge::Edge;
use crate::dataplane::edges::Edges;
use crate::dataplane::owner::Owner;
use crate::flow::SlotId;
use crate::stats::{Dialled, Dropped};

/// Reads the listeners and sends what local clients sent into the tunnel.
pub(super) struct ListenerReader<'a> {
    pub(super) now: Now,
    pub(super) flows: &'a mut UdpFlows,
    pub(super) context: &'a Context,
}

impl ListenerReader<'_> {
    /// Reads every listener that has something, `budget` datagrams each at most; `true` when some
    /// have more.
    pub(super) fn read_all(&mut self, edges: &mut Edges, budget: usize) -> bool {
        let ready = self.flows.listeners.iter().filter(|(_, listener)| listener.is_ready);
        let ready: Vec<u32> = ready.map(|(number, _)| *number).collect();
        let mut again = false;
        for number in ready {
            again |= self.read(number, edges, budget);
        }
        again
    }

    fn read(&mut self, number: u32, edges: &mut Edges, budget: usize) -> bool {
        for _ in 0..budget {
            let flows = &mut *self.flows;
            let Some(listener) = flows.listeners.get_mut(&number) else { return false };
            let Some(edge) = listener.edge.and_then(|id| edges.get_mut(id)) else { return false };
            if !edge.make_room() {
                // The listener stays ready; the poll reports when the edge's socket has room.
                return false;
            }
            match listener.socket.recv_from(flows.buffer.payload_mut()) {
                Ok((length, client)) => self.forward(edge, (number, client), length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    listener.is_ready = false;
                    return false;
                }
            }
        }
        true
    }

    /// Sends the datagram in the buffer into the tunnel, for a local client.
    fn forward(&mut self, edge: &mut Edge, from: (u32, SocketAddr), length: usize) {
        if edge.state != PeerState::Up {
            return self.context.stats.refuse(Dropped::TunnelDown);
        }
        let known = self.flows.clients.get(&from).copied();
        let Some(id) = known.or_else(|| self.begin(edge, from)) else { return };
        self.flows.note_activity(self.now.instant, id);
        self.flows.send_buffer(self.now, edge, id, length);
    }

    fn begin(&mut self, edge: &Edge, from: (u32, SocketAddr)) -> Option<SlotId> {
        let (flows, all_stats, now) = (&mut *self.flows, &self.context.stats, self.now.instant);
        let reach = flows.listeners.get(&from.0)?.reach.clone();
        if self.context.is_stopping {
            all_stats.refuse(Dropped::Stopping);
            return None;
        }
        let stats = all_stats.reach.load().get(&reach.name).cloned()?;
        let local = SocketAddr::new(edge.address_like(reach.target.ip())?, 0);
        flows.take_quota(now, None, all_stats)?;
        let table = &flows.table;
        let in_use = |key: &_| table.find(key).is_some() || self.context.is_passed(edge, protocol::UDP, key);
        let ends = (local, reach.target);
        let key = flows.ports.allocate(now, edge.id, ends, reach.source_port, in_use);
        stats.dialled(if key.is_some() { Dialled::Connected } else { Dialled::Exhausted });
        let side = Side::Listener { listener: from.0, client: from.1 };
        let mut flow = UdpFlow::new(now, Owner::Reach(reach.name), stats, side);
        // A client on this machine is no spoofed address.
        flow.is_proven = true;
        let id = key.and_then(|key| flows.table.insert(key, flow).ok());
        match id {
            Some(id) => {
                flows.clients.insert(from, id);
            }
            None => flows.quota.release(None),
        }
        id
    }
}
