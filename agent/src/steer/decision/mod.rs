//! Which edges a name leads to: pure.
//!
//! An edge is taken out when it is silent while another was heard since: so the origin's own line
//! is not what failed. It is taken back once it has been there for a time, which grows while it
//! flaps. While no edge is heard, and while the daemon does not answer, nothing is decided. Nothing
//! is kept on disk: which edges the name leads to is read from the authority.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::dns::record::Wanted;

/// Probes in a row that an edge must leave unanswered.
const LOST: u64 = 3;
/// How long a flapping edge is remembered, and the longest that it is kept out for it.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// The most times that are remembered of one edge.
const MAX_TIMES: usize = 8;

/// What the daemon counts of an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub name: String,
    /// Bytes of authenticated messages from it.
    pub received: u64,
    /// Probes that it left unanswered.
    pub lost: u64,
    /// Whether its tunnel is up.
    pub is_up: bool,
}

/// What was decided of an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is silent, and others are there.
    TakenOut {
        /// The edge.
        edge: String,
        /// Its address.
        address: Ipv4Addr,
    },
    /// It has been there for a time, or is the only one that is.
    TakenBack {
        /// The edge.
        edge: String,
        /// Its address.
        address: Ipv4Addr,
        /// How long it has been there.
        after: Duration,
    },
    /// None is heard: the name stays as it is.
    AllSilent,
}

/// All edges and what is decided of them.
#[derive(Debug)]
pub struct Steering {
    edges: Vec<Edge>,
    /// Addresses of edges that are no longer.
    gone: Vec<Ipv4Addr>,
    return_after: Duration,
    is_known: bool,
    are_all_silent: bool,
    decisions: VecDeque<Decision>,
}

#[derive(Debug)]
struct Edge {
    name: String,
    address: Ipv4Addr,
    received: Option<u64>,
    /// Probes lost when it was heard last.
    lost: u64,
    heard: Option<Instant>,
    condition: Condition,
    /// Whether the name is to lead to it; nothing until the name was read.
    is_wanted: Option<bool>,
    is_doubtful: bool,
    /// When it was taken out.
    times: VecDeque<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Unknown,
    There(Instant),
    Silent(Instant),
}

impl Steering {
    /// Between these edges, by name and address.
    #[must_use]
    pub fn new(edges: &[(String, Ipv4Addr)], return_after: Duration) -> Self {
        let edge = |(name, address): &(String, Ipv4Addr)| Edge {
            name: name.clone(),
            address: *address,
            received: None,
            lost: 0,
            heard: None,
            condition: Condition::Unknown,
            is_wanted: None,
            is_doubtful: false,
            times: VecDeque::new(),
        };
        Self {
            edges: edges.iter().map(edge).collect(),
            gone: Vec::new(),
            return_after,
            is_known: false,
            are_all_silent: false,
            decisions: VecDeque::new(),
        }
    }

    /// The name must not have these addresses, of edges that are no longer.
    #[must_use]
    pub fn without(self, gone: &[Ipv4Addr]) -> Self {
        Self { gone: gone.to_vec(), ..self }
    }

    /// The name leads to these addresses. Only the first reading says which edges are in; after
    /// that the decisions do.
    pub fn handle_found(&mut self, now: Instant, addresses: &[Ipv4Addr]) {
        if std::mem::replace(&mut self.is_known, true) {
            return;
        }
        for edge in &mut self.edges {
            edge.is_wanted = Some(addresses.contains(&edge.address));
        }
        self.decide(now);
    }

    /// What the daemon counts.
    pub fn handle_counted(&mut self, now: Instant, counted: &[Counted]) {
        for edge in &mut self.edges {
            match counted.iter().find(|counted| counted.name == edge.name) {
                Some(counted) => edge.handle_counted(now, counted),
                None => edge.forget(),
            }
        }
        self.decide(now);
    }

    /// The daemon does not answer: nothing is known of any edge.
    pub fn handle_silence(&mut self) {
        self.edges.iter_mut().for_each(Edge::forget);
    }

    /// Whether an edge has left a probe unanswered since it was heard last, or one is silent and in.
    #[must_use]
    pub fn is_any_doubtful(&self) -> bool {
        self.edges.iter().any(|edge| edge.is_wanted == Some(true) && edge.is_doubtful)
    }

    /// What the name has to have.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let of = |is_wanted: bool| {
            let edges = self.edges.iter().filter(move |edge| edge.is_wanted == Some(is_wanted));
            edges.map(|edge| edge.address).collect::<Vec<_>>()
        };
        Wanted::Among { present: of(true), absent: [of(false), self.gone.clone()].concat() }
    }

    /// What was decided since the last call.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    fn decide(&mut self, now: Instant) {
        if !self.is_known {
            return;
        }
        let silent = |edge: &Edge| matches!(edge.condition, Condition::Silent(_));
        let are_all = self.edges.iter().all(silent);
        if are_all && !std::mem::replace(&mut self.are_all_silent, are_all) {
            self.decisions.push_back(Decision::AllSilent);
        }
        self.are_all_silent = are_all;
        self.take_out(now);
        self.take_back(now);
    }

    fn take_out(&mut self, now: Instant) {
        let gone: Vec<(usize, Instant)> = self
            .edges
            .iter()
            .enumerate()
            .filter(|(_, edge)| edge.is_wanted == Some(true))
            .filter_map(|(place, edge)| match edge.condition {
                Condition::Silent(since) => Some((place, since)),
                Condition::Unknown | Condition::There(_) => None,
            })
            .collect();
        for (place, since) in gone {
            if !self.has_witness(since, true) {
                // One that waits to be taken back is better than none.
                let Some(other) = self.witness(since, false) else { continue };
                self.set(now, other, true);
            }
            self.set(now, place, false);
        }
    }

    fn take_back(&mut self, now: Instant) {
        for place in 0..self.edges.len() {
            let Some(edge) = self.edges.get(place) else { return };
            let Condition::There(since) = edge.condition else { continue };
            let is_due = now.saturating_duration_since(since) >= edge.pause(now, self.return_after);
            if edge.is_wanted == Some(false) && is_due {
                self.set(now, place, true);
            }
        }
    }

    /// An edge that was heard after `since`, in or out.
    fn witness(&self, since: Instant, is_wanted: bool) -> Option<usize> {
        self.edges.iter().position(|edge| {
            let was_heard = edge.heard.is_some_and(|heard| heard > since);
            edge.is_wanted == Some(is_wanted) && was_heard && matches!(edge.condition, Condition::There(_))
        })
    }

    fn has_witness(&self, since: Instant, is_wanted: bool) -> bool {
        self.witness(since, is_wanted).is_some()
    }

    fn set(&mut self, now: Instant, place: usize, is_wanted: bool) {
        let Some(edge) = self.edges.get_mut(place) else { return };
        edge.is_wanted = Some(is_wanted);
        let (name, address) = (edge.name.clone(), edge.address);
        self.decisions.push_back(if is_wanted {
            let after = match edge.condition {
                Condition::There(since) => now.saturating_duration_since(since),
                Condition::Unknown | Condition::Silent(_) => Duration::ZERO,
            };
            Decision::TakenBack { edge: name, address, after }
        } else {
            if edge.times.len() == MAX_TIMES {
                edge.times.pop_front();
            }
            edge.times.push_back(now);
            Decision::TakenOut { edge: name, address }
        });
    }
}

impl Edge {
    fn handle_counted(&mut self, now: Instant, counted: &Counted) {
        let before = self.received.replace(counted.received);
        if before.is_some_and(|before| before != counted.received) {
            self.heard = Some(now);
            self.lost = counted.lost;
        } else if before.is_none() || counted.lost < self.lost {
            // The first look, or a daemon that was restarted.
            self.lost = counted.lost;
        }
        self.is_doubtful = !counted.is_up || counted.lost > self.lost;
        let is_silent = !counted.is_up || counted.lost - self.lost >= LOST;
        self.condition = match self.condition {
            Condition::Silent(since) if is_silent => Condition::Silent(since),
            Condition::There(since) if !is_silent => Condition::There(since),
            _ if is_silent => Condition::Silent(now),
            _ if self.heard.is_some() => Condition::There(now),
            Condition::Unknown | Condition::There(_) | Condition::Silent(_) => Condition::Unknown,
        };
    }

    fn forget(&mut self) {
        (self.received, self.heard, self.condition) = (None, None, Condition::Unknown);
    }

    /// How long it has to be there: twice as long for each further time within the last hour.
    fn pause(&self, now: Instant, first: Duration) -> Duration {
        let is_recent = |time: &&Instant| now.saturating_duration_since(**time) < REMEMBERED;
        let times = u32::try_from(self.times.iter().filter(is_recent).count()).unwrap_or(u32::MAX);
        let doubled = first.saturating_mul(1 << times.saturating_sub(1).min(16));
        doubled.min(REMEMBERED.max(first))
    }
}
