//! The addresses of peers as ranges: what a more specific peer owns, or the edge itself has, is not
//! theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::json::{Family, prefix};
use crate::Name;
use crate::gateway::Policy;
use crate::prefix::covers;

/// First and last address, as numbers.
type Range = (u128, u128);

/// The addresses of a family that the tunnel routes to a peer.
pub(super) fn owned(policy: &Policy, peer: &Name, family: Family) -> Vec<Range> {
    let routed = || {
        policy
            .peers
            .iter()
            .flat_map(|peer| peer.allowed_ips.iter().map(move |&prefix| (&peer.name, prefix)))
            .filter(|(_, prefix)| prefix.prefix() > 0 && family.holds(*prefix))
    };
    let own = policy.interface.address.iter().map(|address| IpNetwork::from(address.ip()));
    let own: Vec<IpNetwork> = own.filter(|&address| family.holds(address)).collect();
    let mut ranges = Vec::new();
    for (_, outer) in routed().filter(|(name, _)| **name == *peer) {
        let inner = routed().filter(|(name, prefix)| **name != *peer && is_inside(outer, *prefix));
        let holes =
            inner.map(|(_, prefix)| prefix).chain(own.iter().copied().filter(|&at| covers(outer, at)));
        ranges.extend(without(range(outer), holes.map(range).collect()));
    }
    ranges
}

fn is_inside(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() < inner.prefix() && covers(outer, inner)
}

/// A prefix as its first and last address.
pub(super) fn range(prefix: IpNetwork) -> Range {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(prefix.network()), number(prefix.broadcast()))
}

/// A range less others.
fn without((first, last): Range, mut holes: Vec<Range>) -> Vec<Range> {
    holes.sort_unstable();
    let mut left = Vec::new();
    let mut next = Some(first);
    for (from, to) in holes {
        let Some(start) = next else { break };
        if let Some(before) = from.checked_sub(1).filter(|&before| before >= start) {
            left.push((start, before));
        }
        next = to.max(start.saturating_sub(1)).checked_add(1).filter(|&start| start <= last);
    }
    left.extend(next.map(|start| (start, last)));
    left
}

/// Ranges as elements of a set: sorted, and joined where they overlap.
pub(super) fn elements(mut ranges: Vec<Range>, family: Family) -> Vec<Value> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined.into_iter().map(|range| element(range, family)).collect()
}

fn element((first, last): Range, family: Family) -> Value {
    let bits: u8 = if family.is_ipv6() { 128 } else { 32 };
    let low = u8::try_from((last - first).trailing_ones()).unwrap_or(0);
    let whole = IpNetwork::new(address(first, family), bits.saturating_sub(low)).ok();
    if let Some(network) = whole.filter(|&network| range(network) == (first, last)) {
        return prefix(network);
    }
    json!({"range": [address(first, family).to_string(), address(last, family).to_string()]})
}

fn address(number: u128, family: Family) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if !family.is_ipv6() => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out_wherever_they_are() {
        for (holes, expected) in [
            (vec![], vec![(10, 20)]),
            (vec![(10, 20)], vec![]),
            (vec![(10, 12)], vec![(13, 20)]),
            (vec![(18, 20)], vec![(10, 17)]),
            (vec![(14, 15), (12, 12)], vec![(10, 11), (13, 13), (16, 20)]),
            (vec![(12, 16), (13, 14)], vec![(10, 11), (17, 20)]),
        ] {
            assert_eq!(without((10, 20), holes.clone()), expected, "{holes:?}");
        }
        assert_eq!(without((0, u128::MAX), vec![(0, 0), (u128::MAX, u128::MAX)]), [(1, u128::MAX - 1)]);
    }

    #[test]
    fn a_range_that_is_a_prefix_is_written_as_one() {
        let elements = elements(vec![(0xc0a8_0100, 0xc0a8_01ff), (0x0a00_0001, 0x0a00_0003)], Family::V4);
        assert_eq!(elements[0], json!({"range": ["10.0.0.1", "10.0.0.3"]}));
        assert_eq!(elements[1], json!({"prefix": {"addr": "192.168.1.0", "len": 24}}));
        assert_eq!(super::elements(vec![(7, 7)], Family::V4), [json!("0.0.0.7")]);
    }
}
