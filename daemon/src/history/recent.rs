//! The newest records, in memory.

use std::collections::VecDeque;

use super::record::{Page, Query, Record, What};

/// The most records of each kind in memory: minutes, and what happened.
pub const MOST: usize = 512;

/// The newest records, and the numbers of those to come.
#[derive(Debug)]
pub struct Recent {
    ring: String,
    newest: u64,
    events: Kept,
    minutes: Kept,
}

/// The newest records of one kind.
#[derive(Debug)]
struct Kept {
    records: VecDeque<Record>,
    /// Those after this number are all here.
    after: u64,
}

impl Recent {
    /// The ring of this name whose last records are `events`, and those after `newest`.
    #[must_use]
    pub fn new(ring: String, newest: u64, events: Vec<Record>) -> Self {
        let after = events.first().map_or(newest, |record| record.number.saturating_sub(1));
        let events = Kept { records: events.into(), after };
        Self { ring, newest, events, minutes: Kept { records: VecDeque::new(), after: newest } }
    }

    /// Takes what happened at `at`. The number of the record that went for it, if one did.
    pub fn push(&mut self, at: u64, what: What) -> Option<u64> {
        self.newest = self.newest.saturating_add(1);
        let record = Record { number: self.newest, at, what: what.limited() };
        let kept = if record.what.is_minute() { &mut self.minutes } else { &mut self.events };
        kept.records.push_back(record);
        if kept.records.len() <= MOST {
            return None;
        }
        let gone = kept.records.pop_front()?.number;
        kept.after = gone;
        Some(gone)
    }

    /// The name of the ring.
    #[must_use]
    pub fn ring(&self) -> &str {
        &self.ring
    }

    /// The number of the newest record.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether every record that is wanted is here.
    #[must_use]
    pub fn covers(&self, query: &Query) -> bool {
        let after = query.after.unwrap_or(0);
        after >= self.events.after && (query.no_minutes || after >= self.minutes.after)
    }

    /// What is here of it.
    #[must_use]
    pub fn page(&self, query: &Query) -> Page {
        let mut records = self.wanted(query);
        records.truncate(query.most());
        Page { records, newest: self.newest, ring: self.ring.clone() }
    }

    /// Everything that is here of it.
    #[must_use]
    pub fn wanted(&self, query: &Query) -> Vec<Record> {
        let wanted = |record: &&Record| query.wants(record.number, record.at, record.what.is_minute());
        let all = self.events.records.iter().chain(&self.minutes.records);
        let mut records: Vec<Record> = all.filter(wanted).cloned().collect();
        records.sort_unstable_by_key(|record| record.number);
        records
    }

    /// Makes the records after `written` those of another ring, with numbers after `newest`; the
    /// others go.
    pub fn renumber(&mut self, written: u64, ring: String, newest: u64) {
        let records = self.wanted(&Query { after: Some(written), ..Query::default() });
        *self = Self::new(ring, newest, Vec::new());
        for record in records {
            self.push(record.at, record.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_of_each_kind_stay_and_numbers_go_on() {
        let mut recent = Recent::new("a".to_owned(), 41, Vec::new());
        assert_eq!(recent.push(5, roamed()), None);
        let after = |after| Query { after: Some(after), ..Query::default() };
        assert!(recent.covers(&after(41)) && !recent.covers(&after(40)) && !recent.covers(&Query::default()));
        for _ in 0..MOST - 1 {
            assert_eq!(recent.push(6, roamed()), None);
            recent.push(6, minute());
        }
        assert_eq!(recent.push(7, roamed()), Some(42));
        assert!(recent.covers(&after(42)) && !recent.covers(&after(41)));
        let last = recent.newest();
        assert_eq!(numbers(&recent.page(&after(last - 3)).records), [last - 2, last - 1, last]);
        assert_eq!(recent.page(&Query { limit: Some(2), ..Query::default() }).records[0].number, 43);
        let events = Query { no_minutes: true, ..Query::default() };
        assert_eq!(recent.wanted(&events).len(), MOST);
        assert_eq!(recent.wanted(&Query::default()).len(), 2 * MOST - 1);
    }

    #[test]
    fn what_was_loaded_is_covered_as_far_as_it_goes_back() {
        let loaded =
            vec![Record { number: 30, at: 1, what: roamed() }, Record { number: 38, at: 2, what: roamed() }];
        let recent = Recent::new("a".to_owned(), 1_040, loaded);
        let events = |after| Query { after: Some(after), no_minutes: true, ..Query::default() };
        assert!(recent.covers(&events(29)) && !recent.covers(&events(28)));
        assert!(
            !recent.covers(&Query { after: Some(29), ..Query::default() }),
            "a minute may be on the disk"
        );
    }

    #[test]
    fn records_of_another_ring_have_its_numbers() {
        let mut recent = Recent::new("a".to_owned(), 0, Vec::new());
        for at in [5, 6, 7] {
            recent.push(at, roamed());
        }
        recent.renumber(1, "b".to_owned(), 1_000);
        let records = recent.wanted(&Query::default());
        assert_eq!(numbers(&records), [1_001, 1_002]);
        assert_eq!((records[0].at, recent.ring(), recent.newest()), (6, "b", 1_002));
    }

    fn roamed() -> What {
        What::Roamed { peer: "p".to_owned() }
    }

    fn minute() -> What {
        What::Minute { peer: "p".to_owned(), round_trip_ms: None, loss: 0.0, received: 0, sent: 0 }
    }

    fn numbers(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.number).collect()
    }
}
