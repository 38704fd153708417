//! The machine's interfaces as the kernel lists them: trust and the paths of replies are computed
//! from them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::prefix;

/// Interfaces, routes and neighbours at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Every interface.
    pub links: Vec<Link>,
    /// Unicast routes of every table, multipath routes once per next hop.
    pub routes: Vec<LinkRoute>,
    /// Neighbours whose link-layer address is known.
    pub neighbours: Vec<Neighbour>,
    /// Priorities of routing rules of others, sorted; that of the local table is left out.
    pub rules: Vec<u32>,
    /// Whether there is another routing rule than the edge's own and the kernel's.
    pub has_foreign_rules: bool,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, which no other interface gets while the machine runs.
    pub index: u32,
    /// Its name, which can change.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// The index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Its addresses with the length of their network.
    pub addresses: Vec<IpNetwork>,
}

/// What an interface is, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The loopback interface.
    Loopback,
    /// A bridge.
    Bridge,
    /// An end of a veth pair, or a TUN or TAP device: the interfaces of containers and virtual
    /// machines.
    Virtual,
    /// Anything else: a network card, a VLAN, a bond, a tunnel.
    Other,
}

/// A route by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRoute {
    /// To where.
    pub destination: IpNetwork,
    /// The index of the interface.
    pub link: u32,
    /// The next hop; `None` for what is on the link.
    pub gateway: Option<IpAddr>,
    /// In which table.
    pub table: u32,
    /// The route with the lowest metric wins.
    pub metric: u32,
    /// Who made it (`RTPROT_*` of rtnetlink(7)).
    pub protocol: u8,
}

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The index of the interface.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

/// `RTPROT_KERNEL`, `RTPROT_BOOT` (what `ip route` adds) and `RTPROT_STATIC`: routes of the
/// machine's own administrator. Others come from DHCP (option 121), router advertisements or
/// routing daemons, that is from outside.
const OWN_PROTOCOLS: [u8; 3] = [2, 3, 4];

impl LinkRoute {
    /// Whether it is a default route: a half of one as some VPNs add, or all global unicast
    /// addresses.
    #[must_use]
    pub fn is_default(&self) -> bool {
        prefix::is_default(self.destination)
    }
}

/// How many priorities the edge's own rules have.
const OWN_RULES: u32 = 3;

impl System {
    /// The priority of the first of the edge's own rules: the `configured` one, or a lower one
    /// where other programs' rules would come first.
    ///
    /// A rule that is added without a priority, such as wg-quick's, gets one lower than all others.
    #[must_use]
    pub fn rule_priority(&self, configured: u32) -> u32 {
        let first = self.rules.iter().copied().min().unwrap_or(u32::MAX);
        match first.checked_sub(OWN_RULES) {
            Some(lower) if lower > 0 => configured.min(lower),
            // There is no room before the others: the path check reports the effect.
            _ => configured,
        }
    }

    /// The interface with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The interface with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The default routes by an interface, of every table.
    pub fn default_routes(&self, index: u32) -> impl Iterator<Item = &LinkRoute> {
        self.routes.iter().filter(move |route| route.link == index && route.is_default())
    }

    /// Whether a default route of either family leads out by the interface.
    #[must_use]
    pub fn is_uplink(&self, index: u32) -> bool {
        self.default_routes(index).next().is_some()
    }

    /// Whether the interface is a container network: a bridge with no hardware port and no default
    /// route.
    #[must_use]
    pub fn is_container_network(&self, link: &Link) -> bool {
        let mut ports = self.links.iter().filter(|port| port.master == Some(link.index));
        link.kind == LinkKind::Bridge
            && link.master.is_none()
            && ports.all(|port| port.kind == LinkKind::Virtual)
            && !self.is_uplink(link.index)
    }

    /// The networks that an interface carries by its own addresses, or by routes of the machine's
    /// administrator.
    pub fn carried(&self, link: &Link) -> Vec<IpNetwork> {
        let addresses = link.addresses.iter().map(|&address| prefix::network(address));
        let index = link.index;
        let routed = self.routes.iter().filter(move |route| {
            route.link == index && !route.is_default() && OWN_PROTOCOLS.contains(&route.protocol)
        });
        addresses.chain(routed.map(|route| prefix::network(route.destination))).collect()
    }

    /// The link-layer address of a neighbour.
    #[must_use]
    pub fn mac(&self, link: u32, address: IpAddr) -> Option<[u8; 6]> {
        let found = self.neighbours.iter().find(|known| known.link == link && known.address == address);
        found.map(|known| known.mac)
    }
}
