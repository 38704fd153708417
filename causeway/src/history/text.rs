//! Blocks for people.

use std::fmt::Write as _;
use std::time::Duration;

use daemon::history::outages::{Block, Entry, Outage};
use daemon::history::record::What;
use daemon::history::text::{fix, line};
use daemon::link::history::FarHistory;
use daemon::local_time;
use daemon::text::{Style, period};

/// A clock that is off by less needs no word.
const SAME_CLOCK_MS: u64 = 2_000;

/// Every block; `since` is how far back was looked, `has_both` whether both daemons run here.
pub(super) fn text(blocks: &[Block], (since, has_both): (Duration, bool), style: Style) -> String {
    if blocks.is_empty() {
        return format!("nothing happened within {}\n", period(since.as_secs()));
    }
    let shown = Shown { has_both, style };
    blocks.iter().map(|block| shown.block(block)).collect()
}

/// How far an end's clock is off; `None` when it is not.
pub(super) fn clock_line(far: &FarHistory) -> Option<String> {
    let off = far.ahead_ms.unsigned_abs();
    let word = if far.ahead_ms > 0 { "ahead of" } else { "behind" };
    let (peer, seconds) = (&far.peer, period((off + 500) / 1_000));
    (off >= SAME_CLOCK_MS).then(|| {
        format!(
            "the clock of {peer} is {seconds} {word} this one; its records are shown in this machine's time"
        )
    })
}

struct Shown {
    has_both: bool,
    style: Style,
}

impl Shown {
    fn block(&self, block: &Block) -> String {
        match block {
            Block::Single(entry) => self.entry("", entry, &line(&entry.record.what)) + &summary(entry),
            Block::Outage(outage) => self.outage(outage),
        }
    }

    fn outage(&self, outage: &Outage) -> String {
        let what = &outage.cause.record.what;
        let crash = "the daemon had ended without being asked to (killed, crashed, or without power): ";
        let cause = if outage.is_crash { crash.to_owned() + &line(what) } else { line(what) };
        let colour = if outage.over.is_some() { "33" } else { "31" };
        let mut text = self.entry("", &outage.cause, &self.style.paint(colour, &cause));
        text += &summary(&outage.cause);
        for symptom in &outage.symptoms {
            text += &self.entry("    ", symptom, &line(&symptom.record.what));
        }
        let _ = match outage.over {
            Some(over) => {
                let lasted = period(over.saturating_sub(outage.began) / 1_000);
                writeln!(text, "    {}  over after {lasted}", local_time::shown(over))
            }
            None => writeln!(text, "    not over"),
        };
        // Who sees it may know more than who is nearest to it.
        let all = std::iter::once(&outage.cause).chain(&outage.symptoms);
        let fix = all.filter(|_| outage.over.is_none()).find_map(|entry| fix(&entry.record.what));
        if let Some(fix) = fix {
            let _ = writeln!(text, "    fix: {fix}");
        }
        text
    }

    fn entry(&self, indent: &str, entry: &Entry, what: &str) -> String {
        let side = &entry.side;
        let place = match &side.end {
            Some(end) => format!("at {end}: "),
            None if self.has_both => format!("{}: ", side.role),
            None => String::new(),
        };
        format!("{indent}{}  {place}{what}\n", local_time::shown(entry.record.at))
    }
}

/// The lines that say what an apply changed.
fn summary(entry: &Entry) -> String {
    let What::Applied { changes, summary, .. } = &entry.record.what else { return String::new() };
    let mut text: String = summary.iter().map(|line| format!("      {line}\n")).collect();
    let left = usize::try_from(*changes).unwrap_or(usize::MAX).saturating_sub(summary.len());
    if left > 0 && !summary.is_empty() {
        let _ = writeln!(text, "      and {left} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use daemon::history::Record;
    use daemon::history::outages::Side;

    use super::*;

    #[test]
    fn the_cause_is_at_the_margin_and_the_symptoms_are_indented() {
        let applied = What::Applied {
            how: "apply".to_owned(),
            changes: 9,
            summary: vec!["~ service web: upstream".to_owned()],
        };
        let down = What::Link { peer: "kyiv".to_owned(), up: false, reason: Some("hangup".to_owned()) };
        let outage = Outage {
            cause: entry(Some("wroclaw"), 0, applied),
            is_crash: false,
            symptoms: vec![entry(None, 5, down)],
            began: 1_796_047_351_000,
            over: Some(1_796_047_481_000),
        };
        let text = text(&[Block::Outage(outage)], (Duration::ZERO, false), Style::Plain);
        let lines: Vec<String> = text.lines().map(without_time).collect();
        assert_eq!(
            lines,
            [
                "TIME  at wroclaw: a configuration was applied (9 changes)",
                "      ~ service web: upstream",
                "      and 8 more",
                "    TIME  the link with kyiv is down (hangup)",
                "    TIME  over after 2 minutes, 10 seconds",
            ]
        );
    }

    #[test]
    fn a_daemon_that_was_killed_is_said_to_be_and_nothing_is_said_too() {
        let cause = entry(None, 0, What::Started { version: "1".to_owned(), failed: None });
        let began = cause.record.at;
        let outage = Outage { cause, is_crash: true, symptoms: Vec::new(), began, over: None };
        let text = |blocks: &[Block]| text(blocks, (Duration::from_secs(7_200), true), Style::Plain);
        let shown = text(&[Block::Outage(outage)]);
        assert!(
            shown.contains("edge: the daemon had ended without being asked to") && shown.contains("not over")
        );
        assert_eq!(text(&[]), "nothing happened within 2 hours\n");
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let far = |ahead_ms| FarHistory { peer: "kyiv".to_owned(), ahead_ms, ..FarHistory::default() };
        assert_eq!(clock_line(&far(-1_900)), None);
        assert!(clock_line(&far(3_600_000)).unwrap().contains("kyiv is 1 hour ahead of this one"));
        assert!(
            clock_line(&far(3_599_984)).unwrap().contains("kyiv is 1 hour ahead"),
            "to the nearest second"
        );
        assert!(clock_line(&far(-90_000)).unwrap().contains("behind"));
    }

    fn entry(end: Option<&str>, second: u64, what: What) -> Entry {
        let record = Record { number: second, at: 1_796_047_351_000 + second * 1_000, what };
        Entry { side: Side { role: "edge", end: end.map(str::to_owned) }, record }
    }

    fn without_time(line: &str) -> String {
        let date = "2026-11-30 14:02:31".len();
        match line.find("2026-") {
            Some(at) => format!("{}TIME{}", &line[..at], &line[at + date..]),
            None => line.to_owned(),
        }
    }
}
