//! The path matrix: goodput of downloads over a path that loses, delays and reorders, compared with
//! the kernel's TCP and smoltcp's.

mod cell;
mod origin;
mod smoltcp_cubic;
mod table;
mod transfer;
mod way;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::progress::Progress;
use clap::Parser;

use cell::Cell;
use table::Table;
use way::{Open, Way};

/// The round trip of the long path without loss in milliseconds, and the seconds of a download that
/// are measured there.
const LONG: u64 = 200;
const SETTLED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15));

/// Where a run of everything is recorded.
const RECORD: &str = "benches";
/// How often a recorded run measures each.
const REPETITIONS: u32 = 3;

/// Measures the download of each way over the same relay, and writes the table and its picture.
///
/// Only a run of everything is recorded in benches/. One of a part is printed, and is in
/// target/bench-paths, as every run is until it ends.
#[derive(Debug, Parser)]
struct Arguments {
    /// Loss in percent.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1, 1.0, 5.0])]
    loss: Vec<f64>,
    /// Round trip in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 50, 200])]
    round_trip: Vec<u64>,
    /// Percent of datagrams that three later ones overtake.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 25.0])]
    reorder: Vec<f64>,
    /// Which ways.
    #[arg(long, value_delimiter = ',', default_values = ["causeway", "kernel", "smoltcp"])]
    ways: Vec<Way>,
    /// Bytes per second of the path, in each direction.
    #[arg(long, default_value_t = 12_500_000)]
    rate: u64,
    /// Seconds that a transfer is sized for, and half of what it may take.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each is measured, taking turns; smoltcp once only.
    #[arg(long, default_value_t = REPETITIONS)]
    repetitions: u32,
    /// Leave the long path without loss out.
    #[arg(long)]
    no_long_path: bool,
    /// Where PATHS.md, paths.json and the picture go, even those of a part.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A download: of which path, whose, and in which repetition.
type Step = (Cell, Way, u32);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "namespaces need root: make path-matrix brings it");
    let _cubic = benches::cubic::allow();
    let ways = arguments.ways.iter().map(|way| way.open()).collect::<Result<Vec<_>>>()?;
    let mut table = Table::new(arguments.rate, arguments.seconds, arguments.repetitions);
    let (long, steps) = (arguments.long_path(), arguments.steps());
    let (long_seconds, seconds) = (SETTLED.1.as_secs_f64() + 1.0, arguments.seconds as f64 + 2.0);
    let expected = long.iter().map(|_| long_seconds).chain(steps.iter().map(|_| seconds));
    let mut progress = Progress::new("bench-paths", expected);
    for (cell, way, _) in &long {
        progress.begin(&format!("{cell}, after {} s, {way}", SETTLED.0.as_secs()), long_seconds);
        table.add_settled(*way, open_of(&arguments.ways, &ways, *way)?.settled_rate(cell, SETTLED));
    }
    let unfinished = benches::unfinished("bench-paths")?;
    for (cell, way, repetition) in &steps {
        progress.begin(&format!("{cell}, {way}, repetition {}", repetition + 1), seconds);
        let measured = open_of(&arguments.ways, &ways, *way)?.measure(cell, arguments.seconds, *repetition);
        table.add(*cell, *way, measured);
        // After each, since a long run may be cut short.
        table.write(&unfinished)?;
    }
    progress.end();
    match arguments.record() {
        Some(folder) => table.write(&folder)?,
        None => progress.note(&format!("a part, so {RECORD} stays; this is in {}", unfinished.display())),
    }
    Ok(std::io::stdout().write_all(table.markdown().as_bytes())?)
}

fn open_of<'a>(ways: &[Way], open: &'a [Open], way: Way) -> Result<&'a Open> {
    let found = ways.iter().zip(open).find(|(own, _)| **own == way);
    Ok(found.context("a way that is not open")?.1)
}

impl Arguments {
    /// The downloads that are long enough for a rate to settle.
    fn long_path(&self) -> Vec<Step> {
        let cell = Cell { loss: 0.0, round_trip: LONG, reorder: 0.0, rate: self.rate };
        let repetitions = if self.no_long_path { 0 } else { self.repetitions };
        let ways = || self.ways.iter().filter(|way| **way != Way::Smoltcp);
        (0..repetitions).flat_map(|repetition| ways().map(move |way| (cell, *way, repetition))).collect()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for cell in cells(self) {
            for repetition in 0..self.repetitions {
                let ways = self.ways.iter().filter(|way| repetition == 0 || **way != Way::Smoltcp);
                steps.extend(ways.map(|way| (cell, *way, repetition)));
            }
        }
        steps
    }

    /// Where the results go; nowhere unless everything was measured or a place was named.
    fn record(&self) -> Option<PathBuf> {
        let whole = Self::parse_from(["bench-paths"]);
        let is_whole = self.loss == whole.loss
            && self.round_trip == whole.round_trip
            && self.reorder == whole.reorder
            && self.ways == whole.ways
            && self.rate == whole.rate
            && self.repetitions >= REPETITIONS
            && !self.no_long_path;
        self.output.clone().or_else(|| is_whole.then(|| RECORD.into()))
    }
}

fn cells(arguments: &Arguments) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &reorder in &arguments.reorder {
        for &loss in &arguments.loss {
            for &round_trip in &arguments.round_trip {
                cells.push(Cell { loss, round_trip, reorder, rate: arguments.rate });
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(line: &str) -> Option<PathBuf> {
        Arguments::parse_from(line.split_whitespace()).record()
    }

    #[test]
    fn only_a_run_of_everything_replaces_the_recorded_one() {
        assert_eq!(recorded("bench-paths"), Some(RECORD.into()));
        assert_eq!(recorded("bench-paths --loss 1"), None);
        assert_eq!(recorded("bench-paths --ways kernel"), None);
        assert_eq!(recorded("bench-paths --no-long-path"), None);
        assert_eq!(recorded("bench-paths --loss 1 --output /tmp/x"), Some("/tmp/x".into()));
    }
}
