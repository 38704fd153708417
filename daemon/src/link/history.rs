//! The history of one end as the other may see it: numbers, checked names and one evidence string.
//!
//! What a record says in words of its own stays where it is: a summary of changes, a fix, what was
//! repaired. An edge shows an origin nothing of other peers.

use std::time::Duration;

use policy::Name;
use serde::{Deserialize, Serialize};

use super::message::Evidence;
use super::names::HostName;
use crate::history::recent;
use crate::history::record::{Query, Record, What};

/// The most bytes of the records in one part: with what is around them it is less than a frame.
const MAX_PART: usize = 12 << 10;
/// The most parts that are asked for.
const MAX_PARTS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAsked {
    /// The records after this number; from the oldest when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Those of so many seconds until now; the clocks of the ends may differ.
    pub seconds: u64,
}

/// Records of the sender, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryPart {
    /// The sender's clock when it replied, in Unix milliseconds.
    pub now: u64,
    /// The records.
    pub records: Vec<Sent>,
    /// The number after which the next part begins; `None` after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A record of the sender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Its number there.
    pub number: u64,
    /// Its time by the sender's clock, in Unix milliseconds.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened at the other end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happened {
    /// Its daemon started.
    Started {
        /// The version.
        version: Name,
    },
    /// Its daemon was asked to stop.
    Stopping,
    /// A service, or a name of it, is in another state.
    Service {
        /// The service.
        service: Name,
        /// The name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<HostName>,
        /// The state, in one word.
        state: Name,
        /// The hop that fails.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hop: Option<Name>,
        /// Why, in one word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Name>,
        /// What was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Evidence>,
    },
    /// What the origin found as its own visitor.
    Visitor {
        /// The service.
        service: Name,
        /// The name.
        name: HostName,
        /// The state, in one word.
        state: Name,
        /// Why, in one word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Name>,
    },
    /// The asking end is in another state there.
    Peer {
        /// The state before.
        from: Name,
        /// The state since.
        to: Name,
    },
    /// The link with the asking end.
    Link {
        /// Whether it is up.
        up: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Name>,
    },
    /// The asking end has another endpoint.
    Roamed,
    /// Its configuration was changed.
    Applied {
        /// How, in one word.
        how: Name,
        /// How many differences.
        changes: u32,
    },
    /// It put something of its own back into the kernel.
    Repaired,
    /// A stack there was changed.
    Stack {
        /// The stack.
        stack: Name,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The part that replies to `asked`: of `records`, what the peer `to` may see, as far as one part
/// has room; `sees` says whether it may see a service that is behind a peer, if it is behind one.
#[must_use]
pub fn part(
    now: u64,
    records: &[Record],
    to: &Name,
    sees: &dyn Fn(&str, Option<&str>) -> bool,
) -> HistoryPart {
    let mut part = HistoryPart { now, ..HistoryPart::default() };
    let mut room = MAX_PART;
    let mut last = 0;
    for sent in records.iter().filter_map(|record| sent(record, to, sees)) {
        let length = serde_json::to_vec(&sent).map_or(usize::MAX, |text| text.len() + 1);
        let Some(rest) = room.checked_sub(length) else {
            part.next = Some(last);
            break;
        };
        room = rest;
        last = sent.number;
        part.records.push(sent);
    }
    part
}

/// Which records of this end `asked` is about.
#[must_use]
pub fn query(now: u64, asked: &HistoryAsked) -> Query {
    let since = now.saturating_sub(asked.seconds.saturating_mul(1_000));
    Query { after: asked.after, since: Some(since), no_minutes: true, limit: None }
}

fn sent(record: &Record, to: &Name, sees: &dyn Fn(&str, Option<&str>) -> bool) -> Option<Sent> {
    let is_it = |peer: &str| peer == to.as_str();
    let of_service = |service: &str, peer: Option<&str>| {
        if !sees(service, peer) {
            return None;
        }
        // What a peer publishes by itself is known to it without its own name.
        let own = service.strip_prefix(to.as_str()).and_then(|rest| rest.strip_prefix('/'));
        Name::new(own.unwrap_or(service))
    };
    let word = |text: &Option<String>| text.as_deref().and_then(Name::new);
    let what = match &record.what {
        What::Started { version, .. } => Happened::Started { version: Name::new(version)? },
        What::Stopping { .. } => Happened::Stopping,
        What::Service { service, name, state, hop, reason, evidence, peer, .. } => Happened::Service {
            service: of_service(service, peer.as_deref())?,
            name: match name {
                Some(name) => Some(HostName::new(name)?),
                None => None,
            },
            state: Name::new(state)?,
            hop: word(hop),
            reason: word(reason),
            evidence: evidence.as_deref().map(Evidence::of),
        },
        What::Visitor { service, name, state, reason } => Happened::Visitor {
            service: of_service(service, None)?,
            name: HostName::new(name)?,
            state: Name::new(state)?,
            reason: word(reason),
        },
        What::Peer { peer, from, to } if is_it(peer) => {
            Happened::Peer { from: Name::new(from)?, to: Name::new(to)? }
        }
        What::Link { peer, up, reason } if is_it(peer) => Happened::Link { up: *up, reason: word(reason) },
        What::Roamed { peer } if is_it(peer) => Happened::Roamed,
        What::Applied { how, changes, .. } => Happened::Applied { how: Name::new(how)?, changes: *changes },
        What::Repaired { .. } => Happened::Repaired,
        What::Stack { stack, .. } => Happened::Stack { stack: Name::new(stack)? },
        What::Peer { .. }
        | What::Link { .. }
        | What::Roamed { .. }
        | What::Notice { .. }
        | What::Steered { .. }
        | What::Minute { .. }
        | What::Unknown => return None,
    };
    Some(Sent { number: record.number, at: record.at, what })
}

impl Sent {
    /// As a record of this end's list, where the other end is called `far`.
    fn record(self, far: &Name) -> Record {
        let (peer, text) = (far.to_string(), |word: Name| word.to_string());
        let what = match self.what {
            Happened::Started { version } => What::Started { version: text(version), failed: None },
            Happened::Stopping => What::Stopping { notice: None },
            Happened::Service { service, name, state, hop, reason, evidence } => What::Service {
                service: text(service),
                name: name.map(String::from),
                state: text(state),
                hop: hop.map(text),
                reason: reason.map(text),
                evidence: evidence.map(|evidence| evidence.as_str().to_owned()),
                peer: None,
                fix: None,
            },
            Happened::Visitor { service, name, state, reason } => What::Visitor {
                service: text(service),
                name: name.into(),
                state: text(state),
                reason: reason.map(text),
            },
            Happened::Peer { from, to } => What::Peer { peer, from: text(from), to: text(to) },
            Happened::Link { up, reason } => What::Link { peer, up, reason: reason.map(text) },
            Happened::Roamed => What::Roamed { peer },
            Happened::Applied { how, changes } => {
                What::Applied { how: text(how), changes, summary: Vec::new() }
            }
            Happened::Repaired => What::Repaired { what: String::new() },
            Happened::Stack { stack } => What::Stack { stack: text(stack), what: String::new() },
            Happened::Unknown => What::Unknown,
        };
        Record { number: self.number, at: self.at, what }
    }
}

/// The other end's history, by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FarHistory {
    /// The peer.
    pub peer: String,
    /// Its records, oldest first, by its own clock.
    pub records: Vec<Record>,
    /// How far its clock is ahead of this end's, in milliseconds.
    pub ahead_ms: i64,
    /// Why there are none, or not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// What is asked of one peer, part after part.
#[derive(Debug)]
pub struct Asking {
    seconds: u64,
    after: Option<u64>,
    parts: usize,
    found: FarHistory,
    far: Name,
    /// The shortest exchange so far: the clock is judged by it.
    shortest: Option<Duration>,
}

impl Asking {
    /// Nothing was asked so far.
    #[must_use]
    pub fn new(far: Name, seconds: u64) -> Self {
        let found = FarHistory { peer: far.to_string(), ..FarHistory::default() };
        Self { seconds, after: None, parts: 0, found, far, shortest: None }
    }

    /// What to ask next; `None` when everything is there.
    #[must_use]
    pub fn next(&self) -> Option<HistoryAsked> {
        let is_done = self.parts > 0 && self.after.is_none();
        (!is_done && self.parts < MAX_PARTS && self.found.records.len() <= recent::MOST)
            .then_some(HistoryAsked { after: self.after, seconds: self.seconds })
    }

    /// Takes the reply to what was asked at `asked_at` by this end's clock, in Unix milliseconds,
    /// `took` ago.
    pub fn handle_part(&mut self, asked_at: u64, took: Duration, part: HistoryPart) {
        self.parts += 1;
        // A part that does not go on is the last one.
        self.after = part.next.filter(|next| self.after.is_none_or(|after| *next > after));
        if self.shortest.is_none_or(|shortest| took < shortest) {
            self.shortest = Some(took);
            self.found.ahead_ms = ahead(asked_at, took, part.now);
        }
        let known = recent::MOST.saturating_sub(self.found.records.len());
        let records = part.records.into_iter().take(known).map(|sent| sent.record(&self.far));
        self.found.records.extend(records.filter(|record| record.what != What::Unknown));
    }

    /// What was found; `missing` says why that is not all.
    #[must_use]
    pub fn found(self, missing: Option<String>) -> FarHistory {
        FarHistory { missing, ..self.found }
    }
}

/// How far the other clock is ahead, in milliseconds: the offset of RFC 5905 section 8, where the
/// other end receives and replies at one time.
fn ahead(asked_at: u64, took: Duration, far: u64) -> i64 {
    let half = u64::try_from(took.as_millis() / 2).unwrap_or(u64::MAX);
    let here = asked_at.saturating_add(half);
    let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    signed(far).saturating_sub(signed(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_one_end_and_other_peers_do_not_cross() {
        let records = [
            What::Applied { how: "apply".to_owned(), changes: 3, summary: vec!["~ secret".to_owned()] },
            What::Repaired { what: "the secret rule".to_owned() },
            What::Stack { stack: "media".to_owned(), what: "secret".to_owned() },
            What::Stopping { notice: Some("secret".to_owned()) },
            What::Peer { peer: "secret".to_owned(), from: "up".to_owned(), to: "down".to_owned() },
            What::Link { peer: "secret".to_owned(), up: true, reason: None },
            What::Roamed { peer: "secret".to_owned() },
            What::Notice { peer: "secret".to_owned(), notice: "stopping".to_owned() },
            service("https", Some("secret")),
            service("secret", Some("wroclaw")),
            What::Peer { peer: "wroclaw".to_owned(), from: "up".to_owned(), to: "down".to_owned() },
            service("wroclaw/web", Some("wroclaw")),
        ];
        let records = numbered(records);
        let part = part(9, &records, &name("wroclaw"), &|service, peer| {
            service != "secret" && peer.is_none_or(|peer| peer == "wroclaw")
        });
        let text = serde_json::to_string(&part).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let numbers: Vec<u64> = part.records.iter().map(|sent| sent.number).collect();
        assert_eq!((numbers, part.next), (vec![1, 2, 3, 4, 11, 12], None));
        assert!(text.contains(r#""service":"web""#), "{text}");
    }

    #[test]
    fn a_long_history_comes_in_parts_that_fit_into_a_frame() {
        let records = numbered((0..recent::MOST).map(|_| service("https", None)));
        let (peer, mut asking) = (name("wroclaw"), Asking::new(name("kyiv"), 3_600));
        let mut parts = 0;
        while let Some(asked) = asking.next() {
            assert_eq!(asked.seconds, 3_600);
            let rest: Vec<Record> = records
                .iter()
                .filter(|record| asked.after.is_none_or(|after| record.number > after))
                .cloned()
                .collect();
            let part = part(100_000, &rest, &peer, &|_, _| true);
            assert!(serde_json::to_vec(&part).unwrap().len() < 15 << 10);
            asking.handle_part(1_000, Duration::from_millis(20), part);
            parts += 1;
        }
        let found = asking.found(None);
        assert_eq!((found.records.len(), found.ahead_ms), (recent::MOST, 98_990));
        assert!(parts > 5 && found.records.is_sorted_by_key(|record| record.number));
    }

    #[test]
    fn an_end_that_never_comes_to_an_end_is_asked_no_more() {
        let mut asking = Asking::new(name("kyiv"), 60);
        let mut asked = 0;
        while asking.next().is_some() {
            let sent = Sent { number: asked, at: 1, what: Happened::Repaired };
            let part = HistoryPart { now: 1, records: vec![sent; 300], next: Some(asked + 1) };
            asking.handle_part(1, Duration::ZERO, part);
            asked += 1;
        }
        assert!(asked <= 64);
        assert!(asking.found(None).records.len() <= recent::MOST);
        let mut asking = Asking::new(name("kyiv"), 60);
        asking.handle_part(1, Duration::ZERO, HistoryPart { next: Some(5), ..HistoryPart::default() });
        asking.handle_part(1, Duration::ZERO, HistoryPart { next: Some(5), ..HistoryPart::default() });
        assert_eq!(asking.next(), None, "it does not go on");
    }

    #[test]
    fn the_shortest_exchange_says_how_far_the_clock_is_ahead() {
        let mut asking = Asking::new(name("kyiv"), 60);
        let part = |now| HistoryPart { now, records: Vec::new(), next: None };
        asking.handle_part(10_000, Duration::from_millis(800), part(3_610_100));
        asking.handle_part(20_000, Duration::from_millis(20), part(3_620_010));
        asking.handle_part(30_000, Duration::from_millis(100), part(3_630_090));
        assert_eq!(asking.found(None).ahead_ms, 3_600_000);
        assert_eq!(ahead(7_200_000, Duration::from_millis(10), 5), -7_200_000, "or behind");
    }

    #[test]
    fn what_a_terminal_would_obey_is_refused_and_a_newer_kind_is_left_out() {
        for hostile in [
            r#"{"number":1,"at":1,"kind":"applied","how":"a b","changes":1}"#,
            r#"{"number":1,"at":1,"kind":"stack","stack":"$(reboot)"}"#,
            r#"{"number":1,"at":1,"kind":"service","service":"a","state":"ok","name":"<b>"}"#,
        ] {
            assert!(serde_json::from_str::<Sent>(hostile).is_err(), "{hostile}");
        }
        let newer: Sent = serde_json::from_str(r#"{"number":1,"at":1,"kind":"moon","x":[]}"#).unwrap();
        let mut asking = Asking::new(name("kyiv"), 60);
        asking.handle_part(1, Duration::ZERO, HistoryPart { records: vec![newer], ..HistoryPart::default() });
        assert!(asking.found(None).records.is_empty());
    }

    fn numbered(what: impl IntoIterator<Item = What>) -> Vec<Record> {
        let record = |(what, number)| Record { number, at: number * 1_000, what };
        what.into_iter().zip(1..).map(record).collect()
    }

    fn service(service: &str, peer: Option<&str>) -> What {
        What::Service {
            service: service.to_owned(),
            name: Some("photos.example.com".to_owned()),
            state: "failing".to_owned(),
            hop: Some("upstream".to_owned()),
            reason: Some("refused".to_owned()),
            evidence: Some("127.0.0.1:8443: Connection refused".to_owned()),
            peer: peer.map(str::to_owned),
            fix: Some("secret".to_owned()),
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }
}
