//! The names of a service as both ends show them: each is a row of its own.

use serde::{Deserialize, Serialize};

use super::fix::{Place, name_fix};
use super::visitor::VisitorShown;
use super::{Reason, State};
use crate::link::message::Reason as Why;
use crate::link::names::{NameHealth, Validity};
use crate::metrics::Number;
use crate::text::period;

/// One name that visitors of a service ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameShown {
    /// The name.
    pub name: String,
    /// `ok`, `failing` or `unknown`.
    pub state: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is failing, in one word.
    pub reason: Option<String>,
    /// Whole days until its certificate expires, negative afterwards; `None` without one.
    pub certificate_days: Option<i32>,
    /// The same in hours, and for how many it is valid altogether.
    pub certificate: Option<Validity>,
    /// How to fix it.
    pub fix: Option<String>,
    /// Its path from the internet, as the origin found it; `None` where that is not probed.
    #[serde(default)]
    pub visitor: Option<VisitorShown>,
}

impl NameShown {
    /// A name of the entry that `place` has.
    #[must_use]
    pub fn of(health: &NameHealth, place: &Place) -> Self {
        let state = State::from(health.state);
        let why = (state == State::Failing).then(|| health.reason.unwrap_or(Why::Other));
        Self {
            name: health.name.as_str().to_owned(),
            state: state.label().to_owned(),
            seconds: health.seconds,
            reason: why.map(|why| Reason::Probe(why).label().to_owned()),
            certificate_days: health.certificate.map(|validity| validity.hours.div_euclid(24)),
            certificate: health.certificate,
            fix: why.map(|why| name_fix(why, health.name.as_str(), place)),
            visitor: health.visitor.map(|visited| VisitorShown::of(&visited, health.name.as_str(), place)),
        }
    }

    /// Whether it is failing.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state == State::Failing.label()
    }

    /// Its certificate for people, such as `certificate for 57 days`.
    #[must_use]
    pub fn certificate_text(&self) -> Option<String> {
        Some(match self.certificate?.hours {
            ..0 => "certificate expired".to_owned(),
            0 => "certificate for less than an hour".to_owned(),
            1 => "certificate for 1 hour".to_owned(),
            hours @ 2..48 => format!("certificate for {hours} hours"),
            hours => format!("certificate for {} days", hours / 24),
        })
    }

    /// Whether its path from the internet is proven.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.visitor.as_ref().is_some_and(VisitorShown::is_proven)
    }

    /// For people: what fails on its path from the internet, and how to fix it.
    #[must_use]
    pub fn path_line(&self) -> Option<String> {
        let failing = self.visitor.as_ref().filter(|visitor| visitor.is_failing())?;
        Some(failing.line(&self.name))
    }

    /// For people: since when and why it is failing, and how to fix it.
    #[must_use]
    pub fn line(&self) -> String {
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let fix = self.fix.as_deref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        format!("{} is {} for {}{reason}{fix}", self.name, self.state, period(self.seconds))
    }

    /// For Prometheus, in metrics of these names: whether it works, the days until its certificate
    /// expires, for how many that is valid altogether, whether its path is proven, and what fails
    /// on it.
    #[must_use]
    pub fn numbers(
        &self,
        [up, days, lifetime, path, failing]: [&'static str; 5],
        service: &str,
    ) -> Vec<Number> {
        let own = |number: Number| number.with("service", service).with("name", &self.name);
        let help = "0 if the name is failing at the upstream, else 1.";
        let mut numbers = vec![own(Number::flag(up, help, !self.is_failing()))];
        if let Some(Validity { hours, lifetime: of }) = self.certificate {
            let help = "Days until the certificate of the name expires.";
            numbers.push(own(Number::gauge(days, help, f64::from(hours) / 24.0)));
            let help = "Days for which the certificate of the name is valid altogether.";
            numbers.push(own(Number::gauge(lifetime, help, f64::from(of) / 24.0)));
        }
        if let Some(visitor) = &self.visitor {
            let help = "1 while a probe of the name from the internet came out of the tunnel lately, else 0.";
            numbers.push(own(Number::flag(path, help, visitor.is_proven())));
            if let (Some(hop), Some(reason)) = (&visitor.hop, &visitor.reason) {
                let help =
                    "1 for the hop that fails on the path of the name from the internet, with the reason.";
                let number = own(Number::flag(failing, help, true));
                numbers.push(number.with("hop", hop).with("reason", reason));
            }
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::State as Reported;
    use crate::link::names::HostName;
    use crate::link::visitor::{Cause, Proof, Visited};
    use policy::Name;

    const NAMES: [&str; 5] = ["up", "days", "lifetime", "path", "failing"];

    #[test]
    fn a_failing_name_shows_reason_time_and_a_fix_with_its_name_and_entry() {
        let failing =
            NameHealth { state: Reported::Failing, reason: Some(Why::NoCertificateForName), ..health(None) };
        let line = shown(&failing).line();
        assert!(
            line.starts_with(
                "emby.example.com is failing for 12 seconds (no_certificate_for_name); fix: at wroclaw: "
            ),
            "{line}"
        );
        assert!(line.contains("a site for emby.example.com") && line.contains("[[service]] https"), "{line}");
        assert_eq!((shown(&health(None)).reason, shown(&health(None)).fix), (None, None));
    }

    #[test]
    fn the_time_of_a_certificate_is_shown_in_days_and_at_last_in_hours() {
        for (hours, text) in [
            (2_000, "for 83 days"),
            (48, "for 2 days"),
            (47, "for 47 hours"),
            (1, "for 1 hour"),
            (0, "for less than an hour"),
            (-1, "expired"),
        ] {
            let shown = shown(&health(Some(hours))).certificate_text();
            assert_eq!(shown, Some(format!("certificate {text}")));
        }
        assert_eq!(shown(&health(None)).certificate_text(), None);
        assert_eq!(shown(&health(Some(-1))).certificate_days, Some(-1));
    }

    #[test]
    fn what_is_not_known_lowers_no_metric() {
        let unknown = shown(&NameHealth { state: Reported::Unknown, ..health(None) });
        assert!(!unknown.is_failing());
        assert_eq!(unknown.numbers(NAMES, "https").len(), 1);
        assert_eq!(shown(&health(Some(36))).numbers(NAMES, "https").len(), 3);
    }

    #[test]
    fn the_path_from_the_internet_is_a_finding_of_its_own() {
        let cause = Some(Cause::NotForwarded);
        let visited = Visited { state: Proof::Failing, seconds: 60, cause, trusted: None };
        let broken = shown(&NameHealth { visitor: Some(visited), ..health(None) });
        assert!(!broken.is_failing() && !broken.is_proven());
        assert!(broken.path_line().unwrap().contains("forward is failing"), "{:?}", broken.path_line());
        assert_eq!(broken.numbers(NAMES, "https").len(), 3);
        let proven = Visited { state: Proof::Proven, cause: None, ..visited };
        let proven = shown(&NameHealth { visitor: Some(proven), ..health(None) });
        assert_eq!((proven.is_proven(), proven.path_line()), (true, None));
    }

    fn shown(health: &NameHealth) -> NameShown {
        let place = Place {
            peer: Some("wroclaw".to_owned()),
            entry: Some("https".to_owned()),
            target: String::new(),
        };
        NameShown::of(health, &place)
    }

    fn health(hours: Option<i32>) -> NameHealth {
        NameHealth {
            service: Name::new("https").unwrap(),
            name: HostName::new("emby.example.com").unwrap(),
            state: Reported::Up,
            seconds: 12,
            reason: None,
            certificate: hours.map(|hours| Validity { hours, lifetime: 2_160 }),
            visitor: None,
        }
    }
}
