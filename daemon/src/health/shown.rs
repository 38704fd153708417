//! Paths as both ends show them: as JSON and as text.

use serde::{Deserialize, Serialize};

use super::{Hop, Path, Place, fix};
use crate::text::period;

/// The path of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathShown {
    /// `ok`, `failing` or `unknown`.
    pub state: String,
    /// The hop that decides: the first failing one.
    pub failing: Option<HopShown>,
    /// Every hop that this end knows, in order.
    pub hops: Vec<HopShown>,
}

/// One hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopShown {
    /// `ruleset`, `route`, `tunnel`, `link`, `service_entry` or `upstream`.
    pub hop: String,
    /// `ok`, `failing` or `unknown`.
    pub state: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is failing or unknown, in one word.
    pub reason: Option<String>,
    /// What was seen; it may be the other end's text, to be shown in quotes.
    pub evidence: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
}

impl From<&Path> for PathShown {
    fn from(path: &Path) -> Self {
        let shown = |hop: &Hop| HopShown::of(hop, &path.place);
        Self {
            state: path.state().label().to_owned(),
            failing: path.failing().map(shown),
            hops: path.hops.iter().map(shown).collect(),
        }
    }
}

impl PathShown {
    /// For how long it is as it is: since the failing hop fails, else since the last change of a
    /// known one.
    #[must_use]
    pub fn seconds(&self) -> Option<u64> {
        let known = self.hops.iter().filter(|hop| hop.state == self.state).map(|hop| hop.seconds);
        self.failing.as_ref().map(|hop| hop.seconds).or_else(|| known.min())
    }
}

impl HopShown {
    fn of(hop: &Hop, place: &Place) -> Self {
        Self {
            hop: hop.name.label().to_owned(),
            state: hop.state.label().to_owned(),
            seconds: hop.seconds.unwrap_or_default(),
            reason: hop.reason.map(|reason| reason.label().to_owned()),
            evidence: hop.evidence.as_ref().map(|evidence| evidence.as_str().to_owned()),
            fix: fix(hop, place),
        }
    }

    /// For people: what is failing since when and why, and how to fix it.
    #[must_use]
    pub fn line(&self) -> String {
        let hop = self.hop.replace('_', " ");
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        // It may be the other end's words: they are quoted.
        let evidence = self.evidence.as_deref().map(|text| format!(": {text:?}")).unwrap_or_default();
        let fix = self.fix.as_deref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        format!("{hop} is {} for {}{reason}{evidence}{fix}", self.state, period(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HopName, Reason};
    use super::*;
    use crate::link::message::{Evidence, Reason as Why};

    #[test]
    fn a_failing_path_shows_its_hop_with_reason_time_quoted_evidence_and_fix() {
        let evidence = Some(Evidence::of("said \"no\""));
        let failing = Hop::failing(HopName::Upstream, Reason::Probe(Why::Refused), evidence);
        let hops = vec![Hop::ok(HopName::Tunnel), Hop { seconds: Some(61), ..failing }];
        let place =
            Place { peer: Some("wroclaw".to_owned()), entry: Some("https".to_owned()), ..Place::default() };
        let shown = PathShown::from(&Path { hops, place });
        assert_eq!((shown.state.as_str(), shown.hops.len()), ("failing", 2));
        let line = shown.failing.unwrap().line();
        assert!(
            line.starts_with(
                "upstream is failing for 1 minute, 1 second (refused): \"said \\\"no\\\"\"; fix: at wroclaw:"
            ),
            "{line}"
        );
    }

    #[test]
    fn a_path_that_works_shows_no_failing_hop() {
        let path = Path { hops: vec![Hop::ok(HopName::Upstream)], ..Path::default() };
        let shown = PathShown::from(&path);
        assert_eq!((shown.state.as_str(), shown.failing), ("ok", None));
    }
}
