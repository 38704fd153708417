//! `.env` in Compose's own grammar: quotes, escapes, comments, values of several lines, references to other variables.
//!
//! Only `.env` is read this way. `.env.generated` and `.env.user` are literal ([`crate::envfile`]).

use crate::interpolate::{InterpolationError, substitute};

/// One variable of a `.env`.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, as Compose would use it.
    pub value: String,
    /// Its line, from 1.
    pub line: usize,
}

/// What makes a `.env` unreadable, for Compose as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:1: {why}")]
pub struct DotenvError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Reads a `.env`; `outer` gives what the environment has, which precedes the file's own values in references.
pub fn parse(text: &str, outer: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Setting>, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut settings: Vec<Setting> = Vec::new();
    let mut reader = Reader { text, at: 0 };
    while reader.skip_to_statement() {
        let line = reader.line();
        let fail = |why: String| DotenvError { line, why };
        let (name, has_value) = reader.name().map_err(fail)?;
        let value = if has_value {
            let known = |name: &str| {
                let own = || settings.iter().rev().find(|s| s.name == name).map(|s| s.value.clone());
                outer(name).or_else(own)
            };
            Some(reader.value(&known).map_err(fail)?)
        } else {
            outer(&name)
        };
        settings.extend(value.map(|value| Setting { name, value, line }));
    }
    Ok(settings)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn line(&self) -> usize {
        self.text.get(..self.at).unwrap_or_default().matches('\n').count() + 1
    }

    /// Whether a statement follows the blank lines and comments here.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return !trimmed.is_empty();
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// A name and whether a value follows it; a name alone is taken from the environment.
    fn name(&mut self) -> Result<(String, bool), String> {
        let rest = self.rest();
        let exported = rest.strip_prefix("export").filter(|after| after.starts_with(blank));
        let from = exported.map_or(rest, |after| after.trim_start_matches(blank));
        let end = from.find(['=', ':', '\n']).unwrap_or(from.len());
        let name = from.get(..end).unwrap_or_default().trim();
        let has_value = from.get(end..).is_some_and(|after| after.starts_with(['=', ':']));
        if name.contains(char::is_whitespace) {
            return Err(format!("{name:?} is not a variable's name: a space is in it"));
        }
        let odd = |c: &char| !(c.is_alphanumeric() || "_.-[]".contains(*c));
        if let Some(odd) = name.chars().find(odd) {
            return Err(format!("{name:?} is not a variable's name: {odd:?} is in it"));
        }
        self.at += rest.len() - from.len() + (end + 1).min(from.len());
        Ok((name.to_owned(), has_value))
    }

    fn value(&mut self, known: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let rest = self.rest();
        let from = rest.trim_start_matches(blank);
        self.at += rest.len() - from.len();
        let expand =
            |text: &str| substitute(text, known).map_err(|error: InterpolationError| error.to_string());
        let quote = from.chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some(quote) = quote else {
            let line = from.split('\n').next().unwrap_or_default();
            self.at += line.len();
            let bare = line.split(" #").next().unwrap_or_default();
            return expand(bare.trim_end());
        };
        let (inside, length) = quoted(from, quote).ok_or("a quoted value is never closed")?;
        self.at += length;
        if quote == '"' { expand(&unescape(&inside)) } else { Ok(inside) }
    }
}

/// A space that is no line break.
fn blank(c: char) -> bool {
    c != '\n' && c.is_whitespace()
}

/// What is within the quotes, a quote behind `\` without it, and how many bytes the whole takes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((inside, at + 1));
        }
        match chars.peek().copied() {
            Some((_, next)) if c == '\\' && next == quote => {
                inside.push(quote);
                chars.next();
            }
            // A `\` behind a `\` does not begin another escape.
            Some((_, '\\')) if c == '\\' => {
                inside.push_str("\\\\");
                chars.next();
            }
            _ => inside.push(c),
        }
    }
    None
}

/// The escapes of a double-quoted value; `\$` becomes the `$$` that the interpolation takes for a `$`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(next) = chars.peek().copied().filter(|_| c == '\\') else {
            out.push(c);
            continue;
        };
        let meant = match next {
            '$' => "$$",
            'a' => "\u{7}",
            'b' => "\u{8}",
            'f' => "\u{c}",
            'n' => "\n",
            'r' => "\r",
            't' => "\t",
            'v' => "\u{b}",
            '\\' => "\\",
            '"' => "\"",
            _ => {
                out.push('\\');
                continue;
            }
        };
        out.push_str(meant);
        chars.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_read_as_compose_reads_them() {
        let cases: [(&str, &[(&str, &str)]); 20] = [
            ("A=\"quoted\"\nB=three # comment\n", &[("A", "quoted"), ("B", "three")]),
            ("A=x#y\nB=#z\n", &[("A", "x#y"), ("B", "#z")]),
            ("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
            ("A=\"1\"\r\nB='2'\r\n", &[("A", "1"), ("B", "2")]),
            ("A=\"l1\nl2\"\nB='k1\nk2'\n", &[("A", "l1\nl2"), ("B", "k1\nk2")]),
            ("A=\"a\\nb\\tc\\x\"\nB=a\\nb\n", &[("A", "a\nb\tc\\x"), ("B", "a\\nb")]),
            ("A='it\\'s'\nB=\"a\\\"b\"\n", &[("A", "it's"), ("B", "a\"b")]),
            ("export A=1\nexport  B='2'\n", &[("A", "1"), ("B", "2")]),
            ("A: yaml\n", &[("A", "yaml")]),
            ("A = 1 \nB=\n", &[("A", "1"), ("B", "")]),
            ("A=\n\nB=1\n", &[("A", ""), ("B", "1")]),
            ("B=z\nA=${B}-$B-${N:-d}\n", &[("B", "z"), ("A", "z-z-d")]),
            ("A='$B'\nB=\"\\$C\"\nC=a$$b\n", &[("A", "$B"), ("B", "$C"), ("C", "a$b")]),
            ("A=a$\nB=$1\n", &[("A", "a$"), ("B", "$1")]),
            ("# A=0\nA=1 # x\n#B\n", &[("A", "1")]),
            ("A=\"x\" # y\nB=2\n", &[("A", "x"), ("B", "2")]),
            ("A=1\nA=2\n", &[("A", "1"), ("A", "2")]),
            ("A\nHOST\n", &[("HOST", "mac")]),
            ("A=$HOST\n", &[("A", "mac")]),
            ("A=\"\\\\$B\"\nB=x\n", &[("A", "\\"), ("B", "x")]),
        ];
        for (text, wanted) in cases {
            let settings = parse(text, &outer).unwrap_or_else(|error| panic!("{text}: {error}"));
            let read: Vec<_> = settings.iter().map(|s| (s.name.as_str(), s.value.as_str())).collect();
            assert_eq!(read, wanted, "{text}");
        }
    }

    #[test]
    fn what_compose_refuses_has_its_line() {
        for (text, line) in
            [("\nA=\"open\n", 2), ("A B=1\n", 1), ("A=1\nB=${\n", 2), ("A=1\n\nB=${N:?set it}\n", 3)]
        {
            let error = parse(text, &outer).err().map(|error| error.line);
            assert_eq!(error, Some(line), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_compose_gets_from_stackctl_reads_back_as_the_same_bytes(value in "[ -~\n]{0,40}") {
            let line = crate::envfile::quote_for_compose("NAME", &value);
            let read = parse(&line, &|_| None).map(|settings| settings.into_iter().map(|s| s.value).collect());
            prop_assert_eq!(read, Ok::<Vec<String>, DotenvError>(vec![value]));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "([A-C$={}:'\"# \n\\\\-]|\u{feff}|é){0,60}") {
            let _ = parse(&text, &outer);
            let _ = crate::interpolate::needed(&text);
        }
    }

    fn outer(name: &str) -> Option<String> {
        (name == "HOST").then(|| "mac".to_owned())
    }
}
