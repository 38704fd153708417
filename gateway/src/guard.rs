//! `gateway guard`: loads the boot-time drop table, or the best smaller one that the kernel takes,
//! down to a single rule.

use std::path::Path;
use std::thread;
use std::time::Duration;

use policy::gateway::Policy;
use policy::ruleset::Ruleset;

use crate::commands::{apply, ask, list};
use crate::config;
use crate::edge::guards;
use crate::kernel::{Listing, Reply, Request};
use crate::privilege;
use crate::state::{Guards, State};
use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};

/// Where the state is when the configuration cannot be read.
const DEFAULT_STATE: &str = "/var/lib/causeway";
/// Between two rounds in which nothing could be loaded. They end, so that a machine with a broken
/// `nft` still boots; the unit then goes on trying.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Switches that say whether anything passes through the machine.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// A table that may be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    ruleset: String,
    table: Table,
}

/// What a table closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Whole,
    Minimal,
    KeptWhole,
    KeptMinimal,
    NoForwarding,
}

impl Table {
    const fn in_place(self) -> &'static str {
        match self {
            Self::Whole => "the drop table is in place",
            Self::Minimal => {
                "a minimal drop table is in place instead: nothing passes to or from the tunnel, and the edge itself answers \
                 only the LAN and [wan] accept"
            }
            Self::KeptWhole => "the drop table of the last good configuration is in place instead",
            Self::KeptMinimal => {
                "a minimal drop table of the last good configuration is in place instead: nothing passes to or from the \
                 tunnel, and the edge itself answers only the LAN and [wan] accept"
            }
            Self::NoForwarding => {
                "a single rule is in place instead: nothing passes through this machine; programs that listen on the \
                 machine itself are as open as its other firewall rules leave them"
            }
        }
    }
}

/// What became of a round.
enum Round {
    /// There was a table before.
    Present,
    /// The table, and why not a better one.
    Loaded(Table, Vec<String>),
    /// Why nothing could be loaded.
    Failed(Vec<String>),
}

/// Loads the boot-time drop table, unless a table is in place already; there is no time limit for
/// `nft`.
///
/// # Errors
/// [`Exit::Degraded`] when another table was loaded instead, [`Exit::Failed`] with what is open
/// when none could be loaded.
pub fn guard(path: &Path) -> Result<(), ExitError> {
    privilege::require().map_err(|error| ExitError::new(Exit::Permission, error))?;
    let mut pauses = PAUSES.iter();
    loop {
        match round(path) {
            Round::Present => return print("a table is in place already; nothing was changed\n"),
            Round::Loaded(table, _) if table == Table::Whole => {
                return print(&format!("{}\n", table.in_place()));
            }
            Round::Loaded(table, mut reasons) => {
                reasons.push(table.in_place().to_owned());
                return Err(ExitError::new(Exit::Degraded, reasons.join("\n")));
            }
            Round::Failed(mut reasons) => {
                let Some(pause) = pauses.next() else {
                    reasons.push(open_now(forwarding()));
                    return Err(ExitError::new(Exit::Failed, reasons.join("\n")));
                };
                print_to_stderr(&format!("{}\ntrying again in {} s", reasons.join("\n"), pause.as_secs()));
                thread::sleep(*pause);
            }
        }
    }
}

fn round(path: &Path) -> Round {
    let mut reasons = Vec::new();
    match list(Listing::Table) {
        Ok(listing) if !listing.is_empty() => return Round::Present,
        Ok(_) => {}
        Err(stop) => reasons.push(stop.message),
    }
    let policy = config::load_policy(path).map_err(|error| reasons.push(error.to_string())).ok();
    let kept = || State::at(Path::new(DEFAULT_STATE)).guards();
    for Candidate { ruleset, table } in candidates(policy.as_ref(), kept) {
        match apply(ruleset) {
            Ok(()) => return Round::Loaded(table, reasons),
            Err(stop) => reasons.push(stop.message),
        }
    }
    // A broken nft fails in the same way for every table.
    reasons.dedup();
    Round::Failed(reasons)
}

/// The tables to try, the best first: those of the configuration, or else those of the last good
/// one.
fn candidates(policy: Option<&Policy>, kept: impl FnOnce() -> Guards) -> Vec<Candidate> {
    let (guards, [whole, minimal]) = match policy {
        Some(policy) => (guards(policy), [Table::Whole, Table::Minimal]),
        None => (kept(), [Table::KeptWhole, Table::KeptMinimal]),
    };
    let candidate = |ruleset: Option<String>, table| ruleset.map(|ruleset| Candidate { ruleset, table });
    let last = Some(Ruleset::no_forwarding().replace().to_string());
    let all = [
        candidate(guards.whole, whole),
        candidate(guards.minimal, minimal),
        candidate(last, Table::NoForwarding),
    ];
    all.into_iter().flatten().collect()
}

/// Whether the kernel forwards; `None` where that cannot be read.
fn forwarding() -> Option<bool> {
    let request = Request::ReadSysctls { paths: FORWARDING.map(str::to_owned).to_vec() };
    let Ok(Reply::Sysctls { values }) = ask(request) else { return None };
    Some(values.iter().flatten().any(|value| value != "0"))
}

/// What is open without any table, and the fix.
fn open_now(is_forwarding: Option<bool>) -> String {
    let forwarding = match is_forwarding {
        Some(false) => "forwarding is off, so nothing passes through it",
        Some(true) => {
            "forwarding is ON, so it passes packets of the tunnel's networks by any way; close it: \
             sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"
        }
        None => "whether it forwards could not be read",
    };
    format!(
        "no drop table could be loaded. Open now: every program that listens on this machine, to every network that \
         its other firewall rules let in; {forwarding}. Fix what is named above, then: systemctl restart causeway-guard"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy::Source;
    use policy::gateway::parse;
    use policy::ruleset::admit;

    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/gateway.toml");

    #[test]
    fn each_table_is_followed_by_one_that_needs_less_down_to_a_single_rule() {
        let policy = parse(&Source { name: Path::new("gateway.toml"), text: EXAMPLE }).unwrap();
        let own = guards(&policy);
        let tables = |policy, kept: Guards| -> Vec<_> {
            candidates(policy, || kept).into_iter().map(|candidate| candidate.table).collect()
        };
        assert_eq!(
            tables(Some(&policy), Guards::default()),
            [Table::Whole, Table::Minimal, Table::NoForwarding]
        );
        assert_eq!(tables(None, own), [Table::KeptWhole, Table::KeptMinimal, Table::NoForwarding]);
        assert_eq!(tables(None, Guards::default()), [Table::NoForwarding]);
    }

    #[test]
    fn what_is_open_says_whether_packets_pass() {
        assert!(open_now(Some(false)).contains("forwarding is off"));
        assert!(open_now(Some(true)).contains("sysctl -w net.ipv4.ip_forward=0"));
    }

    #[test]
    fn every_table_touches_our_own_table_alone() {
        let policy = parse(&Source { name: Path::new("gateway.toml"), text: EXAMPLE }).unwrap();
        for candidate in candidates(Some(&policy), Guards::default) {
            assert!(
                admit(&candidate.ruleset, &BTreeSet::new(), &BTreeSet::new()).is_ok(),
                "{:?}",
                candidate.table
            );
        }
    }
}
