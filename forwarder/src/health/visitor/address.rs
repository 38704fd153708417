//! Which addresses of a name a visitor's probe may connect to.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::prefix;

/// The most addresses of a name that are tried.
pub(super) const MOST: usize = 4;

/// The addresses that may be connected to, [`MOST`] at most: those that the internet routes, and
/// that are not in one of these `own` networks.
pub(super) fn dialled(addresses: &[IpAddr], own: &[IpNetwork]) -> Vec<IpAddr> {
    let mut dialled: Vec<IpAddr> = Vec::new();
    for address in addresses.iter().map(IpAddr::to_canonical) {
        if dialled.len() < MOST && is_public(address, own) && !dialled.contains(&address) {
            dialled.push(address);
        }
    }
    dialled
}

/// Whether a host of the internet may have this address, and none of the `own` networks has it.
pub(super) fn is_public(address: IpAddr, own: &[IpNetwork]) -> bool {
    let address = address.to_canonical();
    !prefix::special_prefixes().iter().chain(own).any(|prefix| prefix.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_host_of_the_internet_has_are_refused() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.2",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.168.1.50",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:192.168.1.1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().unwrap(), &[]), "{address}");
        }
        for address in ["192.0.2.2", "203.0.113.10", "2001:db8::1", "2a01:4f8::1", "::ffff:192.0.2.2"] {
            assert!(is_public(address.parse().unwrap(), &[]), "{address}");
        }
    }

    #[test]
    fn addresses_of_the_tunnel_are_refused_whatever_they_are() {
        let own = ["203.0.113.0/30".parse().unwrap()];
        assert!(!is_public("203.0.113.2".parse().unwrap(), &own));
        assert!(is_public("203.0.113.4".parse().unwrap(), &own));
    }

    #[test]
    fn a_few_different_addresses_are_tried() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let given = addresses(&["192.168.1.1", "192.0.2.2", "::ffff:192.0.2.2", "2001:db8::1"]);
        assert_eq!(dialled(&given, &[]), addresses(&["192.0.2.2", "2001:db8::1"]));
        let many: Vec<IpAddr> = (1..99).map(|last| IpAddr::from([203, 0, 113, last])).collect();
        assert_eq!(dialled(&many, &[]).len(), MOST);
    }
}
