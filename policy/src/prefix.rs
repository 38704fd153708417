//! Questions about prefixes that their type does not answer.

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
