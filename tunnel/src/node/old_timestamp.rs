//! Initiations that are authentic but carry an old stamp: replays, or a peer whose clock went back.
//!
//! A peer whose clock went back can only be reached by an initiation of ours. It goes to where the old one came from,
//! since a peer behind a NAT is nowhere else; the endpoint moves once it is answered. A peer that stamps older than before
//! was started again, so it remembers no stamp of ours and takes the call.

use std::time::Duration;

use super::Event;
use super::timeout::ATTEMPT_PATIENCE;
use super::turn::Turn;
use crate::endpoint::Endpoint;
use crate::liveness::Prober;
use crate::time::Instant;
use crate::transmit::SendQueue;

/// An old stamp is answered by an initiation of ours once in this time, and a peer heard within it is alive.
const SPACING: Duration = Duration::from_secs(5);
/// How long a peer that seems alive may take for the answer to a probe, once an old stamp gave rise to doubt.
const DOUBT: Duration = Duration::from_millis(700);
/// How long a doubt is remembered.
const DOUBT_HOLDS: Duration = Duration::from_secs(10);
/// How long an answered initiation may take to be confirmed, before its stamp is no longer believed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// How often old stamps of one peer are reported.
const REPORTED: Duration = Duration::from_secs(600);

/// What was done about old stamps of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OldStamps {
    /// When one last made us initiate.
    called: Option<Instant>,
    /// When one first came from a peer that seemed alive.
    doubted: Option<Instant>,
    reported: Option<Instant>,
}

/// What becomes of the initiation itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterOldStamp {
    /// It is dropped.
    Drop,
    /// What made it old was forgotten: it can be answered now.
    Answer,
}

impl Turn<'_> {
    /// Decides about an authentic initiation from `source` whose stamp is old.
    pub(super) fn handle_old_stamp(&mut self, source: Endpoint, out: &mut SendQueue) -> AfterOldStamp {
        let now = self.now.instant;
        if self.is_alive() {
            return AfterOldStamp::Drop;
        }
        if self.remembers_a_replay() {
            self.node.rebuild(self.peer, &mut self.core, self.now);
            return AfterOldStamp::Answer;
        }
        if self.core.old_stamps.called.is_some_and(|at| now.since(at) < SPACING) {
            return AfterOldStamp::Drop;
        }
        self.core.old_stamps.called = Some(now);
        if self.core.old_stamps.reported.is_none_or(|at| now.since(at) >= REPORTED) {
            self.core.old_stamps.reported = Some(now);
            self.node.events.push(Event::OldStamp { peer: self.peer.id });
        }
        self.call(source, out);
        AfterOldStamp::Drop
    }

    /// Whether the peer has a session and is heard: then the initiation is a replay. To be sure it is probed, and has until
    /// the next old stamp to answer.
    fn is_alive(&mut self) -> bool {
        let (now, received) = (self.now.instant, self.core.traffic.received);
        if self.core.session.is_none() || now.since(received) >= SPACING {
            return false;
        }
        // One that is not probed has no reason to say anything.
        let is_probed = self.core.prober.as_ref().is_some_and(Prober::has_answered);
        match self.core.old_stamps.doubted.map(|at| (at, now.since(at))) {
            Some((_, age)) if age < DOUBT => true,
            Some((at, age)) if age < DOUBT_HOLDS && received < at && is_probed => false,
            Some(_) | None => {
                self.core.old_stamps.doubted = Some(now);
                if let Some(prober) = &mut self.core.prober {
                    prober.hurry(now);
                }
                true
            }
        }
    }

    /// Whether the stamp that is remembered came with an initiation that was never confirmed, as a recorded one is not:
    /// such a stamp must not keep the peer out.
    fn remembers_a_replay(&self) -> bool {
        let now = self.now.instant;
        let may_come = self.core.answer.is_some_and(|answer| now.since(answer.at) < CONFIRMED_WITHIN);
        let silent = |at| now.since(at) >= ATTEMPT_PATIENCE;
        let is_dead = self.core.session.is_none() || self.core.traffic.unanswered.is_some_and(silent);
        self.core.has_unproven_stamp && !may_come && is_dead
    }
}
