//! UDP flows out of the tunnel: admitted, and given a socket to their upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::Interest;
use policy::forwarder::Upstream;
use policy::{Host, Protocol};
use tunnel::packet::icmp::Error as IcmpError;
use tunnel::time::Now;

use super::flow::{Held, Side, UdpFlow, connected};
use crate::dataplane::edge::Edge;
use crate::dataplane::flows::Flows;
use crate::dataplane::resolve::Asker;
use crate::dataplane::tcp::open::Owner;
use crate::dataplane::token;
use crate::flow::quota::OverQuota;
use crate::flow::{ClientPrefix, FlowKey, SlotId};
use crate::stats::{Dialled, Dropped, add};
use crate::upstream::{self, Lease};

impl Flows {
    /// The first datagram of a flow: it is admitted and given a socket, or turned away.
    pub(super) fn begin_injected(&mut self, now: Now, edge: &mut Edge, key: FlowKey) -> Option<SlotId> {
        let policy = Arc::clone(&self.policy);
        let inject = policy.inject_for(&edge.name, Protocol::Udp, key.local);
        let Some(inject) = inject.filter(|_| key.remote.port() != 0 && key.local.port() != 0) else {
            self.stats.refuse(Dropped::NoInject);
            self.tell(now, edge, key, IcmpError::PortUnreachable);
            return None;
        };
        if !policy.admits(inject, key.remote.ip()) {
            self.stats.refuse(Dropped::NotAllowed);
            self.tell(now, edge, key, IcmpError::PortUnreachable);
            return None;
        }
        if self.is_stopping {
            self.stats.refuse(Dropped::Stopping);
            return None;
        }
        let client = ClientPrefix::from(key.remote.ip());
        let stats = self.stats.inject.load().get(&inject.name).cloned()?;
        let member = self.stats.pools.load().get(&inject.name)?.order(now.instant).into_iter().next()?;
        let Upstream::Network { host, port } = member.upstream.clone() else { return None };
        let owner = Owner::Inject(inject.name.clone(), client);
        self.take_quota(now, Some(client))?;
        let mut flow = UdpFlow::new(now.instant, owner, stats, Side::Waiting(Held::default()));
        flow.lease = Some(Lease::new(member));
        let Ok(id) = self.udp.table.insert(key, flow) else {
            self.udp.quota.release(Some(client));
            return None;
        };
        self.udp.hear(now.instant, id);
        let port = port.of(key.local.port(), inject.ports.first());
        match host {
            Host::Address(address) => self.connect_datagrams(now, id, SocketAddr::new(address, port)),
            Host::Name(name) => {
                if !self.resolver.dial(Asker::Datagrams(id), &name, port) {
                    self.datagrams_failed(now, id, Dialled::Exhausted);
                }
            }
        }
        Some(id)
    }

    /// Counts one more flow; where there are too many, the oldest that has not proven itself makes room.
    pub(super) fn take_quota(&mut self, now: Now, client: Option<ClientPrefix>) -> Option<()> {
        loop {
            match self.udp.quota.take(client) {
                Ok(()) => return Some(()),
                Err(OverQuota::Total) if self.udp.evict(now.instant) => add(&self.stats.udp_evicted, 1),
                Err(OverQuota::Total) => {
                    self.stats.refuse(Dropped::ShedUdpFlows);
                    return None;
                }
                Err(OverQuota::Client) => {
                    self.stats.refuse(Dropped::ShedUdpFlowsOfClient);
                    return None;
                }
            }
        }
    }

    fn connect_datagrams(&mut self, now: Now, id: SlotId, to: SocketAddr) {
        let opened = connected(to).and_then(|mut socket| {
            self.registry.register(&mut socket, token::datagrams(id), Interest::READABLE)?;
            Ok(socket)
        });
        match (opened, self.udp.table.get_mut(id)) {
            (Ok(socket), Some((_, flow))) => {
                let held = std::mem::replace(&mut flow.side, Side::Socket(socket));
                flow.stats.dialled(Dialled::Connected);
                if let Side::Waiting(held) = held {
                    self.send_held(id, held);
                }
            }
            (Err(error), Some(_)) => {
                if upstream::lacks_descriptor(&error) {
                    self.stats.lack_descriptor(now.instant);
                }
                self.datagrams_failed(now, id, upstream::failure(&error));
            }
            (_, None) => {}
        }
    }

    fn send_held(&mut self, id: SlotId, held: Held) {
        let Some((_, flow)) = self.udp.table.get_mut(id) else { return };
        let Side::Socket(socket) = &flow.side else { return };
        for datagram in held.into_datagrams() {
            match socket.send(&datagram) {
                Ok(length) => add(&flow.stats.received, length as u64),
                Err(_) => self.stats.refuse(Dropped::UpstreamFull),
            }
        }
    }

    /// The name of a flow's upstream was resolved, or has no address.
    pub(in crate::dataplane) fn datagrams_resolved(
        &mut self,
        now: Now,
        id: SlotId,
        addresses: &[SocketAddr],
    ) {
        match addresses.first() {
            Some(address) => self.connect_datagrams(now, id, *address),
            None => self.datagrams_failed(now, id, Dialled::Unresolved),
        }
    }

    fn datagrams_failed(&mut self, now: Now, id: SlotId, result: Dialled) {
        if let Some((_, flow)) = self.udp.table.get_mut(id) {
            flow.stats.dialled(result);
            self.udp.close(now.instant, id);
        }
    }
}
