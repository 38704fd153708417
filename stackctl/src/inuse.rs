//! Values in use: read back out of what was made with them, and compared with the values stackctl would use.
//!
//! Nothing here ever shows a value: a difference is described by lengths and by what kind of slip makes one of the other.

use std::collections::BTreeMap;

use crate::dotenv;
use crate::interpolate::{InterpolationError, Operator, Piece, pieces};
use crate::secret::Hidden;
use crate::template::{fill, placeholders};
use crate::vars::{Origin, Vars};

/// A variable's value as something has it in use.
#[derive(Clone)]
pub struct Use {
    /// The variable.
    pub name: String,
    /// Its value there.
    pub value: Hidden,
    /// What has it: `immich/server` or a rendered file.
    pub place: String,
}

/// A variable whose value in use is not the one stackctl has.
#[derive(Clone)]
pub enum Finding {
    /// No file has it, everything that uses it agrees: it can be taken over.
    Absent(Use),
    /// A file has another.
    Differs {
        /// The value in use.
        used: Use,
        /// The file that has another.
        origin: Origin,
        /// How they differ.
        how: String,
    },
    /// Two things use different values.
    Disagree {
        /// One of them.
        one: Use,
        /// The other.
        other: Use,
        /// How they differ.
        how: String,
    },
}

/// Compares values in use with the variables of a location.
#[must_use]
pub fn compare(uses: &[Use], vars: &Vars) -> Vec<Finding> {
    let mut by_name: BTreeMap<&str, Vec<&Use>> = BTreeMap::new();
    for used in uses {
        by_name.entry(&used.name).or_default().push(used);
    }
    let of_name = |(name, uses): (&str, Vec<&Use>)| finding(name, &uses, vars);
    by_name.into_iter().filter_map(of_name).collect()
}

fn finding(name: &str, uses: &[&Use], vars: &Vars) -> Option<Finding> {
    let one = *uses.first()?;
    if let Some(other) = uses.iter().find(|other| other.value.expose() != one.value.expose()) {
        let how = describe(one.value.expose(), other.value.expose(), &format!("in {}", other.place));
        return Some(Finding::Disagree { one: one.clone(), other: (*other).clone(), how });
    }
    let value = one.value.expose();
    let Some(var) = vars.find(name) else { return Some(Finding::Absent(one.clone())) };
    // A key in use is PEM, and one line of base64 in the env file.
    let same_key = || crate::secret::as_pem(var.stored.expose()).is_ok_and(|pem| pem.expose() == value);
    if [var.stored.expose(), var.rendered.expose()].contains(&value) || same_key() {
        return None;
    }
    let how = describe(value, var.stored.expose(), &format!("in {}", var.origin.file()));
    Some(Finding::Differs { used: one.clone(), origin: var.origin, how })
}

/// How a value in use differs from another one, which is `there`; neither is part of the text.
#[must_use]
pub fn describe(used: &str, other: &str, there: &str) -> String {
    let count = |text: &str| match text.chars().count() {
        0 => "empty".to_owned(),
        1 => "1 character".to_owned(),
        many => format!("{many} characters"),
    };
    let other_count =
        if used.is_empty() || other.is_empty() { count(other) } else { other.chars().count().to_string() };
    let counts = format!("{} in use, {other_count} {there}", count(used));
    slip(used, other, there).map_or(counts.clone(), |slip| format!("{counts}: {slip}"))
}

fn slip(used: &str, other: &str, there: &str) -> Option<String> {
    if used.is_empty() || other.is_empty() {
        return None;
    }
    let (lost, gained) = (other.strip_prefix(used), used.strip_prefix(other));
    let ending = lost.map(|end| (end, "is missing")).or(gained.map(|end| (end, "is in use as well")));
    let unquoted = |text: &str| {
        ['"', '\''].into_iter().find_map(|q| Some(text.strip_prefix(q)?.strip_suffix(q)?.to_owned()))
    };
    let composed = |text: &str| {
        let read = dotenv::parse(&format!("X={text}\n"), &|_| None).ok()?;
        read.into_iter().next().map(|setting| setting.value)
    };
    Some(match ending {
        Some((end, word)) if end.bytes().all(|b| b == b'=') => format!("a trailing {end} {word}"),
        Some(("\r", word)) => format!("a carriage return at the end {word}"),
        Some((end, word)) if end.trim().is_empty() => format!("white space at the end {word}"),
        _ if used.trim() == other.trim() => "white space around it differs".into(),
        _ if unquoted(used).as_deref() == Some(other) => "it is in use with its quotes".into(),
        _ if unquoted(other).as_deref() == Some(used) => format!("{there} it has quotes"),
        _ if used.replace("$$", "$") == other => "each $ is doubled in use".into(),
        _ if other.replace("$$", "$") == used => format!("each $ is doubled {there}"),
        _ if composed(other).as_deref() == Some(used) => {
            "in use is what Compose makes of it, to which $, # and quotes have a meaning".into()
        }
        Some((end, word)) => {
            let many = end.chars().count();
            let (noun, verb) = if many == 1 { ("character", "is") } else { ("characters", "are") };
            format!("the last {many} {noun} {}", word.replacen("is", verb, 1))
        }
        None if used.eq_ignore_ascii_case(other) => "only upper and lower case differ".into(),
        None => "they are different values".into(),
    })
}

/// The values of a text's `${…}` that make it `actual`; `None` when that cannot be seen.
#[must_use]
pub fn of_text(template: &str, actual: &str) -> Option<BTreeMap<String, String>> {
    let segments = pieces(template).ok()?;
    let segment = |piece: &Piece<'_>| match *piece {
        Piece::Text(text) => Some(Segment::Text(text.to_owned())),
        Piece::Reference(reference) => match reference.rest {
            Some((Operator::Alternative, _, _)) => None,
            _ => Some(Segment::Name(reference.name.to_owned())),
        },
    };
    let segments: Option<Vec<Segment>> = segments.iter().map(segment).collect();
    matched(&segments?, actual)
}

/// Whether a text refers to variables at all.
pub fn refers(template: &str) -> Result<bool, InterpolationError> {
    Ok(pieces(template)?.iter().any(|piece| matches!(piece, Piece::Reference(_))))
}

/// The values of a template's `{{…}}` that the file made of it holds, as far as they can be seen.
#[must_use]
pub fn of_file(template: &[u8], actual: &[u8]) -> BTreeMap<String, String> {
    let (Ok(template), Ok(actual)) = (std::str::from_utf8(template), std::str::from_utf8(actual)) else {
        return BTreeMap::new();
    };
    whole_file(template, actual).unwrap_or_else(|| by_line(template, actual))
}

fn whole_file(template: &str, actual: &str) -> Option<BTreeMap<String, String>> {
    let mut values = matched(&segments(template), actual)?;
    for placeholder in placeholders(template.as_bytes()) {
        let line = template.get(..placeholder.start)?.rsplit('\n').next()?;
        let indent: String = line.chars().take_while(|c| *c == ' ' || *c == '\t').collect();
        let value = values.get_mut(placeholder.name)?;
        if value.contains('\n') && !indent.is_empty() {
            *value = value.replace(&format!("\n{indent}"), "\n");
        }
    }
    // Only a key has several lines; another value of several lines would be one that swallowed text.
    let plain = values.values().all(|value| !value.contains('\n') || value.starts_with("-----BEGIN "));
    let again = fill(template.as_bytes(), |name| values.get(name).map(String::as_str)).ok()?;
    (plain && again == actual.as_bytes()).then_some(values)
}

/// For a file that was edited: each line with one placeholder that is found exactly once.
fn by_line(template: &str, actual: &str) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, Option<String>> = BTreeMap::new();
    for line in template.lines().filter(|line| placeholders(line.as_bytes()).len() == 1) {
        let parts = segments(line);
        let anchored = parts.iter().any(|part| matches!(part, Segment::Text(text) if text.trim().len() >= 3));
        let mut found = actual.lines().filter_map(|candidate| matched(&parts, candidate));
        let (Some(one), None, true) = (found.next(), found.next(), anchored) else { continue };
        for (name, value) in one {
            let same = values.get(&name).is_none_or(|known| known.as_ref() == Some(&value));
            values.insert(name, same.then_some(value));
        }
    }
    values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

enum Segment {
    Text(String),
    Name(String),
}

fn segments(template: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut copied = 0;
    for placeholder in placeholders(template.as_bytes()) {
        let before = template.get(copied..placeholder.start).unwrap_or_default();
        if !before.is_empty() {
            segments.push(Segment::Text(before.to_owned()));
        }
        segments.push(Segment::Name(placeholder.name.to_owned()));
        copied = placeholder.end;
    }
    let rest = template.get(copied..).unwrap_or_default();
    if !rest.is_empty() {
        segments.push(Segment::Text(rest.to_owned()));
    }
    segments
}

/// Lays segments over a text; each name takes what lies before the next piece of text.
fn matched(segments: &[Segment], actual: &str) -> Option<BTreeMap<String, String>> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = actual;
    let mut segments = segments.iter().peekable();
    while let Some(segment) = segments.next() {
        let name = match segment {
            Segment::Text(text) => {
                rest = rest.strip_prefix(text.as_str())?;
                continue;
            }
            Segment::Name(name) => name,
        };
        let value = match (values.get(name), segments.peek()) {
            (Some(known), _) if rest.starts_with(known.as_str()) => known.clone(),
            (Some(_), _) | (None, Some(Segment::Name(_))) => return None,
            (None, None) => rest.to_owned(),
            (None, Some(Segment::Text(next))) => {
                // The last piece of text is the end of the whole.
                let last = segments.clone().nth(1).is_none();
                let end = if last { rest.len().checked_sub(next.len())? } else { rest.find(next.as_str())? };
                rest.get(..end)?.to_owned()
            }
        };
        rest = rest.get(value.len()..)?;
        values.insert(name.clone(), value);
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Stack, envfile};

    #[test]
    fn a_difference_is_described_without_the_values() {
        let long = "x".repeat(43);
        let cases = [
            (long.as_str(), &*format!("{long}="), "43 characters in use, 44 in F: a trailing = is missing"),
            ("abc==", "abc", "5 characters in use, 3 in F: a trailing == is in use as well"),
            ("abc\r", "abc", "4 characters in use, 3 in F: a carriage return at the end is in use as well"),
            ("abc ", "abc", "4 characters in use, 3 in F: white space at the end is in use as well"),
            ("\"abc\"", "abc", "5 characters in use, 3 in F: it is in use with its quotes"),
            ("abc", "'abc'", "3 characters in use, 5 in F: in F it has quotes"),
            ("a$$b", "a$b", "4 characters in use, 3 in F: each $ is doubled in use"),
            (
                "a",
                "a$b",
                "1 character in use, 3 in F: in use is what Compose makes of it, to which $, # and quotes have a meaning",
            ),
            ("abcd", "abcdef", "4 characters in use, 6 in F: the last 2 characters are missing"),
            ("abC", "abc", "3 characters in use, 3 in F: only upper and lower case differ"),
            ("one", "two", "3 characters in use, 3 in F: they are different values"),
            ("", "two", "empty in use, 3 characters in F"),
            ("two", "", "3 characters in use, empty in F"),
        ];
        for (used, other, wanted) in cases {
            assert_eq!(describe(used, other, "in F"), wanted);
        }
    }

    #[test]
    fn values_are_read_back_out_of_a_text() {
        let one = |template: &str, actual: &str| of_text(template, actual);
        let map = |list: &[(&str, &str)]| {
            Some(list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>())
        };
        assert_eq!(one("${A}", "x=y"), map(&[("A", "x=y")]));
        assert_eq!(one("${A:?run setup}", "s"), map(&[("A", "s")]));
        assert_eq!(one("http://${U}:${P:-x}@db/", "http://u:p@db/"), map(&[("U", "u"), ("P", "p")]));
        assert_eq!(one("$$${A}", "$1"), map(&[("A", "1")]));
        for (template, actual) in
            [("a${A}", "b1"), ("${A}${B}", "12"), ("${A:+x}", "x"), ("${A}-${A}", "1-2")]
        {
            assert_eq!(one(template, actual), None, "{template}");
        }
    }

    #[test]
    fn values_are_read_back_out_of_a_file_even_when_it_was_edited() {
        let template = b"jwt: '{{JWT}}'\nkey: |\n  {{PEM}}\nurl: {{URL}}\n";
        let actual = b"jwt: 's$1'\nkey: |\n  -----BEGIN X-----\n  AA\n  -----END X-----\nurl: a:b\n";
        let values = of_file(template, actual);
        assert_eq!(values["JWT"], "s$1");
        assert_eq!(values["PEM"], "-----BEGIN X-----\nAA\n-----END X-----");
        let edited = b"# by hand\njwt: 's$1'\nurl: a:b\nurl: c\n";
        let values = of_file(template, edited);
        assert_eq!(values.get("JWT").map(String::as_str), Some("s$1"));
        assert_eq!(values.get("URL"), None, "two lines could be it");
    }

    #[test]
    fn a_key_in_use_is_the_one_that_the_env_file_has_on_one_line() {
        let stored = crate::secret::new_ed25519(&[5; 32]);
        let pem = crate::secret::as_pem(stored.expose()).expect("a key");
        let text = format!("JWK={}\n", stored.expose());
        let vars = Vars::join(&envfile::parse(&text).expect("readable"), &[], &Stack::default());
        let used = Use { name: "JWK".into(), value: pem, place: "authelia/configuration.yml".into() };
        assert!(compare(&[used], &vars.expect("joined")).is_empty());
    }

    #[test]
    fn what_is_absent_or_differs_is_found_and_what_agrees_is_not() {
        let vars =
            Vars::join(&envfile::parse("SAME=1\nOTHER=abc=\n").expect("readable"), &[], &Stack::default());
        let used = |name: &str, value: &str, place: &str| Use {
            name: name.into(),
            value: Hidden::new(value.into()),
            place: place.into(),
        };
        let uses = [
            used("SAME", "1", "a/a"),
            used("OTHER", "abc", "a/a"),
            used("NEW", "n", "a/a"),
            used("NEW", "n", "b/b"),
            used("TWO", "1", "a/a"),
            used("TWO", "2", "b/b"),
        ];
        let words: Vec<String> = compare(&uses, &vars.expect("joined"))
            .iter()
            .map(|finding| match finding {
                Finding::Absent(used) => format!("absent {}", used.name),
                Finding::Differs { used, how, .. } => format!("differs {} {how}", used.name),
                Finding::Disagree { one, other, .. } => format!("{} {} {}", one.name, one.place, other.place),
            })
            .collect();
        assert_eq!(
            words,
            [
                "absent NEW",
                "differs OTHER 3 characters in use, 4 in .env.generated: a trailing = is missing",
                "TWO a/a b/b"
            ]
        );
    }
}
