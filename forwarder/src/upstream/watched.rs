//! What is known of the names that visitors of a service ask for.

use std::sync::Arc;

use daemon::health::{CheckFailure, State, Tries};
use daemon::link::message::{Reason, State as Reported};
use daemon::link::names::{HostName, SeenName, Validity};
use parking_lot::Mutex;
use policy::forwarder::{Check, Service};
use policy::{PortRange, Protocol};
use tokio::sync::Semaphore;
use tunnel::time::Instant;

use super::pool::Member;

/// The most looks at names of one entry at a time.
const AT_A_TIME: usize = 2;

/// What visitors of a service speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// TLS.
    Tls,
    /// HTTP without TLS.
    Http,
}

/// One name of an entry. An entry without names has one without a name: its upstream is tried for
/// the PROXY header alone.
#[derive(Debug)]
pub struct Watched {
    /// What visitors ask for.
    pub name: Option<HostName>,
    /// The upstreams that have it.
    pub members: Vec<Arc<Member>>,
    /// How many names of its entry may be looked at, at a time.
    pub turns: Arc<Semaphore>,
    /// What its visitors speak, as far as the file shows.
    expected: Option<Speech>,
    known: Mutex<Known>,
}

/// What was seen; for the control plane alone.
#[derive(Debug, Default)]
struct Known {
    tries: Tries,
    /// Since when it is as it is; `None` before it is known to anyone.
    since: Option<Instant>,
    certificate: Option<Validity>,
    /// What the upstream spoke, where the file does not show it.
    speech: Option<Speech>,
}

/// What one look at a name found.
#[derive(Debug)]
pub struct Found {
    /// Whether it works.
    pub result: Result<(), CheckFailure>,
    /// The time of its certificate.
    pub certificate: Option<Validity>,
    /// What the upstream spoke.
    pub speech: Speech,
}

impl Watched {
    /// The names of an entry with these upstreams; those that were there before keep what is known
    /// of them.
    pub(super) fn of(entry: &Service, members: &[Arc<Member>], before: &[Arc<Self>]) -> Vec<Arc<Self>> {
        let expected = expected(entry);
        let named = entry.names.iter().filter_map(|name| HostName::new(name)).map(Some);
        // Without a name and without knowing what visitors speak, nothing can be seen.
        let unnamed =
            (entry.names.is_empty() && expected.is_some() && entry.health.is_some()).then_some(None);
        let turns =
            before.first().map_or_else(|| Arc::new(Semaphore::new(AT_A_TIME)), |old| Arc::clone(&old.turns));
        let watched = |name| {
            let known = Mutex::default();
            let new = Self { name, members: members.to_vec(), turns: Arc::clone(&turns), expected, known };
            before.iter().find(|old| old.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new))
        };
        named.chain(unnamed).map(watched).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        let same = |(own, other): (&Arc<Member>, &Arc<Member>)| Arc::ptr_eq(own, other);
        self.name == other.name
            && self.expected == other.expected
            && self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(same)
    }

    /// Whether it is looked at.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.members.iter().any(|member| member.health.is_some())
    }

    /// Whether the file shows what its visitors speak.
    #[must_use]
    pub const fn is_expected(&self) -> bool {
        self.expected.is_some()
    }

    /// What its upstream speaks, by the file or as it was seen.
    #[must_use]
    pub fn speech(&self) -> Option<Speech> {
        self.expected.or_else(|| self.known.lock().speech)
    }

    /// It is in the configuration since now, if it was not before.
    pub fn begin(&self, now: Instant) {
        let mut known = self.known.lock();
        known.since = known.since.or(Some(now));
    }

    /// Takes what a look found; whether the state is another than before.
    pub fn handle_look(&self, now: Instant, found: Found) -> bool {
        let mut known = self.known.lock();
        known.since = known.since.or(Some(now));
        known.speech = Some(found.speech);
        let changed = known.tries.handle_probe(found.result);
        // One look that fails decides nothing, and shows no other certificate.
        if found.certificate.is_some() || known.tries.state() != State::Ok {
            known.certificate = found.certificate;
        }
        if changed {
            known.since = Some(now);
        }
        changed
    }

    /// What the looks say.
    #[must_use]
    pub fn state(&self) -> State {
        self.known.lock().tries.state()
    }

    /// Whether the next look decides about a first failure.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.known.lock().tries.is_in_doubt()
    }

    /// Why the last look failed.
    #[must_use]
    pub fn failure(&self) -> Option<CheckFailure> {
        self.known.lock().tries.failure().cloned()
    }

    /// As it is reported; `None` without a name.
    #[must_use]
    pub fn seen(&self) -> Option<SeenName> {
        let known = self.known.lock();
        let (state, reason) = match known.tries.state() {
            State::Ok => (Reported::Up, None),
            State::Unknown => (Reported::Unknown, None),
            State::Failing => {
                let reason = known.tries.failure().map_or(Reason::Other, |failure| failure.reason);
                (Reported::Failing, Some(reason))
            }
        };
        let (since, certificate) = (known.since?, known.certificate);
        Some(SeenName { name: self.name.clone()?, state, since, reason, certificate })
    }
}

/// What visitors of an entry speak: what its checks do, else what its ports are for.
#[must_use]
pub fn expected(entry: &Service) -> Option<Speech> {
    match entry.health.as_ref().map(|health| &health.check) {
        Some(Check::Tls { .. }) => return Some(Speech::Tls),
        Some(Check::Http { .. }) => return Some(Speech::Http),
        Some(Check::Tcp) | None => {}
    }
    let is = |ports: PortRange, port| ports.first() == port && ports.count() == 1;
    let published = entry.publish.iter().flat_map(|publish| &publish.ports);
    let has = |port| {
        let mut published = published.clone().filter(|ports| ports.protocol == Protocol::Tcp);
        is(entry.ports, port) || published.any(|ports| is(ports.ports, port))
    };
    if has(443) { Some(Speech::Tls) } else { has(80).then_some(Speech::Http) }
}
