//! An open flow: a cell on one side, a kernel socket on the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tunnel::time::{Instant, Now};

use crate::cell::{Cell, Ending, Transmitted};
use crate::dataplane::edge::Edge;
use crate::dataplane::owner::Owner;
use crate::flow::SlotId;
use crate::stats::{Dialled, EntryStats, add, take};
use crate::upstream::{Lease, Moved, Upstream};

/// Bytes a flow may move in each direction before the next flow has its turn.
const BUDGET: usize = 256 * 1024;
/// How long the other end may leave data unacknowledged (RFC 9293 §3.8.3: R2 is at least 100 s).
const UNACKNOWLEDGED: Duration = Duration::from_secs(600);
/// How long the other end may take for the last step of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a flow may carry nothing at all (RFC 5382 REQ-5: at least 2 h 4 min).
const IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// A flow with both its ends.
pub(super) struct Open {
    /// The end inside the tunnel.
    pub(super) cell: Cell,
    /// The kernel's end.
    pub(super) upstream: Upstream,
    /// Which of its entry's upstreams that is; `None` for a `[[reach]]`.
    pub(super) lease: Option<Lease>,
    /// Its entry.
    pub(super) owner: Owner,
    /// The counters of its entry.
    pub(super) stats: Arc<EntryStats>,
    /// Where its timer entry is.
    pub(super) armed: Option<Instant>,
    /// Its entry among the flows whose client has not answered; `None` once it has.
    pub(super) half_open: Option<Instant>,
    /// Whether it waits for its turn already.
    pub(super) is_queued: bool,
    /// Bytes of buffer accounted for.
    pub(super) touched: u64,
    opened_at: Instant,
    is_established: bool,
    is_aborting: bool,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnResult {
    /// Nothing more until something happens, or this deadline.
    Wait(Instant),
    /// More can be moved at once.
    Again,
    /// The tunnel's send queue is full.
    Blocked,
    /// The flow is over.
    Over(Ending),
}

impl Open {
    /// A flow that begins now.
    pub(super) fn new(
        now: Instant,
        cell: Cell,
        (upstream, lease): (Upstream, Option<Lease>),
        owner: Owner,
        stats: Arc<EntryStats>,
    ) -> Self {
        add(&stats.flows, 1);
        Self {
            cell,
            upstream,
            lease,
            owner,
            stats,
            armed: None,
            half_open: None,
            is_queued: false,
            touched: 0,
            opened_at: now,
            is_established: false,
            is_aborting: false,
        }
    }

    /// Whether the handshake was finished.
    #[must_use]
    pub(super) const fn is_established(&self) -> bool {
        self.is_established
    }

    /// Gives the flow a turn soon, if it does not wait for one already.
    pub(super) fn mark(&mut self, id: SlotId, queue: &mut VecDeque<SlotId>) {
        if !std::mem::replace(&mut self.is_queued, true) {
            queue.push_back(id);
        }
    }

    /// Ends the flow with resets both ways at its next turn.
    pub(super) fn abort(&mut self) {
        self.is_aborting = true;
        self.cell.abort();
    }

    /// Moves what can be moved in both directions and sends what is due.
    pub(super) fn turn(&mut self, now: Now, edge: &mut Edge, scratch: &mut [u8]) -> TurnResult {
        self.expire(now.instant);
        // Before the socket is touched: a flow that was reset must not look like one that was
        // closed.
        if self.cell.ending() == Some(Ending::Reset) {
            self.count_failed_dial();
            return TurnResult::Over(Ending::Reset);
        }
        let is_busy = !self.is_aborting && self.carry();
        self.cell.release_idle(now.instant);
        let transmitted = self.cell.poll_transmit(now.instant, (&mut edge.outlet(now), scratch));
        if !self.is_established && !self.is_aborting && self.cell.is_established() {
            self.is_established = true;
            if self.owner.is_local() {
                self.stats.dialled(Dialled::Connected);
            }
        }
        if self.cell.ending().is_some() {
            if self.is_aborting {
                self.count_failed_dial();
                return TurnResult::Over(Ending::Reset);
            }
            if self.upstream.is_write_closed() {
                return TurnResult::Over(Ending::Closed);
            }
        }
        match transmitted {
            Transmitted::Blocked => TurnResult::Blocked,
            // What has left made room.
            Transmitted::All if is_busy || self.may_read_more() => TurnResult::Again,
            Transmitted::All => TurnResult::Wait(self.deadline(now.instant)),
        }
    }

    fn may_read_more(&mut self) -> bool {
        !self.is_aborting && self.upstream.is_readable() && self.cell.has_room()
    }

    /// Moves data both ways; `true` when there is more to move.
    fn carry(&mut self) -> bool {
        let into_socket = self.upstream.write_from(&mut self.cell, BUDGET);
        let into_tunnel = self.upstream.read_into(&mut self.cell, BUDGET);
        let (mut is_busy, mut failed) = (false, false);
        for (moved, counter) in [(into_socket, &self.stats.received), (into_tunnel, &self.stats.sent)] {
            match moved {
                Moved::Bytes(bytes) => add(counter, bytes as u64),
                Moved::More(bytes) => {
                    add(counter, bytes as u64);
                    is_busy = true;
                }
                Moved::Failed => failed = true,
            }
        }
        if failed {
            self.abort();
        }
        is_busy && !failed
    }

    fn expire(&mut self, now: Instant) {
        let silent = now.since(self.cell.progress_at());
        let opening = !self.is_established && now.since(self.opened_at) >= HANDSHAKE;
        let stuck = silent >= UNACKNOWLEDGED && self.cell.unacknowledged() > 0;
        if !self.is_aborting && (opening || stuck || silent >= IDLE) {
            tracing::debug!(opening, stuck, "a flow timed out");
            self.abort();
        }
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        let progress = self.cell.progress_at();
        let mut at = progress.after(IDLE);
        if self.cell.unacknowledged() > 0 {
            at = at.min(progress.after(UNACKNOWLEDGED));
        }
        if let Some(release) = self.cell.release_at() {
            at = at.min(release);
        }
        if !self.is_established {
            at = at.min(self.opened_at.after(HANDSHAKE));
        }
        self.cell.poll_timeout(now).map_or(at, |timer| timer.min(at))
    }

    fn count_failed_dial(&mut self) {
        if !self.is_established && self.owner.is_local() {
            let result = if self.is_aborting { Dialled::TimedOut } else { Dialled::Refused };
            self.stats.dialled(result);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        take(&self.stats.flows, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use mio::net::UnixStream;
    use policy::Name;
    use tunnel::offload::SuperPacket;
    use tunnel::packet::{Ip, Tcp, tcp_flags};

    use super::*;
    use crate::cell::{Egress, Path, SCRATCH, Settings};
    use crate::upstream::Stream;

    #[test]
    fn data_that_is_not_acknowledged_for_ten_minutes_ends_the_flow_with_a_reset() {
        let (mut open, mut scratch, mut sent) = (established(), vec![0; SCRATCH], Sent::default());
        assert!(open.cell.fill(|room| (room.len().min(5), ())).is_some());
        for second in [1, 60, 300, 599] {
            open.expire(at(second));
            open.cell.poll_transmit(at(second), (&mut sent, &mut scratch));
            assert!(!open.is_aborting, "given up after {second} s");
            assert!(open.deadline(at(second)) <= at(600), "no timer would end it");
        }
        assert!(sent.flags().all(|flags| flags & tcp_flags::RST == 0));
        open.expire(at(600));
        open.cell.poll_transmit(at(600), (&mut sent, &mut scratch));
        assert!(open.is_aborting && open.cell.ending() == Some(Ending::Closed));
        assert!(sent.flags().last().is_some_and(|flags| flags & tcp_flags::RST != 0), "no reset left");
    }

    #[test]
    fn a_flow_that_owes_nothing_lives_on_for_two_hours() {
        let mut open = established();
        open.expire(at(601));
        open.expire(at(7_439));
        assert!(!open.is_aborting);
        open.expire(at(7_440));
        assert!(open.is_aborting);
    }

    /// What a cell sent.
    #[derive(Default)]
    struct Sent(VecDeque<Vec<u8>>);

    impl Egress for Sent {
        fn is_ready(&self) -> bool {
            true
        }

        fn send(&mut self, packet: SuperPacket<'_>) {
            self.0.push_back(packet.bytes.to_vec());
        }
    }

    impl Sent {
        fn flags(&self) -> impl Iterator<Item = u8> {
            self.0.iter().map(|packet| headers(packet).1.flags)
        }
    }

    /// A flow whose handshake ended at time zero, and whose client then sends nothing.
    fn established() -> Open {
        let path = |local: &str, remote: &str| Path {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let (ours, theirs) = ("192.168.88.2:443", "203.0.113.10:40001");
        let settings = Settings { mtu: 1420, ring: 1 << 16, seed: 7 };
        let (mut scratch, mut sent) = (vec![0; SCRATCH], Sent::default());
        let mut client = Cell::connect(at(0), path(theirs, ours), settings);
        client.poll_transmit(at(0), (&mut sent, &mut scratch));
        let syn = sent.0.front().unwrap().clone();
        let (ip, tcp) = headers(&syn);
        let mut cell = Cell::accept(at(0), path(ours, theirs), (&tcp, ip.payload(&syn)), settings);
        for turn in 0..6 {
            let to = if turn % 2 == 0 { &mut cell } else { &mut client };
            for mut packet in std::mem::take(&mut sent.0) {
                let (ip, tcp) = headers(&packet);
                to.handle_segment(at(0), &mut packet, (&ip, &tcp), (&mut sent, &mut scratch));
            }
            to.poll_transmit(at(0), (&mut sent, &mut scratch));
        }
        assert!(cell.is_established());
        let stream = Stream::Unix(UnixStream::pair().unwrap().0);
        let upstream = (Upstream::new(stream, Vec::new()), None);
        let owner = Owner::Reach(Name::new("nfs").unwrap());
        let mut open = Open::new(at(0), cell, upstream, owner, Arc::default());
        open.is_established = true;
        open
    }

    fn headers(packet: &[u8]) -> (Ip, Tcp) {
        let ip = Ip::parse(packet).unwrap();
        let tcp = Tcp::parse(ip.payload(packet)).unwrap();
        (ip, tcp)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
