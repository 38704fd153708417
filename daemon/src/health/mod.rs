//! Whether a service works, hop by hop: from the rules of the edge to the upstream at the origin.
//!
//! Each end knows some hops, and lists those alone. The first failing hop decides; what is not
//! known never makes a service worse. Nothing here waits or asks: what was seen comes in as values.

mod entries;
mod fix;
mod names;
mod shown;
mod since;
mod tries;
mod visitor;

pub use entries::{Lead, Wanted, leads_to};
pub use fix::{Place, fix};
pub use names::NameShown;
pub use shown::{HopShown, PathShown};
pub use since::Since;
pub use tries::{CONFIRM_AFTER, CheckFailure, Tries};
pub use visitor::VisitorShown;

use crate::link::message::{Evidence, Reason as Why, State as Reported};

/// An element of a service's path, in the order in which packets meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HopName {
    /// The daemon of the end that looks.
    Daemon,
    /// The public name, which leads to the edge.
    PublicName,
    /// The router in front of the edge, which forwards ports to it.
    Forward,
    /// The ports of the edge on the WAN side.
    WanPort,
    /// The rules of the edge.
    Ruleset,
    /// The route into the tunnel.
    Route,
    /// The tunnel to the peer.
    Tunnel,
    /// The link, by which the origin reports.
    Link,
    /// The `[[service]]` entry of the origin.
    ServiceEntry,
    /// What that entry dials.
    Upstream,
    /// The way of the replies.
    WayBack,
}

impl HopName {
    /// Every one, in order.
    pub const ALL: [Self; 11] = [
        Self::Daemon,
        Self::PublicName,
        Self::Forward,
        Self::WanPort,
        Self::Ruleset,
        Self::Route,
        Self::Tunnel,
        Self::Link,
        Self::ServiceEntry,
        Self::Upstream,
        Self::WayBack,
    ];

    /// The hop of this label; `None` for one that this version does not know.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hop| hop.label() == label)
    }

    /// In one word, for JSON and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::PublicName => "public_name",
            Self::Forward => "forward",
            Self::WanPort => "wan_port",
            Self::Ruleset => "ruleset",
            Self::Route => "route",
            Self::Tunnel => "tunnel",
            Self::Link => "link",
            Self::ServiceEntry => "service_entry",
            Self::Upstream => "upstream",
            Self::WayBack => "way_back",
        }
    }
}

/// How a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Ok,
    /// It does not.
    Failing,
    /// Nothing is known of it.
    Unknown,
}

impl State {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Reported> for State {
    fn from(reported: Reported) -> Self {
        match reported {
            Reported::Up => Self::Ok,
            Reported::Failing => Self::Failing,
            Reported::Unknown => Self::Unknown,
        }
    }
}

/// Why a hop is failing or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Rules or routes cannot be checked or put back.
    NotRepaired,
    /// The edge's table is not there.
    TableMissing,
    /// Packets would go another way.
    OtherRoute,
    /// The peer does not answer any more, or the target of a probe never did.
    Silent,
    /// The peer has not answered since the start.
    NeverHeard,
    /// There is no link.
    NoLink,
    /// No entry of the origin takes the port.
    NoEntry,
    /// Nothing checks it.
    NotChecked,
    /// What a probe of the upstream saw.
    Probe(Why),
}

impl Reason {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotRepaired => "not_repaired",
            Self::TableMissing => "table_missing",
            Self::OtherRoute => "other_route",
            Self::Silent => "silent",
            Self::NeverHeard => "never_heard",
            Self::NoLink => "no_link",
            Self::NoEntry => "no_entry",
            Self::NotChecked => "not_checked",
            Self::Probe(why) => why.label(),
        }
    }
}

/// One hop as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Which.
    pub name: HopName,
    /// How it is.
    pub state: State,
    /// Why, unless it is ok.
    pub reason: Option<Reason>,
    /// What was seen.
    pub evidence: Option<Evidence>,
    /// For how many seconds; `None` until [`Since`] or the other end says so.
    pub seconds: Option<u64>,
}

impl Hop {
    /// One that works.
    #[must_use]
    pub const fn ok(name: HopName) -> Self {
        Self { name, state: State::Ok, reason: None, evidence: None, seconds: None }
    }

    /// One that does not.
    #[must_use]
    pub const fn failing(name: HopName, reason: Reason, evidence: Option<Evidence>) -> Self {
        Self { name, state: State::Failing, reason: Some(reason), evidence, seconds: None }
    }

    /// One of which nothing is known.
    #[must_use]
    pub const fn unknown(name: HopName, reason: Reason) -> Self {
        Self { name, state: State::Unknown, reason: Some(reason), evidence: None, seconds: None }
    }
}

/// The hops of a service that one end knows, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The hops.
    pub hops: Vec<Hop>,
    /// The peer that the failing hop belongs to, and the entry there, for the fix.
    pub place: Place,
}

impl Path {
    /// The hop that decides: the first failing one.
    #[must_use]
    pub fn failing(&self) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.state == State::Failing)
    }

    /// How the service is: failing when a hop is, else as much as is known of the last one.
    #[must_use]
    pub fn state(&self) -> State {
        match self.failing() {
            Some(_) => State::Failing,
            None => self.hops.last().map_or(State::Unknown, |hop| hop.state),
        }
    }

    /// Of several paths of one service, the one that decides: the first failing one, else the
    /// first.
    #[must_use]
    pub fn worst(paths: Vec<Self>) -> Self {
        let at = paths.iter().position(|path| path.failing().is_some()).unwrap_or(0);
        paths.into_iter().nth(at).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failing_hop_decides() {
        let hops = vec![
            Hop::ok(HopName::Ruleset),
            Hop::failing(HopName::Tunnel, Reason::Silent, None),
            Hop::failing(HopName::Upstream, Reason::Probe(Why::Refused), None),
        ];
        let path = Path { hops, ..Path::default() };
        assert_eq!(path.failing().map(|hop| hop.name), Some(HopName::Tunnel));
        assert_eq!(path.state(), State::Failing);
    }

    #[test]
    fn what_is_not_known_lowers_nothing() {
        let link = Hop::unknown(HopName::Link, Reason::NoLink);
        let seen = Path { hops: vec![link.clone(), Hop::ok(HopName::Upstream)], ..Path::default() };
        assert_eq!((seen.failing(), seen.state()), (None, State::Ok));
        let unseen = Hop::unknown(HopName::Upstream, Reason::NotChecked);
        let unseen = Path { hops: vec![link, unseen], ..Path::default() };
        assert_eq!((unseen.failing(), unseen.state()), (None, State::Unknown));
    }

    #[test]
    fn of_two_targets_the_failing_one_is_shown() {
        let path = |hop| Path { hops: vec![hop], ..Path::default() };
        let works = path(Hop::ok(HopName::Upstream));
        let fails = path(Hop::failing(HopName::Upstream, Reason::Probe(Why::TimedOut), None));
        assert_eq!(Path::worst(vec![works.clone(), fails.clone()]), fails);
        assert_eq!(Path::worst(vec![works.clone(), works.clone()]), works);
    }
}
