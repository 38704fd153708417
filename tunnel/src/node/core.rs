//! What a peer's lock guards: boringtun's `Tunn`, and our own account of the times it keeps to itself.

use std::time::Duration;

use boringtun::noise::Tunn;

use super::PeerConfig;
use super::old_stamp::OldStamps;
use super::rivals::Rivals;
use crate::dice::Dice;
use crate::liveness::Prober;
use crate::path_mtu::Search;
use crate::recovery::Recovery;
use crate::time::{Instant, Now};

/// An initiation is repeated after this (WireGuard paper §6.1, rekey-timeout) and up to [`RETRY_JITTER`] more.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_JITTER: Duration = Duration::from_millis(333);
/// Pauses after the first initiations on a new path, well above the 20 ms that WireGuard allows between two.
const QUICK: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// The initiator of a session renews it when it has sent through it and it is this old.
pub(super) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A session older than this neither sends nor receives (reject-after-time).
pub(super) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Silence after received data that is answered by a keepalive.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after data was sent that calls for a new handshake.
const SILENCE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);
/// How old the `Tunn`'s idea of the time may become before it is used.
const TICK: Duration = Duration::from_millis(250);
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

/// When something last went which way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: Instant,
    pub(super) received: Instant,
    /// What the `Tunn` takes for the time of the last packet received: when it was last told the time before.
    pub(super) stamped: Instant,
    /// The first data received since anything was sent: it is owed a sign of life.
    pub(super) owed: Option<Instant>,
    /// The first data sent since anything was received.
    pub(super) unanswered: Option<Instant>,
}

/// The guarded part of a peer.
pub(super) struct Core {
    /// `None` while the node has no key, or once the peer is removed.
    pub(super) tunn: Option<Tunn>,
    /// Both clocks when the `Tunn` was made: its stamps go on from there.
    pub(super) made: Now,
    pub(super) ticked: Instant,
    pub(super) session: Option<Session>,
    pub(super) attempt: Option<Attempt>,
    pub(super) answer: Option<Answer>,
    /// Whether the newest initiation that the `Tunn` took was never confirmed, so that its stamp may be a replay's.
    pub(super) has_unproven_stamp: bool,
    /// Whether the `Tunn` remembers a stamp that was proven fresh, so that old initiations cannot pass for new ones.
    pub(super) remembers_stamp: bool,
    /// Receiver index and highest counter seen: a delayed packet does not move the endpoint back.
    pub(super) newest: (u32, u64),
    pub(super) traffic: Traffic,
    /// Packets waiting in the `Tunn`, and the longest of them.
    pub(super) waiting: usize,
    pub(super) longest: usize,
    pub(super) expired: bool,
    /// Whether data was offered since the last session ended.
    pub(super) wanted: bool,
    /// A handshake to begin at this time, as after a rung of the ladder.
    pub(super) urge: Option<Instant>,
    /// How many of [`QUICK`] were used since the path was last new.
    pub(super) quick: usize,
    pub(super) keepalive: Option<Duration>,
    pub(super) initiate: bool,
    pub(super) prober: Option<Prober>,
    /// Of the path's MTU, when that is wanted.
    pub(super) search: Option<Search>,
    pub(super) recovery: Recovery,
    pub(super) dice: Dice,
    pub(super) old_stamps: OldStamps,
    pub(super) rivals: Rivals,
    pub(super) scheduled: Option<Instant>,
    pub(super) next_state_change: Option<Instant>,
    pub(super) announced: super::PeerState,
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
            has_unproven_stamp: false,
            remembers_stamp: false,
            newest: (0, 0),
            traffic: Traffic::default(),
            waiting: 0,
            longest: 0,
            expired: false,
            wanted: false,
            urge: None,
            quick: 0,
            keepalive: config.keepalive_interval(),
            initiate: config.initiate,
            prober,
            search: None,
            recovery: Recovery::default(),
            dice: Dice::new(),
            old_stamps: OldStamps::default(),
            rivals: Rivals::default(),
            scheduled: None,
            next_state_change: None,
            announced: super::PeerState::Never,
        }
    }

    /// Puts a fresh `Tunn` in place: every session ends, the account starts anew.
    pub(super) fn replace_tunn(&mut self, tunn: Option<Tunn>, now: Now) {
        self.tunn = tunn;
        self.made = now;
        self.ticked = now.instant;
        self.session = None;
        self.attempt = None;
        self.answer = None;
        self.has_unproven_stamp = false;
        self.remembers_stamp = false;
        self.newest = (0, 0);
        self.waiting = 0;
        self.expired = false;
        (self.traffic.unanswered, self.traffic.owed) = (None, None);
        self.stop_probing();
    }

    /// There is no session to probe through.
    pub(super) fn stop_probing(&mut self) {
        if let Some(prober) = &mut self.prober {
            prober.deactivate();
        }
        if let Some(search) = &mut self.search {
            search.deactivate();
        }
    }

    /// When the search for the path's MTU is next due: only towards a peer that answers probes.
    fn search_deadline(&self) -> Option<Instant> {
        self.prober.as_ref().filter(|prober| prober.has_answered())?;
        self.search.as_ref()?.deadline()
    }

    /// Notes that the initiation with `index` was answered.
    ///
    /// `Tunn` has two in flight at most: when the older one is answered it goes on repeating the newer one, and gives
    /// up every session if that is never answered. So the attempt is over only with its newest initiation.
    pub(super) fn note_answered(&mut self, index: u32, now: Instant) {
        self.attempt = self.attempt.filter(|attempt| attempt.index != index);
        if let Some(attempt) = &mut self.attempt {
            attempt.began = now;
        }
    }

    /// Whether this side opens the session itself, and again for ever.
    pub(super) const fn opens(&self) -> bool {
        self.initiate || self.keepalive.is_some()
    }

    /// Whether the `Tunn` must be told the time before it is used.
    #[inline]
    pub(super) fn needs_tick(&self, now: Instant) -> bool {
        now.since(self.ticked) >= TICK || self.is_past_life(now)
    }

    /// Whether the session is too old to be used, and the `Tunn` has not yet been told.
    #[inline]
    pub(super) fn is_past_life(&self, now: Instant) -> bool {
        self.session.is_some_and(|session| now.since(session.since) >= REJECT_AFTER)
    }

    /// Until when the `Tunn` must not be told the time: it reckons silence from the last packet received, so the first
    /// data after a quiet while would make it begin a needless handshake before the answer can be here.
    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        let until = self.traffic.unanswered?.after(SILENCE);
        let hasty = self.attempt.is_none()
            && self.session.is_some()
            && !self.is_past_life(now)
            && now < until
            && now.since(self.traffic.stamped) >= SILENCE;
        hasty.then_some(until)
    }

    /// The wall clock the next stamp would carry.
    pub(super) fn stamp(&self, now: Instant) -> Duration {
        self.made.wall.saturating_add(now.since(self.made.instant))
    }

    /// Notes that an initiation of ours left.
    pub(super) fn note_initiation(&mut self, index: u32, now: Instant) {
        let began = self.attempt.map_or(now, |attempt| attempt.began);
        let retry = now.after(REKEY_TIMEOUT + self.dice.below(RETRY_JITTER));
        self.attempt = Some(Attempt { index, began, sent: now, retry });
        self.expired = false;
        self.urge = self.quick_retry(now);
    }

    /// When an initiation is repeated on a path that is new: the far end may be starting as well. Only towards an end that
    /// is probed, as our own are; to others rekey-timeout alone counts.
    fn quick_retry(&mut self, now: Instant) -> Option<Instant> {
        let pause = *QUICK.get(self.quick)?;
        if self.session.is_some() || self.prober.is_none() || !self.opens() {
            return None;
        }
        self.quick += 1;
        Some(now.after(pause + self.dice.below(pause / 5)))
    }

    /// When something of this peer is next due.
    pub(super) fn deadline(&self, has_endpoint: bool, now: Instant) -> Option<Instant> {
        self.tunn.as_ref()?;
        // What only boringtun can do may be late by its own reckoning; it is not asked more than once a second.
        let tunn = self
            .quiet_until(now)
            .or_else(|| self.tunn_deadline().map(|at| at.max(self.ticked.after(Duration::from_secs(1)))));
        let opening = (has_endpoint && self.must_open()).then(|| self.opens_at().unwrap_or(now));
        let flush =
            (self.session.is_some() && self.waiting > 0).then(|| now.after(Duration::from_millis(10)));
        let keepalive = self.keepalive_due();
        let rekey = self.rekey_due().filter(|_| has_endpoint);
        [
            tunn,
            opening,
            flush,
            keepalive,
            rekey,
            self.urge,
            self.recovery.deadline(),
            self.next_state_change,
            self.prober.as_ref().and_then(Prober::deadline),
            self.search_deadline(),
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
            && !self.recovery.is_climbing()
            && self.urge.is_none()
    }

    /// Not before this is a session opened: the far end, whose handshake we have answered, may still confirm that one. Two
    /// that cross cost some peers both of them, and then rekey-timeout.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.answer.map(|answer| answer.at.after(REKEY_TIMEOUT))
    }

    /// When an empty packet is due: as the answer to data, or after so long without a packet either way.
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
