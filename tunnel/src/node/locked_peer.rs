//! One peer under its lock: every call into its `Tunn`, and the deadline that follows from it.

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use parking_lot::MutexGuard;

use super::Node;
use super::core::{Core, Session};
use super::peer::Peer;
use super::stats::add;
use super::status::Event;
use super::wire::{DATA_OVERHEAD, INITIATION_LEN, sender_index};
use crate::endpoint::Endpoint;
use crate::reason::DropReason;
use crate::time::{Instant, Now};
use crate::transmit::SendQueue;

const KIND_INITIATION: u8 = 1;
const KIND_DATA: u8 = 4;

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

/// One peer under its lock, which is taken once and used for a whole batch; its deadline is set
/// when the lock is released.
///
/// Sending (`outbound`) and probes of services (`service_probing`) are written for this type, which
/// makes its methods more than most types have. What receives and what runs timers has state of its
/// own besides the lock: `Receiver` (`inbound`) and `Timers` (`timeout`).
pub(super) struct LockedPeer<'a> {
    pub(super) node: &'a Node,
    pub(super) peer: &'a Peer,
    pub(super) core: MutexGuard<'a, Core>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) now: Now,
}

impl<'a> LockedPeer<'a> {
    pub(super) fn lock(node: &'a Node, peer: &'a Peer, now: Now) -> Self {
        let core = peer.core.lock();
        Self { node, peer, core, endpoint: peer.endpoint(), now }
    }

    /// Sets the peer's deadline and releases its lock.
    pub(super) fn release(self) {
        let now = self.now.instant;
        self.release_not_before(now);
    }

    /// As [`release`](Self::release), with nothing due before `earliest`.
    pub(super) fn release_not_before(mut self, earliest: Instant) {
        let deadline =
            self.core.deadline(self.endpoint.is_some(), self.now.instant).map(|at| at.max(earliest));
        let scheduled = self.core.scheduled;
        // A later deadline is left to the earlier one: when that comes, this is computed again.
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

    /// Calls the `Tunn` with room for `len` bytes and queues what it wants to send, to `to` or else
    /// to the endpoint.
    pub(super) fn emit(
        &mut self,
        out: &mut SendQueue,
        len: usize,
        to: Option<Endpoint>,
        call: impl for<'b> FnOnce(&mut Tunn, &'b mut [u8]) -> TunnResult<'b>,
    ) -> Output {
        self.emit_or_withhold(out, len, to, false, call)
    }

    /// As [`emit`](Self::emit), but with `withholds` an initiation is not sent: the `Tunn` repeats
    /// it if it is still of use then.
    pub(super) fn emit_or_withhold(
        &mut self,
        out: &mut SendQueue,
        len: usize,
        to: Option<Endpoint>,
        withholds: bool,
        call: impl for<'b> FnOnce(&mut Tunn, &'b mut [u8]) -> TunnResult<'b>,
    ) -> Output {
        let Some(slot) = out.slot(len) else {
            self.node.drops.count(DropReason::SendQueueFull);
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
        if withholds && kind == KIND_INITIATION {
            self.core.note_initiation(index.unwrap_or_default(), self.now.instant);
            return Output::Nothing;
        }
        out.commit(endpoint, 0, written);
        self.note_sent(kind, index.unwrap_or_default(), written);
        Output::Sent(written)
    }

    fn note_sent(&mut self, kind: u8, index: u32, written: usize) {
        let now = self.now.instant;
        self.core.traffic.sent = now;
        self.core.traffic.owed = None;
        add(&self.peer.stats.tx_bytes, written);
        if kind == KIND_INITIATION {
            let timestamp = self.core.timestamp(now);
            let event = self.node.watermark.lock().note_timestamp(timestamp);
            self.node.events.extend(event);
            self.core.note_initiation(index, now);
        } else if kind == KIND_DATA && written > DATA_OVERHEAD {
            self.core.traffic.unanswered.get_or_insert(now);
        }
    }

    /// Lets the `Tunn` tick before it is used, if that is due: so a session past its life is never
    /// used, not even by the first packet after a suspend.
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
        if !alive && self.core.session.is_some() {
            self.core.end_session();
        }
    }

    /// Begins a handshake with `to`, wherever the endpoint is, or repeats the initiation of the one
    /// under way; nothing without `to`.
    pub(super) fn initiate(&mut self, to: Option<Endpoint>, out: &mut SendQueue) {
        if to.is_none() || self.core.tunn.is_none() {
            return;
        }
        self.follow_wall_clock();
        self.refresh(out);
        if self.core.attempt.is_some_and(|attempt| attempt.sent == self.now.instant) {
            return;
        }
        self.emit(out, INITIATION_LEN, to, |tunn, slot| tunn.format_handshake_initiation(slot, true));
    }

    /// A session was agreed.
    pub(super) fn note_session(&mut self, session: Session) {
        let (now, core, stats) = (self.now, &mut *self.core, &self.peer.stats);
        let was_lost = core.loses_a_proven_session(session);
        let at = self.endpoint.map(|endpoint| endpoint.remote);
        core.shared_key.note_session(now.instant, was_lost);
        if let Some((shared, is_news)) = core.shared_key.judge(now.instant, at) {
            *stats.shared_key.lock() = Some(shared);
            let is_the_peers = shared.ends.is_some();
            let event = Event::SharedKey { peer: self.peer.id, is_the_peers };
            self.node.events.extend(is_news.then_some(event));
        }
        core.begin_session(session, now.instant);
        stats.record_handshake(now);
        self.node.events.push(Event::Handshake { peer: self.peer.id });
        // Timestamps by this clock are of use again, whatever the mark is.
        let timestamp = core.timestamp(now.instant).max(now.wall);
        let event = self.node.watermark.lock().note_session(timestamp);
        self.node.events.extend(event);
    }

    /// Sends what waited for a session; what does not fit follows when the peer is locked again.
    pub(super) fn flush(&mut self, out: &mut SendQueue) {
        let len = (self.core.longest + DATA_OVERHEAD).max(INITIATION_LEN);
        while self.core.waiting > 0 && self.core.session.is_some() {
            match self.emit(out, len, None, |tunn, slot| tunn.decapsulate(None, &[], slot)) {
                Output::Sent(written) => {
                    self.core.waiting -= 1;
                    if written > DATA_OVERHEAD {
                        add(&self.peer.stats.tx_packets, 1);
                    }
                }
                Output::Full => return,
                Output::Nothing | Output::Failed(_) => self.core.waiting = 0,
            }
        }
    }

    /// Puts a fresh `Tunn` in place: every session with the peer ends, its configuration and
    /// counters stay.
    pub(super) fn rebuild_tunn(&mut self) {
        let identity = self.node.identity.load();
        let preshared = self.peer.config.load().preshared_key.clone();
        let (key, index) = (&self.peer.key, self.peer.index);
        let tunn = identity.as_deref().map(|own| own.tunn(key, preshared.as_ref(), index));
        self.node.drops.count_many(DropReason::NoSession, self.core.waiting);
        self.core.replace_tunn(tunn, self.now);
    }

    /// Makes a fresh `Tunn` when the wall clock was set forward and the old one's timestamps may be
    /// of no use any more.
    pub(super) fn follow_wall_clock(&mut self) {
        if self.core.is_outrun_by_wall_clock(self.now) {
            let pending = self.core.attempt.is_some();
            self.rebuild_tunn();
            if pending {
                self.core.handshake_at = Some(self.now.instant);
            }
        }
    }

    /// `Tunn` gave up: nothing waits any more, and if a session is wanted it is tried again with
    /// growing pauses.
    fn note_expired(&mut self) {
        if self.core.expired {
            return;
        }
        let failed = self.core.attempt.take().is_some();
        self.core.expired = true;
        self.node.drops.count_many(DropReason::NoSession, std::mem::take(&mut self.core.waiting));
        if failed {
            self.peer.stats.record_failure();
        }
        if self.core.opens() || (failed && self.core.wanted) {
            self.core.start_recovery(self.node.liveness.is_some(), self.now.instant);
        } else {
            self.core.recovery.stop();
        }
    }

    /// Reports a change of the peer's state, and sets when the next is to be checked.
    pub(super) fn announce_state(&mut self) {
        let facts = self.peer.stats.facts();
        let (state, change) = facts.judge(self.node.liveness.as_ref(), self.now.instant);
        let from = std::mem::replace(&mut self.core.announced, state);
        self.core.next_state_change = change;
        if from != state {
            self.node.events.push(Event::StateChanged { peer: self.peer.id, from, to: state });
        }
    }

    /// Moves the endpoint to where an authenticated packet came from.
    pub(super) fn roam(&mut self, path: Endpoint) {
        if self.endpoint == Some(path) {
            return;
        }
        let before = self.endpoint.map(|endpoint| endpoint.remote);
        if self.place(path) {
            if let Some(before) = before {
                self.core.shared_key.note_move(self.now.instant, before, path.remote);
                self.peer.stats.record_move();
            }
            self.node.events.push(Event::EndpointChanged { peer: self.peer.id, endpoint: path });
        }
    }

    /// Sets the endpoint; whether its remote side is another one, so that the path is new.
    pub(super) fn place(&mut self, path: Endpoint) -> bool {
        let is_new = self.endpoint.is_none_or(|endpoint| endpoint.remote != path.remote);
        self.endpoint = Some(path);
        *self.peer.path.lock() = Some(path);
        if is_new {
            self.core.probes.restart_search();
        }
        is_new
    }

    /// Tries the path at once, from the first step of the ladder.
    pub(super) fn recover_now(&mut self) {
        // The local address may be gone: the kernel chooses until a packet of the peer arrives.
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.local = None;
            *self.peer.path.lock() = self.endpoint;
        }
        if self.endpoint.is_some() && (self.core.opens() || self.core.session.is_some()) {
            self.core.recovery.restart(self.now.instant);
            self.core.handshake_at = Some(self.now.instant);
            self.core.quick = 0;
        }
    }
}
