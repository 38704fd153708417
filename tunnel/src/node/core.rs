//! What a peer's lock guards: boringtun's `Tunn`, and our own record of the times that it keeps to
//! itself.

use std::time::Duration;

use boringtun::noise::Tunn;

use fastrand::Rng;

use super::config::PeerConfig;
use super::liveness::Prober;
use super::old_timestamp::{OldTimestamps, PeerFacts};
use super::probes::Probes;
use super::random::below;
use super::recovery::{DIAL, Ladder, PLAIN, Recovery};
use super::service_probes::ServiceProbes;
use super::shared_key::SharedKeyDetector;
use super::status::PeerState;
use crate::time::{Instant, Now};

/// An initiation is repeated after this (WireGuard paper §6.1, rekey-timeout) and up to
/// [`RETRY_JITTER`] more.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_JITTER: Duration = Duration::from_millis(333);
/// Pauses after the first initiations on a new path, well above the 20 ms that WireGuard allows
/// between two.
const QUICK: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// The initiator of a session renews it when it has sent through it and it is this old.
pub(super) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A session older than this neither sends nor receives (reject-after-time).
pub(super) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Silence after received data that is answered by a keepalive.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after data was sent that requires a new handshake.
const SILENCE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);
/// How old the `Tunn`'s time may become before it is used.
const TICK: Duration = Duration::from_millis(250);
/// An attempt at a session this old needs more than another initiation.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// A forward step of the wall clock against the monotonic one by more than this makes old
/// timestamps of new ones.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// How long an answered initiation may take to be confirmed, before its timestamp is no longer
/// believed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// Packets `Tunn` keeps while there is no session.
pub(super) const MAX_WAITING: usize = 256;

/// A handshake of ours under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// The sender index of its newest initiation.
    pub(super) index: u32,
    pub(super) began: Instant,
    pub(super) sent: Instant,
    retry: Instant,
}

/// A handshake of the peer that we answered; it counts once data comes through it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) index: u32,
    pub(super) at: Instant,
}

/// The session in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) since: Instant,
    pub(super) initiator: bool,
}

/// What of a peer's record depends on no key.
pub(super) struct Keyless {
    announced: PeerState,
    recovery: Recovery,
    /// Whether a handshake was under way.
    is_unanswered: bool,
}

/// When something last went which way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: Instant,
    pub(super) received: Instant,
    /// What the `Tunn` takes for the time of the last packet received: its last tick before that.
    pub(super) received_tick: Instant,
    /// The first data received since anything was sent: a keepalive is due for it.
    pub(super) owed: Option<Instant>,
    /// The first data sent since anything was received.
    pub(super) unanswered: Option<Instant>,
}

impl Traffic {
    /// Data was sent through the session.
    #[inline]
    pub(super) fn note_data_sent(&mut self, now: Instant) {
        self.sent = now;
        self.owed = None;
        self.unanswered.get_or_insert(now);
    }

    /// Whether data was sent ten seconds ago or more, and nothing has arrived since.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|at| now.since(at) >= ATTEMPT_LIMIT)
    }
}

/// The guarded part of a peer.
pub(super) struct Core {
    /// `None` while the node has no key, or once the peer is removed.
    pub(super) tunn: Option<Tunn>,
    /// Both clocks when the `Tunn` was made: its timestamps count on from there.
    pub(super) made: Now,
    pub(super) ticked: Instant,
    pub(super) session: Option<Session>,
    pub(super) attempt: Option<Attempt>,
    pub(super) answer: Option<Answer>,
    /// Whether the newest initiation that the `Tunn` took was never confirmed, so that its
    /// timestamp may be a replay's.
    pub(super) has_unproven_timestamp: bool,
    /// Whether the `Tunn` remembers a timestamp that was proven fresh, so that old initiations
    /// cannot pass for new ones.
    pub(super) remembers_timestamp: bool,
    /// Receiver index and highest counter seen: a delayed packet does not move the endpoint back.
    pub(super) newest: (u32, u64),
    pub(super) traffic: Traffic,
    /// Packets waiting in the `Tunn`, and the longest of them.
    pub(super) waiting: usize,
    pub(super) longest: usize,
    pub(super) expired: bool,
    /// Whether data was offered since the last session ended.
    pub(super) wanted: bool,
    /// A handshake to begin at this time, as after a step of the recovery ladder.
    pub(super) handshake_at: Option<Instant>,
    /// How many of [`QUICK`] were used since the path was last new.
    pub(super) quick: usize,
    pub(super) keepalive: Option<Duration>,
    pub(super) initiate: bool,
    pub(super) probes: Probes,
    pub(super) service_probes: ServiceProbes,
    pub(super) recovery: Recovery,
    pub(super) random: Rng,
    pub(super) old_timestamps: OldTimestamps,
    pub(super) shared_key: SharedKeyDetector,
    pub(super) scheduled: Option<Instant>,
    pub(super) next_state_change: Option<Instant>,
    pub(super) announced: PeerState,
}

impl Core {
    pub(super) fn new(config: &PeerConfig, tunn: Option<Tunn>, prober: Option<Prober>, now: Now) -> Self {
        Self {
            tunn,
            made: now,
            ticked: now.instant,
            session: None,
            attempt: None,
            answer: None,
            has_unproven_timestamp: false,
            remembers_timestamp: false,
            newest: (0, 0),
            traffic: Traffic::default(),
            waiting: 0,
            longest: 0,
            expired: false,
            wanted: false,
            handshake_at: None,
            quick: 0,
            keepalive: config.keepalive_interval(),
            initiate: config.initiate,
            probes: Probes::new(prober),
            service_probes: ServiceProbes::default(),
            recovery: Recovery::default(),
            random: Rng::new(),
            old_timestamps: OldTimestamps::default(),
            shared_key: SharedKeyDetector::default(),
            scheduled: None,
            next_state_change: None,
            announced: PeerState::Never,
        }
    }

    /// What goes on when the peer gets another key.
    pub(super) fn take_keyless(&mut self) -> Keyless {
        Keyless {
            announced: self.announced,
            recovery: std::mem::take(&mut self.recovery),
            is_unanswered: self.attempt.is_some(),
        }
    }

    /// Goes on from there with a handshake at once.
    pub(super) fn continue_from(&mut self, before: Keyless, has_liveness: bool, now: Instant) {
        self.announced = before.announced;
        self.next_state_change = Some(now);
        self.recovery = before.recovery;
        self.handshake_at = Some(now);
        if before.is_unanswered {
            self.start_recovery(has_liveness, now);
        }
    }

    /// Puts a fresh `Tunn` in place: every session ends, the record starts again.
    pub(super) fn replace_tunn(&mut self, tunn: Option<Tunn>, now: Now) {
        self.tunn = tunn;
        self.made = now;
        self.ticked = now.instant;
        self.session = None;
        self.attempt = None;
        self.answer = None;
        self.has_unproven_timestamp = false;
        self.remembers_timestamp = false;
        self.newest = (0, 0);
        self.waiting = 0;
        self.expired = false;
        self.end_session();
    }

    /// The session is over: no reply to it is expected, and nothing probed through it.
    pub(super) fn end_session(&mut self) {
        self.session = None;
        (self.traffic.unanswered, self.traffic.owed) = (None, None);
        self.probes.deactivate();
        self.service_probes.clear();
    }

    /// A session was agreed: what was waiting for one is over, and it is to be proven.
    ///
    /// The session proves the path to a plain peer; one that answers probes must answer one through
    /// it.
    pub(super) fn begin_session(&mut self, session: Session, now: Instant) {
        self.session = Some(session);
        self.expired = false;
        self.wanted = false;
        self.handshake_at = None;
        self.probes.activate(now);
        if self.probes.have_been_answered() {
            self.recovery.pause();
        } else {
            self.recovery.stop();
        }
    }

    /// Whether the session in use was proven by the answer to a probe, and is now replaced on our
    /// initiative: so it is where another machine uses the same key.
    pub(super) fn loses_a_proven_session(&self, next: Session) -> bool {
        let answered_at = self.probes.prober.as_ref().and_then(Prober::answered_at);
        let worked = |before: Session| answered_at.is_some_and(|at| at > before.since);
        next.initiator && self.session.is_some_and(worked)
    }

    /// Whether the wall clock was set forward since the `Tunn` was made, and no session works, so
    /// that its timestamps may be of no use any more.
    ///
    /// A session that works is kept: its own renewals were accepted with these timestamps.
    pub(super) fn is_outrun_by_wall_clock(&self, now: Now) -> bool {
        if now.wall <= self.timestamp(now.instant).saturating_add(CLOCK_STEP) {
            return false;
        }
        let works =
            self.session.is_some_and(|session| session.initiator || !self.traffic.is_unanswered(now.instant));
        !works && self.tunn.is_some()
    }

    /// What is known of the peer, to decide about an initiation with an old timestamp.
    pub(super) fn peer_facts(&self, now: Instant) -> PeerFacts {
        let may_come = self.answer.is_some_and(|answer| now.since(answer.at) < CONFIRMED_WITHIN);
        let is_dead = self.session.is_none() || self.traffic.is_unanswered(now);
        PeerFacts {
            heard_in_session: self.session.map(|_| self.traffic.received),
            answers_probes: self.probes.have_been_answered(),
            remembers_a_replay: self.has_unproven_timestamp && !may_come && is_dead,
        }
    }

    /// The recovery ladder of this peer: every step where the node dials it and watches liveness.
    pub(super) const fn ladder(&self, has_liveness: bool) -> &'static Ladder {
        if self.opens() && has_liveness { &DIAL } else { &PLAIN }
    }

    /// Starts the recovery ladder, unless that is under way.
    pub(super) fn start_recovery(&mut self, has_liveness: bool, now: Instant) {
        self.recovery.start(now, self.ladder(has_liveness), &mut self.random);
    }

    /// Notes that the initiation with `index` was answered.
    ///
    /// `Tunn` has two in flight at most: when the older one is answered it continues to repeat the
    /// newer one, and gives up every session if that is never answered. So the attempt is over only
    /// with its newest initiation.
    pub(super) fn note_answered(&mut self, index: u32, now: Instant) {
        self.attempt = self.attempt.filter(|attempt| attempt.index != index);
        if let Some(attempt) = &mut self.attempt {
            attempt.began = now;
        }
    }

    /// Whether this side opens the session itself, again and again.
    pub(super) const fn opens(&self) -> bool {
        self.initiate || self.keepalive.is_some()
    }

    /// Whether the `Tunn` needs a tick of its clock before it is used.
    #[inline]
    pub(super) fn needs_tick(&self, now: Instant) -> bool {
        now.since(self.ticked) >= TICK || self.is_expired(now)
    }

    /// Whether the session is too old to be used, and the `Tunn` does not know yet.
    #[inline]
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.session.is_some_and(|session| now.since(session.since) >= REJECT_AFTER)
    }

    /// Until when the `Tunn` must not tick: it counts silence from the last packet received, so the
    /// first data after a quiet time would make it begin a needless handshake before the reply can
    /// be here.
    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        let until = self.traffic.unanswered?.after(SILENCE);
        let is_early = self.attempt.is_none()
            && self.session.is_some()
            && !self.is_expired(now)
            && now < until
            && now.since(self.traffic.received_tick) >= SILENCE;
        is_early.then_some(until)
    }

    /// The wall clock that the next handshake's timestamp would carry.
    pub(super) fn timestamp(&self, now: Instant) -> Duration {
        self.made.wall.saturating_add(now.since(self.made.instant))
    }

    /// Notes that an initiation of ours left.
    pub(super) fn note_initiation(&mut self, index: u32, now: Instant) {
        let began = self.attempt.map_or(now, |attempt| attempt.began);
        let retry = now.after(REKEY_TIMEOUT + below(&mut self.random, RETRY_JITTER));
        self.attempt = Some(Attempt { index, began, sent: now, retry });
        self.expired = false;
        self.handshake_at = self.quick_retry(now);
    }

    /// When an initiation is repeated on a path that is new: the far end may be starting as well.
    /// Only towards an end that is probed, as our own are; to others rekey-timeout alone counts.
    fn quick_retry(&mut self, now: Instant) -> Option<Instant> {
        let pause = *QUICK.get(self.quick)?;
        if self.session.is_some() || self.probes.prober.is_none() || !self.opens() {
            return None;
        }
        self.quick += 1;
        Some(now.after(pause + below(&mut self.random, pause / 5)))
    }

    /// When something of this peer is next due.
    pub(super) fn deadline(&self, has_endpoint: bool, now: Instant) -> Option<Instant> {
        self.tunn.as_ref()?;
        // What only boringtun can do may be late by its own clock; it ticks at most once a second.
        let tunn = self
            .quiet_until(now)
            .or_else(|| self.tunn_deadline().map(|at| at.max(self.ticked.after(Duration::from_secs(1)))));
        let opening = (has_endpoint && self.must_open()).then(|| self.opens_at().unwrap_or(now));
        let flush =
            (self.session.is_some() && self.waiting > 0).then(|| now.after(Duration::from_millis(10)));
        let keepalive = self.keepalive_due();
        let rekey = self.rekey_due().filter(|_| has_endpoint);
        let probes = match (self.probes.deadline(), self.service_probes.deadline()) {
            (Some(own), Some(services)) => Some(own.min(services)),
            (own, services) => own.or(services),
        };
        [
            tunn,
            opening,
            flush,
            keepalive,
            rekey,
            self.handshake_at,
            self.recovery.deadline(),
            self.next_state_change,
            probes,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether a session is wanted, none is there, and nothing is under way to get one.
    pub(super) const fn must_open(&self) -> bool {
        self.opens()
            && self.session.is_none()
            && self.attempt.is_none()
            && !self.recovery.is_running()
            && self.handshake_at.is_none()
    }

    /// No session is opened before this: the far end, whose handshake we have answered, may still
    /// confirm that one. Two that cross cost some peers both of them, and then rekey-timeout.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.answer.map(|answer| answer.at.after(REKEY_TIMEOUT))
    }

    /// When a keepalive is due: as the reply to data, or after so long without a packet either way.
    pub(super) fn keepalive_due(&self) -> Option<Instant> {
        let session = self.session?;
        let last = self.traffic.sent.max(self.traffic.received).max(session.since);
        let persistent = self.keepalive.map(|keepalive| last.after(keepalive));
        let passive = self.traffic.owed.map(|since| since.after(KEEPALIVE_TIMEOUT));
        persistent.into_iter().chain(passive).min()
    }

    /// When the session we opened and want to keep is due for renewal, used or not.
    pub(super) fn rekey_due(&self) -> Option<Instant> {
        let session = self.session.filter(|session| session.initiator && self.opens())?;
        self.attempt.is_none().then(|| session.since.after(REKEY_AFTER))
    }

    fn tunn_deadline(&self) -> Option<Instant> {
        if let Some(attempt) = self.attempt {
            return Some(attempt.retry);
        }
        let session = self.session?;
        let traffic = &self.traffic;
        let rekey =
            (session.initiator && traffic.sent > session.since).then(|| session.since.after(REKEY_AFTER));
        let unanswered = traffic.unanswered.map(|at| at.after(SILENCE));
        let end = Some(session.since.after(REJECT_AFTER + Duration::from_millis(1)));
        [rekey, unanswered, end].into_iter().flatten().min()
    }
}
