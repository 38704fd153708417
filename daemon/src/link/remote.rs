//! What an end knows of the other one, link after link.

use std::collections::VecDeque;
use std::time::Duration;

use tunnel::time::Instant;

use super::health::{Reported, Table};
use super::message::{Bytes, LONGEST_NOTICE, Notice, ReportedHop};
use super::session::{Ended, Event, Far};
use super::shown::{Link, ServiceShown};

/// How long after a notice the next one counts: an end cannot announce its stop again and again.
const NOTICE_EVERY: Duration = Duration::from_secs(3600);
/// Starts of the other end's daemon that are remembered.
const INSTANCES: usize = 4;
/// How long it is reported that two machines hold one key.
const SHARED_KEY_TIME: Duration = Duration::from_secs(600);

/// What changed for the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The link is up.
    Up(Far),
    /// It was, and is not any more.
    Down(Ended),
    /// A connection was refused before it became a link.
    Refused(Ended),
    /// The other end announced that it stops.
    Stopping,
    /// Its agent reported what fails at this hop.
    Reported(ReportedHop),
    /// Two machines with its key keep links at the same time.
    SharedKey,
}

/// The other end of a link.
#[derive(Debug, Default)]
pub struct Remote {
    up: Option<Far>,
    since: Instant,
    /// Why the last connection ended, if there was a link or the reason is a refusal.
    fault: Option<Ended>,
    was_up: bool,
    /// What it reported.
    pub health: Table,
    /// Bytes received and sent, of all its links.
    pub bytes: (u64, u64),
    back_by: Option<Instant>,
    next_notice: Instant,
    instances: VecDeque<Bytes<16>>,
    shared_key_at: Option<Instant>,
}

impl Remote {
    /// Takes an event of its link; what that changed.
    pub fn handle_event(&mut self, now: Instant, event: Event) -> Option<Change> {
        match event {
            Event::Opened(far) => Some(self.handle_up(now, far)),
            Event::Health(health) => {
                self.health.handle_report(now, health);
                None
            }
            Event::Notice(Notice::Stopping { seconds }) if self.next_notice <= now => {
                let time = Duration::from_secs(seconds.into()).min(LONGEST_NOTICE);
                self.back_by = Some(now.after(time));
                self.next_notice = now.after(NOTICE_EVERY);
                Some(Change::Stopping)
            }
            Event::Notice(Notice::Reported { hop }) => Some(Change::Reported(hop)),
            // Who requests ports, grants them or asks takes these itself.
            Event::Notice(_)
            | Event::Asked(..)
            | Event::Answers(..)
            | Event::Question(..)
            | Event::Replied(..)
            | Event::HistoryAsked(..)
            | Event::History(..) => None,
            Event::Closed(reason) => Some(self.handle_down(now, reason)),
        }
    }

    fn handle_up(&mut self, now: Instant, far: Far) -> Change {
        let instance = far.about.instance;
        let is_other = self.instances.back().is_some_and(|last| *last != instance);
        // The instance of a start is random: one that comes back after another is a machine that
        // was never gone.
        let is_shared = is_other && self.instances.contains(&instance);
        self.instances.retain(|known| *known != instance);
        self.instances.push_back(instance);
        while self.instances.len() > INSTANCES {
            self.instances.pop_front();
        }
        if is_other {
            self.back_by = None;
        }
        self.health = Table::default();
        (self.since, self.fault, self.was_up) = (now, None, true);
        self.up = Some(far.clone());
        if is_shared {
            self.shared_key_at = Some(now);
            return Change::SharedKey;
        }
        Change::Up(far)
    }

    fn handle_down(&mut self, now: Instant, reason: Ended) -> Change {
        if self.up.take().is_none() {
            return self.handle_refused(reason);
        }
        self.health = Table::default();
        self.since = now;
        self.fault = Some(reason);
        Change::Down(reason)
    }

    /// A connection of that end came to an end before it became a link.
    pub fn handle_refused(&mut self, reason: Ended) -> Change {
        if self.up.is_none() && reason.is_refusal() {
            self.fault = Some(reason);
        }
        Change::Refused(reason)
    }

    /// The other end, while the link is up.
    #[must_use]
    pub const fn far(&self) -> Option<&Far> {
        self.up.as_ref()
    }

    /// What the other end reported of its services; `None` without a link.
    #[must_use]
    pub fn reported(&self, now: Instant) -> Option<Reported> {
        let table = &self.health;
        self.up.is_some().then(|| Reported {
            services: table.services(now).collect(),
            names: table.names(now).collect(),
            is_whole: table.is_whole(),
        })
    }

    /// Why there is no link, for a peer that had one or whose connection was refused.
    #[must_use]
    pub const fn fault(&self) -> Option<Ended> {
        self.fault
    }

    /// Whether two machines hold its key, as far as was seen within ten minutes.
    #[must_use]
    pub fn has_shared_key(&self, now: Instant) -> bool {
        self.shared_key_at.is_some_and(|at| now.since(at) < SHARED_KEY_TIME)
    }

    /// As it is shown; `None` for an end that never had a link, as any plain WireGuard peer.
    #[must_use]
    pub fn shown(&self, now: Instant) -> Option<Link> {
        if !self.was_up && self.fault.is_none() {
            return None;
        }
        let about = self.up.as_ref().map(|far| &far.about);
        Some(Link {
            up: self.up.is_some(),
            seconds: self.was_up.then(|| now.since(self.since).as_secs()),
            reason: self.fault.map(|reason| reason.label().to_owned()),
            name: about.map(|about| about.name.to_string()),
            version: about.map(|about| about.version.to_string()),
            schema: self.up.as_ref().map(|far| far.schema),
            rx_bytes: self.bytes.0,
            tx_bytes: self.bytes.1,
            back_within_seconds: self.back_by.filter(|at| *at > now).map(|at| at.since(now).as_secs()),
            services: self.health.services(now).map(ServiceShown::from).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy::Name;

    use super::*;
    use crate::link::message::{About, SCHEMA};

    #[test]
    fn an_end_that_never_had_a_link_shows_none_whatever_ended() {
        let mut remote = Remote::default();
        assert_eq!(remote.shown(at(0)), None);
        assert_eq!(
            remote.handle_event(at(1), Event::Closed(Ended::Hangup)),
            Some(Change::Refused(Ended::Hangup))
        );
        assert_eq!(remote.shown(at(1)), None);
    }

    #[test]
    fn a_refused_end_shows_why() {
        let mut remote = Remote::default();
        remote.handle_event(at(1), Event::Closed(Ended::WrongKey));
        let shown = remote.shown(at(9)).unwrap();
        assert_eq!((shown.up, shown.seconds, shown.reason.as_deref()), (false, None, Some("wrong_key")));
    }

    #[test]
    fn a_link_shows_since_when_it_is_up_or_down() {
        let mut remote = Remote::default();
        assert!(matches!(remote.handle_event(at(1), opened(1)), Some(Change::Up(_))));
        let shown = remote.shown(at(11)).unwrap();
        assert_eq!((shown.up, shown.seconds, shown.name.as_deref()), (true, Some(10), Some("wroclaw")));
        let down = Some(Change::Down(Ended::Silent));
        assert_eq!(remote.handle_event(at(20), Event::Closed(Ended::Silent)), down);
        let shown = remote.shown(at(25)).unwrap();
        assert_eq!((shown.up, shown.seconds, shown.reason.as_deref()), (false, Some(5), Some("silent")));
        assert_eq!(shown.name, None);
    }

    #[test]
    fn a_notice_counts_for_five_minutes_at_most_and_is_not_renewed() {
        let mut remote = Remote::default();
        remote.handle_event(at(0), opened(1));
        let notice = || Event::Notice(Notice::Stopping { seconds: u32::MAX });
        assert_eq!(remote.handle_event(at(10), notice()), Some(Change::Stopping));
        let back = |remote: &Remote, second| remote.shown(at(second)).unwrap().back_within_seconds;
        assert_eq!(back(&remote, 10), Some(300));
        assert_eq!(remote.handle_event(at(200), notice()), None);
        assert_eq!((back(&remote, 309), back(&remote, 310)), (Some(1), None));
        assert_eq!(remote.handle_event(at(3_609), notice()), None);
        assert_eq!(back(&remote, 3_609), None);
        assert_eq!(remote.handle_event(at(3_610), notice()), Some(Change::Stopping));
    }

    #[test]
    fn a_daemon_that_is_back_ends_its_notice() {
        let mut remote = Remote::default();
        remote.handle_event(at(0), opened(1));
        remote.handle_event(at(1), Event::Notice(Notice::Stopping { seconds: 60 }));
        remote.handle_event(at(2), Event::Closed(Ended::Hangup));
        remote.handle_event(at(3), opened(2));
        assert_eq!(remote.shown(at(4)).unwrap().back_within_seconds, None);
    }

    #[test]
    fn restarts_are_no_second_machine_and_an_instance_that_comes_back_is() {
        let mut remote = Remote::default();
        for instance in 1..9 {
            assert!(matches!(remote.handle_event(at(1), opened(instance)), Some(Change::Up(_))));
            assert!(matches!(remote.handle_event(at(1), opened(instance)), Some(Change::Up(_))), "again");
        }
        assert!(!remote.has_shared_key(at(1)));
        assert_eq!(remote.handle_event(at(2), opened(7)), Some(Change::SharedKey));
        assert!(remote.has_shared_key(at(2)) && !remote.has_shared_key(at(602)));
    }

    #[test]
    fn what_was_reported_is_forgotten_with_the_link() {
        let mut remote = Remote::default();
        remote.handle_event(at(0), opened(1));
        let report = r#"{"begins":true,"ends":true,"services":[{"name":"a","state":"up","seconds":1}]}"#;
        remote.handle_event(at(1), Event::Health(serde_json::from_str(report).unwrap()));
        assert_eq!(remote.shown(at(3)).unwrap().services[0].seconds, 3);
        remote.handle_event(at(4), Event::Closed(Ended::Hangup));
        assert_eq!(remote.shown(at(5)).unwrap().services, []);
    }

    fn opened(instance: u8) -> Event {
        let name = |text| Name::new(text).unwrap();
        let about = About {
            version: name("0.1.0"),
            name: name("wroclaw"),
            capabilities: BTreeSet::new(),
            instance: Bytes([instance; 16]),
        };
        Event::Opened(Far { about, schema: SCHEMA })
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
