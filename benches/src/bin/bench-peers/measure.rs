//! The measurements of a contender.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use lab::until;
use serde_json::Value;

use super::contender::{Contender, Running};
use super::machine;
use super::path::{BULK, DATAGRAMS, ECHO, EDGE, Path, load_tool};
use super::tally::{Cpu, Pids};

/// Measurements that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// iperf3 both ways with 1 and 4 streams: throughput, CPU, memory.
    Bulk,
    /// iperf3 both ways with 1 stream, each side's programs pinned to one processor.
    OneCore,
    /// Request and response on idle connections.
    Request,
    /// Request and response during a bulk transfer.
    Loaded,
    /// New connections.
    Connect,
    /// UDP packets per second.
    Datagrams,
    /// CPU in a minute in which nothing happens; in the first repetition only.
    Idle,
    /// 5,000 idle connections; in the first repetition only.
    Many,
}

/// What to measure of every contender.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) groups: Vec<Group>,
    pub(crate) seconds: u32,
}

/// The results of one repetition.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By the metric's name.
    pub(crate) values: BTreeMap<String, f64>,
    /// What failed, by group.
    pub(crate) errors: Vec<(String, String)>,
}

impl Plan {
    /// What is measured of a contender in one repetition.
    fn asked(&self, contender: Contender, repetition: u32) -> impl Iterator<Item = Group> {
        self.groups.iter().copied().filter(move |group| {
            let is_once = matches!(group, Group::Idle | Group::Many);
            (repetition == 0 || !is_once) && contender.is_asked(*group)
        })
    }

    /// About how many seconds that takes.
    pub(crate) fn expected(&self, contender: Contender, repetition: u32) -> f64 {
        let transfers = f64::from(self.seconds) * 4.0;
        let groups = self.asked(contender, repetition).map(|group| match group {
            Group::Bulk => transfers + 1.0,
            Group::OneCore => f64::from(self.seconds) * 2.0 + 3.0,
            Group::Request => 3.0,
            Group::Loaded => 7.0,
            Group::Connect => 2.0,
            Group::Datagrams => 14.0,
            Group::Idle => 70.0,
            Group::Many => 15.0,
        });
        2.0 + groups.sum::<f64>()
    }
}

struct Session<'a> {
    contender: Contender,
    path: &'a Path,
    pids: Pids,
    plan: &'a Plan,
    values: BTreeMap<String, f64>,
}

/// Builds fresh paths, starts the contender on them and measures.
///
/// Says each group before it is measured.
pub(crate) fn run(
    contender: Contender,
    plan: &Plan,
    repetition: u32,
    say: impl Fn(Group),
) -> Result<Outcome> {
    let groups: Vec<Group> = plan.asked(contender, repetition).collect();
    let (pinned, usual): (Vec<Group>, Vec<Group>) =
        groups.into_iter().partition(|group| *group == Group::OneCore);
    let mut outcome = Outcome::default();
    if !usual.is_empty() {
        outcome = run_usual(contender, plan, &usual, &say)?;
    }
    for group in pinned {
        say(group);
        match one_core(contender, plan.seconds) {
            Ok(values) => outcome.values.extend(values),
            Err(error) => outcome.errors.push((format!("{group:?}"), format!("{error:#}"))),
        }
    }
    Ok(outcome)
}

/// Starts the contender, and waits for the first answer through it.
fn start(contender: Contender, path: &Path) -> Result<Running> {
    let running = contender.start(path)?;
    let target = format!("{EDGE}:{ECHO}");
    path.load(&["first", &target, "--limit", "15"], Duration::from_secs(20)).with_context(|| {
        let processes = running.edge.iter().chain(&running.origin).chain(&running.watchers);
        let logs = processes.filter_map(|process| process.log().ok());
        format!("no first answer; the contender said:\n{}", logs.collect::<Vec<_>>().join("\n"))
    })?;
    Ok(running)
}

/// Each side's programs as on a machine with one core: the edge's on one, the origin's on another
/// where there is one.
fn one_core(contender: Contender, seconds: u32) -> Result<BTreeMap<String, f64>> {
    let path = Path::lay()?;
    path.edge.pin(0);
    path.origin.pin(std::thread::available_parallelism()?.get().min(2) - 1);
    let _running = start(contender, &path)?;
    let mut values = BTreeMap::new();
    for (name, reverse) in [("one_core_down_1", true), ("one_core_up_1", false)] {
        let report = iperf(&path, reverse, 1, seconds)?;
        let rate = number(&report, "/end/sum_received/bits_per_second")? / 1e9;
        values.insert(name.to_owned(), rate);
    }
    Ok(values)
}

fn run_usual(contender: Contender, plan: &Plan, groups: &[Group], say: &impl Fn(Group)) -> Result<Outcome> {
    let path = Path::lay()?;
    let (average, busy) = machine::load();
    let begin = Instant::now();
    let running = start(contender, &path)?;
    let started = begin.elapsed().as_secs_f64();
    let pids = Pids::of(&running.edge, &running.origin);
    let mut session = Session { contender, path: &path, pids, plan, values: BTreeMap::new() };
    session.note("start_s", started);
    session.note("load_average", average);
    session.note("busy_before", busy);
    let mut errors = Vec::new();
    for group in groups.iter().copied() {
        say(group);
        if let Err(error) = session.measure(group) {
            errors.push((format!("{group:?}"), format!("{error:#}")));
        }
    }
    Ok(Outcome { values: session.values, errors })
}

impl Session<'_> {
    fn measure(&mut self, group: Group) -> Result<()> {
        match group {
            Group::Bulk => self.bulk(),
            // On a path of its own.
            Group::OneCore => Ok(()),
            Group::Request => self.request(),
            Group::Loaded => self.loaded(),
            Group::Connect => self.connect(),
            Group::Datagrams => self.datagrams(),
            Group::Idle => self.idle(),
            Group::Many => self.many(),
        }
    }

    fn note(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    fn bulk(&mut self) -> Result<()> {
        for (name, reverse, streams) in
            [("down_1", true, 1), ("down_4", true, 4), ("up_1", false, 1), ("up_4", false, 4)]
        {
            if streams > 1 && self.contender == Contender::Onetun {
                continue;
            }
            let before = self.pids.cpu()?;
            let (report, (edge, origin)) =
                self.watching_memory(|| self.iperf(reverse, streams, self.plan.seconds))?;
            let spent = self.pids.cpu()?.since(before);
            let report = report?;
            let bytes = number(&report, "/end/sum_received/bytes")?;
            self.note(&format!("bulk_{name}"), number(&report, "/end/sum_received/bits_per_second")? / 1e9);
            self.note(
                &format!("retransmits_{name}"),
                number(&report, "/end/sum_sent/retransmits").unwrap_or(0.0),
            );
            self.note_cpu(name, spent.scaled(1e9 / bytes));
            self.note(&format!("steal_{name}"), spent.steal);
            self.keep_highest("rss_edge", edge);
            self.keep_highest("rss_origin", origin);
        }
        if self.contender == Contender::Gateway {
            let (report, (edge, origin)) = self.watching_memory(|| self.iperf(true, 100, 2))?;
            report?;
            self.note("rss_edge_100", edge);
            self.note("rss_origin_100", origin);
        }
        Ok(())
    }

    fn note_cpu(&mut self, name: &str, per_gigabyte: Cpu) {
        self.note(&format!("cpu_edge_{name}"), per_gigabyte.edge);
        self.note(&format!("cpu_origin_{name}"), per_gigabyte.origin);
        self.note(&format!("cpu_system_{name}"), per_gigabyte.system);
    }

    fn keep_highest(&mut self, name: &str, value: f64) {
        let highest = self.values.entry(name.to_owned()).or_insert(value);
        *highest = highest.max(value);
    }

    fn iperf(&self, reverse: bool, streams: u32, seconds: u32) -> Result<Value> {
        iperf(self.path, reverse, streams, seconds)
    }

    /// Runs `work` and samples the contender's memory meanwhile; the highest of either side in MB.
    fn watching_memory<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<(T, (f64, f64))> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut highest = self.pids.resident();
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(250));
                    let now = self.pids.resident();
                    highest = (highest.0.max(now.0), highest.1.max(now.1));
                }
                highest
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            let highest = watcher.join().ok().context("the watcher panicked")?;
            Ok((result, highest))
        })
    }

    fn request(&mut self) -> Result<()> {
        let target = format!("{EDGE}:{ECHO}");
        let before = self.pids.cpu()?;
        let one = self.path.load(&["rr", &target, "--seconds", "2"], Duration::from_secs(20))?;
        let spent = self.pids.cpu()?.since(before);
        self.note("rr_p50", number(&one, "/p50_us")?);
        self.note("rr_p99", number(&one, "/p99_us")?);
        let answers = number(&one, "/per_second")? * 2.0;
        self.note("rr_cpu", (spent.edge + spent.origin) / answers.max(1.0) * 1e6);
        let many = ["rr", &target, "--seconds", "1", "--connections", "32"];
        let many = self.path.load(&many, Duration::from_secs(20))?;
        self.note("rr32_rate", number(&many, "/per_second")?);
        self.note("rr32_p99", number(&many, "/p99_us")?);
        Ok(())
    }

    /// The same transfer alone, and while one connection sends requests.
    fn loaded(&mut self) -> Result<()> {
        let target = format!("{EDGE}:{ECHO}");
        let alone = number(&self.iperf(true, 1, 3)?, "/end/sum_received/bits_per_second")? / 1e9;
        let path = self.path;
        let (bulk, asked) = std::thread::scope(|scope| {
            let bulk = scope.spawn(|| iperf(path, true, 1, 3));
            std::thread::sleep(Duration::from_millis(700));
            let asked = path.load(&["rr", &target, "--seconds", "2"], Duration::from_secs(30));
            (bulk.join(), asked)
        });
        let bulk = bulk.ok().context("the transfer panicked")??;
        let asked = asked?;
        self.note("loaded_p50", number(&asked, "/p50_us")?);
        self.note("loaded_p99", number(&asked, "/p99_us")?);
        self.note("loaded_bulk", number(&bulk, "/end/sum_received/bits_per_second")? / 1e9);
        self.note("loaded_alone", alone);
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let target = format!("{EDGE}:{ECHO}");
        for (name, parallel) in [("crr1", "1"), ("crr16", "16")] {
            let arguments = ["crr", &target, "--seconds", "1", "--parallel", parallel];
            let result = self.path.load(&arguments, Duration::from_secs(40))?;
            self.note(&format!("{name}_rate"), number(&result, "/per_second")?);
            self.note(&format!("{name}_p50"), number(&result, "/p50_us")?);
            self.note(&format!("{name}_p99"), number(&result, "/p99_us")?);
            self.note(&format!("{name}_errors"), number(&result, "/errors")?);
        }
        Ok(())
    }

    fn datagrams(&mut self) -> Result<()> {
        let target = format!("{EDGE}:{DATAGRAMS}");
        for (name, reverse) in [("up_200", false), ("down_200", true)] {
            let mut arguments = vec!["udp", &target, "--size", "200", "--seconds", "0.5"];
            arguments.extend(reverse.then_some("--reverse"));
            let found = self.path.load(&arguments, Duration::from_secs(60))?;
            let (best, kept) = (number(&found, "/best_pps")?, number(&found, "/overload_pps")?);
            self.note(&format!("udp_{name}"), best / 1e3);
            self.note(&format!("udp_overload_{name}"), kept / 1e3);
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        const SETTLE: Duration = Duration::from_secs(10);
        const LENGTH: f64 = 60.0;
        std::thread::sleep(SETTLE);
        let before = self.pids.fine();
        std::thread::sleep(Duration::from_secs_f64(LENGTH));
        let after = self.pids.fine();
        self.note("idle_cpu_edge", (after.0 - before.0) / LENGTH * 100.0);
        self.note("idle_cpu_origin", (after.1 - before.1) / LENGTH * 100.0);
        Ok(())
    }

    fn many(&mut self) -> Result<()> {
        let target = format!("{EDGE}:{ECHO}");
        let arguments = ["idle", &target, "--count", "5000", "--hold", "6"];
        let mut client = self.path.client.command(load_tool()?).args(arguments).spawn("idle")?;
        until(Duration::from_secs(60), "5,000 connections", || {
            Ok(client.log()?.contains("Connected").then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let before = self.pids.fine();
        std::thread::sleep(Duration::from_secs(4));
        let after = self.pids.fine();
        let (edge, origin) = self.pids.resident();
        client.wait(Duration::from_secs(45))?;
        let said = client.log()?;
        let mut lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let connected = lines.next().context("the load tool did not connect")?;
        let answered = lines.next().context("the load tool did not ask")?;
        self.note("many_connected", number(&connected, "/Connected/count")?);
        self.note("many_seconds", number(&connected, "/Connected/seconds")?);
        self.note("many_answered", number(&answered, "/Answered/first")?);
        self.note("many_answered_again", number(&answered, "/Answered/second")?);
        self.note("many_rss_edge", edge);
        self.note("many_rss_origin", origin);
        self.note("many_cpu_edge", (after.0 - before.0) / 4.0 * 100.0);
        self.note("many_cpu_origin", (after.1 - before.1) / 4.0 * 100.0);
        Ok(())
    }
}

/// One iperf3 run from the client, as its own JSON.
pub(crate) fn iperf(path: &Path, reverse: bool, streams: u32, seconds: u32) -> Result<Value> {
    let mut command = path
        .client
        .command("iperf3")
        .args(["-J", "-c", EDGE, "--connect-timeout", "3000"])
        .args(["-p", &BULK.to_string(), "-t", &seconds.to_string(), "-P", &streams.to_string()])
        .limit(Duration::from_secs(u64::from(seconds) + 8));
    if reverse {
        command = command.arg("-R");
    }
    Ok(serde_json::from_str(&command.run()?)?)
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {value}"))
}
