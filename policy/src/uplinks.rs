//! The path of replies: each uplink has a number, and with it a packet mark and a routing table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::gateway::Policy;
use crate::prefix::{self, lies_within};
use crate::system::{Link, LinkKind, LinkRoute, System};

/// The most uplinks: as many marks and tables are claimed.
pub const MAX_UPLINKS: u8 = 16;

/// An interface with a default route in some table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// From 0, and kept for as long as the uplink is there.
    pub number: u8,
    /// The interface's index.
    pub link: u32,
    /// The interface's name.
    pub name: String,
    /// Its addresses that no other uplink has.
    pub addresses: Vec<IpAddr>,
}

impl Uplink {
    /// The mark of packets that must leave by it.
    #[must_use]
    pub fn mark(&self, policy: &Policy) -> u32 {
        policy.kernel.fwmark.saturating_add(1 + u32::from(self.number))
    }

    /// The table that holds its default routes.
    #[must_use]
    pub fn table(&self, policy: &Policy) -> u32 {
        policy.kernel.route_table.saturating_add(1 + u32::from(self.number))
    }
}

/// The uplinks there are; one that was there `before` keeps its number.
#[must_use]
pub fn uplinks(policy: &Policy, system: &System, before: &[Uplink]) -> Vec<Uplink> {
    let links: Vec<&Link> = candidates(policy, system).collect();
    let shared = shared_addresses(&links);
    let kept: BTreeMap<u32, u8> = before.iter().map(|uplink| (uplink.link, uplink.number)).collect();
    let there = |number: &&Link| kept.get(&number.index).copied();
    let mut taken: BTreeSet<u8> = links.iter().filter_map(there).collect();
    let mut found = Vec::new();
    for link in links {
        let free = || (0..MAX_UPLINKS).find(|number| !taken.contains(number));
        let Some(number) = kept.get(&link.index).copied().or_else(free) else { continue };
        taken.insert(number);
        let addresses = link.addresses.iter().map(IpNetwork::ip);
        let addresses =
            addresses.filter(|address| is_global(*address) && !shared.contains(address)).collect();
        found.push(Uplink { number, link: link.index, name: link.name.clone(), addresses });
    }
    found.sort_by_key(|uplink| uplink.number);
    found
}

/// Whether all that does not go to the tunnel, the LAN or `containers` leaves by the one uplink
/// there is, with a mark or without.
#[must_use]
pub fn is_only_way(policy: &Policy, system: &System, uplinks: &[Uplink], containers: &[IpNetwork]) -> bool {
    let [only] = uplinks else { return false };
    let near = policy.tunnel_prefixes().chain(policy.lan_prefixes()).chain(containers.iter().copied());
    let near: BTreeSet<IpNetwork> = near.map(prefix::network).collect();
    let tunnel = system.named(policy.interface.name.as_str()).map(|link| link.index);
    let leads_elsewhere = |route: &LinkRoute| {
        let is_near = !is_global(route.destination.ip()) || lies_within(&near, route.destination);
        route.link != only.link && Some(route.link) != tunnel && !is_near
    };
    !system.has_foreign_rules && !system.routes.iter().any(leads_elsewhere)
}

/// Why replies of some uplinks cannot be sent back by them.
#[must_use]
pub fn reply_path_remarks(policy: &Policy, system: &System) -> Vec<String> {
    let links: Vec<&Link> = candidates(policy, system).collect();
    let mut remarks = Vec::new();
    for address in shared_addresses(&links) {
        let has = |link: &&&Link| link.addresses.iter().any(|network| network.ip() == address);
        let names: Vec<&str> = links.iter().filter(has).map(|link| link.name.as_str()).collect();
        remarks.push(format!(
            "{} have the same address {address}, so replies cannot be sent back by the one that a flow came in by; give \
             each its own",
            names.join(" and ")
        ));
    }
    if links.len() > usize::from(MAX_UPLINKS) {
        remarks.push(format!(
            "{} interfaces have a default route; of these {MAX_UPLINKS} get their replies back, the others by the main table",
            links.len()
        ));
    }
    remarks
}

fn candidates<'s>(policy: &'s Policy, system: &'s System) -> impl Iterator<Item = &'s Link> {
    system.links.iter().filter(|link| {
        link.kind != LinkKind::Loopback
            && link.name != policy.interface.name.as_str()
            && system.is_uplink(link.index)
    })
}

fn shared_addresses(links: &[&Link]) -> BTreeSet<IpAddr> {
    let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for link in links {
        let own: BTreeSet<IpAddr> = link.addresses.iter().map(IpNetwork::ip).collect();
        for address in own.into_iter().filter(|address| is_global(*address)) {
            if !once.insert(address) {
                twice.insert(address);
            }
        }
    }
    twice
}

/// Not of a single link, where every interface may have the same.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;
    use crate::system::LinkRoute;

    #[test]
    fn an_uplink_keeps_its_number_while_others_come_and_go() {
        let policy = policy();
        let both = system(&[(2, "192.0.2.2/24"), (5, "198.18.0.2/24")]);
        let first = uplinks(&policy, &both, &[]);
        assert_eq!(numbers(&first), [(2, 0), (5, 1)]);
        assert_eq!((first[1].mark(&policy), first[1].table(&policy)), (0x4359, 4359));

        let one = uplinks(&policy, &system(&[(5, "198.18.0.2/24")]), &first);
        assert_eq!(numbers(&one), [(5, 1)]);
        let three = system(&[(5, "198.18.0.2/24"), (7, "198.18.7.2/24"), (8, "198.18.8.2/24")]);
        assert_eq!(numbers(&uplinks(&policy, &three, &one)), [(7, 0), (5, 1), (8, 2)]);
    }

    #[test]
    fn two_uplinks_with_one_address_are_reported_and_neither_has_it() {
        let system = system(&[(2, "192.168.0.2/24"), (5, "192.168.0.2/24")]);
        let found = uplinks(&policy(), &system, &[]);
        assert!(found.iter().all(|uplink| uplink.addresses.is_empty()), "{found:?}");
        let said = reply_path_remarks(&policy(), &system);
        assert!(said[0].starts_with("eth2 and eth5 have the same address 192.168.0.2"), "{said:?}");
    }

    #[test]
    fn one_uplink_is_the_only_way_until_another_route_or_a_rule_could_lead_elsewhere() {
        let policy = policy();
        let is_only = |system: &System| {
            let found = uplinks(&policy, system, &[]);
            is_only_way(&policy, system, &found, &["172.17.0.0/16".parse().unwrap()])
        };
        let one = system(&[(2, "192.0.2.2/24")]);
        let route = |destination: &str, link| LinkRoute {
            destination: destination.parse().unwrap(),
            link,
            gateway: None,
            table: 254,
            metric: 0,
            protocol: 2,
        };
        let with = |destination, link| {
            let mut system = one.clone();
            system.routes.push(route(destination, link));
            system
        };
        assert!(is_only(&one));
        assert!(is_only(&with("192.0.2.0/24", 2)));
        assert!(is_only(&with("172.17.4.0/24", 9)), "a container network");
        assert!(is_only(&with("10.77.88.2/32", 9)), "the tunnel's table is asked before");
        assert!(is_only(&with("fe80::/64", 9)) && is_only(&with("169.254.0.0/16", 9)));
        assert!(!is_only(&with("10.9.0.0/16", 9)), "another network");
        assert!(!is_only(&with("172.0.0.0/8", 9)), "more than the containers");
        assert!(!is_only(&System { has_foreign_rules: true, ..one.clone() }));
        assert!(!is_only(&system(&[(2, "192.0.2.2/24"), (5, "198.18.0.2/24")])));
        assert!(!is_only(&system(&[])));
    }

    #[test]
    fn there_are_no_more_numbers_than_marks() {
        let links: Vec<(u32, String)> =
            (2..40).map(|index| (index, format!("198.18.{index}.2/24"))).collect();
        let links: Vec<(u32, &str)> = links.iter().map(|(index, text)| (*index, text.as_str())).collect();
        let system = system(&links);
        assert_eq!(uplinks(&policy(), &system, &[]).len(), usize::from(MAX_UPLINKS));
        assert_eq!(reply_path_remarks(&policy(), &system).len(), 1);
    }

    fn numbers(uplinks: &[Uplink]) -> Vec<(u32, u8)> {
        uplinks.iter().map(|uplink| (uplink.link, uplink.number)).collect()
    }

    fn system(links: &[(u32, &str)]) -> System {
        let link = |&(index, address): &(u32, &str)| Link {
            index,
            name: format!("eth{index}"),
            kind: LinkKind::Other,
            master: None,
            addresses: vec![address.parse().unwrap()],
        };
        let route = |&(link, _): &(u32, &str)| LinkRoute {
            destination: "0.0.0.0/0".parse().unwrap(),
            link,
            gateway: None,
            table: 254,
            metric: 0,
            protocol: 4,
        };
        System {
            links: links.iter().map(link).collect(),
            routes: links.iter().map(route).collect(),
            neighbours: Vec::new(),
            rules: Vec::new(),
            has_foreign_rules: false,
        }
    }

    fn policy() -> Policy {
        let text = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n";
        crate::gateway::parse(&Source { name: Path::new("g.toml"), text }).unwrap()
    }
}
