//! What is down, what has been sent about it, and what is to be sent.
//!
//! Things that are down at the same hop of the same peer, and went down within a minute of the
//! first, have one cause: an [`Incident`]. Nothing here waits or asks: records and reports come in
//! with their times, and [`Incidents::poll_report`] gives what is to be sent.

mod incident;
mod remembered;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use daemon::history::Record;
use serde::{Deserialize, Serialize};

use super::quiet::{Quiet, Quiets};
use super::seen::{Condition, End, Fault, Peers, Row, Seen, Thing};
use incident::{Incident, Phase};
use remembered::Remembered;

/// How long a fault near this end lasts before it is reported: what fails with it is seen by then.
pub const CONFIRM: u64 = 15_000;
/// How long one at the other end lasts, whose own agent reports first.
pub const FAR: u64 = 60_000;
/// How long an announced stop may take.
pub const ANNOUNCED: u64 = 300_000;
/// What fails so soon after the first has the same cause.
const JOIN: u64 = 60_000;
/// How long all works again before that is reported.
const SETTLE: u64 = 15_000;
/// So many changes within [`CALM`] are flapping.
const FLAPS: usize = 3;
/// How long a flapping cause has not changed before it counts as settled.
const CALM: u64 = 600_000;
/// The most incidents at the same time; further faults are added to the last one.
const MAX_INCIDENTS: usize = 256;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something is down.
    Down,
    /// It is over.
    Over,
    /// It goes down and comes back again and again.
    Flapping,
    /// It is down after a time in which nothing was sent.
    StillDown,
    /// A name leads to another choice of edges.
    Steered,
    /// Nothing: `causeway notify test`.
    Test,
}

impl Kind {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Over => "over",
            Self::Flapping => "flapping",
            Self::StillDown => "still_down",
            Self::Steered => "steered",
            Self::Test => "test",
        }
    }
}

/// One cause, for the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub fault: Fault,
    /// Since when, in Unix milliseconds.
    pub since: u64,
    /// Until when, where it is over.
    pub until: Option<u64>,
    /// The names and services that were down by it.
    pub down: Vec<String>,
    /// How often it changed in the last ten minutes.
    pub changes: usize,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of no other report of this machine.
    pub id: String,
    /// What it is about.
    pub kind: Kind,
    /// The id of the report that began it: what is over needs no report of its beginning any more.
    pub begun: Option<String>,
    /// Now, in Unix milliseconds.
    pub at: u64,
    /// Which end reports.
    pub end: End,
    /// The causes; one, but for [`Kind::StillDown`].
    pub causes: Vec<Cause>,
    /// What happened in the ten minutes before, with its time.
    pub before: Vec<(u64, String)>,
    /// The peers as they are.
    pub peers: Peers,
    /// Names and services that work.
    pub working: Vec<String>,
    /// Those that are down by another cause.
    pub still_down: Vec<String>,
}

/// All that is known, as it is kept on the disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Incidents {
    end: End,
    now: u64,
    next: u64,
    open: Vec<Incident>,
    /// Times in which nothing is sent.
    quiets: Quiets,
    remembered: Remembered,
    /// The services that are for visitors; the history has others as well.
    services: BTreeSet<String>,
    /// Whether the daemon is to be asked before what a quiet time held back is sent.
    #[serde(skip)]
    is_outdated: bool,
    #[serde(skip)]
    seen: Seen,
    #[serde(skip)]
    reports: VecDeque<Report>,
    /// Hops of what failed while nothing was sent.
    #[serde(skip)]
    held: VecDeque<String>,
    #[serde(skip)]
    has_changed: bool,
}

impl Incidents {
    /// Nothing is down.
    #[must_use]
    pub fn new(end: End) -> Self {
        Self {
            end,
            now: 0,
            next: 1,
            open: Vec::new(),
            quiets: Quiets::default(),
            remembered: Remembered::default(),
            services: BTreeSet::new(),
            is_outdated: false,
            seen: Seen::default(),
            reports: VecDeque::new(),
            held: VecDeque::new(),
            has_changed: false,
        }
    }

    /// Which end it is about.
    #[must_use]
    pub const fn end(&self) -> End {
        self.end
    }

    /// The next report to be sent.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// The next hop whose outage a quiet time withholds: the other end need not report it either.
    pub fn poll_held(&mut self) -> Option<String> {
        self.held.pop_front()
    }

    /// Whether something changed that a restart must not lose, since this was asked last.
    pub fn poll_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Times in which nothing is sent.
    #[must_use]
    pub fn quiets(&self) -> &[Quiet] {
        self.quiets.all()
    }

    /// Sets one, or says what the name could be; nothing about `None` is sent until it ends.
    ///
    /// # Errors
    /// Why not.
    pub fn set_quiet(&mut self, quiet: Quiet) -> Result<(), String> {
        if let Some(name) = &quiet.name {
            let known: BTreeSet<&str> = self.known_names().collect();
            if !known.contains(name.as_str()) {
                let nearest = policy::suggest::nearest(name, known.iter().copied());
                let fix = nearest.map_or_else(
                    || format!("the names are: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
                    |nearest| format!("did you mean {nearest}?"),
                );
                return Err(format!("there is no service and no name {name:?} here; {fix}"));
            }
        }
        self.has_changed = true;
        if self.quiets.set(quiet) { Ok(()) } else { Err("there are 16 already; end one first".to_owned()) }
    }

    /// Ends one, or all; whether there was one. What is still down is sent once the daemon has been
    /// asked: it may be over by now.
    pub fn end_quiet(&mut self, name: Option<&str>) -> bool {
        self.has_changed = true;
        self.is_outdated = true;
        self.quiets.end(name)
    }

    fn known_names(&self) -> impl Iterator<Item = &str> {
        self.seen.rows.iter().flat_map(|row| match &row.thing {
            Thing::Service(name) | Thing::Peer(name) => vec![name.as_str()],
            Thing::Name { name, .. } | Thing::Visitor { name, .. } => vec![name.as_str()],
            Thing::Daemon => Vec::new(),
        })
    }

    /// Notes a record of before this agent's first start, as what happened before.
    pub fn note(&mut self, record: &Record) {
        self.remembered.note(self.end, record);
    }

    /// Takes a record.
    pub fn handle_record(&mut self, record: &Record) {
        self.advance(record.at);
        self.has_changed |= self.remembered.note(self.end, record);
        // That the daemon runs again is seen when it answers; the rest is remembered for the text.
        if let Some(row) = Row::of_record(self.end, record)
            && row.thing.service().is_none_or(|service| self.is_for_visitors(service))
        {
            self.handle_row(row);
        }
    }

    fn is_for_visitors(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }

    /// Takes what the daemon reports.
    pub fn handle_seen(&mut self, now: u64, seen: Seen) {
        self.advance(now);
        self.recover(&Thing::Daemon);
        self.remembered.handle_peers(self.now, &seen.peers);
        for row in &seen.rows {
            self.handle_row(row.clone());
        }
        let known: BTreeSet<&Thing> = seen.rows.iter().map(|row| &row.thing).collect();
        let gone: Vec<Thing> =
            self.open.iter().flat_map(Incident::active).filter(|it| !known.contains(it)).cloned().collect();
        gone.iter().for_each(|thing| self.recover(thing));
        let services = seen.rows.iter().filter_map(|row| row.thing.service());
        self.services = services.map(str::to_owned).collect();
        self.seen = seen;
        self.is_outdated = false;
        self.advance(now);
    }

    /// Takes that the daemon of this end does not answer.
    pub fn handle_silence(&mut self, now: u64, error: &str) {
        self.advance(now);
        let daemon = self.end.daemon();
        let fault = Fault {
            hop: "daemon".to_owned(),
            peer: None,
            reason: Some("no_answer".to_owned()),
            evidence: Some(error.chars().take(200).collect()),
            fix: Some(format!("run `systemctl status {daemon}`, then `systemctl restart {daemon}`")),
        };
        let names = self.names_of_all();
        self.handle_row(Row {
            thing: Thing::Daemon,
            condition: Condition::Failing,
            since: self.now,
            fault,
            works: vec![],
            names,
        });
        self.is_outdated = false;
        self.advance(now);
    }

    fn names_of_all(&self) -> Vec<String> {
        let services = self.seen.rows.iter().filter(|row| matches!(row.thing, Thing::Service(_)));
        services.flat_map(labels).collect()
    }

    fn handle_row(&mut self, row: Row) {
        match row.condition {
            Condition::Ok => self.recover(&row.thing),
            Condition::Failing => self.fail(row),
            Condition::Unknown => {
                let is_back =
                    |incident: &Incident| incident.has(&row.thing) && row.works.contains(incident.hop());
                if self.open.iter().any(is_back) {
                    self.recover(&row.thing);
                }
            }
        }
    }

    fn recover(&mut self, thing: &Thing) {
        let has_it = |at: &usize| self.open.get(*at).is_some_and(|incident| incident.has(thing));
        let places: Vec<usize> = (0..self.open.len()).filter(has_it).collect();
        for at in places {
            let is_announced = self.announced(at) > self.now;
            if let Some(incident) = self.open.get_mut(at) {
                self.has_changed |= incident.recover(thing, self.now, is_announced);
            }
        }
    }

    fn fail(&mut self, mut row: Row) {
        row.since = row.since.min(self.now);
        if let Some(at) = self.open.iter().position(|incident| incident.has(&row.thing)) {
            let Some(incident) = self.open.get_mut(at) else { return };
            if incident.is_about(&row.fault)
                || matches!(row.thing, Thing::Name { .. } | Thing::Visitor { .. })
            {
                incident.update(&row);
                return;
            }
            // The cause turns out to be another one.
            let is_reported = !matches!(incident.phase, Phase::Waiting);
            if is_reported && !row.works.contains(incident.hop()) {
                return;
            }
            if is_reported {
                incident.recover(&row.thing, self.now, false);
            } else {
                row.since = row.since.min(incident.remove(&row.thing));
                self.open.retain(|incident| !incident.is_empty());
            }
        }
        self.has_changed = true;
        let at = self.place_of(&row);
        let service = row.thing.service().map(str::to_owned);
        let is_service = matches!(row.thing, Thing::Service(_));
        let Some(incident) = self.open.get_mut(at) else { return };
        incident.fail(row, self.now);
        if let (true, Some(service)) = (is_service, service) {
            self.take_names(at, &service);
        }
    }

    /// Names that failed before their service was seen to fail have its cause.
    fn take_names(&mut self, at: usize, service: &str) {
        let mut moved = Vec::new();
        for (other, incident) in self.open.iter_mut().enumerate() {
            if other != at && matches!(incident.phase, Phase::Waiting) {
                moved.extend(incident.take_names(service));
            }
        }
        if let Some(incident) = self.open.get_mut(at) {
            moved.into_iter().for_each(|member| incident.join(member));
        }
        self.open.retain(|incident| !incident.is_empty());
    }

    /// The incident that a fault belongs to: its service's, one that it was in, one that began just
    /// now, or a new one.
    fn place_of(&mut self, row: &Row) -> usize {
        let now = self.now;
        if let (Thing::Name { service, .. } | Thing::Visitor { service, .. }, false) =
            (&row.thing, self.open.is_empty())
        {
            let service = Thing::Service(service.clone());
            if let Some(at) = self.open.iter().position(|incident| incident.has(&service)) {
                return at;
            }
        }
        let is_same = |incident: &Incident| incident.is_about(&row.fault);
        let had = |incident: &Incident| is_same(incident) && incident.had(&row.thing);
        let is_new = |incident: &Incident| {
            is_same(incident) && incident.is_active() && now.saturating_sub(incident.since) <= JOIN
        };
        if let Some(at) = self.open.iter().position(had).or_else(|| self.open.iter().position(is_new)) {
            return at;
        }
        if self.open.len() >= MAX_INCIDENTS {
            self.open.retain(Incident::is_active);
        }
        if self.open.len() < MAX_INCIDENTS {
            self.open.push(Incident::new(self.next, row));
            self.next += 1;
        }
        self.open.len().saturating_sub(1)
    }

    /// Lets time pass: what is due is reported.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        // A clock that was set back counts from there.
        if self.now.saturating_sub(now) > CALM {
            self.now = now;
            self.open.iter_mut().for_each(|incident| incident.handle_clock(now));
            self.remembered.handle_clock(now);
        }
        self.has_changed |= self.quiets.expire(self.now);
        let mut held = Vec::new();
        for at in 0..self.open.len() {
            match self.step(at) {
                Some(Step::Send(kind)) => self.report(kind, &[at]),
                Some(Step::Held) => held.push(at),
                None => {}
            }
        }
        if !held.is_empty() {
            self.report(Kind::StillDown, &held);
        }
        let now = self.now;
        self.open.retain(|incident| !incident.is_done(now, CALM));
        self.remembered.expire(now);
    }

    /// What is due of one incident.
    fn step(&mut self, at: usize) -> Option<Step> {
        let (now, delay) = (self.now, self.delay(at));
        let announced = self.announced(at);
        let incident = self.open.get_mut(at)?;
        let is_covered = self.quiets.covers(incident.things());
        if is_covered {
            incident.forget_flapping();
        }
        let is_quiet = is_covered || self.is_outdated;
        let (flaps, first) = incident.flaps(now, CALM);
        // Their report of what flaps is older than the newest of its failures, and is the only one.
        let since = if flaps >= FLAPS { first.min(incident.since) } else { incident.since };
        let is_reported = self.remembered.is_reported(incident.peer(), incident.hop(), since);
        incident.flaps_there = flaps > 0 && (incident.flaps_there || (flaps >= FLAPS && is_reported));
        let is_theirs = delay == FAR && (is_reported || incident.flaps_there);
        match incident.phase {
            Phase::Theirs => None,
            Phase::Flapping if flaps == 0 && !is_quiet => {
                let is_active = incident.is_active();
                incident.phase = if is_active { Phase::Reported } else { Phase::Over };
                Some(Step::Send(if is_active { Kind::Down } else { Kind::Over }))
            }
            Phase::Flapping => None,
            Phase::Waiting if is_theirs => {
                incident.phase = Phase::Theirs;
                None
            }
            Phase::Waiting | Phase::Reported | Phase::Over
                if flaps >= FLAPS && !is_quiet && now >= first.saturating_add(delay).max(announced) =>
            {
                incident.phase = Phase::Flapping;
                Some(Step::Send(Kind::Flapping))
            }
            Phase::Waiting if incident.is_active() => {
                let due = incident.since.saturating_add(delay).max(announced);
                if is_quiet {
                    if !std::mem::replace(&mut incident.is_withheld, true) {
                        self.held.push_back(incident.hop().clone());
                    }
                    incident.is_held |= now >= due;
                    return None;
                }
                if now < due {
                    return None;
                }
                incident.phase = Phase::Reported;
                Some(if std::mem::take(&mut incident.is_held) { Step::Held } else { Step::Send(Kind::Down) })
            }
            Phase::Reported if !is_quiet && incident.is_settled(now, SETTLE) => {
                incident.phase = Phase::Over;
                Some(Step::Send(Kind::Over))
            }
            Phase::Waiting | Phase::Reported | Phase::Over => None,
        }
    }

    /// How long a fault lasts before this end reports it.
    fn delay(&self, at: usize) -> u64 {
        let Some(incident) = self.open.get(at) else { return CONFIRM };
        let is_tunnel = incident.hop() == "tunnel";
        let is_far = match self.end {
            End::Origin => is_tunnel,
            // Without a link there is no agent at the other end either.
            End::Edge => !is_tunnel && incident.peer().is_some_and(|peer| self.remembered.is_linked(peer)),
        };
        if is_far { FAR } else { CONFIRM }
    }

    /// Until when an announced stop may be the cause.
    fn announced(&self, at: usize) -> u64 {
        let Some(incident) = self.open.get(at) else { return 0 };
        let any = self.end == End::Origin && incident.hop() == "tunnel";
        let from = incident.since.saturating_sub(ANNOUNCED);
        self.remembered.stop(incident.peer(), any, from).map_or(0, |at| at.saturating_add(ANNOUNCED))
    }

    fn report(&mut self, kind: Kind, places: &[usize]) {
        self.has_changed = true;
        let now = self.now;
        let mut causes = Vec::new();
        for at in places {
            if let Some(incident) = self.open.get(*at) {
                causes.push(incident.cause(now, kind == Kind::Over, CALM));
            }
        }
        let first = causes.iter().map(|cause| cause.since).min().unwrap_or(now);
        let incident = places.first().and_then(|at| self.open.get_mut(*at));
        let id = format!("{:x}-{}-{}", first, self.next, kind.label());
        self.next += 1;
        let begun = incident.and_then(|incident| match kind {
            Kind::Over => incident.begun.take(),
            Kind::Down | Kind::Flapping | Kind::StillDown | Kind::Steered | Kind::Test => {
                incident.begun.replace(id.clone())
            }
        });
        let down: BTreeSet<&String> = causes.iter().flat_map(|cause| &cause.down).collect();
        let is_other = |at: &usize| !places.contains(at);
        let others = (0..self.open.len()).filter(is_other).filter_map(|at| self.open.get(at));
        let still: BTreeSet<String> =
            others.filter(|it| it.is_active()).flat_map(|it| it.cause(now, false, CALM).down).collect();
        let works = |row: &&Row| row.condition == Condition::Ok && !matches!(row.thing, Thing::Peer(_));
        let working: BTreeSet<String> = self.seen.rows.iter().filter(works).flat_map(labels).collect();
        let not_daemon = causes.iter().all(|cause| cause.fault.hop != "daemon");
        let working = if not_daemon { working } else { BTreeSet::new() };
        let report = Report {
            id,
            kind,
            begun,
            at: now,
            end: self.end,
            before: self.remembered.events(first.saturating_sub(CALM), now),
            peers: self.seen.peers.clone(),
            working: working.into_iter().filter(|it| !down.contains(it) && !still.contains(it)).collect(),
            still_down: still.iter().filter(|it| !down.contains(it)).cloned().collect(),
            causes,
        };
        self.reports.push_back(report);
    }
}

enum Step {
    Send(Kind),
    /// It was due while nothing was sent; these are one message.
    Held,
}

/// What is down for a person when a row is: its names, or the service where it has none.
fn labels(row: &Row) -> Vec<String> {
    if !row.names.is_empty() {
        return row.names.clone();
    }
    vec![match &row.thing {
        Thing::Service(name) => name.clone(),
        Thing::Name { name, .. } | Thing::Visitor { name, .. } => name.clone(),
        Thing::Peer(peer) => format!("tunnel to {peer}"),
        Thing::Daemon => "everything of this end".to_owned(),
    }]
}
