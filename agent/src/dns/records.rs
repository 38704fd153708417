//! Records that are kept at an authority: carries out what the keeper decides.

use std::time::Instant;

use tokio::task::spawn_blocking;

use super::authority::{Authority, Outcome};
use super::failure::Severity;
use super::keeper::{Event, EventKind, Keeper, Step};
use super::record::{Found, Wanted, shown};

/// Names of one zone, and who holds it.
pub struct Records {
    /// Taken while a step runs.
    authority: Option<Authority>,
    keeper: Keeper,
}

impl Records {
    /// These names of the authority's zone.
    #[must_use]
    pub fn new(authority: Authority, names: &[String]) -> Self {
        let keeper = Keeper::new(Instant::now(), names, fastrand::u64(..));
        Self { authority: Some(authority), keeper }
    }

    /// Every name is to have this.
    pub fn handle_wanted(&mut self, now: Instant, wanted: Wanted) {
        self.keeper.handle_wanted(now, wanted);
    }

    /// The network of this machine changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.keeper.handle_network_change(now);
    }

    /// When a step is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.keeper.poll_timeout()
    }

    /// What happened since the last call, logged already.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.keeper.poll_event()?;
        log(&event.name, &event.kind);
        Some(event)
    }

    /// Whether every name has been right or has failed since the start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.keeper.is_settled()
    }

    /// Whether every record is right, as far as is known.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.keeper.is_right()
    }

    /// Carries out the step that is due; `None` where none is, else what was read, if it read.
    pub async fn advance(&mut self) -> Option<Option<Found>> {
        let Step { name, action } = self.keeper.poll_step(Instant::now())?;
        let mut authority = self.authority.take()?;
        let of = name.clone();
        let done = spawn_blocking(move || {
            let outcome = authority.carry_out(&of, action);
            (authority, outcome)
        });
        let (authority, outcome) = done.await.ok()?;
        self.authority = Some(authority);
        let now = Instant::now();
        match outcome {
            Outcome::Read(result) => {
                let found = result.as_ref().ok().cloned();
                self.keeper.handle_read(now, &name, result);
                Some(found)
            }
            Outcome::Changed(change, result) => {
                self.keeper.handle_change(now, &name, change, result);
                Some(None)
            }
        }
    }
}

fn log(name: &str, kind: &EventKind) {
    match kind {
        EventKind::Right(addresses) => {
            tracing::info!(name, address = shown(addresses), "the record is right");
        }
        EventKind::Changed { from, to } => {
            tracing::info!(name, from = shown(from), to = shown(to), "the record was changed");
        }
        EventKind::Failed { severity: Severity::Warning, reason } => {
            tracing::warn!(name, "the record cannot be kept: {reason}");
        }
        EventKind::Failed { severity: Severity::Info, reason } => {
            tracing::info!(name, "the record cannot be kept for now: {reason}");
        }
        EventKind::Held(pause) => {
            let seconds = pause.as_secs();
            tracing::warn!(name, seconds, "the record is changed too often; the next change waits");
        }
    }
}
