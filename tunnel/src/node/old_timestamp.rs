//! Initiations that are authentic but carry an old timestamp: replays, or a peer whose clock went
//! back.
//!
//! A peer whose clock went back can only be reached by an initiation of ours. It goes to where the
//! old one came from, since a peer behind a NAT is nowhere else; the endpoint moves once it is
//! answered. A peer that uses older timestamps than before was started again, so it remembers none
//! of ours and accepts the initiation.

use std::time::Duration;

use crate::time::Instant;

/// An old timestamp makes us initiate once in this time, and a peer heard within it is alive.
const SPACING: Duration = Duration::from_secs(5);
/// How long a peer that seems alive may take for the answer to a probe, once an old timestamp gave
/// rise to doubt.
const DOUBT: Duration = Duration::from_millis(700);
/// How long a doubt is remembered.
const DOUBT_HOLDS: Duration = Duration::from_secs(10);
/// How often old timestamps of one peer are reported.
const REPORTED: Duration = Duration::from_secs(600);

/// What was done about old timestamps of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OldTimestamps {
    /// When one last made us initiate.
    initiated: Option<Instant>,
    /// When one first came from a peer that seemed alive.
    doubted: Option<Instant>,
    reported: Option<Instant>,
}

/// What is known of a peer when one of its initiations has an old timestamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerFacts {
    /// When its last packet arrived, while it has a session.
    pub(super) heard_in_session: Option<Instant>,
    /// Whether it answers probes; one that does not has no reason to send anything.
    pub(super) answers_probes: bool,
    /// Whether the timestamp that is remembered came with an initiation that was never confirmed,
    /// as a recorded one is not: such a timestamp must not keep the peer out.
    pub(super) remembers_a_replay: bool,
}

/// What to do about the initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Drop it.
    Drop,
    /// Drop it, and probe the peer at once to be sure that it is alive.
    Probe,
    /// Forget the timestamp that is remembered, then answer it.
    Answer,
    /// Drop it, and initiate to its source.
    Initiate {
        /// Whether that is to be reported.
        is_news: bool,
    },
}

impl OldTimestamps {
    /// Decides about an authentic initiation whose timestamp is old.
    pub(super) fn judge(&mut self, now: Instant, facts: PeerFacts) -> Reaction {
        if let Some(heard) = facts.heard_in_session.filter(|at| now.since(*at) < SPACING) {
            // The peer has a session and is heard: then the initiation is a replay. To be sure it
            // is probed, and has until the next old timestamp to answer.
            match self.doubted.map(|at| (at, now.since(at))) {
                Some((_, age)) if age < DOUBT => return Reaction::Drop,
                Some((at, age)) if age < DOUBT_HOLDS && heard < at && facts.answers_probes => {}
                Some(_) | None => {
                    self.doubted = Some(now);
                    return Reaction::Probe;
                }
            }
        }
        if facts.remembers_a_replay {
            return Reaction::Answer;
        }
        if self.initiated.is_some_and(|at| now.since(at) < SPACING) {
            return Reaction::Drop;
        }
        self.initiated = Some(now);
        let is_news = self.reported.is_none_or(|at| now.since(at) >= REPORTED);
        if is_news {
            self.reported = Some(now);
        }
        Reaction::Initiate { is_news }
    }
}
