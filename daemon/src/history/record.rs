//! The records of the history, and how they are asked for on the control socket.

use serde::{Deserialize, Serialize};

/// The most records of one reply.
pub const MAX_REPLY: usize = 1_000;
/// The most bytes of one text in a record.
pub const MAX_TEXT: usize = 200;
/// The most lines that say what an apply changed.
pub const MAX_SUMMARY: usize = 8;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Grows from one record to the next, also across restarts, where some numbers may be left
    /// out. It is the order: the clock may step.
    pub number: u64,
    /// When, by this machine's clock, in Unix milliseconds.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// The notice of [`What::Stopping`] where a new process has taken over.
pub const UPGRADE: &str = "upgrade";

/// What happened. No record has a client's address, and none a peer's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// This daemon started.
    Started {
        /// Its version.
        version: String,
        /// The version that failed after an upgrade, while that is why this one runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// This daemon was asked to stop.
    Stopping {
        /// What it announced to its peers, such as `back within 300 s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<String>,
    },
    /// A service, or one of its names, is in another state than before.
    Service {
        /// The service.
        service: String,
        /// The name, when it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// `ok`, `failing` or `unknown`.
        state: String,
        /// The hop that fails, as in `services --json`; none for a name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hop: Option<String>,
        /// Why, in one word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What was seen; it may be the other end's text, to be shown in quotes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
        /// The peer that the hop belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// How to fix it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fix: Option<String>,
    },
    /// What the origin found as its own visitor is another than before.
    Visitor {
        /// The service.
        service: String,
        /// The name that was visited.
        name: String,
        /// `proven`, `failing` or `unknown`.
        state: String,
        /// Why, in one word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A peer is in another state than before.
    Peer {
        /// The peer.
        peer: String,
        /// `up`, `stale`, `down` or `never`.
        from: String,
        /// Likewise.
        to: String,
    },
    /// The link with a peer began or ended.
    Link {
        /// The peer.
        peer: String,
        /// Whether it is up.
        up: bool,
        /// Why not, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A peer's endpoint is another one.
    Roamed {
        /// The peer.
        peer: String,
    },
    /// A peer announced something.
    Notice {
        /// The peer.
        peer: String,
        /// What, such as `stopping`.
        notice: String,
    },
    /// The configuration was changed.
    Applied {
        /// `apply`, `reload`, `rollback`, `confirm` or `grant`.
        how: String,
        /// How many differences there were.
        changes: u32,
        /// The first of them, at most [`MAX_SUMMARY`].
        #[serde(default)]
        summary: Vec<String>,
    },
    /// The edge put something of its own back into the kernel.
    Repaired {
        /// What.
        what: String,
    },
    /// `stackctl` changed a stack of this machine.
    Stack {
        /// The stack.
        stack: String,
        /// What was done, such as `applied` or `restarted web`.
        what: String,
    },
    /// A name that several edges have leads to an edge again, or no longer.
    Steered {
        /// The name.
        name: String,
        /// The edge.
        edge: String,
        /// Whether the name leads to it now.
        present: bool,
    },
    /// One minute of a peer.
    Minute {
        /// The peer.
        peer: String,
        /// The round trip of the last probe that was answered; `None` for a peer that answered
        /// none.
        round_trip_ms: Option<f64>,
        /// The share of lost probes, 0 to 1.
        loss: f64,
        /// Bytes received in it.
        received: u64,
        /// Bytes sent in it.
        sent: u64,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

impl What {
    /// Whether it is a measurement, of which the last minute may be lost in a power cut.
    #[must_use]
    pub const fn is_minute(&self) -> bool {
        matches!(self, Self::Minute { .. })
    }

    /// The same with every text cut to [`MAX_TEXT`] bytes, and without control characters.
    #[must_use]
    pub fn limited(mut self) -> Self {
        match &mut self {
            Self::Started { version, failed } => {
                limit(version);
                limit_any(failed);
            }
            Self::Roamed { peer: text } | Self::Repaired { what: text } | Self::Minute { peer: text, .. } => {
                limit(text)
            }
            Self::Stopping { notice } => limit_any(notice),
            Self::Service { service, name, state, hop, reason, evidence, peer, fix } => {
                [service, state].into_iter().for_each(limit);
                [name, hop, reason, evidence, peer].into_iter().for_each(limit_any);
                // A fix is this machine's own sentence, and half of a command is worse than none.
                *fix = fix.take().filter(|fix| fix.len() <= 3 * MAX_TEXT);
            }
            Self::Visitor { service, name, state, reason } => {
                [service, name, state].into_iter().for_each(limit);
                limit_any(reason);
            }
            Self::Peer { peer, from, to } => [peer, from, to].into_iter().for_each(limit),
            Self::Link { peer, reason, .. } => {
                limit(peer);
                limit_any(reason);
            }
            Self::Notice { peer, notice } => [peer, notice].into_iter().for_each(limit),
            Self::Applied { how, summary, .. } => {
                limit(how);
                summary.truncate(MAX_SUMMARY);
                summary.iter_mut().for_each(limit);
            }
            Self::Stack { stack, what } => [stack, what].into_iter().for_each(limit),
            Self::Steered { name, edge, .. } => [name, edge].into_iter().for_each(limit),
            Self::Unknown => {}
        }
        self
    }
}

fn limit_any(text: &mut Option<String>) {
    text.iter_mut().for_each(limit);
}

fn limit(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    if text.chars().any(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
}

/// Which records are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Those with higher numbers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Those of this time and later, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The most, up to [`MAX_REPLY`]; as many as that when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Whether [`What::Minute`] is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_minutes: bool,
}

impl Query {
    /// The most records that it asks for.
    #[must_use]
    pub fn most(&self) -> usize {
        self.limit.unwrap_or(MAX_REPLY).min(MAX_REPLY)
    }

    /// Whether it asks for this record.
    #[must_use]
    pub fn wants(&self, number: u64, at: u64, is_minute: bool) -> bool {
        self.after.is_none_or(|after| number > after)
            && self.since.is_none_or(|since| at >= since)
            && !(self.no_minutes && is_minute)
    }
}

/// Records, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The first of those wanted; a reader goes on after the number of the last.
    pub records: Vec<Record>,
    /// The number of the newest record that there is; 0 before the first.
    pub newest: u64,
    /// Which ring the numbers are of: a reader that knows another one starts from the beginning.
    pub ring: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_flat_object_and_an_unknown_kind_is_read_all_the_same() {
        let what = What::Link { peer: "wroclaw".to_owned(), up: true, reason: None };
        let record = Record { number: 7, at: 1_800_000_000_000, what };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"number":7,"at":1800000000000,"kind":"link","peer":"wroclaw","up":true}"#);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let newer = r#"{"number":8,"at":5,"kind":"weather","rain":[1,2]}"#;
        let read: Record = serde_json::from_str(newer).unwrap();
        assert_eq!(read, Record { number: 8, at: 5, what: What::Unknown });
    }

    #[test]
    fn texts_are_limited_and_a_long_fix_is_left_out_whole() {
        let what = What::Service {
            service: "web".to_owned(),
            name: None,
            state: "failing".to_owned(),
            hop: Some("upstream".to_owned()),
            reason: Some("refused".to_owned()),
            evidence: Some("\u{1b}[2J".repeat(100)),
            peer: None,
            fix: Some("x".repeat(601)),
        };
        let What::Service { evidence, fix, .. } = what.limited() else { panic!("another kind") };
        assert_eq!(evidence.as_ref().map(String::len), Some(MAX_TEXT));
        assert!(!evidence.unwrap().contains('\u{1b}') && fix.is_none());
        let summary = vec!["~ a".to_owned(); 20];
        let applied = What::Applied { how: "apply".to_owned(), changes: 20, summary }.limited();
        assert!(
            matches!(applied, What::Applied { summary, changes: 20, .. } if summary.len() == MAX_SUMMARY)
        );
    }

    #[test]
    fn a_query_is_limited() {
        let query = Query { after: Some(5), since: Some(100), limit: Some(5_000), no_minutes: true };
        assert_eq!((query.most(), Query::default().most()), (MAX_REPLY, MAX_REPLY));
        assert!(query.wants(6, 100, false));
        assert!(!query.wants(5, 100, false) && !query.wants(6, 99, false) && !query.wants(6, 100, true));
    }
}
