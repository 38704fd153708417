//! When the public address is looked for, and when an answer counts: pure.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use policy::gateway::{AddressSource, Dns};

use super::failure::{Severity, Trouble};
use super::pause::Pause;

/// How often interfaces are looked at when no change is reported.
const POLL: Duration = Duration::from_secs(60);
/// How long after an answer with another address it is asked for again.
const CONFIRM: Duration = Duration::from_secs(2);
/// How long after a change of the network it is used, since changes come in bursts: an address
/// goes, another comes, then its route.
pub const SETTLE: Duration = Duration::from_millis(500);

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It may be there soon.
    #[error("{0}")]
    Temporary(String),
    /// It will not be there until a person acts.
    #[error("{0}")]
    Lasting(String),
}

/// The public address as far as it is known.
#[derive(Debug)]
pub struct Lookout {
    /// Whether another machine is asked, which may be wrong for a moment: then an address counts once
    /// it was the answer twice in a row.
    is_asked: bool,
    interval: Duration,
    next: Instant,
    current: Option<Ipv4Addr>,
    candidate: Option<Ipv4Addr>,
    pause: Pause,
    trouble: Trouble,
}

impl Lookout {
    /// The first look is due at once.
    #[must_use]
    pub fn new(now: Instant, dns: &Dns) -> Self {
        let (is_asked, interval) = match dns.address {
            AddressSource::Interface | AddressSource::Fixed(_) => (false, POLL),
            AddressSource::Page(_) | AddressSource::Query { .. } => (true, dns.interval),
        };
        Self {
            is_asked,
            interval,
            next: now,
            current: None,
            candidate: None,
            pause: Pause::default(),
            trouble: Trouble::default(),
        }
    }

    /// When the next look is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The address that counts.
    #[must_use]
    pub const fn current(&self) -> Option<Ipv4Addr> {
        self.current
    }

    /// Whether the last look found none.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.trouble.is_on()
    }

    /// The network of this machine changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.pause.reset();
        // Further changes do not put it off.
        self.next = self.next.min(now + SETTLE);
    }

    /// An answer; the address, when another one counts from now on.
    pub fn handle_answer(&mut self, now: Instant, address: Ipv4Addr) -> Option<Ipv4Addr> {
        self.pause.reset();
        self.trouble.handle_success();
        self.next = now + self.interval;
        if self.current == Some(address) {
            self.candidate = None;
            return None;
        }
        if self.is_asked && self.candidate.replace(address) != Some(address) {
            self.next = now + CONFIRM;
            return None;
        }
        self.candidate = None;
        self.current = Some(address);
        self.current
    }

    /// There was no answer: the record stays as it is. How it is logged, if it is.
    pub fn handle_failure(&mut self, now: Instant, unknown: &Unknown, random: u8) -> Option<Severity> {
        let is_temporary = matches!(unknown, Unknown::Temporary(_));
        self.candidate = None;
        self.next = now + self.pause.handle_failure(!is_temporary, None, random).min(self.interval);
        self.trouble.handle_failure(now, &unknown.to_string(), is_temporary)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const TWO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    #[test]
    fn an_address_of_an_interface_counts_at_once() {
        let now = Instant::now();
        let mut lookout = lookout(now, "interface");
        assert_eq!(lookout.poll_timeout(), now);
        assert_eq!(lookout.handle_answer(now, ONE), Some(ONE));
        assert_eq!(lookout.handle_answer(now, ONE), None);
        assert_eq!(lookout.poll_timeout(), now + POLL);
        lookout.handle_network_change(now);
        assert_eq!(lookout.poll_timeout(), now + SETTLE);
        assert_eq!(lookout.handle_answer(now, TWO), Some(TWO));
    }

    #[test]
    fn an_address_that_was_asked_for_counts_when_it_is_the_answer_twice() {
        let now = Instant::now();
        let mut lookout = lookout(now, "https://ip.example.com/");
        assert_eq!(lookout.handle_answer(now, ONE), None);
        assert_eq!(lookout.poll_timeout(), now + CONFIRM);
        assert_eq!(lookout.handle_answer(now, ONE), Some(ONE));
        assert_eq!(lookout.poll_timeout(), now + Duration::from_secs(300));
        // One wrong answer, and a failure between two: neither moves the address.
        assert_eq!(lookout.handle_answer(now, TWO), None);
        assert_eq!(lookout.handle_answer(now, ONE), None);
        assert_eq!(lookout.handle_answer(now, TWO), None);
        lookout.handle_failure(now, &Unknown::Temporary("timeout".to_owned()), 0);
        assert_eq!(lookout.handle_answer(now, TWO), None);
        assert_eq!(lookout.current(), Some(ONE));
    }

    #[test]
    fn a_failure_keeps_the_address_and_is_tried_again_no_later_than_usual() {
        let now = Instant::now();
        let mut lookout = lookout(now, "interface");
        lookout.handle_answer(now, ONE);
        for _ in 0..12 {
            lookout.handle_failure(now, &Unknown::Temporary("down".to_owned()), 255);
            assert!(lookout.poll_timeout() <= now + POLL && lookout.is_failing());
        }
        assert_eq!(lookout.current(), Some(ONE));
        let lasting = Unknown::Lasting("a private address".to_owned());
        assert_eq!(lookout.handle_failure(now, &lasting, 0), Some(Severity::Warning));
    }

    fn lookout(now: Instant, address: &str) -> Lookout {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n\
             [dns]\nname = \"kyiv.example.com\"\nserver = \"ns1\"\nkey_file = \"d\"\naddress = \"{address}\""
        );
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text });
        Lookout::new(now, &policy.unwrap().dns.unwrap())
    }
}
