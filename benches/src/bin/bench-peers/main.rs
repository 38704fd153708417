//! The side-by-side run: Causeway and its peers on the same path, in namespaces of this machine.

mod contender;
mod daemons;
mod forwards;
mod goals;
mod machine;
mod measure;
mod path;
mod profile;
mod report;
mod tally;
mod wireguard;

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use contender::Contender;
use measure::{Group, Plan};
use report::Results;

/// Compare Causeway with other tunnels on one path; write a table for people and JSON for machines.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which, in this order; all when none is named.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Contender>,
    /// What to measure; everything when nothing is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// How often each is measured, taking turns.
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Seconds of each bulk transfer.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Record where the cycles of one contender go instead, and print that.
    #[arg(long)]
    profile: Option<Contender>,
    /// What it carries meanwhile.
    #[arg(long, default_value = "down")]
    load: profile::Load,
    /// Where RESULTS.md and results.json go.
    #[arg(long, default_value = "benches")]
    output: PathBuf,
}

pub(crate) fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "namespaces need root: make bench-peers brings it");
    benches::raise_descriptor_limit();
    let _cubic = benches::cubic::allow();
    if let Some(contender) = arguments.profile {
        return profile::run(contender, arguments.load, arguments.seconds);
    }
    compare(&arguments)
}

fn compare(arguments: &Arguments) -> Result<()> {
    let peers = or_all(&arguments.peers);
    let plan = Plan { groups: or_all(&arguments.only), seconds: arguments.seconds };
    let mut results = Results::new(machine::describe(), arguments.repetitions, arguments.seconds);
    let (seal, open) = benches::cipher::seconds_per_gigabyte(std::time::Duration::from_secs(1))
        .ok()
        .context("the cipher failed")?;
    results.add_cipher(seal, open);
    for repetition in 0..arguments.repetitions {
        for &contender in &peers {
            say(&format!("{contender}, repetition {}", repetition + 1));
            let begun = SystemTime::now();
            match measure::run(contender, &plan, repetition) {
                Ok(outcome) => results.add(contender, outcome),
                Err(error) => results.fail(contender, "start", &error),
            }
            say(&format!("{contender} took {:.0} s", begun.elapsed().unwrap_or_default().as_secs_f64()));
            // After each, since a long run may be cut short.
            results.write(&arguments.output)?;
        }
    }
    Ok(std::io::stdout().write_all(results.markdown().as_bytes())?)
}

fn or_all<T: ValueEnum + Copy>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}

fn say(line: &str) {
    // Progress output may fail: standard error may be closed.
    let _ = writeln!(std::io::stderr(), "bench-peers: {line}");
}
