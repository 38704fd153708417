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

use anyhow::{Context, Result, ensure};
use benches::progress::Progress;
use clap::{Parser, ValueEnum};

use contender::Contender;
use measure::{Group, Plan};
use report::Results;

/// Compare Causeway with other tunnels on one path; write a table for people, pictures, and JSON for
/// machines.
///
/// Only a run of everything is recorded in benches/. One of a part, or with fewer repetitions, is
/// printed, and is in target/bench-peers, as every run is until it ends.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which, in this order; all when none is named.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Contender>,
    /// What to measure; everything when nothing is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// How often each is measured, taking turns.
    #[arg(long, default_value_t = REPETITIONS)]
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
    /// Where RESULTS.md, results.json and the pictures go, even those of a part.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Write RESULTS.md and the pictures again from results.json, and measure nothing.
    #[arg(long)]
    redraw: bool,
}

/// How often a recorded run measures each.
const REPETITIONS: u32 = 3;
/// Where a run of everything is recorded.
const RECORD: &str = "benches";

pub(crate) fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.redraw {
        let folder = arguments.output.unwrap_or_else(|| RECORD.into());
        return Results::read(&folder)?.draw(&folder);
    }
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
    let unfinished = benches::unfinished("bench-peers")?;
    let mut results = Results::new(machine::describe(), arguments.repetitions, arguments.seconds);
    let (seal, open) = benches::cipher::seconds_per_gigabyte(std::time::Duration::from_secs(1))
        .ok()
        .context("the cipher failed")?;
    results.add_cipher(seal, open);
    let repetitions = 0..arguments.repetitions;
    let steps: Vec<_> =
        repetitions.flat_map(|repetition| peers.iter().map(move |peer| (*peer, repetition))).collect();
    let expected = |step: &(Contender, u32)| plan.expected(step.0, step.1);
    let mut progress = Progress::new("bench-peers", steps.iter().map(expected));
    for step in &steps {
        let (contender, repetition) = *step;
        let what = format!("{contender}, repetition {}", repetition + 1);
        progress.begin(&what, expected(step));
        let detail = |group| progress.detail(&format!("{what}, {group:?}"));
        match measure::run(contender, &plan, repetition, detail) {
            Ok(outcome) => results.add(contender, outcome),
            Err(error) => results.fail(contender, "start", &error),
        }
        // After each, since a long run may be cut short.
        results.write(&unfinished)?;
    }
    progress.end();
    match arguments.record() {
        Some(folder) => results.write(&folder)?,
        None => progress.note(&format!("a part, so {RECORD} stays; this is in {}", unfinished.display())),
    }
    Ok(std::io::stdout().write_all(results.markdown().as_bytes())?)
}

impl Arguments {
    /// Where the results go; nowhere unless everything was measured or a place was named.
    fn record(&self) -> Option<PathBuf> {
        let is_whole = self.peers.is_empty() && self.only.is_empty() && self.repetitions >= REPETITIONS;
        self.output.clone().or_else(|| is_whole.then(|| RECORD.into()))
    }
}

fn or_all<T: ValueEnum + Copy>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(line: &str) -> Option<PathBuf> {
        Arguments::parse_from(line.split_whitespace()).record()
    }

    #[test]
    fn only_a_run_of_everything_replaces_the_recorded_one() {
        assert_eq!(recorded("bench-peers"), Some(RECORD.into()));
        assert_eq!(recorded("bench-peers --repetitions 5 --seconds 10"), Some(RECORD.into()));
        assert_eq!(recorded("bench-peers --only bulk"), None);
        assert_eq!(recorded("bench-peers --peers gateway"), None);
        assert_eq!(recorded("bench-peers --repetitions 1"), None);
        assert_eq!(recorded("bench-peers --only bulk --output /tmp/x"), Some("/tmp/x".into()));
    }
}
