//! Runs `nft`: by absolute path, with an empty environment, JSON on its standard input, its complaints kept.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Failure, FailureKind, Listing};
use super::refusal::{Versions, explained};

/// The one table that is ours.
pub const TABLE: &str = "causeway";
/// Its family.
pub const FAMILY: &str = "inet";

const PROGRAMS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// The release of the running kernel.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// The longest that `nft` may take; without one, as long as it takes.
pub(super) type Limit = Option<Duration>;
/// An apply of a thousand services takes a fraction of a second; a hung `nft` must not hang the helper.
pub(super) const OF_HELPER: Limit = Some(Duration::from_secs(20));
/// Has `nft` say whether the kernel would take a transaction.
const CHECK: [&str; 4] = ["-j", "-c", "-f", "-"];
/// Most bytes kept of what `nft` prints.
const MAX_OUTPUT: u64 = 32 << 20;

/// Whether the kernel would take the ruleset, which the scope has written anew: a caller's own bytes never come here.
pub(super) fn check(ruleset: &str, limit: Limit) -> Result<(), Failure> {
    run(&CHECK, ruleset, limit).map(drop).map_err(|failure| explain(ruleset, failure))
}

/// Runs the ruleset as one transaction, which the kernel takes wholly or not at all.
pub(super) fn apply(ruleset: &str, limit: Limit) -> Result<(), Failure> {
    run(&["-j", "-f", "-"], ruleset, limit).map(drop).map_err(|failure| explain(ruleset, failure))
}

/// Adds to a refusal what is refused, and by which versions.
fn explain(ruleset: &str, failure: Failure) -> Failure {
    if failure.kind != FailureKind::Ruleset {
        return failure;
    }
    let version = run(&["--version"], "", OF_HELPER).unwrap_or_default();
    let nft = version.split('(').next().unwrap_or_default().trim();
    let kernel = fs::read_to_string(RELEASE).unwrap_or_default();
    let unknown =
        |text: &str| if text.is_empty() { "an unknown version".to_owned() } else { text.to_owned() };
    let versions = Versions { nft: unknown(nft), kernel: unknown(kernel.trim()) };
    explained(ruleset, failure, &versions, |part, left| run(&CHECK, part, Some(left)).map(drop))
}

/// What `nft -j list` prints; empty when the table or set does not exist.
pub(super) fn list(what: Listing, limit: Limit) -> Result<String, Failure> {
    let arguments: &[&str] = match what {
        Listing::Table => &["-j", "list", "table", FAMILY, TABLE],
        Listing::Outline => &["-j", "-t", "list", "table", FAMILY, TABLE],
        Listing::Counters => &["-j", "list", "counters", "table", FAMILY, TABLE],
        Listing::Bans4 => &["-j", "list", "set", FAMILY, TABLE, "bans4"],
        Listing::Everybody => &["-j", "-s", "list", "ruleset"],
        Listing::Bans6 => &["-j", "list", "set", FAMILY, TABLE, "bans6"],
    };
    match run(arguments, "", limit) {
        Err(failure) if failure.message.contains("No such file or directory") => Ok(String::new()),
        other => other,
    }
}

fn run(arguments: &[&str], input: &str, limit: Limit) -> Result<String, Failure> {
    let mut child = spawn(arguments)?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let (printed, complaints) = thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let printed = scope.spawn(move || read_all(stdout));
        let complaints = scope.spawn(move || read_all(stderr));
        let status = wait(&mut child, limit);
        drop(writer.join());
        (status.map(|ok| (ok, printed.join().unwrap_or_default())), complaints.join().unwrap_or_default())
    });
    match printed? {
        (true, printed) => Ok(printed),
        (false, printed) => Err(Failure::new(FailureKind::Ruleset, first_lines(&complaints, &printed))),
    }
}

fn spawn(arguments: &[&str]) -> Result<Child, Failure> {
    let program = PROGRAMS.iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
        Failure::new(FailureKind::Permission, "nft is not installed; run: apt install nftables".to_owned())
    })?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(FailureKind::Permission, format!("{program} does not run: {error}")))
}

/// Waits for the end, for `limit` at most; whether it was a good one.
fn wait(child: &mut Child, limit: Limit) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(500);
    let failed =
        |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("waiting for nft: {error}"));
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status.success());
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Err(Failure::new(
                FailureKind::Kernel,
                "nft did not end and was stopped; nothing was changed",
            ));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // An unreadable pipe leaves what came so far, which is all that can be told.
        drop(pipe.take(MAX_OUTPUT).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn first_lines(complaints: &str, printed: &str) -> String {
    let text = if complaints.trim().is_empty() { printed } else { complaints };
    let kept: Vec<_> = text.lines().filter(|line| line.len() < 400).take(4).collect();
    format!("nft: {}", kept.join(" | "))
}
