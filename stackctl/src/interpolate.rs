//! `$NAME` and `${NAME…}` as Compose reads them: defaults, required values, alternatives, `$$`, one within another.

/// What follows a name within braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `-` and `:-`: the text is the value where there is none.
    Default,
    /// `?` and `:?`: without a value the text is the error.
    Required,
    /// `+` and `:+`: the text is the value where there is one.
    Alternative,
}

/// One reference to a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'t> {
    /// The variable's name.
    pub name: &'t str,
    /// What follows the name: the operator, whether an empty value counts as none, and its text.
    pub rest: Option<(Operator, bool, &'t str)>,
}

/// One piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'t> {
    /// Text that is itself; `$$` comes as one `$`.
    Text(&'t str),
    /// A reference.
    Reference(Reference<'t>),
}

/// Why a text has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    /// `${` without a name, an unknown operator or no `}`.
    #[error("${{ is not followed by a name and }} (write $$ where a $ is meant)")]
    Malformed,
    /// A required variable has no value.
    #[error("{name} has no value: {message}")]
    Required {
        /// Its name.
        name: String,
        /// What the text says about it.
        message: String,
    },
}

/// The pieces of a text, in order.
pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, InterpolationError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        let after = from.get(1..).unwrap_or_default();
        if !before.is_empty() {
            found.push(Piece::Text(before));
        }
        if let Some(body) = after.strip_prefix('{') {
            let (inner, behind) = braced(body).ok_or(InterpolationError::Malformed)?;
            found.push(Piece::Reference(reference(inner).ok_or(InterpolationError::Malformed)?));
            rest = behind;
            continue;
        }
        let escaped = after.starts_with('$');
        let name = if escaped { "" } else { leading_name(after) };
        if name.is_empty() {
            found.push(Piece::Text("$"));
        } else {
            found.push(Piece::Reference(Reference { name, rest: None }));
        }
        rest = after.get(name.len() + usize::from(escaped)..).unwrap_or_default();
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    Ok(found)
}

/// The text with every reference replaced; a variable without value and default is empty, as Compose has it.
pub fn substitute(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, InterpolationError> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Reference(reference) => out.push_str(&resolve(reference, value)?),
        }
    }
    Ok(out)
}

fn resolve(
    reference: Reference<'_>,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<String, InterpolationError> {
    let Reference { name, rest } = reference;
    let Some((operator, empty_is_none, text)) = rest else { return Ok(value(name).unwrap_or_default()) };
    let set = value(name).filter(|value| !(empty_is_none && value.is_empty()));
    match (operator, set) {
        (Operator::Default | Operator::Required, Some(value)) => Ok(value),
        (Operator::Default, None) | (Operator::Alternative, Some(_)) => substitute(text, value),
        (Operator::Alternative, None) => Ok(String::new()),
        (Operator::Required, None) => {
            Err(InterpolationError::Required { name: name.to_owned(), message: substitute(text, value)? })
        }
    }
}

/// Splits what follows `${` at its own closing brace.
fn braced(body: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut previous = ' ';
    for (at, c) in body.char_indices() {
        match c {
            '{' if previous == '$' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((body.get(..at)?, body.get(at + 1..)?));
        }
        previous = c;
    }
    None
}

fn reference(inner: &str) -> Option<Reference<'_>> {
    let name = leading_name(inner);
    let after = inner.get(name.len()..).filter(|_| !name.is_empty())?;
    if after.is_empty() {
        return Some(Reference { name, rest: None });
    }
    let (empty_is_none, after) = after.strip_prefix(':').map_or((false, after), |rest| (true, rest));
    let operator = match after.chars().next()? {
        '-' => Operator::Default,
        '?' => Operator::Required,
        '+' => Operator::Alternative,
        _ => return None,
    };
    Some(Reference { name, rest: Some((operator, empty_is_none, after.get(1..)?)) })
}

fn leading_name(text: &str) -> &str {
    let length = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let name = text.get(..length).unwrap_or_default();
    if crate::envfile::is_name(name) { name } else { "" }
}

/// Every name that a text refers to, nested ones and those behind a `$` that a reader would take for text included.
#[must_use]
pub fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        rest = after;
        if let Some(escaped) = rest.strip_prefix('$') {
            rest = escaped;
            continue;
        }
        let name = leading_name(rest.strip_prefix('{').unwrap_or(rest));
        if !name.is_empty() {
            names.push(name.to_owned());
        }
    }
    names
}

/// The names that a text refers to without giving a default, lines that are comments left out.
#[must_use]
pub fn needed(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut names = Vec::new();
    for line in lines {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once('$') {
            rest = after.strip_prefix('$').unwrap_or(after);
            if after.starts_with('$') {
                continue;
            }
            let found = match after.strip_prefix('{') {
                Some(body) => braced(body).and_then(|(inner, _)| reference(inner)),
                None => Some(Reference { name: leading_name(after), rest: None }),
            };
            let optional = |reference: &Reference<'_>| {
                matches!(reference.rest, Some((Operator::Default | Operator::Alternative, _, _)))
            };
            let needed = found.filter(|one| !one.name.is_empty() && !optional(one));
            names.extend(needed.map(|one| one.name.to_owned()));
        }
    }
    names
}

/// Where a text first refers to a variable, as a byte offset.
#[must_use]
pub fn first_use(text: &str, name: &str) -> Option<usize> {
    let refers = |at: &usize| {
        let after = text.get(at + 1..).unwrap_or_default();
        leading_name(after.strip_prefix('{').unwrap_or(after)) == name
    };
    text.match_indices('$').map(|(at, _)| at).find(refers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_reference_has_its_value() {
        let cases = [
            ("$A-${A}", "1-1"),
            ("${N:-b}${N-b}", "bb"),
            ("${E:-b}${E-b}", "b"),
            ("${A:+x}${E:+x}${E+x}${N+x}", "xx"),
            ("${N:-d${M:-e}}f", "def"),
            ("${N:-${A}}", "1"),
            ("a$$A$$", "a$A$"),
            ("5$ $1 $", "5$ $1 $"),
            ("${A:?no}${E?no}", "1"),
            ("$AB", ""),
            ("${N:-a:b-c?d}", "a:b-c?d"),
        ];
        for (text, wanted) in cases {
            assert_eq!(substitute(text, &value).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_an_error() {
        let missing = substitute("${N:?set it}", &value);
        assert_eq!(missing.map_err(|error| error.to_string()), Err("N has no value: set it".into()));
        assert!(substitute("${E:?x}", &value).is_err());
        for wrong in ["${", "${}", "${1}", "${A", "${A*}", "${A:-${B}"] {
            assert_eq!(substitute(wrong, &value), Err(InterpolationError::Malformed), "{wrong}");
        }
    }

    #[test]
    fn names_within_defaults_are_found_and_escaped_ones_are_not() {
        assert_eq!(names("${A}:$B $$C ${D:-x} ${E?y} $1 ${F:-${G}}"), ["A", "B", "D", "E", "F", "G"]);
    }

    #[test]
    fn what_has_a_default_is_not_needed() {
        let text = "a: ${A}$B ${C:-x} ${D:?y} ${E-${F}} $$G\n  # ${H}\n";
        assert_eq!(needed(text), ["A", "B", "D", "F"]);
        assert_eq!(first_use(text, "D").map(|at| &text[at..at + 4]), Some("${D:"));
    }

    fn value(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "E" => Some(String::new()),
            _ => None,
        }
    }
}
