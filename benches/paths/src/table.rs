//! The table.

use std::fmt::Write;

use anyhow::Result;

use crate::cell::Cell;
use crate::transfer::Download;
use crate::way::Way;

/// What was measured.
pub(crate) struct Table {
    rate: u64,
    seconds: u64,
    repetitions: u32,
    entries: Vec<(Cell, Way, Result<Download>)>,
}

impl Table {
    pub(crate) fn new(rate: u64, seconds: u64, repetitions: u32) -> Self {
        Self { rate, seconds, repetitions, entries: Vec::new() }
    }

    pub(crate) fn add(&mut self, cell: Cell, way: Way, measured: Result<Download>) {
        self.entries.push((cell, way, measured));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.head();
        let mut seen: Vec<Cell> = Vec::new();
        for (cell, _, _) in &self.entries {
            if seen.contains(cell) {
                continue;
            }
            seen.push(*cell);
            let [own, kernel, smoltcp] =
                [Way::Causeway, Way::Kernel, Way::Smoltcp].map(|way| self.megabits(cell, way));
            let ratio = |other: Option<f64>| match (own, other) {
                (Some(own), Some(other)) if other > 0.0 => format!("{:.2}", own / other),
                _ => "–".to_owned(),
            };
            let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                cell.reorder,
                cell.loss,
                cell.round_trip,
                figure(own),
                figure(kernel),
                figure(smoltcp),
                ratio(kernel),
                ratio(smoltcp),
                self.whole(cell)
            );
        }
        text
    }

    fn head(&self) -> String {
        let Self { rate, seconds, repetitions, .. } = self;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(", ");
        format!(
            "# Paths\n\n`make path-matrix`: goodput of a download in Mbit/s, median of {repetitions}, taking turns, over `tests/relay` between origin\n\
             and edge with these faults in both directions, {rate} bytes per second each way; a reordered datagram is overtaken\n\
             by three. \"forwarder\" is ours; \"kernel\" is the kernel's TCP with cubic through `causeway-wg`, \"smoltcp\" a socket of\n\
             smoltcp's with its own CUBIC in buffers of 4 MiB; the edge is `gateway` for all. Each fetches what a good TCP moves in\n\
             {seconds} s, every byte checked; what is not there after {} s counts as far as it came. \"whole\" says how many of ours came\n\
             to their end. Load average of the machine at the end, over 1, 5 and 15 minutes: {load}.\n\n\
             | reordered, % | lost, % | round trip, ms | forwarder | kernel | smoltcp | ÷ kernel | ÷ smoltcp | whole |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            3 * seconds
        )
    }

    fn megabits(&self, cell: &Cell, way: Way) -> Option<f64> {
        let mut values: Vec<f64> =
            self.of(cell, way).filter_map(|measured| Some(measured.as_ref().ok()?.megabits())).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn whole(&self, cell: &Cell) -> String {
        let whole = self
            .of(cell, Way::Causeway)
            .filter(|measured| measured.as_ref().is_ok_and(|download| download.is_whole));
        format!("{} of {}", whole.count(), self.of(cell, Way::Causeway).count())
    }

    fn of(&self, cell: &Cell, way: Way) -> impl Iterator<Item = &Result<Download>> {
        let cell = *cell;
        self.entries.iter().filter(move |entry| entry.0 == cell && entry.1 == way).map(|entry| &entry.2)
    }
}
