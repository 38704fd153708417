//! The user and the group that the daemon runs as.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use daemon::files::Owner;

use super::plan::Step;

/// User and group; the system's own begin with `_` as well.
pub(super) const NAME: &str = "_causeway";
/// Numbers for accounts of services, as `sysadminctl -roleAccount` has them. Apple numbers its own
/// from below, so that the highest are taken first.
const NUMBERS: RangeInclusive<u32> = 200..=400;

/// The accounts of this machine, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    /// The users with their numbers.
    pub(super) users: BTreeMap<String, u32>,
    /// The groups with theirs.
    pub(super) groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// From what `dscl . -list /Users UniqueID` and `dscl . -list /Groups PrimaryGroupID` print.
    pub(super) fn parse(users: &str, groups: &str) -> Self {
        Self { users: numbered(users), groups: numbered(groups) }
    }

    /// The daemon's user, when it is complete.
    pub(super) fn owner(&self) -> Option<Owner> {
        Some(Owner { uid: *self.users.get(NAME)?, gid: *self.groups.get(NAME)? })
    }

    /// The daemon's user, and what makes it where it is not complete. `None` without a free number.
    pub(super) fn complete(&self) -> Option<(Owner, Vec<Step>)> {
        let is_free =
            |number: &u32| !self.users.values().chain(self.groups.values()).any(|taken| taken == number);
        let free = || NUMBERS.rev().find(is_free);
        // One number for both, where that is possible.
        let (user, group) = (self.users.get(NAME).copied(), self.groups.get(NAME).copied());
        let unless_taken = |number: u32, by: &BTreeMap<String, u32>| {
            Some(number).filter(|_| by.values().all(|taken| *taken != number))
        };
        let gid = group.or_else(|| unless_taken(user?, &self.groups)).or_else(free)?;
        let uid = user.or_else(|| unless_taken(gid, &self.users)).or_else(free)?;
        let mut steps = Vec::new();
        // What makes an account complete comes last: an attempt that was cut off is repeated.
        if !self.groups.contains_key(NAME) {
            let record = format!("/Groups/{NAME}");
            steps.extend(attributes(
                &record,
                &[("RealName", "Causeway"), ("PrimaryGroupID", &gid.to_string())],
            ));
        }
        if !self.users.contains_key(NAME) {
            let record = format!("/Users/{NAME}");
            let all = [
                ("RealName", "Causeway"),
                ("Password", "*"),
                ("UserShell", "/usr/bin/false"),
                ("NFSHomeDirectory", "/var/empty"),
                ("IsHidden", "1"),
                ("PrimaryGroupID", &gid.to_string()),
                ("UniqueID", &uid.to_string()),
            ];
            steps.extend(attributes(&record, &all));
        }
        Some((Owner { uid, gid }, steps))
    }
}

/// One command for each attribute, which also makes the record.
fn attributes(record: &str, all: &[(&str, &str)]) -> Vec<Step> {
    let set = |(key, value): &(&str, &str)| Step::run(&["/usr/bin/dscl", ".", "-create", record, key, value]);
    all.iter().map(set).collect()
}

fn numbered(list: &str) -> BTreeMap<String, u32> {
    let account = |line: &str| {
        let mut words = line.split_whitespace();
        // The numbers of a few accounts of the system are negative.
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    list.lines().filter_map(account).collect()
}
