//! What was found, hop by hop, and what it comes to: pure.

use std::collections::BTreeSet;

use daemon::health::{HopName, State};
use serde::{Serialize, Serializer};

/// One thing that was found of a hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The hop.
    #[serde(serialize_with = "label")]
    pub(super) hop: HopName,
    /// `ok`, `failing` or `unknown`.
    #[serde(serialize_with = "state")]
    pub(super) state: State,
    /// The end that saw it: `edge`, `origin`, or the name of the peer that reported it.
    pub(super) seen_by: String,
    /// The services, names or peers that it concerns; none for all.
    pub(super) of: BTreeSet<String>,
    /// Why, in one word, unless it is ok.
    pub(super) reason: Option<String>,
    /// For how long it is so, in seconds.
    pub(super) seconds: Option<u64>,
    /// What was seen; another end's text is in quotes.
    pub(super) evidence: Option<String>,
    /// How to fix it; where it is unknown, how to see it.
    pub(super) fix: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn label<S: Serializer>(hop: &HopName, into: S) -> Result<S::Ok, S::Error> {
    into.serialize_str(hop.label())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn state<S: Serializer>(state: &State, into: S) -> Result<S::Ok, S::Error> {
    into.serialize_str(state.label())
}

impl Finding {
    fn new(hop: HopName, state: State, seen_by: &str) -> Self {
        Self {
            hop,
            state,
            seen_by: seen_by.to_owned(),
            of: BTreeSet::new(),
            reason: None,
            seconds: None,
            evidence: None,
            fix: None,
        }
    }

    /// A hop that works.
    pub(super) fn ok(hop: HopName, seen_by: &str, evidence: impl Into<String>) -> Self {
        Self { evidence: Some(evidence.into()), ..Self::new(hop, State::Ok, seen_by) }
    }

    /// A hop that does not.
    pub(super) fn failing(hop: HopName, seen_by: &str, reason: &str, evidence: impl Into<String>) -> Self {
        let (reason, evidence) = (Some(reason.to_owned()), Some(evidence.into()));
        Self { reason, evidence, ..Self::new(hop, State::Failing, seen_by) }
    }

    /// A hop of which nothing is known.
    pub(super) fn unknown(hop: HopName, seen_by: &str, reason: &str, evidence: impl Into<String>) -> Self {
        Self { state: State::Unknown, ..Self::failing(hop, seen_by, reason, evidence) }
    }

    /// The same of one service, name or peer.
    pub(super) fn of(mut self, one: &str) -> Self {
        self.of.insert(one.to_owned());
        self
    }

    /// The same with its fix.
    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// The same with its evidence in two, where that says what to do as well: at the first semicolon,
    /// else at the first colon. A text that is one piece says both at once.
    pub(super) fn in_two(self) -> Self {
        let text = self.evidence.clone().unwrap_or_default();
        let split = text.split_once("; ").or_else(|| text.split_once(": "));
        let (what, fix) = split.unwrap_or((&text, &text));
        Self { evidence: Some(what.to_owned()), fix: Some(fix.to_owned()), ..self }
    }

    /// Whether it speaks of everything that another one speaks of.
    fn covers(&self, other: &Self) -> bool {
        self.of.is_empty() || (!other.of.is_empty() && other.of.is_subset(&self.of))
    }

    /// Whether only what it concerns is another than that of `other`.
    fn is_alike(&self, other: &Self) -> bool {
        let mut same = self.clone();
        (same.of, same.seconds) = (other.of.clone(), other.seconds);
        same == *other
    }
}

/// In the order of the hops, the failing first; what is known replaces what another end, or another
/// look, does not know, and what is alike is one.
pub(super) fn ordered(mut findings: Vec<Finding>) -> Vec<Finding> {
    let rank = |state: State| match state {
        State::Failing => 0,
        State::Unknown => 1,
        State::Ok => 2,
    };
    findings.sort_by_key(|finding| (finding.hop, rank(finding.state)));
    let mut findings = without_contradictions(findings);
    let known: Vec<Finding> =
        findings.iter().filter(|finding| finding.state != State::Unknown).cloned().collect();
    let is_known =
        |unknown: &Finding| known.iter().any(|known| known.hop == unknown.hop && known.covers(unknown));
    findings.retain(|finding| finding.state != State::Unknown || !is_known(finding));
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        match merged.iter_mut().find(|known| known.is_alike(&finding)) {
            Some(last) => last.of.extend(finding.of),
            None => merged.push(finding),
        }
    }
    merged
}

/// What one look saw failing is not ok because an earlier one saw it work.
fn without_contradictions(findings: Vec<Finding>) -> Vec<Finding> {
    let failing: Vec<(HopName, String)> = findings
        .iter()
        .filter(|finding| finding.state == State::Failing)
        .flat_map(|finding| finding.of.iter().map(|one| (finding.hop, one.clone())))
        .collect();
    let rest = |finding: Finding| {
        let is_ok = finding.state == State::Ok && !finding.of.is_empty();
        let is_its = |one: &String| !is_ok || !failing.contains(&(finding.hop, one.clone()));
        let of: BTreeSet<String> = finding.of.iter().filter(|one| is_its(one)).cloned().collect();
        (!is_ok || !of.is_empty()).then_some(Finding { of, ..finding })
    };
    findings.into_iter().filter_map(rest).collect()
}

/// What all findings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'f> {
    /// This is the first hop that fails.
    Failing(&'f Finding),
    /// Nothing fails, and this end could not be asked.
    Unseen(&'f Finding),
    /// Nothing fails.
    Well,
}

impl<'f> Verdict<'f> {
    /// Of findings in order.
    pub(super) fn of(findings: &'f [Finding]) -> Self {
        let is_unseen =
            |finding: &&Finding| finding.hop == HopName::Daemon && finding.state == State::Unknown;
        match findings.iter().find(|finding| finding.state == State::Failing) {
            Some(first) => Self::Failing(first),
            None => findings.iter().find(is_unseen).map_or(Self::Well, Self::Unseen),
        }
    }

    /// In one word.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Failing(_) => "failing",
            Self::Unseen(_) => "unknown",
            Self::Well => "ok",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failing_hop_decides_whatever_fails_behind_it() {
        let findings = ordered(vec![
            Finding::failing(HopName::Upstream, "edge", "refused", "x"),
            Finding::ok(HopName::Ruleset, "edge", "in force"),
            Finding::failing(HopName::Tunnel, "edge", "silent", "y"),
        ]);
        let hops: Vec<_> = findings.iter().map(|finding| finding.hop).collect();
        assert_eq!(hops, [HopName::Ruleset, HopName::Tunnel, HopName::Upstream]);
        assert_eq!(Verdict::of(&findings), Verdict::Failing(&findings[1]));
    }

    #[test]
    fn what_one_end_knows_replaces_what_the_other_does_not() {
        let unknown = || Finding::unknown(HopName::Route, "origin", "not_here", "the edge knows");
        let ok = || Finding::ok(HopName::Route, "kyiv", "nothing is wrong");
        assert_eq!(ordered(vec![unknown(), ok()]), [ok()]);
        let of_one = || ok().of("https");
        assert_eq!(ordered(vec![unknown(), of_one()]).len(), 2, "it knows of one service alone");
        assert_eq!(ordered(vec![unknown().of("https"), of_one()]), [of_one()]);
    }

    #[test]
    fn what_is_alike_is_one_with_all_that_it_concerns() {
        let refused = |of: &str| Finding::failing(HopName::Upstream, "edge", "refused", "x").of(of);
        let found = ordered(vec![refused("a"), refused("b")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].of.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_a_try_saw_failing_is_not_ok_by_an_earlier_look() {
        let ok = |of: &str| Finding::ok(HopName::Upstream, "edge", "it replies").of(of);
        let failing = || Finding::failing(HopName::Upstream, "wroclaw", "refused", "x").of("b");
        assert_eq!(ordered(vec![ok("a"), ok("b"), failing()]), [failing(), ok("a")]);
        assert_eq!(ordered(vec![ok("b"), failing()]), [failing()]);
    }

    #[test]
    fn what_is_wrong_is_split_from_what_to_do() {
        let finding = |text: &str| Finding::failing(HopName::Daemon, "edge", "missing", text).in_two();
        let shown = |finding: Finding| (finding.evidence.unwrap(), finding.fix.unwrap());
        assert_eq!(
            shown(finding("nft is not installed: apt install nftables")),
            ("nft is not installed".to_owned(), "apt install nftables".to_owned())
        );
        assert_eq!(
            shown(finding("a chain blocks the tunnel: its policy is drop; run: nft insert rule x")).1,
            "run: nft insert rule x"
        );
    }

    #[test]
    fn an_end_that_could_not_be_asked_is_no_good_news_and_other_unknown_hops_are_no_bad_ones() {
        let hop = |hop| Finding::unknown(hop, "edge", "denied", "x");
        assert_eq!(Verdict::of(&[hop(HopName::Upstream)]), Verdict::Well);
        assert_eq!(Verdict::of(&[hop(HopName::Daemon)]).label(), "unknown");
    }
}
