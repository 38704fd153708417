//! The machine that the measurements were made on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// What describes the machine and the versions measured, by title.
pub(crate) fn describe() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut add = |title: &str, fact: Option<String>| {
        if let Some(fact) = fact {
            facts.insert(title.to_owned(), fact);
        }
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).map(after_colon);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    add("cpu", model.map(|model| format!("{count} × {model}")));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).map(|text| text.trim().to_owned());
    add("memory", total);
    add("kernel", said("uname", &["-r"]));
    add("compiler", said("rustc", &["--version"]));
    add(
        "commit",
        said("git", &["-C", &lab::workspace().display().to_string(), "rev-parse", "--short", "HEAD"]),
    );
    add("iperf3", said("iperf3", &["--version"]));
    let cache = lab::workspace().join(".cache");
    add(
        "wireguard-go",
        fs::read_to_string(cache.join("newer/wireguard-go.version")).ok().map(|text| text.trim().to_owned()),
    );
    let peers = fs::read_to_string(cache.join("peers/.crates.toml")).unwrap_or_default();
    let names =
        peers.lines().filter_map(|line| line.strip_prefix('"')?.split(" (").next()).collect::<Vec<_>>();
    add("from the registry", (!names.is_empty()).then(|| names.join(", ")));
    add("congestion control", Some("cubic, everywhere".to_owned()));
    facts
}

/// The machine's load average over the last minute, and the share of its CPUs that was busy in the
/// last 300 ms.
pub(crate) fn load() -> (f64, f64) {
    let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let average = average.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let after = ticks();
    let (busy, all) = (after.0 - before.0, after.1 - before.1);
    (average, if all > 0.0 { busy / all } else { f64::NAN })
}

/// Busy and all ticks of the machine.
fn ticks() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    let all: f64 = ticks.iter().take(8).sum();
    (all - idle, all)
}

fn after_colon(text: &str) -> String {
    text.split_once(':').map_or(text, |(_, value)| value).trim().to_owned()
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
