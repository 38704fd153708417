//! `{{NAME}}` placeholders: found, filled in one pass, everything else left byte for byte as it is.

/// A placeholder's name and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeholder<'a> {
    /// Three or more of `A-Z 0-9 _`, starting with a letter.
    pub name: &'a str,
    /// Byte offset of the first brace.
    pub start: usize,
    /// Byte offset behind the last brace.
    pub end: usize,
}

/// A line and column, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// A placeholder that has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfilled {
    /// The variable's name.
    pub name: String,
    /// Where the template uses it.
    pub position: Position,
}

/// Every placeholder of a template, in order.
#[must_use]
pub fn placeholders(text: &[u8]) -> Vec<Placeholder<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let Some(open) = rest.windows(2).position(|pair| pair == b"{{") else { break };
        let start = at + open;
        match name_at(text, start + 2) {
            Some(name) => {
                let end = start + name.len() + 4;
                found.push(Placeholder { name, start, end });
                at = end;
            }
            None => at = start + 1,
        }
    }
    found
}

/// Fills a template; a value of several lines keeps the indentation of the placeholder's line.
///
/// One pass: what a value contains is never looked at again. Without a value for every placeholder, all the
/// missing ones come back and nothing is made.
pub fn fill<'v>(text: &[u8], value: impl Fn(&str) -> Option<&'v str>) -> Result<Vec<u8>, Vec<Unfilled>> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut missing = Vec::new();
    let mut copied = 0;
    for placeholder in placeholders(text) {
        out.extend_from_slice(text.get(copied..placeholder.start).unwrap_or_default());
        copied = placeholder.end;
        match value(placeholder.name) {
            Some(value) => push_indented(&mut out, value, indentation(text, placeholder.start)),
            None => missing.push(Unfilled {
                name: placeholder.name.to_owned(),
                position: position(text, placeholder.start),
            }),
        }
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

/// The line and column of a byte offset.
#[must_use]
pub fn position(text: &[u8], offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count() + 1;
    Position { line, column }
}

fn name_at(text: &[u8], start: usize) -> Option<&str> {
    let rest = text.get(start..)?;
    let length = rest.iter().position(|byte| !matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))?;
    let name = rest.get(..length)?;
    let closed = rest.get(length..length + 2)? == b"}}";
    let named = length >= 3 && name.first().is_some_and(u8::is_ascii_uppercase);
    if closed && named { std::str::from_utf8(name).ok() } else { None }
}

fn indentation(text: &[u8], offset: usize) -> &[u8] {
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = before.get(line_start..).unwrap_or_default();
    let blank = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    line.get(..blank).unwrap_or_default()
}

fn push_indented(out: &mut Vec<u8>, value: &str, indentation: &[u8]) {
    for (number, line) in value.split('\n').enumerate() {
        if number > 0 {
            out.push(b'\n');
            if !line.is_empty() {
                out.extend_from_slice(indentation);
            }
        }
        out.extend_from_slice(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_names_of_three_or_more_capitals_are_variables() {
        for foreign in [
            "{{y}}",
            "{{MM}}",
            "{{filename}}",
            "{{ NAME }}",
            "{{1AB}}",
            "{{_AB}}",
            "{{ABc}}",
            "{{ABC}",
            "{ABC}}",
            "{{.Env.ABC}}",
        ] {
            assert_eq!(fill(foreign.as_bytes(), |_| Some("X")), Ok(foreign.as_bytes().to_vec()));
        }
        assert_eq!(fill(b"{{ABC}}{{A_1}}", |_| Some("x")), Ok(b"xx".to_vec()));
        assert_eq!(fill(b"{{{ABC}}}", |_| Some("x")), Ok(b"{x}".to_vec()));
    }

    #[test]
    fn several_lines_keep_the_placeholders_indentation() {
        let text = b"key:\n    {{PEM}}\nend: {{PEM}}\n";
        let filled = fill(text, |_| Some("a\nb\n\nc")).expect("known");
        assert_eq!(String::from_utf8_lossy(&filled), "key:\n    a\n    b\n\n    c\nend: a\nb\n\nc\n");
    }

    #[test]
    fn every_missing_variable_is_reported_with_its_place() {
        let missing = fill("é {{ONE}}\n  {{TWO}}{{ONE}}".as_bytes(), |_| None).expect_err("none known");
        let places: Vec<_> =
            missing.iter().map(|m| (m.name.as_str(), m.position.line, m.position.column)).collect();
        assert_eq!(places, [("ONE", 1, 3), ("TWO", 2, 3), ("ONE", 2, 10)]);
    }

    proptest! {
        #[test]
        fn a_value_comes_out_as_it_went_in(value in "[ -~]{0,40}", before in "[a-z&|$\\\\]{0,10}", after in "[a-z&|$\\\\]{0,10}") {
            let text = format!("{before}{{{{NAME}}}}{after}");
            let filled = fill(text.as_bytes(), |name| (name == "NAME").then_some(value.as_str())).expect("known");
            prop_assert_eq!(filled, format!("{before}{value}{after}").into_bytes());
        }

        #[test]
        fn text_without_placeholders_is_untouched(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assume!(placeholders(&text).is_empty());
            prop_assert_eq!(fill(&text, |_| Some("X")), Ok(text.clone()));
        }
    }
}
