//! UDP flows: one connected socket for each injected flow, the listener's socket for each reached one.
//!
//! A flow lives while the side that opened it speaks (RFC 4787 REQ-5, REQ-6): two minutes until it has shown that answers
//! reach it, `[limits] udp_timeout` from then on. Where there are too many, the oldest that has not shown it goes first; one
//! that has is never pushed out.

mod flow;
mod inject;
mod reach;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use policy::forwarder::Limits;
use tunnel::offload::{Offload, SuperPacket};
use tunnel::packet::icmp::Error as IcmpError;
use tunnel::packet::{Ip, Sum, Udp, protocol};
use tunnel::time::{Instant, Now};

use self::flow::{Side, UdpFlow};
pub use self::reach::Listener;
use super::edge::Edge;
use super::flows::Flows;
use super::tcp::open::Owner;
use crate::cell::Egress as _;
use crate::datagram::{Buffer, Joined, Reassembly};
use crate::deadlines::Deadlines;
use crate::flow::ports::Ports;
use crate::flow::{ClientPrefix, FlowKey, FlowTable, Quota, SlotId};
use crate::icmp::{Complaint, Kind};
use crate::stats::{Dropped, add};
use crate::upstream::Lease;

/// Datagrams a socket may hand over before the next one has its turn.
const BUDGET: usize = 64;
/// How long a flow is kept that has not shown that answers reach its client (RFC 4787 REQ-5: at least two minutes).
const UNPROVEN: Duration = Duration::from_secs(120);
/// Times in a row that a client's machine may say "port unreachable" before the upstream is told so.
const UNREACHABLE: u8 = 2;

/// Every UDP flow, and what waits to become one.
pub struct Datagrams {
    table: FlowTable<FlowKey, UdpFlow>,
    unproven: Deadlines<SlotId>,
    proven: Deadlines<SlotId>,
    dirty: VecDeque<SlotId>,
    quota: Quota,
    ports: Ports,
    reassembly: Reassembly,
    buffer: Buffer,
    listeners: BTreeMap<u32, Listener>,
    next_listener: u32,
    /// The flows of local clients, by listener and address.
    clients: HashMap<(u32, SocketAddr), SlotId>,
    lifetime: Duration,
}

impl Datagrams {
    /// No flows yet.
    pub fn new(limits: &Limits, seed: u16) -> Self {
        Self {
            table: FlowTable::new(limits.udp_flows as usize),
            unproven: Deadlines::new(),
            proven: Deadlines::new(),
            dirty: VecDeque::new(),
            quota: Quota::new(limits.udp_flows, limits.udp_flows_per_client),
            ports: Ports::new(seed),
            reassembly: Reassembly::default(),
            buffer: Buffer::default(),
            listeners: BTreeMap::new(),
            next_listener: 0,
            clients: HashMap::new(),
            lifetime: limits.udp_timeout,
        }
    }

    /// Decides by new limits from now on; flows there stay.
    pub fn set_limits(&mut self, limits: &Limits) {
        self.table.set_limit(limits.udp_flows as usize);
        self.quota.set_limits(limits.udp_flows, limits.udp_flows_per_client);
        self.lifetime = limits.udp_timeout;
    }

    /// When the next timer is due.
    pub fn deadline(&self) -> Option<Instant> {
        let timers = [self.unproven.next(), self.proven.next(), self.reassembly.deadline()];
        timers.into_iter().flatten().min()
    }

    /// Flows open now.
    pub const fn count(&self) -> u32 {
        self.quota.total()
    }

    /// Bytes of datagrams whose fragments have not all come.
    pub const fn reassembly_bytes(&self) -> usize {
        self.reassembly.bytes()
    }

    fn mark(&mut self, id: SlotId) {
        if let Some((_, flow)) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    /// Notes that the side which opened the flow has spoken.
    fn hear(&mut self, now: Instant, id: SlotId) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        let was_proven = flow.is_proven;
        flow.hear(now);
        let at = now.after(if flow.is_proven { self.lifetime } else { UNPROVEN });
        if flow.is_proven && !was_proven {
            self.unproven.disarm(id, &mut flow.armed);
        }
        let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
        deadlines.arm(id, &mut flow.armed, at);
    }

    /// Ends flows whose side has been silent for too long.
    fn expire(&mut self, now: Instant) {
        while let Some(id) = self.unproven.poll_due(now) {
            self.look_again(now, id, UNPROVEN);
        }
        while let Some(id) = self.proven.poll_due(now) {
            self.look_again(now, id, self.lifetime);
        }
    }

    fn look_again(&mut self, now: Instant, id: SlotId, lifetime: Duration) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        flow.armed = None;
        let over_at = flow.heard_at().after(lifetime);
        if over_at <= now {
            self.close(now, id);
        } else {
            let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
            deadlines.arm(id, &mut flow.armed, over_at);
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

    fn close(&mut self, now: Instant, id: SlotId) {
        let Some((key, flow)) = self.table.remove(id) else { return };
        let mut flow = flow;
        let deadlines = if flow.is_proven { &mut self.proven } else { &mut self.unproven };
        deadlines.disarm(id, &mut flow.armed);
        self.quota.release(flow.client());
        if let Side::Listener { listener, client } = flow.side {
            self.clients.remove(&(listener, client));
            self.ports.release(now, key);
        }
    }
}

impl Flows {
    /// Takes a UDP packet that came out of an edge's tunnel, or a fragment of one.
    pub(super) fn handle_udp(&mut self, now: Now, edge: &mut Edge, ip: &Ip, bytes: &[u8]) {
        let content = ip.payload(bytes);
        if ip.fragment.is_none() {
            return self.handle_datagram(now, edge, ip, content);
        }
        match self.udp.reassembly.handle_fragment(now.instant, edge.id, ip, content) {
            Joined::Whole(datagram) => self.handle_datagram(now, edge, ip, &datagram),
            Joined::Waiting => {}
            Joined::Refused(reason) => self.stats.refuse(reason),
        }
        self.count_given_up();
    }

    fn handle_datagram(&mut self, now: Now, edge: &mut Edge, ip: &Ip, datagram: &[u8]) {
        let Ok(udp) = Udp::parse(datagram) else { return self.stats.refuse(Dropped::Malformed) };
        let Some(datagram) = datagram.get(..udp.length) else { return self.stats.refuse(Dropped::Malformed) };
        if !is_intact(ip, &udp, datagram) {
            return self.stats.refuse(Dropped::BadChecksum);
        }
        let payload = datagram.get(Udp::HEADER_LEN..).unwrap_or_default();
        let key = FlowKey {
            edge: edge.id,
            local: (ip.dst, udp.destination_port).into(),
            remote: (ip.src, udp.source_port).into(),
        };
        let id = match self.udp.table.find(&key) {
            Some(id) => id,
            None => match self.begin_injected(now, edge, key) {
                Some(id) => id,
                None => return,
            },
        };
        self.deliver(now, edge, id, payload);
    }

    /// Hands a datagram out of the tunnel to the local side of its flow.
    fn deliver(&mut self, now: Now, edge: &mut Edge, id: SlotId, payload: &[u8]) {
        let udp = &mut self.udp;
        let Some((&key, flow)) = udp.table.get_mut(id) else { return };
        let opened_here = matches!(flow.side, Side::Listener { .. });
        let mut was_refused = false;
        let sent = match &mut flow.side {
            Side::Waiting(held) => return held.push(payload, &self.stats),
            Side::Socket(socket) => socket.send(payload).or_else(|error| {
                was_refused = flow::is_refusal(&error);
                // A refusal is about the datagram before; this one has not been tried.
                if was_refused { socket.send(payload) } else { Err(error) }
            }),
            Side::Listener { listener, client } => match udp.listeners.get(listener) {
                Some(listener) => listener.send(payload, *client),
                None => return,
            },
        };
        match sent {
            Ok(_) => add(&flow.stats.received, payload.len() as u64),
            Err(_) => self.stats.refuse(Dropped::UpstreamFull),
        }
        if was_refused {
            self.tell(now, edge, key, IcmpError::PortUnreachable);
        }
        if !opened_here {
            self.udp.hear(now.instant, id);
        }
    }

    /// Tells the other end of a flow by ICMP what happened to its datagram, within the rate for such answers.
    fn tell(&mut self, now: Now, edge: &mut Edge, key: FlowKey, error: IcmpError) {
        // What is quoted ends with the UDP header: enough to name the flow, and nothing of it is kept for this.
        let mut quoted = Vec::new();
        let ends = (key.remote, key.local);
        Buffer::default_for_header()
            .packets(ends, 0, (u16::MAX, 0), |packet| quoted.extend_from_slice(packet));
        if let Ok(ip) = Ip::parse(&quoted) {
            self.complain(now, edge, &quoted, &ip, error);
        }
    }

    /// The poll said something about a flow's socket.
    pub(super) fn datagrams_ready(&mut self, id: SlotId) {
        self.udp.mark(id);
    }

    /// Gives every socket that has something one turn; `true` when some want another at once.
    pub fn take_datagram_turns(&mut self, now: Now, edges: &mut [Edge]) -> bool {
        let mut again = false;
        for _ in 0..self.udp.dirty.len() {
            let Some(id) = self.udp.dirty.pop_front() else { break };
            again |= self.take_datagram_turn(now, id, edges);
        }
        again | self.read_listeners(now, edges)
    }

    fn take_datagram_turn(&mut self, now: Now, id: SlotId, edges: &mut [Edge]) -> bool {
        let Some((&key, flow)) = self.udp.table.get_mut(id) else { return false };
        let Some(edge) = edges.iter_mut().find(|edge| edge.id == key.edge) else { return false };
        flow.is_dirty = false;
        for _ in 0..BUDGET {
            if !make_room(edge) {
                // The edge's socket is full: the poll says when it is not, and this flow has its turn then.
                self.udp.mark(id);
                return false;
            }
            let udp = &mut self.udp;
            let Some((_, UdpFlow { side: Side::Socket(socket), .. })) = udp.table.get_mut(id) else {
                return false;
            };
            match socket.recv(udp.buffer.payload_mut()) {
                Ok(length) => self.answer(now, edge, id, length),
                Err(error) if flow::is_refusal(&error) => {
                    self.tell(now, edge, key, IcmpError::PortUnreachable);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.udp.mark(id);
        true
    }

    /// Sends what lies in the buffer into the tunnel.
    fn answer(&mut self, now: Now, edge: &mut Edge, id: SlotId, length: usize) {
        let udp = &mut self.udp;
        let Some((&key, flow)) = udp.table.get_mut(id) else { return };
        flow.is_answered = true;
        add(&flow.stats.sent, length as u64);
        let mtu = flow.mtu.min(edge.mtu());
        let mut outlet = edge.outlet(now);
        let fragment_id = if length + 48 > usize::from(mtu) { getrandom::u32().unwrap_or(0) } else { 0 };
        udp.buffer.packets((key.local, key.remote), length, (mtu, fragment_id), |packet| {
            outlet.send(SuperPacket { bytes: packet, offload: Offload::None });
        });
    }

    /// A router or host complains about a datagram of ours.
    pub(super) fn handle_datagram_complaint(
        &mut self,
        now: Now,
        edge: &Edge,
        from: &Ip,
        complaint: &Complaint,
    ) {
        let key = FlowKey { edge: edge.id, local: complaint.local, remote: complaint.remote };
        let Some(id) = self.udp.table.find(&key) else { return self.stats.refuse(Dropped::UnrelatedIcmp) };
        let Some((_, flow)) = self.udp.table.get_mut(id) else { return };
        match complaint.kind {
            Kind::TooBig(mtu) => flow.mtu = flow.mtu.min(mtu.max(smallest_mtu(&key))),
            // No message may end a flow whose client speaks (RFC 4787 REQ-10). But one whose client is gone by the word of its
            // own machine, twice, is closed: from then on the system tells the upstream.
            Kind::PortUnreachable if from.src == key.remote.ip() => {
                flow.unreachable = flow.unreachable.saturating_add(1);
                if flow.unreachable >= UNREACHABLE {
                    self.udp.close(now.instant, id);
                }
            }
            Kind::PortUnreachable | Kind::Unreachable => {}
        }
    }

    /// Does what is due.
    pub(super) fn handle_datagram_timeout(&mut self, now: Now) {
        self.udp.expire(now.instant);
        self.udp.reassembly.handle_timeout(now.instant);
        self.count_given_up();
    }

    /// Ends UDP flows of whose owner or upstream `doomed` says so.
    pub(super) fn close_datagrams(&mut self, now: Instant, doomed: impl Fn(&Owner, Option<&Lease>) -> bool) {
        let ids: Vec<SlotId> = self.udp.table.ids().collect();
        for id in ids {
            if let Some((_, flow)) = self.udp.table.get_mut(id)
                && doomed(&flow.owner, flow.lease.as_ref())
            {
                self.udp.close(now, id);
            }
        }
    }

    fn count_given_up(&mut self) {
        for _ in 0..self.udp.reassembly.take_given_up() {
            self.stats.refuse(Dropped::FragmentsMissing);
        }
    }
}

/// Whether the checksum is right; over IPv4 there may be none (RFC 768).
fn is_intact(ip: &Ip, udp: &Udp, datagram: &[u8]) -> bool {
    let sum = || Sum::new().pseudo_header(ip.src, ip.dst, protocol::UDP, datagram.len()).bytes(datagram);
    if udp.checksum == 0 { ip.is_v4() } else { sum().is_valid() }
}

/// What every link must carry (RFC 8200 §5; RFC 791 speaks of 576).
const fn smallest_mtu(key: &FlowKey) -> u16 {
    if key.local.is_ipv4() { 576 } else { 1280 }
}

fn make_room(edge: &mut Edge) -> bool {
    if !edge.has_room() {
        edge.flush();
    }
    edge.has_room()
}

impl UdpFlow {
    fn client(&self) -> Option<ClientPrefix> {
        match self.owner {
            Owner::Inject(_, client) => Some(client),
            Owner::Reach(_) => None,
        }
    }
}
