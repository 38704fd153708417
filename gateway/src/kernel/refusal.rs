//! Which command of a refused transaction is at fault: nft's own message names none when its input
//! is JSON.

use std::time::{Duration, Instant};

use policy::ruleset::describe;
use serde_json::Value;

use super::protocol::Failure;

/// The longest that the search may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The most characters of a rule that are shown.
const MAX_RULE: usize = 300;
/// The fix.
const FIX: &str = "this nft and this kernel do not fit each other: install the newest nftables and kernel that the distribution has, \
                   or an older kernel, and report this line";

/// The versions that a refusal depends on.
#[derive(Debug)]
pub(super) struct Versions {
    /// What `nft --version` prints.
    pub(super) nft: String,
    /// The kernel's release.
    pub(super) kernel: String,
}

/// The failure with the command at fault, both versions and the fix.
///
/// `check` runs `nft -c` on a transaction, for no longer than it is given.
pub(super) fn explained(
    ruleset: &str,
    failure: Failure,
    versions: &Versions,
    check: impl Fn(&str, Duration) -> Result<(), Failure>,
) -> Failure {
    let refused_command = refused_command(ruleset, check);
    let what = refused_command.as_ref().map_or_else(
        || "the command at fault could not be found".to_owned(),
        |command| format!("refused is: {}", shortened(&describe(command))),
    );
    let Versions { nft, kernel } = versions;
    let message = format!("{failure}; {what}; {nft}, Linux {kernel}; {FIX}");
    Failure::new(failure.kind, message)
}

/// The first command that is refused; `None` when all are taken now, or time is up.
fn refused_command(ruleset: &str, check: impl Fn(&str, Duration) -> Result<(), Failure>) -> Option<Value> {
    let parsed: Value = serde_json::from_str(ruleset).ok()?;
    let commands = parsed.get("nftables")?.as_array()?;
    let texts: Vec<String> = commands.iter().map(Value::to_string).collect();
    let started = Instant::now();
    let index = first_refused(texts.len(), |count| {
        let left = LIMIT.checked_sub(started.elapsed())?;
        Some(check(&beginning(&texts, count), left).is_ok())
    });
    commands.get(index?).cloned()
}

/// The transaction of the first `count` commands.
fn beginning(commands: &[String], count: usize) -> String {
    let first: Vec<&str> = commands.iter().take(count).map(String::as_str).collect();
    format!("{{\"nftables\":[{}]}}", first.join(","))
}

/// The place of the first command of `count` whose presence has a transaction refused.
///
/// `is_taken` says whether the first so many commands are taken, or `None` to give up. A command
/// refers only to earlier ones, so whatever ends before the one at fault is taken, and whatever
/// holds it is refused.
fn first_refused(count: usize, mut is_taken: impl FnMut(usize) -> Option<bool>) -> Option<usize> {
    if is_taken(count)? {
        return None;
    }
    let (mut taken, mut refused) = (0, count);
    while taken + 1 < refused {
        let middle = taken.midpoint(refused);
        if is_taken(middle)? {
            taken = middle;
        } else {
            refused = middle;
        }
    }
    Some(taken)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_RULE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FailureKind;

    #[test]
    fn the_first_refused_command_is_found_wherever_it_is() {
        for count in 1..40 {
            for at in 0..count {
                let mut asked = 0;
                let found = first_refused(count, |first| {
                    asked += 1;
                    Some(first <= at)
                });
                assert_eq!(found, Some(at));
                assert!(asked <= 7, "{asked} runs of nft for {count} commands");
            }
        }
    }

    #[test]
    fn nothing_is_named_when_everything_is_taken_or_time_is_up() {
        assert_eq!(first_refused(9, |_| Some(true)), None);
        assert_eq!(first_refused(0, |_| Some(true)), None);
        let mut asked = 0;
        let found = first_refused(9, |_| {
            asked += 1;
            (asked < 3).then_some(false)
        });
        assert_eq!(found, None);
    }

    #[test]
    fn the_message_names_the_rule_both_versions_and_the_fix() {
        let ruleset = r#"{"nftables":[{"add":{"table":{"family":"inet","name":"causeway"}}},
            {"add":{"chain":{"family":"inet","table":"causeway","name":"input"}}},
            {"add":{"rule":{"family":"inet","table":"causeway","chain":"input",
                "expr":[{"counter":"unsupported"},{"drop":null}]}}}]}"#;
        let versions = Versions { nft: "nftables v1.0.6".to_owned(), kernel: "6.12.117".to_owned() };
        let refused = || Failure::new(FailureKind::Ruleset, "nft: Operation not supported");
        let check = |text: &str, _| if text.contains("unsupported") { Err(refused()) } else { Ok(()) };
        let failure = explained(ruleset, refused(), &versions, check);
        assert_eq!(failure.kind, FailureKind::Ruleset);
        for part in [
            "nft: Operation not supported; ",
            "add rule in chain input: counter unsupported drop; ",
            "nftables v1.0.6, Linux 6.12.117; ",
            "install the newest",
        ] {
            assert!(failure.message.contains(part), "{part:?} is not in {failure}");
        }
    }
}
