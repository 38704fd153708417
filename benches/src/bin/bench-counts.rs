//! Instructions that the hot loops take, counted by callgrind and held against a committed baseline.
//!
//! A count is the difference of two runs divided by the turns they differ in, so starting up does not show. It does not
//! depend on the machine's load, but on processor features, compiler and libraries: the baseline says which.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};

/// How far a count may move before it counts as a change.
const TOLERANCE: f64 = 0.02;
/// Turns of the two runs.
const TURNS: [u32; 2] = [50, 250];

/// Counts the instructions of the hot loops.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
    /// The baseline's file.
    #[arg(long, global = true, default_value = "benches/counts.json")]
    baseline: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Count, and fail when something takes over 2 % more than the baseline says.
    Check,
    /// Count, and make that the baseline.
    Record,
    /// Only turn one loop; this is what runs under callgrind.
    Turn {
        /// Its name.
        name: String,
        /// How often.
        turns: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    compiler: String,
    architecture: String,
    /// Instructions per turn, by the loop's name.
    instructions: BTreeMap<String, f64>,
    /// Instructions per payload byte.
    per_byte: BTreeMap<String, f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.work {
        Work::Turn { name, turns } => turn(&name, turns),
        Work::Record => {
            let text = serde_json::to_string_pretty(&count()?)? + "\n";
            Ok(fs::write(&arguments.baseline, text)?)
        }
        Work::Check => {
            let text = fs::read_to_string(&arguments.baseline)
                .with_context(|| format!("{}: record a baseline first", arguments.baseline.display()))?;
            check(&serde_json::from_str(&text)?, &count()?)
        }
    }
}

fn turn(name: &str, turns: u32) -> Result<()> {
    let mut hot = benches::hot::all().into_iter().find(|hot| hot.name == name).context("no such loop")?;
    for _ in 0..turns {
        hot.turn().context("the loop is broken")?;
    }
    Ok(())
}

fn count() -> Result<Baseline> {
    let (mut instructions, mut per_byte) = (BTreeMap::new(), BTreeMap::new());
    for hot in benches::hot::all() {
        let [few, many] = TURNS.map(|turns| collected(hot.name, turns));
        let turns = f64::from(TURNS[1] - TURNS[0]);
        let each = (many? as f64 - few? as f64) / turns;
        instructions.insert(hot.name.to_owned(), each.round());
        per_byte.insert(hot.name.to_owned(), (each / hot.bytes as f64 * 1e3).round() / 1e3);
    }
    let compiler = Command::new("rustc").arg("--version").output()?.stdout;
    let compiler = String::from_utf8_lossy(&compiler).trim().to_owned();
    Ok(Baseline { compiler, architecture: std::env::consts::ARCH.to_owned(), instructions, per_byte })
}

/// Instructions of a whole run.
fn collected(name: &str, turns: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["turn", name, &turns.to_string()])
        .output()
        .context("valgrind: run benches/packages")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {said}");
    let number = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = number.with_context(|| format!("callgrind counted nothing: {said}"))?;
    Ok(number.trim().parse()?)
}

fn check(baseline: &Baseline, now: &Baseline) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if baseline.compiler != now.compiler || baseline.architecture != now.architecture {
        writeln!(out, "the baseline was recorded with {} on {}", baseline.compiler, baseline.architecture)?;
    }
    let mut grown = Vec::new();
    for (name, instructions) in &now.instructions {
        let Some(before) = baseline.instructions.get(name) else {
            grown.push(format!("{name} is not in the baseline"));
            continue;
        };
        let change = instructions / before - 1.0;
        let bytes = now.per_byte.get(name).copied().unwrap_or(f64::NAN);
        writeln!(out, "{name:32} {instructions:10.0} ({bytes:.3} per byte) {:+.1} %", change * 100.0)?;
        if change > TOLERANCE {
            grown.push(format!("{name} takes {:.1} % more", change * 100.0));
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    bail!("{}; if that is wanted: make bench-counts-record", grown.join("; "))
}
