//! The table for people and the JSON for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use benches::median;
use benches::picture::{Picture, compared, growth, paths};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::goals;
use super::measure::Outcome;

/// Everything measured so far.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    schema: u32,
    begun_unix: u64,
    command: String,
    machine: BTreeMap<String, String>,
    repetitions: u32,
    seconds: u32,
    /// CPU seconds per GB of the cipher alone.
    cipher: BTreeMap<String, f64>,
    /// By contender and metric, one value per repetition.
    values: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    errors: Vec<Failure>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    contender: String,
    group: String,
    error: String,
}

/// The file with all values.
const JSON: &str = "results.json";

/// A table: its title, the picture above it, and its columns as (title, metric, decimals).
struct Table {
    title: &'static str,
    picture: Option<&'static Picture>,
    columns: &'static [(&'static str, &'static str, usize)],
}

impl Results {
    pub(crate) fn new(machine: BTreeMap<String, String>, repetitions: u32, seconds: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        Self {
            schema: 1,
            begun_unix: now.as_secs(),
            command: format!("make bench-peers BENCH='{}'", arguments.join(" ")),
            machine,
            repetitions,
            seconds,
            cipher: BTreeMap::new(),
            values: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn add_cipher(&mut self, seal: f64, open: f64) {
        self.cipher = [("seal".to_owned(), seal), ("open".to_owned(), open)].into();
    }

    pub(crate) fn add(&mut self, contender: Contender, outcome: Outcome) {
        let metrics = self.values.entry(contender.to_string()).or_default();
        for (metric, value) in outcome.values {
            metrics.entry(metric).or_default().push(value);
        }
        for (group, error) in outcome.errors {
            self.errors.push(Failure { contender: contender.to_string(), group, error });
        }
    }

    pub(crate) fn fail(&mut self, contender: Contender, group: &str, error: &anyhow::Error) {
        let error = format!("{error:#}");
        self.errors.push(Failure { contender: contender.to_string(), group: group.to_owned(), error });
    }

    /// What `results.json` of a folder has.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(JSON);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is not as it is written now", file.display()))
    }

    /// Writes `results.json`, and what is made of it.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(JSON), serde_json::to_string_pretty(self)? + "\n")?;
        self.draw(folder)
    }

    /// Writes `RESULTS.md` and all pictures whose values a folder has.
    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        compared::draw(folder)?;
        paths::draw(folder)?;
        growth::draw(folder)?;
        let others = [(&paths::MATRIX, "PATHS.md"), (&growth::CURVES, "GROWTH.md")];
        let drawn = others.into_iter().filter(|(picture, _)| picture.is_drawn(folder));
        let mut text = self.markdown();
        text.push_str("\nWhat was tried for the goals that are not reached is in [GOALS.md](GOALS.md).\n");
        for (picture, table) in drawn {
            let _ = write!(text, "\n## {}\n\n{}", picture.title, picture.markdown(""));
            let _ = writeln!(text, "\nThe figures are in [{table}]({table}).");
        }
        Ok(fs::write(folder.join("RESULTS.md"), text)?)
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Measured\n\n");
        let _ = write!(
            text,
            "`{}`: medians of {} interleaved repetitions [lowest–highest]; bulk transfers of {} s. Written by the run itself;\n\
             every value is in `results.json`. \"Down\" is service → client, \"up\" client → service. CPU is that of the tunnel's\n\
             processes, with the softirq work that their sends set off. Only ratios within one run mean something: client,\n\
             service and both ends share this machine. \"One core\": each side's programs have one processor. \"Before Linux\n\
             6.2\": no UDP super-packets at the TUN; how the TUN is read is the same on every kernel, so one before 6.4\n\
             gets the same path.\n\n",
            self.command, self.repetitions, self.seconds
        );
        for (title, fact) in &self.machine {
            let _ = writeln!(text, "- {title}: {fact}");
        }
        if let (Some(seal), Some(open)) = (self.cipher.get("seal"), self.cipher.get("open")) {
            let _ = writeln!(
                text,
                "- the cipher alone (ring, {} B packets, one core): seal {seal:.2}, open {open:.2} CPU s/GB",
                benches::cipher::PACKET
            );
        }
        let _ = writeln!(text, "- load average before each start: {}", self.loads());
        for table in TABLES {
            self.table(&mut text, table);
        }
        text.push_str(&goals::table(
            |contender, metric| self.median(contender, metric),
            |part| self.cipher.get(part).copied(),
        ));
        if !self.errors.is_empty() {
            let _ = writeln!(text, "\n## What failed\n");
            for failure in &self.errors {
                let first = failure.error.lines().next().unwrap_or_default();
                let _ = writeln!(text, "- {}, {}: {first}", failure.contender, failure.group);
            }
        }
        text
    }

    fn loads(&self) -> String {
        let all = self.values.values().filter_map(|metrics| metrics.get("load_average")).flatten().copied();
        summary(&all.collect::<Vec<_>>(), 1)
    }

    fn table(&self, text: &mut String, table: &Table) {
        let rows: Vec<_> =
            Contender::value_variants().iter().filter_map(|contender| self.row(*contender, table)).collect();
        if rows.is_empty() {
            return;
        }
        let _ = write!(text, "\n## {}\n\n", table.title);
        if let Some(picture) = table.picture {
            let _ = writeln!(text, "{}", picture.markdown(""));
        }
        let _ = write!(text, "| |");
        for (title, ..) in table.columns {
            let _ = write!(text, " {title} |");
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(table.columns.len()));
        for row in rows {
            let _ = writeln!(text, "{row}");
        }
    }

    fn row(&self, contender: Contender, table: &Table) -> Option<String> {
        let metrics = self.values.get(&contender.to_string())?;
        let mut row = format!("| {contender} |");
        let mut is_empty = true;
        for (_, metric, decimals) in table.columns {
            let cell = metrics.get(*metric).map(|values| summary(values, *decimals));
            is_empty &= cell.is_none();
            let _ = write!(row, " {} |", cell.unwrap_or_else(|| "–".to_owned()));
        }
        (!is_empty).then_some(row)
    }
    fn median(&self, contender: Contender, metric: &str) -> Option<f64> {
        median(self.values.get(&contender.to_string())?.get(metric)?.iter().copied())
    }
}

/// Median [lowest–highest], or the value when there is one.
fn summary(values: &[f64], decimals: usize) -> String {
    let Some(middle) = median(values.iter().copied()) else { return "–".to_owned() };
    if values.len() < 2 {
        return format!("{middle:.decimals$}");
    }
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{middle:.decimals$} [{lowest:.decimals$}–{highest:.decimals$}]")
}

const TABLES: &[Table] = &[
    Table {
        title: "TCP throughput, Gbit/s",
        picture: Some(&compared::THROUGHPUT),
        columns: &[
            ("down, 1 stream", "bulk_down_1", 2),
            ("down, 4", "bulk_down_4", 2),
            ("up, 1", "bulk_up_1", 2),
            ("up, 4", "bulk_up_4", 2),
            ("one core, down 1", "one_core_down_1", 2),
            ("one core, up 1", "one_core_up_1", 2),
            ("retransmits, down 1", "retransmits_down_1", 0),
        ],
    },
    Table {
        title: "CPU seconds per GB",
        picture: Some(&compared::CPU),
        columns: &[
            ("edge, down 1", "cpu_edge_down_1", 2),
            ("origin, down 1", "cpu_origin_down_1", 2),
            ("whole machine, down 1", "cpu_system_down_1", 2),
            ("edge, up 1", "cpu_edge_up_1", 2),
            ("origin, up 1", "cpu_origin_up_1", 2),
            ("whole machine, up 1", "cpu_system_up_1", 2),
        ],
    },
    Table {
        title: "Request and response, 64 B, µs",
        picture: Some(&compared::LATENCY),
        columns: &[
            ("idle p50", "rr_p50", 0),
            ("idle p99", "rr_p99", 0),
            ("CPU per answer", "rr_cpu", 0),
            ("32 connections, /s", "rr32_rate", 0),
            ("their p99", "rr32_p99", 0),
            ("under bulk p50", "loaded_p50", 0),
            ("under bulk p99", "loaded_p99", 0),
            ("that bulk, Gbit/s", "loaded_bulk", 2),
            ("alone", "loaded_alone", 2),
        ],
    },
    Table {
        title: "New connections per second",
        picture: None,
        columns: &[
            ("1 at a time", "crr1_rate", 0),
            ("p50, µs", "crr1_p50", 0),
            ("p99, µs", "crr1_p99", 0),
            ("16 at a time", "crr16_rate", 0),
            ("p99, µs", "crr16_p99", 0),
            ("errors", "crr16_errors", 0),
        ],
    },
    Table {
        title: "UDP under 0.5 % loss, and what arrives when twice that is offered, kpps",
        picture: None,
        columns: &[
            ("up 200 B", "udp_up_200", 1),
            ("overload", "udp_overload_up_200", 1),
            ("down 200 B", "udp_down_200", 1),
            ("overload", "udp_overload_down_200", 1),
        ],
    },
    Table {
        title: "Memory, idle CPU and start",
        picture: None,
        columns: &[
            ("resident in bulk, edge, MB", "rss_edge", 1),
            ("origin, MB", "rss_origin", 1),
            ("idle CPU, edge, %", "idle_cpu_edge", 3),
            ("origin, %", "idle_cpu_origin", 3),
            ("start to first answer, s", "start_s", 2),
        ],
    },
    Table {
        title: "5,000 idle connections",
        picture: None,
        columns: &[
            ("connected", "many_connected", 0),
            ("seconds", "many_seconds", 2),
            ("answered", "many_answered", 0),
            ("answered again", "many_answered_again", 0),
            ("edge, MB", "many_rss_edge", 1),
            ("origin, MB", "many_rss_origin", 1),
            ("edge CPU, %", "many_cpu_edge", 3),
            ("origin CPU, %", "many_cpu_origin", 3),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_with_its_spread() {
        assert_eq!(summary(&[3.0, 1.0, 2.0], 1), "2.0 [1.0–3.0]");
        assert_eq!(summary(&[1.0, 2.0], 2), "1.50 [1.00–2.00]");
        assert_eq!(summary(&[4.0], 0), "4");
        assert_eq!(summary(&[], 0), "–");
    }

    #[test]
    fn what_was_not_measured_is_no_row_and_no_ratio() {
        let mut results = Results::new(BTreeMap::new(), 1, 5);
        let values = [("bulk_down_1".to_owned(), 6.0)].into();
        results.add(Contender::CausewayWg, Outcome { values, errors: Vec::new() });

        let text = results.markdown();

        assert!(text.contains("| causeway-wg | 6.00 | – | – | – | – | – | – |"));
        assert!(!text.contains("5,000"));
        assert!(!text.contains("| TCP down, 1 stream | causeway-wg"));
    }
}
