//! What the handlers of both protocols need besides their flows.

use std::io;
use std::sync::Arc;

use mio::Registry;
use policy::forwarder::Policy;
use tunnel::bucket::Bucket;
use tunnel::packet::icmp::Error as IcmpError;
use tunnel::packet::{Bare, Ip, Tcp};
use tunnel::time::{Instant, Now};

use super::edge::Edge;
use super::resolve::Resolver;
use crate::arrivals::Arrivals;
use crate::datagram::Buffer;
use crate::flow::FlowKey;
use crate::handover::{OldProcess, PassedFlow};
use crate::stats::{Dialled, Dropped, Stats, add};
use crate::upstream::{self, Pools};

/// Replies to unauthenticated sources (resets, ICMP errors) per second, and at once.
const REPLIES: (u32, u32) = (200, 400);

/// The configuration, the upstreams, the counters, the poll and the resolver.
pub(crate) struct Context {
    pub(crate) policy: Arc<Policy>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) registry: Registry,
    pub(crate) resolver: Resolver,
    pub(crate) is_stopping: bool,
    /// The old process, as long as it has flows.
    pub(crate) old: Option<OldProcess>,
    replies: Bucket,
}

impl Context {
    pub(crate) fn new(
        policy: Arc<Policy>,
        pools: Arc<Pools>,
        (stats, arrivals): (Arc<Stats>, Arc<Arrivals>),
        registry: Registry,
        resolver: Resolver,
    ) -> Self {
        let replies = Bucket::new(REPLIES.0, REPLIES.1);
        Self { policy, pools, stats, arrivals, registry, resolver, is_stopping: false, old: None, replies }
    }

    /// Whether the old process has a flow of this key through an edge.
    pub(crate) fn is_passed(&self, edge: &Edge, protocol: u8, key: &FlowKey) -> bool {
        self.old
            .as_ref()
            .zip(edge.old_id)
            .is_some_and(|(old, edge)| old.has(&PassedFlow { protocol, key: FlowKey { edge, ..*key } }))
    }

    /// Resets a segment that belongs to no flow, within the rate for such replies.
    pub(crate) fn send_reset(&mut self, now: Now, edge: &mut Edge, ip: &Ip, tcp: &Tcp) {
        let Some(reset) = Bare::reset(ip, tcp) else { return };
        if self.replies.take(now.instant) {
            add(&self.stats.resets, 1);
            edge.send(now, reset.packet());
        } else {
            self.stats.refuse(Dropped::ReplyLimited);
        }
    }

    /// Sends an ICMP error about the packet `bytes` to its source, within the rate for such
    /// replies.
    pub(crate) fn send_icmp_error(
        &mut self,
        now: Now,
        edge: &mut Edge,
        (ip, bytes): (&Ip, &[u8]),
        error: IcmpError,
    ) {
        if !self.replies.take(now.instant) {
            return self.stats.refuse(Dropped::ReplyLimited);
        }
        if let Some(packet) = error.build(bytes, ip.dst) {
            edge.send(now, packet);
        }
    }

    /// Sends an ICMP error about a datagram to the other end of its flow, within the same rate.
    pub(crate) fn send_datagram_error(&mut self, now: Now, edge: &mut Edge, key: FlowKey, error: IcmpError) {
        // The quotation ends with the UDP header: enough to name the flow, and nothing else was
        // kept.
        let mut quoted = Vec::new();
        let ends = (key.remote, key.local);
        Buffer::default_for_header()
            .packets(ends, 0, (u16::MAX, 0), |packet| quoted.extend_from_slice(packet));
        if let Ok(ip) = Ip::parse(&quoted) {
            self.send_icmp_error(now, edge, (&ip, &quoted), error);
        }
    }

    /// How a dial ended that failed with this error; counts one that found no free descriptor.
    pub(crate) fn dial_failure(&self, now: Instant, error: &io::Error) -> Dialled {
        if upstream::lacks_descriptor(error) {
            self.stats.lack_descriptor(now);
        }
        upstream::failure(error)
    }
}
