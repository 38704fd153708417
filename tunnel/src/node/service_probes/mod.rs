//! TCP probes of what is behind one peer: whether something listens there.
//!
//! A probe is a SYN from an address of the node's own. Its reply is taken before the inner network
//! sees it, so the kernel knows nothing of the flow. A port that is open gets a reset, so that
//! nothing stays at the target.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::packet::icmp_error::{IcmpError, Kind};
use crate::packet::{Bare, Tcp, protocol, tcp_flags};
use crate::time::Instant;

/// Probes of one node that may wait for a reply at a time.
pub const MAX_SERVICE_PROBES: usize = 64;
/// Ports above those that Linux takes for flows of its own (`net.ipv4.ip_local_port_range`).
const PORTS: RangeInclusive<u16> = 61_000..=u16::MAX;
/// When the SYN of a probe is sent, counted from its beginning: one lost packet is no failure.
const SYNS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1)];
/// How long a probe waits for a reply.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long late replies are recognized: Linux repeats a SYN-ACK that was not reset for 63 s.
const REMEMBERED: Duration = Duration::from_secs(64);
/// Probes of one peer that are remembered; beyond it the oldest are forgotten early.
const MAX_REMEMBERED: usize = 256;

/// What came of a probe of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceReply {
    /// Something listens.
    Open,
    /// Nothing listens: a reset, or an ICMP error about the port.
    Refused,
    /// A router reports that there is no way to the target.
    Unreachable,
    /// A filter reports that it refuses the probe.
    Prohibited,
    /// No reply in time.
    Silent,
}

impl ServiceReply {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Open, Self::Refused, Self::Unreachable, Self::Prohibited, Self::Silent];

    /// In one word, for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Prohibited => "prohibited",
            Self::Silent => "silent",
        }
    }
}

/// Why a service was not probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProbed {
    /// The node has no address of the target's family.
    #[error("no own address of the target's family")]
    NoAddress,
    /// No peer has the target among its allowed-ips.
    #[error("no peer has the target")]
    NoPeer,
    /// There is no session with the peer.
    #[error("no session with the peer")]
    NoSession,
    /// As many probes as allowed wait for a reply.
    #[error("too many probes wait for a reply")]
    Busy,
}

/// The places of probes that wait for a reply, all those of one node.
#[derive(Default)]
pub(super) struct Slots(Arc<AtomicUsize>);

/// One of them, free again when it is dropped.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slots {
    pub(super) fn take(&self) -> Option<Slot> {
        let has_room = |taken| (taken < MAX_SERVICE_PROBES).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, has_room).ok()?;
        Some(Slot(Arc::clone(&self.0)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A probe that was begun.
struct Sent {
    source: SocketAddr,
    target: SocketAddr,
    sequence: u32,
    at: Instant,
    /// How many SYNs were sent.
    syns: usize,
    /// `None` while it waits.
    reply: Option<ServiceReply>,
    /// Its place, while it waits.
    _slot: Option<Slot>,
}

/// The probes of services behind one peer.
#[derive(Default)]
pub(super) struct ServiceProbes {
    sent: VecDeque<Sent>,
    tokens: RandomState,
    /// [`Self::deadline`], which is read with every batch of packets.
    due: Option<Instant>,
}

/// What a segment or an error means that belongs to a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// What is to be reported: nothing for a repeated reply.
    pub(super) news: Option<(SocketAddr, ServiceReply)>,
    /// The segment to answer with.
    pub(super) reset: Option<Bare>,
}

impl ServiceProbes {
    /// Whether replies may come; read for every packet of the peer.
    #[inline]
    pub(super) fn is_listening(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Begins a probe of `target`, which is of the family of `source`.
    pub(super) fn begin(&mut self, source: IpAddr, target: SocketAddr, slot: Slot, now: Instant) {
        self.forget(now);
        if self.sent.len() >= MAX_REMEMBERED {
            self.sent.pop_front();
        }
        let token = self.tokens.hash_one((source, target, now));
        let [a, b, c, d, ..] = token.to_le_bytes();
        let source = SocketAddr::new(source, self.free_port(target, token));
        let sequence = u32::from_le_bytes([a, b, c, d]);
        self.sent.push_back(Sent {
            source,
            target,
            sequence,
            at: now,
            syns: 0,
            reply: None,
            _slot: Some(slot),
        });
        self.reschedule();
    }

    /// A port that no remembered probe of the target has: its own machine would take the new SYN
    /// for one of the old flow.
    fn free_port(&self, target: SocketAddr, token: u64) -> u16 {
        let count = PORTS.end() - PORTS.start() + 1;
        let first = u16::try_from((token >> 32) % u64::from(count)).unwrap_or_default();
        let mut ports = (0..count).map(|add| PORTS.start() + (first + add) % count);
        let is_taken =
            |port: u16| self.sent.iter().any(|sent| sent.target == target && sent.source.port() == port);
        ports.find(|port| !is_taken(*port)).unwrap_or(*PORTS.start())
    }

    /// The next SYN that is due.
    pub(super) fn poll_syn(&mut self, now: Instant) -> Option<Bare> {
        let sent = self.sent.iter_mut().find(|sent| sent.syn_at().is_some_and(|at| at <= now))?;
        sent.syns += 1;
        let Sent { source, target: destination, sequence, .. } = *sent;
        self.reschedule();
        Some(Bare { source, destination, sequence, acknowledgement: None, flags: tcp_flags::SYN })
    }

    /// The next target that did not reply in time.
    pub(super) fn poll_silent(&mut self, now: Instant) -> Option<(SocketAddr, ServiceReply)> {
        self.forget(now);
        let is_overdue = |sent: &&mut Sent| sent.reply.is_none() && sent.at.after(TIMEOUT) <= now;
        let news = self.sent.iter_mut().find(is_overdue).and_then(|sent| sent.take(ServiceReply::Silent));
        self.reschedule();
        news
    }

    /// Takes a segment to an address of the node's own; `None` when it answers no probe.
    pub(super) fn handle_segment(&mut self, from: IpAddr, to: IpAddr, tcp: &Tcp) -> Option<Taken> {
        let (target, source) =
            (SocketAddr::new(from, tcp.source_port), SocketAddr::new(to, tcp.destination_port));
        let sent = self.sent.iter_mut().find(|sent| sent.target == target && sent.source == source)?;
        let next = sent.sequence.wrapping_add(1);
        if tcp.flags & tcp_flags::ACK == 0 || tcp.acknowledgement != next {
            return None;
        }
        let taken = if tcp.flags & tcp_flags::RST != 0 {
            Taken { news: sent.take(ServiceReply::Refused), reset: None }
        } else if tcp.flags & tcp_flags::SYN != 0 {
            let (destination, sequence, flags) = (target, next, tcp_flags::RST);
            let reset = Bare { source, destination, sequence, acknowledgement: None, flags };
            Taken { news: sent.take(ServiceReply::Open), reset: Some(reset) }
        } else {
            return None;
        };
        self.reschedule();
        Some(taken)
    }

    /// Takes an ICMP error; `None` when it quotes no probe.
    pub(super) fn handle_error(&mut self, error: &IcmpError) -> Option<Taken> {
        let is_it = |sent: &&mut Sent| {
            (sent.source, sent.target, sent.sequence) == (error.local, error.remote, error.sequence)
        };
        let sent = self.sent.iter_mut().find(is_it).filter(|_| error.protocol == protocol::TCP)?;
        let reply = match error.kind {
            Kind::PortUnreachable => ServiceReply::Refused,
            Kind::Unreachable => ServiceReply::Unreachable,
            Kind::Prohibited => ServiceReply::Prohibited,
            // A SYN fits everywhere.
            Kind::TooBig(_) => return Some(Taken { news: None, reset: None }),
        };
        let taken = Taken { news: sent.take(reply), reset: None };
        self.reschedule();
        Some(taken)
    }

    /// When something is next due: a SYN, a timeout, or the end of all that is remembered.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }

    fn reschedule(&mut self) {
        let end = self.sent.back().map(|sent| sent.at.after(REMEMBERED));
        let waiting = self.sent.iter().filter(|sent| sent.reply.is_none());
        let due = waiting.map(|sent| sent.syn_at().unwrap_or(sent.at.after(TIMEOUT)));
        self.due = due.chain(end).min();
    }

    /// There is no session to probe through: the probes end without a result.
    pub(super) fn clear(&mut self) {
        self.sent.clear();
        self.due = None;
    }

    fn forget(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|sent| sent.at.after(REMEMBERED) <= now) {
            self.sent.pop_front();
        }
    }
}

impl Sent {
    /// When its next SYN is due.
    fn syn_at(&self) -> Option<Instant> {
        let after = SYNS.get(self.syns).filter(|_| self.reply.is_none())?;
        Some(self.at.after(*after))
    }

    /// Takes a reply; what is to be reported. An open port counts whatever was reported before it:
    /// the reply was late, or a router was wrong for a moment.
    fn take(&mut self, reply: ServiceReply) -> Option<(SocketAddr, ServiceReply)> {
        let is_news = match self.reply {
            None | Some(ServiceReply::Silent) => true,
            Some(before) => reply == ServiceReply::Open && before != reply,
        };
        if !is_news {
            return None;
        }
        self.reply = Some(reply);
        self._slot = None;
        Some((self.target, reply))
    }
}

#[cfg(test)]
mod tests;
