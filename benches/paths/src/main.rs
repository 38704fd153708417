//! The path matrix: goodput of downloads over a path that loses, delays and reorders, beside the kernel's TCP and smoltcp's.

mod cell;
mod origin;
mod smoltcp_cubic;
mod table;
mod transfer;
mod way;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;

use cell::Cell;
use table::Table;
use way::Way;

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
    /// Seconds that a transfer is sized for, and a third of what it may take.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How often each is measured, taking turns.
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
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
    for cell in cells(&arguments) {
        for repetition in 0..arguments.repetitions {
            for (way, open) in arguments.ways.iter().zip(&ways) {
                let measured = open.measure(&cell, arguments.seconds, u64::from(repetition));
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
    // Progress is for a person who watches; nobody may be there.
    let _ = writeln!(std::io::stderr(), "bench-paths: {line}");
}
