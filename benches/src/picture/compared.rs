//! Causeway next to its peers: throughput, CPU, and latency under load.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Cartesian2d;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;
use serde::Deserialize;

use super::plot::{self, Plot, SMALL, Style, TEXT};
use super::theme::Theme;
use super::{Canvas, Picture};
use crate::median;

/// TCP throughput next to the peers.
pub const THROUGHPUT: Picture = Picture {
    name: "throughput",
    title: "TCP throughput, one stream",
    shows: "Bars: gigabits per second of one TCP stream, down and up, of Causeway and its peers",
};
/// CPU time next to the peers.
pub const CPU: Picture = Picture {
    name: "cpu",
    title: "CPU seconds for a gigabyte",
    shows: "Bars: CPU seconds for each gigabyte at edge and origin, of Causeway and its peers",
};
/// Latency under load next to the peers.
pub const LATENCY: Picture = Picture {
    name: "latency",
    title: "Latency, idle and under load",
    shows: "Lines from median to 99th percentile: the time of a request, idle and during a bulk transfer, of Causeway and its peers",
};

/// Whoever is in the pictures; the tables have more.
const SHOWN: [&str; 7] =
    ["causeway-wg", "gateway + forwarder", "wireguard-go", "gotatun", "boringtun", "onetun", "rathole noise"];
const OWN: [&str; 2] = ["causeway-wg", "gateway + forwarder"];
/// Pixels: the width, where the scale is, where the first row begins, and what is below the last.
const WIDTH: u32 = 760;
const COLUMNS: Range<i32> = 196..706;
const TOP: i32 = 92;
const BELOW: i32 = 58;

/// A scale for values, with a row for each contender.
type Scale<'a, X> = Plot<'a, Cartesian2d<X, RangedCoordf64>>;

/// `results.json`, as far as it is drawn.
#[derive(Debug, Deserialize)]
struct Results {
    repetitions: u32,
    cipher: BTreeMap<String, f64>,
    values: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// The median of a metric, with the lowest and the highest value.
#[derive(Debug, Clone, Copy)]
struct Spread {
    lowest: f64,
    middle: f64,
    highest: f64,
}

/// A contender and two of its metrics.
struct Row {
    name: &'static str,
    pair: [Spread; 2],
}

/// Draws what `results.json` of `folder` has; nothing when it is not there.
///
/// # Errors
/// The file cannot be understood, or a picture not be written.
pub fn draw(folder: &Path) -> Result<()> {
    let Some(results) = super::read::<Results>(&folder.join("results.json"))? else { return Ok(()) };
    throughput(&results, folder)?;
    cpu(&results, folder)?;
    latency(&results, folder)
}

impl Results {
    fn spread(&self, name: &str, metric: &str) -> Option<Spread> {
        let values = self.values.get(name)?.get(metric)?;
        Some(Spread {
            lowest: values.iter().copied().reduce(f64::min)?,
            middle: median(values.iter().copied())?,
            highest: values.iter().copied().reduce(f64::max)?,
        })
    }

    /// Those of whom both metrics are there, the least of the first metric first.
    fn rows(&self, metrics: [&str; 2]) -> Vec<Row> {
        let row = |name: &'static str| {
            let [first, second] = metrics.map(|metric| self.spread(name, metric));
            Some(Row { name, pair: [first?, second?] })
        };
        let mut rows: Vec<_> = SHOWN.into_iter().filter_map(row).collect();
        rows.sort_by(|a, b| a.pair[0].middle.total_cmp(&b.pair[0].middle));
        rows
    }
}

impl Row {
    fn colours(&self, theme: Theme) -> [RGBColor; 2] {
        if OWN.contains(&self.name) { theme.own } else { theme.other }
    }

    fn middles(&self) -> [f64; 2] {
        self.pair.map(|spread| spread.middle)
    }
}

fn throughput(results: &Results, folder: &Path) -> Result<()> {
    let mut rows = results.rows(["bulk_down_1", "bulk_up_1"]);
    rows.reverse();
    let most = rows.iter().flat_map(|row| row.pair).map(|spread| spread.highest).fold(1.0, f64::max);
    let direct = results
        .spread("direct", "bulk_down_1")
        .map_or(String::new(), |direct| format!(" Without a tunnel: {:.0} Gbit/s down.", direct.middle));
    let lines = [
        format!("Medians of {}; the thin line goes from the lowest to the highest.", results.repetitions),
        format!("Client, service and both ends share one machine: only ratios mean something.{direct}"),
    ];
    let ticks = ticks(most, 1);
    let axis = (most / 2.0, "Gbit/s");
    let size = Size { rows: rows.len(), height: 46 };
    THROUGHPUT.draw(folder, size.pixels()?, &lines, |canvas, theme| {
        let plot = size.plot::<RangedCoordf64>(canvas, 0.0..most * 1.04)?;
        plot.axis(theme, &ticks, size.up(), axis)?;
        for (place, row) in rows.iter().enumerate() {
            let bottom = size.bottom(place);
            size.name(canvas, theme, place, row.name)?;
            let bars = row.pair.into_iter().zip(row.colours(theme));
            for ((from, way), (spread, colour)) in [(0.51, "down"), (0.15, "up")].into_iter().zip(bars) {
                let (from, middle) = (bottom + from, bottom + from + 0.17);
                plot.bar(0.0..spread.middle, from..from + 0.34, colour)?;
                plot.line(&[(spread.lowest, middle), (spread.highest, middle)], 2, theme.quiet)?;
                let text = format!("{:.2} {way}", spread.middle);
                plot.label((spread.highest, middle), (6, 0), &text, small(theme, HPos::Left))?;
            }
        }
        Ok(())
    })
}

fn cpu(results: &Results, folder: &Path) -> Result<()> {
    let mut rows = results.rows(["cpu_edge_down_1", "cpu_origin_down_1"]);
    let sum = |row: &Row| row.middles().iter().sum::<f64>();
    rows.sort_by(|a, b| sum(a).total_cmp(&sum(b)));
    let most = rows.iter().map(sum).fold(1.0, f64::max);
    let cipher = results.cipher.values().sum::<f64>();
    let lines = [
        "One TCP stream down; what the kernel does for their sends is counted.".to_owned(),
        format!("The dotted line is what the cipher alone takes, sealing and opening: {cipher:.2} s."),
    ];
    let ticks = ticks(most, 5);
    let axis = (most / 2.0, "CPU seconds per GB");
    let size = Size { rows: rows.len(), height: 34 };
    CPU.draw(folder, size.pixels()?, &lines, |canvas, theme| {
        let plot = size.plot::<RangedCoordf64>(canvas, 0.0..most * 1.4)?;
        plot.axis(theme, &ticks, size.up(), axis)?;
        for (place, row) in rows.iter().enumerate() {
            size.name(canvas, theme, place, row.name)?;
            let up = size.bottom(place) + 0.18..size.bottom(place) + 0.82;
            let ([edge, origin], [first, second]) = (row.middles(), row.colours(theme));
            plot.bar(0.0..edge, up.clone(), first)?;
            plot.bar(edge..edge + origin, up.clone(), second)?;
            let text = format!("{edge:.2} edge + {origin:.2} origin");
            let at = (edge + origin, (up.start + up.end) / 2.0);
            plot.label(at, (6, 0), &text, small(theme, HPos::Left))?;
        }
        for step in 0..rows.len() * 6 {
            let from = step as f64 / 6.0;
            plot.line(&[(cipher, from), (cipher, from + 0.08)], 2, theme.behind)?;
        }
        Ok(())
    })
}

fn latency(results: &Results, folder: &Path) -> Result<()> {
    let rows = results.rows(["loaded_p50", "loaded_p99"]);
    let lines = [
        "Request and response of 64 bytes: the dot is the median, the end of the line the 99th percentile."
            .to_owned(),
        "The load is one TCP stream down, as fast as it goes: whoever carries less of it queues less."
            .to_owned(),
    ];
    let ticks = [(100.0, "100 µs".to_owned()), (1e3, "1 ms".to_owned()), (1e4, "10 ms".to_owned())];
    let size = Size { rows: rows.len(), height: 56 };
    LATENCY.draw(folder, size.pixels()?, &lines, |canvas, theme| {
        let plot = size.plot::<LogCoord<f64>>(canvas, (20.0..200_000.0).log_scale())?;
        plot.axis(theme, &ticks, size.up(), (1e3, "until the answer is there (logarithmic)"))?;
        for (place, row) in rows.iter().enumerate() {
            let bottom = size.bottom(place);
            size.name(canvas, theme, place, row.name)?;
            let [strong, weak] = row.colours(theme);
            let idle = ["rr_p50", "rr_p99"].map(|metric| results.spread(row.name, metric));
            if let [Some(p50), Some(p99)] = idle {
                reach(&plot, theme, [p50.middle, p99.middle], (bottom + 0.7, weak), "idle")?;
            }
            let bulk = results.spread(row.name, "loaded_bulk");
            let load = bulk.map_or("loaded".to_owned(), |bulk| format!("during {:.1} Gbit/s", bulk.middle));
            reach(&plot, theme, row.middles(), (bottom + 0.3, strong), &load)?;
        }
        Ok(())
    })
}

/// From the median to the 99th percentile, in microseconds.
fn reach(
    plot: &Scale<'_, LogCoord<f64>>,
    theme: Theme,
    [p50, p99]: [f64; 2],
    (at, colour): (f64, RGBColor),
    what: &str,
) -> Result<()> {
    plot.line(&[(p50, at), (p99, at)], 4, colour)?;
    plot.line(&[(p99, at - 0.1), (p99, at + 0.1)], 3, colour)?;
    plot.dot((p50, at), 6, colour)?;
    plot.label((p50, at), (-11, 0), &duration(p50), small(theme, HPos::Right))?;
    plot.label((p99, at), (8, 0), &format!("{}, {what}", duration(p99)), small(theme, HPos::Left))
}

fn duration(micros: f64) -> String {
    if micros < 1e3 { format!("{micros:.0} µs") } else { format!("{:.1} ms", micros / 1e3) }
}

/// Multiples of `step` up to `most`.
fn ticks(most: f64, step: u32) -> Vec<(f64, String)> {
    let values = (0..).map(|number| number * step).take_while(|value| f64::from(*value) <= most);
    values.map(|value| (f64::from(value), value.to_string())).collect()
}

fn small(theme: Theme, anchor: HPos) -> Style {
    Style::new(SMALL, theme.text, anchor)
}

/// How many rows there are, and how high each is in pixels.
#[derive(Debug, Clone, Copy)]
struct Size {
    rows: usize,
    height: i32,
}

impl Size {
    fn below(self) -> Result<i32> {
        Ok(TOP + self.height * i32::try_from(self.rows)?)
    }

    fn pixels(self) -> Result<(u32, u32)> {
        Ok((WIDTH, u32::try_from(self.below()? + BELOW)?))
    }

    fn up(self) -> Range<f64> {
        0.0..self.rows as f64
    }

    /// The lower end of a row, counted from above.
    fn bottom(self, place: usize) -> f64 {
        (self.rows - place - 1) as f64
    }

    fn plot<'a, X: Ranged<ValueType = f64>>(
        self,
        canvas: &Canvas<'a>,
        across: impl Into<X>,
    ) -> Result<Scale<'a, X>> {
        Ok(Plot::new(canvas, across, self.up(), (COLUMNS, TOP..self.below()?)))
    }

    fn name(self, canvas: &Canvas<'_>, theme: Theme, place: usize, name: &str) -> Result<()> {
        let style = Style::new(TEXT, theme.text, HPos::Right);
        let style = if OWN.contains(&name) { style.bold() } else { style };
        let down = TOP + self.height * i32::try_from(place)? + self.height / 2;
        plot::write(canvas, (COLUMNS.start - 10, down), name, style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_show_whoever_was_measured() {
        let folder = std::env::temp_dir().join(format!("bench-compared-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = r#"{ "repetitions": 3, "cipher": { "seal": 0.5, "open": 0.5 }, "values": {
            "causeway-wg": { "bulk_down_1": [5.0, 6.0, 7.0], "bulk_up_1": [6.5] },
            "gotatun": { "bulk_down_1": [1.25] } } }"#;
        std::fs::write(folder.join("results.json"), text).unwrap();

        draw(&folder).unwrap();

        let svg = std::fs::read_to_string(folder.join("pictures/throughput-light.svg")).unwrap();
        assert!(svg.contains("6.00 down") && svg.contains("6.50 up"), "{svg}");
        assert!(!svg.contains("gotatun"), "its way up was not measured: {svg}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
