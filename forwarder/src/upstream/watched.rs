//! What is known of the names that visitors of a service ask for.

use std::sync::Arc;

use daemon::health::{CheckFailure, State, Tries};
use daemon::link::message::{Reason, State as Reported};
use daemon::link::names::{HostName, SeenName, Validity};
use parking_lot::Mutex;
use policy::forwarder::{Check, Service};
use policy::{AllowList, Name, PortRange, Protocol};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tunnel::time::Instant;

use super::pool::Member;
use super::visits::Visits;

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
    /// How it is visited from the internet; `None` where it is not.
    pub visit: Option<Visit>,
    /// What those visits found.
    pub visits: Mutex<Visits>,
    /// The certificates that the upstreams had for it when that was last looked at.
    pub leaves: Mutex<Vec<CertificateDer<'static>>>,
    /// What its visitors speak, as far as the file shows.
    expected: Option<Speech>,
    known: Mutex<Known>,
}

/// How a name is visited from the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Its entry.
    pub service: Name,
    /// The public port.
    pub port: u16,
    /// Whether the file lets in some sources alone: others find the port closed.
    pub is_restricted: bool,
}

impl Visit {
    /// Names are visited on a published TCP port: 443 or 80 where it is one of several, else the
    /// first. What gateway.toml publishes is taken to have the port that the entry matches.
    fn of(entry: &Service) -> Option<Self> {
        if !entry.visitor || entry.names.is_empty() || !entry.protocols.contains(Protocol::Tcp) {
            return None;
        }
        let published = entry.publish.iter().flat_map(|publish| &publish.ports);
        let published = published.filter(|ports| ports.protocol == Protocol::Tcp).map(|ports| ports.ports);
        let ports: Vec<_> = match &entry.publish {
            Some(_) => published.collect(),
            None => vec![entry.ports],
        };
        let usual = [443, 80].into_iter().find(|port| ports.iter().any(|ports| ports.contains(*port)));
        let port = usual.or_else(|| ports.first().map(|ports| ports.first()))?;
        let from = entry.publish.as_ref().map(|publish| &publish.from);
        let is_restricted = from.into_iter().chain([&entry.allow]).any(|list| *list != AllowList::Any);
        Some(Self { service: entry.name.clone(), port, is_restricted })
    }
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
        let visit = Visit::of(entry);
        let watched = |name: Option<HostName>| {
            let new = Self {
                visit: visit.clone().filter(|_| name.is_some()),
                name,
                members: members.to_vec(),
                turns: Arc::clone(&turns),
                visits: Mutex::default(),
                leaves: Mutex::default(),
                expected,
                known: Mutex::default(),
            };
            before.iter().find(|old| old.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new))
        };
        named.chain(unnamed).map(watched).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        let same = |(own, other): (&Arc<Member>, &Arc<Member>)| Arc::ptr_eq(own, other);
        self.name == other.name
            && self.expected == other.expected
            && self.visit == other.visit
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
    pub fn seen(&self, now: Instant) -> Option<SeenName> {
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
        let visitor = self.visit.as_ref().map(|_| self.visits.lock().seen(now));
        Some(SeenName { name: self.name.clone()?, state, since, reason, certificate, visitor })
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;
    use crate::upstream::Pool;

    #[test]
    fn a_name_is_visited_on_its_published_port_and_no_other() {
        for (entry, port) in [
            ("match = \"192.168.88.2:443\"", 443),
            ("match = \"192.168.88.2:8443\"\npublish = [443]", 443),
            ("match = \"192.168.88.2:8443\"\npublish = [8000, 443]", 443),
            ("match = \"192.168.88.2:8443\"\npublish = [8000, 8001]", 8_000),
            ("publish = [443, \"443/udp\"]", 443),
        ] {
            assert_eq!(
                visit(entry).map(|visit| (visit.port, visit.is_restricted)),
                Some((port, false)),
                "{entry}"
            );
        }
    }

    #[test]
    fn what_is_turned_off_is_not_visited_and_what_lets_in_some_sources_alone_is_known() {
        assert_eq!(visit("match = \"192.168.88.2:443\"\nvisitor = \"off\""), None);
        for entry in [
            "publish = { ports = [443], from = [\"@cloudflare\"] }",
            "match = \"192.168.88.2:443\"\nallow = [\"192.0.2.0/24\"]",
        ] {
            assert!(visit(entry).unwrap().is_restricted, "{entry}");
        }
    }

    fn visit(entry: &str) -> Option<Visit> {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"web\"\nupstream = \"127.0.0.1:1\"\nnames = [\"emby.example.com\"]\n{entry}"
        );
        let policy =
            policy::forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap();
        Pool::new(&policy.services[0], None).names()[0].visit.clone()
    }
}
