//! A turn at one peer: its lock is taken once, used for a whole batch, and its deadline is set anew at the end.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use parking_lot::MutexGuard;

use super::core::{Core, Session};
use super::peer::Peer;
use super::{Event, Node};
use crate::endpoint::Endpoint;
use crate::liveness::Prober;
use crate::reason::DropReason;
use crate::time::{Instant, Now};
use crate::transmit::SendQueue;
use crate::watermark::Stamp;
use crate::wire::{DATA_OVERHEAD, INITIATION_LEN, sender_index};

const KIND_INITIATION: u8 = 1;
const KIND_DATA: u8 = 4;
/// The least time from one turn of a peer's timers to the next.
const BREATH: Duration = Duration::from_millis(20);

/// What came of one call into the `Tunn`.
#[derive(Debug)]
pub(super) enum Output {
    /// Nothing to send.
    Nothing,
    /// A message of this many bytes was queued.
    Sent(usize),
    /// The arena had no room; the `Tunn` was not called.
    Full,
    /// The `Tunn` refused.
    Failed(WireGuardError),
}

/// One peer under its lock.
pub(super) struct Turn<'a> {
    pub(super) node: &'a Node,
    pub(super) peer: &'a Peer,
    pub(super) core: MutexGuard<'a, Core>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) now: Now,
    /// What the batch received so far, and the source that was last found to be this peer's.
    pub(super) received: Batch,
}

/// What came in during one turn.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: usize,
    pub(super) packets: usize,
    pub(super) heard: bool,
    pub(super) trusted: Option<IpAddr>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(node: &'a Node, peer: &'a Peer, now: Now) -> Self {
        let core = peer.core.lock();
        Self { node, peer, core, endpoint: peer.endpoint(), now, received: Batch::default() }
    }

    /// Sets the peer's deadline and lets go of it.
    pub(super) fn finish(mut self) {
        self.reschedule(self.now.instant);
    }

    /// As [`finish`](Self::finish), after everything due was done: what did not work is not tried again at once.
    pub(super) fn finish_timers(mut self) {
        self.reschedule(self.now.instant.after(BREATH));
    }

    fn reschedule(&mut self, earliest: Instant) {
        add(&self.peer.vitals.rx_bytes, self.received.bytes);
        add(&self.peer.vitals.rx_packets, self.received.packets);
        let deadline =
            self.core.deadline(self.endpoint.is_some(), self.now.instant).map(|at| at.max(earliest));
        let scheduled = self.core.scheduled;
        // A later deadline is left to the earlier one: when that comes, this is asked again.
        let keep = match (scheduled, deadline) {
            (Some(scheduled), Some(deadline)) => scheduled <= deadline && scheduled > self.now.instant,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !keep {
            self.node.schedule.set(self.peer.id, scheduled, deadline);
            self.core.scheduled = deadline;
        }
    }

    /// Calls the `Tunn` with room for `len` bytes and queues what it wants to send, to `to` or else to the endpoint.
    pub(super) fn emit(
        &mut self,
        out: &mut SendQueue,
        len: usize,
        to: Option<Endpoint>,
        call: impl for<'b> FnOnce(&mut Tunn, &'b mut [u8]) -> TunnResult<'b>,
    ) -> Output {
        let Some(slot) = out.slot(len) else {
            self.node.count_drop(DropReason::SendQueueFull);
            return Output::Full;
        };
        let Some(tunn) = self.core.tunn.as_mut() else { return Output::Nothing };
        let (kind, index, written) = match call(tunn, slot) {
            TunnResult::WriteToNetwork(message) => {
                (message.first().copied().unwrap_or_default(), sender_index(message), message.len())
            }
            TunnResult::Err(error) => return Output::Failed(error),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                return Output::Nothing;
            }
        };
        let Some(endpoint) = to.or(self.endpoint) else { return Output::Nothing };
        out.commit(endpoint, 0, written);
        self.note_sent(kind, index.unwrap_or_default(), written);
        Output::Sent(written)
    }

    fn note_sent(&mut self, kind: u8, index: u32, written: usize) {
        let now = self.now.instant;
        self.core.traffic.sent = now;
        self.core.traffic.owed = None;
        add(&self.peer.vitals.tx_bytes, written);
        if kind == KIND_INITIATION {
            self.note_stamp();
            self.core.note_initiation(index, now);
        } else if kind == KIND_DATA && written > DATA_OVERHEAD {
            self.core.traffic.unanswered.get_or_insert(now);
        }
    }

    /// Tells the `Tunn` the time if that is due, before it is used: so a session past its life is never used,
    /// not even by the first packet after a suspend.
    #[inline]
    pub(super) fn refresh(&mut self, out: &mut SendQueue) {
        if self.core.needs_tick(self.now.instant) {
            self.tick(out);
        }
    }

    /// Lets the `Tunn` do what is due by its own timers.
    pub(super) fn tick(&mut self, out: &mut SendQueue) {
        if out.room() < INITIATION_LEN || self.core.quiet_until(self.now.instant).is_some() {
            return;
        }
        self.follow_wall_clock();
        match self.emit(out, INITIATION_LEN, None, |tunn, slot| tunn.update_timers(slot)) {
            Output::Failed(WireGuardError::ConnectionExpired) => self.note_expired(),
            Output::Nothing | Output::Sent(_) | Output::Failed(_) | Output::Full => {}
        }
        self.core.ticked = self.now.instant;
        let alive = self.core.tunn.as_ref().is_some_and(|tunn| tunn.time_since_last_handshake().is_some());
        if !alive && self.core.session.take().is_some() {
            self.note_session_end();
        }
    }

    fn note_session_end(&mut self) {
        (self.core.traffic.unanswered, self.core.traffic.owed) = (None, None);
        self.core.stop_probing();
    }

    /// Begins a handshake, or repeats the initiation of the one under way.
    pub(super) fn begin_handshake(&mut self, out: &mut SendQueue) {
        if let Some(endpoint) = self.endpoint {
            self.call(endpoint, out);
        }
    }

    /// Sends an initiation to `to`, wherever the endpoint is.
    pub(super) fn call(&mut self, to: Endpoint, out: &mut SendQueue) {
        if self.core.tunn.is_none() {
            return;
        }
        self.follow_wall_clock();
        self.refresh(out);
        if self.core.attempt.is_some_and(|attempt| attempt.sent == self.now.instant) {
            return;
        }
        self.emit(out, INITIATION_LEN, Some(to), |tunn, slot| tunn.format_handshake_initiation(slot, true));
    }

    /// Notes the stamp of an initiation that left: the mark rises with it, and a clock that went back is reported.
    fn note_stamp(&self) {
        let stamp = self.core.stamp(self.now.instant);
        let mut watermark = self.node.watermark.lock();
        let event = match watermark.judge(stamp) {
            Stamp::Below => None,
            Stamp::Raised(wall) => Some(Event::Watermark { wall }),
            Stamp::Behind(by) => watermark.report_once().then_some(Event::ClockBehind { by }),
        };
        drop(watermark);
        if let Some(event) = event {
            self.node.events.push(event);
        }
    }

    /// A session was agreed: stamps by this clock are of use again, whatever the mark says.
    fn settle_mark(&self) {
        let stamp = self.core.stamp(self.now.instant).max(self.now.wall);
        if let Some(wall) = self.node.watermark.lock().follow(stamp) {
            self.node.events.push(Event::Watermark { wall });
        }
    }

    /// A session was agreed at `since`.
    pub(super) fn note_session(&mut self, session: Session) {
        let (now, id) = (self.now, self.peer.id);
        self.look_for_rivals(session);
        self.core.session = Some(session);
        self.core.expired = false;
        self.core.wanted = false;
        self.core.urge = None;
        let vitals = &self.peer.vitals;
        vitals.handshakes.fetch_add(1, Ordering::Relaxed);
        vitals.handshake.store(Some(now.instant.since_boot()));
        vitals.handshake_wall.store(Some(now.wall));
        vitals.failed.store(false, Ordering::Relaxed);
        self.node.events.push(Event::Handshake { peer: id });
        self.settle_mark();
        self.note_path_tried();
    }

    /// Looks whether sessions are replaced as they are where two machines use one key.
    fn look_for_rivals(&mut self, next: Session) {
        let now = self.now.instant;
        let answered_at = self.core.prober.as_ref().and_then(Prober::answered_at);
        let worked = |before: Session| answered_at.is_some_and(|at| at > before.since);
        let was_lost = next.initiator && self.core.session.is_some_and(worked);
        let at = self.endpoint.map(|endpoint| endpoint.remote);
        self.core.rivals.note_session(now, was_lost);
        let Some((shared, is_news)) = self.core.rivals.judge(now, at) else { return };
        *self.peer.vitals.shared_key.lock() = Some(shared);
        if is_news {
            let is_the_peers = shared.ends.is_some();
            self.node.events.push(Event::SharedKey { peer: self.peer.id, is_the_peers });
        }
    }

    /// Sends what waited for a session; what does not fit follows at the next turn.
    pub(super) fn flush(&mut self, out: &mut SendQueue) {
        let len = (self.core.longest + DATA_OVERHEAD).max(INITIATION_LEN);
        while self.core.waiting > 0 && self.core.session.is_some() {
            match self.emit(out, len, None, |tunn, slot| tunn.decapsulate(None, &[], slot)) {
                Output::Sent(written) => {
                    self.core.waiting -= 1;
                    if written > DATA_OVERHEAD {
                        add(&self.peer.vitals.tx_packets, 1);
                    }
                }
                Output::Full => return,
                Output::Nothing | Output::Failed(_) => self.core.waiting = 0,
            }
        }
    }
}

/// Adds to a counter that only the holder of the peer's lock writes, so no atomic addition is needed.
#[inline]
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count as u64), Ordering::Relaxed);
}
