//! What is noted in the history.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use daemon::health::{NameShown, PathShown};
use daemon::history::observer::{Observer, ServiceSeen};
use daemon::history::{History, What, applied};
use daemon::peers::Peer;
use policy::gateway::Policy;
use tunnel::io::clock;
use tunnel::time::Instant;

use super::in_force::granted_changes;

/// Repairs within this time of a noted one are not noted: a program that keeps changing something
/// would fill the history.
const REPAIR_PACE: Duration = Duration::from_secs(60);

/// The history, and what was looked at for it.
pub(super) struct Past {
    pub(super) history: History,
    observer: RefCell<Observer>,
    next_repair: Cell<Instant>,
}

/// A service as a look found it.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) path: PathShown,
    pub(super) names: Vec<NameShown>,
    pub(super) peer: Option<String>,
}

impl Seen {
    fn shown(&self) -> ServiceSeen<'_> {
        let Self { name, path, names, peer } = self;
        ServiceSeen { name, path, names, peer: peer.as_deref() }
    }
}

impl Past {
    /// Begins with the start of the daemon, and the version that `failed` where it went back to
    /// this one.
    pub(super) fn new(history: History, failed: Option<String>) -> Self {
        history.note(What::Started { version: env!("CARGO_PKG_VERSION").to_owned(), failed });
        Self { history, observer: RefCell::default(), next_repair: Cell::default() }
    }

    /// Notes what is another than at the look before.
    pub(super) fn handle_look(&self, now: Instant, peers: &[Peer], seen: &[Seen]) {
        let services: Vec<_> = seen.iter().map(Seen::shown).collect();
        let changes = self.observer.borrow_mut().handle_look(now, peers, &services);
        changes.into_iter().for_each(|what| self.history.note(what));
    }

    /// Notes what was put back.
    pub(super) fn handle_repair(&self, lines: &[String]) {
        let now = clock::instant();
        if let Some(first) = lines.first().filter(|_| now >= self.next_repair.get()) {
            self.next_repair.set(now.after(REPAIR_PACE));
            let more = match lines.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            self.history.note(What::Repaired { what: format!("{first}{more}") });
        }
    }

    /// Notes what peers publish now and did not before, or the reverse.
    pub(super) fn handle_grants(&self, before: &Policy, now: &Policy) {
        let changes: Vec<_> = granted_changes(before, now).collect();
        if !changes.is_empty() {
            self.history.note(applied("grant", &changes));
        }
    }

    /// Notes that the daemon stops.
    pub(super) fn handle_stop(&self, announced: String) {
        self.history.note(What::Stopping { notice: Some(announced) });
    }
}
