//! Which of the machine's own addresses is the public one: pure.

use std::net::{IpAddr, Ipv4Addr};

use policy::gateway::Policy;
use policy::prefix::is_special;
use policy::system::{Link, LinkKind, LinkRoute, System};

use super::lookout::Unknown;

/// The public address of the interface towards the internet: of those in `[wan] interface`, else of
/// those with a default route, the best one first. While `current` is still there it stays.
///
/// # Errors
/// [`Unknown`], with how to fix it.
pub fn own_address(system: &System, policy: &Policy, current: Option<Ipv4Addr>) -> Result<Ipv4Addr, Unknown> {
    let links = uplinks(system, policy);
    let own: Vec<(&Link, Ipv4Addr)> =
        links.into_iter().flat_map(|link| addresses(link).map(move |address| (link, address))).collect();
    let is_public = |(_, address): &&(&Link, Ipv4Addr)| !is_special(IpAddr::V4(*address));
    let mut public = own.iter().filter(is_public).map(|(_, address)| *address);
    let kept = current.filter(|current| public.clone().any(|address| address == *current));
    if let Some(address) = kept.or_else(|| public.next()) {
        return Ok(address);
    }
    match own.first() {
        Some((link, address)) => Err(Unknown::Lasting(format!(
            "{} has the address {address}, which is not the public one: the router has that; write in [dns] how to ask \
             for it, such as address = \"https://…\", a page that shows it",
            link.name
        ))),
        None => Err(Unknown::Temporary(
            "no interface towards the internet has an IPv4 address; the record stays as it is".to_owned(),
        )),
    }
}

fn uplinks<'s>(system: &'s System, policy: &Policy) -> Vec<&'s Link> {
    let named: Vec<&Link> =
        policy.wan.interfaces.iter().filter_map(|name| system.named(name.as_str())).collect();
    if !named.is_empty() {
        return named;
    }
    let is_ipv4 = |route: &&LinkRoute| route.is_default() && route.destination.is_ipv4();
    let mut routes: Vec<&LinkRoute> = system.routes.iter().filter(is_ipv4).collect();
    routes.sort_by_key(|route| (route.destination.prefix(), route.table != MAIN, route.metric));
    let mut links: Vec<&Link> = Vec::new();
    for link in routes.into_iter().filter_map(|route| system.link(route.link)) {
        let is_outer = link.kind != LinkKind::Loopback && link.name != policy.interface.name.as_str();
        if is_outer && !links.iter().any(|known| known.index == link.index) {
            links.push(link);
        }
    }
    links
}

/// The kernel's main table.
const MAIN: u32 = 254;

fn addresses(link: &Link) -> impl Iterator<Item = Ipv4Addr> {
    link.addresses.iter().filter_map(|network| match network.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;

    #[test]
    fn the_public_address_of_the_best_default_route_is_taken() {
        let system =
            system(&[("eth0", &["192.0.2.2/24"], Some(100)), ("wwan0", &["198.51.100.9/24"], Some(50))]);
        assert_eq!(found(&system, "", None), Ok(ip("198.51.100.9")));
        assert_eq!(found(&system, "[wan]\ninterface = \"eth0\"\n", None), Ok(ip("192.0.2.2")));
    }

    #[test]
    fn an_address_that_is_still_there_stays() {
        let system = system(&[("eth0", &["192.0.2.2/24", "192.0.2.9/24"], Some(0))]);
        assert_eq!(found(&system, "", None), Ok(ip("192.0.2.2")));
        assert_eq!(found(&system, "", Some(ip("192.0.2.9"))), Ok(ip("192.0.2.9")));
        assert_eq!(found(&system, "", Some(ip("192.0.2.7"))), Ok(ip("192.0.2.2")));
    }

    #[test]
    fn behind_a_router_the_fix_is_named() {
        for private in ["192.168.1.2/24", "100.64.0.2/24"] {
            let system = system(&[("eth0", &[private], Some(0)), ("lan0", &["192.0.2.2/24"], None)]);
            let Err(Unknown::Lasting(said)) = found(&system, "", None) else { panic!("{private}") };
            assert!(said.contains("eth0") && said.contains("address = "), "{said}");
        }
    }

    #[test]
    fn without_a_line_there_is_no_address_for_now() {
        assert!(matches!(found(&system(&[]), "", None), Err(Unknown::Temporary(_))));
        let down = system(&[("eth0", &[], Some(0)), ("gw0", &["192.0.2.2/24"], Some(0))]);
        assert!(matches!(found(&down, "", Some(ip("192.0.2.2"))), Err(Unknown::Temporary(_))));
    }

    fn found(system: &System, wan: &str, current: Option<Ipv4Addr>) -> Result<Ipv4Addr, Unknown> {
        let text = format!("{wan}[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n");
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text });
        own_address(system, &policy.unwrap(), current)
    }

    /// Interfaces with their addresses and the metric of their default route.
    fn system(links: &[(&str, &[&str], Option<u32>)]) -> System {
        let mut system = System::default();
        for (index, (name, addresses, metric)) in (2..).zip(links) {
            system.links.push(Link {
                index,
                name: (*name).to_owned(),
                kind: LinkKind::Other,
                master: None,
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            });
            system.routes.extend(metric.map(|metric| LinkRoute {
                destination: "0.0.0.0/0".parse().unwrap(),
                link: index,
                gateway: None,
                table: MAIN,
                metric,
                protocol: 3,
            }));
        }
        system
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }
}
