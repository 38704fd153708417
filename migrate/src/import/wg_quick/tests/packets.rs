//! Packets around every constant of the rules: what the original refuses is refused.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::file::sections;
use super::super::hooks::{self, Machine};
use super::{files, gateway, import};
use crate::import::netfilter::evaluate::{Fate, Packet, SourceAddress, World};
use crate::import::netfilter::{Action, Kind};
use crate::import::{FindingKind, Import};
use policy::Protocol;
use policy::evaluator::{self, Arrival, Outcome, Surroundings, Transport, evaluate};
use policy::gateway::Policy;

#[test]
fn nothing_is_wider_than_the_rules_of_the_file_and_nothing_narrower_without_a_finding() {
    let (mut carried, mut refused) = (0, 0);
    for (name, text) in files().into_iter().filter(|(_, text)| text.contains("ListenPort")) {
        let Ok(import) = import(&name, &text) else { continue };
        let case = Case::new(&name, &text, &import);
        for packet in case.packets() {
            match case.compare(packet) {
                true => carried += 1,
                false => refused += 1,
            }
        }
    }
    assert!(carried > 200 && refused > 10_000, "{carried} packets were carried, {refused} refused");
}

struct Case<'a> {
    name: &'a str,
    import: &'a Import,
    policy: Policy,
    machine: Machine,
    tunnel: String,
    has_routes: bool,
    names_containers: bool,
}

const CONTAINERS: &str = "docker0";

impl<'a> Case<'a> {
    fn new(name: &'a str, text: &str, import: &'a Import) -> Self {
        let (sections, _) = sections(text, name);
        let tunnel = name.trim_end_matches(".conf").to_owned();
        let mut machine = hooks::run(&sections[0], &tunnel);
        machine.rules.place_chains();
        let names_containers = text.contains(CONTAINERS);
        let has_routes = sections[0].value("table") != Some("off");
        Self { name, import, policy: gateway(import), machine, tunnel, has_routes, names_containers }
    }

    fn wan(&self) -> &str {
        self.policy.wan.interfaces[0].as_str()
    }

    fn addresses(&self, of: impl Fn(&Kind) -> Option<&Vec<IpNetwork>>) -> BTreeSet<IpAddr> {
        let conditions = self.machine.rules.rules.iter().flat_map(|rule| &rule.conditions);
        let prefixes = conditions.filter_map(|condition| of(&condition.kind)).flatten();
        prefixes.flat_map(|prefix| around(*prefix)).collect()
    }

    fn packets(&self) -> Vec<Packet<'_>> {
        let mut sources = self.addresses(Kind::of_either_end);
        sources.extend(
            ["203.0.113.10", "8.8.8.8", "2001:db8:1::10"].map(|text| text.parse::<IpAddr>().unwrap()),
        );
        let mut ports = BTreeSet::from([22, 53, 51_820]);
        for rule in &self.machine.rules.rules {
            for condition in &rule.conditions {
                if let Kind::Port(ranges) = &condition.kind {
                    ports
                        .extend(ranges.iter().flat_map(|(first, last)| [first - 1, *first, *last, last + 1]));
                }
            }
            if let Action::Dnat(target) = &rule.action {
                ports.extend(target.ports.of(443));
            }
        }
        let mut packets = Vec::new();
        for interface in [self.wan(), CONTAINERS] {
            let sources = sources.iter().filter(|source| !self.in_tunnel(**source));
            for (source, destination) in
                sources.flat_map(|source| self.destinations().into_iter().map(move |to| (*source, to)))
            {
                for (port, protocol) in
                    ports.iter().flat_map(|port| Protocol::BOTH.map(|protocol| (*port, protocol)))
                {
                    if source.is_ipv4() == destination.is_ipv4() {
                        packets.push(Packet {
                            interface,
                            source,
                            source_port: 40_000,
                            destination,
                            port,
                            protocol,
                        });
                    }
                }
            }
        }
        packets
    }

    /// Addresses of the edge.
    fn destinations(&self) -> BTreeSet<IpAddr> {
        let named = self.addresses(Kind::of_destination);
        let own = ["192.0.2.2", "192.0.2.77", "2001:db8:2::2"].map(|text| text.parse().unwrap());
        named.into_iter().chain(own).filter(|address| !self.in_tunnel(*address)).collect()
    }

    fn in_tunnel(&self, address: IpAddr) -> bool {
        self.policy.interface.address.iter().any(|own| own.contains(address))
    }

    fn surroundings(&self) -> Surroundings {
        let link = |name: &str, text: &str| (name.to_owned(), text.parse().unwrap());
        let wan = self.wan();
        let addresses: Vec<IpAddr> = self.destinations().into_iter().collect();
        Surroundings {
            public: addresses.clone(),
            addresses,
            links: vec![
                link(wan, "192.0.2.0/24"),
                link(wan, "2001:db8:2::/64"),
                link(CONTAINERS, "172.17.0.1/16"),
            ],
            default_routes: vec![(wan.to_owned(), false), (wan.to_owned(), true)],
            bridges: vec![(CONTAINERS.to_owned(), false)],
            ..Surroundings::default()
        }
    }

    fn original(&self, packet: Packet<'_>) -> Fate {
        let own: Vec<IpAddr> = self.policy.interface.address.iter().map(IpNetwork::ip).collect();
        let is_in_tunnel = |address: IpAddr| {
            let holds = |prefix: &IpNetwork| prefix.contains(address);
            let is_routed =
                self.has_routes || self.in_tunnel(address) || self.machine.routes.iter().any(holds);
            is_routed && self.policy.peers.iter().flat_map(|peer| &peer.allowed_ips).any(holds)
        };
        let world = World {
            rules: &self.machine.rules,
            tunnel: &self.tunnel,
            own: &own,
            is_in_tunnel: &is_in_tunnel,
        };
        world.fate(packet, &mut Vec::new())
    }

    /// Whether the packet is carried, by both.
    fn compare(&self, packet: Packet<'_>) -> bool {
        let Packet { interface, source, source_port, destination, port, protocol } = packet;
        let transport = match protocol {
            Protocol::Tcp => Transport::Tcp { source: source_port, destination: port },
            Protocol::Udp => Transport::Udp { source: source_port, destination: port },
        };
        let arrival = Arrival::Interface(interface.to_owned());
        let judged =
            evaluator::Packet { arrival, source, destination, transport, relayed: interface == self.wan() };
        let outcome = evaluate(&self.policy, &self.surroundings(), &judged);
        let fate = self.original(packet);
        let name = self.name;
        match (fate, outcome) {
            (Fate::Tunnel(way), Outcome::Forwarded { interface, to, port: to_port, masqueraded })
                if interface == "gw0" =>
            {
                assert_eq!((way.address, way.ports.of(port)), (to, to_port), "{name}: {packet:?}");
                assert_eq!(way.source != SourceAddress::Client, masqueraded, "{name}: {packet:?}");
                true
            }
            (Fate::Tunnel(way), _) => {
                let line = self.machine.rules.rule(way.by).unwrap().place.line;
                let is_said = self.import.findings.iter().any(|finding| {
                    finding.kind == FindingKind::NoCounterpart
                        && finding.at.as_ref().is_some_and(|at| at.1 == line)
                });
                assert!(is_said, "{name}: {packet:?} is lost, and line {line} is called carried");
                false
            }
            (_, Outcome::Forwarded { interface: out, .. }) if out == "gw0" => {
                // Where no rule names another interface, the WAN's is the only way in.
                let is_assumed = interface == CONTAINERS && !self.names_containers;
                assert!(is_assumed, "{name}: {packet:?} is let in, and the original does not: {fate:?}");
                false
            }
            (_, Outcome::Delivered) => {
                let is_own = (protocol, port) == (Protocol::Udp, 51_820) || interface == CONTAINERS;
                assert!(is_own, "{name}: {packet:?} reaches the edge itself");
                false
            }
            _ => false,
        }
    }
}

/// The ends of a prefix, and the addresses next to them.
fn around(prefix: IpNetwork) -> Vec<IpAddr> {
    let step = |address: IpAddr, up: bool| match address {
        IpAddr::V4(address) if up => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V4(address) => address.to_bits().checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) if up => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    };
    let (first, last) = (prefix.network(), prefix.broadcast());
    [step(first, false), Some(first), Some(last), step(last, true)].into_iter().flatten().collect()
}

#[test]
fn nothing_comes_out_of_the_tunnel_after_an_import() {
    for (name, text) in files().into_iter().filter(|(_, text)| text.contains("ListenPort")) {
        let Ok(import) = import(&name, &text) else { continue };
        let case = Case::new(&name, &text, &import);
        let prefixes = case.policy.peers.iter().flat_map(|peer| peer.allowed_ips.clone());
        for (source, destination) in
            prefixes.flat_map(|prefix| case.destinations().into_iter().map(move |to| (prefix.ip(), to)))
        {
            for port in [22, 53, 443, 8_006] {
                let packet = evaluator::Packet {
                    arrival: Arrival::Interface("gw0".to_owned()),
                    source,
                    destination,
                    transport: Transport::Tcp { source: 40_000, destination: port },
                    relayed: false,
                };
                let outcome = evaluate(&case.policy, &case.surroundings(), &packet);
                assert!(
                    matches!(outcome, Outcome::Dropped { .. } | Outcome::Unroutable),
                    "{name}: {packet:?} {outcome:?}"
                );
            }
        }
    }
}
