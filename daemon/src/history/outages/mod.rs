//! Records of both ends as blocks: an outage is one, its cause first and the symptoms after it.
//!
//! Each end sees its own part, at its own time, and often the symptom before the cause. What fails
//! behind a tunnel that is down belongs to that outage; what fails of one service, or at both ends
//! at once for the same reason, is another. The cause is what changed just before, else the
//! failing hop that is first on the path of packets. Nothing here asks or waits.

mod failure;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::record::{Record, What};
use failure::{Change, Kind, Scope, Subject, change, kinds, rank};

/// A tunnel that fails within this time of the beginning of an outage is part of it, in
/// milliseconds: a symptom may be seen first.
const TOGETHER: i64 = 60_000;
/// A change of a stack is noted when it is done: what began so long before it may come from it.
const STACK_LASTS: i64 = 300_000;
/// The ends see one failure within this time.
const BOTH_SEE: i64 = 20_000;
/// A change of the configuration, a stop or a start within this time before an outage is its cause.
const JUST_BEFORE: i64 = 60_000;

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Side {
    /// `edge` or `origin`.
    pub role: &'static str,
    /// The other end's name here; `None` for this machine.
    pub end: Option<String>,
}

/// A record of one end, in this end's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Whose it is.
    #[serde(flatten)]
    pub side: Side,
    /// Its number, its time by this end's clock, and what happened.
    #[serde(flatten)]
    pub record: Record,
}

/// Things that belong together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// One thing.
    Single(Entry),
    /// An outage.
    Outage(Outage),
}

/// An outage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outage {
    /// What it comes from, as far as the records show.
    pub cause: Entry,
    /// Whether the cause is a daemon that ended without having been asked to.
    pub is_crash: bool,
    /// What else failed, in order.
    pub symptoms: Vec<Entry>,
    /// When the first of it was seen, in Unix milliseconds of this end's clock.
    pub began: u64,
    /// When nothing of it was failing any more; `None` while something is.
    pub over: Option<u64>,
}

/// The records of several ends in one order. Each end's own order stays as it is: its clock may
/// have stepped. `ahead_ms` says how far an end's clock is ahead of this one's.
#[must_use]
pub fn merged(ends: Vec<(Side, i64, Vec<Record>)>) -> Vec<Entry> {
    let mut queues: Vec<_> = ends
        .into_iter()
        .map(|(side, ahead_ms, records)| {
            let here =
                move |record: Record| Record { at: record.at.saturating_add_signed(-ahead_ms), ..record };
            (side, records.into_iter().map(here).peekable())
        })
        .collect();
    let mut entries = Vec::new();
    loop {
        let heads = queues.iter_mut().enumerate();
        let next = heads.filter_map(|(index, (_, queue))| Some((queue.peek()?.at, index))).min();
        let Some((side, queue)) = next.and_then(|(_, index)| queues.get_mut(index)) else { return entries };
        entries.extend(queue.next().map(|record| Entry { side: side.clone(), record }));
    }
}

/// The blocks of these records, by when they began.
#[must_use]
pub fn blocks(entries: Vec<Entry>) -> Vec<Block> {
    let mut grouping = Grouping::default();
    for entry in entries {
        grouping.handle_entry(entry);
    }
    grouping.finish()
}

#[derive(Debug, Default)]
struct Grouping {
    singles: Vec<Entry>,
    outages: Vec<Growing>,
    /// When each side last noted anything before its latest start.
    alive: BTreeMap<Side, i64>,
    /// When each side last saw a tunnel or a link work.
    worked: BTreeMap<(Side, Subject), i64>,
}

/// An outage with what still fails of it.
#[derive(Debug)]
struct Growing {
    scope: Scope,
    entries: Vec<Entry>,
    /// What changed just before, or a daemon that crashed.
    reason: Option<Entry>,
    is_crash: bool,
    failing: BTreeSet<(Side, Subject)>,
    /// What has failed of it.
    kinds: BTreeSet<Kind>,
    /// When the first of it failed.
    failed: i64,
    /// The same, or when its reason was.
    began: i64,
    over: Option<i64>,
}

impl Grouping {
    fn handle_entry(&mut self, entry: Entry) {
        let at = time(&entry);
        if let What::Started { .. } = entry.record.what {
            return self.handle_start(entry);
        }
        let side = entry.side.clone();
        self.alive.insert(side.clone(), at);
        match change(&entry.record.what) {
            Change::Fails(subject, scope) => self.handle_failure(entry, subject, scope),
            Change::Works(subject) => {
                self.handle_recovery(at, &side, &subject);
                if subject.peer().is_some() {
                    self.worked.insert((side, subject), at);
                }
            }
            Change::None if matches!(entry.record.what, What::Stack { .. }) => self.handle_stack(entry),
            Change::None => self.singles.push(entry),
        }
    }

    /// A stack was changed: what failed of a service meanwhile comes from it.
    fn handle_stack(&mut self, entry: Entry) {
        let at = time(&entry);
        let is_of_it = |outage: &&mut Growing| {
            outage.scope == Scope::Service
                && outage.reason.is_none()
                && (0..=STACK_LASTS).contains(&(at - outage.began))
                && outage.over.is_none_or(|over| at - over <= JUST_BEFORE)
        };
        match self.outages.iter_mut().rev().find(is_of_it) {
            Some(outage) => outage.reason = Some(entry),
            None => self.singles.push(entry),
        }
    }

    /// What a daemon saw before its start counts no more: it looks again. One that had noted
    /// something before an outage, and nothing since it began, was not there, which is the cause.
    fn handle_start(&mut self, entry: Entry) {
        let at = time(&entry);
        let last = self.alive.insert(entry.side.clone(), at);
        for outage in self.outages.iter_mut().filter(|outage| outage.over.is_none()) {
            outage.failing.retain(|(side, _)| *side != entry.side);
            if outage.failing.is_empty() {
                outage.over = Some(at);
            }
        }
        let is_planned = self.was_stopping(&entry.side, at);
        let gone = self.outages.iter_mut().rev().find(|outage| {
            let was_gone = last.is_some_and(|last| last <= outage.failed);
            let is_near = outage.over.is_none_or(|over| over >= at);
            was_gone && is_near && !outage.has_reason() && outage.scope != Scope::Service
        });
        match gone {
            Some(outage) if !is_planned => {
                self.singles.extend(outage.reason.replace(entry));
                outage.is_crash = true;
                outage.began = outage.failed;
            }
            _ => self.singles.push(entry),
        }
    }

    /// Whether that side was asked to stop before this start of it.
    fn was_stopping(&self, side: &Side, at: i64) -> bool {
        let reasons = self.outages.iter().filter_map(|outage| outage.reason.as_ref());
        let mut entries = self.singles.iter().chain(reasons);
        entries.any(|entry| {
            entry.side == *side
                && matches!(entry.record.what, What::Stopping { .. })
                && time(entry) <= at
                && at - time(entry) < 10 * JUST_BEFORE
        })
    }

    fn handle_failure(&mut self, entry: Entry, subject: Subject, scope: Scope) {
        let at = time(&entry);
        let key = (entry.side.clone(), subject);
        let kinds: BTreeSet<Kind> = kinds(&entry).into_iter().collect();
        self.leave_others(at, &key, &|outage| outage.takes(&entry, scope, &kinds));
        let is_its = |outage: &&mut Growing| outage.over.is_none() && outage.takes(&entry, scope, &kinds);
        if let Some(outage) = self.outages.iter_mut().rev().find(is_its) {
            outage.scope = outage.scope.min(scope);
            outage.kinds.extend(kinds);
            outage.failing.insert(key);
            outage.entries.push(entry);
            return;
        }
        let reason = self.take_reason(&entry, &key.1, scope);
        let began = reason.as_ref().map_or(at, |reason| time(reason).min(at));
        self.outages.push(Growing {
            scope,
            entries: vec![entry],
            reason,
            is_crash: false,
            failing: BTreeSet::from([key]),
            kinds,
            failed: at,
            began,
            over: None,
        });
    }

    /// What fails for another reason now is no part of the outage that it was part of.
    fn leave_others(&mut self, at: i64, key: &(Side, Subject), stays: &dyn Fn(&Growing) -> bool) {
        for outage in self.outages.iter_mut().filter(|outage| outage.over.is_none() && !stays(outage)) {
            if outage.failing.remove(key) && outage.failing.is_empty() {
                outage.over = Some(at);
            }
        }
    }

    /// What changed just before `failure`: a stop before a change of the configuration, that before
    /// anything else, and the last of several. A start is one for tunnels alone, which it cuts, and
    /// only until they have worked again.
    fn take_reason(&mut self, failure: &Entry, subject: &Subject, scope: Scope) -> Option<Entry> {
        let at = time(failure);
        let worked = self.worked_last(&failure.side, subject);
        let weight = |entry: &Entry| match entry.record.what {
            _ if !(0..=JUST_BEFORE).contains(&(at - time(entry))) => None,
            What::Stopping { .. } => Some(3),
            What::Applied { .. } | What::Stack { .. } => Some(2),
            What::Notice { .. } | What::Repaired { .. } => Some(1),
            What::Started { .. } if scope != Scope::Service && worked <= Some(time(entry)) => Some(0),
            _ => None,
        };
        let weighed =
            self.singles.iter().enumerate().filter_map(|(index, entry)| Some((weight(entry)?, index)));
        let (_, index) = weighed.max()?;
        Some(self.singles.remove(index))
    }

    /// When that side last saw the tunnel or the link work that failed; of a service, any.
    fn worked_last(&self, side: &Side, subject: &Subject) -> Option<i64> {
        let is_its = |known: &Subject| subject.peer().is_none() || known.peer() == subject.peer();
        let all = self.worked.iter().filter(|((of, known), _)| of == side && is_its(known));
        all.map(|(_, at)| *at).max()
    }

    fn handle_recovery(&mut self, at: i64, side: &Side, subject: &Subject) {
        for outage in self.outages.iter_mut().filter(|outage| outage.over.is_none()) {
            let key = (side.clone(), subject.clone());
            if outage.failing.remove(&key) && outage.failing.is_empty() {
                outage.over = Some(at);
            }
        }
    }

    fn finish(self) -> Vec<Block> {
        let outages = self.outages.into_iter().filter_map(|outage| {
            let began = outage.began;
            Some((began, Block::Outage(outage.finished()?)))
        });
        let singles = self.singles.into_iter().map(|entry| (time(&entry), Block::Single(entry)));
        let mut blocks: Vec<(i64, Block)> = singles.chain(outages).collect();
        blocks.sort_by_key(|(began, _)| *began);
        blocks.into_iter().map(|(_, block)| block).collect()
    }
}

impl Growing {
    /// Whether more is known than that a daemon had started before.
    fn has_reason(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| !matches!(reason.record.what, What::Started { .. }))
    }

    /// Whether a failure belongs to it.
    fn takes(&self, entry: &Entry, scope: Scope, kinds: &BTreeSet<Kind>) -> bool {
        let since = time(entry) - self.began;
        let is_visit = |entry: &Entry| matches!(entry.record.what, What::Visitor { .. });
        match scope.cmp(&self.scope) {
            // A visit goes through everything; what an origin sees of its upstreams does not.
            Ordering::Greater => scope == Scope::Tunnel || is_visit(entry),
            Ordering::Equal if scope != Scope::Service => true,
            Ordering::Less => since <= TOGETHER && self.entries.iter().all(is_visit),
            Ordering::Equal => self.kinds.intersection(kinds).any(|kind| match kind {
                Kind::Service(_) | Kind::Host(_) => true,
                Kind::Reason(_) => since <= BOTH_SEE && self.is_new_side(kinds),
                Kind::Side(_) => false,
            }),
        }
    }

    /// Whether another end than this failure's saw it so far.
    fn is_new_side(&self, kinds: &BTreeSet<Kind>) -> bool {
        let is_side = |kind: &&Kind| matches!(kind, Kind::Side(_));
        !self.kinds.iter().filter(is_side).any(|kind| kinds.contains(kind))
    }

    fn finished(mut self) -> Option<Outage> {
        let cause = match self.reason.take() {
            Some(reason) => reason,
            None => {
                let first = self.entries.iter().enumerate().min_by_key(|(_, entry)| rank(entry))?.0;
                self.entries.remove(first)
            }
        };
        let unsigned = |millis: i64| u64::try_from(millis).unwrap_or(0);
        Some(Outage {
            cause,
            is_crash: self.is_crash,
            symptoms: self.entries,
            began: unsigned(self.began),
            over: self.over.map(unsigned),
        })
    }
}

fn time(entry: &Entry) -> i64 {
    i64::try_from(entry.record.at).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
