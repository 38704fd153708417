//! A record as the authority of its zone holds it, and what has to change: pure.

use std::fmt;
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
    Several(usize),
    /// Another name in its place (CNAME).
    Alias,
}

/// The one change that makes a record right; no change leaves a name without a record.
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
}

impl Change {
    /// The address before.
    #[must_use]
    pub const fn before(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Create(_) => None,
            Self::Replace { from, .. } => Some(from.address),
        }
    }

    /// The address after.
    #[must_use]
    pub const fn after(&self) -> Ipv4Addr {
        match self {
            Self::Create(to) | Self::Replace { to, .. } => *to,
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
        "it is a CNAME, and the edge keeps an A record; remove the CNAME, or take the name out of [dns] name"
    )]
    Alias,
}

/// What has to change so that a name has exactly this address; `None` when it is right.
///
/// # Errors
/// [`Conflict`]
pub fn plan(found: Found, wanted: Ipv4Addr) -> Result<Option<Change>, Conflict> {
    match found {
        Found::Nothing => Ok(Some(Change::Create(wanted))),
        Found::One(record) if record.address == wanted => Ok(None),
        Found::One(record) => Ok(Some(Change::Replace { from: record, to: wanted })),
        Found::Several(count) => Err(Conflict::Several(count)),
        Found::Alias => Err(Conflict::Alias),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(to) => write!(f, "make the record {to}"),
            Self::Replace { from, to } => write!(f, "change the record {} to {to}", from.address),
        }
    }
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
        assert_eq!(plan(Found::One(record(NEW)), NEW), Ok(None));
    }

    #[test]
    fn a_record_of_another_address_is_replaced_and_a_missing_one_is_made() {
        let from = record(OLD);
        assert_eq!(plan(Found::One(from.clone()), NEW), Ok(Some(Change::Replace { from, to: NEW })));
        assert_eq!(plan(Found::Nothing, NEW), Ok(Some(Change::Create(NEW))));
    }

    #[test]
    fn a_name_that_is_not_the_edges_alone_is_left_as_it_is() {
        assert_eq!(plan(Found::Several(2), NEW), Err(Conflict::Several(2)));
        assert_eq!(plan(Found::Alias, NEW), Err(Conflict::Alias));
    }
}
