//! Where the cycles go: perf's samples of each side under a load, by function and by kind.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path as FilePath;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::contender::Contender;
use super::measure;
use super::path::{ECHO, EDGE, Path};
use super::tally::Pids;

/// Functions shown of each side.
const SHOWN: usize = 40;

/// Kinds of work by the names of functions; the first match counts.
const KINDS: [(&str, &[&str]); 9] = [
    ("cipher", &["chacha", "poly1305", "Poly1305", "aead"]),
    ("checksums", &["checksum", "csum", "Sum::"]),
    (
        "copies in the kernel",
        &["copy_from_iter", "copy_to_iter", "copy_user", "_copy_", "rep_movs", "copy_page"],
    ),
    ("copies of ours", &["memcpy", "memmove", "memset", "__GI_mem"]),
    ("our split and coalesce", &["offload::", "Segments", "Coalescer", "coalesce"]),
    ("our node and boringtun", &["tunnel::", "boringtun", "parking_lot"]),
    ("netfilter and routing", &["nf_", "nft_", "fib_", "ip_route", "conntrack", "ip_forward"]),
    (
        "memory of the kernel",
        &["alloc", "kfree", "kmem", "page_frag", "skb_release", "clear_page", "free_unref"],
    ),
    ("scheduling and waiting", &["schedule", "futex", "try_to_wake", "poll", "enqueue", "dequeue", "idle"]),
];

/// The traffic in the tunnel while perf samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    /// One stream from the service to the client.
    Down,
    /// One stream from the client to the service.
    Up,
    /// One question at a time.
    Request,
    /// New connections, 16 at a time.
    Connect,
}

/// Puts `load` through `contender` and prints what perf saw.
pub(crate) fn run(contender: Contender, load: Load, seconds: u32) -> Result<()> {
    let path = Path::lay()?;
    let running = contender.start(&path)?;
    path.load(&["first", &format!("{EDGE}:{ECHO}"), "--limit", "15"], Duration::from_secs(20))?;
    let pids = Pids::of(&running.edge, &running.origin);
    ensure!(pids.all().next().is_some(), "nothing of {contender} runs in user space");
    let folder = lab::workspace().join("target").join("profile");
    std::fs::create_dir_all(&folder)?;
    let data = folder.join("perf.data");
    let done = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| put_through(&path, load, seconds + 1));
        std::thread::sleep(Duration::from_millis(500));
        let recorded = record(&data, &pids, seconds);
        traffic.join().ok().context("the load panicked")?.and_then(|done| recorded.map(|()| done))
    })?;
    let mut text = format!("{contender}, {load:?}, {done}\n");
    for (side, pids) in [("edge", pids.edge()), ("origin", pids.origin())] {
        let _ = write!(text, "\n== {side}\n{}", side_report(&data, pids)?);
    }
    let _ = writeln!(text, "\nMore: perf report -i {}", data.display());
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Runs the load for this long, and prints its rate.
fn put_through(path: &Path, load: Load, seconds: u32) -> Result<String> {
    let target = format!("{EDGE}:{ECHO}");
    let asked = |kind: &str, parallel: &str, count: &str| {
        let seconds_text = seconds.to_string();
        let arguments = [kind, &target, "--seconds", &seconds_text, parallel, count];
        let said = path.load(&arguments, Duration::from_secs(u64::from(seconds) + 20))?;
        Ok(format!(
            "{:.0} per second",
            said.pointer("/per_second").and_then(Value::as_f64).unwrap_or_default()
        ))
    };
    match load {
        Load::Request => asked("rr", "--connections", "1"),
        Load::Connect => asked("crr", "--parallel", "16"),
        Load::Down | Load::Up => {
            let report = measure::iperf(path, load == Load::Down, 1, seconds)?;
            let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
            Ok(format!("{:.2} Gbit/s", rate.unwrap_or_default() / 1e9))
        }
    }
}

fn record(data: &FilePath, pids: &Pids, seconds: u32) -> Result<()> {
    let list = pids.all().map(|pid| pid.to_string()).collect::<Vec<_>>().join(",");
    // The software clock: virtual machines often have no cycle counter to sample by.
    let output = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "2999", "-g", "-p", &list, "-o"])
        .arg(data)
        .args(["--", "sleep", &seconds.to_string()])
        .output()
        .context("perf: run benches/packages")?;
    ensure!(output.status.success(), "perf record: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn side_report(data: &FilePath, pids: &[u32]) -> Result<String> {
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let by_function = perf_report(data, &list, &["--no-children", "--sort", "symbol"])?;
    let by_thread = perf_report(data, &list, &["--no-children", "--sort", "comm"])?;
    let under_calls = perf_report(data, &list, &["--children", "--sort", "symbol"])?;
    let rows: Vec<_> = by_function.lines().filter_map(row).collect();
    let mut text = String::from("by kind of work (the function that ran):\n");
    for (kind, share) in kinds(&rows) {
        let _ = writeln!(text, "  {share:6.2} %  {kind}");
    }
    let _ = writeln!(text, "by thread:");
    for (share, name) in by_thread.lines().filter_map(row).take(6) {
        let _ = writeln!(text, "  {share:6.2} %  {name}");
    }
    let _ = writeln!(text, "under these calls (with all they call):");
    let calls = ["x64_sys_", "arm64_sys_", "tunnel::", "boringtun::"];
    let is_call = |(_, name): &(f64, &str)| calls.iter().any(|call| name.contains(call));
    for (share, name) in children(&under_calls).filter(is_call).take(24) {
        let _ = writeln!(text, "  {share:6.2} %  {name}");
    }
    let _ = writeln!(text, "by function:");
    for (share, name) in rows.iter().take(SHOWN) {
        let _ = writeln!(text, "  {share:6.2} %  {name}");
    }
    Ok(text)
}

fn perf_report(data: &FilePath, pids: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new("perf")
        .args(["report", "-q", "--stdio", "-g", "none", "--percentage", "relative", "--pid", pids, "-i"])
        .arg(data)
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Share and name of a line of perf's report; some versions put empty columns behind the name.
fn row(line: &str) -> Option<(f64, &str)> {
    let (share, name) = line.trim().split_once('%')?;
    let name = name.trim().trim_end_matches(['-', ' ']);
    Some((share.trim().parse().ok()?, name))
}

/// The same of a report that has both a function's share with what it calls, and its own.
fn children(report: &str) -> impl Iterator<Item = (f64, &str)> {
    report.lines().filter_map(|line| {
        let (share, rest) = row(line)?;
        Some((share, rest.split_once('%').map_or(rest, |(_, name)| name.trim())))
    })
}

/// How much each kind of work took, most first.
fn kinds(rows: &[(f64, &str)]) -> Vec<(&'static str, f64)> {
    let mut sums: Vec<(&str, f64)> = KINDS.iter().map(|(kind, _)| (*kind, 0.0)).collect();
    sums.push(("everything else", 0.0));
    for (share, name) in rows {
        let is_it = |(_, words): &(&str, &[&str])| words.iter().any(|word| name.contains(word));
        let at = KINDS.iter().position(is_it).unwrap_or(KINDS.len());
        if let Some((_, sum)) = sums.get_mut(at) {
            *sum += share;
        }
    }
    sums.sort_by(|one, other| other.1.total_cmp(&one.1));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_perf_is_a_share_and_a_name() {
        assert_eq!(row("    12.34%  [k] nf_hook_slow"), Some((12.34, "[k] nf_hook_slow")));
        assert_eq!(row("     0.11%  [.] tunnel::find      -      -"), Some((0.11, "[.] tunnel::find")));
        assert_eq!(row("# Overhead  Symbol"), None);
        let both = "  50.00%     1.00%  [.] tunnel::device::run";
        assert_eq!(children(both).next(), Some((50.0, "[.] tunnel::device::run")));
    }

    #[test]
    fn work_is_counted_by_kind() {
        let rows =
            [(40.0, "[.] chacha20_poly1305_open_avx2"), (10.0, "[k] nf_hook_slow"), (1.0, "[k] strange")];
        assert_eq!(
            kinds(&rows)[..3],
            [("cipher", 40.0), ("netfilter and routing", 10.0), ("everything else", 1.0)]
        );
    }
}
