//! The flows of the daemon and what happens to each packet that comes out of the tunnel.

use std::io;
use std::sync::Arc;

use policy::forwarder::Policy;
use tunnel::bucket::Bucket;
use tunnel::offload::{Offload, SuperPacket};
use tunnel::packet::icmp::Echo;
use tunnel::packet::icmp_error::IcmpError;
use tunnel::packet::{Ip, protocol};
use tunnel::time::{Instant, Now};

use super::context::Context;
use super::edge::Edge;
use super::edges::Edges;
use super::owner::Owner;
use super::tcp::{TcpFlows, TcpHandler};
use super::udp::{self, UdpFlows, UdpHandler};
use crate::flow::{EdgeId, FlowKey};
use crate::handover::{OldProcess, PassedFlow};
use crate::stats::{Dropped, add};
use crate::upstream::{Lease, Member};

/// Echo replies per second, and at once.
const ECHOES: (u32, u32) = (1_000, 1_000);

/// Every flow; packets and events go through the handler of their protocol.
pub(super) struct Flows {
    context: Context,
    tcp: TcpFlows,
    udp: UdpFlows,
    /// Upstreams that left the configuration, and until when their flows may go on.
    retired: Vec<(Instant, Arc<Member>)>,
    echoes: Bucket,
}

impl Flows {
    /// No flows yet.
    pub(super) fn new(context: Context, seed: u16) -> Self {
        let limits = context.policy.limits;
        Self {
            context,
            tcp: TcpFlows::new(limits, seed),
            udp: UdpFlows::new(&limits, seed),
            retired: Vec::new(),
            echoes: Bucket::new(ECHOES.0, ECHOES.1),
        }
    }

    /// The handler of the TCP flows, for this moment.
    pub(super) fn tcp(&mut self, now: Now) -> TcpHandler<'_> {
        TcpHandler { now, flows: &mut self.tcp, context: &mut self.context }
    }

    /// The handler of the UDP flows, for this moment.
    pub(super) fn udp(&mut self, now: Now) -> UdpHandler<'_> {
        UdpHandler { now, flows: &mut self.udp, context: &mut self.context }
    }

    /// The configuration, the counters, the resolver.
    pub(super) const fn context(&self) -> &Context {
        &self.context
    }

    /// Takes one packet or super-packet that came out of an edge's tunnel.
    pub(super) fn handle_packet(&mut self, now: Now, edge: &mut Edge, packet: SuperPacket<'_>) {
        let SuperPacket { bytes, offload } = packet;
        let stats = &self.context.stats;
        let Ok(ip) = Ip::parse(bytes) else { return stats.refuse(Dropped::Malformed) };
        let Some(bytes) = bytes.get_mut(..ip.total_len) else { return stats.refuse(Dropped::Malformed) };
        if ip.protocol == protocol::UDP {
            return self.udp(now).handle_packet(edge, &ip, bytes);
        }
        if ip.fragment.is_some() {
            return stats.refuse(Dropped::Fragment);
        }
        match ip.protocol {
            protocol::TCP => self.tcp(now).handle_packet(edge, &ip, bytes, offload == Offload::None),
            protocol::ICMP | protocol::ICMPV6 => self.handle_icmp(now, edge, &ip, bytes),
            _ => stats.refuse(Dropped::UnknownProtocol),
        }
    }

    fn handle_icmp(&mut self, now: Now, edge: &mut Edge, ip: &Ip, bytes: &[u8]) {
        if let Some(echo) = Echo::parse(ip, bytes) {
            return self.handle_echo(now, edge, ip, echo);
        }
        match IcmpError::parse(ip, bytes) {
            Some(error) if error.protocol == protocol::UDP => {
                self.udp(now).handle_icmp_error(edge, ip, &error);
            }
            Some(error) => self.tcp(now).handle_icmp_error(edge, &error),
            None => self.context.stats.refuse(Dropped::UnrelatedIcmp),
        }
    }

    fn handle_echo(&mut self, now: Now, edge: &mut Edge, ip: &Ip, echo: Echo<'_>) {
        let stats = &self.context.stats;
        if echo.is_reply || !self.answers_echo(edge, ip) {
            return stats.refuse(Dropped::UnrelatedIcmp);
        }
        if !self.echoes.take(now.instant) {
            return stats.refuse(Dropped::ReplyLimited);
        }
        if let Some(reply) = (Echo { is_reply: true, ..echo }).build(ip.dst, ip.src) {
            add(&stats.echoes, 1);
            edge.send(now, reply);
        }
    }

    fn answers_echo(&self, edge: &Edge, ip: &Ip) -> bool {
        edge.addresses.contains(&ip.dst)
            || self.context.policy.services.iter().any(|service| {
                service.peers.contains(&edge.name)
                    && !service.addresses.is_empty()
                    && service.takes_address(ip.dst)
            })
    }

    /// Gives every flow that has something to do one turn; `true` when some want another at once.
    pub(super) fn take_turns(&mut self, now: Now, edges: &mut Edges) -> bool {
        let again = self.tcp(now).take_turns(edges);
        again | self.udp(now).take_turns(edges)
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Now, edges: &mut Edges) {
        self.udp(now).handle_timeout();
        self.end_retired(now);
        self.tcp(now).handle_timeout(edges);
    }

    /// Ends the flows at once, with resets both ways, for whose edge, owner and upstream `should_end`
    /// is `true`.
    pub(super) fn abort(&mut self, now: Now, should_end: impl Fn(EdgeId, &Owner, Option<&Lease>) -> bool) {
        self.udp(now).close(&should_end);
        self.tcp(now).abort(&should_end);
    }

    /// Ends every flow of an edge, as its last work.
    pub(super) fn end_flows_of(&mut self, now: Now, edge: EdgeId, edges: &mut Edges) {
        self.udp(now).end_flows_of(edge);
        self.tcp(now).end_flows_of(edge, edges);
    }

    /// Starts to watch a UDP listener.
    ///
    /// # Errors
    /// From the system.
    pub(super) fn add_udp_listener(&mut self, listener: udp::Listener, edges: &Edges) -> io::Result<()> {
        self.udp.add_listener(listener, &self.context.registry, edges)
    }

    /// Closes the UDP listeners whose address is not listened on any more; the others go on with
    /// what their entries are now.
    pub(super) fn keep_udp_listeners(&mut self, policy: &Policy, edges: &Edges) {
        self.udp.keep_listeners(policy, edges);
    }

    /// Takes no new flows from now on.
    pub(super) const fn stop(&mut self) {
        self.context.is_stopping = true;
    }

    /// The flows that go on here while another process has the tunnels; from now on
    /// [`Self::take_ended`] has those that end.
    pub(super) fn pass(&mut self) -> Vec<PassedFlow> {
        let (tcp, udp) = (self.tcp.pass(), self.udp.pass(&self.context.registry));
        passed(tcp, udp)
    }

    /// The flows that ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<PassedFlow> {
        passed(self.tcp.take_ended(), self.udp.take_ended())
    }

    /// Flows of either kind that are open or being dialled.
    pub(super) fn all_active(&self) -> usize {
        self.tcp.active() + self.udp.active()
    }

    /// The UDP listeners.
    pub(super) fn udp_listeners(&self) -> impl Iterator<Item = &udp::Listener> {
        self.udp.listeners()
    }

    /// The old process, as long as it has flows.
    pub(super) const fn old(&mut self) -> &mut Option<OldProcess> {
        &mut self.context.old
    }

    /// Applies a new configuration. The flows of upstreams that left it go on for
    /// `[limits] drain`.
    pub(super) fn adopt(&mut self, now: Now, policy: Arc<Policy>) {
        self.context.stats.adopt(&policy);
        let removed = self.context.pools.adopt(&policy);
        self.tcp.set_limits(policy.limits);
        self.udp.set_limits(&policy.limits);
        let until = now.instant.after(policy.limits.drain);
        let busy = removed.into_iter().filter(|member| member.flows() > 0);
        self.retired.extend(busy.map(|member| (until, member)));
        self.context.policy = policy;
    }

    fn end_retired(&mut self, now: Now) {
        let (over, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retired).into_iter().partition(|(until, _)| *until <= now.instant);
        self.retired = left;
        for (_, member) in over {
            let flows = member.flows();
            tracing::info!(upstream = %member.upstream, flows, "an upstream that was removed has drained");
            self.abort(now, |_, _, lease| lease.is_some_and(|lease| Arc::ptr_eq(lease.member(), &member)));
        }
    }

    /// When the next timer of a flow is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let retired = self.retired.iter().map(|(until, _)| *until);
        self.tcp.deadline().into_iter().chain(self.udp.deadline()).chain(retired).min()
    }

    /// TCP flows that are open or being dialled; a UDP flow has no end to wait for.
    pub(super) fn active(&self) -> usize {
        self.tcp.active()
    }

    /// Writes the gauges that only the tables know.
    pub(super) fn publish(&self) {
        self.tcp.publish(&self.context.stats);
        self.udp.publish(&self.context.stats);
    }
}

fn passed(tcp: Vec<FlowKey>, udp: Vec<FlowKey>) -> Vec<PassedFlow> {
    let of = |protocol| move |key| PassedFlow { protocol, key };
    tcp.into_iter().map(of(protocol::TCP)).chain(udp.into_iter().map(of(protocol::UDP))).collect()
}
