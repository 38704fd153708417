//! The health of services across a link: what the sender reports and when, and what the reader
//! keeps of it.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnetwork::IpNetwork;
use policy::Name;
use tunnel::time::Instant;

use super::message::{Evidence, Health, Matches, Reason, Service, State};
use super::names::{self, HostName, MAX_NAMES, NameHealth, SeenName};
use super::visitor::Visited;

/// How often everything is reported again although nothing changed.
pub const DIGEST_EVERY: Duration = Duration::from_secs(300);
/// The most services of one sender that are reported, and kept.
pub const MAX_SERVICES: usize = 512;
/// Services in one message: so many with the longest names and evidence fit in a frame.
const PER_MESSAGE: usize = 16;

/// How a service is now, as its own machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name in the configuration.
    pub name: Name,
    /// How it is.
    pub state: State,
    /// Why it is failing.
    pub reason: Option<Reason>,
    /// What was seen.
    pub evidence: Option<Evidence>,
    /// What it takes.
    pub matches: Matches,
    /// The peers through which it is reached; it is reported to them alone.
    pub peers: Vec<Name>,
    /// What its visitors ask for.
    pub names: Vec<SeenName>,
}

impl Seen {
    /// Whether there is nothing new to report of the service itself.
    fn is_as(&self, old: &Self) -> bool {
        let itself = |seen: &Self| Self { names: Vec::new(), ..seen.clone() };
        itself(self) == itself(old)
    }
}

/// Knows since when each service is as it is, and what is new.
#[derive(Debug, Default)]
pub struct Reporter {
    services: BTreeMap<Name, (Seen, Instant)>,
}

impl Reporter {
    /// Takes how the services are now; returns what is to be reported: those that changed, or all
    /// when a service or name came or went, for a peer or altogether. Each peer is sent what
    /// [`Self::part_of`] leaves of it.
    pub fn handle_look(&mut self, now: Instant, seen: Vec<Seen>) -> Vec<Health> {
        let before = std::mem::take(&mut self.services);
        let (mut changed, mut changed_names) = (Vec::new(), Vec::new());
        let mut room = MAX_NAMES;
        for mut new in seen.into_iter().take(MAX_SERVICES) {
            new.names.truncate(room);
            room -= new.names.len();
            let old = before.get(&new.name);
            let since = old.filter(|(old, _)| old.state == new.state).map_or(now, |(_, since)| *since);
            if old.is_none_or(|(old, _)| !new.is_as(old)) {
                changed.push(as_sent(now, &(new.clone(), since)));
            }
            let known = old.map_or(&[][..], |(old, _)| old.names.as_slice());
            let is_new = |name: &&SeenName| !known.iter().any(|old| name.is_as(old));
            changed_names.extend(new.names.iter().filter(is_new).map(|name| name.health(now, &new.name)));
            self.services.insert(new.name.clone(), (new, since));
        }
        if places(&before) == places(&self.services) {
            parts(&changed, &changed_names, false)
        } else {
            self.digest(now)
        }
    }

    /// A report without the services that are not reached through this peer; `None` when nothing is
    /// left to be said.
    #[must_use]
    pub fn part_of(&self, peer: &Name, mut report: Health) -> Option<Health> {
        let is_its =
            |service: &Name| self.services.get(service).is_some_and(|(seen, _)| seen.peers.contains(peer));
        report.services.retain(|service| is_its(&service.name));
        report.names.retain(|name| is_its(&name.service));
        let is_empty = report.services.is_empty() && report.names.is_empty();
        (!is_empty || report.begins || report.ends).then_some(report)
    }

    /// All services, in as many messages as they need.
    #[must_use]
    pub fn digest(&self, now: Instant) -> Vec<Health> {
        let services: Vec<_> = self.services.values().map(|known| as_sent(now, known)).collect();
        let of_service = |(seen, _): &(Seen, Instant)| -> Vec<NameHealth> {
            seen.names.iter().map(|name| name.health(now, &seen.name)).collect()
        };
        let names: Vec<_> = self.services.values().flat_map(of_service).collect();
        parts(&services, &names, true)
    }
}

/// What each peer reaches, whatever its state.
fn places(known: &BTreeMap<Name, (Seen, Instant)>) -> Vec<(Name, Vec<Name>, Vec<HostName>)> {
    let place = |(seen, _): &(Seen, Instant)| {
        let names = seen.names.iter().map(|seen| seen.name.clone()).collect();
        (seen.name.clone(), seen.peers.clone(), names)
    };
    known.values().map(place).collect()
}

fn as_sent(now: Instant, (seen, since): &(Seen, Instant)) -> Service {
    Service {
        name: seen.name.clone(),
        state: seen.state,
        seconds: now.since(*since).as_secs(),
        reason: seen.reason,
        evidence: seen.evidence.clone(),
        matches: Some(seen.matches.clone()),
    }
}

fn parts(services: &[Service], names: &[NameHealth], is_digest: bool) -> Vec<Health> {
    let part = |services: &[Service]| Health { services: services.to_vec(), ..Health::default() };
    let named = |names: &[NameHealth]| Health { names: names.to_vec(), ..Health::default() };
    let services = services.chunks(PER_MESSAGE).map(part);
    let mut parts: Vec<Health> = services.chain(names.chunks(names::PER_MESSAGE).map(named)).collect();
    if is_digest {
        if parts.is_empty() {
            parts.push(Health::default());
        }
        parts.iter_mut().take(1).for_each(|first| first.begins = true);
        parts.iter_mut().rev().take(1).for_each(|last| last.ends = true);
    }
    parts
}

/// What the other end reported, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Its services.
    pub services: Vec<Service>,
    /// The names of them.
    pub names: Vec<NameHealth>,
    /// Whether these are all.
    pub is_whole: bool,
}

/// The services of the other end, as it last reported them.
#[derive(Debug, Default)]
pub struct Table {
    services: BTreeMap<Name, Kept<Service>>,
    names: BTreeMap<(Name, HostName), Kept<NameHealth>>,
    /// Whether a whole digest came.
    has_digest: bool,
}

/// A service or name as it was reported.
#[derive(Debug)]
struct Kept<T> {
    reported: T,
    at: Instant,
    /// Whether the digest that is coming in has it.
    is_confirmed: bool,
}

impl Table {
    /// Takes a report. Services beyond [`MAX_SERVICES`] are ignored, and names beyond
    /// [`MAX_NAMES`].
    pub fn handle_report(&mut self, now: Instant, health: Health) {
        if health.begins {
            self.services.values_mut().for_each(|kept| kept.is_confirmed = false);
            self.names.values_mut().for_each(|kept| kept.is_confirmed = false);
        }
        for service in health.services {
            if has_room(&mut self.services, &service.name, MAX_SERVICES) {
                let name = service.name.clone();
                self.services.insert(name, Kept { reported: service, at: now, is_confirmed: true });
            }
        }
        for name in health.names {
            let key = (name.service.clone(), name.name.clone());
            if has_room(&mut self.names, &key, MAX_NAMES) {
                self.names.insert(key, Kept { reported: name, at: now, is_confirmed: true });
            }
        }
        if health.ends {
            self.has_digest = true;
            self.services.retain(|_, kept| kept.is_confirmed);
            self.names.retain(|_, kept| kept.is_confirmed);
        }
    }

    /// The services as of now.
    pub fn services(&self, now: Instant) -> impl Iterator<Item = Service> {
        self.services.values().map(move |kept| {
            let seconds = kept.reported.seconds.saturating_add(now.since(kept.at).as_secs());
            Service { seconds, ..kept.reported.clone() }
        })
    }

    /// The names as of now.
    pub fn names(&self, now: Instant) -> impl Iterator<Item = NameHealth> {
        self.names.values().map(move |kept| {
            let age = now.since(kept.at).as_secs();
            let seconds = kept.reported.seconds.saturating_add(age);
            let later =
                |visited: Visited| Visited { seconds: visited.seconds.saturating_add(age), ..visited };
            let visitor = kept.reported.visitor.map(later);
            NameHealth { seconds, visitor, ..kept.reported.clone() }
        })
    }

    /// Whether these are all services of the sender.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.has_digest && self.services.len() < MAX_SERVICES
    }

    /// Bytes of memory that it holds, roughly.
    #[must_use]
    pub fn held(&self) -> usize {
        let text =
            |kept: &Kept<Service>| kept.reported.evidence.as_ref().map_or(0, |text| text.as_str().len());
        let addresses = Matches::MAX_ADDRESSES * size_of::<IpNetwork>();
        let service = |kept| 2 * size_of::<Kept<Service>>() + Name::MAX + addresses + text(kept);
        let services: usize = self.services.values().map(service).sum();
        let name = 2 * size_of::<Kept<NameHealth>>() + 2 * Name::MAX + HostName::MAX;
        services + name * self.names.len()
    }
}

/// Whether there is room for one more of this key: what the digest that is coming in does not have
/// makes room.
fn has_room<K: Ord + Clone, T>(table: &mut BTreeMap<K, Kept<T>>, key: &K, most: usize) -> bool {
    if table.len() < most || table.contains_key(key) {
        return true;
    }
    let old = table.iter().find(|(_, kept)| !kept.is_confirmed).map(|(key, _)| key.clone());
    old.is_some_and(|old| table.remove(&old).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::frame::MAX_FRAME;
    use crate::link::message::{Message, Ports};
    use crate::link::names::Validity;
    use crate::link::visitor::{Cause, Proof};
    use policy::PortRange;

    #[test]
    fn the_first_look_is_reported_whole_and_the_next_only_when_something_changed() {
        let mut reporter = Reporter::default();
        let first = reporter.handle_look(at(0), vec![seen("a", State::Up), seen("b", State::Up)]);
        assert!(
            matches!(first.as_slice(), [Health { begins: true, ends: true, services, .. }] if services.len() == 2)
        );
        assert_eq!(reporter.handle_look(at(9), vec![seen("a", State::Up), seen("b", State::Up)]), []);
        let changed = reporter.handle_look(at(12), vec![seen("a", State::Up), seen("b", State::Failing)]);
        assert_eq!(changed, [Health { services: vec![sent("b", State::Failing, 0)], ..Health::default() }]);
        assert_eq!(
            reporter.digest(at(20))[0].services,
            [sent("a", State::Up, 20), sent("b", State::Failing, 8)]
        );
    }

    #[test]
    fn a_new_reason_is_reported_and_the_time_of_the_state_goes_on() {
        let mut reporter = Reporter::default();
        reporter.handle_look(at(0), vec![seen("a", State::Failing)]);
        let other = Seen { reason: Some(Reason::Refused), ..seen("a", State::Failing) };
        let changed = reporter.handle_look(at(7), vec![other]);
        let expected = Service { reason: Some(Reason::Refused), ..sent("a", State::Failing, 7) };
        assert_eq!(changed[0].services, [expected]);
    }

    #[test]
    fn a_service_that_is_gone_is_reported_by_a_digest_and_forgotten_by_the_reader() {
        let (mut reporter, mut table) = (Reporter::default(), Table::default());
        let look = |names: &[&str]| names.iter().map(|name| seen(name, State::Up)).collect();
        for names in [["a", "b"].as_slice(), &["b"], &[]] {
            let reports = reporter.handle_look(at(1), look(names));
            reports.into_iter().for_each(|report| table.handle_report(at(1), report));
            assert_eq!(
                table.services(at(1)).map(|service| service.name).collect::<Vec<_>>().len(),
                names.len()
            );
        }
    }

    #[test]
    fn a_digest_of_many_parts_keeps_what_every_part_has() {
        let (mut reporter, mut table) = (Reporter::default(), Table::default());
        let all = |count: usize| (0..count).map(|number| seen(&format!("s{number}"), State::Up)).collect();
        for (count, kept) in [(70, 70), (45, 45), (MAX_SERVICES + 9, MAX_SERVICES)] {
            let parts = reporter.handle_look(at(1), all(count));
            assert!(parts.len() > 1);
            for (index, part) in parts.iter().enumerate() {
                assert_eq!((part.begins, part.ends), (index == 0, index + 1 == parts.len()));
            }
            parts.into_iter().for_each(|part| table.handle_report(at(1), part));
            assert_eq!(table.services(at(1)).count(), kept);
        }
    }

    #[test]
    fn a_peer_is_sent_the_services_that_are_reached_through_it_and_no_others() {
        let (kyiv, oracle) = (Name::new("kyiv").unwrap(), Name::new("oracle").unwrap());
        let mut reporter = Reporter::default();
        let both = |peers: Vec<Name>| vec![seen("a", State::Up), Seen { peers, ..seen("b", State::Up) }];
        let first = reporter.handle_look(at(1), both(vec![oracle.clone()])).remove(0);
        let names = |part: Option<Health>| -> Vec<String> {
            part.into_iter().flat_map(|part| part.services).map(|service| service.name.to_string()).collect()
        };
        assert_eq!(names(reporter.part_of(&kyiv, first.clone())), ["a"]);
        assert_eq!(names(reporter.part_of(&oracle, first)), ["b"]);
        // What is not reached through a peer any more is gone for it: all is reported again.
        let moved = reporter.handle_look(at(2), both(vec![kyiv.clone()])).remove(0);
        assert!(moved.begins && moved.ends);
        let failing = vec![seen("a", State::Failing), Seen { peers: vec![kyiv], ..seen("b", State::Up) }];
        let changed = reporter.handle_look(at(3), failing).remove(0);
        assert_eq!(reporter.part_of(&oracle, changed), None);
    }

    #[test]
    fn a_table_is_whole_once_a_digest_ended() {
        let mut table = Table::default();
        table.handle_report(at(1), Health { services: vec![sent("a", State::Up, 1)], ..Health::default() });
        assert!(!table.is_whole());
        table.handle_report(at(1), Health { begins: true, ends: true, ..Health::default() });
        assert!(table.is_whole());
    }

    #[test]
    fn a_reader_keeps_a_bounded_number_of_services_whatever_comes() {
        let mut table = Table::default();
        for number in 0..2_000 {
            let services = vec![sent(&format!("s{number}"), State::Up, u64::MAX)];
            table.handle_report(at(number), Health { services, ..Health::default() });
        }
        assert_eq!(table.services(at(9_999)).count(), MAX_SERVICES);
        assert!(table.held() < 256 << 10, "{} bytes", table.held());
        for number in 0..2_000 {
            let names =
                vec![named(&format!("n{number}.example.com"), State::Up, 0).health(at(9), &name("s1"))];
            table.handle_report(at(number), Health { names, ..Health::default() });
        }
        assert_eq!(table.names(at(9_999)).count(), MAX_NAMES);
        assert!(table.held() < 512 << 10, "{} bytes", table.held());
    }

    #[test]
    fn a_digest_whose_services_have_other_names_is_taken_whole() {
        let mut table = Table::default();
        for generation in ["old", "new", "newer"] {
            for number in 0..MAX_SERVICES - 1 {
                let services = vec![sent(&format!("{generation}{number}"), State::Up, 0)];
                let (begins, ends) = (number == 0, number == MAX_SERVICES - 2);
                table.handle_report(at(1), Health { begins, ends, services, ..Health::default() });
            }
            assert_eq!((table.services(at(1)).count(), table.is_whole()), (MAX_SERVICES - 1, true));
            assert!(table.services(at(1)).all(|service| service.name.as_str().starts_with(generation)));
        }
    }

    #[test]
    fn of_the_names_of_a_service_those_that_changed_are_reported_and_one_that_is_gone_by_a_digest() {
        let (mut reporter, mut table) = (Reporter::default(), Table::default());
        let look = |names: Vec<SeenName>| vec![Seen { names, ..seen("web", State::Up) }];
        let (emby, photos) =
            (named("emby.example.com", State::Up, 0), named("photos.example.com", State::Up, 0));
        for report in reporter.handle_look(at(1), look(vec![emby.clone(), photos.clone()])) {
            table.handle_report(at(1), report);
        }
        assert_eq!(table.names(at(11)).map(|name| name.seconds).collect::<Vec<_>>(), [11, 11]);
        let failing =
            SeenName { reason: Some(Reason::NoSite), ..named("photos.example.com", State::Failing, 12) };
        let changed = reporter.handle_look(at(15), look(vec![emby.clone(), failing.clone()]));
        let expected = Health { names: vec![failing.health(at(15), &name("web"))], ..Health::default() };
        assert_eq!(changed, [expected], "the service itself and the other name are as they were");
        table.handle_report(at(15), changed[0].clone());
        let states: Vec<_> = table.names(at(20)).map(|name| (name.state, name.seconds)).collect();
        assert_eq!(states, [(State::Up, 20), (State::Failing, 8)]);
        for report in reporter.handle_look(at(30), look(vec![emby])) {
            table.handle_report(at(30), report);
        }
        assert_eq!(
            table.names(at(30)).map(|name| name.name).collect::<Vec<_>>(),
            [HostName::new("emby.example.com").unwrap()]
        );
    }

    #[test]
    fn the_names_of_a_service_are_sent_to_the_peers_that_reach_it() {
        let mut reporter = Reporter::default();
        let names = vec![named("emby.example.com", State::Up, 0)];
        let digest = reporter.handle_look(at(1), vec![Seen { names, ..seen("web", State::Up) }]);
        let count = |peer: &str| -> usize {
            let parts = digest.iter().filter_map(|part| reporter.part_of(&name(peer), part.clone()));
            parts.map(|part| part.names.len()).sum()
        };
        assert_eq!((count("kyiv"), count("oracle")), (1, 0));
    }

    #[test]
    fn the_longest_message_fits_in_a_frame() {
        let longest = Service {
            name: Name::new(&"n".repeat(Name::MAX)).unwrap(),
            state: State::Failing,
            seconds: u64::MAX,
            reason: Some(Reason::Unreachable),
            evidence: Some(Evidence::of(&"\"".repeat(Evidence::MAX))),
            matches: Some(Matches {
                addresses: vec![
                    "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
                    Matches::MAX_ADDRESSES
                ],
                ..matches()
            }),
        };
        let label = "n".repeat(63);
        let name = HostName::new(&[label.as_str(), &label, &label, &label[2..]].join(".")).unwrap();
        assert_eq!(name.as_str().len(), HostName::MAX);
        let named = NameHealth {
            service: longest.name.clone(),
            name,
            state: State::Failing,
            seconds: u64::MAX,
            reason: Some(Reason::CertificateNotYetValid),
            certificate: Some(Validity { hours: i32::MIN, lifetime: i32::MIN }),
            visitor: Some(Visited {
                state: Proof::Unknown,
                seconds: u64::MAX,
                cause: Some(Cause::CertificateNotYetValid),
                trusted: Some(false),
            }),
        };
        let parts = parts(&vec![longest; PER_MESSAGE], &vec![named; names::PER_MESSAGE], true);
        assert_eq!(parts.len(), 2);
        for part in parts {
            let length = serde_json::to_vec(&Message::Health(part)).unwrap().len();
            assert!(length <= MAX_FRAME, "{length}");
        }
    }

    fn seen(name: &str, state: State) -> Seen {
        let peers = vec![Name::new("kyiv").unwrap()];
        Seen {
            name: Name::new(name).unwrap(),
            state,
            reason: None,
            evidence: None,
            matches: matches(),
            peers,
            names: Vec::new(),
        }
    }

    fn named(name: &str, state: State, since: u64) -> SeenName {
        let name = HostName::new(name).unwrap();
        SeenName { name, state, since: at(since), reason: None, certificate: None, visitor: None }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn matches() -> Matches {
        Matches { addresses: Vec::new(), ports: Ports(PortRange::ALL), tcp: true, udp: true }
    }

    fn sent(name: &str, state: State, seconds: u64) -> Service {
        let matches = Some(matches());
        Service { name: Name::new(name).unwrap(), state, seconds, reason: None, evidence: None, matches }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
