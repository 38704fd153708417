//! Packets around every constant of both exports: what the result lets in, the routers let in.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use arbitrary::Random;
use ipnetwork::IpNetwork;
use policy::evaluator::{Arrival, Outcome, Surroundings, Transport, evaluate};
use policy::{forwarder, gateway};

use super::reference::{Packet, Router, address, bounds, number};

/// One import with the two routers that it came from.
pub(crate) struct Case<'c> {
    pub(crate) name: &'c str,
    pub(crate) edge: Router,
    pub(crate) origin: Option<Router>,
    pub(crate) gateway: gateway::Policy,
    pub(crate) forwarder: forwarder::Policy,
}

/// Where a packet is sent: address, port, and whether its source is hidden.
type Sent = (IpAddr, u16, bool);

/// An address that the new edge has and no export names.
const UNNAMED: &str = "192.0.2.200";

impl Case<'_> {
    /// Tries packets from the WAN, from the LAN and from the forwarder; how many the result let in.
    pub(crate) fn try_packets(&self, count: usize, random: &mut Random) -> usize {
        let words = [self.edge.words(), self.origin.as_ref().map(Router::words).unwrap_or_default()].concat();
        let (addresses, ports) = constants(&words);
        let surroundings = self.surroundings();
        let mut let_in = 0;
        for _ in 0..count {
            let source = *random.pick(&addresses).unwrap();
            let port = *random.pick(&ports).unwrap();
            let protocol = *random.pick(&["tcp", "udp"]).unwrap();
            let_in += usize::from(self.wan_packet(source, protocol, port, &surroundings, random));
            let destination = *random.pick(&addresses).unwrap();
            let protocol = *random.pick(&["tcp", "udp", "icmp"]).unwrap();
            let_in += usize::from(self.lan_packet(source, destination, protocol, port, &surroundings));
            let_in += usize::from(self.forwarder_packet(destination, protocol, port, &surroundings));
        }
        let_in
    }

    fn surroundings(&self) -> Surroundings {
        let (mut addresses, mut links) =
            (vec![UNNAMED.parse().unwrap(), "2001:db8:ffff::1".parse().unwrap()], Vec::new());
        let wan = self.edge.members("WAN");
        for (interface, own) in self.edge.addresses() {
            if wan.contains(&interface) {
                addresses.push(own.ip());
            } else if interface != self.edge.link() {
                links.push((interface, IpNetwork::new(own.network(), own.prefix()).unwrap()));
            }
        }
        let named = self.edge.words().into_iter().filter_map(|word| word.parse::<IpNetwork>().ok());
        let public =
            |prefix: &IpNetwork| prefix.to_string().starts_with("203.0.113.") && prefix.prefix() == 32;
        addresses.extend(named.filter(public).map(|prefix| prefix.ip()));
        Surroundings {
            pinned: links.iter().map(|(name, _)| name.clone()).collect(),
            public: addresses.clone(),
            addresses,
            links,
            default_routes: vec![("eth0".to_owned(), false), ("eth0".to_owned(), true)],
            ..Surroundings::default()
        }
    }

    fn transport(protocol: &str, port: u16) -> Transport {
        match protocol {
            "tcp" => Transport::Tcp { source: 40_000, destination: port },
            "udp" => Transport::Udp { source: 40_000, destination: port },
            _ => Transport::Echo,
        }
    }

    /// Where the result sends a packet: the destination in the tunnel.
    fn sent(
        &self,
        arrives: &str,
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
        surroundings: &Surroundings,
    ) -> Option<Sent> {
        let arrival = Arrival::Interface(arrives.to_owned());
        let packet =
            policy::evaluator::Packet { arrival, source, destination, transport, relayed: arrives == "eth0" };
        match evaluate(&self.gateway, surroundings, &packet) {
            Outcome::Forwarded { interface, to, port, masqueraded } => {
                let into = (interface == self.gateway.interface.name.as_str()) != (arrives == "gw0");
                into.then_some((to, port.unwrap_or(0), masqueraded))
            }
            Outcome::Delivered | Outcome::Dropped { .. } | Outcome::Unroutable => None,
        }
    }

    /// Whether the forwarder carries a flow on.
    fn carried(&self, protocol: &str, client: IpAddr, to: SocketAddr) -> bool {
        let Some(protocol) = policy::text::protocol(protocol) else { return true };
        let peer = &self.forwarder.peers[0].name;
        let service = self.forwarder.service_for(peer, protocol, to);
        service.is_some_and(|service| self.forwarder.admits(service, client))
    }

    fn wan_packet(
        &self,
        source: IpAddr,
        protocol: &'static str,
        port: u16,
        surroundings: &Surroundings,
        random: &mut Random,
    ) -> bool {
        let public: Vec<IpAddr> =
            surroundings.public.iter().copied().filter(|one| one.is_ipv4() == source.is_ipv4()).collect();
        let destination = *random.pick(&public).unwrap();
        let transport = Self::transport(protocol, port);
        let Some((to, to_port, hidden)) = self.sent("eth0", source, destination, transport, surroundings)
        else {
            return false;
        };
        let client = if hidden { self.own(&self.edge, source) } else { source };
        if self.origin.is_some() && !self.carried(protocol, client, SocketAddr::new(to, to_port)) {
            return false;
        }
        // An address is on one uplink; those that no export names may be on any.
        let on: Vec<String> = self
            .edge
            .addresses()
            .into_iter()
            .filter(|(_, own)| own.ip() == destination)
            .map(|(on, _)| on)
            .collect();
        let on = if on.is_empty() { self.edge.members("WAN").into_iter().collect() } else { on };
        for arrives in on {
            let packet = Packet { arrives, source, destination, protocol, port };
            let there = self.at_both(&packet, &[destination]);
            let shown = format!("{}: {packet:?} is let in, and the routers refused it or may", self.name);
            let (at_edge, _) = there.expect(&shown);
            assert_eq!(at_edge, (to, to_port, hidden), "{}: {packet:?} goes elsewhere", self.name);
        }
        true
    }

    /// What both routers do: where the edge sends it, and where it ends.
    fn at_both(&self, packet: &Packet, unnamed: &[IpAddr]) -> Option<(Sent, (IpAddr, u16))> {
        let table = self.edge.mark(packet, unnamed);
        let route = |to: IpAddr| self.edge_route(to, &table);
        let at_edge = self.edge.passes(packet, &route, unnamed)?;
        let Some(origin) = &self.origin else { return Some((at_edge, (at_edge.0, at_edge.1))) };
        let (to, port, hidden) = at_edge;
        let source = if hidden { self.own(&self.edge, packet.source) } else { packet.source };
        let there = Packet { arrives: origin.link(), source, destination: to, port, ..packet.clone() };
        let (to, port, _) = origin.passes(&there, &|to| Some(Self::inside(origin, to)), &[])?;
        Some((at_edge, (to, port)))
    }

    /// The tunnel, where the edge's routes lead into it.
    fn edge_route(&self, to: IpAddr, table: &str) -> Option<String> {
        let peer =
            self.gateway.peers.iter().any(|peer| peer.allowed_ips.iter().any(|prefix| prefix.contains(to)));
        let by = if peer && !self.edge.shows_routes(to) {
            Some(self.edge.link())
        } else {
            self.edge.route(to, table)
        };
        by.filter(|by| *by == self.edge.link())
    }

    fn inside(router: &Router, to: IpAddr) -> String {
        let own = router.addresses().into_iter().find(|(_, own)| own.contains(to));
        own.map_or_else(|| "elsewhere".to_owned(), |(interface, _)| interface)
    }

    /// The address of a router in the tunnel.
    fn own(&self, router: &Router, like: IpAddr) -> IpAddr {
        let mut own = router.addresses().into_iter().filter(|(interface, _)| *interface == router.link());
        own.find(|(_, own)| own.is_ipv4() == like.is_ipv4()).map_or(like, |(_, own)| own.ip())
    }

    fn lan_packet(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: &'static str,
        port: u16,
        surroundings: &Surroundings,
    ) -> bool {
        let on: Vec<String> = surroundings
            .links
            .iter()
            .filter(|(_, link)| link.contains(source))
            .map(|(on, _)| on.clone())
            .collect();
        let Some(first) = on.first() else { return false };
        // A published port answers the LAN too, which the import notes.
        if source.is_ipv4() != destination.is_ipv4()
            || surroundings.public.contains(&destination)
            || self.edge.addresses().iter().any(|(_, own)| own.ip() == destination)
        {
            return false;
        }
        let protocol = if protocol == "icmp" && source.is_ipv6() { "icmpv6" } else { protocol };
        let Some((to, to_port, _)) =
            self.sent(first, source, destination, Self::transport(protocol, port), surroundings)
        else {
            return false;
        };
        if !self.carried(protocol, source, SocketAddr::new(to, to_port)) {
            return false;
        }
        for arrives in on {
            let packet = Packet { arrives, source, destination, protocol, port };
            let there = self.at_both(&packet, &[]);
            assert!(
                there.is_some(),
                "{}: {packet:?} is let into the tunnel, and the routers refused it",
                self.name
            );
        }
        true
    }

    /// The forwarder has one address in the tunnel; before, its machine or its router opened flows.
    fn forwarder_packet(
        &self,
        destination: IpAddr,
        protocol: &'static str,
        port: u16,
        surroundings: &Surroundings,
    ) -> bool {
        let Some(origin) = &self.origin else { return false };
        let source = self.own(origin, destination);
        if source == destination || source.is_ipv4() != destination.is_ipv4() {
            return false;
        }
        let transport = Self::transport(protocol, port);
        let sent = self.sent("gw0", source, destination, transport, surroundings);
        if sent.is_none() {
            return false;
        }
        let machine: IpAddr = if source.is_ipv4() { "192.168.88.2" } else { "fd00:88::2" }.parse().unwrap();
        let opened = [(machine, Self::inside(origin, machine)), (source, String::new())].into_iter().any(
            |(source, arrives)| {
                let packet = Packet { arrives: arrives.clone(), source, destination, protocol, port };
                let out = if arrives.is_empty() {
                    Some((destination, port, false))
                } else {
                    let by = |to: IpAddr| {
                        let routed = if origin.shows_routes(to) {
                            origin.route(to, "main")
                        } else {
                            Some(origin.link())
                        };
                        routed.filter(|by| *by == origin.link())
                    };
                    origin.passes(&packet, &by, &[])
                };
                out.is_some_and(|(destination, port, hidden)| {
                    let source = if hidden { self.own(origin, destination) } else { source };
                    let packet = Packet { arrives: self.edge.link(), source, destination, protocol, port };
                    self.edge.passes(&packet, &|to| Some(Self::inside(&self.edge, to)), &[]).is_some()
                })
            },
        );
        assert!(
            opened,
            "{}: {protocol} {port} of {destination} is open to the forwarder, and was not to its machine",
            self.name
        );
        true
    }
}

/// Addresses and ports at and next to every one in the words.
fn constants(words: &[String]) -> (Vec<IpAddr>, Vec<u16>) {
    let mut addresses: BTreeSet<IpAddr> =
        ["8.8.8.8", "2001:db8:9::9", "192.168.1.77", "192.168.88.77"].map(|a| a.parse().unwrap()).into();
    let mut ports: BTreeSet<u16> = [443, 9].into();
    for word in words {
        let word = word.trim_start_matches('!');
        let like = word.split(['-', '/']).next().and_then(|first| first.parse::<IpAddr>().ok());
        if let (Some(like), Some((first, last))) = (like, bounds(word)) {
            let near = [
                first.saturating_sub(1),
                first,
                first + 1,
                last.saturating_sub(1),
                last,
                last.saturating_add(1),
            ];
            addresses.extend(near.map(|number| address(number, like)));
        }
        for part in word.split([',', '-']).filter_map(|part| part.parse::<u16>().ok()) {
            ports.extend([part.saturating_sub(1).max(1), part.max(1), part.saturating_add(1)]);
        }
    }
    // No host has an address of the other ranges.
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => number((*address).into()) > 255 && !address.is_multicast(),
    };
    (addresses.into_iter().filter(usable).collect(), ports.into_iter().collect())
}
