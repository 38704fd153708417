//! Runs `nft`: by absolute path, with an empty environment, JSON on its standard input, its error
//! output kept.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
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
/// An apply of a thousand services takes a fraction of a second; a hung `nft` must not hang the
/// helper.
pub(super) const HELPERS: Limit = Some(Duration::from_secs(20));
/// The limit for calls that change nothing and print little.
const SHORT: Limit = Some(Duration::from_secs(2));
/// Arguments for checking whether the kernel would take a transaction.
const CHECK: [&str; 4] = ["-j", "-c", "-f", "-"];
/// The fix for an `nft` that does not work.
const REINSTALL: &str = "install it again: apt install --reinstall nftables";
/// The error for a listing without its end.
const INCOMPLETE: &str = "nft did not print the whole listing; old ones cannot list a table that has an owner (nft list \
                          tables, flags owner): install a newer nftables";
/// Most bytes kept of what `nft` prints.
const MAX_OUTPUT: u64 = 32 << 20;

/// Whether the kernel would take the ruleset, which the scope has written again: a caller's own
/// bytes never come here.
pub(super) fn check(ruleset: &str, limit: Limit) -> Result<(), Failure> {
    run(&CHECK, ruleset, limit).map(drop).map_err(|failure| explain(ruleset, failure))
}

/// Runs the ruleset as one transaction, which the kernel takes completely or not at all.
pub(super) fn apply(ruleset: &str, limit: Limit) -> Result<(), Failure> {
    run(&["-j", "-f", "-"], ruleset, limit).map(drop).map_err(|failure| explain(ruleset, failure))
}

/// Adds to a refusal what is refused, and by which versions; or who owns the table.
fn explain(ruleset: &str, failure: Failure) -> Failure {
    if failure.kind != FailureKind::Ruleset {
        return failure;
    }
    let Ok(version) = run(&["--version"], "", SHORT) else {
        return Failure::new(failure.kind, format!("{failure}; nft itself does not work: {REINSTALL}"));
    };
    if failure.message.contains("Operation not permitted")
        && let Some(conflict) = owned()
    {
        return conflict;
    }
    let nft = version.split('(').next().unwrap_or_default().trim();
    let kernel = fs::read_to_string(RELEASE).unwrap_or_default();
    let unknown =
        |text: &str| if text.is_empty() { "an unknown version".to_owned() } else { text.to_owned() };
    let versions = Versions { nft: unknown(nft), kernel: unknown(kernel.trim()) };
    explained(ruleset, failure, &versions, |part, left| run(&CHECK, part, Some(left)).map(drop))
}

/// The version of `nft`, such as `1.0.6`; `None` where it is not installed or does not work.
#[must_use]
pub fn version() -> Option<String> {
    let printed = run(&["--version"], "", SHORT).ok()?;
    let number = printed.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.to_owned())
}

/// The conflict with a process that owns our table, if there is one.
fn owned() -> Option<Failure> {
    // Not as JSON: nft 1.0.6 names the flag wrongly there.
    let listing = run(&["-t", "list", "table", FAMILY, TABLE], "", SHORT).ok()?;
    let owner = owner(&listing)?;
    let message = format!(
        "the table {FAMILY} {TABLE} is owned by another process ({owner}), which alone may change it; end that \
         process, and if the table is still there: nft delete table {FAMILY} {TABLE}"
    );
    Some(Failure::new(FailureKind::Conflict, message))
}

/// The name of the program that owns a table, from the beginning of its listing; `None` when it has
/// no owner.
fn owner(listing: &str) -> Option<&str> {
    let mut lines = listing.lines();
    let first = lines.next()?;
    let is_owned = lines
        .take_while(|line| !line.trim().is_empty())
        .filter_map(|line| line.trim().strip_prefix("flags "))
        .any(|flags| flags.split(',').any(|flag| flag.trim() == "owner"));
    is_owned.then(|| first.split_once("# progname ").map_or("its name is unknown", |(_, name)| name.trim()))
}

/// What `nft -j list` prints; empty when the table or set does not exist.
pub(super) fn list(what: Listing, limit: Limit) -> Result<String, Failure> {
    let arguments: &[&str] = match what {
        Listing::Table => &["-j", "list", "table", FAMILY, TABLE],
        Listing::Outline => &["-j", "-t", "list", "table", FAMILY, TABLE],
        Listing::Counters => &["-j", "list", "counters", "table", FAMILY, TABLE],
        Listing::Bans4 => &["-j", "list", "set", FAMILY, TABLE, "bans4"],
        Listing::Ruleset => &["-j", "-s", "list", "ruleset"],
        Listing::Bans6 => &["-j", "list", "set", FAMILY, TABLE, "bans6"],
    };
    match run(arguments, "", limit) {
        Ok(json) if json.trim_end().ends_with("]}") => Ok(json),
        // As nft 1.0.6 ends when it comes to the flag of an owner.
        Ok(_) => Err(owned().unwrap_or_else(|| Failure::new(FailureKind::Kernel, INCOMPLETE))),
        Err(failure) if failure.message.contains("No such file or directory") => Ok(String::new()),
        // No ruleset was refused.
        Err(failure) if failure.kind == FailureKind::Ruleset => {
            Err(Failure::new(FailureKind::Kernel, failure.message))
        }
        Err(failure) => Err(failure),
    }
}

fn run(arguments: &[&str], input: &str, limit: Limit) -> Result<String, Failure> {
    let mut child = spawn(arguments)?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let (printed, errors) = thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let printed = scope.spawn(move || read_all(stdout));
        let errors = scope.spawn(move || read_all(stderr));
        let status = wait(&mut child, limit);
        drop(writer.join());
        (status.map(|status| (status, printed.join().unwrap_or_default())), errors.join().unwrap_or_default())
    });
    let (status, printed) = printed?;
    if status.success() {
        return Ok(printed);
    }
    let said = first_lines(&errors, &printed);
    let message = if said.is_empty() {
        format!("nft failed without output ({status}); {REINSTALL}")
    } else {
        format!("nft: {said}")
    };
    Err(Failure::new(FailureKind::Ruleset, message))
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

/// Waits for the end, for `limit` at most.
fn wait(child: &mut Child, limit: Limit) -> Result<ExitStatus, Failure> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(500);
    let failed =
        |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("waiting for nft: {error}"));
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if let Some(limit) = limit.filter(|limit| started.elapsed() > *limit) {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            let message = format!(
                "nft did not end within {} s and was stopped; run `nft list tables` by hand: if that does not end \
                 either, restart the machine, else {REINSTALL}",
                limit.as_secs()
            );
            return Err(Failure::new(FailureKind::Kernel, message));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // An unreadable pipe leaves what came so far, which is all that can be reported.
        drop(pipe.take(MAX_OUTPUT).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn first_lines(errors: &str, printed: &str) -> String {
    let text = if errors.trim().is_empty() { printed } else { errors };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && line.len() < 400);
    lines.take(4).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_table_is_found_in_its_listing() {
        let table =
            |head: &str| format!("table inet causeway {{{head}\n\n\tchain a {{\n\t\tflags owner\n\t}}\n}}\n");
        assert_eq!(owner(&table(" # progname firewalld\n\tflags owner,persist")), Some("firewalld"));
        assert_eq!(owner(&table("\n\tflags owner")), Some("its name is unknown"));
        assert_eq!(owner(&table("\n\tflags dormant")), None);
        assert_eq!(owner(&table("")), None);
        assert_eq!(owner(""), None);
    }

    #[test]
    fn nft_that_does_not_end_is_stopped_and_the_message_says_what_to_do() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let failure = wait(&mut child, Some(Duration::from_millis(50))).unwrap_err();
        assert!(
            failure.message.contains("did not end within 0 s") && failure.message.contains("by hand"),
            "{failure}"
        );
    }
}
