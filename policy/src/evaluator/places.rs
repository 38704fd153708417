//! Where addresses are: on the edge, in the LAN, in the tunnel, or elsewhere.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::types::Surroundings;
use crate::Protocol;
use crate::gateway::Policy;

/// The networks of a policy and its surroundings.
pub(super) struct Places<'a> {
    pub(super) policy: &'a Policy,
    pub(super) surroundings: &'a Surroundings,
}

impl<'a> Places<'a> {
    /// The name of the TUN device.
    pub(super) fn tunnel(&self) -> &'a str {
        self.policy.interface.name.as_str()
    }

    /// Whether the address is one of the edge's own.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        let own = self.policy.interface.address.iter().map(IpNetwork::ip);
        self.surroundings.addresses.iter().copied().chain(own).any(|local| local == address)
    }

    /// Whether the address is inside `[lan] prefixes`.
    pub(super) fn in_lan(&self, address: IpAddr) -> bool {
        self.policy.lan.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether the address may be a host of the internet: none of a private, shared, local,
    /// multicast or unassigned network, none that hides another address, and none of our networks.
    pub(super) fn in_internet(&self, address: IpAddr) -> bool {
        let global = match address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                let shared = a == 100 && (64..128).contains(&b);
                let assignments = (a, b, c) == (192, 0, 0);
                let benchmarks = a == 198 && (b == 18 || b == 19);
                let private = address.is_private() || shared || assignments || benchmarks;
                !(private || a == 0 || a == 127 || address.is_link_local() || a >= 224)
            }
            IpAddr::V6(address) => {
                let [first, second, ..] = address.segments();
                let hidden = first == 0x2002 || (first, second) == (0x2001, 0);
                (0x2000..0x4000).contains(&first) && !hidden
            }
        };
        global && !self.in_lan(address) && !self.in_tunnel(address) && !self.is_local(address)
    }

    /// Whether the address is in the tunnel's own networks or routed to a peer; a prefix of length
    /// 0 is not routed.
    pub(super) fn in_tunnel(&self, address: IpAddr) -> bool {
        let own = self.policy.interface.address.iter().any(|network| network.contains(address));
        own || self.policy.peers.iter().any(|peer| self.belongs_to(address, peer.name.as_str()))
    }

    /// Whether the tunnel routes the address to the peer: of all prefixes that hold it the longest
    /// decides, and the edge's own addresses belong to no peer.
    pub(super) fn belongs_to(&self, address: IpAddr, name: &str) -> bool {
        if self.policy.interface.address.iter().any(|own| own.ip() == address) {
            return false;
        }
        let holding = self.policy.peers.iter().flat_map(|peer| {
            let routed =
                peer.allowed_ips.iter().filter(|prefix| prefix.prefix() > 0 && prefix.contains(address));
            routed.map(move |prefix| (prefix.prefix(), peer.name.as_str()))
        });
        holding.max_by_key(|(length, _)| *length).is_some_and(|(_, owner)| owner == name)
    }

    /// The interface by which the edge sends to an address: the LAN's prefixes keep their own
    /// routes, then come the tunnel's prefixes, then the machine's other routes.
    pub(super) fn route(&self, destination: IpAddr) -> Option<&'a str> {
        if !self.in_lan(destination) && self.in_tunnel(destination) {
            return Some(self.tunnel());
        }
        self.main_interface(destination)
    }

    /// The interface by which the machine would send without the tunnel.
    pub(super) fn main_route(&self, destination: IpAddr) -> Option<String> {
        self.main_interface(destination).map(str::to_owned)
    }

    /// Whether the machine reaches the internet by the interface.
    pub(super) fn is_uplink(&self, interface: &str) -> bool {
        self.surroundings.default_routes.iter().any(|(name, _)| name == interface)
    }

    /// Whether the interface is a bridge without hardware that leads nowhere else.
    pub(super) fn is_container_network(&self, interface: &str) -> bool {
        let bridge = self.surroundings.bridges.iter().find(|(name, _)| name == interface);
        bridge.is_some_and(|(_, hardware)| !hardware) && !self.is_uplink(interface)
    }

    /// Whether `[wan] container_interfaces` names the interface.
    pub(super) fn is_container(&self, interface: &str) -> bool {
        self.policy.container_interfaces.iter().any(|pattern| pattern.matches(interface))
    }

    /// Whether this is the port of the link at an address of the edge in the tunnel.
    pub(super) fn is_link(&self, at: SocketAddr, protocol: Protocol) -> bool {
        let mut own = self.policy.interface.address.iter().map(IpNetwork::ip);
        protocol == Protocol::Tcp && at.port() == self.policy.link.port && own.any(|own| own == at.ip())
    }

    fn main_interface(&self, destination: IpAddr) -> Option<&'a str> {
        let links = self.surroundings.links.iter().filter(|(_, network)| network.contains(destination));
        let nearest =
            links.max_by_key(|(_, network)| network.prefix()).map(|(interface, _)| interface.as_str());
        let mut defaults = self.surroundings.default_routes.iter();
        nearest.or_else(|| {
            let fitting = defaults.find(|(_, ipv6)| *ipv6 == destination.is_ipv6());
            fitting.map(|(interface, _)| interface.as_str())
        })
    }
}
