//! Questions about prefixes that their type does not answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Whether every address of `inner` is in `outer`.
#[must_use]
pub fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Whether a prefix of a peer's allowed-ips routes an address to it; one of length 0 is a filter
/// alone.
#[must_use]
pub fn routes(prefix: IpNetwork, address: IpAddr) -> bool {
    prefix.prefix() > 0 && prefix.contains(address)
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

/// The bits of an address that a prefix leaves open.
#[must_use]
pub fn host_bits(prefix: IpNetwork) -> u8 {
    let full = if prefix.is_ipv4() { 32 } else { 128 };
    full - prefix.prefix()
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

/// Prefixes whose addresses no host of the internet has (RFC 6890), and those that hide an IPv4
/// address (6to4, Teredo, NAT64). Networks for documentation are not among them.
#[must_use]
pub fn special_prefixes() -> Vec<IpNetwork> {
    let v4 = |a, b, length| (IpAddr::from([a, b, 0, 0]), length);
    let v6 = |first, second, length| (IpAddr::from([first, second, 0, 0, 0, 0, 0, 0]), length);
    let prefixes = [
        v4(0, 0, 8),
        v4(10, 0, 8),
        v4(100, 64, 10),
        v4(127, 0, 8),
        v4(169, 254, 16),
        v4(172, 16, 12),
        v4(192, 0, 24),
        v4(192, 168, 16),
        v4(198, 18, 15),
        v4(224, 0, 3),
        // All but 2000::/3, which holds what is assigned so far.
        v6(0, 0, 3),
        v6(0x4000, 0, 2),
        v6(0x8000, 0, 1),
        v6(0x2001, 0, 32),
        v6(0x2002, 0, 16),
    ];
    prefixes.into_iter().filter_map(|(address, length)| IpNetwork::new(address, length).ok()).collect()
}

/// Whether no host of the internet can have the address.
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    special_prefixes().iter().any(|prefix| prefix.contains(address))
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
    fn a_prefix_routes_what_it_holds_unless_it_is_everything() {
        let routes = |prefix: &str, address: &str| routes(prefix.parse().unwrap(), address.parse().unwrap());
        for prefix in ["10.77.88.9/32", "10.0.0.0/8", "0.0.0.0/1"] {
            assert!(routes(prefix, "10.77.88.9"), "{prefix}");
        }
        assert!(routes("::/1", "::9"));
        for prefix in ["0.0.0.0/0", "10.77.89.0/24", "::/0"] {
            assert!(!routes(prefix, "10.77.88.9"), "{prefix}");
        }
        assert!(!routes("::/0", "fd00::9"));
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

    #[test]
    fn special_addresses_are_those_that_no_host_of_the_internet_has() {
        let special = [
            "0.0.0.1",
            "10.77.88.2",
            "100.64.0.2",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.88.2",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::ffff:203.0.113.10",
            "64:ff9b::203.0.113.10",
            "2001::1",
            "2002:c000:202::1",
            "fd00:88::2",
            "fe80::1",
            "ff02::1",
        ];
        for address in special {
            assert!(is_special(address.parse().unwrap()), "{address}");
        }
        for address in
            ["9.255.255.255", "100.63.255.255", "172.32.0.1", "192.0.2.2", "203.0.113.10", "2001:db8::1"]
        {
            assert!(!is_special(address.parse().unwrap()), "{address}");
        }
    }
}
