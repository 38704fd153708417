//! What is known of this machine, and what follows from it about the networks around it: pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use gateway::firewalls::Firewall;
use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use policy::prefix::{is_private, is_special, network};
use policy::system::{Link, LinkKind, LinkRoute, System};
use policy::trust::Listener;
use policy::{InterfaceName, Protocol};

use super::tunnel_network::overlap;

/// The kernel's main table.
const MAIN: u32 = 254;

/// The facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// Interfaces, routes and neighbours.
    pub(super) system: System,
    /// Interfaces that have no cable.
    pub(super) wireless: BTreeSet<String>,
    /// Interfaces that carry no Ethernet frames, as tunnels and dial-up lines: never a LAN.
    pub(super) tunnels: BTreeSet<String>,
    /// Sockets that wait.
    pub(super) listening: Vec<Listening>,
    /// The port of the SSH session by which the operator is here.
    pub(super) ssh_session: Option<u16>,
    /// Other programs with firewall rules.
    pub(super) firewalls: Vec<Firewall>,
    /// Whether there are rules that nft does not show, as `iptables-legacy` makes them.
    pub(super) has_legacy_rules: bool,
    /// The routers behind the first one on the way out, as far as they answer.
    pub(super) hops: Vec<IpAddr>,
    /// Name servers.
    pub(super) name_servers: Vec<IpAddr>,
    /// The clock.
    pub(super) clock: Clock,
    /// The release of the kernel.
    pub(super) kernel: String,
    /// The version of nft; `None` where there is none.
    pub(super) nft: Option<String>,
    /// Whether the kernel makes TUN devices.
    pub(super) has_tun: bool,
}

/// A socket that waits, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    /// The socket.
    pub(super) socket: Listener,
    /// The program, where it is known.
    pub(super) program: Option<String>,
}

/// What is known of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Whether it is earlier than the day this program was put here.
    pub(super) is_behind: bool,
    /// Whether a time server has set it, where that is known.
    pub(super) is_set: Option<bool>,
}

/// How the internet reaches this machine by one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// No default route, or no address that can be used by it.
    No,
    /// By an address of its own.
    Own(IpAddr),
    /// Through a router that has to forward.
    Router {
        /// This machine's address.
        own: IpAddr,
        /// The router's, towards this machine.
        router: Option<IpAddr>,
    },
    /// Not at all: the provider shares one address among many.
    Shared(IpAddr),
}

impl Reach {
    /// The address of the internet that this machine has itself.
    pub(super) const fn own(self) -> Option<IpAddr> {
        match self {
            Self::Own(address) => Some(address),
            Self::No | Self::Router { .. } | Self::Shared(_) => None,
        }
    }
}

/// An interface with a default route of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uplink<'m> {
    /// The interface.
    pub(super) link: &'m Link,
    /// The address by which it is used.
    pub(super) address: IpAddr,
    /// The next hop; a point-to-point line has none.
    pub(super) next_hop: Option<IpAddr>,
}

/// The local network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lan {
    /// Its prefixes.
    pub(super) prefixes: Vec<IpNetwork>,
    /// Its interfaces, where they have to be named: they are uplinks as well.
    pub(super) named: Vec<InterfaceName>,
    /// Its interfaces.
    pub(super) interfaces: Vec<String>,
}

impl Machine {
    /// The machine as it is without the edge of this configuration: its device and its sockets.
    pub(super) fn without(mut self, policy: &Policy) -> Self {
        let device = policy.interface.name.as_str();
        if let Some(index) = self.system.named(device).map(|link| link.index) {
            self.system.links.retain(|link| link.index != index);
            self.system.routes.retain(|route| route.link != index);
        }
        let is_own = |Listener { protocol, address, port }: Listener| match protocol {
            Protocol::Udp => port == policy.interface.listen_port,
            Protocol::Tcp => {
                let is_tunnel = policy.interface.address.iter().any(|own| own.ip() == address);
                (port == policy.link.port && is_tunnel)
                    || policy.metrics.listen.iter().any(|own| own.port() == port && own.ip() == address)
            }
        };
        self.listening.retain(|listening| !is_own(listening.socket));
        self
    }

    /// Whether packets to the internet leave by some interface.
    pub(super) fn is_connected(&self) -> bool {
        [false, true].into_iter().any(|ipv6| self.uplink(ipv6).is_some())
    }

    /// The interface by which packets of a family leave.
    pub(super) fn uplink(&self, ipv6: bool) -> Option<Uplink<'_>> {
        let of_family = |route: &&LinkRoute| route.is_default() && route.destination.is_ipv6() == ipv6;
        let mut routes: Vec<&LinkRoute> = self.system.routes.iter().filter(of_family).collect();
        routes.sort_by_key(|route| (route.destination.prefix(), route.table != MAIN, route.metric));
        routes.into_iter().find_map(|route| {
            let link = self.system.link(route.link).filter(|link| link.kind != LinkKind::Loopback)?;
            let address = address(link, ipv6)?;
            Some(Uplink { link, address, next_hop: route.gateway })
        })
    }

    /// How the internet reaches this machine by a family.
    pub(super) fn reach(&self, ipv6: bool) -> Reach {
        match self.uplink(ipv6) {
            None => Reach::No,
            Some(Uplink { address, .. }) if is_shared(address) => Reach::Shared(address),
            Some(Uplink { address, .. }) if !is_special(address) => Reach::Own(address),
            // Without an address of the internet there is no way in by IPv6: no router translates
            // it.
            Some(_) if ipv6 => Reach::No,
            Some(Uplink { address, next_hop, .. }) => Reach::Router { own: address, router: next_hop },
        }
    }

    /// The local network: the private networks of interfaces that are no uplink; without any, that
    /// of the uplink.
    pub(super) fn lan(&self) -> Lan {
        let is_arm = |link: &&Link| {
            self.may_be_lan(link) && !self.system.is_uplink(link.index) && !private_networks(link).is_empty()
        };
        let interfaces: Vec<String> =
            self.system.links.iter().filter(is_arm).map(|link| link.name.clone()).collect();
        if !interfaces.is_empty() {
            return Lan { prefixes: self.private_networks(&interfaces), named: Vec::new(), interfaces };
        }
        let Reach::Router { .. } = self.reach(false) else { return Lan::default() };
        let Some(link) = self.uplink(false).map(|uplink| uplink.link).filter(|link| self.may_be_lan(link))
        else {
            return Lan::default();
        };
        let named = InterfaceName::new(&link.name).into_iter().collect();
        Lan { prefixes: private_networks(link), named, interfaces: vec![link.name.clone()] }
    }

    /// The private networks of interfaces.
    pub(super) fn private_networks(&self, interfaces: &[String]) -> Vec<IpNetwork> {
        let links = interfaces.iter().filter_map(|name| self.system.named(name));
        let networks: BTreeSet<IpNetwork> = links.flat_map(private_networks).collect();
        networks.into_iter().collect()
    }

    /// Whether an interface carries one of these prefixes, or a part of one.
    pub(super) fn carries(&self, name: &str, prefixes: &[IpNetwork]) -> bool {
        let Some(link) = self.system.named(name) else { return false };
        let carried = self.system.carried(link);
        carried.iter().any(|own| prefixes.iter().any(|prefix| overlap(*own, *prefix)))
    }

    /// The interfaces, where all of them are uplinks and so have to be named; else none.
    pub(super) fn uplinks_alone(&self, interfaces: &[String]) -> Vec<InterfaceName> {
        let is_uplink =
            |name: &String| self.system.named(name).is_some_and(|link| self.system.is_uplink(link.index));
        if !interfaces.iter().all(is_uplink) {
            return Vec::new();
        }
        interfaces.iter().filter_map(|name| InterfaceName::new(name)).collect()
    }

    fn may_be_lan(&self, link: &Link) -> bool {
        link.kind != LinkKind::Loopback
            && link.master.is_none()
            && !self.tunnels.contains(&link.name)
            && !self.system.is_container_network(link)
    }

    /// Every network and address that this machine uses.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNetwork> {
        let own = self.system.links.iter().flat_map(|link| link.addresses.iter().copied());
        let routed = self.system.routes.iter().filter(|route| !route.is_default());
        let routed = routed.map(|route| route.destination);
        let hops = self.system.routes.iter().filter_map(|route| route.gateway);
        let hosts = hops.chain(self.hops.iter().copied()).chain(self.name_servers.iter().copied());
        own.chain(routed).chain(hosts.map(IpNetwork::from)).map(network)
    }

    /// Sockets on a port that hosts of the internet could reach, were it not closed.
    pub(super) fn on_port(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = &Listening> {
        self.open().filter(move |found| found.socket.protocol == protocol && found.socket.port == port)
    }

    /// Sockets that hosts of the internet could reach, were they not closed.
    pub(super) fn open(&self) -> impl Iterator<Item = &Listening> {
        let uplinks: BTreeSet<IpAddr> = self
            .system
            .links
            .iter()
            .filter(|link| self.system.is_uplink(link.index))
            .flat_map(|link| link.addresses.iter().map(IpNetwork::ip))
            .collect();
        self.listening.iter().filter(move |Listening { socket, .. }| {
            socket.address.is_unspecified() || uplinks.contains(&socket.address)
        })
    }
}

/// The address of an interface that an uplink of this family uses; of IPv4 rather one of the
/// internet.
fn address(link: &Link, ipv6: bool) -> Option<IpAddr> {
    let own = link.addresses.iter().map(IpNetwork::ip).filter(|address| address.is_ipv6() == ipv6);
    let usable = own.filter(|address| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    usable.min_by_key(|address| is_special(*address))
}

/// Whether a provider shares the address that is behind this one among many: carrier-grade NAT
/// (RFC 6598), or IPv4 through IPv6 (RFC 6333).
pub(super) fn is_shared(address: IpAddr) -> bool {
    let networks = [(Ipv4Addr::new(100, 64, 0, 0), 10), (Ipv4Addr::new(192, 0, 0, 0), 24)];
    networks
        .into_iter()
        .any(|(base, length)| IpNetwork::new(base.into(), length).is_ok_and(|net| net.contains(address)))
}

/// The private networks that an interface has an address in, without those of a single host.
fn private_networks(link: &Link) -> Vec<IpNetwork> {
    let mut found: Vec<IpNetwork> = link.addresses.iter().map(|&address| network(address)).collect();
    found.retain(|net| is_private(*net) && net.prefix() < if net.is_ipv4() { 31 } else { 127 });
    found.sort_unstable();
    found.dedup();
    found
}
