//! Which public ports a peer gets that requests them by itself.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use policy::gateway::{MAX_GRANTS, Policy, Refusal, Requested, granted, parse};
use policy::trust::Listener;
use policy::{AllowList, Name, PortRange, Protocol, PublicPorts, Source};

const TEXT: &str = r#"
[interface]
address = ["10.77.88.1/24"]
private_key_file = "kyiv.key"
[wan]
accept = ["tcp/22"]
[lan]
prefixes = ["192.168.1.0/24"]
[[list]]
name = "partners"
file = "partners.list"
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "192.168.0.0/16"]
may_publish = ["80", "443", "443/udp", "5000-5010", "5011-5020", "7000-7100"]
[[peer]]
name = "second"
public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
allowed_ips = ["10.77.88.3/32", "192.168.89.0/24"]
may_publish = ["81"]
[[publish]]
name = "mqtt"
listen = "8883"
target = "192.168.88.2:8883"
"#;

#[test]
fn a_peer_gets_ports_of_its_own_grant_and_no_others() {
    for (port, reply) in [
        ("80", Ok(())),
        ("443/udp", Ok(())),
        ("5005-5015", Ok(())),
        ("80/udp", Err(Refusal::NotAllowed)),
        ("81", Err(Refusal::NotAllowed)),
        ("5000-5021", Err(Refusal::NotAllowed)),
        ("22", Err(Refusal::NotAllowed)),
    ] {
        assert_eq!(one(&policy(), &[], &request(port)), reply, "{port}");
    }
    let reply = granted(&policy(), &[], &name("nobody"), &[request("80")]);
    assert_eq!(reply, [Err(Refusal::NotAllowed)]);
}

#[test]
fn what_the_edge_uses_is_in_use_whatever_the_grant_has() {
    // A grant that no file has: its check refuses these.
    let mut policy = policy();
    policy.peers[0].may_publish = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| PublicPorts { protocol, ports: PortRange::ALL })
        .to_vec();
    for port in ["22", "20-25", "8883", "51899", "51820/udp", "51000-52000/udp", "9091", "53/udp"] {
        let listeners = [
            listener(Protocol::Tcp, "0.0.0.0", 9_091),
            listener(Protocol::Udp, "192.168.1.2", 53),
            listener(Protocol::Tcp, "127.0.0.1", 8_080),
        ];
        assert_eq!(one(&policy, &listeners, &request(port)), Err(Refusal::InUse), "{port}");
        assert_eq!(one(&policy, &listeners, &request("8080")), Ok(()), "loopback takes no public port");
    }
    for port in ["22/udp", "8883/udp", "51820", "51899/udp"] {
        assert_eq!(one(&policy, &[], &request(port)), Ok(()), "{port}");
    }
}

#[test]
fn a_target_is_the_peers_by_the_longest_prefix() {
    for (target, reply) in [
        ("10.77.88.2", Ok(())),
        ("192.168.88.2", Ok(())),
        ("192.168.89.7", Err(Refusal::TargetElsewhere)),
        ("10.77.88.3", Err(Refusal::TargetElsewhere)),
        ("10.77.88.1", Err(Refusal::TargetElsewhere)),
        ("192.168.1.50", Err(Refusal::TargetElsewhere)),
        ("203.0.113.10", Err(Refusal::TargetElsewhere)),
        ("127.0.0.1", Err(Refusal::TargetElsewhere)),
    ] {
        let request = Requested { target: target.parse().unwrap(), ..request("80") };
        assert_eq!(one(&policy(), &[], &request), reply, "{target}");
    }
}

#[test]
fn ports_are_counted_lists_are_the_edges_and_what_comes_first_has_its_port() {
    let other_count = Requested { target_ports: PortRange::new(1, 2).unwrap(), ..request("80") };
    assert_eq!(one(&policy(), &[], &other_count), Err(Refusal::OtherCount));
    let only = |list| AllowList::Only { prefixes: Vec::new(), lists: vec![name(list)] };
    let known = Requested { allow: only("partners"), ..request("80") };
    let unknown = Requested { allow: only("cloudflare"), ..request("80") };
    assert_eq!(one(&policy(), &[], &known), Ok(()));
    assert_eq!(one(&policy(), &[], &unknown), Err(Refusal::UnknownList));

    let requests = ["5000-5010", "5010-5015", "443", "443/udp", "443"].map(request);
    let replies = granted(&policy(), &[], &name("wroclaw"), &requests);
    let refused: Vec<_> = replies.iter().map(|reply| reply.as_ref().err().copied()).collect();
    assert_eq!(refused, [None, Some(Refusal::RequestedTwice), None, None, Some(Refusal::RequestedTwice)]);
    assert_eq!(replies[0].as_ref().unwrap().to_string(), "wroclaw/web");
}

#[test]
fn a_peer_has_a_bounded_number_of_grants() {
    let requests: Vec<Requested> = (7_000..=7_100).map(|port| request(&port.to_string())).collect();
    let replies = granted(&policy(), &[], &name("wroclaw"), &requests);
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), MAX_GRANTS);
    assert!(replies[MAX_GRANTS..].iter().all(|reply| *reply == Err(Refusal::TooMany)));
}

#[test]
fn what_the_file_says_is_written_again() {
    let policy = policy();
    let again = policy.to_toml();
    let again = parse(&Source { name: Path::new("/etc/gateway.toml"), text: &again }).unwrap();
    assert_eq!(again.peers[0].may_publish, policy.peers[0].may_publish);
}

fn one(policy: &Policy, in_use: &[Listener], request: &Requested) -> Result<(), Refusal> {
    let replies = granted(policy, in_use, &name("wroclaw"), std::slice::from_ref(request));
    replies[0].as_ref().map(|_| ()).map_err(|refusal| *refusal)
}

fn request(port: &str) -> Requested {
    let (ports, protocol) = match port.strip_suffix("/udp") {
        Some(ports) => (ports, Protocol::Udp),
        None => (port, Protocol::Tcp),
    };
    let ports = policy::text::ports(ports).unwrap();
    Requested {
        service: name("web"),
        port: PublicPorts { protocol, ports },
        target: [10, 77, 88, 2].into(),
        target_ports: ports,
        allow: AllowList::Any,
    }
}

fn listener(protocol: Protocol, address: &str, port: u16) -> Listener {
    Listener { protocol, address: address.parse().unwrap(), port }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn policy() -> Policy {
    parse(&Source { name: Path::new("/etc/gateway.toml"), text: TEXT })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}
