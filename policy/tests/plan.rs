//! What a change of the configuration changes, and what it leaves alone.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use policy::plan::{RouteKind, Selector};
use policy::{Source, forwarder, gateway};

#[test]
fn a_plan_does_not_differ_from_itself() {
    assert_eq!(changes(BASE, BASE), Vec::<String>::new());
}

#[test]
fn another_service_changes_its_own_elements_only() {
    let more =
        format!("{BASE}[[publish]]\nname = \"web\"\nlisten = \"80\"\ntarget = \"192.168.88.2:8080\"\n");

    let changes = changes(BASE, &more);

    assert!(changes.iter().all(|line| line.starts_with("ruleset: + @")), "{changes:#?}");
    assert!(changes.iter().any(|line| line.contains("@publish_tcp4: 80 → 0x4357")), "{changes:#?}");
    assert!(changes.iter().any(|line| line.ends_with("→ 192.168.88.2")), "{changes:#?}");
    assert!(changes.iter().any(|line| line.ends_with("→ 8080")), "{changes:#?}");
}

#[test]
fn a_services_own_allow_list_is_shown_with_the_services_name() {
    let target = "target = \"192.168.88.2:443\"\n";
    let closed = BASE.replace(target, &format!("{target}allow = [\"203.0.113.0/24\", \"2001:db8::/32\"]\n"));

    let changes = changes(BASE, &closed);

    for (set, prefix) in [("sources4", "203.0.113.0/24"), ("sources6", "2001:db8::/32")] {
        let is_shown = |line: &String| {
            line.starts_with(&format!("ruleset: + @{set}: 0x4357"))
                && line.ends_with(&format!(" . {prefix} (https)"))
        };
        assert!(changes.iter().any(is_shown), "{changes:#?}");
    }
    assert_eq!(changes.len(), 3, "these and @restricted: {changes:#?}");
}

#[test]
fn a_service_keeps_its_mark_when_others_come_and_go() {
    let first = "[[publish]]\nname = \"a\"\nlisten = \"80\"\ntarget = \"192.168.88.2:80\"\n";
    let before = plan(BASE).ruleset.services;
    let after = plan(&format!("{BASE}{first}")).ruleset.services;

    for service in &before {
        assert!(after.contains(service), "{service:?} changed");
    }
}

#[test]
fn peers_and_devices_are_compared_by_name() {
    let other = BASE.replace("address = [\"10.77.88.1/30\"]", "address = [\"10.77.88.1/30\"]\nmtu = 1380");
    let other = other.replace("[[publish]]", "keepalive = \"25s\"\n[[publish]]");

    let changes = changes(BASE, &other);

    assert!(changes.contains(&"device: ~ mtu 1420 → 1380".to_owned()), "{changes:#?}");
    assert!(
        changes.iter().any(|line| line.starts_with("peer: ~ wroclaw") && line.ends_with("keepalive 25s"))
    );
}

#[test]
fn every_prefix_of_the_tunnel_is_unreachable_behind_its_route() {
    let routing = plan(BASE).routing;

    for prefix in ["10.77.88.0/30", "10.77.88.2/32", "192.168.88.0/24"] {
        let of_prefix = routing.routes.iter().filter(|route| route.destination.to_string() == prefix);
        let mut by_metric: Vec<_> = of_prefix.map(|route| (route.metric, route.kind)).collect();
        by_metric.sort_unstable();
        assert!(
            matches!(by_metric.as_slice(), [(_, RouteKind::Tunnel), (_, RouteKind::Unreachable)]),
            "{prefix}: {by_metric:?}"
        );
    }
}

#[test]
fn outer_packets_and_the_lan_are_routed_before_the_tunnel() {
    let rules = plan(BASE).routing.rules;
    let mut v4: Vec<_> = rules.iter().filter(|rule| !rule.ipv6).collect();
    v4.sort_by_key(|rule| rule.priority);

    assert!(matches!(v4[0].selector, Selector::Fwmark(0x4357)) && v4[0].table == 254);
    assert!(
        matches!(v4[1].selector, Selector::To(lan) if lan.to_string() == "192.168.1.0/24")
            && v4[1].table == 254
    );
    assert!(v4[2].selector == Selector::All && v4[2].table == 4357);
}

#[test]
fn a_default_prefix_is_a_filter_and_is_not_routed() {
    let policy = parsed(&BASE.replace("\"192.168.88.0/24\"", "\"192.168.88.0/24\", \"0.0.0.0/0\""));

    assert_eq!(policy.warnings.len(), 1);
    assert!(policy.plan().routing.routes.iter().all(|route| route.destination.prefix() > 0));
    assert!(policy.plan().peers[0].allowed_ips.iter().any(|prefix| prefix.prefix() == 0));
}

#[test]
fn limits_behind_a_list_and_lost_management_are_warned_about() {
    let limited = format!(
        "{BASE}[[list]]\nname = \"cloudflare\"\nfile = \"cloudflare.list\"\n[[publish]]\nname = \"web\"\nlisten = \"80\"\n\
         target = \"192.168.88.2:80\"\nallow = [\"@cloudflare\"]\nlimits = {{ flows_per_source = 5 }}\n"
    );
    let closed = BASE
        .replace("[lan]\nprefixes = [\"192.168.1.0/24\"]\n", "")
        .replace("accept = [\"tcp/22\"]\n", "")
        .replace("\"192.168.1.2\"", "\"self\"");

    let warned =
        |text: &str| parsed(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");

    assert!(warned(&limited).contains("throttles the proxy"), "{}", warned(&limited));
    assert!(warned(&closed).contains("no management path"), "{}", warned(&closed));
}

#[test]
fn the_most_specific_service_decides() {
    let policy = forwarder::parse(&Source {
        name: Path::new("forwarder.toml"),
        text: "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
               public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
               [[service]]\nname = \"rest\"\nmatch = \"*:*\"\nupstream = \"127.0.0.1:*\"\n\
               [[service]]\nname = \"net\"\nmatch = \"192.168.88.0/24:5000-5010\"\nupstream = \"127.0.0.1:6000-6010\"\n\
               [[service]]\nname = \"one\"\nmatch = \"192.168.88.2:5003\"\nupstream = \"caddy:80\"\n",
    })
    .unwrap();
    let decided = |address: &str| {
        let destination = address.parse().unwrap();
        let service = policy.service_for(&policy.peers[0].name, policy::Protocol::Tcp, destination).unwrap();
        (service.name.to_string(), upstream_port(service, destination.port()))
    };

    assert_eq!(decided("192.168.88.2:5003"), ("one".to_owned(), 80));
    assert_eq!(decided("192.168.88.2:5004"), ("net".to_owned(), 6004));
    assert_eq!(decided("192.168.88.2:5011"), ("rest".to_owned(), 5011));
}

#[test]
fn a_service_by_its_former_name_is_read_as_by_its_name() {
    let parsed = |title: &str| {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[{title}]]\nname = \"https\"\nmatch = \"192.168.88.2:443\"\nupstream = \"127.0.0.1:8443\"\n"
        );
        forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap().services
    };
    assert_eq!(parsed("service").len(), 1);
    assert_eq!(parsed("service"), parsed("inject"));
}

#[test]
fn the_effective_configuration_is_the_same_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/gateway.toml");
    let example = std::fs::read_to_string(path).unwrap();
    let generated = (0..100).map(arbitrary::gateway_text);
    for text in generated.chain([example, BASE.to_owned()]) {
        let policy = parsed(&text);
        let again = parsed(&policy.to_toml());
        let without_places = |policy: gateway::Policy| gateway::Policy { warnings: Vec::new(), ..policy };
        assert_eq!(without_places(again), without_places(policy), "{text}");
    }
}

#[test]
fn cut_and_changed_configurations_never_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/gateway.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut random = arbitrary::Random::new(1);
    for _ in 0..300 {
        let mut bytes = text.clone().into_bytes();
        bytes.truncate(usize::try_from(random.below(u64::try_from(bytes.len()).unwrap())).unwrap());
        for _ in 0..random.below(4) {
            let at = usize::try_from(random.below(u64::try_from(bytes.len().max(1)).unwrap())).unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = u8::try_from(random.below(128)).unwrap();
            }
        }
        let changed = String::from_utf8_lossy(&bytes);
        let source = Source { name: Path::new("gateway.toml"), text: &changed };
        let _ = gateway::parse(&source).map(|policy| policy.plan());
        let _ = forwarder::parse(&source);
        let _ = policy::sections::parse_list(&source);
    }
}

const BASE: &str = r#"
[interface]
address = ["10.77.88.1/30"]
private_key_file = "kyiv.key"
[wan]
interface = "eth0"
accept = ["tcp/22"]
[lan]
prefixes = ["192.168.1.0/24"]
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]
[[publish]]
name = "https"
listen = "443"
target = "192.168.88.2:443"
[[allow]]
name = "nfs"
from = ["peer:wroclaw"]
to = ["192.168.1.2"]
ports = ["2049"]
"#;

fn changes(old: &str, new: &str) -> Vec<String> {
    plan(old).diff(&plan(new)).iter().map(ToString::to_string).collect()
}

fn plan(text: &str) -> policy::plan::Plan {
    parsed(text).plan()
}

fn parsed(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn upstream_port(service: &forwarder::Service, asked: u16) -> u16 {
    match &service.upstreams[0] {
        forwarder::Upstream::Network { port, .. } => port.of(asked, service.ports.first()),
        forwarder::Upstream::Unix(path) => panic!("{}", path.display()),
    }
}
