//! The kernel helper on a real kernel, in a network namespace that each test makes for itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says aloud when it cannot run"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use gateway::kernel::{
    Asked, Failure, FailureKind, Listing, Removal, Reply, Request, Route, Routing, Rule, Scope,
};
use serde_json::json;

const INSIDE: &str = "CAUSEWAY_TEST_INSIDE";

#[test]
fn a_plan_is_applied_once_and_found_in_place_the_second_time() {
    in_own_namespace("a_plan_is_applied_once_and_found_in_place_the_second_time", || {
        open_tun();
        let first = apply(plan());
        assert!(
            first.iter().any(|line| line == "+ route 192.168.88.0/24 dev gw0 table 4357 metric 100"),
            "{first:?}"
        );
        assert_eq!(apply(plan()), Vec::<String>::new());
    });
}

#[test]
fn a_smaller_plan_takes_away_only_what_it_no_longer_names() {
    in_own_namespace("a_smaller_plan_takes_away_only_what_it_no_longer_names", || {
        open_tun();
        apply(plan());
        let mut smaller = plan();
        smaller.routes.retain(|route| route.destination.to_string() != "192.168.88.0/24");
        smaller.rules.truncate(1);
        smaller.addresses = vec!["10.77.88.5/30".parse().unwrap()];
        let lines = apply(smaller);
        for line in [
            "+ address 10.77.88.5/30 on gw0",
            "- address 10.77.88.1/30 on gw0",
            "- rule IPv4 priority 4359 lookup 4357",
            "- route 192.168.88.0/24 dev gw0 table 4357 metric 100",
            "- route unreachable 192.168.88.0/24 table 4357 metric 4278198272",
        ] {
            assert!(lines.iter().any(|have| have == line), "{line} is not in {lines:?}");
        }
        assert_eq!(lines.len(), 5, "{lines:?}");
    });
}

#[test]
fn addresses_of_one_subnet_change_in_one_request_and_take_nothing_along() {
    in_own_namespace("addresses_of_one_subnet_change_in_one_request_and_take_nothing_along", || {
        subnet_changes();
    });
}

#[test]
fn addresses_of_one_subnet_change_in_one_request_where_no_switch_can_be_written() {
    in_own_namespace("addresses_of_one_subnet_change_in_one_request_where_no_switch_can_be_written", || {
        for interfaces in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interfaces}/promote_secondaries"), "0").unwrap();
        }
        run("mount", "--rbind /proc/sys /proc/sys");
        run("mount", "-o remount,ro,bind /proc/sys");
        subnet_changes();
    });
}

/// By default the kernel removes the other addresses of a subnet together with its first one.
fn subnet_changes() {
    open_tun();
    let with = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        apply(Routing { addresses, ..plan() })
    };
    let routes = || ip("route show table 4357");
    let is_in_place = |addresses: &[&str]| {
        let shown = ip("-brief -4 address show gw0");
        let shown: BTreeSet<&str> = shown.split_whitespace().skip(2).collect();
        assert_eq!(shown, addresses.iter().copied().collect());
    };
    let three = ["10.77.88.1/30", "10.77.89.1/24", "10.77.89.2/24"];
    with(&three);
    let whole = routes();
    for (before, after) in [
        (&three[..], &["10.77.88.1/30"][..]),
        (&["10.77.89.1/24"], &["10.77.89.7/24"]),
        (&["10.77.89.1/24", "10.77.89.2/24"], &["10.77.89.2/24", "10.77.89.3/24"]),
    ] {
        with(before);
        let lines = with(after);
        is_in_place(after);
        let gone = before.iter().filter(|address| !after.contains(address));
        let come = after.iter().filter(|address| !before.contains(address));
        let gone: BTreeSet<_> = gone.map(|address| format!("- address {address} on gw0")).collect();
        let come: BTreeSet<_> = come.map(|address| format!("+ address {address} on gw0")).collect();
        assert_eq!(lines.iter().cloned().collect::<BTreeSet<_>>(), &gone | &come);
        assert_eq!((with(after), routes()), (Vec::new(), whole.clone()));
    }
}

#[test]
fn removal_leaves_foreign_routes_and_rules_alone_and_nothing_of_ours() {
    in_own_namespace("removal_leaves_foreign_routes_and_rules_alone_and_nothing_of_ours", || {
        ip("link add foreign0 type veth peer name foreign1");
        ip("link set foreign0 up");
        ip("route add unreachable 198.51.100.0/24 table 4357");
        ip("rule add priority 4360 lookup 4357");
        let before = state();
        open_tun();
        apply(plan());
        assert_ne!(state(), before);
        take_away(&scope()).unwrap();
        assert_eq!(state(), before);
        take_away(&scope()).unwrap();
    });
}

#[test]
fn what_the_kernel_refuses_is_named_with_both_versions_and_the_fix() {
    in_own_namespace("what_the_kernel_refuses_is_named_with_both_versions_and_the_fix", || {
        // The kernel has no counter of that name.
        let object = |kind: &str, body: serde_json::Value| json!({"add": {kind: body}});
        let chain = |name: &str| json!({"family": "inet", "table": "causeway", "name": name, "type": "filter", "hook": "output", "prio": 0, "policy": "accept"});
        let rule = |chain: &str, counter: &str| json!({"family": "inet", "table": "causeway", "chain": chain, "expr": [{"counter": counter}]});
        let ruleset = json!({"nftables": [
            object("table", json!({"family": "inet", "name": "causeway"})),
            object("chain", chain("one")),
            object("chain", chain("two")),
            object("counter", json!({"family": "inet", "table": "causeway", "name": "present"})),
            object("rule", rule("one", "present")),
            object("rule", rule("two", "absent")),
            object("rule", rule("one", "present")),
        ]});
        for request in [
            Request::CheckRuleset { ruleset: ruleset.to_string() },
            Request::ApplyRuleset { ruleset: ruleset.to_string() },
        ] {
            let failure = answer_once(request).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Ruleset);
            for part in [
                "No such file or directory",
                "add rule in chain two: counter absent; nftables v",
                ", Linux ",
                "install",
            ] {
                assert!(failure.message.contains(part), "{part:?} is not in {failure}");
            }
        }
    });
}

#[test]
fn a_device_that_is_no_tun_is_never_removed() {
    in_own_namespace("a_device_that_is_no_tun_is_never_removed", || {
        ip("link add gw0 type veth peer name other");
        let failure = take_away(&scope()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused);
        let failure = answer_once(Request::OpenTun).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Conflict, "{failure}");
        assert!(ip("-brief link").contains("gw0"));
    });
}

#[test]
fn without_its_device_the_tunnels_prefix_is_unreachable_and_never_the_default_route() {
    in_own_namespace(
        "without_its_device_the_tunnels_prefix_is_unreachable_and_never_the_default_route",
        || {
            ip("link add wan0 type veth peer name wan1");
            ip("address add 192.0.2.2/24 dev wan0");
            ip("link set wan0 up");
            ip("link set wan1 up");
            ip("route add default via 192.0.2.1");
            open_tun();
            apply(plan());
            assert!(ip("route get 192.168.88.2").contains("dev gw0"));
            ip("link delete gw0");
            let output = Command::new("ip").args(["route", "get", "192.168.88.2"]).output().unwrap();
            assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            assert!(ip("route get 203.0.113.10").contains("via 192.0.2.1"));
        },
    );
}

#[test]
fn a_ruleset_that_nft_refuses_changes_nothing() {
    in_own_namespace("a_ruleset_that_nft_refuses_changes_nothing", || {
        let table = json!({"add": {"table": {"family": "inet", "name": "causeway"}}});
        let rule = |chain: &str| json!({"add": {"rule": {"family": "inet", "table": "causeway", "chain": chain, "expr": [{"drop": null}]}}});
        let bad = json!({"nftables": [table, rule("none")]}).to_string();
        assert_eq!(
            answer_once(Request::CheckRuleset { ruleset: bad.clone() }).unwrap_err().kind,
            FailureKind::Ruleset
        );
        let failure = answer_once(Request::ApplyRuleset { ruleset: bad }).unwrap_err();
        assert!(failure.message.starts_with("nft: "), "{failure}");
        let good = json!({"nftables": [table]}).to_string();
        assert_eq!(listed(), "");
        answer_once(Request::ApplyRuleset { ruleset: good }).unwrap();
        assert!(listed().contains("\"causeway\""));
    });
}

#[test]
fn switches_are_written_only_when_they_differ_and_read_back() {
    in_own_namespace("switches_are_written_only_when_they_differ_and_read_back", || {
        let path = "net/ipv4/ip_forward".to_owned();
        let write = |value: &str| {
            answer_once(Request::WriteSysctls { values: vec![(path.clone(), value.to_owned())] }).unwrap()
        };
        for value in ["1", "1"] {
            assert!(matches!(write(value), Reply::Unwritable { switches } if switches.is_empty()));
            let read = answer_once(Request::ReadSysctls { paths: vec![path.clone()] }).unwrap();
            assert!(matches!(read, Reply::Sysctls { values } if values == [Some(value.to_owned())]));
        }
    });
}

#[test]
fn nothing_of_others_is_touched_whatever_the_daemon_asks_for() {
    in_own_namespace("nothing_of_others_is_touched_whatever_the_daemon_asks_for", || {
        ip("link add eth0 type veth peer name eth1");
        ip("address add 192.0.2.2/24 dev eth0");
        ip("link set eth0 up");
        ip("link set eth1 up");
        ip("route add default via 192.0.2.1 protocol 3");
        ip("tuntap add ovpn0 mode tun");
        open_tun();
        let before = state();
        let to = |route: &str, table| Route {
            destination: route.parse().unwrap(),
            unreachable: true,
            table,
            metric: 0,
        };
        let routes = [to("0.0.0.0/0", 254), to("0.0.0.0/0", 4357), to("192.0.2.0/24", 254)];
        for route in routes {
            refused(Request::ApplyRouting { routing: Routing { routes: vec![route], ..plan() } });
        }
        let addresses = vec!["192.0.2.9/24".parse().unwrap()];
        refused(Request::ApplyRouting { routing: Routing { addresses, ..plan() } });
        refused(Request::RemoveRouting);
        for (path, value) in [("net/ipv4/conf/all/accept_source_route", "1"), ("net/ipv4/ip_forward", "0")] {
            refused(Request::WriteSysctls { values: vec![(path.to_owned(), value.to_owned())] });
        }
        // The old values that a file of the daemon's user gives.
        for protocol in [0, 2, 3, 4] {
            assert!(scope().of_untrusted("eth0", protocol).is_err());
        }
        for device in ["ovpn0", "eth0"] {
            take_away(&scope().of_untrusted(device, 157).unwrap()).unwrap();
        }
        assert_eq!(state(), before);
    });
}

#[test]
fn a_text_that_nft_would_read_in_its_own_language_is_refused() {
    in_own_namespace("a_text_that_nft_would_read_in_its_own_language_is_refused", || {
        run("nft", "add table inet docker");
        let head = r#"{"nftables":[{"metainfo":{"a":99999999999999999999999,"x":""#;
        let native = ";delete table inet docker;add table ip evil;#";
        let text = format!("{head}{}{native}\"}}}}]}}\n", "A".repeat(4096 - head.len()));
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        refused(Request::CheckRuleset { ruleset: text.clone() });
        refused(Request::ApplyRuleset { ruleset: text });
        let tables = run("nft", "list tables");
        assert!(tables.contains("docker") && !tables.contains("evil"), "{tables}");
    });
}

#[test]
fn a_device_or_a_port_in_use_is_a_conflict() {
    in_own_namespace("a_device_or_a_port_in_use_is_a_conflict", || {
        let holder = tunnel::io::tun::Tun::open(&tunnel::io::tun::TunOptions {
            name: "gw0",
            persistent: false,
            offload: tunnel::io::tun::TunOffload { tcp: false, udp: false },
        });
        let _holder = holder.unwrap();
        let failure = answer_once(Request::OpenTun).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Conflict, "{failure}");
        let _port = std::net::UdpSocket::bind("0.0.0.0:51820").unwrap();
        let failure = answer_once(Request::OpenUdp { port: 51820, mark: 1 }).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Conflict, "{failure}");
    });
}

#[test]
fn only_flows_of_the_named_marks_are_ended() {
    in_own_namespace("only_flows_of_the_named_marks_are_ended", || {
        for (port, mark) in [("1001", "0x43570001"), ("1002", "0x43570002"), ("1003", "0")] {
            let flow =
                format!("-I -s 192.0.2.1 -d 192.0.2.2 -p udp --sport {port} --dport 53 -t 60 -m {mark}");
            conntrack(&flow);
        }
        answer_once(Request::ForgetFlows { marks: vec![0x4357_0001, 0x4357_7777] }).unwrap();
        let left = conntrack("-L");
        let has = |port: &str| left.contains(&format!("sport={port}"));
        assert!(!has("1001") && has("1002") && has("1003"), "{left}");
    });
}

fn refused(request: Request) {
    let asked = format!("{request:?}");
    assert_eq!(answer_once(request).unwrap_err().kind, FailureKind::Refused, "{asked}");
}

/// Runs `body` in a user and network namespace of its own: this test again, in a child.
fn in_own_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        body();
        return;
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: there is no /dev/net/tun");
        return;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
}

fn plan() -> Routing {
    let route = |destination: &str, unreachable, metric| Route {
        destination: destination.parse().unwrap(),
        unreachable,
        table: 4357,
        metric,
    };
    let rule = |priority, fwmark, table| Rule { ipv6: false, priority, fwmark, to: None, table };
    Routing {
        addresses: vec!["10.77.88.1/30".parse().unwrap()],
        mtu: 1420,
        tx_queue_length: 500,
        routes: vec![
            route("10.77.88.2/32", false, 100),
            route("192.168.88.0/24", false, 100),
            route("192.168.88.0/24", true, 4_278_198_272),
        ],
        rules: vec![rule(4357, Some(0x4357), 254), rule(4359, None, 4357)],
    }
}

fn scope() -> Scope {
    let prefixes = ["10.77.88.0/30", "10.77.88.4/30", "10.77.89.0/24", "192.168.88.0/24"]
        .map(|prefix| prefix.parse().unwrap());
    let asked = Asked {
        prefixes: prefixes.into(),
        lan: ["192.168.1.0/24".parse().unwrap()].into(),
        fwmarks: [0x4357].into(),
        ct_marks: [0x4357_0000].into(),
        priorities: [4357].into(),
    };
    let scope = Scope { device: "gw0".to_owned(), protocol: 157, table: 4357, asked, ..Scope::default() };
    scope.checked().unwrap()
}

fn answer_once(request: Request) -> Result<Reply, Failure> {
    gateway::kernel::answer_once(&scope(), request)
}

/// The request of `gateway down`.
fn take_away(scope: &Scope) -> Result<Reply, Failure> {
    let removal = if scope.removal == Removal::Never { Removal::All } else { scope.removal };
    gateway::kernel::answer_once(&Scope { removal, ..scope.clone() }, Request::RemoveRouting)
}

fn open_tun() {
    answer_once(Request::OpenTun).unwrap();
}

fn apply(routing: Routing) -> Vec<String> {
    let reply = answer_once(Request::ApplyRouting { routing }).unwrap();
    let Reply::Changed { lines } = reply else { panic!("{reply:?}") };
    lines
}

fn listed() -> String {
    let reply = answer_once(Request::List { what: Listing::Table }).unwrap();
    let Reply::Listed { json } = reply else { panic!("{reply:?}") };
    json
}

fn state() -> String {
    // Addresses that the kernel adds by itself may arrive at any time.
    let made_up = |line: &&str| !line.contains("fe80::") && !line.contains("ff00::");
    let text = [ip("-brief link"), ip("rule"), ip("-6 rule"), ip("route show table all")].concat();
    text.lines().filter(made_up).collect::<Vec<_>>().join("\n")
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn conntrack(arguments: &str) -> String {
    run("conntrack", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn addresses_parse_as_the_kernel_gives_them() {
    // The protocol's own types must carry both families through JSON unchanged.
    let routing = Routing { addresses: vec!["fd77:88::1/64".parse().unwrap()], ..plan() };
    let text = serde_json::to_string(&routing).unwrap();
    let back: Routing = serde_json::from_str(&text).unwrap();
    assert_eq!(back, routing);
    assert_eq!(back.addresses[0].ip(), "fd77:88::1".parse::<IpAddr>().unwrap());
}
