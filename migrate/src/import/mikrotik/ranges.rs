//! Sets of numbers: addresses of one family, ports, protocols, interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use policy::prefix;

/// A set of numbers, as ranges in order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    pub(super) const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Every number there is.
    pub(super) fn all() -> Self {
        Self(vec![(0, u128::MAX)])
    }

    pub(super) fn of(first: u128, last: u128) -> Self {
        Self::union_of(vec![(first, last)])
    }

    pub(super) fn one(number: u128) -> Self {
        Self::of(number, number)
    }

    /// The union of ranges in any order.
    pub(super) fn union_of(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut kept: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match kept.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                _ => kept.push((first, last)),
            }
        }
        Self(kept)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }

    /// The numbers one by one; only for sets that are known to be small.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u128> {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let at = self.0.partition_point(|&(first, _)| first <= number);
        let candidate = at.checked_sub(1).and_then(|at| self.0.get(at));
        candidate.is_some_and(|&(_, last)| number <= last)
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        other.minus(self).is_empty()
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        !self.and(other).is_empty()
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        Self::union_of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let (mut mine, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        let mut common = Vec::new();
        while let (Some(&(a, b)), Some(&(c, d))) = (mine.peek(), theirs.peek()) {
            if a.max(c) <= b.min(d) {
                common.push((a.max(c), b.min(d)));
            }
            if b < d {
                mine.next()
            } else {
                theirs.next()
            };
        }
        Self(common)
    }

    pub(super) fn complement(&self) -> Self {
        let (mut gaps, mut next) = (Vec::new(), Some(0));
        for &(first, last) in &self.0 {
            if let Some(begin) = next.filter(|&begin| begin < first) {
                gaps.push((begin, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|begin| (begin, u128::MAX)));
        Self(gaps)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        if self.0.is_empty() || other.0.is_empty() { self.clone() } else { self.and(&other.complement()) }
    }

    /// Every number moved by the same distance; those that leave the ports are cut off.
    pub(super) fn moved(&self, by: i64) -> Self {
        let moved = |number: u128| i64::try_from(number).ok()?.checked_add(by)?.try_into().ok();
        Self(self.iter().filter_map(|(first, last)| Some((moved(first)?, moved(last)?))).collect())
    }

    /// The fewest prefixes of a family that hold exactly these addresses.
    pub(super) fn prefixes(&self, family: Family) -> Vec<IpNetwork> {
        let mut prefixes = Vec::new();
        for (first, last) in self.and(&family.everyone()).iter() {
            let mut next = Some(first);
            while let Some(begin) = next.filter(|&begin| begin <= last) {
                let span = last - begin;
                let fits = |bits: u32| if bits < 128 { size(bits) - 1 <= span } else { span == u128::MAX };
                let aligned = begin.trailing_zeros().min(family.bits());
                let bits = (0..=aligned).rev().find(|&bits| fits(bits)).unwrap_or(0);
                prefixes.extend(family.prefix(begin, bits));
                next = begin.checked_add(size(bits)).filter(|_| bits < 128);
            }
        }
        prefixes
    }
}

/// How many addresses a block of so many bits has; the whole of IPv6 has one less than can be said.
const fn size(bits: u32) -> u128 {
    match 1_u128.checked_shl(bits) {
        Some(size) => size,
        None => u128::MAX,
    }
}

/// An address family; each has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(is_ipv4: bool) -> Self {
        if is_ipv4 { Self::V4 } else { Self::V6 }
    }

    /// `ip` or `ipv6`, as menus begin.
    pub(super) const fn menu(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ipv6",
        }
    }

    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub(super) fn everyone(self) -> Ranges {
        match self {
            Self::V4 => Ranges::of(0, u128::from(u32::MAX)),
            Self::V6 => Ranges::all(),
        }
    }

    pub(super) fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }

    fn prefix(self, first: u128, bits: u32) -> Option<IpNetwork> {
        let length = u8::try_from(self.bits().checked_sub(bits)?).ok()?;
        IpNetwork::new(self.address(first), length).ok()
    }
}

/// The number of an address in its family.
pub(super) fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::V4, u128::from(u32::from(address))),
        IpAddr::V6(address) => (Family::V6, u128::from(address)),
    }
}

/// First and last address of a prefix; `None` for one of the other family.
pub(super) fn bounds(prefix: IpNetwork, family: Family) -> Option<(u128, u128)> {
    let (of, first) = number(prefix.network());
    let length = u32::from(prefix.prefix());
    let host_bits = family.bits().checked_sub(length)?;
    let mask = size(host_bits).wrapping_sub(u128::from(host_bits < 128));
    (of == family).then_some((first, first | mask))
}

/// Whether a single address is one of the two of an own IPv4 network that are no hosts.
pub(super) fn is_end(own: IpNetwork, prefix: IpNetwork) -> bool {
    let host = prefix::host(prefix).map(number);
    let network = if own.is_ipv4() && own.prefix() < 31 { bounds(own, Family::V4) } else { None };
    let is_one = |(first, last)| [first, last].into_iter().any(|end| host == Some((Family::V4, end)));
    network.is_some_and(is_one)
}

/// The addresses of prefixes that are of the family.
pub(super) fn addresses<'p>(prefixes: impl IntoIterator<Item = &'p IpNetwork>, family: Family) -> Ranges {
    Ranges::union_of(prefixes.into_iter().filter_map(|prefix| bounds(*prefix, family)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_cut_and_joined_exactly() {
        let set = Ranges::union_of(vec![(10, 20), (30, 40), (21, 25), (5, 3)]);
        assert_eq!(set, Ranges(vec![(10, 25), (30, 40)]));
        assert_eq!(set.minus(&Ranges::of(15, 35)), Ranges(vec![(10, 14), (36, 40)]));
        assert_eq!(set.and(&Ranges::of(25, 30)), Ranges(vec![(25, 25), (30, 30)]));
        assert_eq!(set.complement().complement(), set);
        assert_eq!(Ranges::all().complement(), Ranges::empty());
        assert_eq!(Ranges::empty().complement(), Ranges::all());
        assert!(set.contains(30) && !set.contains(29) && !set.contains(9) && set.contains(40));
        assert_eq!(set.moved(-10), Ranges(vec![(0, 15), (20, 30)]));
    }

    #[test]
    fn addresses_and_prefixes_are_the_same_both_ways() {
        for texts in [
            &["0.0.0.0/0"][..],
            &["10.0.0.0/8", "192.168.1.0/24", "203.0.113.77/32"],
            &["::/0"],
            &["2001:db8::/32", "fd00::1/128"],
            &["::/1"],
        ] {
            let prefixes: Vec<IpNetwork> = texts.iter().map(|text| prefix(text)).collect();
            let family = Family::of(prefixes[0].is_ipv4());
            assert_eq!(addresses(&prefixes, family).prefixes(family), prefixes);
        }
        let without = Family::V4.everyone().minus(&addresses(&[prefix("203.0.113.77/32")], Family::V4));
        let prefixes = without.prefixes(Family::V4);
        assert_eq!(prefixes.len(), 32);
        assert_eq!(addresses(&prefixes, Family::V4), without);
        let range = Ranges::of(number("10.0.0.5".parse().unwrap()).1, number("10.0.0.9".parse().unwrap()).1);
        assert_eq!(range.prefixes(Family::V4), ["10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/31"].map(prefix));
    }
}
