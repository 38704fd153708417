//! One UDP flow.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mio::net::UdpSocket;
use tunnel::time::Instant;

use crate::dataplane::owner::Owner;
use crate::stats::{Dropped, EntryStats, Stats, add, take};
use crate::upstream::Lease;

/// Datagrams, and bytes of them, that are kept while an upstream's name is resolved.
const MAX_HELD: (usize, usize) = (8, 16 * 1024);

/// One UDP flow.
pub(super) struct UdpFlow {
    /// Its entry.
    pub(super) owner: Owner,
    /// The counters of its entry.
    pub(super) stats: Arc<EntryStats>,
    /// Its local end.
    pub(super) side: Side,
    /// Which of its entry's upstreams that is; `None` for a `[[reach]]`.
    pub(super) lease: Option<Lease>,
    /// Where its timer entry is.
    pub(super) armed: Option<Instant>,
    /// Whether it waits for its turn already.
    pub(super) is_queued: bool,
    /// Whether a datagram was sent to the side that opened it.
    pub(super) is_answered: bool,
    /// Whether the side that opened it sent again after a reply: no spoofed address is likely to.
    pub(super) is_proven: bool,
    /// How often the client's machine reported its port unreachable since the client last sent.
    pub(super) unreachable: u8,
    /// The largest packet that its path carries, as far as ICMP reported it.
    pub(super) mtu: u16,
    active_at: Instant,
}

/// The local end of a flow.
pub(super) enum Side {
    /// Its upstream's name is being resolved.
    Waiting(Held),
    /// A socket connected to its upstream.
    Socket(UdpSocket),
    /// A client of a `[[reach]]` listener.
    Listener {
        /// The listener's number.
        listener: u32,
        /// The client's address.
        client: SocketAddr,
    },
}

/// Datagrams that wait for their upstream's address.
#[derive(Default)]
pub(super) struct Held {
    datagrams: Vec<Vec<u8>>,
    bytes: usize,
}

impl Held {
    /// Keeps a datagram, or drops and counts it.
    pub(super) fn push(&mut self, payload: &[u8], stats: &Stats) {
        if self.datagrams.len() >= MAX_HELD.0 || self.bytes + payload.len() > MAX_HELD.1 {
            return stats.refuse(Dropped::DialPending);
        }
        self.bytes += payload.len();
        self.datagrams.push(payload.to_vec());
    }

    /// What was kept, in order.
    pub(super) fn into_datagrams(self) -> Vec<Vec<u8>> {
        self.datagrams
    }
}

impl UdpFlow {
    /// A flow that begins now.
    pub(super) fn new(now: Instant, owner: Owner, stats: Arc<EntryStats>, side: Side) -> Self {
        add(&stats.flows, 1);
        Self {
            owner,
            stats,
            side,
            lease: None,
            armed: None,
            is_queued: false,
            is_answered: false,
            is_proven: false,
            unreachable: 0,
            mtu: u16::MAX,
            active_at: now,
        }
    }

    /// The side that opened it has sent a datagram.
    pub(super) fn note_activity(&mut self, now: Instant) {
        self.active_at = now;
        self.unreachable = 0;
        self.is_proven |= self.is_answered;
    }

    /// When the side that opened it last sent a datagram.
    pub(super) const fn active_at(&self) -> Instant {
        self.active_at
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        take(&self.stats.flows, 1);
    }
}

/// A socket connected to an upstream, on a port of its own.
pub(super) fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Whether an error is the upstream's machine reporting that nothing listens there.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}
