//! The names of services across a link: what visitors ask for, each with a state of its own.

use std::fmt;
use std::sync::Arc;

use policy::{Host, Name, text};
use serde::{Deserialize, Serialize};
use tunnel::time::Instant;

use super::message::{Reason, State};
use super::visitor::{SeenVisit, Visited};

/// The most names of one sender that are reported, and kept.
pub const MAX_NAMES: usize = policy::forwarder::MAX_WATCHED_NAMES;
/// Names in one message: so many of the longest fit in a frame.
pub(super) const PER_MESSAGE: usize = 24;

/// A host name in lower case, without a dot at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Arc<str>);

impl HostName {
    /// The most characters.
    pub const MAX: usize = 253;

    /// Takes a name that a resolver would take.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_plain = !name.ends_with('.') && !name.bytes().any(|byte| byte.is_ascii_uppercase());
        match text::host(name)? {
            Host::Name(name) if is_plain => Some(Self(name)),
            Host::Name(_) | Host::Address(_) => None,
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("not a host name in lower case")
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One name of a service of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameHealth {
    /// The service entry that it belongs to.
    pub service: Name,
    /// What visitors ask for.
    pub name: HostName,
    /// How it is.
    pub state: State,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The time of its certificate; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Validity>,
    /// What the origin found as its own visitor; `None` where it does not probe, and from a release
    /// that does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitor: Option<Visited>,
}

/// The time of a certificate, in hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Validity {
    /// Until it expires, negative afterwards.
    pub hours: i32,
    /// From its first to its last moment.
    pub lifetime: i32,
}

/// How a name is now, as its own machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenName {
    /// The name.
    pub name: HostName,
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it is failing.
    pub reason: Option<Reason>,
    /// The time of its certificate.
    pub certificate: Option<Validity>,
    /// What the probes of its public path say; `None` where there are none.
    pub visitor: Option<SeenVisit>,
}

impl SeenName {
    /// As it is reported and shown.
    #[must_use]
    pub fn health(&self, now: Instant, service: &Name) -> NameHealth {
        NameHealth {
            service: service.clone(),
            name: self.name.clone(),
            state: self.state,
            seconds: now.since(self.since).as_secs(),
            reason: self.reason,
            certificate: self.certificate,
            visitor: self.visitor.map(|visit| visit.visited(now)),
        }
    }

    /// Whether there is nothing new to report: a certificate that grows older is none.
    pub(super) fn is_as(&self, old: &Self) -> bool {
        let is_renewed = match (self.certificate, old.certificate) {
            (Some(now), Some(before)) => now.hours > before.hours || now.lifetime != before.lifetime,
            (now, before) => now != before,
        };
        !is_renewed
            && (&self.name, self.state, self.since, self.reason, self.visitor)
                == (&old.name, old.state, old.since, old.reason, old.visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_host_name_is_one_that_no_terminal_page_or_shell_would_obey() {
        assert_eq!(HostName::new("emby.example.com").unwrap().as_str(), "emby.example.com");
        let long = "a.".repeat(127);
        for hostile in [
            "",
            "192.0.2.1",
            "a b",
            "a\nb",
            "<b>",
            "$(reboot)",
            "é.example",
            "A.example",
            "a.",
            "\u{1b}[2J",
            &long,
        ] {
            let text = serde_json::to_string(hostile).unwrap();
            assert!(serde_json::from_str::<HostName>(&text).is_err(), "{hostile}");
        }
    }

    #[test]
    fn a_renewed_certificate_is_news_and_one_that_grows_older_is_not() {
        let since = Instant::from_boot(Duration::from_secs(9));
        let name = HostName::new("emby.example.com").unwrap();
        let seen = |hours: Option<i32>| {
            let certificate = hours.map(|hours| Validity { hours, lifetime: 2_160 });
            SeenName { name: name.clone(), state: State::Up, since, reason: None, certificate, visitor: None }
        };
        assert!(seen(Some(99)).is_as(&seen(Some(100))));
        assert!(!seen(Some(2_000)).is_as(&seen(Some(100))));
        assert!(!seen(Some(100)).is_as(&seen(None)));
        let failing = SeenName { state: State::Failing, ..seen(Some(99)) };
        assert!(!failing.is_as(&seen(Some(99))));
    }
}
