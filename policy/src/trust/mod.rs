//! Which sources are trusted, by interface index and source prefix; all others are unauthenticated.
//!
//! Interfaces are pinned when a configuration is applied ([`Pins`]). What is trusted at a moment
//! ([`Trust`]) is what the pinned interfaces still carry, and never more than was pinned. An
//! interface that an attacker could make look like the LAN (by a longer route, an address, a name)
//! is not pinned.

mod closed;
mod remarks;

pub use closed::{Listener, closed_between, closed_since_names, taken};
pub use remarks::remarks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::gateway::Policy;
use crate::prefix::{covers, disjoint};
use crate::system::{Link, LinkKind, System};

/// The interfaces and sources that an apply allows to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    pins: BTreeMap<u32, Pin>,
    /// Interfaces that may be pinned but do not exist yet, as after a boot; each name is looked up
    /// until it is there once.
    awaited: BTreeMap<String, Pin>,
}

/// A LAN interface as it is kept over a restart, since an index does not outlive a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPin {
    /// The interface's name.
    pub name: String,
    /// The `[lan]` prefixes that it carried.
    pub prefixes: Vec<IpNetwork>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pin {
    /// The `[lan]` prefixes that may arrive by the interface, reduced to what it carried where the
    /// configuration does not name it.
    prefixes: Vec<IpNetwork>,
    /// Whether `[lan] interfaces` names it, so that it may be an uplink as well.
    is_stated: bool,
    /// Its next hops with their link-layer addresses, also those that are gone: what they send
    /// comes from the WAN.
    next_hops: BTreeSet<(IpAddr, [u8; 6])>,
}

/// What is trusted at one moment, for the compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Interface indexes with the sources that are LAN when they arrive there; disjoint and sorted.
    pub lan: Vec<(u32, IpNetwork)>,
    /// Indexes of container networks.
    pub containers: BTreeSet<u32>,
    /// The networks that they carry.
    pub container_networks: Vec<IpNetwork>,
    /// Of those the ones whose containers count as `"self"`.
    pub own_containers: BTreeSet<u32>,
    /// Interface indexes with link-layer addresses from which everything comes from the WAN,
    /// whatever its source.
    pub next_hops: BTreeSet<(u32, [u8; 6])>,
}

impl Pins {
    /// What a policy and the interfaces of this moment allow: the interfaces that `[lan]
    /// interfaces` names; without that key those that carry a `[lan]` prefix and no default route,
    /// and those of which an earlier apply found the same.
    #[must_use]
    pub fn new(policy: &Policy, system: &System, kept: &[KeptPin]) -> Self {
        let mut pins = Self::default();
        if policy.lan_interfaces.is_empty() {
            let candidates = system.links.iter().filter(|link| !system.is_uplink(link.index));
            let found = candidates.filter(|link| is_eligible(policy, link)).map(|link| KeptPin {
                name: link.name.clone(),
                prefixes: common(&policy.lan, &system.carried(link)),
            });
            for pin in kept.iter().cloned().chain(found) {
                let prefixes = common(&policy.lan, &pin.prefixes);
                if !prefixes.is_empty() {
                    pins.awaited.entry(pin.name).or_default().prefixes.extend(prefixes);
                }
            }
        } else {
            let stated = Pin { prefixes: policy.lan.clone(), is_stated: true, ..Pin::default() };
            let names = policy.lan_interfaces.iter().map(ToString::to_string);
            pins.awaited.extend(names.map(|name| (name, stated.clone())));
        }
        pins.follow(policy, system);
        pins
    }

    /// Finds awaited interfaces that exist now, and records the link-layer addresses of next hops.
    pub fn follow(&mut self, policy: &Policy, system: &System) {
        for link in system.links.iter().filter(|link| is_eligible(policy, link)) {
            if let Some(pin) = self.awaited.remove(&link.name) {
                self.pins.entry(link.index).or_insert(pin);
            }
        }
        for (&index, pin) in &mut self.pins {
            let known = next_hops(system, index).filter_map(|(hop, _)| Some((hop, system.mac(index, hop)?)));
            pin.next_hops.extend(known);
        }
    }

    /// The pins to keep for the next start: those that the configuration does not name.
    #[must_use]
    pub fn kept(&self, system: &System) -> Vec<KeptPin> {
        let here = self.pins.iter().filter_map(|(&index, pin)| Some((system.link(index)?.name.clone(), pin)));
        let awaited = self.awaited.iter().map(|(name, pin)| (name.clone(), pin));
        let unstated = here.chain(awaited).filter(|(_, pin)| !pin.is_stated);
        unstated.map(|(name, pin)| KeptPin { name, prefixes: pin.prefixes.clone() }).collect()
    }

    /// Copies the next hops that an earlier apply recorded.
    pub fn inherit(&mut self, earlier: &Self) {
        for (index, pin) in &mut self.pins {
            pin.next_hops.extend(earlier.pins.get(index).into_iter().flat_map(|pin| &pin.next_hops));
        }
    }

    /// The names of interfaces that do not exist.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.awaited.keys().map(String::as_str)
    }

    /// Next hops on pinned interfaces whose link-layer address is not known yet: until it is,
    /// nothing there is trusted.
    #[must_use]
    pub fn unresolved(&self, system: &System) -> Vec<(u32, IpAddr)> {
        let mut unresolved = Vec::new();
        for (&index, pin) in &self.pins {
            let hops = next_hops(system, index).map(|(address, _)| address);
            let unknown = hops.filter(|&address| !pin.knows(system, index, address));
            unresolved.extend(unknown.map(|address| (index, address)));
        }
        unresolved
    }

    /// What is trusted now.
    #[must_use]
    pub fn trust(&self, policy: &Policy, system: &System) -> Trust {
        let mut trust = Trust::default();
        for link in &system.links {
            if let Some(pin) = self.pins.get(&link.index) {
                pin.trusted(link, system, &mut trust);
            }
            if is_eligible(policy, link) && system.is_container_network(link) {
                trust.containers.insert(link.index);
                trust
                    .container_networks
                    .extend(system.carried(link).into_iter().filter(|network| !is_scoped(network)));
                if policy.container_interfaces.iter().any(|pattern| pattern.matches(&link.name)) {
                    trust.own_containers.insert(link.index);
                }
            }
        }
        trust.lan.sort_unstable();
        trust.lan.dedup();
        trust.container_networks.sort_unstable();
        trust.container_networks.dedup();
        trust
    }
}

impl Pin {
    fn trusted(&self, link: &Link, system: &System, trust: &mut Trust) {
        let index = link.index;
        let is_uplink = system.is_uplink(index);
        if is_uplink && !self.is_stated {
            return;
        }
        trust.next_hops.extend(self.next_hops.iter().map(|&(_, mac)| (index, mac)));
        let unknown = |ipv6: bool| {
            let mut hops = next_hops(system, index).filter(|(_, is_v6)| *is_v6 == ipv6);
            hops.any(|(address, _)| !self.knows(system, index, address))
        };
        // A next hop of a point-to-point link has no link-layer address: behind it everything is
        // the WAN.
        let is_behind = |ipv6: bool| {
            let mut routes = system.default_routes(index);
            routes.any(|route| route.gateway.is_none() && route.destination.is_ipv6() == ipv6)
        };
        let open = [false, true].map(|ipv6| !unknown(ipv6) && !is_behind(ipv6));
        let carried = system.carried(link);
        let here = common(&self.prefixes, &carried);
        let fits = |prefix: &IpNetwork| if prefix.is_ipv6() { open[1] } else { open[0] };
        let is_lan = !here.is_empty() && !is_uplink && self.next_hops.is_empty();
        trust.lan.extend(here.into_iter().filter(fits).map(|prefix| (index, prefix)));
        if is_lan {
            trust.lan.extend(LINK_SCOPE.iter().filter_map(|text| Some((index, text.parse().ok()?))));
        }
    }

    fn knows(&self, system: &System, index: u32, next_hop: IpAddr) -> bool {
        system.mac(index, next_hop).is_some() || self.next_hops.iter().any(|(known, _)| *known == next_hop)
    }
}

/// Sources of hosts that have no address yet or use a link-local one: of the LAN on a LAN interface
/// that is no uplink.
const LINK_SCOPE: [&str; 3] = ["0.0.0.0/32", "::/128", "fe80::/10"];

/// Whether every link has such a network.
fn is_scoped(network: &IpNetwork) -> bool {
    match network {
        IpNetwork::V4(network) => network.ip().is_link_local(),
        IpNetwork::V6(network) => network.ip().is_unicast_link_local() || network.ip().is_multicast(),
    }
}

/// The tunnel and loopback are never LAN, and never containers' networks.
fn is_eligible(policy: &Policy, link: &Link) -> bool {
    link.kind != LinkKind::Loopback && link.name != policy.interface.name.as_str()
}

/// The next hops of an interface's default routes, with whether the route is for IPv6.
fn next_hops(system: &System, index: u32) -> impl Iterator<Item = (IpAddr, bool)> {
    system.default_routes(index).filter_map(|route| Some((route.gateway?, route.destination.is_ipv6())))
}

/// The narrower prefix of each pair in which one contains the other, without prefixes inside
/// others.
fn common(wanted: &[IpNetwork], carried: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut found = Vec::new();
    for &prefix in wanted {
        for &network in carried.iter().filter(|network| network.is_ipv4() == prefix.is_ipv4()) {
            if covers(network, prefix) {
                found.push(prefix);
            } else if covers(prefix, network) {
                found.push(network);
            }
        }
    }
    disjoint(found.into_iter())
}

#[cfg(test)]
mod tests;
