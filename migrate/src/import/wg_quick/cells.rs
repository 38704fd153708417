//! The parts of the space of flows that rules treat alike.
//!
//! Between two neighbouring constants of the rules every address, and every port, is treated alike,
//! so one flow of each part decides for all of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::netfilter::{Action, Kind, Ports, Rule, Target};

/// Addresses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    first: u128,
    last: u128,
    is_v4: bool,
    /// Whether a rule names some prefix that holds them.
    pub(super) is_named: bool,
}

impl Addresses {
    /// One of them.
    pub(super) fn any(self) -> IpAddr {
        address(self.first, self.is_v4)
    }

    /// The first and the last.
    pub(super) fn ends(self) -> [IpAddr; 2] {
        [self.first, self.last].map(|bits| address(bits, self.is_v4))
    }

    /// The only one.
    pub(super) fn single(self) -> Option<IpAddr> {
        (self.first == self.last).then(|| self.any())
    }
}

/// The parts of the addresses of a family, in order, by the prefixes that rules name and by others.
pub(super) fn addresses(
    rules: &[&Rule],
    others: &[IpNetwork],
    is_v4: bool,
    named: fn(&Kind) -> Option<&Vec<IpNetwork>>,
) -> Vec<Addresses> {
    let most = if is_v4 { u128::from(u32::MAX) } else { u128::MAX };
    let kinds = rules.iter().flat_map(|rule| &rule.conditions).filter_map(|condition| named(&condition.kind));
    let bounds: Vec<(u128, u128)> = kinds
        .flatten()
        .chain(others)
        .filter(|prefix| prefix.is_ipv4() == is_v4 && prefix.prefix() > 0)
        .map(|prefix| (bits(prefix.network()), bits(prefix.broadcast())))
        .collect();
    let starts: BTreeSet<u128> = std::iter::once(0)
        .chain(bounds.iter().map(|(first, _)| *first))
        .chain(bounds.iter().filter_map(|(_, last)| last.checked_add(1)))
        .filter(|start| *start <= most)
        .collect();
    let starts: Vec<u128> = starts.into_iter().collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([most]);
    let is_named = |at: u128| bounds.iter().any(|(first, last)| (*first..=*last).contains(&at));
    let part = |(&first, last): (&u128, u128)| Addresses { first, last, is_v4, is_named: is_named(first) };
    starts.iter().zip(ends).map(part).collect()
}

/// The fewest prefixes that hold exactly these parts.
pub(super) fn prefixes(parts: &[Addresses]) -> Vec<IpNetwork> {
    let mut joined: Vec<Addresses> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.last.checked_add(1) == Some(part.first) => last.last = part.last,
            _ => joined.push(*part),
        }
    }
    joined.iter().flat_map(|part| range(*part)).collect()
}

fn range(part: Addresses) -> Vec<IpNetwork> {
    let width: u32 = if part.is_v4 { 32 } else { 128 };
    let (mut prefixes, mut next) = (Vec::new(), Some(part.first));
    while let Some(first) = next.filter(|first| *first <= part.last) {
        // The largest block that begins here and does not reach past the end.
        let fits = |size: &u32| {
            let block = 1_u128.checked_shl(*size).map_or(u128::MAX, |block| block - 1);
            first & block == 0 && first.checked_add(block).is_some_and(|last| last <= part.last)
        };
        let size = (0..=width).rev().find(fits).unwrap_or(0);
        let length = u8::try_from(width - size).unwrap_or(0);
        prefixes.extend(IpNetwork::new(address(first, part.is_v4), length));
        next = 1_u128.checked_shl(size).and_then(|block| first.checked_add(block));
    }
    prefixes
}

/// The parts of all ports, first and last, by the ports that rules name: rules that flows reach
/// later come first.
pub(super) fn ports(rules: &[&Rule]) -> Vec<(u16, u16)> {
    let mut starts = BTreeSet::from([1]);
    // The port of a service is the source port of its replies.
    let ranges = rules
        .iter()
        .flat_map(|rule| &rule.conditions)
        .filter_map(|condition| condition.kind.ports().or(condition.kind.source_ports()));
    let mut bounds: Vec<u32> =
        ranges.flatten().flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1]).collect();
    for rule in rules {
        let (Action::Dnat(Target { ports, .. }) | Action::Redirect(ports)) = rule.action else { continue };
        match ports {
            Ports::Shifted { from, last, to } => {
                // A rule behind it names the changed port.
                let back = |bound: &u32| (bound + u32::from(from)).checked_sub(u32::from(to));
                bounds.extend(bounds.iter().filter_map(back).collect::<Vec<_>>());
                bounds.extend([u32::from(from), u32::from(last) + 1]);
            }
            Ports::Within(first, last) => bounds.extend([u32::from(first), u32::from(last) + 1]),
            Ports::Same | Ports::One(_) => {}
        }
    }
    starts.extend(bounds.into_iter().filter(|bound| (1..=65_535).contains(bound)));
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([65_535]).collect::<Vec<u32>>();
    let part = |(first, last): (&u32, u32)| Some((u16::try_from(*first).ok()?, u16::try_from(last).ok()?));
    starts.iter().zip(ends).filter_map(part).collect()
}

/// The first of the ports that clients use.
const CLIENT_PORTS: u16 = 32_768;

/// One source port of each part that rules treat alike.
pub(super) fn source_ports(rules: &[&Rule]) -> Vec<u16> {
    let mut ports = BTreeSet::from([40_000]);
    for condition in rules.iter().flat_map(|rule| &rule.conditions) {
        // The port of a client is the port of its replies; those that services have are no client's.
        if let Kind::Port(ranges) = &condition.kind {
            let bounds = ranges.iter().flat_map(|(first, last)| [Some(*first), last.checked_add(1)]);
            ports.extend(bounds.flatten().filter(|port| *port >= CLIENT_PORTS));
        }
        if let Kind::SourcePort(ranges) = &condition.kind {
            let beyond = ranges
                .iter()
                .flat_map(|(first, last)| [Some(*first), last.checked_add(1), first.checked_sub(1), Some(1)]);
            ports.extend(beyond.flatten().filter(|port| *port > 0));
        }
    }
    ports.into_iter().collect()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if is_v4 => IpAddr::V4(bits.into()),
        _ => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_some_prefixes_are_the_prefixes_around_them() {
        let kind = |text: &str| Kind::Source(vec![text.parse().unwrap()]);
        let rule = |text: &str| Rule {
            conditions: vec![super::super::super::netfilter::Condition {
                kind: kind(text),
                is_negated: false,
            }],
            action: Action::Accept,
            unread: None,
            spec: Vec::new(),
            place: Default::default(),
            text: String::new(),
        };
        let rules = [rule("128.0.0.0/2"), rule("0.0.0.0/0"), rule("255.255.255.255/32")];
        let parts = addresses(&rules.each_ref(), &[], true, Kind::of_either_end);

        assert_eq!(parts.len(), 4);
        assert_eq!(prefixes(&parts), ["0.0.0.0/0".parse().unwrap()]);
        let rest: Vec<Addresses> = parts.iter().copied().filter(|part| !part.is_named).collect();
        let shown: Vec<String> = prefixes(&rest).iter().take(3).map(ToString::to_string).collect();
        assert_eq!(shown, ["0.0.0.0/1", "192.0.0.0/3", "224.0.0.0/4"]);
        assert_eq!(parts[3].single(), Some("255.255.255.255".parse().unwrap()));
    }
}
