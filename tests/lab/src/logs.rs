//! Judging what daemons logged: quiet when healthy.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A log that is judged at the end of a scenario.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) path: PathBuf,
}

/// The lines at warning level or above that contain none of the announced texts, each with its
/// file's name.
pub(crate) fn unexpected(watched: &[Watched], expected: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for log in watched {
        let text = fs::read(&log.path).with_context(|| log.path.display().to_string())?;
        let text = without_colour(&String::from_utf8_lossy(&text));
        let name = log.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bad = text.lines().filter(|line| is_alarming(line));
        let bad = bad.filter(|line| !expected.iter().any(|text| line.contains(text.as_str())));
        found.extend(bad.map(|line| format!("{name}: {line}")));
    }
    Ok(found)
}

/// Whether a line is a warning, an error or a panic.
pub(crate) fn is_alarming(line: &str) -> bool {
    let words = ["WARN", "ERROR"];
    // The level is among the first three words; the rest is the message.
    let level = line.split_whitespace().take(3).any(|word| words.contains(&word));
    level
        || line.contains(" panicked at ")
        || line.contains("\"level\":\"WARN\"")
        || line.contains("\"level\":\"ERROR\"")
}

fn without_colour(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, tail)| tail);
    }
    plain.push_str(rest);
    plain
}
