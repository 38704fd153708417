//! Keeps records as they are wanted: pure.
//!
//! Each name is read, changed where it is wrong, and read again: only what the authority then
//! holds counts. Nothing is kept on disk, so that an agent that is killed at any point begins with
//! reading again. One step is out at a time; its result comes back by a `handle_*`.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::failure::{Failure, Severity, Trouble};
use super::lookout::SETTLE;
use super::pause::{Pace, Pause};
use super::record::{Change, Found, Wanted, plan};

/// How often a record that is right is read again.
const VERIFY: Duration = Duration::from_secs(3_600);

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name.
    pub name: String,
    /// What to do with it.
    pub action: Action,
}

/// What to do with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read what the authority holds.
    Read,
    /// Make this change.
    Change(Change),
}

/// What happened to a name, to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name.
    pub name: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The record is right, as it was found or as it is again.
    Right(Vec<Ipv4Addr>),
    /// The record was changed and is right now.
    Changed {
        /// The addresses before; none for a new record.
        from: Vec<Ipv4Addr>,
        /// The addresses now.
        to: Vec<Ipv4Addr>,
    },
    /// The record could not be read or changed; the agent tries again.
    Failed {
        /// How it is logged.
        severity: Severity,
        /// Why.
        reason: String,
    },
    /// Changes came too fast; the next waits.
    Held(Duration),
}

/// All names and what is known of them.
#[derive(Debug)]
pub struct Keeper {
    names: Vec<Kept>,
    wanted: Option<Wanted>,
    pace: Pace,
    random: fastrand::Rng,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    next: Next,
    pause: Pause,
    trouble: Trouble,
    /// The last change that may have been made and was not seen yet.
    tried: Option<Tried>,
    /// Whether the record has been right since the start.
    was_right: bool,
    is_held: bool,
}

#[derive(Clone, Debug)]
enum Next {
    /// Nothing is wanted yet.
    Wait,
    Read(Instant),
    Change(Change, Instant),
    /// The step is out.
    Running,
}

#[derive(Debug)]
struct Tried {
    change: Change,
    is_accepted: bool,
}

impl Keeper {
    /// For these names; `seed` is any number.
    #[must_use]
    pub fn new(now: Instant, names: &[String], seed: u64) -> Self {
        let kept = |name: &String| Kept {
            name: name.clone(),
            next: Next::Wait,
            pause: Pause::default(),
            trouble: Trouble::default(),
            tried: None,
            was_right: false,
            is_held: false,
        };
        Self {
            names: names.iter().map(kept).collect(),
            wanted: None,
            pace: Pace::new(now),
            random: fastrand::Rng::with_seed(seed),
            events: VecDeque::new(),
        }
    }

    /// Every name is to have this.
    pub fn handle_wanted(&mut self, now: Instant, wanted: Wanted) {
        if self.wanted.as_ref() != Some(&wanted) {
            self.wanted = Some(wanted);
            self.read_all(now);
        }
    }

    /// The network changed: what failed before may work now.
    pub fn handle_network_change(&mut self, now: Instant) {
        for kept in self.names.iter_mut().filter(|kept| kept.trouble.is_on()) {
            kept.pause.reset();
            if let Next::Read(due) = &mut kept.next {
                *due = (*due).min(now + SETTLE);
            }
        }
    }

    fn read_all(&mut self, now: Instant) {
        for kept in &mut self.names {
            kept.pause.reset();
            if !matches!(kept.next, Next::Running) {
                kept.next = Next::Read(now);
            }
        }
    }

    /// The next step that is due.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        self.wanted.as_ref()?;
        for kept in &mut self.names {
            let action = match &kept.next {
                Next::Read(due) if *due <= now => Action::Read,
                Next::Change(change, due) if *due <= now => match self.pace.take(now) {
                    Ok(()) => Action::Change(change.clone()),
                    Err(next) => {
                        let pause = next.saturating_duration_since(now);
                        if !std::mem::replace(&mut kept.is_held, true) {
                            let kind = EventKind::Held(pause);
                            self.events.push_back(Event { name: kept.name.clone(), kind });
                        }
                        // The address may be another by then.
                        kept.next = Next::Read(next);
                        continue;
                    }
                },
                Next::Wait | Next::Read(_) | Next::Change(..) | Next::Running => continue,
            };
            kept.next = Next::Running;
            return Some(Step { name: kept.name.clone(), action });
        }
        None
    }

    /// When the next step is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |kept: &Kept| match &kept.next {
            Next::Read(due) | Next::Change(_, due) => Some(*due),
            Next::Wait | Next::Running => None,
        };
        self.names.iter().filter_map(due).min()
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether every name has been right or has failed since the start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.names.iter().all(|kept| kept.was_right || kept.trouble.is_on())
    }

    /// Whether every record is right, as far as is known.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.names.iter().all(|kept| kept.was_right && !kept.trouble.is_on())
    }

    /// What the authority holds for a name.
    pub fn handle_read(&mut self, now: Instant, name: &str, result: Result<Found, Failure>) {
        let Some((index, wanted)) = self.position(name).zip(self.wanted.as_ref()) else { return };
        let found = match result {
            Ok(found) => found,
            Err(failure) => return self.fail(now, index, &failure),
        };
        let Some(kept) = self.names.get_mut(index) else { return };
        let (tried, addresses) = (kept.tried.take(), found.addresses());
        match plan(found, wanted) {
            Ok(None) => self.note_right(now, index, tried.map(|tried| tried.change), addresses),
            Ok(Some(change)) => {
                let is_as_before = |tried: &Tried| tried.is_accepted && tried.change == change;
                if tried.as_ref().is_some_and(is_as_before) {
                    let reason = "the change was accepted, but the record is as it was; \
                                  does another program keep the same name?";
                    self.fail(now, index, &Failure::Refused(reason.to_owned()));
                } else {
                    kept.next = Next::Change(change, now);
                }
            }
            Err(conflict) => self.fail(now, index, &Failure::Refused(conflict.to_string())),
        }
    }

    /// What came of a change.
    pub fn handle_change(&mut self, now: Instant, name: &str, change: Change, result: Result<(), Failure>) {
        let Some(index) = self.position(name) else { return };
        let is_accepted = result.is_ok();
        if let Some(kept) = self.names.get_mut(index) {
            kept.tried = Some(Tried { change, is_accepted });
            kept.next = Next::Read(now);
        }
        if let Err(failure) = result {
            self.fail(now, index, &failure);
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|kept| kept.name == name)
    }

    fn note_right(&mut self, now: Instant, index: usize, change: Option<Change>, found: Vec<Ipv4Addr>) {
        let jitter = VERIFY.mul_f64(self.random.f64() / 5.0);
        let Some(kept) = self.names.get_mut(index) else { return };
        kept.pause.reset();
        kept.is_held = false;
        kept.next = Next::Read(now + VERIFY - jitter);
        let was_failing = kept.trouble.handle_success();
        let is_first = !std::mem::replace(&mut kept.was_right, true);
        let kind = match change {
            Some(change) => EventKind::Changed { from: change.before(), to: found },
            None if was_failing || is_first => EventKind::Right(found),
            None => return,
        };
        self.events.push_back(Event { name: kept.name.clone(), kind });
    }

    fn fail(&mut self, now: Instant, index: usize, failure: &Failure) {
        let random = self.random.u8(..);
        let Some(kept) = self.names.get_mut(index) else { return };
        let (is_refusal, retry_after) = match failure {
            Failure::Unavailable { retry_after, .. } => (false, *retry_after),
            Failure::Refused(_) => (true, None),
            Failure::Outdated => (false, None),
        };
        kept.next = Next::Read(now + kept.pause.handle_failure(is_refusal, retry_after, random));
        let reason = failure.to_string();
        if let Some(severity) = kept.trouble.handle_failure(now, &reason, !is_refusal) {
            let kind = EventKind::Failed { severity, reason };
            self.events.push_back(Event { name: kept.name.clone(), kind });
        }
    }
}
