//! Which addresses the self-test of the tunnel's device uses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use tunnel::io::self_test;
use tunnel::io::tun::Tun;

use crate::kernel::{Failure, FailureKind};

/// Tests that packets cross the device both ways, before the data threads begin.
///
/// # Errors
/// Which half failed.
pub(super) fn run(tun: &Tun, policy: &Policy) -> Result<(), Failure> {
    let allowed: Vec<_> = policy.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
    let Some((own, other)) = addresses(&policy.interface.address, &allowed) else {
        tracing::info!("the device is not tested: no address beyond it is known to ask from");
        return Ok(());
    };
    self_test::test(tun, own, other).map_err(|error| {
        let fix = "the daemon does not start, and the rules stay closed";
        Failure::new(
            FailureKind::Kernel,
            format!("the self-test of the tunnel's device failed: {error}; {fix}"),
        )
    })
}

/// One of our addresses and one beyond the device, of the same family: a peer's address in the
/// prefix of ours, else any address of that prefix, else one of a peer's.
fn addresses(own: &[IpNetwork], allowed: &[IpNetwork]) -> Option<(IpAddr, IpAddr)> {
    let is_own = |address: &IpAddr| own.iter().any(|own| own.ip() == *address);
    let neighbour = |own: &IpNetwork| {
        let peers = allowed.iter().map(IpNetwork::ip).filter(|address| own.contains(*address));
        peers.chain(hosts(own)).find(|address| !is_own(address)).map(|other| (own.ip(), other))
    };
    let beyond = |own: &IpNetwork| {
        let same = allowed.iter().filter(|prefix| prefix.is_ipv4() == own.is_ipv4() && prefix.prefix() > 0);
        same.flat_map(hosts).find(|address| !is_own(address)).map(|other| (own.ip(), other))
    };
    own.iter().find_map(neighbour).or_else(|| own.iter().find_map(beyond))
}

/// The first few addresses of a prefix that a host may have.
fn hosts(prefix: &IpNetwork) -> impl Iterator<Item = IpAddr> + use<> {
    let is_one = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
    let (network, last) = (prefix.network(), prefix.broadcast());
    prefix.iter().take(4).filter(move |address| is_one || *address != network && *address != last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_address_next_to_ours_is_asked_from() {
        assert_eq!(
            chosen(&["10.77.88.1/30"], &["192.168.88.0/24", "10.77.88.2/32"]),
            asks("10.77.88.1", "10.77.88.2")
        );
        assert_eq!(chosen(&["10.77.88.2/30"], &[]), asks("10.77.88.2", "10.77.88.1"));
    }

    #[test]
    fn where_our_prefix_holds_no_other_address_a_peers_prefix_does() {
        let chosen_one = chosen(&["10.77.88.1/32"], &["fd77::/64", "0.0.0.0/0", "192.168.88.0/24"]);
        assert_eq!(chosen_one, asks("10.77.88.1", "192.168.88.1"));
    }

    #[test]
    fn an_interface_of_ipv6_alone_is_asked_in_it() {
        assert_eq!(chosen(&["fd77::1/64"], &["10.0.0.2/32"]), asks("fd77::1", "fd77::2"));
    }

    #[test]
    fn without_any_other_address_there_is_no_test() {
        assert_eq!(chosen(&["10.77.88.1/32"], &["0.0.0.0/0", "10.77.88.1/32"]), None);
    }

    fn chosen(own: &[&str], allowed: &[&str]) -> Option<(IpAddr, IpAddr)> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        addresses(&parse(own), &parse(allowed))
    }

    fn asks(own: &str, other: &str) -> Option<(IpAddr, IpAddr)> {
        Some((own.parse().unwrap(), other.parse().unwrap()))
    }
}
