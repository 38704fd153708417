//! The newest records, in memory.

use std::collections::VecDeque;

use super::record::{Page, Query, Record, What};

/// The most records in memory.
pub const MOST: usize = 512;

/// The newest records, and the numbers of those to come.
#[derive(Debug)]
pub struct Recent {
    ring: String,
    records: VecDeque<Record>,
    newest: u64,
}

impl Recent {
    /// None so far; numbers go on after `newest`.
    #[must_use]
    pub fn new(ring: String, newest: u64) -> Self {
        Self { ring, records: VecDeque::with_capacity(MOST), newest }
    }

    /// Takes what happened at `at`; the oldest record goes when there are too many.
    pub fn push(&mut self, at: u64, what: What) -> Record {
        self.newest = self.newest.saturating_add(1);
        let record = Record { number: self.newest, at, what: what.limited() };
        if self.records.len() == MOST {
            self.records.pop_front();
        }
        self.records.push_back(record.clone());
        record
    }

    /// The number of the newest record.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether every record that is wanted is here.
    #[must_use]
    pub fn covers(&self, query: &Query) -> bool {
        let first = self.records.front().map_or(self.newest.saturating_add(1), |record| record.number);
        query.after.is_some_and(|after| after.saturating_add(1) >= first)
    }

    /// What is here of it.
    #[must_use]
    pub fn page(&self, query: &Query) -> Page {
        let wanted = |record: &&Record| query.wants(record.number, record.at, record.what.is_minute());
        let records = self.records.iter().filter(wanted).take(query.most()).cloned().collect();
        Page { records, newest: self.newest, ring: self.ring.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_stay_and_numbers_go_on() {
        let mut recent = Recent::new("a".to_owned(), 41);
        let roamed = || What::Roamed { peer: "p".to_owned() };
        assert_eq!(recent.push(5, roamed()).number, 42);
        assert!(recent.covers(&Query { after: Some(41), ..Query::default() }));
        assert!(
            !recent.covers(&Query { after: Some(40), ..Query::default() })
                && !recent.covers(&Query::default())
        );
        for _ in 0..MOST {
            recent.push(6, roamed());
        }
        let page = recent.page(&Query::default());
        assert_eq!((page.records.len(), page.records[0].number), (MOST, 43));
        assert_eq!((page.newest, recent.newest()), (42 + 512, 42 + 512));
        let page = recent.page(&Query { after: Some(550), limit: Some(2), ..Query::default() });
        let numbers: Vec<u64> = page.records.iter().map(|record| record.number).collect();
        assert_eq!(numbers, [551, 552]);
    }
}
