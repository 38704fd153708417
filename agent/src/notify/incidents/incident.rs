//! One cause, from the first thing that is down by it until it is over.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::super::seen::{Fault, Row, Thing};
use super::{Cause, labels};

/// The most changes that are remembered of one incident.
const MAX_CHANGES: usize = 32;
/// The most labels of one incident in a report; its text shows fewer.
const MAX_LABELS: usize = 64;

/// What has been sent about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Nothing yet.
    Waiting,
    /// That it is down.
    Reported,
    /// That it is flapping.
    Flapping,
    /// The other end's agent reports it.
    Theirs,
    /// That it is over.
    Over,
}

/// A thing that is down, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    thing: Thing,
    since: u64,
    labels: Vec<String>,
    is_active: bool,
}

/// One cause.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Incident {
    number: u64,
    fault: Fault,
    pub(super) since: u64,
    members: Vec<Member>,
    pub(super) phase: Phase,
    /// When it began and ended, the newest last, without what a peer had announced.
    changes: Vec<u64>,
    /// When it began or ended last.
    changed: u64,
    /// Whether it was due while nothing was sent.
    pub(super) is_held: bool,
    /// Whether it failed while nothing was sent, which the other end knows.
    pub(super) is_withheld: bool,
    /// Whether it is flapping, and the other end's agent has reported that.
    pub(super) flaps_there: bool,
    /// The last report of its beginning.
    pub(super) begun: Option<String>,
}

impl Incident {
    /// One that begins with this row, which is still to be added.
    pub(super) fn new(number: u64, row: &Row) -> Self {
        Self {
            number,
            fault: row.fault.clone(),
            since: row.since,
            members: Vec::new(),
            phase: Phase::Waiting,
            changes: Vec::new(),
            changed: 0,
            is_held: false,
            is_withheld: false,
            flaps_there: false,
            begun: None,
        }
    }

    pub(super) fn hop(&self) -> &String {
        &self.fault.hop
    }

    pub(super) fn peer(&self) -> Option<&str> {
        self.fault.peer.as_deref()
    }

    /// Whether it has the cause of this fault.
    pub(super) fn is_about(&self, fault: &Fault) -> bool {
        self.fault.hop == fault.hop && self.fault.peer == fault.peer
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Thing> {
        self.members.iter().filter(|member| member.is_active).map(|member| &member.thing)
    }

    /// All that is down by it, or was.
    pub(super) fn things(&self) -> impl Iterator<Item = &Thing> {
        self.members.iter().map(|member| &member.thing)
    }

    pub(super) fn is_active(&self) -> bool {
        self.members.iter().any(|member| member.is_active)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether this is down by it.
    pub(super) fn has(&self, thing: &Thing) -> bool {
        self.active().any(|active| active == thing)
    }

    /// Whether this was down by it.
    pub(super) fn had(&self, thing: &Thing) -> bool {
        self.things().any(|known| known == thing)
    }

    /// Takes one more thing that is down.
    pub(super) fn fail(&mut self, row: Row, now: u64) {
        if !self.is_active() {
            self.begin(row.since, now);
            self.fault = row.fault.clone();
        }
        let labels = labels(&row);
        self.join(Member { thing: row.thing, since: row.since, labels, is_active: true });
    }

    fn begin(&mut self, since: u64, now: u64) {
        self.since = since;
        self.note_change(now);
        if self.phase == Phase::Over || self.phase == Phase::Theirs {
            self.phase = Phase::Waiting;
        }
        if self.phase == Phase::Waiting {
            self.members.clear();
        }
    }

    pub(super) fn join(&mut self, member: Member) {
        self.since = self.since.min(member.since);
        self.members.retain(|known| known.thing != member.thing);
        self.members.push(member);
    }

    /// Takes more of what is known of something that is down.
    pub(super) fn update(&mut self, row: &Row) {
        if self.is_about(&row.fault) {
            for (known, new) in [
                (&mut self.fault.evidence, &row.fault.evidence),
                (&mut self.fault.fix, &row.fault.fix),
                (&mut self.fault.reason, &row.fault.reason),
            ] {
                if known.is_none() {
                    known.clone_from(new);
                }
            }
        }
        let member = self.members.iter_mut().find(|member| member.thing == row.thing);
        if let Some(member) = member.filter(|_| !row.names.is_empty()) {
            member.labels = labels(row);
        }
    }

    /// Something works again; whether it was down by this. An announced stop in time is no sign of
    /// flapping.
    pub(super) fn recover(&mut self, thing: &Thing, now: u64, is_announced: bool) -> bool {
        let found = self.members.iter_mut().find(|member| member.is_active && member.thing == *thing);
        let Some(member) = found else { return false };
        member.is_active = false;
        if !self.is_active() {
            self.note_change(now);
            self.is_held = false;
            self.is_withheld = false;
            if is_announced {
                self.changes.truncate(self.changes.len().saturating_sub(2));
            }
        }
        true
    }

    /// Takes a thing out that has another cause; since when it is down.
    pub(super) fn remove(&mut self, thing: &Thing) -> u64 {
        let since = self.members.iter().find(|member| member.thing == *thing).map(|member| member.since);
        self.members.retain(|member| member.thing != *thing);
        since.unwrap_or(u64::MAX)
    }

    /// Takes out the names of a service that are down.
    pub(super) fn take_names(&mut self, service: &str) -> Vec<Member> {
        let is_name = |member: &Member| {
            member.is_active
                && matches!(&member.thing, Thing::Name { .. } | Thing::Visitor { .. })
                && member.thing.service() == Some(service)
        };
        let (taken, kept) = std::mem::take(&mut self.members).into_iter().partition(is_name);
        self.members = kept;
        taken
    }

    fn note_change(&mut self, now: u64) {
        self.changed = now;
        self.changes.push(now);
        if self.changes.len() > MAX_CHANGES {
            self.changes.remove(0);
        }
    }

    /// How many changes there were in the last `window`, and when the first of them was.
    pub(super) fn flaps(&self, now: u64, window: u64) -> (usize, u64) {
        let recent = || self.changes.iter().filter(|at| now.saturating_sub(**at) < window);
        (recent().count(), recent().next().copied().unwrap_or(now))
    }

    /// Forgets changes: while nothing is to be sent they come from work that goes on.
    pub(super) fn forget_flapping(&mut self) {
        self.changes.clear();
    }

    /// Whether all has worked for as long as `time`.
    pub(super) fn is_settled(&self, now: u64, time: u64) -> bool {
        !self.is_active() && now.saturating_sub(self.changed) >= time
    }

    /// Whether nothing is left to be said of it.
    pub(super) fn is_done(&self, now: u64, time: u64) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Over | Phase::Theirs) && self.is_settled(now, time)
    }

    /// The clock was set back to `now`.
    pub(super) fn handle_clock(&mut self, now: u64) {
        self.since = self.since.min(now);
        self.changed = self.changed.min(now);
        self.changes.iter_mut().for_each(|at| *at = (*at).min(now));
        self.members.iter_mut().for_each(|member| member.since = member.since.min(now));
    }

    /// For the text; with all that was down once it is over.
    pub(super) fn cause(&self, now: u64, is_over: bool, window: u64) -> Cause {
        let shown = |member: &&Member| is_over || member.is_active || !self.is_active();
        let labels = self.members.iter().filter(shown).flat_map(|member| member.labels.iter().cloned());
        let down: BTreeSet<String> = labels.collect();
        Cause {
            fault: self.fault.clone(),
            since: self.since,
            until: is_over.then_some(self.changed),
            down: down.into_iter().take(MAX_LABELS).collect(),
            changes: self.flaps(now, window).0,
        }
    }
}
