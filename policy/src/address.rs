//! Addresses that no host can have.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{Problem, prefix};

/// What is wrong with `address` as that of a host, where the tunnel has the networks `tunnel`.
pub(crate) fn unusable(address: IpAddr, tunnel: &[IpNetwork]) -> Option<Problem> {
    let what = reserved(address).or_else(|| tunnel.iter().find_map(|&network| end_of(network, address)))?;
    let example = match tunnel.iter().find(|network| network.is_ipv4() == address.is_ipv4()) {
        Some(&network) => other_host(network).to_string(),
        None => "10.77.88.2".to_owned(),
    };
    Some(Problem::UnusableAddress { address: address.to_string(), what, example })
}

/// What is wrong with an own address and the length of its network.
pub(crate) fn unusable_own(own: IpNetwork) -> Option<Problem> {
    let what = reserved(own.ip()).or_else(|| end_of(own, own.ip()))?;
    let example = match reserved(own.ip()) {
        Some(_) => "10.77.88.1/30".to_owned(),
        None => first_host(own).to_string(),
    };
    Some(Problem::UnusableAddress { address: own.to_string(), what, example })
}

fn reserved(address: IpAddr) -> Option<String> {
    let what = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(what.to_owned())
}

/// Whether `address` is the first or last of a network that keeps them: not of a /31 or /127 (RFC
/// 3021, RFC 6164), and IPv6 has no broadcast.
fn end_of(network: IpNetwork, address: IpAddr) -> Option<String> {
    let bits: u8 = if network.is_ipv4() { 32 } else { 128 };
    if network.is_ipv4() != address.is_ipv4() || bits - network.prefix() < 2 {
        return None;
    }
    let within = prefix::network(network);
    if address == network.network() {
        let name = if network.is_ipv4() { "network" } else { "router anycast" };
        Some(format!("the {name} address of {within}"))
    } else if network.is_ipv4() && address == network.broadcast() {
        Some(format!("the broadcast address of {within}"))
    } else {
        None
    }
}

/// A host of the network that is not the one whose address it was given with.
fn other_host(network: IpNetwork) -> IpAddr {
    let first = first_host(network).ip();
    match first {
        _ if first != network.ip() => first,
        IpAddr::V4(first) => IpAddr::V4(first.to_bits().wrapping_add(1).into()),
        IpAddr::V6(first) => IpAddr::V6(first.to_bits().wrapping_add(1).into()),
    }
}

fn first_host(network: IpNetwork) -> IpNetwork {
    let host: IpAddr = match network.network() {
        IpAddr::V4(first) => IpAddr::V4((first.to_bits() | 1).into()),
        IpAddr::V6(first) => IpAddr::V6((first.to_bits() | 1).into()),
    };
    IpNetwork::new(host, network.prefix()).unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_that_of_a_host() {
        let usable = ["10.77.88.1/30", "10.77.88.0/31", "10.77.88.1/31", "10.77.88.0/32", "fd00::1/64"];
        for own in usable.into_iter().chain(["fd00::/127", "fd00::/128", "169.254.7.1/30", "fe80::1/64"]) {
            assert_eq!(unusable_own(own.parse().unwrap()), None, "{own}");
        }
        let unusable = ["10.77.88.0/30", "10.77.88.3/30", "10.77.255.255/16", "fd00::/64", "127.0.0.1/8"];
        for own in
            unusable.into_iter().chain(["224.0.0.5/24", "0.0.0.0/32", "::1/128", "ff02::1/64", "::/128"])
        {
            assert!(unusable_own(own.parse().unwrap()).is_some(), "{own}");
        }
    }

    #[test]
    fn the_first_and_last_address_of_the_tunnels_network_are_no_hosts() {
        let tunnel = ["10.77.88.1/30".parse().unwrap(), "fd00::1/126".parse().unwrap()];
        let is_usable = |address: &str| unusable(address.parse().unwrap(), &tunnel).is_none();

        for host in ["10.77.88.2", "fd00::2", "fd00::3", "192.168.88.255", "192.168.88.0"] {
            assert!(is_usable(host), "{host}");
        }
        for end in ["10.77.88.0", "10.77.88.3", "fd00::"] {
            assert!(!is_usable(end), "{end}");
        }
    }
}
