//! Questions about prefixes that their type does not answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Whether every address of `inner` is in `outer`.
#[must_use]
pub fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// The prefix without its host bits.
#[must_use]
pub fn network(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

/// The address of a prefix that holds only one.
#[must_use]
pub fn host(prefix: IpNetwork) -> Option<IpAddr> {
    let full = if prefix.is_ipv4() { 32 } else { 128 };
    (prefix.prefix() == full).then(|| prefix.ip())
}

/// Whether a prefix is a whole address family or about half of it.
#[must_use]
pub fn is_default(prefix: IpNetwork) -> bool {
    prefix.prefix() <= if prefix.is_ipv4() { 1 } else { 3 }
}

/// Whether a prefix is one that any private network may use and the internet does not route.
#[must_use]
pub fn is_private(prefix: IpNetwork) -> bool {
    match prefix {
        IpNetwork::V4(prefix) => prefix.network().is_private(),
        IpNetwork::V6(prefix) => prefix.network().is_unique_local(),
    }
}

/// The same addresses without prefixes that lie inside others, which an interval set would refuse.
#[must_use]
pub fn disjoint(prefixes: impl Iterator<Item = IpNetwork>) -> Vec<IpNetwork> {
    let mut sorted: Vec<IpNetwork> = prefixes.collect();
    sorted.sort_unstable_by_key(|prefix| (prefix.network(), prefix.prefix()));
    let mut kept: Vec<IpNetwork> = Vec::new();
    for prefix in sorted {
        if !kept.last().is_some_and(|&last| covers(last, prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

/// Whether prefixes of one family hold every address of it together, such as 0.0.0.0/1 and
/// 128.0.0.0/1.
#[must_use]
pub fn is_everything(prefixes: &[IpNetwork]) -> bool {
    // Disjoint prefixes hold everything when their sizes add up to it; the smallest are left out.
    let sizes = disjoint(prefixes.iter().copied().filter(|prefix| prefix.prefix() <= 32));
    let whole = 1_u64 << 32;
    sizes.iter().map(|prefix| whole >> prefix.prefix()).sum::<u64>() == whole
}

/// Whether a prefix lies within one of `prefixes`, which have no host bits set.
#[must_use]
pub fn lies_within(prefixes: &BTreeSet<IpNetwork>, prefix: IpNetwork) -> bool {
    // One lookup for each length, however many prefixes there are.
    (0..=prefix.prefix()).rev().any(|length| {
        IpNetwork::new(prefix.ip(), length).is_ok_and(|outer| prefixes.contains(&network(outer)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_hold_everything_together_and_one_alone_does_not() {
        let all = |text: &str| {
            is_everything(&text.split(' ').map(|prefix| prefix.parse().unwrap()).collect::<Vec<_>>())
        };
        for everything in
            ["0.0.0.0/0", "::/0", "::/1 8000::/1", "0.0.0.0/1 128.0.0.0/2 192.0.0.0/2 10.0.0.0/8"]
        {
            assert!(all(everything), "{everything}");
        }
        for part in ["0.0.0.0/1", "0.0.0.0/1 0.0.0.0/2 64.0.0.0/2", "10.0.0.0/8 ::1/128"] {
            assert!(!all(part), "{part}");
        }
    }

    #[test]
    fn a_prefix_lies_within_itself_and_wider_ones_and_in_no_others() {
        let prefix = |text: &str| text.parse::<IpNetwork>().unwrap();
        let prefixes = BTreeSet::from(["192.168.88.0/24", "10.0.0.0/8", "fd00:88::/64"].map(prefix));
        for inside in
            ["192.168.88.0/24", "192.168.88.7/32", "10.77.88.0/30", "10.77.88.1/30", "fd00:88::2/128"]
        {
            assert!(lies_within(&prefixes, prefix(inside)), "{inside}");
        }
        for outside in ["0.0.0.0/0", "192.168.88.0/23", "192.168.89.1/32", "::/0", "fd00:89::/64"] {
            assert!(!lies_within(&prefixes, prefix(outside)), "{outside}");
        }
    }
}
