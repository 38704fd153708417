//! The path matrix as a heat map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Cartesian2d;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;
use serde::{Deserialize, Serialize};

use super::plot::{self, Plot, SMALL, Style, TEXT};
use super::theme::{Theme, between};
use super::{Canvas, Picture};
use crate::median;

/// Ours over the kernel's and smoltcp's, for each path.
pub const MATRIX: Picture = Picture {
    name: "paths",
    title: "Downloads over bad paths",
    shows: "Heat map: how many times as fast a download from the forwarder is as one from the kernel's TCP and from smoltcp, for each loss, round trip and reordering",
};
/// The file that is drawn.
pub const FILE: &str = "paths.json";

/// What the path matrix measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Paths {
    /// Bytes per second of the path, in each direction.
    pub rate: u64,
    /// Each path once.
    pub cells: Vec<Goodput>,
}

/// The downloads over one path.
#[derive(Debug, Serialize, Deserialize)]
pub struct Goodput {
    /// Percent.
    pub loss: f64,
    /// Milliseconds.
    pub round_trip: u64,
    /// Percent.
    pub reorder: f64,
    /// Mbit/s of each repetition, by whose sender it was: "forwarder", "kernel" or "smoltcp".
    pub megabits: BTreeMap<String, Vec<f64>>,
}

/// Pixels of a cell, of the panels' left sides, and above the first row.
const CELL: (i32, i32) = (84, 40);
const PANELS: [(i32, &str, &str); 2] = [(206, "kernel", "÷ kernel's TCP"), (478, "smoltcp", "÷ smoltcp")];
const TOP: i32 = 138;
const WIDTH: u32 = 760;

/// Draws what [`FILE`] of `folder` has; nothing when it is not there.
///
/// # Errors
/// The file cannot be understood, or the picture not be written.
pub fn draw(folder: &Path) -> Result<()> {
    let Some(paths) = super::read::<Paths>(&folder.join(FILE))? else { return Ok(()) };
    let (rows, columns) = (paths.rows(), paths.columns());
    let lines = [
        format!(
            "Mbit/s of the forwarder in a path of {:.0} Mbit/s; in brackets how many times the other's.",
            paths.rate as f64 * 8e-6
        ),
        "Blue: the forwarder is ahead; orange: it is behind; the paler, the less.".to_owned(),
    ];
    let height = TOP + CELL.1 * i32::try_from(rows.len())?;
    MATRIX.draw(folder, (WIDTH, u32::try_from(height + 52)?), &lines, |canvas, theme| {
        paths.names(canvas, theme, &rows)?;
        for (left, other, title) in PANELS {
            let right = left + CELL.0 * i32::try_from(columns.len())?;
            let panel = Panel {
                plot: Plot::new(
                    canvas,
                    0.0..columns.len() as f64,
                    0.0..rows.len() as f64,
                    (left..right, TOP..height),
                ),
                theme,
            };
            let style = Style::new(TEXT, theme.text, HPos::Center).bold();
            plot::write(canvas, ((left + right) / 2, TOP - 16), title, style)?;
            panel.columns(&columns)?;
            for (up, row) in rows.iter().rev().enumerate() {
                for (across, round_trip) in columns.iter().enumerate() {
                    if let Some((own, ratio)) = paths.ratio(*row, *round_trip, other) {
                        panel.cell((across as f64, up as f64), own, ratio)?;
                    }
                }
            }
        }
        Ok(())
    })
}

impl Paths {
    /// Reordering and loss in percent, the best path first.
    fn rows(&self) -> Vec<(f64, f64)> {
        let mut rows: Vec<_> = self.cells.iter().map(|cell| (cell.reorder, cell.loss)).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        rows.dedup();
        rows
    }

    /// Round trips in milliseconds.
    fn columns(&self) -> Vec<u64> {
        let mut columns: Vec<_> = self.cells.iter().map(|cell| cell.round_trip).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The forwarder's Mbit/s, and how many times the other's that is.
    fn ratio(&self, (reorder, loss): (f64, f64), round_trip: u64, other: &str) -> Option<(f64, f64)> {
        let cell = self
            .cells
            .iter()
            .find(|cell| cell.reorder == reorder && cell.loss == loss && cell.round_trip == round_trip)?;
        let middle = |name: &str| median(cell.megabits.get(name)?.iter().copied());
        let (own, other) = (middle("forwarder")?, middle(other)?);
        (other > 0.0).then_some((own, own / other))
    }

    fn names(&self, canvas: &Canvas<'_>, theme: Theme, rows: &[(f64, f64)]) -> Result<()> {
        for (place, (reorder, loss)) in (0..).zip(rows) {
            let order = if *reorder > 0.0 { format!(", {reorder} % reordered") } else { String::new() };
            let lost = if *loss > 0.0 { format!("{loss} % lost") } else { "nothing lost".to_owned() };
            let at = (PANELS[0].0 - 10, TOP + CELL.1 * place + CELL.1 / 2);
            plot::write(canvas, at, &format!("{lost}{order}"), Style::new(SMALL, theme.text, HPos::Right))?;
        }
        Ok(())
    }
}

/// The cells of one comparison.
struct Panel<'a> {
    plot: Plot<'a, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
    theme: Theme,
}

impl Panel<'_> {
    fn columns(&self, columns: &[u64]) -> Result<()> {
        let style = Style::new(SMALL, self.theme.quiet, HPos::Center);
        for (place, round_trip) in columns.iter().enumerate() {
            self.plot.label((place as f64 + 0.5, 0.0), (0, 13), &format!("{round_trip} ms"), style)?;
        }
        self.plot.label((columns.len() as f64 / 2.0, 0.0), (0, 34), "round trip", style)
    }

    fn cell(&self, (across, up): (f64, f64), own: f64, ratio: f64) -> Result<()> {
        let inner = |from: f64, gap: f64| -> Range<f64> { from + gap..from + 1.0 - gap };
        self.plot.bar(inner(across, 0.012), inner(up, 0.025), colour(self.theme, ratio))?;
        let own = if own < 9.95 { format!("{own:.1}") } else { format!("{own:.0}") };
        let ratio = if ratio < 9.95 { format!("{ratio:.1}") } else { format!("{ratio:.0}") };
        let style = Style::new(SMALL, self.theme.text, HPos::Center);
        self.plot.label((across + 0.5, up + 0.5), (0, 0), &format!("{own} ({ratio}×)"), style)
    }
}

/// Full colour at four times as fast, or a quarter.
fn colour(theme: Theme, ratio: f64) -> RGBColor {
    let far = ratio.log2() / 2.0;
    between(theme.alike, if far > 0.0 { theme.ahead } else { theme.behind }, far.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_coloured_by_who_is_ahead() {
        let theme = Theme::BOTH[0];
        assert_eq!(colour(theme, 1.0), theme.alike);
        assert_eq!(colour(theme, 100.0), theme.ahead);
        assert_eq!(colour(theme, 0.01), theme.behind);
    }

    #[test]
    fn rows_and_columns_are_each_there_once_and_in_order() {
        let cell = |reorder, loss, round_trip| Goodput {
            loss,
            round_trip,
            reorder,
            megabits: [("forwarder".to_owned(), vec![3.0, 1.0, 2.0]), ("kernel".to_owned(), vec![1.0])]
                .into(),
        };
        let paths = Paths { rate: 1, cells: vec![cell(25.0, 0.0, 50), cell(0.0, 1.0, 5), cell(0.0, 0.0, 5)] };
        assert_eq!(paths.rows(), [(0.0, 0.0), (0.0, 1.0), (25.0, 0.0)]);
        assert_eq!(paths.columns(), [5, 50]);
        assert_eq!(paths.ratio((0.0, 1.0), 5, "kernel"), Some((2.0, 2.0)));
        assert_eq!(paths.ratio((0.0, 1.0), 5, "smoltcp"), None);
    }
}
