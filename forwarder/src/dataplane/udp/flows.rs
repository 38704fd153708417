//! The UDP flows with their timers, their quota and their listeners.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Registry;
use policy::Protocol;
use policy::forwarder::{Limits, Policy};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::time::{Instant, Now};

use super::flow::{Side, UdpFlow};
use super::listener::Listener;
use crate::cell::Egress as _;
use crate::datagram::{Buffer, Reassembly};
use crate::dataplane::edge::Edge;
use crate::dataplane::edges::Edges;
use crate::dataplane::reload::reach_at;
use crate::deadlines::Deadlines;
use crate::flow::ports::Ports;
use crate::flow::quota::OverQuota;
use crate::flow::{ClientPrefix, FlowKey, FlowTable, Quota, SlotId};
use crate::stats::{Dropped, Stats, add};

/// How long a flow is kept that has not shown that replies reach its client (RFC 4787 REQ-5: at
/// least two minutes).
const UNPROVEN: Duration = Duration::from_secs(120);

/// Every UDP flow, the fragments that wait for their datagram, and the local listeners.
pub(crate) struct UdpFlows {
    pub(super) table: FlowTable<FlowKey, UdpFlow>,
    unproven: Deadlines<SlotId>,
    proven: Deadlines<SlotId>,
    /// Flows that wait for their turn, each once.
    pub(super) queue: VecDeque<SlotId>,
    pub(super) quota: Quota,
    pub(super) ports: Ports,
    pub(super) reassembly: Reassembly,
    pub(super) buffer: Buffer,
    pub(super) listeners: BTreeMap<u32, Listener>,
    next_listener: u32,
    /// The flows of local clients, by listener and address.
    pub(super) clients: HashMap<(u32, SocketAddr), SlotId>,
    lifetime: Duration,
    /// Flows that ended, once that is noted.
    ended: Option<Vec<FlowKey>>,
}

impl UdpFlows {
    /// No flows yet.
    pub(crate) fn new(limits: &Limits, seed: u16) -> Self {
        Self {
            table: FlowTable::new(limits.udp_flows as usize),
            unproven: Deadlines::new(),
            proven: Deadlines::new(),
            queue: VecDeque::new(),
            quota: Quota::new(limits.udp_flows, limits.udp_flows_per_client),
            ports: Ports::new(seed),
            reassembly: Reassembly::default(),
            buffer: Buffer::default(),
            listeners: BTreeMap::new(),
            next_listener: 0,
            clients: HashMap::new(),
            lifetime: limits.udp_timeout,
            ended: None,
        }
    }

    /// Applies new limits; existing flows stay.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.table.set_limit(limits.udp_flows as usize);
        self.quota.set_limits(limits.udp_flows, limits.udp_flows_per_client);
        self.lifetime = limits.udp_timeout;
    }

    /// When the next timer is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timers = [self.unproven.next(), self.proven.next(), self.reassembly.deadline()];
        timers.into_iter().flatten().min()
    }

    /// Writes the gauges.
    pub(crate) fn publish(&self, stats: &Stats) {
        use std::sync::atomic::Ordering;
        stats.udp_flows.store(u64::from(self.quota.total()), Ordering::Relaxed);
        stats.reassembly_bytes.store(self.reassembly.bytes() as u64, Ordering::Relaxed);
    }

    /// Starts to watch a listener.
    ///
    /// # Errors
    /// From the system.
    pub(crate) fn add_listener(
        &mut self,
        mut listener: Listener,
        registry: &Registry,
        edges: &Edges,
    ) -> io::Result<()> {
        let number = self.next_listener;
        listener.watch(registry, number, edges)?;
        self.next_listener = number.wrapping_add(1);
        self.listeners.insert(number, listener);
        Ok(())
    }

    /// Closes the listeners whose address is not listened on any more; their flows end with their
    /// entries. The others go on with what their entries are now.
    pub(crate) fn keep_listeners(&mut self, policy: &Policy, edges: &Edges) {
        self.listeners.retain(|_, listener| {
            let entry = reach_at(policy, listener.reach.listen, Protocol::Udp);
            entry.is_some_and(|entry| {
                listener.reach = entry.clone();
                listener.find_edge(edges);
                true
            })
        });
    }

    /// The keys of all flows; from now on [`Self::take_ended`] has those that end. Nothing more is
    /// read from the listeners, by which replies are still sent.
    pub(crate) fn pass(&mut self, registry: &Registry) -> Vec<FlowKey> {
        self.ended = Some(Vec::new());
        self.listeners.values_mut().for_each(|listener| listener.unwatch(registry));
        let ids: Vec<_> = self.table.ids().collect();
        ids.into_iter().filter_map(|id| self.table.get_mut(id).map(|(key, _)| *key)).collect()
    }

    /// The flows that ended since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<FlowKey> {
        self.ended.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Flows that are open.
    pub(crate) const fn active(&self) -> usize {
        self.quota.total() as usize
    }

    /// The listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// The poll reports that datagrams wait at a listener.
    pub(super) fn listener_ready(&mut self, number: u32) {
        if let Some(listener) = self.listeners.get_mut(&number) {
            listener.is_ready = true;
        }
    }

    /// Gives a flow a turn soon.
    pub(super) fn mark(&mut self, id: SlotId) {
        if let Some((_, flow)) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.is_queued, true)
        {
            self.queue.push_back(id);
        }
    }

    /// Notes that the side which opened the flow has sent a datagram.
    pub(super) fn note_activity(&mut self, now: Instant, id: SlotId) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        let was_proven = flow.is_proven;
        flow.note_activity(now);
        let at = now.after(if flow.is_proven { self.lifetime } else { UNPROVEN });
        if flow.is_proven && !was_proven {
            self.unproven.disarm(id, &mut flow.armed);
        }
        let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
        deadlines.arm(id, &mut flow.armed, at);
    }

    /// Ends flows whose side has been silent for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.unproven.poll_due(now) {
            self.close_if_silent(now, id, UNPROVEN);
        }
        while let Some(id) = self.proven.poll_due(now) {
            self.close_if_silent(now, id, self.lifetime);
        }
    }

    fn close_if_silent(&mut self, now: Instant, id: SlotId, lifetime: Duration) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        flow.armed = None;
        let over_at = flow.active_at().after(lifetime);
        if over_at <= now {
            self.close(now, id);
        } else {
            let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
            deadlines.arm(id, &mut flow.armed, over_at);
        }
    }

    /// Counts one more flow; where there are too many, the oldest that has not proven itself is
    /// ended.
    pub(super) fn take_quota(
        &mut self,
        now: Instant,
        client: Option<ClientPrefix>,
        stats: &Stats,
    ) -> Option<()> {
        loop {
            match self.quota.take(client) {
                Ok(()) => return Some(()),
                Err(OverQuota::Total) if self.evict(now) => add(&stats.udp_evicted, 1),
                Err(OverQuota::Total) => {
                    stats.refuse(Dropped::ShedUdpFlows);
                    return None;
                }
                Err(OverQuota::Client) => {
                    stats.refuse(Dropped::ShedUdpFlowsOfClient);
                    return None;
                }
            }
        }
    }

    /// Ends the oldest flow that has not proven itself; `false` when there is none.
    fn evict(&mut self, now: Instant) -> bool {
        let Some(id) = self.unproven.poll_first() else { return false };
        if let Some((_, flow)) = self.table.get_mut(id) {
            flow.armed = None;
        }
        self.close(now, id);
        true
    }

    /// Ends a flow.
    pub(super) fn close(&mut self, now: Instant, id: SlotId) {
        let Some((key, mut flow)) = self.table.remove(id) else { return };
        let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
        deadlines.disarm(id, &mut flow.armed);
        self.quota.release(flow.owner.client());
        self.ended.iter_mut().for_each(|ended| ended.push(key));
        if let Side::Listener { listener, client } = flow.side {
            self.clients.remove(&(listener, client));
            self.ports.release(now, key);
        }
    }

    /// Sends the datagram in the buffer into the tunnel.
    pub(super) fn send_buffer(&mut self, now: Now, edge: &mut Edge, id: SlotId, length: usize) {
        let Some((&key, flow)) = self.table.get_mut(id) else { return };
        flow.is_answered = true;
        add(&flow.stats.sent, length as u64);
        let mtu = flow.mtu.min(edge.mtu());
        let mut outlet = edge.outlet(now);
        let fragment_id = if length + 48 > usize::from(mtu) { getrandom::u32().unwrap_or(0) } else { 0 };
        self.buffer.packets((key.local, key.remote), length, (mtu, fragment_id), |packet| {
            outlet.send(SuperPacket { bytes: packet, offload: Offload::None });
        });
    }

    /// Counts the datagrams whose fragments did not all come.
    pub(super) fn count_incomplete(&mut self, stats: &Stats) {
        for _ in 0..self.reassembly.take_given_up() {
            stats.refuse(Dropped::FragmentsMissing);
        }
    }
}
