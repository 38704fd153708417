//! Dials: a SYN that is held until an upstream has answered.
//!
//! The upstreams of an entry are tried one after another, and so are the addresses of a name; each has its share of
//! `[limits] dial_timeout`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use policy::forwarder::{Inject, Upstream as Place};
use policy::{Host, Protocol};
use tunnel::packet::icmp::Error as IcmpError;
use tunnel::packet::{Ip, Tcp};
use tunnel::time::{Instant, Now};

use super::open::{Open, Owner};
use crate::cell::{Cell, Path, Settings};
use crate::dataplane::edge::Edge;
use crate::dataplane::flows::{Flow, Flows};
use crate::dataplane::resolve::Asker;
use crate::dataplane::token;
use crate::flow::segment::Bare;
use crate::flow::{ClientPrefix, FlowKey, Shed, SlotId};
use crate::proxy_protocol;
use crate::stats::{Dialled, Dropped, EntryStats};
use crate::upstream::{self, Lease, Member, Stream, Upstream};

/// Bytes of a SYN that are kept: headers with all options of either family, and no data.
const MAX_SYN: usize = 160;
/// Flows of silent clients that may end for one new flow.
const MAX_EVICTED: usize = 16;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// A flow whose upstream has not answered.
pub struct Dial {
    inject: Inject,
    client: ClientPrefix,
    stats: Arc<EntryStats>,
    /// The SYN as it came, from its IP header.
    syn: Vec<u8>,
    /// Upstreams that were not tried yet.
    members: VecDeque<Arc<Member>>,
    /// Addresses of the one in hand that were not tried yet.
    addresses: VecDeque<SocketAddr>,
    lease: Option<Lease>,
    stream: Option<Stream>,
    /// How long each try may take, and when the dial as a whole is given up.
    patience: (Duration, Instant),
    /// Where its timer entry is.
    pub armed: Option<Instant>,
}

impl Dial {
    /// Takes another segment of the flow: a SYN again, perhaps of a new try with another number, replaces the one held.
    pub fn handle_again(&mut self, packet: &[u8], is_syn: bool) {
        if is_syn && packet.len() <= MAX_SYN {
            self.syn.clear();
            self.syn.extend_from_slice(packet);
        }
    }

    /// The claim on the upstream that is being tried.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whose flow it will be.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::Inject(self.inject.name.clone(), self.client)
    }
}

impl Dial {
    /// The upstream in hand did not answer; while it has other addresses that says nothing about it.
    fn note_failure(&self, now: Instant) {
        if let Some(lease) = self.lease.as_ref().filter(|_| self.addresses.is_empty()) {
            lease.member().handle_failure(now);
        }
    }
}

impl Flows {
    /// A SYN of no flow: it is admitted and dialled, or turned away.
    pub(in crate::dataplane) fn handle_syn(
        &mut self,
        now: Now,
        edge: &mut Edge,
        key: FlowKey,
        headers: (&Ip, &Tcp),
        packet: &[u8],
    ) {
        let (ip, tcp) = headers;
        let policy = Arc::clone(&self.policy);
        let inject = policy.inject_for(&edge.name, Protocol::Tcp, key.local);
        let Some(inject) = inject.filter(|_| key.remote.port() != 0 && key.local.port() != 0) else {
            self.stats.refuse(Dropped::NoInject);
            return self.reset_stranger(now, edge, ip, tcp);
        };
        if !policy.admits(inject, ip.src) {
            self.stats.refuse(Dropped::NotAllowed);
            return self.reset_stranger(now, edge, ip, tcp);
        }
        if self.is_stopping {
            self.stats.refuse(Dropped::Stopping);
            return self.reset_stranger(now, edge, ip, tcp);
        }
        // Nothing is sent back then: the client tries again by itself, and by then there may be room.
        let client = ClientPrefix::from(ip.src);
        if let Err(reason) = self.admit(now, &key, client) {
            return self.stats.refuse(reason);
        }
        let Some(dial) = self.new_dial(now, inject, client, packet.get(..ip.header_len + tcp.header_len), ip)
        else {
            return self.release_dial(client);
        };
        match self.table.insert(key, Flow::Dial(Box::new(dial))) {
            Ok(id) => self.try_next(now, id, edge, Dialled::Unresolved),
            Err(_) => {
                self.release_dial(client);
                self.stats.refuse(Dropped::ShedFlows);
            }
        }
    }

    /// Counts a new flow. Where those of silent clients leave no room, a SYN that comes again takes the place of the
    /// oldest whose client is silent: forged addresses send nothing twice.
    fn admit(&mut self, now: Now, key: &FlowKey, client: ClientPrefix) -> Result<(), Dropped> {
        let shed = match self.admission.dial(client) {
            Ok(()) => return Ok(()),
            Err(shed @ (Shed::FlowsOfClient | Shed::Dials | Shed::DialsOfClient | Shed::Buffers)) => {
                return Err(shed_reason(shed));
            }
            Err(shed @ (Shed::HalfOpen | Shed::Flows)) => shed,
        };
        if !self.greylist.comes_again(now.instant, key) {
            return Err(Dropped::Greylisted);
        }
        for _ in 0..MAX_EVICTED {
            if !self.evict_half_open(now) {
                return Err(shed_reason(shed));
            }
            if self.admission.dial(client).is_ok() {
                return Ok(());
            }
        }
        Err(shed_reason(shed))
    }

    fn release_dial(&mut self, client: ClientPrefix) {
        self.admission.dialled(client);
        self.admission.release(client);
    }

    /// A dial that has tried nothing yet; `None` for an entry that is gone.
    fn new_dial(
        &self,
        now: Now,
        inject: &Inject,
        client: ClientPrefix,
        headers: Option<&[u8]>,
        ip: &Ip,
    ) -> Option<Dial> {
        let stats = self.stats.inject.load().get(&inject.name).cloned()?;
        let members = VecDeque::from(self.stats.pools.load().get(&inject.name)?.order(now.instant));
        let timeout = self.admission.limits().dial_timeout;
        let share = timeout / u32::try_from(members.len().max(1)).unwrap_or(1);
        Some(Dial {
            inject: inject.clone(),
            client,
            stats,
            // Data in a SYN is not kept: the client sends it again (RFC 9293 §3.10.7.2 allows it).
            syn: without_data(headers.unwrap_or_default(), ip),
            members,
            addresses: VecDeque::new(),
            lease: None,
            stream: None,
            patience: (share, now.instant.after(timeout)),
            armed: None,
        })
    }

    /// Tries what is next: another address of the upstream in hand, or the next upstream. With nothing left the dial has
    /// failed, as `result` says.
    fn try_next(&mut self, now: Now, id: SlotId, edge: &mut Edge, result: Dialled) {
        let mut result = result;
        loop {
            let Some((&key, Flow::Dial(dial))) = self.table.get_mut(id) else { return };
            dial.stream = None;
            let until = now.instant.after(dial.patience.0).min(dial.patience.1);
            self.deadlines.disarm(id, &mut dial.armed);
            self.deadlines.arm(id, &mut dial.armed, until);
            let begun = if let Some(address) = dial.addresses.pop_front() {
                Stream::dial(address)
            } else if let Some(member) = dial.members.pop_front() {
                let place = member.upstream.clone();
                dial.lease = Some(Lease::new(member));
                match place {
                    Place::Unix(path) => Stream::dial_unix(&path),
                    Place::Network { host: Host::Address(address), port } => {
                        let port = port.of(key.local.port(), dial.inject.ports.first());
                        Stream::dial(SocketAddr::new(address, port))
                    }
                    Place::Network { host: Host::Name(name), port } => {
                        let port = port.of(key.local.port(), dial.inject.ports.first());
                        if self.resolver.dial(Asker::Dial(id), &name, port) {
                            return;
                        }
                        return self.dial_failed(now, id, edge, Dialled::Exhausted);
                    }
                }
            } else {
                return self.dial_failed(now, id, edge, result);
            };
            let watched = begun.and_then(|mut stream| {
                stream.watch(&self.registry, token::flow(id))?;
                Ok(stream)
            });
            match watched {
                Ok(stream) => {
                    dial.stream = Some(stream);
                    return;
                }
                Err(error) => {
                    if upstream::lacks_descriptor(&error) {
                        self.stats.lack_descriptor(now.instant);
                    }
                    result = upstream::failure(&error);
                }
            }
            // Of what we lack ourselves, the next upstream would need as much.
            if result == Dialled::Exhausted {
                return self.dial_failed(now, id, edge, result);
            }
            dial.note_failure(now.instant);
        }
    }

    /// What was tried did not work: the next is.
    fn attempt_failed(&mut self, now: Now, id: SlotId, edge: &mut Edge, result: Dialled) {
        if let Some((_, Flow::Dial(dial))) = self.table.get_mut(id) {
            dial.note_failure(now.instant);
            self.try_next(now, id, edge, result);
        }
    }

    /// The name of an upstream was resolved, or has no address.
    pub fn handle_resolved(&mut self, now: Now, id: SlotId, addresses: &[SocketAddr], edges: &mut [Edge]) {
        let Some((key, Flow::Dial(_))) = self.table.get_mut(id) else { return };
        let edge_id = key.edge;
        let Some(edge) = edges.iter_mut().find(|edge| edge.id == edge_id) else { return };
        if let Some((_, Flow::Dial(dial))) = self.table.get_mut(id) {
            dial.addresses = addresses.iter().copied().take(MAX_ADDRESSES).collect();
            if addresses.is_empty() {
                dial.note_failure(now.instant);
            }
            self.try_next(now, id, edge, Dialled::Unresolved);
        }
    }

    /// The poll said something about a flow's socket.
    pub fn handle_ready(&mut self, now: Now, id: SlotId, ready: (bool, bool), edges: &mut [Edge]) {
        let Some((key, flow)) = self.table.get_mut(id) else { return };
        let edge_id = key.edge;
        match flow {
            Flow::Open(open) => {
                open.upstream.ready(ready.0, ready.1);
                self.mark(id);
            }
            Flow::Dial(dial) => {
                let result = dial.stream.as_ref().and_then(Stream::dialled);
                let Some(edge) = edges.iter_mut().find(|edge| edge.id == edge_id) else { return };
                match result {
                    Some(Ok(())) => self.dialled(now, id, edge),
                    Some(Err(error)) => self.attempt_failed(now, id, edge, upstream::failure(&error)),
                    None => {}
                }
            }
            Flow::Lingering { .. } => {}
        }
    }

    /// The upstream answered: the flow is opened and its SYN answered.
    fn dialled(&mut self, now: Now, id: SlotId, edge: &mut Edge) {
        let settings = self.settings(edge);
        let Some((&key, Flow::Dial(dial))) = self.table.get_mut(id) else { return };
        let (Some(settings), Some(stream)) = (settings, dial.stream.take()) else {
            return self.dial_failed(now, id, edge, Dialled::Exhausted);
        };
        let mut syn = std::mem::take(&mut dial.syn);
        let (Ok(ip), inject) = (Ip::parse(&syn), &dial.inject) else { return self.abandon(id) };
        let Ok(tcp) = Tcp::parse(ip.payload(&syn)) else { return self.abandon(id) };
        let header = proxy_protocol::header(inject.proxy_protocol, key.remote, key.local);
        let path = Path { local: key.local, remote: key.remote };
        let mut cell = Cell::accept(now.instant, path, (&tcp, ip.payload(&syn)), settings);
        let out = (&mut edge.outlet(now), &mut *self.scratch);
        cell.handle_segment(now.instant, &mut syn, (&ip, &tcp), out);
        self.admission.dialled(dial.client);
        self.admission.half_opened();
        dial.stats.dialled(Dialled::Connected);
        let (owner, stats, mut armed) = (dial.owner(), Arc::clone(&dial.stats), dial.armed);
        let upstream = (Upstream::new(stream, header), dial.lease.take());
        self.deadlines.disarm(id, &mut armed);
        let mut open = Open::new(now.instant, cell, upstream, owner, stats);
        self.half_open.arm(id, &mut open.half_open, now.instant);
        self.table.replace(id, Flow::Open(Box::new(open)));
        self.mark(id);
    }

    /// What a new cell is made with; `None` when the system gives no randomness.
    pub(in crate::dataplane) fn settings(&self, edge: &Edge) -> Option<Settings> {
        let seed = getrandom::u64().ok()?;
        let limits = self.admission.limits();
        let ring = ring_size(limits.buffer_bytes, self.admission.buffered(), self.admission.counts().0);
        Some(Settings { mtu: edge.mtu(), ring, seed })
    }

    /// A try, or the dial as a whole, ran out of time.
    pub(in crate::dataplane) fn dial_timed_out(&mut self, now: Now, id: SlotId, edges: &mut [Edge]) {
        let Some((key, Flow::Dial(dial))) = self.table.get_mut(id) else { return };
        let Some(edge) = edges.iter_mut().find(|edge| edge.id == key.edge) else { return };
        if dial.patience.1 <= now.instant {
            dial.note_failure(now.instant);
            self.dial_failed(now, id, edge, Dialled::TimedOut);
        } else {
            self.attempt_failed(now, id, edge, Dialled::TimedOut);
        }
    }

    /// The upstream did not answer: the client learns it by a reset when it was refused, or when it cannot be dialled for want
    /// of something of our own, so that nobody waits for it; by ICMP else.
    fn dial_failed(&mut self, now: Now, id: SlotId, edge: &mut Edge, result: Dialled) {
        let Some(dial) = self.remove_dial(id, result) else { return };
        tracing::debug!(inject = %dial.inject.name, result = result.labels().concat(), "dial failed");
        let Ok(ip) = Ip::parse(&dial.syn) else { return };
        let Ok(tcp) = Tcp::parse(ip.payload(&dial.syn)) else { return };
        match result {
            Dialled::Refused | Dialled::Exhausted => {
                if let Some(reset) = Bare::reset(&ip, &tcp) {
                    edge.send(now, reset.packet());
                }
            }
            Dialled::Connected
            | Dialled::Unreachable
            | Dialled::TimedOut
            | Dialled::Unresolved
            | Dialled::Down
            | Dialled::Abandoned => self.complain(now, edge, &dial.syn, &ip, IcmpError::HostUnreachable),
        }
    }

    /// The client gave up before the upstream answered.
    pub(in crate::dataplane) fn abandon(&mut self, id: SlotId) {
        self.remove_dial(id, Dialled::Abandoned);
    }

    fn remove_dial(&mut self, id: SlotId, result: Dialled) -> Option<Box<Dial>> {
        if !matches!(self.table.get_mut(id)?.1, Flow::Dial(_)) {
            return None;
        }
        let (_, Flow::Dial(mut dial)) = self.table.remove(id)? else { return None };
        self.deadlines.disarm(id, &mut dial.armed);
        self.admission.dialled(dial.client);
        self.admission.release(dial.client);
        dial.stats.dialled(result);
        Some(dial)
    }
}

/// Bytes of each ring of a new cell: large while there are few flows, so that a long path is filled; their pages are
/// only taken once they are used.
fn ring_size(budget: u64, buffered: u64, flows: u32) -> usize {
    const LARGEST: u64 = 4 << 20;
    const SMALLEST: u64 = 64 << 10;
    let free = budget.saturating_sub(buffered);
    let share = free / (4 * u64::from(flows).max(8));
    let size = share.clamp(SMALLEST, LARGEST);
    usize::try_from(1u64 << size.ilog2()).unwrap_or(64 << 10)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_shrink_as_flows_and_buffers_grow() {
        let budget = 256 << 20;
        assert_eq!(ring_size(budget, 0, 1), 4 << 20);
        assert_eq!(ring_size(budget, 0, 64), 1 << 20);
        assert_eq!(ring_size(budget, 0, 10_000), 64 << 10);
        assert_eq!(ring_size(budget, budget, 1), 64 << 10);
    }
}
