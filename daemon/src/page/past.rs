//! The history, as far as the page shows it: when something was failing, and what changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;

use super::time::{DAY, date};
use crate::history::text::line;
use crate::history::{Page, Query, Record, What};

/// How many days are shown.
pub const DAYS: usize = 30;
/// The most outages, and the most services and names that fail at once, that are kept.
const MOST_OUTAGES: usize = 4_096;
/// The most events that are kept.
const MOST_EVENTS: usize = 64;
/// How long before an outage something may be its cause, in milliseconds.
const BEFORE: u64 = 30 * 60 * 1_000;
/// How long after it the record of its cause may come.
const AFTER: u64 = 5_000;

/// What of a service fails: the service, its name if it is about one, and whether it is the path of
/// visitors.
type Part = (String, Option<String>, bool);

/// What is kept of the history.
#[derive(Clone, Debug, Default)]
pub struct Past {
    ring: String,
    after: Option<u64>,
    /// The time of the first record, from which on there is a history, and of the last.
    span: Option<(u64, u64)>,
    open: BTreeMap<Part, u64>,
    outages: VecDeque<(Part, u64, u64)>,
    events: VecDeque<Event>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, in Unix milliseconds.
    pub at: u64,
    /// What, in a few words.
    pub text: String,
    /// Whether it may be the cause of what comes after: a change, not a finding.
    #[serde(skip)]
    is_change: bool,
}

/// A day of the strip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Day {
    /// Its date in UTC.
    pub date: String,
    /// `ok`, `failing`, or `unknown` where there is no history.
    pub state: &'static str,
    /// For how long something that visitors use was failing.
    pub failing_seconds: u64,
}

impl Past {
    /// What of the history is not known yet.
    #[must_use]
    pub fn query(&self) -> Query {
        Query { after: self.after, no_minutes: true, ..Query::default() }
    }

    /// Takes records. Returns whether there are more.
    pub fn handle_page(&mut self, page: &Page, query: &Query) -> bool {
        if page.ring != self.ring {
            let is_new = self.after.is_none();
            *self = Self { ring: page.ring.clone(), ..Self::default() };
            if !is_new {
                return true;
            }
        }
        page.records.iter().for_each(|record| self.handle_record(record));
        let is_cut = page.records.len() >= query.most();
        let last = page.records.last().map(|record| record.number);
        self.after = if is_cut { last } else { Some(page.newest) };
        is_cut
    }

    fn handle_record(&mut self, record: &Record) {
        let at = record.at;
        let (first, _) = self.span.unwrap_or((at, at));
        if matches!(record.what, What::Started { .. }) {
            // What fails is found again.
            let seen = self.span.map_or(at, |(_, last)| last);
            self.close_all(seen);
        }
        self.span = Some((first, at));
        match &record.what {
            What::Service { service, name, state, .. } => {
                self.note((service.clone(), name.clone(), false), state, at);
            }
            What::Visitor { service, name, state, .. } => {
                self.note((service.clone(), Some(name.clone()), true), state, at);
            }
            What::Stopping { .. } => self.close_all(at),
            _ => {}
        }
        if let Some((text, is_change)) = text(&record.what) {
            self.events.push_back(Event { at, text, is_change });
            if self.events.len() > MOST_EVENTS {
                self.events.pop_front();
            }
        }
    }

    fn note(&mut self, part: Part, state: &str, at: u64) {
        if state == "failing" {
            if self.open.len() < MOST_OUTAGES {
                self.open.entry(part).or_insert(at);
            }
        } else if let Some(since) = self.open.remove(&part) {
            self.close(part, since, at);
        }
    }

    fn close_all(&mut self, at: u64) {
        for (part, since) in std::mem::take(&mut self.open) {
            self.close(part, since, at);
        }
    }

    fn close(&mut self, part: Part, since: u64, at: u64) {
        self.outages.push_back((part, since, at));
        if self.outages.len() > MOST_OUTAGES {
            self.outages.pop_front();
        }
    }

    /// The newest events, the last one first.
    #[must_use]
    pub fn events(&self, most: usize) -> Vec<Event> {
        self.events.iter().rev().take(most).cloned().collect()
    }

    /// The last change before something began to fail.
    #[must_use]
    pub fn change_before(&self, since: u64) -> Option<&Event> {
        let earliest = since.saturating_sub(BEFORE);
        let mut events = self.events.iter().rev();
        events
            .find(|event| event.is_change && event.at >= earliest && event.at <= since.saturating_add(AFTER))
    }

    /// The last days, today last; none without a history. What is failing counts for `services`
    /// alone: those that visitors use, and names.
    #[must_use]
    pub fn days(&self, now: u64, services: &BTreeSet<&str>) -> Vec<Day> {
        let Some((first, _)) = self.span else { return Vec::new() };
        let counts = |part: &Part| part.1.is_some() || services.contains(part.0.as_str());
        let open = self.open.iter().map(|(part, since)| (part, *since, now));
        let closed = self.outages.iter().map(|(part, since, until)| (part, *since, *until));
        let mut failing: Vec<(u64, u64)> = closed
            .chain(open)
            .filter(|(part, ..)| counts(part))
            .map(|(_, since, until)| (since, until.min(now)))
            .collect();
        failing.sort_unstable();
        let today = now / DAY;
        let days = u64::try_from(DAYS).unwrap_or_default();
        (today.saturating_sub(days - 1)..=today).map(|day| of_day(day, first, &failing)).collect()
    }
}

fn of_day(day: u64, first: u64, failing: &[(u64, u64)]) -> Day {
    let (begin, end) = (day * DAY, (day + 1) * DAY);
    // Of outages that overlap, each moment counts once.
    let (mut covered, mut total) = (begin, 0);
    for (since, until) in failing {
        let (from, to) = ((*since).max(covered), (*until).min(end));
        if to > from {
            total += to - from;
            covered = to;
        }
    }
    let is_in_day = |&(since, until): &(u64, u64)| since < end && until >= begin;
    let state = match (failing.iter().any(is_in_day), end <= first) {
        (true, _) => "failing",
        (false, true) => "unknown",
        (false, false) => "ok",
    };
    Day { date: date(day), state, failing_seconds: total.div_ceil(1_000) }
}

/// A record in a few words, and whether it is a change; `None` for what the page does not list.
fn text(what: &What) -> Option<(String, bool)> {
    Some(match what {
        What::Minute { .. } | What::Unknown => return None,
        What::Service { .. } => (line(&without_fix(what.clone())), false),
        What::Visitor { .. } | What::Peer { .. } | What::Link { .. } => (line(what), false),
        What::Applied { summary, .. } if !summary.is_empty() => {
            (format!("{}: {}", line(what), summary.join("; ")), true)
        }
        What::Applied { .. }
        | What::Started { .. }
        | What::Stopping { .. }
        | What::Roamed { .. }
        | What::Notice { .. }
        | What::Repaired { .. }
        | What::Stack { .. }
        | What::Steered { .. } => (line(what), true),
    })
}

/// What is failing has its fix where it is shown.
fn without_fix(mut what: What) -> What {
    if let What::Service { fix, .. } = &mut what {
        *fix = None;
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 20_787 * DAY + DAY / 2;
    const MINUTE: u64 = 60_000;

    #[test]
    fn a_day_counts_each_moment_once_and_only_what_visitors_use() {
        let mut past = Past::default();
        let at = NOON - DAY;
        take(
            &mut past,
            vec![
                (at - 3 * DAY, started()),
                (at, service("https", "failing")),
                (at + MINUTE, service("game", "failing")),
                (at + MINUTE, service("backup", "failing")),
                (at + 2 * MINUTE, service("https", "ok")),
                (at + 4 * MINUTE, service("game", "unknown")),
            ],
        );
        let days = past.days(NOON, &BTreeSet::from(["https", "game"]));
        assert_eq!(days.len(), DAYS);
        let last: Vec<_> = days.iter().rev().take(6).map(|day| (day.state, day.failing_seconds)).collect();
        assert_eq!(last, [("ok", 0), ("failing", 240), ("ok", 0), ("ok", 0), ("ok", 0), ("unknown", 0)]);
        assert_eq!(days.last().map(|day| day.date.as_str()), Some("2026-11-30"));
    }

    #[test]
    fn what_still_fails_counts_until_now_and_over_midnight() {
        let mut past = Past::default();
        let midnight = 20_787 * DAY;
        take(&mut past, vec![(midnight - MINUTE, service("https", "failing"))]);
        let days = past.days(midnight + MINUTE, &BTreeSet::from(["https"]));
        let last: Vec<_> = days.iter().rev().take(3).map(|day| (day.state, day.failing_seconds)).collect();
        assert_eq!(last, [("failing", 60), ("failing", 60), ("unknown", 0)]);
    }

    #[test]
    fn while_the_daemon_is_off_nothing_is_known_to_fail() {
        let mut past = Past::default();
        let at = NOON - 100 * MINUTE;
        let stopping = What::Stopping { notice: None };
        let records = vec![
            (at, service("https", "failing")),
            (at + MINUTE, stopping),
            (at + 50 * MINUTE, started()),
            (at + 51 * MINUTE, service("https", "failing")),
            // Without a stop: it was killed.
            (at + 60 * MINUTE, started()),
        ];
        take(&mut past, records);
        let days = past.days(NOON, &BTreeSet::from(["https"]));
        assert_eq!(days.last().map(|day| day.failing_seconds), Some(60));
    }

    #[test]
    fn the_change_before_is_the_last_one_and_no_finding_and_not_an_old_one() {
        let mut past = Past::default();
        let applied = |how: &str| What::Applied { how: how.to_owned(), changes: 1, summary: vec![] };
        let records = vec![
            (NOON - 40 * MINUTE, applied("reload")),
            (NOON - 20 * MINUTE, applied("apply")),
            (NOON - MINUTE, service("game", "failing")),
            (NOON + MINUTE, applied("rollback")),
        ];
        take(&mut past, records);
        let before = |since| past.change_before(since).map(|event| event.text.clone());
        assert_eq!(before(NOON).as_deref(), Some("a configuration was applied (1 change)"));
        assert_eq!(
            before(NOON + 20 * MINUTE).as_deref(),
            Some("the configuration was rolled back (1 change)")
        );
        assert_eq!(before(NOON + 60 * MINUTE), None);
    }

    #[test]
    fn another_ring_is_read_from_its_beginning_and_pages_go_on_where_they_ended() {
        let mut past = Past::default();
        take(&mut past, vec![(NOON, service("https", "failing"))]);
        let query = past.query();
        assert_eq!((query.after, query.no_minutes), (Some(1), true));
        let other = Page { ring: "b".to_owned(), newest: 9, records: Vec::new() };
        assert!(past.handle_page(&other, &query));
        assert_eq!(past.query().after, None);
        assert!(!past.handle_page(&other, &past.query()));
        assert_eq!((past.query().after, past.events(9)), (Some(9), vec![]));
    }

    #[test]
    fn outages_events_and_what_fails_at_once_are_bounded() {
        let mut past = Past::default();
        for number in 0..=MOST_OUTAGES {
            past.note((format!("s{number}"), None, false), "failing", NOON);
        }
        assert_eq!(past.open.len(), MOST_OUTAGES);
        past.close_all(NOON);
        past.close((String::new(), None, false), NOON, NOON);
        assert_eq!(past.outages.len(), MOST_OUTAGES);
        for _ in 0..=MOST_EVENTS {
            past.handle_record(&Record { number: 1, at: NOON, what: started() });
        }
        assert_eq!(past.events.len(), MOST_EVENTS);
    }

    fn take(past: &mut Past, records: Vec<(u64, What)>) {
        let numbered = (1..).zip(records).map(|(number, (at, what))| Record { number, at, what });
        let records: Vec<_> = numbered.collect();
        let newest = records.last().map_or(0, |record| record.number);
        assert!(!past.handle_page(&Page { records, newest, ring: "a".to_owned() }, &Query::default()));
    }

    fn service(service: &str, state: &str) -> What {
        What::Service {
            service: service.to_owned(),
            name: None,
            state: state.to_owned(),
            hop: None,
            reason: None,
            evidence: None,
            peer: None,
            fix: None,
        }
    }

    fn started() -> What {
        What::Started { version: "0.1.0".to_owned(), failed: None }
    }
}
