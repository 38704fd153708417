//! UDP flows out of the tunnel: admitted, and given a socket to their upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::Interest;
use policy::forwarder::{Policy, Service, Upstream};
use policy::{Host, Protocol};
use tunnel::packet::icmp::Error;
use tunnel::time::Now;

use super::flow::{Held, Side, UdpFlow, connected};
use super::flows::UdpFlows;
use crate::dataplane::context::Context;
use crate::dataplane::edge::Edge;
use crate::dataplane::owner::Owner;
use crate::dataplane::resolve::Requester;
use crate::dataplane::token;
use crate::flow::{ClientPrefix, FlowKey, SlotId};
use crate::stats::{Dialled, Dropped, add};
use crate::upstream::Lease;

/// Opens flows of clients beyond an edge.
pub(super) struct Dialler<'a> {
    pub(super) now: Now,
    pub(super) flows: &'a mut UdpFlows,
    pub(super) context: &'a mut Context,
}

impl Dialler<'_> {
    /// The first datagram of a flow: it is admitted and given a socket, or refused.
    pub(super) fn begin(&mut self, edge: &mut Edge, key: FlowKey) -> Option<SlotId> {
        let (policy, now) = (Arc::clone(&self.context.policy), self.now.instant);
        let Some(service) = self.find_service(&policy, edge, &key) else {
            self.context.send_datagram_error(self.now, edge, key, Error::PortUnreachable);
            return None;
        };
        if self.context.is_stopping {
            self.context.stats.refuse(Dropped::Stopping);
            return None;
        }
        let client = ClientPrefix::from(key.remote.ip());
        let stats = self.context.stats.services.load().get(&service.name).cloned()?;
        let member = self.context.pools.load().get(&service.name)?.order(now).into_iter().next()?;
        let Upstream::Network { host, port } = member.upstream.clone() else { return None };
        let owner = Owner::Service(service.name.clone(), client);
        self.flows.take_quota(now, Some(client), &self.context.stats)?;
        let mut flow = UdpFlow::new(now, owner, stats, Side::Waiting(Held::default()));
        flow.lease = Some(Lease::new(member));
        let Ok(id) = self.flows.table.insert(key, flow) else {
            self.flows.quota.release(Some(client));
            return None;
        };
        self.flows.note_activity(now, id);
        let port = port.of(key.local.port(), service.ports.first());
        match host {
            Host::Address(address) => self.connect(id, SocketAddr::new(address, port)),
            Host::Name(name) => {
                if !self.context.resolver.request_upstream(Requester::Udp(id), &name, port) {
                    self.fail(id, Dialled::Exhausted);
                }
            }
        }
        Some(id)
    }

    /// The entry that takes a new flow; none is counted.
    fn find_service<'p>(&self, policy: &'p Policy, edge: &Edge, key: &FlowKey) -> Option<&'p Service> {
        let service = policy.service_for(&edge.name, Protocol::Udp, key.local);
        let Some(service) = service.filter(|_| key.remote.port() != 0 && key.local.port() != 0) else {
            self.context.stats.refuse(Dropped::NoService);
            return None;
        };
        if !policy.admits(service, key.remote.ip()) {
            self.context.stats.refuse(Dropped::NotAllowed);
            return None;
        }
        Some(service)
    }

    fn connect(&mut self, id: SlotId, to: SocketAddr) {
        let opened = connected(to).and_then(|mut socket| {
            self.context.registry.register(&mut socket, token::datagrams(id), Interest::READABLE)?;
            Ok(socket)
        });
        match (opened, self.flows.table.get_mut(id)) {
            (Ok(socket), Some((_, flow))) => {
                let held = std::mem::replace(&mut flow.side, Side::Socket(socket));
                flow.stats.dialled(Dialled::Connected);
                if let Side::Waiting(held) = held {
                    self.send_held(id, held);
                }
            }
            (Err(error), Some(_)) => {
                let result = self.context.dial_failure(self.now.instant, &error);
                self.fail(id, result);
            }
            (_, None) => {}
        }
    }

    fn send_held(&mut self, id: SlotId, held: Held) {
        let Some((_, flow)) = self.flows.table.get_mut(id) else { return };
        let Side::Socket(socket) = &flow.side else { return };
        for datagram in held.into_datagrams() {
            match socket.send(&datagram) {
                Ok(length) => add(&flow.stats.received, length as u64),
                Err(_) => self.context.stats.refuse(Dropped::UpstreamFull),
            }
        }
    }

    /// The name of a flow's upstream was resolved, or has no address.
    pub(super) fn handle_resolved(&mut self, id: SlotId, addresses: &[SocketAddr]) {
        match addresses.first() {
            Some(address) => self.connect(id, *address),
            None => self.fail(id, Dialled::Unresolved),
        }
    }

    fn fail(&mut self, id: SlotId, result: Dialled) {
        if let Some((_, flow)) = self.flows.table.get_mut(id) {
            flow.stats.dialled(result);
            self.flows.close(self.now.instant, id);
        }
    }
}
