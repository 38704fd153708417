//! How services listen: on every address, or on single ones that let in other sources.

use std::collections::BTreeMap;

use super::addresses::Addresses;
use super::flows::Flow;
use super::ranges::Ranges;
use policy::PortRange;

/// The sources that each public address lets in at one port.
type ByAddress = BTreeMap<u128, Ranges>;

/// One way to listen.
#[derive(PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) rule: usize,
    pub(super) address: Option<u128>,
    pub(super) sources: Ranges,
    /// The addresses that must not have it.
    pub(super) except: Vec<u128>,
    /// The addresses that may be the edge's and differ.
    pub(super) unclear: Option<Ranges>,
}

pub(super) fn ports(first: u128, last: u128) -> Option<PortRange> {
    PortRange::new(u16::try_from(first).ok()?, u16::try_from(last).ok()?)
}

/// The listeners of one protocol, each with its first and last port; `cuts` are the ranges of
/// single rules.
pub(super) fn listeners(
    flows: &[&Flow],
    cuts: Vec<(u128, u128)>,
    addresses: &Addresses,
    rule_of: impl Fn(u128) -> usize,
) -> Vec<(Listener, u128, u128)> {
    let ranges = flows.iter().flat_map(|flow| flow.ports.iter()).chain(cuts);
    let mut cuts: Vec<u128> = ranges.flat_map(|(first, last)| [first, last + 1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let every = addresses.all();
    let mut found: Vec<(Listener, u128, u128)> = Vec::new();
    for (first, next) in cuts.iter().zip(cuts.iter().skip(1)) {
        let mut by_address = ByAddress::new();
        for flow in flows.iter().filter(|flow| flow.ports.contains(*first)) {
            for address in flow.destinations.and(&every).numbers() {
                let sources = by_address.entry(address).or_default();
                *sources = sources.or(&flow.sources);
            }
        }
        for listener in separated(rule_of(*first), &by_address, addresses) {
            let last = next - 1;
            match found.iter_mut().find(|(known, _, end)| *known == listener && end + 1 == *first) {
                Some((_, _, end)) => *end = last,
                None => found.push((listener, *first, last)),
            }
        }
    }
    found
}

/// A service on every address, and one on each that lets in other sources.
fn separated(rule: usize, by_address: &ByAddress, addresses: &Addresses) -> Vec<Listener> {
    let own = addresses.own.numbers().filter_map(|one| by_address.get(&one));
    let every = by_address.get(&addresses.rest).map(|every| own.fold(every.clone(), |all, one| all.and(one)));
    let every = every.as_ref().filter(|every| !every.is_empty());
    let singles = addresses.singles.numbers();
    let except: Vec<u128> = singles.filter(|one| !by_address.contains_key(one)).collect();
    let differing =
        addresses.wide.iter().filter(|(one, _)| by_address.get(*one) != by_address.get(&addresses.rest));
    let unclear = differing.map(|(_, part)| part.clone()).next();
    let some = every.or_else(|| addresses.wide.keys().find_map(|one| by_address.get(one)));
    let listener = |address, sources: &Ranges, except, unclear| Listener {
        rule,
        address,
        sources: sources.clone(),
        except,
        unclear,
    };
    let general = some.map(|sources| listener(None, sources, except, unclear));
    let is_single = |one: u128| one != addresses.rest && !addresses.wide.contains_key(&one);
    let bound = by_address.iter().filter(|(one, sources)| is_single(**one) && every != Some(*sources));
    general
        .into_iter()
        .chain(bound.map(|(one, sources)| listener(Some(*one), sources, Vec::new(), None)))
        .collect()
}

/// The sources of each port range of flows, whatever their destinations.
pub(super) fn by_ports(flows: &[Flow]) -> Vec<(Ranges, u128, u128)> {
    let one = Addresses { singles: Ranges::empty(), own: Ranges::empty(), rest: 1, wide: BTreeMap::new() };
    let flows: Vec<Flow> =
        flows.iter().map(|flow| Flow { destinations: Ranges::one(one.rest), ..flow.clone() }).collect();
    let flows: Vec<&Flow> = flows.iter().collect();
    let found = listeners(&flows, Vec::new(), &one, |_| 0);
    found.into_iter().map(|(listener, first, last)| (listener.sources, first, last)).collect()
}
