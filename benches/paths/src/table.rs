//! The table.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use benches::median;
use benches::picture::paths::{self, Goodput, MATRIX, Paths};

use crate::cell::Cell;
use crate::transfer::Download;
use crate::way::{LIMIT, Way};

/// What was measured.
pub(crate) struct Table {
    rate: u64,
    seconds: u64,
    repetitions: u32,
    entries: Vec<(Cell, Way, Result<Download>)>,
    /// On the long path without loss, in Mbit/s.
    settled: Vec<(Way, Result<f64>)>,
}

/// A goal over cells: what it is, compared with which program, which cells count, and the wanted
/// ratio.
type Row<'a> = (&'static str, Way, &'a dyn Fn(&Cell) -> bool, &'static str);

impl Table {
    pub(crate) fn new(rate: u64, seconds: u64, repetitions: u32) -> Self {
        Self { rate, seconds, repetitions, entries: Vec::new(), settled: Vec::new() }
    }

    pub(crate) fn add(&mut self, cell: Cell, way: Way, measured: Result<Download>) {
        self.entries.push((cell, way, measured));
    }

    pub(crate) fn add_settled(&mut self, way: Way, measured: Result<f64>) {
        self.settled.push((way, measured));
    }

    /// Writes `PATHS.md`, `paths.json` and the picture of both.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let values = serde_json::to_string_pretty(&self.values())? + "\n";
        std::fs::write(folder.join(paths::FILE), values)?;
        paths::draw(folder)?;
        Ok(std::fs::write(folder.join("PATHS.md"), self.markdown())?)
    }

    /// What is drawn.
    fn values(&self) -> Paths {
        let goodput = |cell: Cell| {
            let ways = [("forwarder", Way::Causeway), ("kernel", Way::Kernel), ("smoltcp", Way::Smoltcp)];
            let each = |way| self.of(&cell, way).filter_map(|one| Some(one.as_ref().ok()?.megabits()));
            let megabits = ways.map(|(name, way)| (name.to_owned(), each(way).collect())).into();
            Goodput { loss: cell.loss, round_trip: cell.round_trip, reorder: cell.reorder, megabits }
        };
        Paths { rate: self.rate, cells: self.cells().into_iter().map(goodput).collect() }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.head();
        for cell in self.cells() {
            let [own, kernel, smoltcp] =
                [Way::Causeway, Way::Kernel, Way::Smoltcp].map(|way| self.megabits(&cell, way));
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
                figure(ratio(own, kernel)),
                figure(ratio(own, smoltcp)),
                self.whole(&cell)
            );
        }
        text.push_str(&self.goals());
        text
    }

    /// The cells that were measured, each once, sorted by their numbers.
    fn cells(&self) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        for (cell, _, _) in &self.entries {
            if !cells.contains(cell) {
                cells.push(*cell);
            }
        }
        cells.sort_by(|a, b| {
            let by_loss = a.reorder.total_cmp(&b.reorder).then(a.loss.total_cmp(&b.loss));
            by_loss.then(a.round_trip.cmp(&b.round_trip))
        });
        cells
    }

    fn goals(&self) -> String {
        let settled = |way: Way| {
            median(
                self.settled
                    .iter()
                    .filter(|entry| entry.0 == way)
                    .filter_map(|entry| entry.1.as_ref().ok().copied()),
            )
        };
        let (own, kernel) = (settled(Way::Causeway), settled(Way::Kernel));
        let mut text =
            "\n## Compared with the goals\n\n| what | figure | where | goal |\n|---|---|---|---|\n"
                .to_owned();
        let _ = writeln!(
            text,
            "| 200 ms, nothing lost, from the 10th to the 15th second: ÷ kernel | {} | {} of {} Mbit/s | ≥ 0.85 |",
            figure(ratio(own, kernel)),
            figure(own),
            figure(kernel)
        );
        let is_easy = |cell: &Cell| cell.loss <= 0.1 && cell.reorder == 0.0;
        let is_hard = |cell: &Cell| !is_easy(cell) && cell.loss <= 1.0;
        // No program can be twice as fast as one that fills the path.
        let full = self.rate as f64 * 8.0 / 1e6 / 2.0;
        let has_room =
            |cell: &Cell| self.megabits(cell, Way::Smoltcp).is_some_and(|megabits| megabits < full);
        let rows: [Row<'_>; 4] = [
            ("up to 0.1 % lost, in order: least ÷ kernel", Way::Kernel, &is_easy, "≥ 0.8"),
            ("up to 1 % lost, reordered: least ÷ kernel", Way::Kernel, &is_hard, "≥ 0.8, desired"),
            ("anywhere: least ÷ smoltcp", Way::Smoltcp, &|_| true, ""),
            (
                "where smoltcp fills less than half of the path: least ÷ smoltcp",
                Way::Smoltcp,
                &has_room,
                "≥ 2",
            ),
        ];
        for (what, other, counts, goal) in rows {
            let cells = self.cells().into_iter().filter(counts);
            let ratios = cells.filter_map(|cell| {
                Some((ratio(self.megabits(&cell, Way::Causeway), self.megabits(&cell, other))?, cell))
            });
            if let Some((least, cell)) = ratios.min_by(|a, b| a.0.total_cmp(&b.0)) {
                let _ = writeln!(text, "| {what} | {least:.2} | {cell} | {goal} |");
            }
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
             {seconds} s, every byte checked; what is not there after {} s counts as far as it came. smoltcp was asked once. \"whole\" says\n\
             how many of ours came to their end. In one repetition the same\n\
             datagrams are lost for everyone. No end remembers what a path before was like (tcp_no_metrics_save). Load\n\
             average of the machine at the end, over 1, 5 and 15 minutes: {load}.\n\n{}\n\
             | reordered, % | lost, % | round trip, ms | forwarder | kernel | smoltcp | ÷ kernel | ÷ smoltcp | whole |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            LIMIT * seconds,
            MATRIX.markdown("")
        )
    }

    fn megabits(&self, cell: &Cell, way: Way) -> Option<f64> {
        median(self.of(cell, way).filter_map(|measured| Some(measured.as_ref().ok()?.megabits())))
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

fn ratio(own: Option<f64>, other: Option<f64>) -> Option<f64> {
    other.filter(|other| *other > 0.0).and_then(|other| Some(own? / other))
}

fn figure(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}
