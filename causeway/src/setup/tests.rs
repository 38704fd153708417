//! Hand-written machines: what is proposed to each. `tests/setup/NAME.toml` has the proposed text,
//! `NAME.txt` what is said next to it. After a change, run with `UPDATE_EXPECTED=1` and read the
//! difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use gateway::firewalls::Firewall;
use policy::gateway::{Answers, Policy};
use policy::system::{Link, LinkKind, LinkRoute, System};
use policy::trust::Listener;
use policy::{Protocol, Source};

use super::existing::{self, differences};
use super::machine::{Clock, Listening, Machine};
use super::proposal::{Named, NoProposal, Proposal};
use super::{records, router};

#[test]
fn every_machine_gets_the_text_and_the_findings_that_are_expected() {
    let mut wrong = Vec::new();
    for (name, machine, answers) in machines() {
        let leads_to = addresses(&machine);
        let named = Named { addresses: Some(&leads_to) };
        let proposal = Proposal::of(&machine, &answers, named).unwrap();
        parsed(&proposal.text);
        let findings = proposal.findings.iter().map(ToString::to_string);
        let said: String = findings
            .chain(router::visit(&machine, &proposal.settings))
            .chain(records::records(&machine, &proposal.settings))
            .map(|line| format!("{line}\n"))
            .collect();
        for (end, text) in [("toml", proposal.text), ("txt", said)] {
            if !is_expected(&format!("{name}.{end}"), &text) {
                wrong.push(format!("{name}.{end}:\n{text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn the_text_says_what_was_decided_and_no_line_is_too_long() {
    for (name, machine, answers) in machines() {
        let Proposal { settings, text, .. } = Proposal::of(&machine, &answers, Named::default()).unwrap();
        let policy = parsed(&text);
        assert_eq!(policy.interface.address, settings.address, "{name}");
        assert_eq!(policy.interface.listen_port, settings.listen_port, "{name}");
        assert_eq!(policy.wan.name, settings.name, "{name}");
        assert_eq!(policy.wan.accept, settings.accept, "{name}");
        assert_eq!(policy.lan, settings.lan.prefixes, "{name}");
        assert_eq!(policy.lan_interfaces, settings.lan.named, "{name}");
        assert!(policy.page.listen.is_empty(), "{name}");
        let with_page = parsed(&text.replace("# [page]\n", "[page]\n"));
        assert_eq!(with_page.page.listen.len(), 1, "{name}");
        assert!(policy.warnings.is_empty(), "{name}: {:?}", policy.warnings);
        let comments = text.lines().filter(|line| line.starts_with('#'));
        assert!(comments.into_iter().all(|line| line.len() <= 100), "{name}:\n{text}");
    }
}

#[test]
fn the_tunnel_gets_a_network_that_no_interface_route_or_server_has() {
    let mut machine = pi();
    let address = |machine: &Machine| {
        let proposal = Proposal::of(machine, &Answers::default(), Named::default()).unwrap();
        proposal.settings.address.first().unwrap().to_string()
    };
    assert_eq!(address(&machine), "10.77.88.1/24");
    machine.system.routes.push(route("10.77.88.0/23", 2, Some("192.168.1.1")));
    assert_eq!(address(&machine), "10.77.90.1/24");
    machine.name_servers = vec![ip("10.77.90.53")];
    assert_eq!(address(&machine), "10.77.91.1/24");

    let taken = Answers { address: Some(vec!["10.77.88.9/24".parse().unwrap()]), ..Answers::default() };
    let error = Proposal::of(&machine, &taken, Named::default()).unwrap_err();
    assert!(matches!(error, NoProposal::Used { .. }), "{error}");
    machine
        .system
        .routes
        .extend(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(|to| route(to, 2, None)));
    let error = Proposal::of(&machine, &Answers::default(), Named::default()).unwrap_err();
    assert_eq!(error, NoProposal::NoNetwork);
}

#[test]
fn the_port_by_which_the_operator_is_here_stays_open_whatever_program_has_it() {
    let mut machine = vps();
    machine.listening = vec![listening("tcp", "0.0.0.0", 2222, "sshd"), listening("tcp", "::", 7, "x")];
    machine.ssh_session = Some(443);
    let proposal = Proposal::of(&machine, &Answers::default(), Named::default()).unwrap();
    let accept: Vec<String> = proposal.settings.accept.iter().map(ToString::to_string).collect();
    assert_eq!(accept, ["tcp/443", "tcp/2222"]);
    let none = Answers { accept: Some(Vec::new()), ..Answers::default() };
    let proposal = Proposal::of(&machine, &none, Named::default()).unwrap();
    assert!(proposal.settings.accept.is_empty(), "an answer is not corrected");
    let said = proposal.findings.iter().map(ToString::to_string).collect::<String>();
    assert!(said.contains("[wan] accept lacks tcp/443"), "{said}");
}

#[test]
fn a_name_is_judged_by_where_it_leads() {
    let answers = Answers { name: policy::text::host("kyiv.example.com"), ..Answers::default() };
    for (machine, leads_to, said) in [
        (vps(), "203.0.113.5", "  ok: kyiv.example.com leads to 203.0.113.5, this machine"),
        (
            vps(),
            "198.51.100.1",
            "  missing: kyiv.example.com leads to 198.51.100.1, and this machine has 203.0.113.5",
        ),
        (
            vps(),
            "",
            "  missing: kyiv.example.com has no address: set the DNS record kyiv.example.com A 203.0.113.5",
        ),
        (
            pi(),
            "",
            "  missing: kyiv.example.com has no address: set the DNS record kyiv.example.com A ADDRESS",
        ),
        (
            pi(),
            "192.168.1.2",
            "  missing: kyiv.example.com leads to 192.168.1.2, which no host of the internet reaches",
        ),
        (
            pi_with_ipv6(),
            "",
            "  missing: kyiv.example.com has no address: set the DNS record kyiv.example.com A ADDRESS",
        ),
        (
            pi_with_ipv6(),
            "198.51.100.1",
            "  ok: kyiv.example.com leads to 198.51.100.1, which must be the router's",
        ),
        (
            pi_with_ipv6(),
            "2001:db8:1::9",
            "  missing: kyiv.example.com leads to 2001:db8:1::9, and this machine has 2001:db8:1::2",
        ),
        (pi(), "198.51.100.1", "  ok: kyiv.example.com leads to 198.51.100.1, which must be the router's"),
    ] {
        let addresses: Vec<IpAddr> = leads_to.split_whitespace().map(ip).collect();
        let proposal = Proposal::of(&machine, &answers, Named { addresses: Some(&addresses) }).unwrap();
        let found = proposal.findings.iter().any(|finding| finding.to_string().starts_with(said));
        assert!(found, "{leads_to}: {:?}", proposal.findings);
    }
}

#[test]
fn a_program_cannot_write_into_the_file_by_its_name() {
    let mut machine = vps();
    machine.listening = vec![listening("tcp", "0.0.0.0", 7, "x\n[wan]\naccept = [\"tcp/1\"]")];
    let proposal = Proposal::of(&machine, &Answers::default(), Named::default()).unwrap();
    assert!(proposal.text.contains("tcp/7 (xwanaccepttcp1)"), "{}", proposal.text);
    assert!(parsed(&proposal.text).wan.accept.is_empty());
}

#[test]
fn a_file_that_this_machine_would_get_again_has_no_differences() {
    for (name, machine, answers) in machines() {
        let policy = parsed(&Proposal::of(&machine, &answers, Named::default()).unwrap().text);
        let found = compared(&machine, &policy, &answers);
        assert_eq!(found, [""; 0], "{name}");
    }
}

#[test]
fn a_running_edge_is_not_taken_for_a_network_in_use() {
    let mut machine = pi();
    let policy = parsed(&Proposal::of(&machine, &Answers::default(), Named::default()).unwrap().text);
    machine.system.links.push(link(9, "gw0", LinkKind::Virtual, &["10.77.88.1/24"]));
    machine.system.routes.push(route("10.77.88.0/24", 9, None));
    machine.listening.push(listening("udp", "0.0.0.0", 51_820, "gateway"));
    machine.listening.push(listening("tcp", "10.77.88.1", 51_899, "gateway"));
    machine.listening.push(listening("tcp", "127.0.0.1", 9_586, "gateway"));
    let machine = machine.without(&policy);
    assert_eq!(compared(&machine, &policy, &Answers::default()), [""; 0]);
    let again = Proposal::of(&machine, &Answers::default(), Named::default()).unwrap();
    assert_eq!(parsed(&again.text), policy);
}

#[test]
fn what_a_file_lacks_is_no_contradiction_of_an_answer() {
    let text = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n[lan]\nprefixes = []\n";
    let (machine, policy) = (pi(), parsed(text));
    let found = compared(&machine, &policy, &Answers::default());
    assert_eq!(
        found,
        [
            "[wan] accept is [], and on this machine it would be [\"tcp/22\"]",
            "[lan] prefixes is [], and on this machine it would be [\"192.168.1.0/24\"]",
        ]
    );
    let answers = Answers {
        name: policy::text::host("kyiv.example.com"),
        listen_port: Some(51_820),
        lan: Some(Vec::new()),
        accept: Some(Vec::new()),
        ..Answers::default()
    };
    let found = compared(&machine, &policy, &answers);
    assert_eq!(found, ["[wan] name is not there, and the answer is \"kyiv.example.com\""]);
}

fn compared(machine: &Machine, policy: &Policy, answers: &Answers) -> Vec<String> {
    let settings =
        Proposal::of(machine, &existing::answers(policy, answers), Named::default()).unwrap().settings;
    differences(policy, answers, &settings).iter().map(ToString::to_string).collect()
}

/// Every kind of machine, with the answers of its operator.
fn machines() -> Vec<(&'static str, Machine, Answers)> {
    let none = Answers::default;
    let kyiv = || Answers { name: policy::text::host("kyiv.example.com"), ..none() };
    vec![
        ("pi_at_a_router", pi(), kyiv()),
        ("pi_without_a_name", pi(), none()),
        ("pi_with_ipv6", pi_with_ipv6(), none()),
        ("two_arms", two_arms(), kyiv()),
        ("vps", vps(), none()),
        ("wifi_only", wifi(), kyiv()),
        ("pppoe", pppoe(), kyiv()),
        ("vlan", vlan(), kyiv()),
        ("ipv6_only", ipv6_only(), none()),
        ("docker_and_ufw", docker_and_ufw(), kyiv()),
        ("ports_in_use", ports_in_use(), none()),
        ("no_default_route", no_default_route(), none()),
        ("double_nat", double_nat(), kyiv()),
        ("behind_a_shared_address", Machine { hops: vec![ip("100.64.0.1")], ..pi() }, kyiv()),
        ("shared_address", shared_address(), none()),
        ("shared_address_and_ipv6", shared_address_and_ipv6(), none()),
        ("old_and_bare", old_and_bare(), kyiv()),
    ]
}

fn pi() -> Machine {
    Machine {
        system: System {
            links: vec![loopback(), link(2, "eth0", LinkKind::Other, &["192.168.1.2/24", "fe80::2/64"])],
            routes: vec![route("0.0.0.0/0", 2, Some("192.168.1.1")), route("192.168.1.0/24", 2, None)],
            ..System::default()
        },
        listening: vec![
            listening("tcp", "0.0.0.0", 22, "sshd"),
            listening("tcp", "127.0.0.1", 631, "cupsd"),
            listening("udp", "0.0.0.0", 68, "dhcpcd"),
            listening("udp", "0.0.0.0", 5_353, "avahi-daemon"),
            listening("udp", "0.0.0.0", 40_001, "avahi-daemon"),
        ],
        name_servers: vec![ip("192.168.1.1")],
        clock: Clock { is_behind: false, is_set: Some(true) },
        kernel: "6.12.25+rpt-rpi-v8".to_owned(),
        nft: Some("1.0.6".to_owned()),
        has_tun: true,
        ..Machine::default()
    }
}

fn pi_with_ipv6() -> Machine {
    let mut machine = pi();
    machine.system.links.truncate(1);
    machine.system.links.push(link(2, "eth0", LinkKind::Other, &["192.168.1.2/24", "2001:db8:1::2/64"]));
    machine.system.routes.push(route("::/0", 2, Some("fe80::1")));
    machine
}

fn two_arms() -> Machine {
    let mut machine = pi();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &["192.0.2.2/24"]),
        link(3, "eth1", LinkKind::Other, &["192.168.1.2/24", "fd00:1::2/64"]),
    ];
    machine.system.routes = vec![
        route("0.0.0.0/0", 2, Some("192.0.2.1")),
        route("192.0.2.0/24", 2, None),
        route("192.168.1.0/24", 3, None),
    ];
    machine
}

fn vps() -> Machine {
    let mut machine = pi();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &["10.19.0.5/16", "203.0.113.5/24", "2001:db8:5::2/64"]),
    ];
    machine.system.routes = vec![
        route("0.0.0.0/0", 2, Some("203.0.113.1")),
        route("::/0", 2, Some("fe80::1")),
        route("10.19.0.0/16", 2, None),
    ];
    machine.listening = vec![listening("tcp", "::", 22, "systemd")];
    machine
}

fn wifi() -> Machine {
    let mut machine = pi();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &[]),
        link(3, "wlan0", LinkKind::Other, &["192.168.1.7/24"]),
    ];
    machine.system.routes =
        vec![route("0.0.0.0/0", 3, Some("192.168.1.1")), route("192.168.1.0/24", 3, None)];
    machine.wireless = ["wlan0".to_owned()].into();
    machine
}

fn pppoe() -> Machine {
    let mut machine = two_arms();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &[]),
        link(3, "eth1", LinkKind::Other, &["192.168.1.1/24"]),
        link(4, "ppp0", LinkKind::Other, &["198.51.100.4/32"]),
    ];
    machine.system.routes = vec![
        route("0.0.0.0/0", 4, None),
        route("198.51.100.1/32", 4, None),
        route("192.168.1.0/24", 3, None),
    ];
    machine.tunnels = ["ppp0".to_owned()].into();
    machine
}

fn vlan() -> Machine {
    let mut machine = two_arms();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &[]),
        link(3, "eth0.35", LinkKind::Other, &["192.0.2.9/24"]),
        link(4, "eth0.10", LinkKind::Other, &["192.168.10.1/24"]),
        link(5, "tun0", LinkKind::Virtual, &["10.8.0.2/24"]),
    ];
    machine.system.routes = vec![
        route("0.0.0.0/0", 3, Some("192.0.2.1")),
        route("192.168.10.0/24", 4, None),
        route("10.8.0.0/24", 5, None),
    ];
    machine.tunnels = ["tun0".to_owned()].into();
    machine
}

fn ipv6_only() -> Machine {
    let mut machine = pi();
    machine.system.links =
        vec![loopback(), link(2, "eth0", LinkKind::Other, &["fe80::2/64", "2001:db8:7::2/64"])];
    machine.system.routes = vec![route("::/0", 2, Some("fe80::1")), route("2001:db8:7::/64", 2, None)];
    machine.name_servers = vec![ip("2001:db8:7::53")];
    machine
}

fn docker_and_ufw() -> Machine {
    let mut machine = pi();
    machine.system.links.extend([
        link(5, "docker0", LinkKind::Bridge, &["172.17.0.1/16"]),
        Link { master: Some(5), ..link(6, "veth1a2b", LinkKind::Virtual, &[]) },
    ]);
    machine.system.routes.push(route("172.17.0.0/16", 5, None));
    machine.firewalls = vec![Firewall::Ufw, Firewall::Docker];
    machine.listening.push(listening("tcp", "0.0.0.0", 9_091, "docker-proxy"));
    machine.listening.push(listening("tcp", "0.0.0.0", 9_091, "container"));
    machine
}

fn ports_in_use() -> Machine {
    let mut machine = vps();
    machine.listening.extend([
        listening("tcp", "0.0.0.0", 80, "nginx"),
        listening("tcp", "203.0.113.5", 443, "nginx"),
        listening("udp", "0.0.0.0", 51_820, ""),
        listening("tcp", "127.0.0.1", 9_586, "node_exporter"),
    ]);
    machine
}

fn no_default_route() -> Machine {
    let mut machine = pi();
    machine.system.routes.retain(|route| !route.is_default());
    machine
}

fn double_nat() -> Machine {
    let mut machine = two_arms();
    machine.system.links = vec![
        loopback(),
        link(2, "eth0", LinkKind::Other, &["192.168.0.2/24"]),
        link(3, "eth1", LinkKind::Other, &["192.168.1.1/24"]),
    ];
    machine.system.routes = vec![
        route("0.0.0.0/0", 2, Some("192.168.0.1")),
        route("192.168.0.0/24", 2, None),
        route("192.168.1.0/24", 3, None),
    ];
    machine.hops = vec![ip("192.168.178.1"), ip("198.51.100.1")];
    machine
}

fn shared_address() -> Machine {
    let mut machine = pi();
    machine.system.links = vec![loopback(), link(2, "wwan0", LinkKind::Other, &["100.64.10.2/30"])];
    machine.system.routes = vec![route("0.0.0.0/0", 2, Some("100.64.10.1"))];
    machine
}

fn shared_address_and_ipv6() -> Machine {
    let mut machine = shared_address();
    machine.system.links.push(link(3, "eth0", LinkKind::Other, &["2001:db8:9::2/64"]));
    machine.system.routes.push(route("::/0", 3, Some("fe80::1")));
    machine
}

fn old_and_bare() -> Machine {
    Machine {
        name_servers: Vec::new(),
        clock: Clock { is_behind: true, is_set: Some(false) },
        kernel: "5.10.0-28-amd64".to_owned(),
        nft: None,
        has_tun: false,
        has_legacy_rules: true,
        firewalls: vec![Firewall::Table { family: "inet".to_owned(), name: "filter".to_owned() }],
        listening: Vec::new(),
        ..pi()
    }
}

/// Where the public name of a machine leads: its own addresses of the internet, else the router's.
fn addresses(machine: &Machine) -> Vec<IpAddr> {
    let own = machine.system.links.iter().flat_map(|link| &link.addresses).map(ipnetwork::IpNetwork::ip);
    let own: Vec<IpAddr> = own.filter(|address| !policy::prefix::is_special(*address)).collect();
    if own.is_empty() { vec![ip("198.51.100.77")] } else { own }
}

fn is_expected(name: &str, text: &str) -> bool {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/setup").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    std::fs::read_to_string(&path).unwrap_or_default() == text
}

fn parsed(text: &str) -> Policy {
    let source = Source { name: Path::new("/etc/causeway/gateway.toml"), text };
    policy::gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
}

fn loopback() -> Link {
    link(1, "lo", LinkKind::Loopback, &["127.0.0.1/8", "::1/128"])
}

fn link(index: u32, name: &str, kind: LinkKind, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Link { index, name: name.to_owned(), kind, master: None, addresses }
}

fn route(destination: &str, link: u32, gateway: Option<&str>) -> LinkRoute {
    LinkRoute {
        destination: destination.parse().unwrap(),
        link,
        gateway: gateway.map(ip),
        table: 254,
        metric: 100,
        protocol: 2,
    }
}

fn listening(protocol: &str, address: &str, port: u16, program: &str) -> Listening {
    let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    let address = match address {
        "0.0.0.0" => Ipv4Addr::UNSPECIFIED.into(),
        "::" => Ipv6Addr::UNSPECIFIED.into(),
        other => ip(other),
    };
    let program = (!program.is_empty()).then(|| program.to_owned());
    Listening { socket: Listener { protocol, address, port }, program }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
