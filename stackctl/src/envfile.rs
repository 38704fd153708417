//! Env files, read literally as the shell scripts did, and quoted so that Compose reads the same bytes.
//!
//! Literal means: outer quotes are stripped, and neither `$` nor an inline `#` has a meaning. Compose reads the
//! same file otherwise, so it never gets it: it gets one generated file of [`quote_for_compose`] lines.

use crate::secret::Hidden;

/// One `NAME=value` of an env file.
#[derive(Clone)]
pub struct Entry {
    /// The variable's name.
    pub name: String,
    /// Its literal value.
    pub value: Hidden,
    /// Its text before the quotes were stripped.
    raw: Hidden,
    /// Its line, from 1.
    pub line: usize,
}

/// What makes a line of an env file unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The line has no `=`.
    #[error("{line}:1: neither a comment nor NAME=value")]
    NoAssignment {
        /// Line, from 1.
        line: usize,
    },
    /// The text before `=` is not a variable's name.
    #[error("{line}:1: a variable's name is letters, digits and _, and does not start with a digit")]
    BadName {
        /// Line, from 1.
        line: usize,
    },
    /// A quoted PEM block is not closed.
    #[error("{line}:1: the quoted PEM block that starts here is never closed")]
    OpenBlock {
        /// Line, from 1.
        line: usize,
    },
}

/// Reads an env file literally; later entries of one name win.
///
/// A quoted value may have several lines: a PEM block, or one whose further lines are no assignments themselves.
pub fn parse(text: &str) -> Result<Vec<Entry>, EnvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut entries = Vec::new();
    let mut index = 0;
    while let Some(full) = lines.get(index) {
        let (line, trimmed) = (index + 1, full.trim());
        if trimmed.is_empty() || trimmed.starts_with('#') {
            index += 1;
            continue;
        }
        let (name, value) = assignment(trimmed).ok_or(EnvError::NoAssignment { line })?;
        if !is_name(name) {
            return Err(EnvError::BadName { line });
        }
        let further = further_lines(value, lines.get(index + 1..).unwrap_or_default());
        let further = further.ok_or(EnvError::OpenBlock { line })?;
        let mut raw = value.to_owned();
        for next in lines.iter().skip(index + 1).take(further) {
            raw.push('\n');
            raw.push_str(next.trim_end());
        }
        let value = Hidden::new(strip_quotes(&raw).to_owned());
        entries.push(Entry { name: name.to_owned(), value, raw: Hidden::new(raw), line });
        index += 1 + further;
    }
    Ok(entries)
}

/// The name and the value of a line, both trimmed; `None` without `=`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().split_once('=')?;
    let name = name.trim();
    Some((name.strip_prefix("export ").unwrap_or(name).trim(), value.trim()))
}

/// How many of the lines behind a value belong to it; `None` for a PEM block that is never closed.
fn further_lines(value: &str, behind: &[&str]) -> Option<usize> {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Some(0) };
    if value.len() > 1 && value.ends_with(quote) {
        return Some(0);
    }
    let closing = behind.iter().position(|line| line.trim_end().ends_with(quote)).map(|at| at + 1);
    if opens_block(value).is_some() {
        return closing;
    }
    // A lone quote is a value too, so lines that are something by themselves end the search.
    let own = |line: &&str| {
        let named = assignment(line).is_some_and(|(name, _)| is_name(name));
        named || line.trim().is_empty() || line.trim_start().starts_with('#')
    };
    let count = closing.unwrap_or_default();
    Some(if behind.iter().take(count).any(own) { 0 } else { count })
}

/// Whether `name` may be an environment variable's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Entry {
    /// A variable whose value needs no reading.
    #[must_use]
    pub fn of(name: &str, value: &str, line: usize) -> Self {
        let value = Hidden::new(value.to_owned());
        Self { name: name.to_owned(), raw: value.clone(), value, line }
    }

    /// Why Compose would read another value from this line than the literal one, if it would.
    #[must_use]
    pub fn compose_difference(&self) -> Option<&'static str> {
        compose_difference(self.raw.expose())
    }
}

fn compose_difference(raw: &str) -> Option<&'static str> {
    let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        return if raw.contains('$') {
            Some("Compose expands the $")
        } else if raw.starts_with('#') || raw.contains(" #") || raw.contains("\t#") {
            Some("Compose takes the text from # on as a comment")
        } else {
            None
        };
    };
    let Some(inner) = raw.get(1..).and_then(|rest| rest.strip_suffix(quote)) else {
        return Some("Compose wants the opening quote closed at the end");
    };
    let special: &[char] = if quote == '"' { &['$', '\\', '"'] } else { &['\''] };
    if inner.contains(special) {
        Some("Compose gives $, \\ and quotes inside these quotes a meaning")
    } else if quote == '\'' && inner.ends_with('\\') {
        Some("Compose takes the closing quote after \\ for text")
    } else {
        None
    }
}

/// A `NAME="…"` line that Compose reads back as exactly `value`.
#[must_use]
pub fn quote_for_compose(name: &str, value: &str) -> String {
    let mut line = String::with_capacity(name.len() + value.len() + 8);
    line.push_str(name);
    line.push_str("=\"");
    for c in value.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\\' | '"' | '$' => line.extend(['\\', c]),
            other => line.push(other),
        }
    }
    line.push_str("\"\n");
    line
}

/// A `NAME=value` line that the literal reading gives back as `value`, and Compose too where that is possible.
#[must_use]
pub fn literal_line(name: &str, value: &str) -> String {
    let bare = value.chars().all(|c| c.is_ascii_alphanumeric() || "+/=_-.:,@%^~".contains(c));
    let quotable = !value.contains('\'') && !value.ends_with('\\');
    let keeps_quotes = strip_quotes(value) == value && value.trim() == value;
    if bare || (!quotable && keeps_quotes) {
        format!("{name}={value}\n")
    } else {
        format!("{name}='{value}'\n")
    }
}

/// `text` with `lines` put at the end of a service's section, which is made when it is not there.
#[must_use]
pub fn with_section_lines(text: &str, service: &str, lines: &str) -> String {
    let header = section_header(service);
    let mut out = String::with_capacity(text.len() + lines.len() + header.len() + 2);
    let mut inside = false;
    let mut placed = false;
    for line in text.lines() {
        if inside && line.starts_with("# --- ") {
            out.push_str(lines);
            out.push('\n');
            (inside, placed) = (false, true);
        }
        if inside && line.is_empty() {
            continue;
        }
        inside |= line == header && !placed;
        out.push_str(line);
        out.push('\n');
    }
    if inside {
        out.push_str(lines);
    } else if !placed {
        if !out.is_empty() && !out.ends_with("\n\n") {
            out.push('\n');
        }
        out.push_str(&header);
        out.push('\n');
        out.push_str(lines);
    }
    out
}

/// `text` without the lines of the named variables; a value of several lines goes as a whole.
#[must_use]
pub fn without(text: &str, names: &[&str]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        let plain = line.strip_prefix('\u{feff}').unwrap_or(line);
        let named = assignment(plain).filter(|_| !plain.trim_start().starts_with('#'));
        let behind = lines.get(index + 1..).unwrap_or_default();
        let count = 1 + named.and_then(|(_, value)| further_lines(value, behind)).unwrap_or_default();
        if !named.is_some_and(|(name, _)| names.contains(&name)) {
            for kept in lines.iter().skip(index).take(count) {
                out.push_str(kept);
                out.push('\n');
            }
        }
        index += count;
    }
    out
}

fn section_header(service: &str) -> String {
    format!("# --- {service} ---")
}

fn opens_block(raw: &str) -> Option<char> {
    let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    raw.get(1..)?.starts_with("-----BEGIN ").then_some(quote)
}

fn strip_quotes(raw: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = raw.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_literal() {
        let text = "# comment\n\nA=plain\n B = spaced \nC=\"quoted $x # y\"\nD='single'\nE=a$b #c\nF=\nexport G=1\nH=\"open\n";
        assert_eq!(
            read(text),
            [
                ("A", "plain"),
                ("B", "spaced"),
                ("C", "quoted $x # y"),
                ("D", "single"),
                ("E", "a$b #c"),
                ("F", ""),
                ("G", "1"),
                ("H", "\"open")
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(parse("A=1\nnonsense\n").err(), Some(EnvError::NoAssignment { line: 2 }));
        assert_eq!(parse("1A=1\n").err(), Some(EnvError::BadName { line: 1 }));
        assert_eq!(parse("A='-----BEGIN X\nabc\n").err(), Some(EnvError::OpenBlock { line: 1 }));
    }

    #[test]
    fn an_old_pem_block_of_several_lines_is_one_value() {
        let text = "K=\"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\"\nB=2\n";
        let entries = read(text);
        assert_eq!(entries[0].1, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----");
        assert_eq!(entries[1], ("B".into(), "2".into()));
        assert_eq!(without(text, &["K"]), "B=2\n");
    }

    #[test]
    fn a_quoted_value_of_several_lines_is_one_value_unless_its_lines_are_assignments() {
        let text = "J='{\n  \"a\": 1\n}'\nB=2\n";
        assert_eq!(read(text)[0].1, "{\n  \"a\": 1\n}");
        assert_eq!(without(text, &["J"]), "B=2\n");
        assert_eq!(without(text, &["B"]), "J='{\n  \"a\": 1\n}'\n");
        let lone = "Q=\"\nA=1\nB=x\"\n";
        assert_eq!(read(lone).iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(), ["\"", "1", "x\""]);
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_value() {
        let text = "\u{feff}A=1\r\nB='2'\r\n# c\r\n";
        assert_eq!(read(text), [("A", "1"), ("B", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(without(text, &["A"]), "B='2'\n# c\n");
    }

    #[test]
    fn both_readings_are_compared() {
        for same in ["plain", "'a$b'", "\"a b\"", "a#b", "a\\b", ""] {
            assert_eq!(compose_difference(same), None, "{same}");
        }
        for other in ["a$b", "a #b", "\"a$b\"", "\"a\\nb\"", "'a", "#x", "'it's'", "'a\\'"] {
            assert!(compose_difference(other).is_some(), "{other}");
        }
    }

    #[test]
    fn new_lines_go_into_the_services_own_section() {
        let first = with_section_lines("", "authelia", "A=1\n");
        assert_eq!(first, "# --- authelia ---\nA=1\n");
        let second = with_section_lines(&first, "monitoring", "M=1\n");
        let third = with_section_lines(&second, "authelia", "B=2\n");
        assert_eq!(third, "# --- authelia ---\nA=1\nB=2\n\n# --- monitoring ---\nM=1\n");
    }

    proptest! {
        #[test]
        fn what_is_written_literally_is_read_back(value in "[ -~]{0,30}") {
            let line = literal_line("NAME", &value);
            prop_assert_eq!(read(&line), [("NAME".to_owned(), value)]);
        }
    }

    fn read(text: &str) -> Vec<(String, String)> {
        let entries = parse(text).expect("readable");
        entries.into_iter().map(|e| (e.name, e.value.expose().to_owned())).collect()
    }
}
