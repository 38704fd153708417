//! What time alone brings: handshakes, keepalives, probes, recovery and the change of states.

use std::time::Duration;

use super::core::ATTEMPT_LIMIT;
use super::locked_peer::LockedPeer;
use super::path_mtu::SizeProbe;
use super::{Node, path_mtu_search};

use super::status::{Event, RecoveryStep};
use super::wire::{DATA_OVERHEAD, INITIATION_LEN};
use crate::packet::icmp::Echo;
use crate::time::{Instant, Now};
use crate::transmit::SendQueue;

/// What the caller gets to do a recovery step before the node tries the path again.
const AFTER_STEP: Duration = Duration::from_millis(200);
/// An initiation of ours is not followed by another within this (rekey-timeout), unless a recovery
/// step changed the path.
const INITIATION_SPACING: Duration = Duration::from_secs(5);
/// The least time from one run of a peer's timers to the next: what did not work is not tried again
/// at once.
const TIMER_SPACING: Duration = Duration::from_millis(20);
/// Room that one peer's timers may need: an initiation or keepalive, a handshake, a probe. Probes of
/// services wait for more of it.
const ROOM: usize = 3 * INITIATION_LEN;

impl Node {
    /// Does what is due: handshakes, keepalives, probes, recovery.
    ///
    /// Peers that find less than 444 bytes of room in `out` stay due.
    pub fn handle_timeout(&self, now: Now, out: &mut SendQueue) {
        let table = self.table.load();
        for id in self.schedule.due(now.instant) {
            if out.room() < ROOM {
                return;
            }
            if let Some(peer) = table.peers.get(&id) {
                let mut peer = LockedPeer::lock(self, peer, now);
                Timers { peer: &mut peer, out }.run();
                peer.release_not_before(now.instant.after(TIMER_SPACING));
            }
        }
    }

    /// The network changed or the machine woke: sessions are tried at once, from the first step of
    /// the recovery ladder.
    pub fn handle_network_change(&self, now: Now) {
        for peer in self.table.load().peers.values() {
            let mut peer = LockedPeer::lock(self, peer, now);
            peer.recover_now();
            peer.release();
        }
    }
}

/// The timers of a locked peer, with the queue that they send to.
struct Timers<'t, 'a> {
    peer: &'t mut LockedPeer<'a>,
    out: &'t mut SendQueue,
}

impl Timers<'_, '_> {
    fn run(&mut self) {
        self.peer.tick(self.out);
        self.peer.flush(self.out);
        self.renew();
        self.keep_alive();
        self.probe_size();
        self.probe();
        self.peer.probe_services(self.out);
        self.recover();
        self.open_session();
        self.peer.announce_state();
    }

    const fn now(&self) -> Instant {
        self.peer.now.instant
    }

    fn initiate(&mut self) {
        self.peer.initiate(self.peer.endpoint, self.out);
    }

    /// Renews a session of ours in time, so that it never ends while it is wanted.
    fn renew(&mut self) {
        if self.peer.core.rekey_due().is_some_and(|at| at <= self.now()) {
            self.initiate();
        }
    }

    fn keep_alive(&mut self) {
        if self.peer.core.keepalive_due().is_some_and(|at| at <= self.now()) {
            self.peer.emit(self.out, INITIATION_LEN, None, |tunn, slot| tunn.encapsulate(&[], slot));
        }
    }

    fn open_session(&mut self) {
        let (now, core) = (self.now(), &mut *self.peer.core);
        let is_due = core.handshake_at.take_if(|at| *at <= now).is_some();
        let is_later = |at: Option<Instant>| at.is_some_and(|at| at > now);
        if core.must_open() && !is_later(core.opens_at()) || is_due {
            self.initiate();
        }
    }

    /// Sends the probe of a size that is due, and makes a small one due with it: called before
    /// those are sent.
    fn probe_size(&mut self) {
        let (now, locked) = (self.now(), &mut *self.peer);
        let Some(target) = locked.peer.config.load().probe else { return };
        let core = &mut *locked.core;
        let (Some(search), Some(prober), Some(_)) =
            (&mut core.probes.search, &mut core.probes.prober, core.session)
        else {
            return;
        };
        if !prober.has_answered() || self.out.room() < usize::from(search.range().most) + DATA_OVERHEAD {
            return;
        }
        search.handle_timeout(now, prober.answered_at());
        let probe = search.poll(now, prober.reply_timeout());
        if probe.is_some() {
            prober.probe_now(now);
        }
        path_mtu_search::publish(locked);
        let source = locked.node.interface.source_towards(target);
        let (Some(probe), Some(source)) = (probe, source) else { return };
        let headers = if target.is_ipv4() { 28 } else { 48 };
        let may_fragment =
            locked.core.probes.search.as_ref().is_some_and(|search| search.range().may_fragment);
        let SizeProbe { id, sequence, size, data } = probe;
        let mut padded = vec![0; usize::from(size).saturating_sub(headers)];
        for (byte, from) in padded.iter_mut().zip(data) {
            *byte = from;
        }
        if let Some(packet) = (Echo { is_reply: false, id, sequence, data: &padded }).build(source, target) {
            locked.send_own_alone(&packet, !may_fragment, self.out);
        }
    }

    fn probe(&mut self) {
        let (now, locked) = (self.now(), &mut *self.peer);
        if locked.core.session.is_none() {
            return;
        }
        let target = locked.peer.config.load().probe;
        let (Some(target), Some(prober)) = (target, locked.core.probes.prober.as_mut()) else { return };
        let failing = prober.handle_timeout(now);
        let probe = prober.poll(now);
        locked.peer.stats.publish_probes(prober);
        if failing {
            locked.core.start_recovery(locked.node.liveness.is_some(), now);
        }
        let source = locked.node.interface.source_towards(target);
        let (Some(probe), Some(source)) = (probe, source) else { return };
        let echo = Echo { is_reply: false, id: probe.id, sequence: probe.sequence, data: &probe.data };
        if let Some(packet) = echo.build(source, target) {
            locked.send_own(&packet, self.out);
        }
    }

    fn recover(&mut self) {
        let (now, locked) = (self.now(), &mut *self.peer);
        let (core, has_liveness) = (&mut *locked.core, locked.node.liveness.is_some());
        let is_stuck = core.attempt.is_some_and(|attempt| now.since(attempt.began) >= ATTEMPT_LIMIT);
        if is_stuck && core.opens() && has_liveness {
            core.start_recovery(has_liveness, now);
        }
        let ladder = core.ladder(has_liveness);
        let Some(step) = core.recovery.poll(now, ladder, &mut core.random) else { return };
        let id = locked.peer.id;
        if step == RecoveryStep::Rebind && locked.node.table.load().hears_another(id, now) {
            return;
        }
        locked.peer.stats.record_recovery(step);
        locked.node.events.push(Event::Recover { peer: id, step });
        match step {
            RecoveryStep::Handshake => self.try_handshake(),
            RecoveryStep::Rebind | RecoveryStep::Resolve => core.handshake_at = Some(now.after(AFTER_STEP)),
        }
        // A peer that we do not dial can only be sent an initiation; when that fails, the rest is
        // up to the peer.
        let core = &mut *self.peer.core;
        if !core.opens() && !core.wanted {
            core.recovery.pause();
        }
    }

    fn try_handshake(&mut self) {
        let now = self.now();
        let recent = |sent| now.since(sent) < INITIATION_SPACING;
        if !self.peer.core.attempt.is_some_and(|attempt| recent(attempt.sent)) {
            self.initiate();
        }
        self.peer.core.wanted = false;
    }
}
