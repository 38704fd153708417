//! Which public ports a peer gets that requests them by itself.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

use policy::evaluator::{Arrival, Outcome, Packet, Surroundings, Transport, evaluate};
use policy::gateway::{Judged, MAX_GRANTS, Policy, Refusal, Requested, Requests, granted, parse};
use policy::plan::Conditions;
use policy::ruleset::{Present, Ruleset, ServiceKind, ServiceMark, admit};
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
    let reply = granted(&policy(), &[], &name("unknown"), &[request("80")]);
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
        let request = Requested { targets: vec![target.parse().unwrap()], ..request("80") };
        assert_eq!(one(&policy(), &[], &request), reply, "{target}");
    }
}

#[test]
fn of_a_target_of_both_families_each_address_that_is_the_peers_is_published() {
    let with_ipv6 = TEXT.replace("\"10.77.88.2/32\"", "\"10.77.88.2/32\", \"fd77:88::2/128\"");
    for (text, asked, published) in [
        (with_ipv6.as_str(), vec!["10.77.88.2", "fd77:88::2"], vec!["10.77.88.2", "fd77:88::2"]),
        (&with_ipv6, vec!["fd77:88::2"], vec!["fd77:88::2"]),
        (&with_ipv6, vec!["10.77.88.3", "fd77:88::2"], vec!["fd77:88::2"]),
        (&with_ipv6, vec!["10.77.88.2", "192.168.1.50", "192.168.88.2"], vec!["10.77.88.2"]),
        (TEXT, vec!["10.77.88.2", "fd77:88::2"], vec!["10.77.88.2"]),
        (TEXT, vec!["fd77:88::2"], vec![]),
        (TEXT, vec![], vec![]),
    ] {
        let targets = asked.iter().map(|target| target.parse().unwrap()).collect();
        let reply =
            granted(&policy_of(text), &[], &name("wroclaw"), &[Requested { targets, ..request("80") }]);
        let found = reply[0].as_ref().map(|grant| grant.targets.clone()).unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, published, "{asked:?}");
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
fn what_is_granted_is_published_on_the_wan_side_under_the_peers_name_and_nothing_else_is() {
    let mut requests = Requests::default();
    requests.replace(&name("wroclaw"), ["80", "443", "443/udp", "22", "8883"].map(request).to_vec());
    requests.replace(&name("unknown"), vec![request("81")]);
    let judged = requests.judge(&policy(), &[]);
    let replies = judged.replies.get(&name("wroclaw")).unwrap();
    assert_eq!(replies[..3], [Ok(()); 3]);
    assert_eq!(replies[3..], [Err(Refusal::NotAllowed); 2]);
    assert_eq!(granted_names(&judged), ["wroclaw/web", "wroclaw/web-443", "wroclaw/web-443/udp"]);
    let added = &judged.served.publish[policy().publish.len()..];
    assert!(added.iter().all(|publish| publish.wan_only && publish.address.is_none()));
    assert!(added.iter().all(|publish| publish.targets[0].peer == name("wroclaw")));
    assert_eq!(Policy { publish: policy().publish, ..judged.served }, policy());
}

#[test]
fn a_grant_keeps_its_name_and_its_mark_whatever_else_comes_and_goes() {
    let mut requests = Requests::default();
    requests.replace(&name("wroclaw"), vec![request("80")]);
    let first = requests.judge(&policy(), &[]);
    let before = first.served.plan().ruleset.services;
    let mut requests = first.requests;
    requests.replace(&name("wroclaw"), vec![request("443"), request("80")]);
    let second = requests.judge(&policy(), &[]);
    assert_eq!(granted_names(&second), ["wroclaw/web-443", "wroclaw/web"]);
    let after = marks(&second, &before);
    assert!(before.iter().all(|mark| after.contains(mark)), "a mark moved");
    let mut requests = second.requests;
    requests.replace(&name("wroclaw"), vec![request("443")]);
    let third = requests.judge(&policy(), &[]);
    assert_eq!(granted_names(&third), ["wroclaw/web-443"]);
    assert!(marks(&third, &after).iter().all(|mark| after.contains(mark)));
}

#[test]
fn no_name_of_a_peers_service_takes_the_mark_of_another_service() {
    // As many names as a taken origin may try in an hour, next to services of root's file.
    let own = policy().plan().ruleset.services;
    for number in 0..3_600 {
        let mut requests = Requests::default();
        let service = Requested { service: name(&format!("a{number}")), ..request("80") };
        requests.replace(&name("wroclaw"), vec![service]);
        let judged = requests.judge(&policy(), &[]);
        let services = marks(&judged, &own);
        assert!(own.iter().all(|mark| services.contains(mark)), "{number}");
        // Also where there was no table before.
        let fresh = judged.served.plan().ruleset.services;
        assert!(own.iter().all(|mark| fresh.contains(mark)), "{number}");
    }
}

#[test]
fn names_of_services_and_ports_that_read_alike_stay_apart() {
    let of = |service: &str, port: &str| Requested { service: name(service), ..request(port) };
    let mut requests = Requests::default();
    let all = [of("a", "443"), of("a-80", "7001"), of("a", "80"), of("a-80", "7002"), of("a", "443/udp")];
    requests.replace(&name("wroclaw"), all.to_vec());
    let judged = requests.judge(&policy(), &[]);
    let names = granted_names(&judged);
    assert_eq!(names[..2], ["wroclaw/a", "wroclaw/a-80"]);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 5, "{names:?}");
    let marks: BTreeSet<u32> = judged.served.plan().ruleset.services.iter().map(|mark| mark.mark).collect();
    assert_eq!(marks.len(), judged.served.plan().ruleset.services.len());
}

#[test]
fn marks_of_a_forged_state_are_given_once_and_never_outside_the_grants_range() {
    let mut requests = Requests::default();
    requests.replace(&name("wroclaw"), ["80", "443"].map(request).to_vec());
    let judged = requests.judge(&policy(), &[]);
    let own = policy().plan().ruleset.services;
    for number in [0, 1, own[0].mark & 0xffff, 0x6001, 0x7fff, 0x8000, 0xffff] {
        let forged: Vec<ServiceMark> = ["wroclaw/web", "wroclaw/web-443"]
            .map(|text| ServiceMark {
                name: Name::granted(text).unwrap(),
                kind: ServiceKind::Publish,
                mark: policy().kernel.ct_mark | number,
            })
            .to_vec();
        let services = marks(&judged, &forged);
        let distinct: BTreeSet<u32> = services.iter().map(|mark| mark.mark).collect();
        assert_eq!(distinct.len(), services.len(), "{number:#x}");
        assert!(own.iter().all(|mark| services.contains(mark)), "{number:#x}");
        let granted = services.iter().filter(|mark| mark.name.is_granted());
        assert!(
            granted.into_iter().all(|mark| (0x6000..0x8000).contains(&(mark.mark & 0xffff))),
            "{number:#x}"
        );
    }
}

#[test]
fn what_the_kernels_helper_passes_on_and_reads_back_has_the_grants() {
    let mut requests = Requests::default();
    let long = Requested { service: name(&"s".repeat(Name::MAX)), ..request("5000-5010") };
    requests.replace(&name("wroclaw"), vec![request("80"), request("443/udp"), long]);
    let judged = requests.judge(&policy(), &[]);
    let ruleset = judged.served.plan().ruleset;
    let targets = judged.served.tunnel_prefixes().collect();
    for transaction in [ruleset.replace(), ruleset.install(&Present::nothing())] {
        admit(&transaction.to_string(), &targets, &BTreeSet::new()).unwrap();
    }
    let guard = Ruleset::guard(&judged.served, 1420).replace();
    assert_eq!(guard, Ruleset::guard(&policy(), 1420).replace(), "the guard reads no grants");
}

#[test]
fn a_granted_port_leads_unauthenticated_sources_to_the_peer_and_no_one_else() {
    let mut requests = Requests::default();
    requests.replace(&name("wroclaw"), vec![request("80")]);
    let judged = requests.judge(&policy(), &[]);
    let surroundings = Surroundings {
        addresses: ["192.0.2.2", "192.168.1.2"].map(|address| address.parse().unwrap()).to_vec(),
        links: vec![
            ("eth0".to_owned(), "192.0.2.0/24".parse().unwrap()),
            ("lan0".to_owned(), "192.168.1.0/24".parse().unwrap()),
        ],
        default_routes: vec![("eth0".to_owned(), true)],
        public: vec!["192.0.2.2".parse().unwrap()],
        pinned: vec!["lan0".to_owned()],
        ..Surroundings::default()
    };
    let packet = |arrival, source: &str| Packet {
        arrival,
        source: source.parse().unwrap(),
        destination: "192.0.2.2".parse().unwrap(),
        transport: Transport::Tcp { source: 40_000, destination: 80 },
        relayed: false,
    };
    let interface = |name: &str| Arrival::Interface(name.to_owned());
    let outcome = |packet| evaluate(&judged.served, &surroundings, &packet);
    let wan = outcome(packet(interface("eth0"), "203.0.113.10"));
    assert!(
        matches!(wan, Outcome::Forwarded { to, port: Some(80), masqueraded: false, .. } if to == request("80").targets[0])
    );
    assert_eq!(outcome(packet(interface("lan0"), "192.168.1.50")), Outcome::Delivered);
    assert_eq!(outcome(packet(Arrival::Edge, "192.0.2.2")), Outcome::Delivered);
}

fn granted_names(judged: &Judged) -> Vec<String> {
    let granted = judged.served.publish.iter().filter(|publish| publish.name.is_granted());
    granted.map(|publish| publish.name.to_string()).collect()
}

/// The marks of what is served, where these were in force before.
fn marks(judged: &Judged, before: &[ServiceMark]) -> Vec<ServiceMark> {
    let conditions = Conditions { marks: before.to_vec(), ..Conditions::default() };
    judged.served.plan_under(&conditions).ruleset.services
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
        targets: vec![[10, 77, 88, 2].into()],
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
    policy_of(TEXT)
}

fn policy_of(text: &str) -> Policy {
    parse(&Source { name: Path::new("/etc/gateway.toml"), text })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}
