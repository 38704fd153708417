//! A record as the authority of its zone holds it, and what has to change: pure.

use std::net::Ipv4Addr;

/// The TTL of a record that the agent makes; one that is there keeps its own.
pub const NEW_TTL: u32 = 60;

/// One A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its TTL in seconds.
    pub ttl: u32,
    /// By what an API knows it; empty at a name server.
    pub id: String,
}

/// What an authority holds for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No A record.
    Nothing,
    /// One A record.
    One(Record),
    /// More than one.
    Several(Vec<Record>),
    /// Another name in its place (CNAME).
    Alias,
}

impl Found {
    /// These records.
    #[must_use]
    pub fn records(mut records: Vec<Record>) -> Self {
        match (records.pop(), records.is_empty()) {
            (None, _) => Self::Nothing,
            (Some(only), true) => Self::One(only),
            (Some(last), false) => {
                records.push(last);
                Self::Several(records)
            }
        }
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Nothing | Self::Alias => Vec::new(),
            Self::One(record) => vec![record.address],
            Self::Several(records) => records.iter().map(|record| record.address).collect(),
        }
    }
}

/// What a name is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This address, and no other.
    Only(Ipv4Addr),
    /// Among others that stay as they are.
    Among {
        /// Those that it has to have.
        present: Vec<Ipv4Addr>,
        /// Those that it must not have, unless nothing else is left.
        absent: Vec<Ipv4Addr>,
    },
}

/// The one change that makes a name right; no change leaves a name without a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the first record.
    Create(Ipv4Addr),
    /// Puts another address into the record, which keeps all else.
    Replace {
        /// The record as it was read.
        from: Record,
        /// The address.
        to: Ipv4Addr,
    },
    /// Makes and removes records of a name that may have several.
    Among {
        /// All of its records as they were read.
        from: Vec<Record>,
        /// The addresses that it gets.
        added: Vec<Ipv4Addr>,
        /// The addresses that it loses; fewer than it has then.
        removed: Vec<Ipv4Addr>,
    },
}

impl Change {
    /// The addresses before.
    #[must_use]
    pub fn before(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Create(_) => Vec::new(),
            Self::Replace { from, .. } => vec![from.address],
            Self::Among { from, .. } => from.iter().map(|record| record.address).collect(),
        }
    }

    /// The addresses after; at least one.
    #[must_use]
    pub fn after(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Create(to) | Self::Replace { to, .. } => vec![*to],
            Self::Among { added, removed, .. } => {
                let before = self.before().into_iter().filter(|address| !removed.contains(address));
                before.chain(added.iter().copied()).collect()
            }
        }
    }
}

/// Why a name is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// It belongs to more than this edge.
    #[error(
        "it has {0} A records, and the edge keeps a name that is its alone; remove the others, or take it out of [dns] name"
    )]
    Several(usize),
    /// It leads to another name.
    #[error(
        "it is a CNAME, where an A record is to be kept; remove the CNAME, or write another name in the configuration"
    )]
    Alias,
}

/// What has to change so that a name has what is wanted; `None` when it is right.
///
/// # Errors
/// [`Conflict`]
pub fn plan(found: Found, wanted: &Wanted) -> Result<Option<Change>, Conflict> {
    match (found, wanted) {
        (Found::Alias, _) => Err(Conflict::Alias),
        (Found::Nothing, Wanted::Only(wanted)) => Ok(Some(Change::Create(*wanted))),
        (Found::One(record), Wanted::Only(wanted)) if record.address == *wanted => Ok(None),
        (Found::One(from), Wanted::Only(wanted)) => Ok(Some(Change::Replace { from, to: *wanted })),
        (Found::Several(records), Wanted::Only(_)) => Err(Conflict::Several(records.len())),
        (Found::Nothing, Wanted::Among { present, absent }) => Ok(among(Vec::new(), present, absent)),
        (Found::One(record), Wanted::Among { present, absent }) => Ok(among(vec![record], present, absent)),
        (Found::Several(records), Wanted::Among { present, absent }) => Ok(among(records, present, absent)),
    }
}

fn among(from: Vec<Record>, present: &[Ipv4Addr], absent: &[Ipv4Addr]) -> Option<Change> {
    let has = |address: &Ipv4Addr| from.iter().any(|record| record.address == *address);
    let added: Vec<_> = present.iter().filter(|address| !has(address)).copied().collect();
    let removed: Vec<_> = absent.iter().filter(|address| has(address)).copied().collect();
    let is_any_left = from.len() + added.len() > removed.len();
    let is_right = added.is_empty() && removed.is_empty();
    (is_any_left && !is_right).then_some(Change::Among { from, added, removed })
}

/// Addresses as they are shown; `none` for none.
#[must_use]
pub fn shown(addresses: &[Ipv4Addr]) -> String {
    let texts: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    fn record(address: Ipv4Addr) -> Record {
        Record { address, ttl: 300, id: "1".to_owned() }
    }

    #[test]
    fn a_record_that_is_right_is_left_alone() {
        assert_eq!(plan(Found::One(record(NEW)), &Wanted::Only(NEW)), Ok(None));
    }

    #[test]
    fn a_record_of_another_address_is_replaced_and_a_missing_one_is_made() {
        let from = record(OLD);
        assert_eq!(
            plan(Found::One(from.clone()), &Wanted::Only(NEW)),
            Ok(Some(Change::Replace { from, to: NEW }))
        );
        assert_eq!(plan(Found::Nothing, &Wanted::Only(NEW)), Ok(Some(Change::Create(NEW))));
    }

    #[test]
    fn a_name_that_is_not_the_edges_alone_is_left_as_it_is() {
        assert_eq!(
            plan(Found::Several(vec![record(OLD), record(NEW)]), &Wanted::Only(NEW)),
            Err(Conflict::Several(2))
        );
        assert_eq!(plan(Found::Alias, &Wanted::Only(NEW)), Err(Conflict::Alias));
    }
    #[test]
    fn among_several_the_wanted_come_the_unwanted_go_and_others_stay() {
        let (foreign, from) = (Ipv4Addr::new(192, 0, 2, 77), vec![record(OLD)]);
        let wanted = |present: &[Ipv4Addr], absent: &[Ipv4Addr]| Wanted::Among {
            present: present.to_vec(),
            absent: absent.to_vec(),
        };
        let change = plan(Found::One(record(OLD)), &wanted(&[NEW], &[OLD])).unwrap().unwrap();
        assert_eq!(change, Change::Among { from, added: vec![NEW], removed: vec![OLD] });
        assert_eq!(change.after(), [NEW]);
        let found = || Found::Several(vec![record(foreign), record(OLD)]);
        assert_eq!(plan(found(), &wanted(&[], &[NEW])), Ok(None));
        assert_eq!(plan(found(), &wanted(&[], &[OLD])).unwrap().unwrap().after(), [foreign]);
        assert_eq!(plan(Found::Nothing, &wanted(&[NEW], &[OLD])).unwrap().unwrap().after(), [NEW]);
        assert_eq!(plan(Found::Alias, &wanted(&[NEW], &[])), Err(Conflict::Alias));
    }

    #[test]
    fn the_last_address_is_never_removed() {
        let wanted = Wanted::Among { present: vec![], absent: vec![OLD, NEW] };
        assert_eq!(plan(Found::One(record(OLD)), &wanted), Ok(None));
        assert_eq!(plan(Found::Several(vec![record(OLD), record(NEW)]), &wanted), Ok(None));
        assert_eq!(plan(Found::Nothing, &wanted), Ok(None));
    }
}
