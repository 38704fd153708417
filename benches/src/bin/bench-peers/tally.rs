//! What processes and the machine have used, from /proc.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use lab::Process;

/// CPU seconds used up to now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// By the contender's programs at the edge, including the kernel's work for their sends.
    pub(crate) edge: f64,
    /// By those at the origin.
    pub(crate) origin: f64,
    /// By everything on the machine.
    pub(crate) system: f64,
    /// Taken away by the hypervisor.
    pub(crate) steal: f64,
}

/// The process numbers of a contender: its programs and their descendants.
#[derive(Debug, Clone)]
pub(crate) struct Pids {
    edge: Vec<u32>,
    origin: Vec<u32>,
}

impl Pids {
    pub(crate) fn of(edge: &[Process], origin: &[Process]) -> Self {
        Self { edge: family(edge), origin: family(origin) }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = u32> {
        self.edge.iter().chain(&self.origin).copied()
    }

    pub(crate) fn edge(&self) -> &[u32] {
        &self.edge
    }

    pub(crate) fn origin(&self) -> &[u32] {
        &self.origin
    }

    /// What has been used since the start of everything, to 10 ms.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let at = |place: usize| ticks.get(place).copied().unwrap_or_default();
        let busy = at(0) + at(1) + at(2) + at(5) + at(6);
        let sum = |pids: &[u32]| pids.iter().filter_map(|pid| process_ticks(*pid)).sum::<f64>();
        let (edge, origin) = (sum(&self.edge), sum(&self.origin));
        Ok(Cpu { edge, origin, system: busy, steal: at(7) }.scaled(0.01))
    }

    /// CPU seconds of both sides to the nanosecond, for loads too small for ticks. Threads that
    /// ended are missing.
    pub(crate) fn fine(&self) -> (f64, f64) {
        let sum = |pids: &[u32]| pids.iter().map(|pid| scheduled(*pid)).sum::<f64>() / 1e9;
        (sum(&self.edge), sum(&self.origin))
    }

    /// Resident megabytes at the edge and at the origin; memory that processes of one program share
    /// counts once.
    pub(crate) fn resident(&self) -> (f64, f64) {
        (resident(&self.edge) / 1024.0, resident(&self.origin) / 1024.0)
    }
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            edge: self.edge - earlier.edge,
            origin: self.origin - earlier.origin,
            system: self.system - earlier.system,
            steal: self.steal - earlier.steal,
        }
    }

    pub(crate) fn scaled(self, by: f64) -> Self {
        Self {
            edge: self.edge * by,
            origin: self.origin * by,
            system: self.system * by,
            steal: self.steal * by,
        }
    }
}

fn family(processes: &[Process]) -> Vec<u32> {
    let mut family: Vec<u32> = processes.iter().map(Process::pid).collect();
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_field(pid, 1)?.parse().ok()?)))
        .collect();
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

fn process_ticks(pid: u32) -> Option<f64> {
    let user: f64 = stat_field(pid, 11)?.parse().ok()?;
    let kernel: f64 = stat_field(pid, 12)?.parse().ok()?;
    Some(user + kernel)
}

/// A field of /proc/PID/stat, counted from the one after the name.
fn stat_field(pid: u32, place: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split_whitespace().nth(place).map(str::to_owned)
}

/// Nanoseconds all threads of a process have run.
fn scheduled(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(nanos).sum()
}

/// Resident kilobytes: the sum of each process's own memory and, for each program, its largest
/// mapped files.
fn resident(pids: &[u32]) -> f64 {
    let (mut own, mut files): (f64, BTreeMap<_, f64>) = (0.0, BTreeMap::new());
    for pid in pids {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let kilobytes = |title: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(title));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
        };
        own += kilobytes("RssAnon:") + kilobytes("RssShmem:");
        let most = files.entry(fs::read_link(format!("/proc/{pid}/exe")).ok()).or_default();
        *most = kilobytes("RssFile:").max(*most);
    }
    own + files.values().sum::<f64>()
}
