//! What time alone brings: handshakes, keepalives, probes, recovery and the change of states.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::turn::Turn;
use super::{Event, Node, RecoveryStep};
use crate::liveness::probe_data;
use crate::offload::{Offload, Segments, SuperPacket};
use crate::packet::Ip;
use crate::packet::icmp::Echo;
use crate::reason::DropReason;
use crate::recovery::{DIAL, Ladder, PLAIN};
use crate::time::{Instant, Now};
use crate::transmit::SendQueue;
use crate::wire::INITIATION_LEN;

/// An attempt at a session this old calls for more than another initiation.
pub(super) const ATTEMPT_PATIENCE: Duration = Duration::from_secs(10);
/// What the shell gets to do a rung before the node tries the path again.
const AFTER_RUNG: Duration = Duration::from_millis(200);
/// An initiation of ours is not followed by another within this (rekey-timeout), unless a rung changed the path.
const INITIATION_SPACING: Duration = Duration::from_secs(5);
/// A forward step of the wall clock against the monotonic one by more than this makes old stamps of new ones.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// Room that one peer's timers may need: an initiation or keepalive, a handshake, a probe.
const ROOM: usize = 3 * INITIATION_LEN;

impl Node {
    pub(super) fn run_timers(&self, now: Now, out: &mut SendQueue) {
        let table = self.table.load();
        for id in self.schedule.due(now.instant) {
            if out.room() < ROOM {
                return;
            }
            if let Some(peer) = table.peers.get(&id) {
                let mut turn = Turn::new(self, peer, now);
                turn.run_timers(out);
                turn.finish_timers();
            }
        }
    }
}

impl Turn<'_> {
    fn run_timers(&mut self, out: &mut SendQueue) {
        self.tick(out);
        self.flush(out);
        self.renew(out);
        self.keep_alive(out);
        self.probe_size(out);
        self.probe(out);
        self.recover(out);
        self.open_session(out);
        self.announce_state();
    }

    /// Renews a session of ours in time, so that it never ends while it is wanted.
    fn renew(&mut self, out: &mut SendQueue) {
        if self.core.rekey_due().is_some_and(|at| at <= self.now.instant) {
            self.begin_handshake(out);
        }
    }

    fn keep_alive(&mut self, out: &mut SendQueue) {
        if self.core.keepalive_due().is_some_and(|at| at <= self.now.instant) {
            self.emit(out, INITIATION_LEN, None, |tunn, slot| tunn.encapsulate(&[], slot));
        }
    }

    fn open_session(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        let urged = self.core.urge.is_some_and(|at| at <= now);
        let is_later = |at: Option<Instant>| at.is_some_and(|at| at > now);
        if urged {
            self.core.urge = None;
        }
        let opens = self.core.must_open() && !is_later(self.core.opens_at());
        if opens || urged {
            self.begin_handshake(out);
        }
    }

    fn probe(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        if self.core.session.is_none() {
            return;
        }
        let (Some(target), Some(prober)) = (self.peer.config.load().probe, self.core.prober.as_mut()) else {
            return;
        };
        let failing = prober.handle_timeout(now);
        let probe = prober.poll(now);
        self.publish_probes();
        if failing {
            self.start_recovery();
        }
        let (Some(probe), Some(source)) = (probe, self.node.address_beside(target)) else { return };
        let echo = Echo { is_reply: false, id: probe.id, sequence: probe.sequence, data: &probe.data };
        if let Some(packet) = echo.build(source, target) {
            self.send_own(&packet, out);
        }
    }

    /// Encrypts a packet of the node's own for this peer; nothing waits when there is no session.
    pub(super) fn send_own(&mut self, packet: &[u8], out: &mut SendQueue) {
        if self.core.session.is_none() {
            return;
        }
        let mut bytes = packet.to_vec();
        if let Ok(segments) = Segments::new(SuperPacket { bytes: &mut bytes, offload: Offload::None }) {
            self.encrypt(segments, 0, out);
        }
    }

    /// Deals with probe traffic: the answer to a probe of the peer, or nothing to an answer to ours. `None` for any other packet.
    pub(super) fn probe_traffic(&mut self, packet: &[u8]) -> Option<Option<Vec<u8>>> {
        let ip = Ip::parse(packet).ok()?;
        let echo = Echo::parse(&ip, packet)?;
        let data = probe_data(echo.data).filter(|_| self.node.owns(ip.dst))?;
        if !echo.is_reply {
            return Some(Echo { is_reply: true, data, ..echo }.build(ip.dst, ip.src));
        }
        if self.size_answer(&echo) {
            return Some(None);
        }
        let prober = self.core.prober.as_mut()?;
        if prober.handle_reply(echo.id, echo.sequence, echo.data, self.now.instant) {
            self.core.recovery.stop();
            self.publish_probes();
        }
        Some(None)
    }

    fn publish_probes(&self) {
        let Some(prober) = &self.core.prober else { return };
        let (lost, decided) = prober.recent();
        let vitals = &self.peer.vitals;
        vitals.lost.store(lost, Ordering::Relaxed);
        vitals.decided.store(decided, Ordering::Relaxed);
        vitals.probes_lost.store(prober.lost_total(), Ordering::Relaxed);
        vitals.rtt.store(prober.rtt());
        vitals.answered.store(prober.has_answered(), Ordering::Relaxed);
    }

    /// The ladder this peer can climb.
    fn ladder(&self) -> &'static Ladder {
        if self.core.opens() && self.node.liveness.is_some() { &DIAL } else { &PLAIN }
    }

    pub(super) fn start_recovery(&mut self) {
        let (now, ladder) = (self.now.instant, self.ladder());
        let core = &mut *self.core;
        core.recovery.start(now, ladder, &mut core.dice);
    }

    fn recover(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        let stuck = self.core.attempt.is_some_and(|attempt| now.since(attempt.began) >= ATTEMPT_PATIENCE);
        if stuck && self.core.opens() && self.node.liveness.is_some() {
            self.start_recovery();
        }
        let ladder = self.ladder();
        let core = &mut *self.core;
        let Some(step) = core.recovery.poll(now, ladder, &mut core.dice) else { return };
        if step == RecoveryStep::Rebind && self.node.hears_another(self.peer.id, now) {
            return;
        }
        if let Some(count) = self.peer.vitals.recoveries.get(step as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.node.events.push(Event::Recover { peer: self.peer.id, step });
        match step {
            RecoveryStep::Handshake => self.try_handshake(out),
            RecoveryStep::Rebind | RecoveryStep::Resolve => self.core.urge = Some(now.after(AFTER_RUNG)),
        }
        // A peer that we do not dial can only be called; when that fails, it is its turn.
        if !self.core.opens() && !self.core.wanted {
            self.core.recovery.pause();
        }
    }

    fn try_handshake(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        let recent = |sent| now.since(sent) < INITIATION_SPACING;
        if !self.core.attempt.is_some_and(|attempt| recent(attempt.sent)) {
            self.begin_handshake(out);
        }
        self.core.wanted = false;
    }

    /// `Tunn` gave up: nothing waits any more, and if a session is wanted it is tried again with growing pauses.
    pub(super) fn note_expired(&mut self) {
        if self.core.expired {
            return;
        }
        let failed = self.core.attempt.take().is_some();
        self.core.expired = true;
        self.node.count_drops(DropReason::NoSession, std::mem::take(&mut self.core.waiting));
        if failed {
            self.peer.vitals.failed.store(true, Ordering::Relaxed);
        }
        if self.core.opens() || (failed && self.core.wanted) {
            self.start_recovery();
        } else {
            self.core.recovery.stop();
        }
    }

    /// A session proves the path for a plain peer; a probed one must answer a probe through it.
    pub(super) fn note_path_tried(&mut self) {
        let core = &mut *self.core;
        match &mut core.prober {
            Some(prober) => {
                prober.activate(self.now.instant);
                if prober.has_answered() { core.recovery.pause() } else { core.recovery.stop() }
            }
            None => core.recovery.stop(),
        }
        if let Some(search) = &mut core.search {
            search.activate(self.now.instant);
        }
    }

    /// Makes a fresh `Tunn` when the wall clock was set forward and the old one's stamps may be of no use any more.
    ///
    /// A session that works is kept: its own renewals were accepted with these stamps.
    pub(super) fn follow_wall_clock(&mut self) {
        let now = self.now;
        if now.wall <= self.core.stamp(now.instant).saturating_add(CLOCK_STEP) {
            return;
        }
        let works = self.core.session.is_some_and(|session| {
            let silent = |at| now.instant.since(at) >= ATTEMPT_PATIENCE;
            session.initiator || !self.core.traffic.unanswered.is_some_and(silent)
        });
        if !works && self.core.tunn.is_some() {
            let pending = self.core.attempt.is_some();
            self.node.rebuild(self.peer, &mut self.core, now);
            if pending {
                self.core.urge = Some(now.instant);
            }
        }
    }

    /// Tells a change of the peer's state, and when to look again.
    pub(super) fn announce_state(&mut self) {
        let facts = self.peer.vitals.facts();
        let (state, change) = facts.judge(self.node.liveness.as_ref(), self.now.instant);
        let from = std::mem::replace(&mut self.core.announced, state);
        self.core.next_state_change = change;
        if from != state {
            self.node.events.push(Event::StateChanged { peer: self.peer.id, from, to: state });
        }
    }

    /// Tries the path at once, from the first rung.
    pub(super) fn urge_recovery(&mut self) {
        // The local address may be gone: the kernel chooses until the peer is heard again.
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.local = None;
            *self.peer.path.lock() = self.endpoint;
        }
        if self.endpoint.is_some() && (self.core.opens() || self.core.session.is_some()) {
            self.core.recovery.restart(self.now.instant);
            self.core.urge = Some(self.now.instant);
            self.core.quick = 0;
        }
    }
}
