use std::path::Path;

use super::*;
use crate::Source;
use crate::gateway::parse;
use crate::system::{LinkRoute, Neighbour};

const KERNEL: u8 = 2;
const STATIC: u8 = 4;
const DHCP: u8 = 16;
const RA: u8 = 9;

#[test]
fn the_lan_is_an_interface_with_its_own_prefix_and_no_default_route() {
    let system = machine();
    let pins = Pins::new(&policy(""), &system, &[]);

    let trust = pins.trust(&policy(""), &system);

    assert!(is_lan(&trust, 3, "192.168.1.0/24"));
    assert!(is_lan(&trust, 3, "0.0.0.0/32") && is_lan(&trust, 3, "fe80::/10"));
    assert!(!trust.holds(2) && trust.containers.contains(&9));
}

#[test]
fn routes_that_outsiders_install_pin_nothing_and_a_static_one_does() {
    for (protocol, expected) in [(DHCP, false), (RA, false), (KERNEL, true), (STATIC, true)] {
        let mut system = machine();
        system.links.retain(|link| link.index != 3);
        system.links.push(link(5, "eth5", LinkKind::Other, None, &["10.1.0.1/24"]));
        system.routes.push(route("192.168.1.0/24", 5, Some("10.1.0.9"), protocol));

        let trust = Pins::new(&policy(""), &system, &[]).trust(&policy(""), &system);

        assert_eq!(trust.holds(5), expected, "protocol {protocol}");
    }
}

#[test]
fn trust_shrinks_by_itself_and_grows_by_apply_alone() {
    let (policy, whole) = (policy(""), machine());
    let mut pins = Pins::new(&policy, &whole, &[]);
    let trusted = |pins: &Pins, system: &System| pins.trust(&policy, system).holds(3);

    let mut without = whole.clone();
    without.links[2].addresses.clear();
    assert!(!trusted(&pins, &without), "its prefix is gone");
    assert!(trusted(&pins, &whole), "and back on the same interface");

    let mut renamed = whole.clone();
    renamed.links[2].name = "old".to_owned();
    renamed.links[1].name = "eth1".to_owned();
    pins.follow(&policy, &renamed);
    assert!(!pins.trust(&policy, &renamed).holds(2), "the uplink has the name of the LAN");

    let mut other = whole.clone();
    other.links.push(link(7, "eth7", LinkKind::Other, None, &["192.168.1.9/24"]));
    pins.follow(&policy, &other);
    assert!(!pins.trust(&policy, &other).holds(7), "an interface that came later");
    assert!(Pins::new(&policy, &other, &[]).trust(&policy, &other).holds(7));

    let mut uplink = whole.clone();
    uplink.routes.push(route("::/0", 3, Some("fe80::1"), RA));
    assert!(!trusted(&pins, &uplink), "it became an uplink");
}

#[test]
fn a_kept_interface_that_comes_after_the_start_is_pinned_once_by_its_name() {
    let policy = policy("");
    let whole = machine();
    let kept = Pins::new(&policy, &whole, &[]).kept(&whole);
    let mut early = whole.clone();
    early.links.retain(|link| link.index != 3);
    let mut pins = Pins::new(&policy, &early, &kept);
    assert!(pins.missing().eq(["eth1"]));

    pins.follow(&policy, &whole);
    assert!(pins.trust(&policy, &whole).holds(3));

    let mut renamed = whole.clone();
    renamed.links[2].name = "old".to_owned();
    renamed.links.push(link(8, "eth1", LinkKind::Other, None, &["192.168.1.8/24"]));
    pins.follow(&policy, &renamed);
    assert!(!pins.trust(&policy, &renamed).holds(8), "the name was looked up a second time");
}

#[test]
fn one_cable_is_the_lan_when_it_is_stated_and_its_next_hop_is_known() {
    let mut system = machine();
    system.links[1].addresses = vec!["192.168.1.2/24".parse().unwrap()];
    system.links.retain(|link| link.index != 3);
    assert!(!Pins::new(&policy(""), &system, &[]).trust(&policy(""), &system).holds(2));

    let stated = policy("interfaces = [\"eth0\"]");
    let mut pins = Pins::new(&stated, &system, &[]);
    assert!(!pins.trust(&stated, &system).holds(2), "its next hop cannot be distinguished from a LAN host");
    assert_eq!(pins.unresolved(&system), [(2, "192.0.2.1".parse().unwrap())]);

    let (hop, mac) = ("192.0.2.1".parse().unwrap(), [2, 0, 0, 0, 0, 9]);
    system.neighbours.push(Neighbour { link: 2, address: hop, mac });
    pins.follow(&stated, &system);
    let trust = pins.trust(&stated, &system);
    assert!(is_lan(&trust, 2, "192.168.1.0/24") && trust.next_hops.contains(&(2, mac)));
    assert!(!is_lan(&trust, 2, "fe80::/10"), "on an uplink every host has such an address");

    system.neighbours.clear();
    system.routes.clear();
    let trust = pins.trust(&stated, &system);
    assert!(trust.next_hops.contains(&(2, mac)), "a next hop is remembered");
}

#[test]
fn a_bridge_is_a_container_network_by_its_ports_and_routes_and_not_by_its_name() {
    let mut system = machine();
    let containers = |system: &System| {
        let trust = Pins::new(&policy(""), system, &[]).trust(&policy(""), system);
        (trust.containers.contains(&9), trust.own_containers.contains(&9))
    };
    assert_eq!(containers(&system), (true, true));

    system.links.iter_mut().filter(|link| link.index == 9).for_each(|link| link.name = "lxd".to_owned());
    assert_eq!(containers(&system), (true, false), "containers of other names are not \"self\"");

    system.links.push(link(11, "eth9", LinkKind::Other, Some(9), &[]));
    assert_eq!(containers(&system), (false, false), "a network card in it");

    system.links.pop();
    system.routes.push(route("0.0.0.0/1", 9, Some("172.17.0.9"), STATIC));
    assert_eq!(containers(&system), (false, false), "half of a default route");
}

#[test]
fn an_interface_that_is_missing_and_a_prefix_that_none_has_are_named_with_what_there_is() {
    let mut system = machine();
    let ok = policy("");
    assert_eq!(remarks(&ok, &Pins::new(&ok, &system, &[]), &system), Vec::<String>::new());

    let stated = policy("interfaces = [\"eth8\"]");
    let said = remarks(&stated, &Pins::new(&stated, &system, &[]), &system).join("\n");
    assert!(said.contains("there is no eth8") && said.contains("eth0, eth1, docker0"), "{said}");

    system.links[2].addresses.clear();
    system.links[1].name = "end0".to_owned();
    let said = remarks(&ok, &Pins::new(&ok, &system, &[]), &system).join("\n");
    assert!(said.contains("there is no eth0; the default route leaves by end0"), "{said}");
    assert!(said.contains("no source in 192.168.1.0/24 of [lan] is trusted: no interface has"), "{said}");
}

#[test]
fn the_edges_own_rules_go_before_those_that_others_add_while_there_is_room() {
    for (rules, expected) in [
        (vec![32_766, 32_767], 4_357),
        (vec![4_360], 4_357),
        (vec![4_359], 4_356),
        (vec![4_355, 4_356, 32_766], 4_352),
        (vec![100], 97),
        (vec![3, 32_766], 4_357),
        (vec![], 4_357),
    ] {
        let system = System { rules: rules.clone(), ..System::default() };
        assert_eq!(system.rule_priority(4_357), expected, "{rules:?}");
    }
}

#[test]
fn what_a_change_of_trust_closes_is_listed_port_by_port() {
    let (policy, mut system) = (policy(""), machine());
    system.links.push(link(6, "eth6", LinkKind::Other, None, &["198.18.5.1/24"]));
    let trust = Pins::new(&policy, &system, &[]).trust(&policy, &system);
    let listener = |address: &str, port| Listener {
        protocol: crate::Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
    };
    let listeners = [
        listener("0.0.0.0", 8080),
        listener("0.0.0.0", 22),
        listener("127.0.0.1", 25),
        listener("192.168.1.2", 53),
    ];

    let lines = closed_since_names(&policy, &system, &trust, &listeners);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("tcp/8080 becomes closed to hosts on eth6"), "{lines:?}");

    let lines = closed_between(&policy, &system, (&trust, &Trust::default()), &listeners);
    assert!(lines.iter().any(|line| line.starts_with("tcp/53 becomes closed to hosts on eth1")), "{lines:?}");
}

/// The worked example with one peer and, under `[lan]`, another line.
fn policy(lan: &str) -> Policy {
    let text = format!(
        "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n[wan]\ninterface = \"eth0\"\n\
         accept = [\"tcp/22\"]\n[lan]\nprefixes = [\"192.168.1.0/24\"]\n{lan}\n[[peer]]\nname = \"wroclaw\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nallowed_ips = [\"10.77.88.2/32\"]\n"
    );
    parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap()
}

/// `lo` 1, the uplink `eth0` 2, the LAN's `eth1` 3, `docker0` 9 with a container on it.
fn machine() -> System {
    System {
        links: vec![
            link(1, "lo", LinkKind::Loopback, None, &["127.0.0.1/8"]),
            link(2, "eth0", LinkKind::Other, None, &["192.0.2.2/24"]),
            link(3, "eth1", LinkKind::Other, None, &["192.168.1.2/24"]),
            link(9, "docker0", LinkKind::Bridge, None, &["172.17.0.1/16"]),
            link(10, "veth1", LinkKind::Virtual, Some(9), &[]),
        ],
        routes: vec![route("0.0.0.0/0", 2, Some("192.0.2.1"), STATIC)],
        neighbours: Vec::new(),
        rules: vec![32_766, 32_767],
        has_foreign_rules: false,
    }
}

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Link { index, name: name.to_owned(), kind, master, addresses }
}

fn route(destination: &str, link: u32, gateway: Option<&str>, protocol: u8) -> LinkRoute {
    let gateway = gateway.map(|text| text.parse().unwrap());
    LinkRoute { destination: destination.parse().unwrap(), link, gateway, table: 254, metric: 0, protocol }
}

fn is_lan(trust: &Trust, index: u32, source: &str) -> bool {
    trust.lan.contains(&(index, source.parse().unwrap()))
}
