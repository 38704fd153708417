//! Configurations written for the other side.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use arbitrary::Random;
use ipnetwork::IpNetwork;
use migrate::export::{self, EdgeSide, ExportError};
use migrate::import::{self, Exports, FindingKind, WgQuickOptions};
use policy::gateway::{Party, Policy, Service};
use policy::{AllowList, Host, HostPort, Name, PublicKey, Source, forwarder, gateway};

#[test]
fn the_far_end_of_the_worked_example_is_as_written_down() {
    let policy = example();

    assert_same("export-wroclaw.conf", &export::wg_quick(&policy, "wroclaw", &edge()).unwrap());
    assert_same("export-wroclaw.rsc", &export::mikrotik(&policy, "wroclaw", &edge()).unwrap());
    assert_same("export-kyiv.rsc", &export::mikrotik_edge(&policy));
}

#[test]
fn caddy_on_loopback_and_on_a_container_network_is_as_written_down() {
    let loopback = forwarder(&config("forwarder.toml"));
    let cloudflare = Source { name: Path::new("cloudflare.list"), text: &config("lists/cloudflare.list") };
    let cloudflare = policy::sections::parse_list(&cloudflare).unwrap();
    let containers = forwarder(&config("forwarder.toml").replace("127.0.0.1:8443", "caddy:8443"));
    let forwarder = Some("172.30.0.5".parse().unwrap());

    assert_same("export-caddy-loopback.txt", &export::caddy(&loopback, &cloudflare, None).unwrap());
    assert_same("export-caddy-network.txt", &export::caddy(&containers, &[], forwarder).unwrap());
    assert_eq!(
        export::caddy(&containers, &[], None),
        Err(ExportError::ForwarderUnknown { upstream: "caddy:8443".to_owned() })
    );
    let without = config("forwarder.toml").replace("proxy_protocol = \"v2\"", "");
    assert_eq!(export::caddy(&self::forwarder(&without), &[], None), Err(ExportError::NoHeader));
}

#[test]
fn a_peer_is_found_by_its_name_and_needs_an_address_in_the_tunnel() {
    let refused = export::wg_quick(&example(), "wroclav", &edge()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there is no peer \"wroclav\"; the peers are wroclaw: did you mean \"wroclaw\"?"
    );

    let text = config("gateway.toml").replace("\"10.77.88.2/32\", ", "");
    let refused = export::mikrotik(&gateway(&text), "wroclaw", &edge()).unwrap_err();
    assert_eq!(refused, ExportError::NoTunnelAddress { peer: Name::new("wroclaw").unwrap() });
}

#[test]
fn no_export_holds_a_private_key_and_hooks_survive_the_parser_of_wg_quick() {
    let text = export::wg_quick(&example(), "wroclaw", &edge()).unwrap();

    assert!(!text.contains("PrivateKey"));
    for hook in text.lines().filter(|line| line.starts_with("P") && line.contains(" = ")) {
        assert!(!hook.contains('#'), "wg-quick cuts a line at a number sign: {hook}");
        assert_eq!(hook.matches('\'').count() % 2, 0, "{hook}");
    }
}

#[test]
fn nft_takes_the_rules_of_the_far_end_twice() {
    let text = export::wg_quick(&example(), "wroclaw", &edge()).unwrap();
    let rules = text.lines().find_map(|line| line.strip_prefix("PreUp = nft '")?.strip_suffix('\'')).unwrap();
    let rules = rules.replace("%i", "kyiv");

    let script = "nft \"$0\" && nft \"$0\" && nft list table inet causeway_kyiv";
    let output = Command::new("unshare").args(["-rn", "sh", "-c", script, &rules]).output().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(listed.matches("chain ").count(), 4, "{listed}");
}

#[test]
fn a_wg_quick_file_of_the_far_end_imports_as_the_tunnel_it_came_from() {
    let policy = example();
    let text = export::wg_quick(&policy, "wroclaw", &edge()).unwrap();
    let source = Source { name: Path::new("wroclaw.conf"), text: &text };
    let wroclaw = policy.peers[0].public_key;

    let import = import::wg_quick(&source, &WgQuickOptions::default(), &|_| Some(wroclaw))
        .unwrap_or_else(|error| panic!("{error}"));

    let (far, near) = (forwarder(&import.forwarder), gateway(&import.gateway));
    assert_eq!(far.interface.address, ["10.77.88.2/30".parse().unwrap()]);
    assert_eq!((far.peers[0].public_key, &far.peers[0].endpoint), (edge().public_key, &edge().endpoint));
    assert_eq!(near.interface.address, policy.interface.address);
    assert_eq!(near.interface.listen_port, policy.interface.listen_port);
    assert!(near.peers[0].allowed_ips.iter().all(|prefix| policy.peers[0].allowed_ips.contains(prefix)));
}

#[test]
fn what_a_wg_quick_file_can_say_survives_export_and_import() {
    for seed in 0..60 {
        let policy = gateway(&of_a_tunnel(seed));
        let exported = export::wg_quick(&policy, "wroclaw", &edge()).unwrap();
        let source = Source { name: Path::new("wroclaw.conf"), text: &exported };

        let import = import::wg_quick(&source, &WgQuickOptions::default(), &|_| None)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{exported}"));

        let (far, near) = (forwarder(&import.forwarder), gateway(&import.gateway));
        assert_eq!(near.interface.address, policy.interface.address, "seed {seed}");
        assert_eq!((near.interface.mtu, far.interface.mtu), (policy.interface.mtu, policy.interface.mtu));
        assert_eq!(near.interface.listen_port, edge().endpoint.port);
        assert_eq!(networks(&near.lan), networks(&policy.lan), "seed {seed}\n{exported}");
        let own: Vec<IpNetwork> = far.interface.address.iter().map(|own| IpNetwork::from(own.ip())).collect();
        assert_eq!(networks(&near.peers[0].allowed_ips), networks(&own), "seed {seed}");
        assert!(networks(&own).is_subset(&networks(&policy.peers[0].allowed_ips)), "seed {seed}");
        let to = &far.peers[0];
        assert_eq!(
            (&to.name, to.public_key, &to.endpoint),
            (&edge().name, edge().public_key, &edge().endpoint)
        );
        let preshared = policy.peers[0].preshared_key_file.is_some();
        for file in [&to.preshared_key_file, &near.peers[0].preshared_key_file] {
            assert_eq!(file.is_some(), preshared, "seed {seed}");
        }
        assert!(policy::pairing::pairing(&near, &far).is_empty(), "seed {seed}");
    }
}

fn networks(prefixes: &[IpNetwork]) -> BTreeSet<IpNetwork> {
    prefixes.iter().copied().collect()
}

/// An edge with one or both families, some LANs, and a preshared key or none.
fn of_a_tunnel(seed: u64) -> String {
    let random = &mut Random::new(seed);
    if random.chance(50) {
        // Everything else in it is nothing that a far end's file can say.
        let text = arbitrary::gateway_text(seed);
        let own = random.pick(&["10.77.88.1/24", "10.77.88.9/24", "10.77.88.254/24"]).unwrap();
        return text.replace("10.77.88.1/24", own).replace("\"10.77.88.1\", ", "");
    }
    let (v4, v6) = *random.pick(&[(true, true), (false, true), (true, false)]).unwrap();
    let listed = |v4_item: &str, v6_item: &str| {
        let items = [(v4, v4_item), (v6, v6_item)].into_iter().filter(|(wanted, _)| *wanted);
        items.map(|(_, item)| format!("{item:?}")).collect::<Vec<_>>().join(", ")
    };
    let host = 1 + random.below(5);
    let mut text = format!(
        "[interface]\naddress = [{}]\nmtu = {}\nprivate_key_file = \"k\"\n",
        listed(&format!("10.77.88.{host}/24"), &format!("fd00:77::{host}/64")),
        1_280 + random.below(200),
    );
    if random.chance(70) {
        let _ = write!(text, "[lan]\nprefixes = [{}]\n", listed("192.168.1.0/24", "2001:db8:1::/64"));
    }
    let _ = write!(
        text,
        "[[peer]]\nname = \"wroclaw\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nallowed_ips = [{}]\n",
        listed("10.77.88.77/32", "fd00:77::77/128"),
    );
    if random.chance(50) {
        text.push_str("preshared_key_file = \"wroclaw.psk\"\n");
    }
    text
}

#[test]
fn both_router_scripts_import_as_the_policy_they_came_from() {
    for seed in 0..60 {
        let policy = gateway(&routable(&mut Random::new(seed)));
        let (near, far) =
            (export::mikrotik_edge(&policy), export::mikrotik(&policy, "wroclaw", &edge()).unwrap());
        let near = format!("{ROUTER}{near}");
        let near = Source { name: Path::new("kyiv.rsc"), text: &near };
        let far = Source { name: Path::new("wroclaw.rsc"), text: &far };

        let exports = Exports::Both { edge: &near, origin: &far };
        let import =
            import::mikrotik(&exports, &|_| None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));

        let mut again = gateway(&import.gateway);
        for list in &mut again.lists {
            let file = import.lists.iter().find(|file| file.name.contains(list.name.as_str())).unwrap();
            list.load(&Source { name: Path::new(&file.name), text: &file.text }).unwrap();
        }
        let lost = import.findings.iter().filter(|finding| {
            finding.kind == FindingKind::NoCounterpart
                && finding.at.as_ref().is_some_and(|(file, _)| file == "kyiv.rsc")
        });
        assert_eq!(
            lost.map(ToString::to_string).collect::<Vec<_>>(),
            Vec::<String>::new(),
            "seed {seed}:\n{}\n{}",
            near.text,
            far.text
        );
        assert_eq!(published(&again), published(&policy), "seed {seed}:\n{}", near.text);
        assert_eq!(allowed(&again), allowed(&policy), "seed {seed}:\n{}", near.text);
        assert_eq!(again.interface.address, policy.interface.address);
        assert_eq!(again.peers[0].public_key, policy.peers[0].public_key);
        assert_eq!(
            again.peers[0].allowed_ips.iter().collect::<BTreeSet<_>>(),
            policy.peers[0].allowed_ips.iter().collect::<BTreeSet<_>>()
        );
    }
}

/// What the edge's router has before the script runs.
const ROUTER: &str = "/interface list member\nadd interface=ether1 list=WAN\nadd interface=bridge list=LAN\n\
                      /ip address\nadd address=192.168.1.1/24 interface=bridge\n\
                      /ipv6 address\nadd address=fd00:1::1/64 interface=bridge\n";

/// Every published port as one line, whatever entry it is in.
fn published(policy: &Policy) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for publish in &policy.publish {
        let allow = match &publish.allow {
            AllowList::Any => "everyone".to_owned(),
            AllowList::Only { prefixes, lists } => {
                let named = policy.lists.iter().filter(|list| lists.contains(&list.name));
                let all: BTreeSet<_> = prefixes.iter().chain(named.flat_map(|list| &list.prefixes)).collect();
                format!("{all:?}")
            }
        };
        for (protocol, target) in
            publish.protocols.iter().flat_map(|p| publish.targets.iter().map(move |t| (p, t)))
        {
            let (ports, to, to_ports) = (publish.ports, target.address, target.ports);
            let (on, source) = (publish.address, publish.source);
            lines.insert(format!("{protocol} {on:?} {ports} → {to} {to_ports} for {allow}, {source:?}"));
        }
    }
    lines
}

/// Every private flow as one line; what the edge itself opens is no rule of a router.
fn allowed(policy: &Policy) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for allow in &policy.allow {
        for (from, to) in allow.from.iter().flat_map(|from| allow.to.iter().map(move |to| (from, to))) {
            let family = |party: &Party| match party {
                Party::Lan(prefix) | Party::Behind { prefix, .. } => Some(prefix.is_ipv4()),
                Party::Peer(_) | Party::Edge | Party::Wan => None,
            };
            let differ = family(from).zip(family(to)).is_some_and(|(from, to)| from != to);
            if *from == Party::Edge || differ {
                continue;
            }
            // Into the LAN an import masquerades whatever it reads, since LAN hosts answer their router.
            let source = matches!(to, Party::Behind { .. }).then_some(allow.source);
            match &allow.service {
                Service::Echo => drop(lines.insert(format!("{from:?} → {to:?} echo {source:?}"))),
                Service::Ports { protocols, ports } => {
                    for protocol in protocols.iter() {
                        lines.insert(format!("{from:?} → {to:?} {protocol} {ports:?} {source:?}"));
                    }
                }
            }
        }
    }
    lines
}

/// A policy that a pair of routers can express: no part of the edge itself.
fn routable(random: &mut Random) -> String {
    let mut text = String::from(
        "[interface]\naddress = [\"10.77.88.1/30\", \"fd00:77::1/126\"]\nprivate_key_file = \"kyiv.key\"\n[wan]\ninterface = \"eth0\"\n\
         [lan]\nprefixes = [\"192.168.1.0/24\", \"fd00:1::/64\"]\n[[peer]]\nname = \"wroclaw\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
         allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\", \"fd00:77::2/128\", \"fd00:88::/64\"]\n",
    );
    for number in 0..random.below(6) {
        let first = 1_000 + number * 100;
        let count = random.below(5);
        let range =
            |first: u64| if count == 0 { first.to_string() } else { format!("{first}-{}", first + count) };
        let protocol = random.pick(&["[\"tcp\"]", "[\"udp\"]", "[\"tcp\", \"udp\"]"]).unwrap();
        let to = if random.chance(50) { first } else { 20_000 + random.below(9_000) };
        let (public, host) =
            *random.pick(&[("203.0.113.9", "192.168.88."), ("[2001:db8:5::9]", "[fd00:88::")]).unwrap();
        let close = if host.starts_with('[') { "]" } else { "" };
        let listen = if random.chance(30) { format!("{public}:{}", range(first)) } else { range(first) };
        let _ = write!(
            text,
            "[[publish]]\nname = \"p{number}\"\nprotocol = {protocol}\nlisten = \"{listen}\"\ntarget = \"{host}{}{close}:{}\"\n",
            2 + random.below(3),
            range(to)
        );
        if random.chance(30) {
            text.push_str("source = \"masquerade\"\n");
        }
        if random.chance(40) {
            let allow = ["198.51.100.0/25\", \"203.0.113.9/32", "2001:db8:7::/48\", \"2001:db8:8::1/128"];
            let _ = writeln!(text, "allow = [\"{}\"]", allow[usize::from(host.starts_with('['))]);
        }
    }
    private_flows(random, &mut text);
    text
}

fn private_flows(random: &mut Random, text: &mut String) {
    for number in 0..random.below(6) {
        // Private services have ports that no published one has, since a router's rule for both is
        // one rule.
        let first = 40_000 + number * 100;
        let (from, to) = if random.chance(50) {
            (
                "\"peer:wroclaw\"",
                random
                    .pick(&[
                        "\"192.168.1.2\"",
                        "\"192.168.1.2\", \"192.168.1.50\"",
                        "\"192.168.1.0/24\"",
                        "\"fd00:1::5\"",
                    ])
                    .unwrap(),
            )
        } else {
            (
                *random
                    .pick(&[
                        "\"self\", \"192.168.1.0/24\", \"fd00:1::/64\"",
                        "\"192.168.1.50\", \"fd00:1::50\"",
                    ])
                    .unwrap(),
                random
                    .pick(&["\"192.168.88.2\"", "\"192.168.88.0/24\"", "\"fd00:88::/64\"", "\"fd00:88::2\""])
                    .unwrap(),
            )
        };
        let _ = write!(text, "[[allow]]\nname = \"a{number}\"\nfrom = [{from}]\nto = [{to}]\n");
        if random.chance(20) {
            text.push_str("protocol = [\"icmp\"]\n");
        } else {
            let protocol = random.pick(&["\"tcp\"", "\"udp\"", "\"tcp\", \"udp\""]).unwrap();
            let _ = writeln!(
                text,
                "protocol = [{protocol}]\nports = [\"{first}\", \"{}-{}\"]",
                first + 10,
                first + 20
            );
        }
    }
}

fn edge() -> EdgeSide {
    EdgeSide {
        name: Name::new("kyiv").unwrap(),
        endpoint: HostPort { host: Host::Name("kyiv.example.com".into()), port: 51_820 },
        public_key: PublicKey::new([7; 32]).unwrap(),
    }
}

fn example() -> Policy {
    let mut policy = gateway(&config("gateway.toml"));
    for list in &mut policy.lists {
        list.load(&Source { name: Path::new("partners.list"), text: "203.0.113.0/24\n2001:db8:7::/48\n" })
            .unwrap();
    }
    policy
}

fn config(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn gateway(text: &str) -> Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    let source = Source { name: Path::new("forwarder.toml"), text };
    forwarder::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

/// `UPDATE=1` writes the file again; the difference is then reviewed like code.
fn assert_same(name: &str, text: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
}

#[test]
fn what_lets_a_peer_out_to_the_internet_is_left_out_of_exports_by_name() {
    let text = config("gateway.toml")
        + "\n[[allow]]\nname = \"mail\"\nfrom = [\"peer:wroclaw\"]\nto = [\"wan\"]\nprotocol = [\"tcp\"]\nports = [\"25\"]\n";
    let policy = gateway(&text);

    for export in [
        export::wg_quick(&policy, "wroclaw", &edge()).unwrap(),
        export::mikrotik(&policy, "wroclaw", &edge()).unwrap(),
        export::mikrotik_edge(&policy),
    ] {
        let lines: Vec<&str> = export.lines().filter(|line| line.contains("wan\"]")).collect();
        assert_eq!(lines.len(), 1, "{export}");
        assert!(lines[0].starts_with("# Left out: [[allow]] \"mail\" to = [\"wan\"]: "), "{}", lines[0]);
        assert!(!export.contains("dst-port=25 "), "{export}");
    }
}
