//! `{{NAME}}` in Compose files: a known name becomes `${NAME}`, an unknown one is the service's own.
//!
//! Compose fills `${NAME}` after it has read the YAML, so neither quotes, colons nor `$` in a value can change the
//! file's meaning, and no secret is written into the copy. Only in a mapping's key, where Compose fills nothing,
//! is the value itself written.

use crate::template::{Placeholder, Unfilled, placeholders, position};
use crate::vars::Vars;

/// A Compose file, read for its placeholders.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    /// The copy Compose must read instead of the file; `None` when the file can be read as it is.
    pub copy: Option<Vec<u8>>,
    /// Placeholders that pass through.
    pub unknown: Vec<Unfilled>,
    /// Known names, in order of use.
    pub known: Vec<String>,
}

/// Fills the known placeholders of a Compose file.
#[must_use]
pub fn fill(text: &[u8], vars: &Vars) -> Filled {
    let mut out = Vec::with_capacity(text.len());
    let mut filled = Filled { copy: None, unknown: Vec::new(), known: Vec::new() };
    let mut copied = 0;
    for placeholder in placeholders(text) {
        let Some(name) = vars.compose_name(placeholder.name) else {
            let position = position(text, placeholder.start);
            filled.unknown.push(Unfilled { name: placeholder.name.to_owned(), position });
            continue;
        };
        out.extend_from_slice(text.get(copied..placeholder.start).unwrap_or_default());
        copied = placeholder.end;
        filled.known.push(placeholder.name.to_owned());
        if in_key(text, &placeholder) {
            let value = vars.find(placeholder.name).map_or("", |var| var.stored.expose());
            out.extend_from_slice(value.as_bytes());
            continue;
        }
        if out.iter().rev().take_while(|byte| **byte == b'$').count() % 2 == 1 {
            // A lone `$` before the placeholder is text; doubled, Compose reads it as such.
            out.push(b'$');
        }
        out.extend_from_slice(format!("${{{name}}}").as_bytes());
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    if !filled.known.is_empty() {
        filled.copy = Some(out);
    }
    filled
}

/// The variables a Compose file uses: `$NAME`, and the `environment: NAME` of a secret or config.
#[must_use]
pub fn variables(text: &str) -> Vec<String> {
    let object = |line: &str| {
        let value = line.trim().strip_prefix("environment:")?.split(" #").next()?;
        let name = value.trim().trim_matches(['"', '\'']);
        crate::envfile::is_name(name).then(|| name.to_owned())
    };
    crate::interpolate::names(text).into_iter().chain(text.lines().filter_map(object)).collect()
}

fn in_key(text: &[u8], placeholder: &Placeholder<'_>) -> bool {
    let before = text.get(..placeholder.start).unwrap_or_default();
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let before = before.get(line_start..).unwrap_or_default();
    let after = text.get(placeholder.end..).unwrap_or_default();
    let after = after.split(|b| *b == b'\n').next().unwrap_or_default();
    let is_value =
        before.windows(2).any(|pair| pair == b": ") || before.contains(&b'=') || before.contains(&b'#');
    let word = after.split(|b| b" \t".contains(b)).next().unwrap_or_default();
    !is_value && word.ends_with(b":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Stack;
    use crate::envfile;

    #[test]
    fn known_names_become_interpolation_and_foreign_braces_stay() {
        let text = "image: grafana:{{TAG}}\nenvironment:\n  - GF_SECURITY_ADMIN_PASSWORD={{PASSWORD}}\n  - X={{PORTS}} {{.Name}}\nlabels:\n  traefik.{{TAG}}.rule: \"{{TAG}}\"\n";
        let filled = fill(text.as_bytes(), &vars("TAG=1\nPASSWORD=x\n"));
        let copy = String::from_utf8(filled.copy.expect("a copy")).expect("text");
        assert_eq!(
            copy,
            "image: grafana:${TAG}\nenvironment:\n  - GF_SECURITY_ADMIN_PASSWORD=${PASSWORD}\n  - X={{PORTS}} {{.Name}}\nlabels:\n  traefik.1.rule: \"${TAG}\"\n"
        );
        assert_eq!(
            filled.unknown.iter().map(|u| (u.name.as_str(), u.position.line)).collect::<Vec<_>>(),
            [("PORTS", 4)]
        );
    }

    #[test]
    fn a_file_without_known_names_is_read_as_it_is() {
        assert_eq!(fill(b"image: {{PORTS}}", &vars("")).copy, None);
    }

    #[test]
    fn the_variable_of_a_secret_is_one_that_the_file_uses() {
        let text = "services:\n  a:\n    environment:\n      X: ${A}\nsecrets:\n  pw:\n    environment: \"DB_PASSWORD\"\r\n";
        assert_eq!(variables(text), ["A", "DB_PASSWORD"]);
    }

    #[test]
    fn a_dollar_before_a_placeholder_stays_text() {
        let copy = |text: &str| {
            fill(text.as_bytes(), &vars("AAA=1\n")).copy.map(|c| String::from_utf8_lossy(&c).into_owned())
        };
        assert_eq!(copy("x: a${{AAA}}").as_deref(), Some("x: a$$${AAA}"));
        assert_eq!(copy("x: a$${{AAA}}").as_deref(), Some("x: a$$${AAA}"));
    }

    fn vars(text: &str) -> Vars {
        Vars::join(&envfile::parse(text).expect("readable"), &[], &Stack::default()).expect("joined")
    }
}
