//! Which network the tunnel gets: one that nothing on this machine uses.

use std::net::Ipv4Addr;

use ipnetwork::IpNetwork;
use policy::prefix::covers;

/// The edge's address in the first network that none of `used` overlaps.
pub(super) fn choose(used: &[IpNetwork]) -> Option<IpNetwork> {
    candidates().find(|candidate| !used.iter().any(|used| overlap(*used, *candidate)))
}

/// Whether two networks share an address.
pub(super) fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv4() == other.is_ipv4() && (covers(one, other) || covers(other, one))
}

/// The first address of a /24 each: the usual one, those after it, then those of the other private
/// networks that few home routers choose.
fn candidates() -> impl Iterator<Item = IpNetwork> {
    let of = |first: u8, second: u8, third: u8| {
        IpNetwork::new(Ipv4Addr::new(first, second, third, 1).into(), 24).ok()
    };
    let usual = (88..=255).map(move |third| (10, 77, third));
    let others = (0..=255).map(|third| (172, 27, third)).chain((0..=255).map(|third| (192, 168, third)));
    usual.chain(others).filter_map(move |(first, second, third)| of(first, second, third))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_network_that_nothing_overlaps_is_taken() {
        for (used, chosen) in [
            ("192.168.1.0/24", Some("10.77.88.1/24")),
            ("10.77.88.64/26", Some("10.77.89.1/24")),
            ("10.77.88.0/23", Some("10.77.90.1/24")),
            ("10.0.0.0/8", Some("172.27.0.1/24")),
            ("10.0.0.0/8 172.16.0.0/12 192.168.0.0/24", Some("192.168.1.1/24")),
            ("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16", None),
            ("fd00::/8", Some("10.77.88.1/24")),
        ] {
            let networks: Vec<IpNetwork> = used.split(' ').map(|text| text.parse().unwrap()).collect();
            let found = choose(&networks);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), chosen, "{used}");
        }
    }
}
