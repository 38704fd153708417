//! Text for people: sizes, times, tables, colours.

use std::io::IsTerminal as _;
use std::time::Duration;

/// The longest [`time`].
const LONGEST: Duration = Duration::from_secs(31_536_000);

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// With terminal colours.
    Colour,
}

/// Whether `NO_COLOR` leaves colours on: it is not set, or empty.
pub(crate) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    #[must_use]
    pub fn of_stdout() -> Self {
        if wants_colour() && std::io::stdout().is_terminal() { Self::Colour } else { Self::Plain }
    }

    /// `text` in a colour (SGR code).
    #[must_use]
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// `text` in bold.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// A state in capitals, green, yellow or red.
    #[must_use]
    pub fn state(self, state: &str) -> String {
        let code = match state {
            "up" | "ok" => "32",
            "stale" | "degraded" => "33",
            _ => "31",
        };
        self.paint(code, &state.to_uppercase())
    }
}

/// A number of bytes as `wg` writes it.
#[must_use]
pub fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A number of bytes per second.
#[must_use]
pub fn rate(per_second: f64) -> String {
    // A rate is never negative and far below 2^53: nothing is lost.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole bytes are wanted")]
    let whole = per_second.max(0.0) as u64;
    scaled(whole, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

fn scaled(count: u64, step: f64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    if value < step {
        return format!("{count} {unit}");
    }
    for next in units {
        if value < step {
            break;
        }
        value /= step;
        unit = next;
    }
    format!("{value:.2} {unit}")
}

/// How long ago.
#[must_use]
pub fn ago(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds are wanted")]
    let whole = seconds.max(0.0) as u64;
    if whole == 0 { "now".to_owned() } else { format!("{} ago", period(whole)) }
}

/// A length of time in words, the two largest units of it.
#[must_use]
pub fn period(seconds: u64) -> String {
    let units = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, length) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(", ") }
}

/// A time on a command line, such as `10m`: seconds, minutes, hours or days, up to a year.
///
/// # Errors
/// How it is written.
pub fn time(text: &str) -> Result<Duration, String> {
    let whole = policy::text::period(text).filter(|time| time.subsec_nanos() == 0 && *time <= LONGEST);
    whole.ok_or_else(|| "a time is a number and s, m, h or d, such as 10m, up to 365d".to_owned())
}

/// A [`time`] of a second at least.
///
/// # Errors
/// As [`time`].
pub fn lasting(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| if time.is_zero() { Err("a second at least".to_owned()) } else { Ok(time) })
}

/// Lines of columns that are as wide as their widest cell.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(period(0), "0 seconds");
        assert_eq!(period(61), "1 minute, 1 second");
        assert_eq!(period(90_061), "1 day, 1 hour");
    }

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (text, seconds) in
            [("7", 7), ("0s", 0), ("120s", 120), ("2m", 120), ("24h", 86_400), ("365d", 31_536_000)]
        {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "soon", "m", "-1s", "1.5m", "250ms", "366d", "1w", "18446744073709551615d"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(lasting("0s").is_err() && lasting("1s").is_ok());
    }
}
