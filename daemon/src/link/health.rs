//! The health of services across a link: what the sender reports and when, and what the reader
//! keeps of it.

use std::collections::BTreeMap;
use std::time::Duration;

use policy::Name;
use tunnel::time::Instant;

use super::message::{Evidence, Health, Matches, Reason, Service, State};

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
}

/// Knows since when each service is as it is, and what is new.
#[derive(Debug, Default)]
pub struct Reporter {
    services: BTreeMap<Name, (Seen, Instant)>,
}

impl Reporter {
    /// Takes how the services are now; returns what is to be reported: those that changed, or all
    /// when one came or went, for a peer or altogether. Each peer is sent what [`Self::part_of`]
    /// leaves of it.
    pub fn handle_look(&mut self, now: Instant, seen: Vec<Seen>) -> Vec<Health> {
        let before = std::mem::take(&mut self.services);
        let mut changed = Vec::new();
        for new in seen.into_iter().take(MAX_SERVICES) {
            let old = before.get(&new.name);
            let since = old.filter(|(old, _)| old.state == new.state).map_or(now, |(_, since)| *since);
            if old.is_none_or(|(old, _)| *old != new) {
                changed.push(as_sent(now, &(new.clone(), since)));
            }
            self.services.insert(new.name.clone(), (new, since));
        }
        let places = |known: &BTreeMap<Name, (Seen, Instant)>| -> Vec<_> {
            known.iter().map(|(name, (seen, _))| (name.clone(), seen.peers.clone())).collect()
        };
        if places(&before) == places(&self.services) { parts(&changed, false) } else { self.digest(now) }
    }

    /// A report without the services that are not reached through this peer; `None` when nothing is
    /// left to be said.
    #[must_use]
    pub fn part_of(&self, peer: &Name, mut report: Health) -> Option<Health> {
        let is_its = |service: &Service| {
            self.services.get(&service.name).is_some_and(|(seen, _)| seen.peers.contains(peer))
        };
        report.services.retain(is_its);
        (!report.services.is_empty() || report.begins || report.ends).then_some(report)
    }

    /// All services, in as many messages as they need.
    #[must_use]
    pub fn digest(&self, now: Instant) -> Vec<Health> {
        parts(&self.services.values().map(|known| as_sent(now, known)).collect::<Vec<_>>(), true)
    }
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

fn parts(services: &[Service], is_digest: bool) -> Vec<Health> {
    let part = |services: &[Service]| Health { services: services.to_vec(), ..Health::default() };
    let mut parts: Vec<Health> = services.chunks(PER_MESSAGE).map(part).collect();
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
    /// Whether these are all.
    pub is_whole: bool,
}

/// The services of the other end, as it last reported them.
#[derive(Debug, Default)]
pub struct Table {
    services: BTreeMap<Name, Kept>,
    /// Whether a whole digest came.
    has_digest: bool,
}

/// A service as it was reported.
#[derive(Debug)]
struct Kept {
    service: Service,
    at: Instant,
    /// Whether the digest that is coming in has it.
    is_confirmed: bool,
}

impl Table {
    /// Takes a report. Services beyond [`MAX_SERVICES`] are ignored.
    pub fn handle_report(&mut self, now: Instant, health: Health) {
        if health.begins {
            self.services.values_mut().for_each(|kept| kept.is_confirmed = false);
        }
        for service in health.services {
            if self.services.len() < MAX_SERVICES || self.services.contains_key(&service.name) {
                let name = service.name.clone();
                self.services.insert(name, Kept { service, at: now, is_confirmed: true });
            }
        }
        if health.ends {
            self.has_digest = true;
            self.services.retain(|_, kept| kept.is_confirmed);
        }
    }

    /// The services as of now.
    pub fn services(&self, now: Instant) -> impl Iterator<Item = Service> {
        self.services.values().map(move |kept| {
            let seconds = kept.service.seconds.saturating_add(now.since(kept.at).as_secs());
            Service { seconds, ..kept.service.clone() }
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
        let text = |kept: &Kept| kept.service.evidence.as_ref().map_or(0, |text| text.as_str().len());
        self.services.values().map(|kept| 2 * size_of::<Kept>() + Name::MAX + text(kept)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::frame::MAX_FRAME;
    use crate::link::message::{Message, Ports};
    use policy::PortRange;

    #[test]
    fn the_first_look_is_reported_whole_and_the_next_only_when_something_changed() {
        let mut reporter = Reporter::default();
        let first = reporter.handle_look(at(0), vec![seen("a", State::Up), seen("b", State::Up)]);
        assert!(
            matches!(first.as_slice(), [Health { begins: true, ends: true, services }] if services.len() == 2)
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
        table.handle_report(at(1), Health { begins: true, ends: true, services: vec![] });
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
        let mut parts = parts(&vec![longest; PER_MESSAGE], true);
        let message = Message::Health(parts.remove(0));
        assert!(parts.is_empty());
        let length = serde_json::to_vec(&message).unwrap().len();
        assert!(length <= MAX_FRAME, "{length}");
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
        }
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
