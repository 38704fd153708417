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

use anyhow::{Result, ensure};
use clap::Parser;

use cell::Cell;
use table::Table;
use way::{Open, Way};

/// The round trip of the long path without loss in milliseconds, and the seconds of a download that
/// are measured there.
const LONG: u64 = 200;
const SETTLED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15));

/// Measures the download of each way over the same relay, and writes the table.
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
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Leave the long path without loss out.
    #[arg(long)]
    no_long_path: bool,
    /// Where the table goes; `-` for nowhere.
    #[arg(long, default_value = "benches/PATHS.md")]
    output: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "namespaces need root: make path-matrix brings it");
    let _cubic = benches::cubic::allow();
    let ways = arguments.ways.iter().map(|way| way.open()).collect::<Result<Vec<_>>>()?;
    let mut table = Table::new(arguments.rate, arguments.seconds, arguments.repetitions);
    if !arguments.no_long_path {
        fill_long_path(&arguments, &ways, &mut table);
    }
    for cell in cells(&arguments) {
        for repetition in 0..arguments.repetitions {
            for (way, open) in arguments.ways.iter().zip(&ways) {
                if repetition > 0 && *way == Way::Smoltcp {
                    continue;
                }
                let measured = open.measure(&cell, arguments.seconds, repetition);
                say(&format!("{cell}: {way}: {measured:?}"));
                table.add(cell, *way, measured);
            }
        }
        // After each, since a long run may be cut short.
        if arguments.output.as_os_str() != "-" {
            std::fs::write(&arguments.output, table.markdown())?;
        }
    }
    Ok(std::io::stdout().write_all(table.markdown().as_bytes())?)
}

fn fill_long_path(arguments: &Arguments, ways: &[Open], table: &mut Table) {
    let cell = Cell { loss: 0.0, round_trip: LONG, reorder: 0.0, rate: arguments.rate };
    for _ in 0..arguments.repetitions {
        for (way, open) in arguments.ways.iter().zip(ways).filter(|(way, _)| **way != Way::Smoltcp) {
            let measured = open.settled_rate(&cell, SETTLED);
            say(&format!("{cell}, after {} s: {way}: {measured:?}", SETTLED.0.as_secs()));
            table.add_settled(*way, measured);
        }
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

fn say(line: &str) {
    // Progress output may fail: standard error may be closed.
    let _ = writeln!(std::io::stderr(), "bench-paths: {line}");
}
