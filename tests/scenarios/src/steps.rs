//! The steps of a document, as `tests/machine/readme --steps` takes them from its text.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Marks a part of a line that is left out, or differs from run to run.
pub const REST: char = '…';

/// One step, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A line that is typed at a shell's prompt.
    Command(String),
    /// A line that is typed while a command waits.
    Answer(String),
    /// A line that is printed.
    Output(String),
    /// A file that is written, or lines that are added to its end.
    File {
        /// Where it is.
        path: String,
        /// Whether they are added.
        is_added: bool,
        /// The lines.
        text: String,
    },
}

/// The steps of a document of this tree, each with its machine.
pub fn steps_of(document: &str) -> Result<Vec<(String, Step)>> {
    let script = lab::workspace().join("tests/machine/readme");
    let output = Command::new(script).arg("--steps").env("DOCUMENT", document).output()?;
    ensure!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&output.stderr));
    let mut steps: Vec<(String, Step)> = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut fields = line.splitn(3, '\t');
        let mut field = || fields.next().with_context(|| format!("{document}: {line:?}"));
        let (kind, machine, text) = (field()?, field()?.to_owned(), field()?.to_owned());
        ensure!(!machine.is_empty(), "{document}: no machine for {text:?}");
        let step = match (kind, steps.last_mut()) {
            ("line", Some((_, Step::File { text: lines, .. }))) => {
                lines.push_str(&text);
                lines.push('\n');
                continue;
            }
            ("file", _) => {
                let (path, place) = text.split_once('\t').context("no place")?;
                Step::File { path: path.to_owned(), is_added: place == "end", text: String::new() }
            }
            ("command", _) => Step::Command(text),
            ("answer", _) => Step::Answer(text),
            _ => Step::Output(text),
        };
        steps.push((machine, step));
    }
    ensure!(!steps.is_empty(), "{document} has no steps");
    Ok(steps)
}

/// Whether a line is as it is written, where [`REST`] is anything.
pub fn is_as_written(line: &str, written: &str) -> bool {
    let mut parts = written.split(REST);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_written_when_only_what_is_left_out_differs() {
        for (line, written, expected) in [
            ("ok: kyiv grants 443", "ok: kyiv grants 443", true),
            ("ok: kyiv grants 443", "ok: kyiv grants", false),
            ("ok: kyiv grants 443", "kyiv grants 443", false),
            ("kyiv is up, 23 ms.", "kyiv is up, … ms.", true),
            ("kyiv is up, 23 s.", "kyiv is up, … ms.", false),
            ("causeway1-8j0m-2kx4", "causeway1-…", true),
            ("a b c d", "a … c …", true),
            ("a b d", "a … c …", false),
            ("ab", "ab…b", false),
        ] {
            assert_eq!(is_as_written(line, written), expected, "{line:?} {written:?}");
        }
    }
}
