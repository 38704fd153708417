//! Local UDP listeners whose datagrams go into the tunnel.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry};
use policy::forwarder::{Policy, Reach};
use tunnel::node::PeerState;
use tunnel::time::Now;

use super::flow::{Side, UdpFlow};
use super::{BUDGET, make_room};
use crate::dataplane::edge::Edge;
use crate::dataplane::flows::Flows;
use crate::dataplane::tcp::open::Owner;
use crate::dataplane::token;
use crate::flow::SlotId;
use crate::stats::{Dialled, Dropped};

/// One `[[reach]]` entry that carries UDP, at work.
pub struct Listener {
    /// Its entry.
    pub reach: Reach,
    socket: UdpSocket,
    is_ready: bool,
}

impl Listener {
    /// Binds the entry's local address.
    ///
    /// # Errors
    /// From the system: the address is taken, or the port needs a privilege.
    pub fn bind(reach: Reach) -> io::Result<Self> {
        let socket = UdpSocket::bind(reach.listen)?;
        Ok(Self { reach, socket, is_ready: true })
    }

    pub(super) fn send(&self, payload: &[u8], client: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(payload, client)
    }
}

impl Flows {
    /// Takes a listener to work.
    ///
    /// # Errors
    /// From the system: it cannot be watched.
    pub fn add_listener(&mut self, listener: Listener) -> io::Result<()> {
        let (number, mut listener) = (self.udp.next_listener, listener);
        watch(&mut listener.socket, &self.registry, number)?;
        self.udp.next_listener = number.wrapping_add(1);
        self.udp.listeners.insert(number, listener);
        Ok(())
    }

    /// Closes the listeners whose entry is not in the configuration any more; their flows end with their entries.
    pub fn keep_listeners(&mut self, policy: &Policy) {
        self.udp.listeners.retain(|_, listener| policy.reach.contains(&listener.reach));
    }

    /// The poll says that datagrams wait at a listener.
    pub(in crate::dataplane) fn listener_ready(&mut self, number: u32) {
        if let Some(listener) = self.udp.listeners.get_mut(&number) {
            listener.is_ready = true;
        }
    }

    /// Reads every listener that has something; `true` when some have more.
    pub(super) fn read_listeners(&mut self, now: Now, edges: &mut [Edge]) -> bool {
        let ready = self.udp.listeners.iter().filter(|(_, listener)| listener.is_ready);
        let ready: Vec<u32> = ready.map(|(number, _)| *number).collect();
        let mut again = false;
        for number in ready {
            again |= self.read_listener(now, number, edges);
        }
        again
    }

    fn read_listener(&mut self, now: Now, number: u32, edges: &mut [Edge]) -> bool {
        for _ in 0..BUDGET {
            let udp = &mut self.udp;
            let Some(listener) = udp.listeners.get_mut(&number) else { return false };
            let Some(edge) = edges.iter_mut().find(|edge| edge.name == listener.reach.peer) else {
                return false;
            };
            if !make_room(edge) {
                // The listener stays ready; the poll says when the edge's socket has room.
                return false;
            }
            match listener.socket.recv_from(udp.buffer.payload_mut()) {
                Ok((length, client)) => self.reach_datagram(now, edge, (number, client), length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    listener.is_ready = false;
                    return false;
                }
            }
        }
        true
    }

    /// Sends what lies in the buffer into the tunnel, for a local client.
    fn reach_datagram(&mut self, now: Now, edge: &mut Edge, from: (u32, SocketAddr), length: usize) {
        if edge.state != PeerState::Up {
            return self.stats.refuse(Dropped::TunnelDown);
        }
        let known = self.udp.clients.get(&from).copied();
        let Some(id) = known.or_else(|| self.begin_reached(now, edge, from)) else { return };
        self.udp.hear(now.instant, id);
        self.answer(now, edge, id, length);
    }

    fn begin_reached(&mut self, now: Now, edge: &Edge, from: (u32, SocketAddr)) -> Option<SlotId> {
        let reach = self.udp.listeners.get(&from.0)?.reach.clone();
        if self.is_stopping {
            self.stats.refuse(Dropped::Stopping);
            return None;
        }
        let stats = self.stats.reach.load().get(&reach.name).cloned()?;
        let local = SocketAddr::new(edge.address_like(reach.target.ip())?, 0);
        self.take_quota(now, None)?;
        let udp = &mut self.udp;
        let in_use = |key: &_| udp.table.find(key).is_some();
        let ends = (local, reach.target);
        let key = udp.ports.allocate(now.instant, edge.id, ends, reach.source_port, in_use);
        let result = if key.is_some() { Dialled::Connected } else { Dialled::Exhausted };
        stats.dialled(result);
        let side = Side::Listener { listener: from.0, client: from.1 };
        let mut flow = UdpFlow::new(now.instant, Owner::Reach(reach.name), stats, side);
        // A client on this machine is no spoofed address.
        flow.is_proven = true;
        let id = key.and_then(|key| udp.table.insert(key, flow).ok());
        match id {
            Some(id) => {
                udp.clients.insert(from, id);
            }
            None => udp.quota.release(None),
        }
        id
    }
}

fn watch(socket: &mut UdpSocket, registry: &Registry, number: u32) -> io::Result<()> {
    registry.register(socket, token::udp_listener(number), Interest::READABLE)
}
