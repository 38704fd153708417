//! What must be true of every decision, whatever the policy.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use arbitrary::{self, Random};
use policy::evaluator::{Arrival, Outcome, Packet, Transport, evaluate};
use policy::{Protocol, Source, gateway};

#[test]
fn wan_clients_reach_published_accepted_and_needed_ports_only() {
    for_many_packets(|policy, packet, outcome| {
        let at = |name: &str| packet.arrival == Arrival::Interface(name.to_owned());
        let on_wan = at("br-x") || (at("eth0") && (packet.relayed || policy.lan_interfaces.is_empty()));
        let on_wan = on_wan || (at("eth0") && !is_lan(policy, packet));
        if !on_wan || matches!(outcome, Outcome::Dropped { .. } | Outcome::Unroutable) {
            return;
        }
        let Some((protocol, port)) = service(packet) else { return };
        let published =
            policy.publish.iter().any(|p| p.protocols.contains(protocol) && p.ports.contains(port));
        let accepted =
            policy.wan.accept.iter().any(|a| a.protocols.contains(protocol) && a.ports.contains(port));
        let tunnel = protocol == Protocol::Udp && port == policy.interface.listen_port;
        let is_of_the_pair = policy.standby.as_ref().is_some_and(|standby| {
            standby.other == packet.source && protocol == Protocol::Udp && [3_780, 51_898].contains(&port)
        });
        assert!(published || accepted || tunnel || is_of_the_pair, "{packet:?} was let in: {outcome:?}");
    });
}

#[test]
fn addresses_of_the_tunnel_leave_by_the_tunnel_or_not_at_all() {
    for_many_packets(|_, packet, outcome| {
        let Outcome::Forwarded { interface, to, .. } = outcome else { return };
        let inside = ["10.77.88.0/24", "192.168.88.0/24", "192.168.89.0/24", "fd00:88::/64", "fd00:77::/64"];
        let inside =
            inside.iter().any(|prefix| prefix.parse::<ipnetwork::IpNetwork>().unwrap().contains(*to));
        assert!(!inside || interface == "gw0", "{packet:?} leaves by {interface}");
    });
}

#[test]
fn only_listed_flows_to_the_internet_leave_the_tunnel_by_the_wan_and_by_the_edges_address() {
    let mut seen = 0;
    for_many_packets(|policy, packet, outcome| {
        let from_tunnel = packet.arrival == Arrival::Interface("gw0".to_owned());
        let Outcome::Forwarded { interface, to, masqueraded, .. } = outcome else { return };
        if !from_tunnel || interface != "eth0" {
            return;
        }
        let (protocol, port) = service(packet).unwrap();
        let lists = |allow: &gateway::Allow| {
            let gateway::Service::Ports { protocols, ports } = &allow.service else { return false };
            allow.to == [gateway::Party::Wan]
                && protocols.contains(protocol)
                && ports.iter().any(|range| range.contains(port))
        };
        assert!(policy.allow.iter().any(lists), "{packet:?}");
        assert!(*masqueraded, "{packet:?}");
        assert!(["198.51.100.9", "2001:db8:5::9"].contains(&to.to_string().as_str()), "{packet:?}");
        seen += 1;
    });
    assert!(seen > 0, "no packet was of such a flow");
}

#[test]
fn without_services_nothing_enters_or_leaves_the_tunnel() {
    for_many_packets(|policy, packet, _| {
        let closed = gateway::Policy { publish: Vec::new(), allow: Vec::new(), ..policy.clone() };
        let outcome = evaluate(&closed, &arbitrary::surroundings(&closed), packet);
        let from_tunnel = packet.arrival == Arrival::Interface("gw0".to_owned());
        match outcome {
            Outcome::Forwarded { interface, .. } => assert!(!from_tunnel && interface != "gw0", "{packet:?}"),
            Outcome::Delivered => assert!(!from_tunnel || packet.transport == Transport::Echo, "{packet:?}"),
            Outcome::Dropped { .. } | Outcome::Unroutable => {}
        }
    });
}

#[test]
fn a_published_range_keeps_its_offsets() {
    let text = format!(
        "{HEAD}[[publish]]\nname = \"r\"\nlisten = \"5000-5010\"\ntarget = \"192.168.88.2:6000-6010\"\n"
    );
    let policy = parsed(&text);

    for offset in 0..=10 {
        let to = forwarded_to(&policy, 5000 + offset);
        assert_eq!(to, Some(6000 + offset));
    }
    assert_eq!(forwarded_to(&policy, 4999), None);
    assert_eq!(forwarded_to(&policy, 5011), None);
}

#[test]
fn a_ban_goes_before_everything_a_wan_client_may() {
    let policy = parsed(&format!(
        "{HEAD}[[publish]]\nname = \"r\"\nlisten = \"443\"\ntarget = \"192.168.88.2:443\"\n"
    ));
    let mut surroundings = arbitrary::surroundings(&policy);
    surroundings.banned.push([203, 0, 113, 10].into());

    let outcome = evaluate(&policy, &surroundings, &syn(443));

    assert_eq!(outcome, Outcome::Dropped { stage: "prerouting", reason: "banned" });
}

const HEAD: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n[wan]\ninterface = \"eth0\"\n\
                    [[peer]]\nname = \"wroclaw\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
                    allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\"]\n";

fn forwarded_to(policy: &gateway::Policy, port: u16) -> Option<u16> {
    match evaluate(policy, &arbitrary::surroundings(policy), &syn(port)) {
        Outcome::Forwarded { port, .. } => port,
        Outcome::Delivered | Outcome::Dropped { .. } | Outcome::Unroutable => None,
    }
}

fn syn(destination: u16) -> Packet {
    Packet {
        arrival: Arrival::Interface("eth0".to_owned()),
        source: [203, 0, 113, 10].into(),
        destination: [192, 0, 2, 2].into(),
        transport: Transport::Tcp { source: 40_000, destination },
        relayed: false,
    }
}

fn for_many_packets(mut check: impl FnMut(&gateway::Policy, &Packet, &Outcome)) {
    for seed in 0..100 {
        let policy = parsed(&arbitrary::gateway_text(seed));
        let mut random = Random::new(seed);
        for _ in 0..100 {
            let packet = arbitrary::packet(&mut random, &policy);
            check(&policy, &packet, &evaluate(&policy, &arbitrary::surroundings(&policy), &packet));
        }
    }
}

fn is_lan(policy: &gateway::Policy, packet: &Packet) -> bool {
    policy.lan.iter().any(|prefix| prefix.contains(packet.source))
}

fn service(packet: &Packet) -> Option<(Protocol, u16)> {
    match packet.transport {
        Transport::Tcp { destination, .. } | Transport::Stray { destination, .. } => {
            Some((Protocol::Tcp, destination))
        }
        Transport::Udp { destination, .. } => Some((Protocol::Udp, destination)),
        Transport::Echo => None,
    }
}

fn parsed(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}
