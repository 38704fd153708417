//! Which service entries of the origin a published port leads to, by what the origin reported.

use std::net::IpAddr;

use policy::{Name, PortRange, Protocol, Protocols, prefix};

use crate::link::message::{Matches, Service};

/// What is published.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Its name at the edge.
    pub name: &'w Name,
    /// Its protocols.
    pub protocols: Protocols,
    /// Where its packets go.
    pub address: IpAddr,
    /// The ports there.
    pub ports: PortRange,
}

/// Where it leads at the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// To these entries.
    Entries(Vec<Service>),
    /// Nowhere: no entry takes this port.
    Nowhere(Protocol, u16),
    /// That cannot be said: the origin does not report what its entries match, or not all of them.
    Unknown,
}

/// The entries that take the ports of `wanted`, each port by the most specific one as the origin
/// chooses; `is_whole` says whether `reported` are all entries.
#[must_use]
pub fn leads_to(reported: &[Service], is_whole: bool, wanted: &Wanted<'_>) -> Lead {
    if reported.iter().any(|service| service.matches.is_none()) {
        // An older release: its entries are known by name alone.
        let same = reported.iter().find(|service| service.name == *wanted.name);
        return same.map_or(Lead::Unknown, |service| Lead::Entries(vec![service.clone()]));
    }
    let mut entries: Vec<Service> = Vec::new();
    for protocol in wanted.protocols.iter() {
        let (taken, rest) = taken(reported, protocol, wanted);
        if let Some(port) = rest {
            return if is_whole { Lead::Nowhere(protocol, port) } else { Lead::Unknown };
        }
        let new = taken.into_iter().filter(|service| !entries.contains(service)).cloned().collect::<Vec<_>>();
        entries.extend(new);
    }
    Lead::Entries(entries)
}

/// The entries that take a port of this protocol, and the first port that none takes.
fn taken<'s>(
    reported: &'s [Service],
    protocol: Protocol,
    wanted: &Wanted<'_>,
) -> (Vec<&'s Service>, Option<u16>) {
    let mut matching: Vec<_> = reported
        .iter()
        .filter_map(|service| Some((service, service.matches.as_ref()?)))
        .filter(|(_, matches)| matches.takes(protocol, wanted.address))
        .collect();
    let widest = |matches: &Matches| matches.addresses.iter().map(|prefix| prefix::host_bits(*prefix)).max();
    matching.sort_by_cached_key(|(_, matches)| (widest(matches).unwrap_or(u8::MAX), matches.ports.0.count()));
    let mut rest = vec![wanted.ports];
    let mut taken = Vec::new();
    for (service, matches) in matching {
        if rest.iter().any(|ports| ports.overlaps(matches.ports.0)) {
            rest = rest.into_iter().flat_map(|ports| without(ports, matches.ports.0)).collect();
            taken.push(service);
        }
    }
    (taken, rest.first().map(|ports| ports.first()))
}

/// The ports of one range that are not in the other.
fn without(ports: PortRange, less: PortRange) -> impl Iterator<Item = PortRange> {
    let below = less.first().checked_sub(1).map(|last| last.min(ports.last()));
    let above = less.last().checked_add(1).map(|first| first.max(ports.first()));
    let below = below.and_then(|last| PortRange::new(ports.first(), last));
    let above = above.and_then(|first| PortRange::new(first, ports.last()));
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::{Matches, Ports, State};

    #[test]
    fn a_published_port_leads_to_the_entry_that_takes_its_target() {
        let reported = [entry("web", Some("192.168.88.2/32"), (443, 443)), entry("rest", None, (1, 65_535))];
        assert_eq!(lead(&reported, (443, 443)), ["web"]);
        assert_eq!(lead(&reported, (8096, 8096)), ["rest"]);
        assert_eq!(lead(&reported[..1], (8096, 8096)), ["nowhere 8096"]);
    }

    #[test]
    fn the_more_specific_entry_takes_the_port_whatever_its_name_and_place() {
        let all = entry("a", None, (443, 443));
        let network = entry("b", Some("192.168.88.0/24"), (443, 443));
        let host = entry("c", Some("192.168.88.2/32"), (400, 500));
        for reported in [[all.clone(), network.clone(), host.clone()], [host, network, all]] {
            assert_eq!(lead(&reported, (443, 443)), ["c"]);
        }
        let ranges = [entry("wide", None, (400, 500)), entry("one", None, (443, 443))];
        assert_eq!(lead(&ranges, (443, 443)), ["one"]);
    }

    #[test]
    fn a_range_may_lead_to_several_entries_and_a_port_that_none_takes_is_named() {
        let reported = [entry("low", None, (5_000, 5_004)), entry("high", None, (5_005, 5_010))];
        assert_eq!(lead(&reported, (5_000, 5_010)), ["low", "high"]);
        assert_eq!(lead(&reported, (5_000, 5_011)), ["nowhere 5011"]);
        assert_eq!(lead(&reported, (4_999, 5_010)), ["nowhere 4999"]);
        let hole = [entry("low", None, (1, 5_003)), entry("high", None, (5_005, 65_535))];
        assert_eq!(lead(&hole, (5_000, 5_010)), ["nowhere 5004"]);
    }

    #[test]
    fn both_protocols_of_a_service_need_an_entry() {
        let tcp = [entry("web", None, (443, 443))];
        let name = Name::new("web").unwrap();
        let wanted = Wanted { protocols: Protocols::Both, ..wanted(&name, (443, 443)) };
        assert_eq!(leads_to(&tcp, true, &wanted), Lead::Nowhere(Protocol::Udp, 443));
    }

    #[test]
    fn without_all_entries_none_is_missing() {
        let name = Name::new("web").unwrap();
        assert_eq!(leads_to(&[], false, &wanted(&name, (443, 443))), Lead::Unknown);
        assert_eq!(leads_to(&[], true, &wanted(&name, (443, 443))), Lead::Nowhere(Protocol::Tcp, 443));
    }

    #[test]
    fn the_entries_of_an_older_release_are_found_by_name() {
        let old = Service { matches: None, ..entry("web", None, (1, 1)) };
        assert_eq!(lead(std::slice::from_ref(&old), (443, 443)), ["web"]);
        assert_eq!(lead(&[Service { name: Name::new("x").unwrap(), ..old }], (443, 443)), ["unknown"]);
    }

    fn lead(reported: &[Service], ports: (u16, u16)) -> Vec<String> {
        match leads_to(reported, true, &wanted(&Name::new("web").unwrap(), ports)) {
            Lead::Entries(entries) => entries.iter().map(|entry| entry.name.to_string()).collect(),
            Lead::Nowhere(_, port) => vec![format!("nowhere {port}")],
            Lead::Unknown => vec!["unknown".to_owned()],
        }
    }

    fn wanted(name: &Name, (first, last): (u16, u16)) -> Wanted<'_> {
        let ports = PortRange::new(first, last).unwrap();
        Wanted { name, protocols: Protocols::Tcp, address: "192.168.88.2".parse().unwrap(), ports }
    }

    fn entry(name: &str, address: Option<&str>, (first, last): (u16, u16)) -> Service {
        let matches = Matches {
            addresses: address.iter().map(|address| address.parse().unwrap()).collect(),
            ports: Ports(PortRange::new(first, last).unwrap()),
            tcp: true,
            udp: false,
        };
        let name = Name::new(name).unwrap();
        Service { name, state: State::Up, seconds: 1, reason: None, evidence: None, matches: Some(matches) }
    }
}
