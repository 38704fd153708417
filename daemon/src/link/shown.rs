//! A link as both ends show it: as JSON, as text and in metrics.

use serde::{Deserialize, Serialize};

use super::message::{Service, State};
use crate::health::{Hop, State as Seen};
use crate::metrics::Number;
use crate::text::period;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// For how long it has been up or down; `None` when it never was up.
    pub seconds: Option<u64>,
    /// Why it is down.
    pub reason: Option<String>,
    /// The other end's machine, while it is up.
    pub name: Option<String>,
    /// The other end's version, while it is up.
    pub version: Option<String>,
    /// The schema of the messages, while it is up.
    pub schema: Option<u32>,
    /// Bytes received over it.
    pub rx_bytes: u64,
    /// Bytes sent over it.
    pub tx_bytes: u64,
    /// Within how long the other end announced to be back.
    pub back_within_seconds: Option<u64>,
    /// The other end's services, as it reported them; the edge alone receives them.
    pub services: Vec<ServiceShown>,
}

/// A service of the other end, or behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceShown {
    /// Its name in the other end's configuration.
    pub name: String,
    /// `up`, `failing` or `unknown`.
    pub state: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is failing.
    pub reason: Option<String>,
    /// What the other end saw; its text, to be shown in quotes.
    pub evidence: Option<String>,
}

impl From<Service> for ServiceShown {
    fn from(service: Service) -> Self {
        Self {
            name: service.name.to_string(),
            state: service.state.label().to_owned(),
            seconds: service.seconds,
            reason: service.reason.map(|reason| reason.label().to_owned()),
            evidence: service.evidence.map(|evidence| evidence.as_str().to_owned()),
        }
    }
}

impl Link {
    /// For people: the link, and the other end's services that are failing.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.line()];
        lines.extend(services_lines(&self.services));
        lines
    }

    fn line(&self) -> String {
        let time = self.seconds.map(|seconds| format!(" for {}", period(seconds))).unwrap_or_default();
        if self.up {
            let [machine, version] = [&self.name, &self.version].map(|text| text.as_deref().unwrap_or("-"));
            return format!("link: up{time}, with {machine} (version {version})");
        }
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let back = self.back_within_seconds.map(|seconds| {
            format!("; the other end announced that it stops, and to be back within {}", period(seconds))
        });
        format!("link: down{time}{reason}{}", back.unwrap_or_default())
    }

    /// For Prometheus; names begin with `role`.
    pub(crate) fn numbers(&self, role: &str) -> Vec<Number> {
        let help = "Whether the link with the peer is up.";
        let mut numbers = vec![Number::flag(format!("{role}_link_up"), help, self.up)];
        let help = "Bytes carried by links with the peer; rx is received from it.";
        for (direction, bytes) in [("rx", self.rx_bytes), ("tx", self.tx_bytes)] {
            let number = Number::counter(format!("{role}_link_bytes_total"), help, bytes);
            numbers.push(number.with("direction", direction));
        }
        numbers
    }
}

/// For people: how many services are how, and those that are failing; nothing without services.
pub(crate) fn services_lines(services: &[ServiceShown]) -> Vec<String> {
    if services.is_empty() {
        return Vec::new();
    }
    let count = |state: State| services.iter().filter(|it| it.state == state.label()).count();
    let (up, failing, unknown) = (count(State::Up), count(State::Failing), count(State::Unknown));
    let mut lines = vec![format!("services: {up} up, {failing} failing, {unknown} not checked")];
    let failing = services.iter().filter(|service| service.state == State::Failing.label());
    lines.extend(failing.map(|service| format!("  {}", service.line())));
    lines
}

impl ServiceShown {
    /// A service whose upstream is known by this end's own probes.
    #[must_use]
    pub fn of(name: &str, upstream: &Hop) -> Self {
        let state = match upstream.state {
            Seen::Ok => State::Up,
            Seen::Failing => State::Failing,
            Seen::Unknown => State::Unknown,
        };
        Self {
            name: name.to_owned(),
            state: state.label().to_owned(),
            seconds: upstream.seconds.unwrap_or_default(),
            reason: upstream.reason.map(|reason| reason.label().to_owned()),
            evidence: upstream.evidence.as_ref().map(|evidence| evidence.as_str().to_owned()),
        }
    }

    fn line(&self) -> String {
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        // The other end's own words are data: they are quoted.
        let evidence = self.evidence.as_deref().map(|text| format!(": {text:?}")).unwrap_or_default();
        format!("{} is {} for {}{reason}{evidence}", self.name, self.state, period(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{HopName, Reason as HopReason};
    use crate::link::message::{Evidence, Reason};

    #[test]
    fn a_link_that_is_up_shows_with_whom_and_which_services_are_failing() {
        let failing = ServiceShown {
            name: "https".to_owned(),
            state: "failing".to_owned(),
            seconds: 61,
            reason: Some("refused".to_owned()),
            evidence: Some("said \"no\"; curl x | sh".to_owned()),
        };
        let up = ServiceShown {
            name: "a".to_owned(),
            state: "up".to_owned(),
            reason: None,
            evidence: None,
            ..failing.clone()
        };
        let link = Link { services: vec![up, failing], ..link() };
        assert_eq!(
            link.lines(),
            [
                "link: up for 1 minute, with wroclaw (version 0.1.0)",
                "services: 1 up, 1 failing, 0 not checked",
                "  https is failing for 1 minute, 1 second (refused): \"said \\\"no\\\"; curl x | sh\"",
            ]
        );
    }

    #[test]
    fn a_service_that_this_end_probed_is_shown_as_one_that_was_reported() {
        let evidence = Some(Evidence::of("192.168.88.2:443: connection refused"));
        let hop = Hop::failing(HopName::Upstream, HopReason::Probe(Reason::Refused), evidence);
        let services = [
            ServiceShown::of("https", &Hop { seconds: Some(61), ..hop }),
            ServiceShown::of("mail", &Hop::ok(HopName::Upstream)),
        ];
        assert_eq!(
            services_lines(&services),
            [
                "services: 1 up, 1 failing, 0 not checked",
                "  https is failing for 1 minute, 1 second (refused): \"192.168.88.2:443: connection refused\"",
            ]
        );
        assert!(services_lines(&[]).is_empty());
    }

    #[test]
    fn a_link_that_is_down_shows_since_when_and_why() {
        let down = Link { up: false, reason: Some("silent".to_owned()), ..link() };
        assert_eq!(down.lines(), ["link: down for 1 minute (silent)"]);
        let announced = Link { back_within_seconds: Some(240), ..down };
        assert!(announced.lines()[0].ends_with("to be back within 4 minutes"), "{:?}", announced.lines());
        let refused = Link { up: false, seconds: None, reason: Some("wrong_key".to_owned()), ..link() };
        assert_eq!(refused.lines(), ["link: down (wrong_key)"]);
    }

    fn link() -> Link {
        Link {
            up: true,
            seconds: Some(60),
            reason: None,
            name: Some("wroclaw".to_owned()),
            version: Some("0.1.0".to_owned()),
            schema: Some(1),
            rx_bytes: 1,
            tx_bytes: 2,
            back_within_seconds: None,
            services: Vec::new(),
        }
    }
}
