//! Dials: a SYN is held until an upstream has answered.
//!
//! The upstreams of an entry are tried one after another, and so are the addresses of a name; each
//! has its share of `[limits] dial_timeout`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use policy::forwarder::{Policy, Service, Upstream as Target};
use policy::{Host, Protocol};
use tunnel::packet::icmp::Error as IcmpError;
use tunnel::packet::{Bare, Ip, Tcp};
use tunnel::time::Now;

use super::dial::Dial;
use super::flow::Flow;
use super::flows::TcpFlows;
use super::open::Open;
use crate::cell::{Cell, Path};
use crate::dataplane::context::Context;
use crate::dataplane::edge::Edge;
use crate::dataplane::resolve::Requester;
use crate::dataplane::token;
use crate::flow::{ClientPrefix, FlowKey, Shed, SlotId};
use crate::proxy_protocol;
use crate::stats::{Dialled, Dropped};
use crate::upstream::{self, Lease, Stream, Upstream};

/// Flows of silent clients that may end for one new flow.
const MAX_EVICTED: usize = 16;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Dials on behalf of clients beyond one edge.
pub(super) struct Dialler<'a> {
    pub(super) now: Now,
    pub(super) edge: &'a mut Edge,
    pub(super) flows: &'a mut TcpFlows,
    pub(super) context: &'a mut Context,
}

/// How a dial goes on.
enum Next {
    /// A connection has begun, or failed at once.
    Begun(io::Result<Stream>),
    /// The upstream's name is being resolved.
    Resolving,
    /// Too many names are being resolved.
    Overloaded,
    /// Nothing is left to try.
    Nothing,
}

impl Dialler<'_> {
    /// A SYN of no flow: it is admitted and dialled, or refused.
    pub(super) fn handle_syn(&mut self, key: FlowKey, (ip, tcp): (&Ip, &Tcp), packet: &[u8]) {
        let policy = Arc::clone(&self.context.policy);
        let service = match self.find_service(&policy, &key) {
            Ok(service) => service,
            Err(reason) => {
                self.context.stats.refuse(reason);
                return self.context.send_reset(self.now, self.edge, ip, tcp);
            }
        };
        // Nothing is sent back then: the client repeats its SYN, and by then there may be room.
        let client = ClientPrefix::from(ip.src);
        if let Err(reason) = self.admit(&key, client) {
            return self.context.stats.refuse(reason);
        }
        let Some(dial) = self.new_dial(service, client, packet.get(..ip.header_len + tcp.header_len), ip)
        else {
            return self.flows.admission.release_dial(client);
        };
        match self.flows.table.flows.insert(key, Flow::Dial(Box::new(dial))) {
            Ok(id) => self.try_next(id, Dialled::Unresolved),
            Err(_) => {
                self.flows.admission.release_dial(client);
                self.context.stats.refuse(Dropped::ShedFlows);
            }
        }
    }

    /// The entry that takes a new flow.
    fn find_service<'p>(&self, policy: &'p Policy, key: &FlowKey) -> Result<&'p Service, Dropped> {
        let service = policy.service_for(&self.edge.name, Protocol::Tcp, key.local);
        let service = service.filter(|_| key.remote.port() != 0 && key.local.port() != 0);
        let service = service.ok_or(Dropped::NoService)?;
        if !policy.admits(service, key.remote.ip()) {
            return Err(Dropped::NotAllowed);
        }
        if self.context.is_stopping {
            return Err(Dropped::Stopping);
        }
        Ok(service)
    }

    /// Counts a new flow. Where flows of silent clients leave no room, a repeated SYN takes the
    /// place of the oldest of them: forged addresses send nothing twice.
    fn admit(&mut self, key: &FlowKey, client: ClientPrefix) -> Result<(), Dropped> {
        let shed = match self.flows.admission.admit_dial(client) {
            Ok(()) => return Ok(()),
            Err(shed @ (Shed::FlowsOfClient | Shed::Dials | Shed::DialsOfClient | Shed::Buffers)) => {
                return Err(shed_reason(shed));
            }
            Err(shed @ (Shed::HalfOpen | Shed::Flows)) => shed,
        };
        if !self.flows.admission.is_repeated(self.now.instant, key) {
            return Err(Dropped::Greylisted);
        }
        for _ in 0..MAX_EVICTED {
            if !self.flows.evict_half_open(self.now.instant, &self.context.stats) {
                return Err(shed_reason(shed));
            }
            if self.flows.admission.admit_dial(client).is_ok() {
                return Ok(());
            }
        }
        Err(shed_reason(shed))
    }

    /// A dial that has tried nothing yet; `None` for an entry that is gone.
    fn new_dial(
        &self,
        service: &Service,
        client: ClientPrefix,
        headers: Option<&[u8]>,
        ip: &Ip,
    ) -> Option<Dial> {
        let now = self.now.instant;
        let stats = self.context.stats.services.load().get(&service.name).cloned()?;
        let members = VecDeque::from(self.context.pools.load().get(&service.name)?.order(now));
        let timeout = self.flows.admission.limits().dial_timeout;
        let try_timeout = timeout / u32::try_from(members.len().max(1)).unwrap_or(1);
        Some(Dial {
            service: service.clone(),
            client,
            stats,
            // Data in a SYN is not kept: the client sends it again (RFC 9293 §3.10.7.2 allows it).
            syn: without_data(headers.unwrap_or_default(), ip),
            members,
            addresses: VecDeque::new(),
            lease: None,
            stream: None,
            try_timeout,
            until: now.after(timeout),
            armed: None,
        })
    }

    /// Tries what is next: another address of the upstream in hand, or the next upstream. With
    /// nothing left the dial has failed with `result`.
    fn try_next(&mut self, id: SlotId, result: Dialled) {
        let mut result = result;
        loop {
            let stream = match self.begin_next(id) {
                None | Some(Next::Resolving) => return,
                Some(Next::Nothing) => return self.fail(id, result),
                Some(Next::Overloaded) => return self.fail(id, Dialled::Exhausted),
                Some(Next::Begun(begun)) => begun,
            };
            let watched = stream.and_then(|mut stream| {
                stream.watch(&self.context.registry, token::flow(id))?;
                Ok(stream)
            });
            let Some((_, dial)) = self.flows.table.dial_mut(id) else { return };
            match watched {
                Ok(stream) => {
                    dial.stream = Some(stream);
                    return;
                }
                Err(error) => result = self.context.dial_failure(self.now.instant, &error),
            }
            // Of what we lack ourselves, the next upstream would need as much.
            if result == Dialled::Exhausted {
                return self.fail(id, result);
            }
            dial.note_failure(self.now.instant);
        }
    }

    /// Begins the next try of a dial and its timer; `None` for a dial that is gone.
    fn begin_next(&mut self, id: SlotId) -> Option<Next> {
        let table = &mut self.flows.table;
        let (&key, Flow::Dial(dial)) = table.flows.get_mut(id)? else { return None };
        dial.stream = None;
        let until = self.now.instant.after(dial.try_timeout).min(dial.until);
        table.deadlines.disarm(id, &mut dial.armed);
        table.deadlines.arm(id, &mut dial.armed, until);
        if let Some(address) = dial.addresses.pop_front() {
            return Some(Next::Begun(Stream::dial(address)));
        }
        let Some(member) = dial.members.pop_front() else { return Some(Next::Nothing) };
        let target = member.upstream.clone();
        dial.lease = Some(Lease::new(member));
        let first = dial.service.ports.first();
        Some(match target {
            Target::Unix(path) => Next::Begun(Stream::dial_unix(&path)),
            Target::Network { host: Host::Address(address), port } => {
                let port = port.of(key.local.port(), first);
                Next::Begun(Stream::dial(SocketAddr::new(address, port)))
            }
            Target::Network { host: Host::Name(name), port } => {
                let port = port.of(key.local.port(), first);
                match self.context.resolver.request_upstream(Requester::Tcp(id), &name, port) {
                    true => Next::Resolving,
                    false => Next::Overloaded,
                }
            }
        })
    }

    /// What was tried did not work: the next is.
    fn handle_failure(&mut self, id: SlotId, result: Dialled) {
        if let Some((_, dial)) = self.flows.table.dial_mut(id) {
            dial.note_failure(self.now.instant);
            self.try_next(id, result);
        }
    }

    /// The name of an upstream was resolved, or has no address.
    pub(super) fn handle_resolved(&mut self, id: SlotId, addresses: &[SocketAddr]) {
        if let Some((_, dial)) = self.flows.table.dial_mut(id) {
            dial.addresses = addresses.iter().copied().take(MAX_ADDRESSES).collect();
            if addresses.is_empty() {
                dial.note_failure(self.now.instant);
            }
            self.try_next(id, Dialled::Unresolved);
        }
    }

    /// The socket of a dial is ready: it has connected or failed.
    pub(super) fn handle_ready(&mut self, id: SlotId) {
        let Some((_, dial)) = self.flows.table.dial_mut(id) else { return };
        match dial.stream.as_ref().and_then(Stream::dialled) {
            Some(Ok(())) => self.open(id),
            Some(Err(error)) => self.handle_failure(id, upstream::failure(&error)),
            None => {}
        }
    }

    /// The upstream answered: the flow is opened and its SYN answered.
    fn open(&mut self, id: SlotId) {
        let now = self.now;
        let settings = self.flows.settings(self.edge.mtu());
        let Some((&key, dial)) = self.flows.table.dial_mut(id) else { return };
        let (Some(settings), Some(stream)) = (settings, dial.stream.take()) else {
            return self.fail(id, Dialled::Exhausted);
        };
        let mut syn = std::mem::take(&mut dial.syn);
        let Ok(ip) = Ip::parse(&syn) else { return self.flows.abandon(id) };
        let Ok(tcp) = Tcp::parse(ip.payload(&syn)) else { return self.flows.abandon(id) };
        let header = proxy_protocol::header(dial.service.proxy_protocol, key.remote, key.local);
        let (owner, client, stats) = (dial.owner(), dial.client, Arc::clone(&dial.stats));
        let first = self.context.arrivals.watch(key.remote.ip());
        let upstream = (Upstream::new(stream, header).with_first(first), dial.lease.take());
        let mut armed = dial.armed;
        if let Some(lease) = &upstream.1 {
            lease.member().handle_connected(now.instant);
        }
        let path = Path { local: key.local, remote: key.remote };
        let mut cell = Cell::accept(now.instant, path, (&tcp, ip.payload(&syn)), settings);
        let out = (&mut self.edge.outlet(now), &mut *self.flows.scratch);
        cell.handle_segment(now.instant, &mut syn, (&ip, &tcp), out);
        stats.dialled(Dialled::Connected);
        let mut open = Open::new(now.instant, cell, upstream, owner, stats);
        self.flows.admission.open(now.instant, id, client, &mut open);
        let table = &mut self.flows.table;
        table.deadlines.disarm(id, &mut armed);
        table.flows.replace(id, Flow::Open(Box::new(open)));
        table.mark(id);
    }

    /// A try, or the dial as a whole, ran out of time.
    pub(super) fn handle_timeout(&mut self, id: SlotId) {
        let Some((_, dial)) = self.flows.table.dial_mut(id) else { return };
        if dial.until <= self.now.instant {
            dial.note_failure(self.now.instant);
            self.fail(id, Dialled::TimedOut);
        } else {
            self.handle_failure(id, Dialled::TimedOut);
        }
    }

    /// No upstream answered: the client is sent a reset when it was refused, or when something of
    /// our own is exhausted, so that it does not wait; an ICMP error otherwise.
    fn fail(&mut self, id: SlotId, result: Dialled) {
        let Some(dial) = self.flows.remove_dial(id, result) else { return };
        tracing::debug!(service = %dial.service.name, result = result.labels().concat(), "dial failed");
        let Ok(ip) = Ip::parse(&dial.syn) else { return };
        let Ok(tcp) = Tcp::parse(ip.payload(&dial.syn)) else { return };
        match result {
            Dialled::Refused | Dialled::Exhausted => {
                if let Some(reset) = Bare::reset(&ip, &tcp) {
                    self.edge.send(self.now, reset.packet());
                }
            }
            Dialled::Connected
            | Dialled::Unreachable
            | Dialled::TimedOut
            | Dialled::Unresolved
            | Dialled::Down
            | Dialled::Abandoned => {
                let about = (&ip, dial.syn.as_slice());
                self.context.send_icmp_error(self.now, self.edge, about, IcmpError::HostUnreachable);
            }
        }
    }
}

/// The packet's headers as a packet of their own; the checksum no longer counts.
fn without_data(headers: &[u8], ip: &Ip) -> Vec<u8> {
    let mut packet = headers.to_vec();
    let (at, length) = if ip.is_v4() { (2, packet.len()) } else { (4, packet.len().saturating_sub(40)) };
    let length = u16::try_from(length).unwrap_or(0).to_be_bytes();
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&length);
    }
    packet
}

const fn shed_reason(shed: Shed) -> Dropped {
    match shed {
        Shed::Flows | Shed::HalfOpen => Dropped::ShedFlows,
        Shed::FlowsOfClient => Dropped::ShedFlowsOfClient,
        Shed::Dials => Dropped::ShedDials,
        Shed::DialsOfClient => Dropped::ShedDialsOfClient,
        Shed::Buffers => Dropped::ShedBuffers,
    }
}
