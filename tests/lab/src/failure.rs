//! What is printed and kept when a scenario fails.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::node::Node;
use crate::parts::workspace;
use crate::scenario::Lab;

/// The commands that show each side's state; one may fail.
const QUESTIONS: [&str; 8] = [
    "ip -details address",
    "ip rule",
    "ip route show table all",
    "ip -6 rule",
    "ss -tuanp",
    "conntrack -L",
    "wg show all",
    "nft list ruleset",
];

/// How much of each log is printed; the whole of it is kept.
const TAIL_LINES: usize = 30;

/// Prints what each side saw and keeps it in `target/lab-failures/NAME`.
pub(crate) fn report(lab: &Lab) {
    lab.end_captures();
    match keep(lab) {
        Ok((kept, tails)) => say(&format!("{tails}\n-- all logs, captures and state: {}\n", kept.display())),
        Err(error) => say(&format!("-- the failure's evidence could not be kept: {error:#}\n")),
    }
}

fn keep(lab: &Lab) -> Result<(PathBuf, String)> {
    let folder = workspace().join("target/lab-failures").join(lab.name());
    let _ = fs::remove_dir_all(&folder);
    let mut tails = String::new();
    for node in lab.nodes() {
        let own = folder.join(node.name());
        fs::create_dir_all(&own)?;
        fs::write(own.join("state"), state(&node))?;
        for entry in fs::read_dir(node.directory())? {
            let path = entry?.path();
            let Some(name) = path.file_name() else { continue };
            // Keys and payloads are not evidence.
            let kept = ["log", "pcap", "toml", "conf"]
                .iter()
                .any(|end| path.extension().is_some_and(|own| own == *end));
            if kept {
                fs::copy(&path, own.join(name))?;
            }
        }
        tail_logs(&node, &own, &mut tails)?;
    }
    Ok((folder, tails))
}

fn state(node: &Node) -> String {
    let mut text = String::new();
    for question in QUESTIONS {
        let answer = node.output(question);
        let answer = answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let _ = writeln!(text, "== {question}\n{}", answer.unwrap_or_else(|error| format!("{error:#}")));
    }
    text
}

fn tail_logs(node: &Node, folder: &Path, tails: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "log") {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(tails, "-- {}: {name}", node.name());
        for line in lines.iter().skip(from) {
            let _ = writeln!(tails, "   {line}");
        }
    }
    Ok(())
}

fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
