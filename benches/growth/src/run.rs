//! The run: each cost of each subject, for each number.
//!
//! Instructions are counted by callgrind and memory by the allocator, so that the machine's load
//! does not show.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use benches::callgrind::{counted_turns, instructions};
use benches::picture::growth::{self, CURVES, Curve, Growth};
use benches::progress::Progress;
use clap::{Parser, Subcommand};

use super::heap;
use super::subjects::{Cost, Kind, Per, SUBJECTS, Subject};

/// Where a run of everything is recorded.
const RECORD: &str = "benches";
/// Turns that are counted, where one is short.
const TURNS: u32 = 50;

/// Counts what packets, handshakes, new flows, applies and memory cost for more and more of
/// something; writes a table, curves, and JSON.
///
/// Only a run of everything is recorded in benches/. A part is printed.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Option<Work>,
    /// Of what there is more and more; all when none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The most of it.
    #[arg(long)]
    most: Option<u32>,
    /// Where GROWTH.md, growth.json and the pictures go, even those of a part.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Only do what is counted; this is what runs under callgrind, and alone for memory.
    Count {
        /// Of what there is more and more.
        subject: String,
        /// What is counted.
        cost: String,
        /// How many there are.
        number: u32,
    },
}

/// One thing to count, and how many seconds that takes, about.
struct Step {
    subject: &'static Subject,
    cost: &'static Cost,
    number: u32,
    expected: f64,
}

pub(crate) fn run() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Work::Count { subject, cost, number }) = &arguments.work {
        return count(subject, cost, *number);
    }
    let steps = arguments.steps()?;
    let mut progress = Progress::new("bench-growth", steps.iter().map(|step| step.expected));
    let mut growth =
        Growth { compiler: compiler()?, architecture: std::env::consts::ARCH.to_owned(), curves: Vec::new() };
    let mut without = 0.0;
    for step in &steps {
        let Step { subject, cost, number, expected } = step;
        progress.begin(&format!("{} {}, {}", number, subject.name, cost.name), *expected);
        let value = step.measure()?;
        match (cost.per, *number) {
            (Per::Each, 0) => without = value,
            (Per::Each, _) => growth.add(step.curve(), *number, (value - without) / f64::from(*number)),
            (Per::Turn, _) => growth.add(step.curve(), *number, value),
        }
    }
    progress.end();
    let text = markdown(&growth);
    match arguments.record() {
        Some(folder) => {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(growth::FILE), serde_json::to_string_pretty(&growth)? + "\n")?;
            growth::draw(&folder)?;
            fs::write(folder.join("GROWTH.md"), &text)?;
        }
        None => progress.note(&format!("a part, so {RECORD} stays as it is")),
    }
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

impl Arguments {
    fn steps(&self) -> Result<Vec<Step>> {
        for name in &self.only {
            let names: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
            ensure!(names.contains(&name.as_str()), "there is no {name}; there are {}", names.join(", "));
        }
        let is_asked =
            |subject: &&Subject| self.only.is_empty() || self.only.iter().any(|name| name == subject.name);
        let mut steps = Vec::new();
        for subject in SUBJECTS.iter().filter(is_asked) {
            for cost in subject.costs {
                let numbers =
                    subject.numbers.iter().filter(|number| self.most.is_none_or(|most| **number <= most));
                // What there is without any comes first, and is no part of the cost of each.
                let none = (cost.per == Per::Each).then_some(&0);
                let numbers = none.into_iter().chain(numbers);
                steps.extend(numbers.map(|number| Step {
                    subject,
                    cost,
                    number: *number,
                    expected: expected(subject, cost, *number),
                }));
            }
        }
        Ok(steps)
    }

    /// Where the results go; nowhere unless everything was counted or a place was named.
    fn record(&self) -> Option<PathBuf> {
        let is_whole = self.only.is_empty() && self.most.is_none();
        self.output.clone().or_else(|| is_whole.then(|| RECORD.into()))
    }
}

impl Step {
    fn curve(&self) -> Curve {
        Curve::named(self.subject.name, self.cost.name, &self.cost.unit(self.subject))
    }

    /// The count for all there are.
    fn measure(&self) -> Result<f64> {
        let Self { subject, cost, number, .. } = self;
        let number_text = number.to_string();
        let arguments = ["count", subject.name, cost.name, &number_text];
        match cost.kind {
            Kind::Instructions(_) => Ok(instructions(&arguments)? as f64 / f64::from(turns(cost, *number))),
            Kind::Memory(_) => {
                let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
            }
        }
    }
}

/// Does what is counted; prints bytes, if that is memory.
fn count(subject: &str, cost: &str, number: u32) -> Result<()> {
    let subject = SUBJECTS.iter().find(|own| own.name == subject).context("no such subject")?;
    let cost = subject.costs.iter().find(|own| own.name == cost).context("no such cost")?;
    match cost.kind {
        Kind::Instructions(make) => {
            let mut hot = make(number);
            // The first turn allocates what the others use again.
            hot.turn().context("the loop is broken")?;
            counted_turns(&mut hot, turns(cost, number))
        }
        Kind::Memory(make) => {
            let before = heap::in_use();
            let kept = make(number);
            let bytes = heap::in_use().saturating_sub(before) + kept.outside();
            Ok(writeln!(std::io::stdout(), "{bytes}")?)
        }
    }
}

/// How many turns are counted: fewer, where one does something with all there are.
fn turns(cost: &Cost, number: u32) -> u32 {
    match cost.per {
        Per::Turn => TURNS,
        Per::Each => (TURNS / number.max(1)).clamp(2, 20),
    }
}

/// Seconds that a count takes, about: handshakes under callgrind take longest.
fn expected(subject: &Subject, cost: &Cost, number: u32) -> f64 {
    let (first, each) = match (subject.name, &cost.kind) {
        (_, Kind::Memory(_)) => (0.1, 0.000_01),
        ("peers", _) if cost.name != "apply" => (5.0, 0.2),
        ("services", _) => (5.0, 0.01),
        _ => (3.0, 0.0005),
    };
    first + each * f64::from(number)
}

fn compiler() -> Result<String> {
    let said = Command::new("rustc").arg("--version").output()?.stdout;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

fn markdown(growth: &Growth) -> String {
    let mut text = String::from("# How cost grows\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "`make bench-growth`: what one packet, handshake, new flow or apply costs, and the memory for\n\
         each, with more and more of something. Instructions are counted by callgrind\n\
         ({}, {}),\n\
         memory by the allocator, so that the machine's load does not show. \"For each\" is what so many\n\
         take more than none, divided by how many they are. Written by the run itself; every value is in\n\
         `growth.json`.\n\n{}\n\
         - peers: \"packet\" is a small one to a peer and one from it, \"handshake\" both ends of one, \"apply\" a\n\
         \x20 peer given to the node and taken away.\n\
         - allowed-ips: \"packet\" is a small one from one node to another that has so many prefixes of\n\
         \x20 another peer, \"apply\" a prefix given to the node and taken away.\n\
         - flows: the forwarder's. \"packet\" is a segment of 100 bytes found, taken and acknowledged, \"new\n\
         \x20 flow\" one from its SYN to its end, \"memory\" the cell with its rings' pages.\n\
         - services: \"new flow\" is the look-up of a service's entry at the origin, \"memory\" the policy's,\n\
         \x20 \"apply\" the edge's file read and compiled to nftables.\n",
        growth.compiler,
        growth.architecture,
        CURVES.markdown("")
    );
    text + &growth.tables()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::parse_from(line.split_whitespace())
    }

    #[test]
    fn only_a_run_of_everything_replaces_the_recorded_one() {
        assert_eq!(arguments("bench-growth").record(), Some(RECORD.into()));
        assert_eq!(arguments("bench-growth --most 100").record(), None);
        assert_eq!(arguments("bench-growth --only peers").record(), None);
        assert_eq!(arguments("bench-growth --only peers --output /tmp/x").record(), Some("/tmp/x".into()));
    }

    #[test]
    fn an_unknown_subject_is_refused_with_those_there_are() {
        let error = arguments("bench-growth --only pears").steps().err().unwrap().to_string();
        assert_eq!(error, "there is no pears; there are peers, allowed-ips, flows, services");
    }
}
