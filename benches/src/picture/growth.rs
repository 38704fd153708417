//! Curves of how cost grows.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Cartesian2d;
use plotters::style::text_anchor::HPos;
use serde::{Deserialize, Serialize};

use super::plot::{self, Plot, SMALL, Style, TEXT};
use super::theme::Theme;
use super::{Canvas, Picture};

/// How cost grows with peers, allowed-ips, flows and services.
pub const CURVES: Picture = Picture {
    name: "growth",
    title: "How cost grows",
    shows: "Curves: instructions of a packet, a handshake or new flow and an apply, and bytes of memory, over the number of peers, allowed-ips, flows and services",
};
/// The file that is drawn.
pub const FILE: &str = "growth.json";

/// Everything that was counted.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Growth {
    /// As `rustc --version` has it.
    pub compiler: String,
    /// Whose instructions were counted.
    pub architecture: String,
    /// One for each thing that there is more and more of, and each cost.
    pub curves: Vec<Curve>,
}

/// One cost over the number of something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// Of what there is more and more.
    pub subject: String,
    /// What was counted.
    pub cost: String,
    /// The unit of the values.
    pub unit: String,
    /// How many there were, and the value.
    pub points: Vec<(u32, f64)>,
}

/// Pixels of a panel with what is around it, of its plot, and above the first.
const PANEL: (i32, i32) = (222, 166);
const PLOT: (i32, i32) = (150, 84);
const LEFT: i32 = 24;
const TOP: i32 = 96;
/// Panels in a row at most.
const COLUMNS: i32 = 4;

/// Draws what [`FILE`] of `folder` has; nothing when it is not there.
///
/// # Errors
/// The file cannot be understood, or the picture not be written.
pub fn draw(folder: &Path) -> Result<()> {
    let Some(growth) = super::read::<Growth>(&folder.join(FILE))? else { return Ok(()) };
    let lines = [
        "Each scale begins at 0, each line is labelled at its ends: a level one is a cost that does not grow."
            .to_owned(),
        format!("Instructions are those of {}.", growth.architecture),
    ];
    let rows = growth.rows();
    let size = (LEFT + PANEL.0 * COLUMNS, TOP + PANEL.1 * i32::try_from(rows.len())?);
    CURVES.draw(folder, (u32::try_from(size.0)?, u32::try_from(size.1)?), &lines, |canvas, theme| {
        for (row, curves) in (0..).zip(&rows) {
            for (column, curve) in (0..).zip(curves) {
                curve.draw(canvas, theme, (LEFT + PANEL.0 * column, TOP + PANEL.1 * row))?;
            }
        }
        Ok(())
    })
}

impl Growth {
    /// Adds a value to the curve of the same name.
    pub fn add(&mut self, curve: Curve, number: u32, value: f64) {
        let same = |own: &&mut Curve| own.subject == curve.subject && own.cost == curve.cost;
        match self.curves.iter_mut().find(same) {
            Some(own) => own.points.push((number, value)),
            None => self.curves.push(Curve { points: vec![(number, value)], ..curve }),
        }
    }

    /// The curves, those of one subject in a row.
    fn rows(&self) -> Vec<Vec<&Curve>> {
        let mut rows: Vec<Vec<&Curve>> = Vec::new();
        for curve in &self.curves {
            match rows.iter_mut().find(|row| row.iter().any(|own| own.subject == curve.subject)) {
                Some(row) => row.push(curve),
                None => rows.push(vec![curve]),
            }
        }
        rows
    }

    /// A table for each subject.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for row in self.rows() {
            let Some(first) = row.first() else { continue };
            let _ = write!(text, "\n## {}\n\n| {} |", first.subject, first.subject);
            for curve in &row {
                let _ = write!(text, " {}, {} |", curve.cost, curve.unit);
            }
            let _ = writeln!(text, "\n|---|{}", "---|".repeat(row.len()));
            for (place, (number, _)) in first.points.iter().enumerate() {
                let _ = write!(text, "| {} |", grouped(f64::from(*number)));
                for curve in &row {
                    let value = curve.points.get(place).map_or("–".to_owned(), |point| grouped(point.1));
                    let _ = write!(text, " {value} |");
                }
                text.push('\n');
            }
        }
        text
    }
}

impl Curve {
    /// One without points.
    #[must_use]
    pub fn named(subject: &str, cost: &str, unit: &str) -> Self {
        Self { subject: subject.to_owned(), cost: cost.to_owned(), unit: unit.to_owned(), points: Vec::new() }
    }

    fn draw(&self, canvas: &Canvas<'_>, theme: Theme, (left, top): (i32, i32)) -> Result<()> {
        let points: Vec<_> = self.points.iter().map(|(number, value)| (f64::from(*number), *value)).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
        let highest = points.iter().map(|point| point.1).fold(1.0, f64::max);
        let title = Style::new(TEXT, theme.text, HPos::Left).bold();
        plot::write(canvas, (left, top), &format!("{}: {}", self.subject, self.cost), title)?;
        plot::write(canvas, (left, top + 18), &self.unit, Style::new(SMALL, theme.quiet, HPos::Left))?;
        let (right, bottom) = (left + 8 + PLOT.0, top + 30 + PLOT.1);
        let plot = Plot::<Cartesian2d<LogCoord<f64>, RangedCoordf64>>::new(
            canvas,
            (1.0..last.0.max(10.0)).log_scale(),
            0.0..highest * 1.35,
            (left + 8..right, top + 30..bottom),
        );
        let ticks: Vec<_> = points.iter().map(|point| (point.0, short(point.0))).collect();
        plot.axis(theme, &ticks, 0.0..highest * 1.35, (1.0, ""))?;
        plot.line(&[(1.0, 0.0), (last.0, 0.0)], 1, theme.quiet)?;
        plot.line(&points, 3, theme.own[0])?;
        for point in &points {
            plot.dot(*point, 4, theme.own[0])?;
        }
        let style = |anchor| Style::new(SMALL, theme.text, anchor);
        plot.label(*first, (-2, -13), &short(first.1), style(HPos::Left))?;
        plot.label(*last, (2, -13), &short(last.1), style(HPos::Right))
    }
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        value if value >= 9.95e6 => format!("{:.0}M", value / 1e6),
        // What would round to 1000k.
        value if value >= 9.995e5 => format!("{:.1}M", value / 1e6).replace(".0M", "M"),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 999.5 => format!("{:.1}k", value / 1e3).replace(".0k", "k"),
        value => format!("{value:.0}"),
    }
}

/// A whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_in_pictures_and_whole_in_tables() {
        assert_eq!(
            [1.0, 999.4, 999.6, 1000.0, 1234.0, 12_345.0, 999_549.0, 1.25e6].map(short),
            ["1", "999", "1k", "1k", "1.2k", "12k", "1M", "1.2M"]
        );
        assert_eq!([7.0, 1000.0, 1_234_567.0].map(grouped), ["7", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_subject_is_a_table_and_a_row_of_pictures() {
        let mut growth = Growth::default();
        for (number, value) in [(1, 8497.0), (10, 8500.0)] {
            growth.add(Curve::named("flows", "packet", "instructions"), number, value);
            growth.add(Curve::named("flows", "memory", "bytes for each"), number, value);
        }
        assert_eq!(growth.rows().len(), 1);
        let table = growth.tables();
        assert!(table.contains("| flows | packet, instructions | memory, bytes for each |"), "{table}");
        assert!(table.contains("| 10 | 8,500 | 8,500 |"), "{table}");
    }
}
