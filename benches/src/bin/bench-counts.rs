//! Instructions that the hot loops take, counted by callgrind and held against a committed
//! baseline; those of arm64 likewise, counted under emulation.
//!
//! A count is the difference of two runs divided by the turns they differ in, so starting up does
//! not show. It does not depend on the machine's load, but on processor features, compiler and
//! libraries: the baseline says which.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::callgrind::{counted_turns, instructions};
use benches::progress::Progress;
use benches::{emulated, hot};
use clap::{Parser, Subcommand};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How far a count may move before it counts as a change.
const TOLERANCE: f64 = 0.02;
/// Turns of the two runs.
const TURNS: [u32; 2] = [50, 250];
const EMULATED_TURNS: [u32; 2] = [2, 6];

/// Counts the instructions of the hot loops.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
    /// The baseline's file.
    #[arg(long, global = true, default_value = "benches/counts.json")]
    baseline: PathBuf,
    /// Count this program, `bench-counts` built for arm64, under emulation instead.
    #[arg(long, global = true)]
    emulated: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Count, and fail when something takes over 2 % more than the baseline says.
    Check,
    /// Count, and make that the baseline.
    Record,
    /// Time 1,000 peers with 100,000 prefixes and 100,000 flows against one peer, and handshakes
    /// while data flows.
    Scale,
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
        Work::Scale => scale(),
        Work::Record => {
            let text = serde_json::to_string_pretty(&count(arguments.emulated.as_deref())?)? + "\n";
            Ok(fs::write(&arguments.baseline, text)?)
        }
        Work::Check => {
            let text = fs::read_to_string(&arguments.baseline)
                .with_context(|| format!("{}: record a baseline first", arguments.baseline.display()))?;
            check(&serde_json::from_str(&text)?, &count(arguments.emulated.as_deref())?)
        }
    }
}

fn turn(name: &str, turns: u32) -> Result<()> {
    let (_, make) = hot::ALL.iter().find(|(own, _)| *own == name).context("no such loop")?;
    counted_turns(&mut make(), turns)
}

/// Processor time of this thread: what other processes do does not show.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The least processor time of several goes, in nanoseconds per packet.
fn per_packet(name: &str) -> Result<f64> {
    const TURNS: u32 = 2000;
    let (_, make) = hot::ALL.iter().find(|(own, _)| *own == name).context("no such loop")?;
    let (mut hot, mut least) = (make(), Duration::MAX);
    for _ in 0..7 {
        let begin = cpu();
        for _ in 0..TURNS {
            hot.turn().context("the loop is broken")?;
        }
        least = least.min(cpu().saturating_sub(begin));
    }
    Ok(least.as_secs_f64() * 1e9 / f64::from(TURNS) / hot::SEGMENTS as f64)
}

fn scale() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| full packets, in super-packets | one peer, ns | 1,000 peers, ns | |\n|---|---|---|---|"
    )?;
    for way in ["send-to", "receive-from"] {
        let one = per_packet(&format!("{way}-1-peer"))?;
        let many = per_packet(&format!("{way}-1000-peers"))?;
        writeln!(out, "| {way} | {one:.0} | {many:.0} | {:+.1} % |", (many / one - 1.0) * 100.0)?;
    }
    let (mut crowd, mut data) = (benches::crowd::Crowd::new(1000, 100), hot::node_to_node());
    let (mut spent, rounds) = (Duration::ZERO, 3000);
    for _ in 0..rounds {
        data.turn().context("no data flows")?;
        let (answers, took) = crowd.shake_hands(cpu);
        ensure!(answers == 1, "a handshake was not answered");
        spent += took;
    }
    let rate = f64::from(rounds) / spent.as_secs_f64();
    Ok(writeln!(out, "\nhandshakes answered by one core, data between them: {rate:.0} per second")?)
}

/// Counts this program, or another under emulation.
fn count(emulated: Option<&Path>) -> Result<Baseline> {
    let (mut each_turn, mut per_byte) = (BTreeMap::new(), BTreeMap::new());
    // Each instruction of a thousand handshakes would be a report of the emulator's.
    let is_asked = |name: &str| emulated.is_none() || !name.contains("-1000");
    let loops: Vec<_> = hot::ALL.iter().filter(|(name, _)| is_asked(name)).collect();
    let turns = if emulated.is_some() { EMULATED_TURNS } else { TURNS };
    let mut progress = Progress::new("bench-counts", loops.iter().map(|(name, _)| expected(name)));
    for (name, make) in loops {
        progress.begin(name, expected(name));
        let [few, many] = turns.map(|turns| {
            let arguments = ["turn", name, &turns.to_string()];
            match emulated {
                Some(program) => emulated::instructions(program, &arguments),
                None => instructions(&arguments),
            }
        });
        let each = (many? as f64 - few? as f64) / f64::from(turns[1] - turns[0]);
        each_turn.insert((*name).to_owned(), each.round());
        per_byte.insert((*name).to_owned(), (each / make().bytes as f64 * 1e3).round() / 1e3);
    }
    progress.end();
    let compiler = Command::new("rustc").arg("--version").output()?.stdout;
    let compiler = String::from_utf8_lossy(&compiler).trim().to_owned();
    let architecture = if emulated.is_some() { "aarch64" } else { std::env::consts::ARCH };
    Ok(Baseline { compiler, architecture: architecture.to_owned(), instructions: each_turn, per_byte })
}

/// Seconds that a loop takes, about: a thousand handshakes come before some.
fn expected(name: &str) -> f64 {
    if name.ends_with("-1000-peers") { 150.0 } else { 6.0 }
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
