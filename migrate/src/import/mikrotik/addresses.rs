//! The public addresses of an edge, in parts that its rules may treat differently.

use std::collections::{BTreeMap, BTreeSet};

use super::flows::Flows;
use super::ranges::{Family, Ranges};
use super::rule::Rule;
use super::site::Site;
use super::uplinks::unroutable;

/// Rules that name more single addresses than this have the rest separated by ranges.
const MOST_SINGLES: u128 = 1_024;
/// A range of fewer addresses than this is separated address by address.
const SMALL: u128 = 64;
/// Parts that are more than this are one.
const MOST_PARTS: usize = 64;

/// What a packet from the WAN may be for.
pub(super) struct Addresses {
    /// Own addresses, and those that rules name one by one.
    pub(super) singles: Ranges,
    /// Those of them that are the edge's, or may be: with another address it must let in no more.
    pub(super) own: Ranges,
    /// Represents every address that is in no other part.
    pub(super) rest: u128,
    /// Wide ranges that rules name, each with the address that represents it.
    pub(super) wide: BTreeMap<u128, Ranges>,
}

impl Addresses {
    /// The parts by which the raw and NAT rules of the edge separate addresses.
    pub(super) fn of(edge: &Site<'_>) -> Self {
        let family = edge.family;
        let routable = family.everyone().minus(&unroutable(family));
        let own = own(edge);
        let rules: Vec<&Rule> = edge.raw.iter().chain(&edge.nat).chain(&edge.mangle).collect();
        let singles = named(&rules).and(&routable).or(&own);
        let mut by_rules: BTreeMap<Vec<bool>, Vec<(u128, u128)>> = BTreeMap::new();
        for cell in cells(&rules, &routable.minus(&singles)) {
            let asked = |rule: &&Rule| {
                [rule.possible.destinations.contains(cell.0), rule.certain.destinations.contains(cell.0)]
            };
            by_rules.entry(rules.iter().flat_map(asked).collect()).or_default().push(cell);
        }
        let mut parts: Vec<Ranges> = by_rules.into_values().map(Ranges::union_of).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(count(part)));
        let mut parts = parts.into_iter();
        let rest = parts.next().and_then(|part| first(&part)).unwrap_or_default();
        // Nothing arrives for further addresses where every uplink has its own in the export.
        let is_known = edge.router.wan.iter().all(|uplink| has_own(edge, uplink.id));
        let own = if is_known { own } else { singles.clone() };
        let mut wide = BTreeMap::new();
        for part in parts.take(if is_known { 0 } else { MOST_PARTS }) {
            wide.extend(first(&part).map(|one| (one, part)));
        }
        Self { singles, own, rest, wide }
    }

    /// Without the parts of which no packet at all gets through raw: a range that is refused as a
    /// whole holds no address of the edge.
    pub(super) fn reached(mut self, tracked: &Flows) -> Self {
        let is_reached = |one: u128| tracked.iter().any(|flow| flow.destinations.contains(one));
        self.wide.retain(|one, _| is_reached(*one));
        if !is_reached(self.rest)
            && let Some(largest) = self.wide.keys().copied().max_by_key(|one| self.wide.get(one).map(count))
        {
            self.wide.remove(&largest);
            self.rest = largest;
        }
        self
    }

    /// Every address that represents a part.
    pub(super) fn all(&self) -> Ranges {
        let wide = self.wide.keys().map(|one| (*one, *one)).chain([(self.rest, self.rest)]);
        self.singles.or(&Ranges::union_of(wide.collect()))
    }
}

fn first(part: &Ranges) -> Option<u128> {
    part.iter().next().map(|(first, _)| first)
}

fn count(part: &Ranges) -> u128 {
    part.iter().fold(0, |all: u128, (first, last)| all.saturating_add(last - first))
}

/// The own addresses of the uplinks.
fn own(edge: &Site<'_>) -> Ranges {
    let is_uplink = |id: u128| edge.router.wan.iter().any(|uplink| uplink.id == id);
    let own = edge.router.own.iter().filter(|own| is_uplink(own.interface));
    let own = own.map(|own| super::ranges::number(own.address.ip())).filter(|(of, _)| *of == edge.family);
    Ranges::union_of(own.map(|(_, number)| (number, number)).collect())
}

fn has_own(edge: &Site<'_>, id: u128) -> bool {
    let mut own = edge.router.own.iter().filter(|own| own.interface == id);
    own.any(|own| Family::of(own.address.is_ipv4()) == edge.family)
}

/// Addresses that rules name one by one, or in small ranges.
fn named(rules: &[&Rule]) -> Ranges {
    let ranges = rules.iter().flat_map(|rule| rule.possible.destinations.iter());
    let small = Ranges::union_of(ranges.filter(|(first, last)| last - first < SMALL).collect());
    let mut left = MOST_SINGLES;
    let mut kept = Vec::new();
    for (first, last) in small.iter() {
        let fits = left.min(last - first + 1);
        if fits > 0 {
            kept.push((first, first + fits - 1));
            left -= fits;
        }
    }
    Ranges::union_of(kept)
}

/// A range of addresses, cut wherever the destinations of a rule begin or end.
fn cells(rules: &[&Rule], range: &Ranges) -> Vec<(u128, u128)> {
    let mut cuts = BTreeSet::new();
    for rule in rules {
        for (first, last) in rule.possible.destinations.iter().chain(rule.certain.destinations.iter()) {
            cuts.insert(first);
            cuts.extend(last.checked_add(1));
        }
    }
    let mut cells = Vec::new();
    for (first, last) in range.iter() {
        let mut begin = first;
        for cut in cuts.range(first..=last).filter(|cut| **cut > first) {
            cells.push((begin, *cut - 1));
            begin = *cut;
        }
        cells.push((begin, last));
    }
    cells
}
