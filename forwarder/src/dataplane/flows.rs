//! The flows of the daemon and what happens to each packet that comes out of the tunnel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::Registry;
use policy::forwarder::Policy;
use tunnel::offload::{Offload, SuperPacket};
use tunnel::packet::icmp::{Echo, Error as IcmpError};
use tunnel::packet::{Ip, Tcp, protocol, tcp_flags};
use tunnel::time::{Instant, Now};

use super::edge::Edge;
use super::tcp::dial::Dial;
use super::tcp::open::{Open, Owner, Turn};
use super::udp::Datagrams;
use crate::cell::{Ending, SCRATCH};
use crate::dataplane::resolve::Resolver;
use crate::deadlines::Deadlines;
use crate::flow::ports::Ports;
use crate::flow::segment::Bare;
use crate::flow::{Admission, Bucket, EdgeId, FlowKey, FlowTable, Greylist, SlotId};
use crate::icmp::{Complaint, Kind};
use crate::stats::{Dropped, Stats, add};
use crate::upstream::{Lease, Member};

/// Answers to strangers (resets, ICMP errors) per second, and at once.
const ANSWERS: (u32, u32) = (200, 400);
/// Echo replies per second, and at once.
const ECHOES: (u32, u32) = (1_000, 1_000);
/// Finished flows whose late segments are still answered; beyond it they are forgotten at once.
const MAX_LINGERING: usize = 4_096;
/// How long a finished flow is remembered: smoltcp's TIME-WAIT.
const LINGER: Duration = Duration::from_secs(10);

/// What is known of a flow.
pub enum Flow {
    /// Its SYN is held until the upstream has answered.
    Dial(Box<Dial>),
    /// It carries data.
    Open(Box<Open>),
    /// It is over; a late FIN is acknowledged again.
    Lingering {
        /// The next sequence number of ours.
        sequence: u32,
        /// What we have acknowledged.
        acknowledgement: u32,
        /// Where its timer entry is.
        armed: Option<Instant>,
    },
}

impl Flow {
    /// Whether the client has reset it, and it only waits for its last turn.
    fn was_reset(&mut self) -> bool {
        match self {
            Self::Open(open) => open.cell.ending() == Some(Ending::Reset),
            Self::Dial(_) | Self::Lingering { .. } => false,
        }
    }
}

/// Every flow with what decides about new ones; knows edges only as they are handed in.
pub struct Flows {
    pub(super) table: FlowTable<FlowKey, Flow>,
    pub(super) deadlines: Deadlines<SlotId>,
    pub(super) dirty: VecDeque<SlotId>,
    pub(super) admission: Admission,
    pub(super) ports: Ports,
    pub(super) udp: Datagrams,
    pub(super) policy: Arc<Policy>,
    pub(super) stats: Arc<Stats>,
    pub(super) registry: Registry,
    pub(super) resolver: Resolver,
    pub(super) is_stopping: bool,
    pub(super) scratch: Box<[u8]>,
    /// Injected flows whose client has not finished the handshake, the oldest first.
    pub(super) half_open: Deadlines<SlotId>,
    pub(super) greylist: Greylist,
    /// Upstreams that left the configuration, and until when their flows may go on.
    retired: Vec<(Instant, Arc<Member>)>,
    answers: Bucket,
    echoes: Bucket,
    lingering: usize,
}

impl Flows {
    /// No flows yet.
    pub fn new(
        policy: Arc<Policy>,
        stats: Arc<Stats>,
        registry: Registry,
        resolver: Resolver,
        seed: u16,
    ) -> Self {
        let limits = policy.limits;
        Self {
            table: FlowTable::new(limits.flows as usize + MAX_LINGERING),
            deadlines: Deadlines::new(),
            dirty: VecDeque::new(),
            admission: Admission::new(limits),
            ports: Ports::new(seed),
            udp: Datagrams::new(&limits, seed),
            policy,
            stats,
            registry,
            resolver,
            is_stopping: false,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            half_open: Deadlines::new(),
            greylist: Greylist::default(),
            retired: Vec::new(),
            answers: Bucket::new(ANSWERS.0, ANSWERS.1),
            echoes: Bucket::new(ECHOES.0, ECHOES.1),
            lingering: 0,
        }
    }

    /// Takes one packet or super-packet that came out of an edge's tunnel.
    pub fn handle_packet(&mut self, now: Now, edge: &mut Edge, packet: SuperPacket<'_>) {
        let SuperPacket { bytes, offload } = packet;
        let Ok(ip) = Ip::parse(bytes) else { return self.stats.refuse(Dropped::Malformed) };
        let Some(bytes) = bytes.get_mut(..ip.total_len) else { return self.stats.refuse(Dropped::Malformed) };
        if ip.protocol == protocol::UDP {
            return self.handle_udp(now, edge, &ip, bytes);
        }
        if ip.fragment.is_some() {
            return self.stats.refuse(Dropped::Fragment);
        }
        match ip.protocol {
            protocol::TCP => self.handle_tcp(now, edge, &ip, bytes, offload == Offload::None),
            protocol::ICMP | protocol::ICMPV6 => self.handle_icmp(now, edge, &ip, bytes),
            _ => self.stats.refuse(Dropped::UnknownProtocol),
        }
    }

    fn handle_tcp(&mut self, now: Now, edge: &mut Edge, ip: &Ip, bytes: &mut [u8], unverified: bool) {
        let Ok(tcp) = Tcp::parse(ip.payload(bytes)) else { return self.stats.refuse(Dropped::Malformed) };
        if unverified && !ip.transport_checksum_is_valid(bytes) {
            return self.stats.refuse(Dropped::BadChecksum);
        }
        let key = FlowKey {
            edge: edge.id,
            local: (ip.dst, tcp.destination_port).into(),
            remote: (ip.src, tcp.source_port).into(),
        };
        let opens = tcp.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN;
        let Some(id) = self.table.find(&key) else {
            return match opens {
                true => self.handle_syn(now, edge, key, (ip, &tcp), bytes),
                false => {
                    self.stats.refuse(Dropped::NoFlow);
                    self.reset_stranger(now, edge, ip, &tcp);
                }
            };
        };
        if opens && self.table.get_mut(id).is_some_and(|(_, flow)| flow.was_reset()) {
            // The client uses the port again before the flow that it reset had another turn.
            self.finish(now, id, Ending::Reset);
            return self.handle_syn(now, edge, key, (ip, &tcp), bytes);
        }
        match self.table.get_mut(id) {
            Some((_, Flow::Open(open))) => {
                let out = (&mut edge.outlet(now), &mut *self.scratch);
                open.cell.handle_segment(now.instant, bytes, (ip, &tcp), out);
                if !std::mem::replace(&mut open.is_dirty, true) {
                    self.dirty.push_back(id);
                }
            }
            Some((_, Flow::Dial(dial))) => {
                if tcp.flags & tcp_flags::RST != 0 {
                    self.abandon(id);
                } else {
                    dial.handle_again(bytes, opens);
                    self.stats.refuse(Dropped::DialPending);
                }
            }
            Some((_, &mut Flow::Lingering { sequence, acknowledgement, .. })) => {
                if opens {
                    self.forget(id);
                    self.handle_syn(now, edge, key, (ip, &tcp), bytes);
                } else if tcp.flags & tcp_flags::RST != 0 {
                    self.forget(id);
                } else if tcp.flags & tcp_flags::FIN != 0 {
                    let (source, destination) = (key.local, key.remote);
                    let acknowledgement = Some(acknowledgement);
                    let ack = Bare { source, destination, sequence, acknowledgement, flags: 0 };
                    edge.send(now, ack.packet());
                }
            }
            None => {}
        }
    }

    fn handle_icmp(&mut self, now: Now, edge: &mut Edge, ip: &Ip, bytes: &[u8]) {
        if let Some(echo) = Echo::parse(ip, bytes) {
            if echo.is_reply || !self.answers_echo(edge, ip) {
                return self.stats.refuse(Dropped::UnrelatedIcmp);
            }
            if !self.echoes.take(now.instant) {
                return self.stats.refuse(Dropped::AnswerLimited);
            }
            if let Some(reply) = (Echo { is_reply: true, ..echo }).build(ip.dst, ip.src) {
                add(&self.stats.echoes, 1);
                edge.send(now, reply);
            }
            return;
        }
        match Complaint::parse(ip, bytes) {
            Some(complaint) if complaint.protocol == protocol::UDP => {
                self.handle_datagram_complaint(now, edge, ip, &complaint);
            }
            Some(complaint) => self.handle_complaint(edge, &complaint),
            None => self.stats.refuse(Dropped::UnrelatedIcmp),
        }
    }

    fn handle_complaint(&mut self, edge: &Edge, complaint: &Complaint) {
        let key = FlowKey { edge: edge.id, local: complaint.local, remote: complaint.remote };
        let Some(id) = self.table.find(&key) else { return self.stats.refuse(Dropped::UnrelatedIcmp) };
        if let Some((_, Flow::Open(open))) = self.table.get_mut(id) {
            if !open.cell.is_unanswered(complaint.sequence) {
                return self.stats.refuse(Dropped::UnrelatedIcmp);
            }
            match complaint.kind {
                Kind::TooBig(mtu) => open.cell.handle_too_big(mtu),
                // Fatal while opening, a passing trouble later (RFC 5461).
                Kind::Unreachable | Kind::PortUnreachable if !open.cell.is_established() => {
                    tracing::debug!(kind = ?complaint.kind, "a flow that opens is told to be unreachable");
                    open.abort();
                }
                Kind::Unreachable | Kind::PortUnreachable => {}
            }
            self.mark(id);
        }
    }

    fn answers_echo(&self, edge: &Edge, ip: &Ip) -> bool {
        let injected = |address: &ipnetwork::IpNetwork| address.contains(ip.dst);
        edge.addresses.contains(&ip.dst)
            || self.policy.inject.iter().any(|inject| {
                inject.peers.contains(&edge.name) && inject.address.as_ref().is_some_and(injected)
            })
    }

    /// Resets a segment that belongs to no flow, unless strangers had too many answers already.
    pub(super) fn reset_stranger(&mut self, now: Now, edge: &mut Edge, ip: &Ip, tcp: &Tcp) {
        let Some(reset) = Bare::reset(ip, tcp) else { return };
        if self.answers.take(now.instant) {
            add(&self.stats.resets, 1);
            edge.send(now, reset.packet());
        } else {
            self.stats.refuse(Dropped::AnswerLimited);
        }
    }

    /// Tells a sender by ICMP what happened to its packet, unless strangers had too many answers already.
    pub(super) fn complain(&mut self, now: Now, edge: &mut Edge, bytes: &[u8], ip: &Ip, error: IcmpError) {
        if !self.answers.take(now.instant) {
            return self.stats.refuse(Dropped::AnswerLimited);
        }
        if let Some(packet) = error.build(bytes, ip.dst) {
            edge.send(now, packet);
        }
    }

    /// Gives a flow a turn soon.
    pub(super) fn mark(&mut self, id: SlotId) {
        if let Some((_, Flow::Open(open))) = self.table.get_mut(id)
            && !std::mem::replace(&mut open.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    /// Gives every flow that has something to do one turn; `true` when some want another at once.
    pub fn take_turns(&mut self, now: Now, edges: &mut [Edge]) -> bool {
        let mut again = false;
        for _ in 0..self.dirty.len() {
            let Some(id) = self.dirty.pop_front() else { break };
            again |= self.take_turn(now, id, edges);
        }
        again
    }

    fn take_turn(&mut self, now: Now, id: SlotId, edges: &mut [Edge]) -> bool {
        let Some((key, Flow::Open(open))) = self.table.get_mut(id) else { return false };
        let Some(edge) = edges.iter_mut().find(|edge| edge.id == key.edge) else { return false };
        open.is_dirty = false;
        let turn = open.turn(now, edge, &mut self.scratch);
        let touched = open.cell.touched();
        self.admission.buffers(touched.saturating_sub(open.touched), open.touched.saturating_sub(touched));
        open.touched = touched;
        let tally = open.cell.take_tally();
        add(&self.stats.resent, tally.resent);
        add(&self.stats.scoreboard_full, tally.full);
        if open.is_established() && open.half_open.is_some() {
            self.half_open.disarm(id, &mut open.half_open);
            self.admission.half_open_ended();
        }
        match turn {
            Turn::Wait(at) => {
                self.deadlines.arm(id, &mut open.armed, at);
                false
            }
            Turn::Again | Turn::Blocked => {
                edge.flush();
                // A flow that waits for a stuck socket goes on when that is writable; asking again costs nothing then.
                let is_open = turn == Turn::Again || edge.has_room();
                if is_open {
                    self.mark(id);
                } else {
                    edge.blocked.insert(id);
                }
                is_open
            }
            Turn::Over(ending) => {
                self.finish(now, id, ending);
                false
            }
        }
    }

    /// Ends the oldest flow whose client has not finished the handshake, without a word: it may never have been there.
    pub(super) fn evict_half_open(&mut self, now: Now) -> bool {
        let Some(id) = self.half_open.poll_first() else { return false };
        if let Some((_, Flow::Open(open))) = self.table.get_mut(id) {
            open.half_open = None;
            self.admission.half_open_ended();
        }
        add(&self.stats.half_open_evicted, 1);
        self.finish(now, id, Ending::Reset);
        true
    }

    /// Ends an open flow: its socket is closed, its late segments are answered for a while.
    fn finish(&mut self, now: Now, id: SlotId, ending: Ending) {
        let Some((key, Flow::Open(open))) = self.table.remove(id) else { return };
        let mut open = open;
        self.deadlines.disarm(id, &mut open.armed);
        self.admission.buffers(0, open.touched);
        match open.owner {
            Owner::Inject(_, client) => {
                if open.half_open.is_some() {
                    self.half_open.disarm(id, &mut open.half_open);
                    self.admission.half_open_ended();
                }
                self.admission.release(client);
            }
            Owner::Reach(_) => {
                self.admission.release_local();
                self.ports.release(now.instant, key);
            }
        }
        let (sequence, acknowledgement) = open.cell.last_words();
        match ending {
            Ending::Reset => open.upstream.reset(),
            Ending::Closed if self.lingering < MAX_LINGERING => {
                let flow = Flow::Lingering { sequence, acknowledgement, armed: None };
                if let Ok(id) = self.table.insert(key, flow) {
                    self.lingering += 1;
                    self.arm(id, now.instant.after(LINGER));
                }
            }
            Ending::Closed => {}
        }
    }

    /// Forgets a finished flow.
    pub(super) fn forget(&mut self, id: SlotId) {
        if let Some((_, Flow::Lingering { mut armed, .. })) = self.table.remove(id) {
            self.lingering -= 1;
            self.deadlines.disarm(id, &mut armed);
        }
    }

    pub(super) fn arm(&mut self, id: SlotId, at: Instant) {
        let armed = match self.table.get_mut(id) {
            Some((_, Flow::Dial(dial))) => &mut dial.armed,
            Some((_, Flow::Open(open))) => &mut open.armed,
            Some((_, Flow::Lingering { armed, .. })) => armed,
            None => return,
        };
        self.deadlines.arm(id, armed, at);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, edges: &mut [Edge]) {
        self.handle_datagram_timeout(now);
        self.end_retired(now);
        while let Some(id) = self.deadlines.poll_due(now.instant) {
            match self.table.get_mut(id) {
                Some((_, Flow::Open(open))) => {
                    open.armed = None;
                    self.mark(id);
                }
                Some((_, Flow::Dial(dial))) => {
                    dial.armed = None;
                    self.dial_timed_out(now, id, edges);
                }
                Some((_, Flow::Lingering { armed, .. })) => {
                    *armed = None;
                    self.forget(id);
                }
                None => {}
            }
        }
    }

    /// Ends flows at once, with resets both ways, of whose owner or upstream `doomed` says so.
    pub fn abort(&mut self, now: Now, doomed: impl Fn(&Owner, Option<&Lease>) -> bool) {
        self.close_datagrams(now.instant, &doomed);
        let ids: Vec<SlotId> = self.table.ids().collect();
        for id in ids {
            match self.table.get_mut(id) {
                Some((_, Flow::Open(open))) if doomed(&open.owner, open.lease.as_ref()) => {
                    open.abort();
                    self.mark(id);
                }
                Some((_, Flow::Dial(dial))) if doomed(&dial.owner(), dial.lease()) => self.abandon(id),
                Some(_) | None => {}
            }
        }
    }

    /// A session with an edge is new: flows that wait for a doubled timeout send now.
    pub(super) fn resume(&mut self, now: Now, edge: EdgeId) {
        let ids: Vec<SlotId> = self.table.ids().collect();
        for id in ids {
            if let Some((key, Flow::Open(open))) = self.table.get_mut(id)
                && key.edge == edge
                && open.cell.resume(now.instant)
            {
                self.mark(id);
            }
        }
    }

    /// The path to an edge carries `mtu` bytes: flows with larger segments send smaller ones from now on.
    pub(super) fn shrink(&mut self, edge: EdgeId, mtu: u16) {
        let ids: Vec<SlotId> = self.table.ids().collect();
        for id in ids {
            if let Some((key, Flow::Open(open))) = self.table.get_mut(id)
                && key.edge == edge
            {
                open.cell.handle_too_big(mtu);
            }
        }
    }

    /// Lets the flows of upstreams that left the configuration go on for as long as `[limits] drain` says.
    pub(super) fn retire(&mut self, now: Now, members: Vec<Arc<Member>>) {
        let until = now.instant.after(self.policy.limits.drain);
        let busy = members.into_iter().filter(|member| member.flows() > 0);
        self.retired.extend(busy.map(|member| (until, member)));
    }

    fn end_retired(&mut self, now: Now) {
        let (over, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retired).into_iter().partition(|(until, _)| *until <= now.instant);
        self.retired = left;
        for (_, member) in over {
            let flows = member.flows();
            tracing::info!(upstream = %member.upstream, flows, "an upstream that was removed has drained");
            self.abort(now, |_, lease| lease.is_some_and(|lease| Arc::ptr_eq(lease.member(), &member)));
        }
    }

    /// Decides by a new configuration from now on.
    pub fn adopt(&mut self, policy: Arc<Policy>) {
        self.admission.set_limits(policy.limits);
        self.udp.set_limits(&policy.limits);
        self.table.set_limit(policy.limits.flows as usize + MAX_LINGERING);
        self.policy = policy;
    }

    /// When the next timer of a flow is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let retired = self.retired.iter().map(|(until, _)| *until);
        self.deadlines.next().into_iter().chain(self.udp.deadline()).chain(retired).min()
    }

    /// TCP flows that are open or being dialled; UDP knows no end that could be waited for.
    #[must_use]
    pub fn active(&self) -> usize {
        self.table.len() - self.lingering
    }

    /// Writes the gauges that only the table knows.
    pub fn publish(&self) {
        let (flows, dials) = self.admission.counts();
        self.stats.flows.store(u64::from(flows), Ordering::Relaxed);
        self.stats.pending_dials.store(u64::from(dials), Ordering::Relaxed);
        self.stats.udp_flows.store(u64::from(self.udp.count()), Ordering::Relaxed);
        self.stats.reassembly_bytes.store(self.udp.reassembly_bytes() as u64, Ordering::Relaxed);
        self.stats.buffer_bytes.store(self.admission.buffered(), Ordering::Relaxed);
    }
}
