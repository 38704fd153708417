//! `causeway doctor` for people: a line for each hop, the first failing one with its fix last.

use std::fmt::Write as _;

use daemon::health::{HopName, State};
use daemon::text::{Style, period, table};

use super::finding::{Finding, Verdict};

/// A table of all hops, what could not be seen with how to see it, and what to do.
pub(super) fn text(findings: &[Finding], style: Style) -> String {
    let header = ["HOP", "STATE", "OF", "WHAT WAS SEEN"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(header).chain(findings.iter().map(row)).collect();
    let mut text = String::new();
    for (line, finding) in
        table(&rows).into_iter().zip(std::iter::once(None).chain(findings.iter().map(Some)))
    {
        let line = match finding.map(|finding| finding.state) {
            None => style.bold(&line),
            Some(State::Failing) => style.paint("31", &line),
            Some(State::Ok | State::Unknown) => line,
        };
        text.push_str(&line);
        text.push('\n');
    }
    for unseen in findings.iter().filter(|finding| finding.state == State::Unknown) {
        if let Some(how) = &unseen.fix {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "not seen: {}; {how}", hop(unseen.hop));
        }
    }
    let (code, sentence, fix) = conclusion(Verdict::of(findings));
    let _ = writeln!(text, "\n{}", style.paint(code, &sentence));
    if let Some(fix) = fix {
        let _ = writeln!(text, "fix: {fix}");
    }
    text
}

/// The colour, the sentence and the fix.
fn conclusion(verdict: Verdict<'_>) -> (&'static str, String, Option<String>) {
    match verdict {
        Verdict::Failing(first) => ("31", sentence(first), first.fix.clone()),
        Verdict::Unseen(end) => {
            let what = end.evidence.as_deref().unwrap_or_default();
            ("33", format!("Whether something is wrong is not known: {what}"), end.fix.clone())
        }
        Verdict::Well => ("32", "Nothing is wrong, as far as can be seen.".to_owned(), None),
    }
}

/// What is failing, in a line.
pub(super) fn sentence(finding: &Finding) -> String {
    let of = names(finding);
    let of = if of.is_empty() { String::new() } else { format!(" for {of}") };
    let since = finding.seconds.map(|seconds| format!(", for {}", period(seconds))).unwrap_or_default();
    let reason = finding.reason.as_deref().unwrap_or("other");
    let what = finding.evidence.as_deref().unwrap_or(reason);
    format!("The first failing hop is the {}{of} ({reason}{since}): {what}", hop(finding.hop))
}

fn row(finding: &Finding) -> Vec<String> {
    let of = names(finding);
    let of = if of.is_empty() { "-".to_owned() } else { of };
    let evidence = finding.evidence.clone().unwrap_or_default();
    vec![hop(finding.hop).to_owned(), finding.state.label().to_owned(), of, evidence]
}

fn names(finding: &Finding) -> String {
    finding.of.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A hop in words.
pub(super) const fn hop(hop: HopName) -> &'static str {
    match hop {
        HopName::Daemon => "daemon",
        HopName::PublicName => "public name",
        HopName::Forward => "router's forward",
        HopName::WanPort => "WAN port",
        HopName::Ruleset => "ruleset",
        HopName::Route => "route",
        HopName::Tunnel => "tunnel",
        HopName::Link => "link",
        HopName::ServiceEntry => "service entry",
        HopName::Upstream => "upstream",
        HopName::WayBack => "way back",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failing_hop_and_its_fix_come_last() {
        let failing = Finding::failing(HopName::Upstream, "edge", "refused", "\"connection refused\"");
        let failing = Finding { seconds: Some(61), ..failing.of("https").fix("start Caddy") };
        let unknown = Finding::unknown(HopName::PublicName, "edge", "no_names", "no name").fix("write names");
        let shown = text(&[unknown, failing], Style::Plain);
        let expected = "\
HOP          STATE    OF     WHAT WAS SEEN
public name  unknown  -      no name
upstream     failing  https  \"connection refused\"
not seen: public name; write names

The first failing hop is the upstream for https (refused, for 1 minute, 1 second): \"connection refused\"
fix: start Caddy
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_not_known_is_said_with_how_to_see_it() {
        let denied = Finding::unknown(HopName::Daemon, "edge", "denied", "the socket is closed to this user");
        let shown = text(&[denied.fix("run: sudo causeway doctor")], Style::Plain);
        assert!(shown.ends_with(
            "\nWhether something is wrong is not known: the socket is closed to this user\n\
             fix: run: sudo causeway doctor\n"
        ));
        assert!(text(&[], Style::Plain).ends_with("\nNothing is wrong, as far as can be seen.\n"));
    }
}
