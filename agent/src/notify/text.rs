//! The text of messages: what one needs at three in the morning.

use daemon::text::period;
use serde::{Deserialize, Serialize};

use super::incidents::{Cause, Kind, Report};
use super::seen::{End, Fault};

/// The longest subject, in characters.
pub const MAX_SUBJECT: usize = 80;
/// The most lines of a text.
pub const MAX_LINES: usize = 20;
/// The longest line, in characters; a fix may be longer.
const MAX_LINE: usize = 200;
/// The most names in one line.
const MAX_NAMES: usize = 8;
/// The most events before it, the newest.
const MAX_EVENTS: usize = 5;
/// The most causes in one message.
const MAX_CAUSES: usize = 3;

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Of no other message of this machine; a receiver that has it already gets it again after a
    /// crash at most.
    pub id: String,
    /// What it is about.
    pub kind: Kind,
    /// The message that this one makes needless while it is not delivered.
    pub replaces: Option<String>,
    /// When it was made, in Unix milliseconds.
    pub at: u64,
    /// One line.
    pub subject: String,
    /// At most 20 lines.
    pub body: String,
    /// Names and services that are down, or were.
    pub down: Vec<String>,
    /// The hop of the cause.
    pub hop: Option<String>,
}

impl Message {
    /// The message of a report of this machine.
    #[must_use]
    pub fn of(machine: &str, report: &Report) -> Self {
        let first = report.causes.first();
        let mut down: Vec<String> = report.causes.iter().flat_map(|cause| cause.down.clone()).collect();
        down.dedup();
        Self {
            id: report.id.clone(),
            kind: report.kind,
            replaces: report.begun.clone().filter(|_| report.kind == Kind::Over),
            at: report.at,
            subject: shortened(&subject(machine, report, &down), MAX_SUBJECT),
            body: body(machine, report),
            hop: first.map(|cause| cause.fault.hop.clone()),
            down,
        }
    }

    /// That a name leads to other edges than before, or could not be changed: one line, and more.
    #[must_use]
    pub fn steered(machine: &str, now: u64, line: &str, more: &str) -> Self {
        Self {
            id: format!("{now:x}-steered"),
            kind: Kind::Steered,
            replaces: None,
            at: now,
            subject: shortened(&format!("causeway {machine}: {line}"), MAX_SUBJECT),
            body: format!("{line}.\n{more}\nFrom {machine}, {}, {}\n", where_it_is(End::Origin), date(now)),
            down: Vec::new(),
            hop: None,
        }
    }

    /// That messages arrive.
    #[must_use]
    pub fn test(machine: &str, end: End, now: u64) -> Self {
        Self {
            id: format!("{now:x}-test"),
            kind: Kind::Test,
            replaces: None,
            at: now,
            subject: format!("causeway {machine}: test"),
            body: format!(
                "This is a test of `causeway notify test`: nothing is down.\nSent by {machine} at {}.\n",
                where_it_is(end)
            ),
            down: Vec::new(),
            hop: None,
        }
    }
}

const fn where_it_is(end: End) -> &'static str {
    match end {
        End::Edge => "the edge",
        End::Origin => "the origin",
    }
}

fn subject(machine: &str, report: &Report, down: &[String]) -> String {
    let what = match down {
        [] => "something".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let cause = report.causes.first();
    let hop = cause.map(|cause| format!(" ({})", hop(&cause.fault))).unwrap_or_default();
    match report.kind {
        Kind::Down => format!("causeway {machine}: down: {what}{hop}"),
        Kind::StillDown => format!("causeway {machine}: still down: {what}"),
        Kind::Flapping => format!("causeway {machine}: flapping: {what}{hop}"),
        Kind::Over => {
            let time = cause.and_then(|cause| Some(lasted(cause.since, cause.until?)));
            format!("causeway {machine}: over after {}: {what}", time.unwrap_or_default())
        }
        Kind::Steered => format!("causeway {machine}: steered: {what}"),
        Kind::Test => format!("causeway {machine}: test"),
    }
}

fn body(machine: &str, report: &Report) -> String {
    let mut lines = Vec::new();
    for cause in report.causes.iter().take(MAX_CAUSES) {
        cause_lines(report, cause, &mut lines);
    }
    let more = report.causes.len().saturating_sub(MAX_CAUSES);
    if more > 0 {
        lines.push(format!("{more} more causes: see `causeway status`"));
    }
    if !report.still_down.is_empty() {
        lines.push(format!("Also down, by another cause: {}", listed(&report.still_down)));
    }
    lines.extend(works(report).map(|works| format!("Works: {works}")));
    if report.kind != Kind::Over && !report.working.is_empty() {
        lines.push(format!("Not affected: {}", listed(&report.working)));
    }
    if report.kind != Kind::Over && !report.before.is_empty() {
        lines.push("Just before:".to_owned());
        let skipped = report.before.len().saturating_sub(MAX_EVENTS);
        for (at, event) in report.before.iter().skip(skipped) {
            lines.push(format!("  {} {event}", time_of_day(*at)));
        }
    }
    let lines = lines.into_iter().map(|line| match line.starts_with("Fix: ") {
        true => line,
        false => shortened(&line, MAX_LINE),
    });
    let mut text: Vec<String> = lines.take(MAX_LINES - 1).collect();
    text.push(format!("From {machine}, {}, {}", where_it_is(report.end), date(report.at)));
    text.push(String::new());
    text.join("\n")
}

fn cause_lines(report: &Report, cause: &Cause, lines: &mut Vec<String>) {
    let down = listed(&cause.down);
    let since = time_of_day(cause.since);
    lines.push(match (report.kind, cause.until) {
        (Kind::Over, Some(until)) => {
            let time = lasted(cause.since, until);
            format!("Down from {since} to {} UTC ({time}): {down}", time_of_day(until))
        }
        (Kind::Flapping, _) => {
            format!("Flapping, {} changes in 10 minutes: {down}. Nothing more is sent until it has not changed for 10 minutes.", cause.changes)
        }
        _ => format!("Down since {since} UTC ({}): {down}", lasted(cause.since, report.at)),
    });
    let reason = cause.fault.reason.as_deref().map(|reason| format!(" ({})", reason.replace('_', " ")));
    let evidence = cause.fault.evidence.as_deref().map(|text| format!(": {text:?}")).unwrap_or_default();
    lines.push(format!("Cause: {}{}{evidence}", hop(&cause.fault), reason.unwrap_or_default()));
    if report.kind != Kind::Over {
        lines.extend(cause.fault.fix.as_ref().map(|fix| format!("Fix: {fix}")));
    }
}

/// A hop as people name it.
fn hop(fault: &Fault) -> String {
    let at = fault.peer.as_deref().map(|peer| format!(" at {peer}")).unwrap_or_default();
    match fault.hop.as_str() {
        "daemon" => "the daemon of this machine".to_owned(),
        "tunnel" => {
            fault.peer.as_deref().map_or_else(|| "tunnel".to_owned(), |peer| format!("tunnel to {peer}"))
        }
        "ruleset" => "rules of the edge".to_owned(),
        "route" => "route of the edge".to_owned(),
        "service_entry" => format!("no [[service]] entry{at}"),
        "name" => format!("site or certificate{at}"),
        "public_name" => "DNS of the name".to_owned(),
        "forward" => "port forward of the router".to_owned(),
        other => format!("{}{at}", other.replace('_', " ")),
    }
}

/// What works on the way: the edge, its line, tunnels and links.
fn works(report: &Report) -> Option<String> {
    let is_down = |wanted: &str| report.causes.iter().any(|cause| cause.fault.hop == wanted);
    if is_down("daemon") {
        return None;
    }
    let mut works = Vec::new();
    let tunnels = &report.peers.tunnels;
    if report.end == End::Edge && !is_down("ruleset") && !is_down("route") {
        works.push("edge".to_owned());
    }
    if !tunnels.is_empty() {
        works.push("line".to_owned());
        works.push(format!("tunnel to {}", listed(tunnels)));
    }
    if !report.peers.links.is_empty() {
        works.push(format!("link to {}", listed(&report.peers.links)));
    }
    (!works.is_empty()).then(|| works.join(", "))
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn lasted(from: u64, to: u64) -> String {
    period(to.saturating_sub(from) / 1_000)
}

fn shortened(line: &str, most: usize) -> String {
    let plain: String = line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    match plain.char_indices().nth(most.saturating_sub(1)) {
        Some((end, _)) if plain.chars().count() > most => {
            format!("{}…", plain.get(..end).unwrap_or_default())
        }
        _ => plain,
    }
}

/// A time of Unix milliseconds, as `03:12:05`.
fn time_of_day(at: u64) -> String {
    let seconds = at / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A time of Unix milliseconds, as `2026-11-30 03:12:05 UTC`.
fn date(at: u64) -> String {
    // Days since 1 March of the year 0, in the proleptic Gregorian calendar: a year then ends with
    // its leap day.
    let days = at / 86_400_000 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month, wraps) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1, month >= 10);
    let year = era * 400 + year + u64::from(wraps);
    format!("{year}-{month:02}-{day:02} {} UTC", time_of_day(at))
}

#[cfg(test)]
mod tests {
    use super::super::seen::Peers;
    use super::*;

    /// 2026-11-30 03:12:05 UTC.
    const NIGHT: u64 = 1_796_008_325_000;

    #[test]
    fn a_message_says_what_is_down_why_what_works_and_how_to_fix_it() {
        let message = Message::of("kyiv", &report(Kind::Down));
        assert_eq!(message.subject, "causeway kyiv: down: emby.example.com and 1 more (upstream at wroclaw)");
        assert_eq!(
            message.body,
            "\
Down since 03:12:05 UTC (15 seconds): emby.example.com, photos.example.com
Cause: upstream at wroclaw (refused): \"192.168.88.2:8443: connection refused\"
Fix: at wroclaw: start the program that listens on the upstream of [[service]] https, or correct `upstream`
Works: edge, line, tunnel to wroclaw, link to wroclaw
Not affected: game, mail
Just before:
  03:10:12 reload, 2 changes: ~ https upstream
  03:11:50 stackctl: media restarted caddy
From kyiv, the edge, 2026-11-30 03:12:20 UTC
"
        );
    }

    #[test]
    fn what_is_over_says_how_long_it_was_and_what_is_down_still() {
        let mut over = report(Kind::Over);
        over.causes[0].until = Some(NIGHT + 725_000);
        over.still_down = vec!["mail".to_owned()];
        let message = Message::of("kyiv", &over);
        assert_eq!(
            message.subject,
            "causeway kyiv: over after 12 minutes, 5 seconds: emby.example.com and 1 more"
        );
        assert_eq!(
            message.body,
            "\
Down from 03:12:05 to 03:24:10 UTC (12 minutes, 5 seconds): emby.example.com, photos.example.com
Cause: upstream at wroclaw (refused): \"192.168.88.2:8443: connection refused\"
Also down, by another cause: mail
Works: edge, line, tunnel to wroclaw, link to wroclaw
From kyiv, the edge, 2026-11-30 03:12:20 UTC
"
        );
    }

    #[test]
    fn however_much_is_down_a_message_stays_short() {
        let mut long = report(Kind::StillDown);
        let names: Vec<String> = (0..500).map(|n| format!("{}{n}.example.com", "x".repeat(100))).collect();
        long.causes[0].down.clone_from(&names);
        long.causes[0].fault.evidence = Some("\u{1b}[2J".repeat(90));
        long.causes = vec![long.causes[0].clone(); 9];
        (long.working, long.still_down) = (names.clone(), names);
        long.before = vec![(NIGHT, "y".repeat(900)); 64];
        let message = Message::of(&"m".repeat(64), &long);
        assert!(message.subject.chars().count() <= MAX_SUBJECT, "{}", message.subject);
        assert!(message.body.lines().count() <= MAX_LINES, "{}", message.body);
        let is_short = |line: &str| line.starts_with("Fix: ") || line.chars().count() <= MAX_LINE;
        assert!(message.body.lines().all(is_short), "{}", message.body);
        assert!(!message.body.contains('\u{1b}'), "{}", message.body);
    }

    #[test]
    fn times_are_dates() {
        for (at, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_999, "2024-02-29 23:59:59 UTC"),
            (1_735_689_599_000, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(at), shown);
        }
    }

    fn report(kind: Kind) -> Report {
        let text = |text: &str| text.to_owned();
        let fix = "at wroclaw: start the program that listens on the upstream of [[service]] https, or correct `upstream`";
        Report {
            id: text("1-1-down"),
            kind,
            begun: None,
            at: NIGHT + 15_000,
            end: End::Edge,
            causes: vec![Cause {
                fault: Fault {
                    hop: text("upstream"),
                    peer: Some(text("wroclaw")),
                    reason: Some(text("refused")),
                    evidence: Some(text("192.168.88.2:8443: connection refused")),
                    fix: Some(text(fix)),
                },
                since: NIGHT,
                until: None,
                down: vec![text("emby.example.com"), text("photos.example.com")],
                changes: 1,
            }],
            before: vec![
                (NIGHT - 113_000, text("reload, 2 changes: ~ https upstream")),
                (NIGHT - 15_000, text("stackctl: media restarted caddy")),
            ],
            peers: Peers {
                tunnels: vec![text("wroclaw")],
                links: vec![text("wroclaw")],
                linked: vec![text("wroclaw")],
                announced: vec![],
            },
            working: vec![text("game"), text("mail")],
            still_down: vec![],
        }
    }
}
