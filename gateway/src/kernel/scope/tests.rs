use policy::Source;

use policy::plan::Conditions;
use policy::system::{Link, LinkKind, LinkRoute, System};
use policy::uplinks::uplinks;

use super::super::protocol::{FlowQuery, Route, Rule};
use super::*;

const EXAMPLE: &str = include_str!("../../../../configs/gateway.toml");

#[test]
fn what_the_daemon_asks_for_a_policy_lies_in_the_scope_of_that_policy() {
    for seed in 0..16 {
        let policy = parsed(&arbitrary::gateway_text(seed));
        let found = uplinks(&policy, &machine(u32::from(MAX_UPLINKS)), &[]);
        assert_eq!(found.len(), usize::from(MAX_UPLINKS));
        let conditions = Conditions { uplinks: found, rule_priority: Some(3), ..Conditions::default() };
        let (scope, plan) = (scope(&policy), policy.plan_under(&conditions));
        let install = plan.ruleset.install(&policy::ruleset::Present::nothing()).to_string();
        let values: Vec<_> = plan
            .routing
            .sysctls
            .iter()
            .map(|switch| (switch.path.clone(), switch.value.to_string()))
            .collect();
        for request in [
            Request::ApplyRuleset { ruleset: install },
            Request::ApplyRouting { routing: Routing::new(&plan.routing) },
            Request::FollowUplinks { uplinks: plan.routing.uplinks.iter().map(UplinkTable::from).collect() },
            Request::ReadSysctls { paths: values.iter().map(|(path, _)| path.clone()).collect() },
            Request::WriteSysctls { values },
            Request::ForgetFlows {
                marks: plan.ruleset.services.iter().map(|service| service.mark).collect(),
            },
        ] {
            scope.judge(request).unwrap();
        }
    }
}

#[test]
fn routes_rules_and_addresses_outside_the_tunnel_are_refused() {
    let policy = parsed(EXAMPLE);
    let (scope, good) = (scope(&policy), Routing::new(&policy.plan().routing));
    let ask = |change: &dyn Fn(&mut Routing)| {
        let mut routing = good.clone();
        change(&mut routing);
        scope.judge(Request::ApplyRouting { routing }).map(drop)
    };
    assert!(ask(&|_| {}).is_ok());
    let route = |destination: &str, table| Route {
        destination: destination.parse().unwrap(),
        unreachable: true,
        table,
        metric: 0,
    };
    let rule = |priority, fwmark, table| Rule { ipv6: false, priority, fwmark, to: None, table };
    assert!(ask(&|routing| routing.routes.push(route("0.0.0.0/0", 254))).is_err());
    assert!(ask(&|routing| routing.routes.push(route("0.0.0.0/0", 4357))).is_err());
    assert!(ask(&|routing| routing.routes.push(route("192.168.88.0/24", 254))).is_err());
    assert!(ask(&|routing| routing.rules.push(rule(0, None, 4357))).is_err());
    assert!(ask(&|routing| routing.rules.push(rule(4357, None, 254))).is_err());
    assert!(ask(&|routing| routing.rules.push(rule(4357, Some(1), 254))).is_err());
    assert!(ask(&|routing| routing.rules.push(rule(4358, None, 255))).is_err());
    let to = |prefix: &str| Rule { to: Some(prefix.parse().unwrap()), ..rule(4358, None, 254) };
    assert!(ask(&|routing| routing.rules.push(to("192.168.1.128/25"))).is_ok());
    assert!(ask(&|routing| routing.rules.push(to("203.0.113.0/24"))).is_err());
    assert!(ask(&|routing| routing.addresses.push("10.9.9.9/24".parse().unwrap())).is_err());
    assert!(ask(&|routing| routing.addresses.push("10.77.88.1/0".parse().unwrap())).is_err());
    assert!(ask(&|routing| routing.mtu = 20).is_err());
}

#[test]
fn an_uplink_has_the_table_and_the_mark_of_its_number_and_no_other() {
    let scope = scope(&parsed(EXAMPLE));
    let good = UplinkTable { link: 2, table: 4358, mark: 0x4358, priority: 4357 };
    let ask =
        |uplinks: &[UplinkTable]| scope.judge(Request::FollowUplinks { uplinks: uplinks.to_vec() }).map(drop);
    let last = UplinkTable { link: 3, table: 4373, mark: 0x4367, priority: 1 };
    assert!(ask(&[good, last]).is_ok());
    for bad in [
        UplinkTable { table: 254, ..good },
        UplinkTable { table: 4357, mark: 0x4357, ..good },
        UplinkTable { table: 4374, mark: 0x4368, ..good },
        UplinkTable { mark: 0x4359, ..good },
        UplinkTable { mark: 1, ..good },
        UplinkTable { priority: 0, ..good },
        UplinkTable { priority: 32_766, ..good },
    ] {
        assert_eq!(ask(&[bad]).unwrap_err().kind, FailureKind::Refused, "{bad:?}");
    }
    assert!(ask(&[good, UplinkTable { link: 3, ..good }]).is_err(), "two uplinks with one table");
}

#[test]
fn switches_flows_and_removal_outside_the_scope_are_refused() {
    let scope = scope(&parsed(EXAMPLE));
    let write =
        |path: &str, value: &str| Request::WriteSysctls { values: vec![(path.to_owned(), value.to_owned())] };
    let query = |mark, mask| Request::Flows {
        query: FlowQuery { mark, mask, marks: vec![], address: None, limit: 1 },
    };
    assert!(scope.judge(write("net/ipv4/ip_forward", "1")).is_ok());
    let counts = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"].map(str::to_owned);
    assert!(scope.judge(Request::ReadSysctls { paths: counts.to_vec() }).is_ok());
    for request in [
        write("net/ipv4/ip_forward", "0"),
        write("net/ipv4/conf/all/accept_source_route", "1"),
        write("net/ipv4/tcp_syncookies", "0"),
        write("kernel/core_pattern", "1"),
        write("net/netfilter/nf_conntrack_max", "1"),
        Request::ReadSysctls { paths: vec!["kernel/core_pattern".to_owned()] },
        Request::ForgetFlows { marks: vec![0x1234_0001] },
        query(0, 0),
        query(0x1234_0000, OURS),
        Request::RemoveRouting,
        Request::Begin { scope: scope.clone() },
    ] {
        let asked = format!("{request:?}");
        assert_eq!(scope.judge(request).unwrap_err().kind, FailureKind::Refused, "{asked}");
    }
}

#[test]
fn a_scope_of_the_systems_own_numbers_is_refused() {
    let good = scope(&parsed(EXAMPLE));
    assert!(good.clone().checked().is_ok());
    for protocol in [0, 1, 2, 3, 4, 255] {
        assert!(Scope { protocol, ..good.clone() }.checked().is_err());
    }
    for table in [0, 237, 253, 254, 255, u32::MAX] {
        assert!(Scope { table, ..good.clone() }.checked().is_err());
    }
    assert!(Scope { device: "../x".to_owned(), ..good.clone() }.checked().is_err());
    assert!(good.of_untrusted("gw0", 2).is_err() && good.of_untrusted("gw0", 3).is_err());
    // With 158 the scope would include 159 as well, which any program may use.
    assert!(good.of_untrusted("gw0", 158).is_err());
    assert_eq!(good.of_untrusted("ovpn0", 157).unwrap().removal, Removal::Shown);
}

#[test]
fn down_restores_switches_of_the_gateway_and_no_others() {
    let policy = parsed(EXAMPLE);
    let scope = Scope::of_removal(&policy, Path::new("gateway.toml"));
    let write = |path: &str, value: &str| {
        scope.judge(Request::WriteSysctls { values: vec![(path.to_owned(), value.to_owned())] })
    };
    assert!(write("net/ipv4/ip_forward", "0").is_ok());
    assert!(write("net/ipv4/conf/eth0/rp_filter", "1").is_ok());
    assert!(write("net/ipv4/conf/all/accept_source_route", "1").is_err());
    assert!(write("net/ipv4/ip_forward", "0; x").is_err());
    let idle = "net/netfilter/nf_conntrack_tcp_timeout_established";
    assert!(write(idle, "432000").is_ok());
    assert!(write(idle, "1").is_err() && write(idle, "7440").is_err());
    assert!(write("net/ipv4/ip_forward", "432000").is_err());
}

#[test]
fn a_scope_covers_a_narrower_configuration_and_not_a_wider_one() {
    let narrow = scope(&parsed(EXAMPLE));
    let mut wide = narrow.clone();
    wide.asked.prefixes.insert("192.168.99.0/24".parse().unwrap());
    assert!(wide.covers(&narrow) && !narrow.covers(&wide));
    let mut grown = narrow.clone();
    grown.asked.widen(wide.asked.clone());
    assert!(grown.covers(&wide));
    assert!(!grown.covers(&Scope { table: 4400, ..narrow }));
}

/// A machine with that many uplinks.
fn machine(count: u32) -> System {
    let link = |index: u32| Link {
        index,
        name: format!("eth{index}"),
        kind: LinkKind::Other,
        master: None,
        addresses: vec![format!("198.18.{index}.2/24").parse().unwrap()],
    };
    let route = |link: u32| LinkRoute {
        destination: "0.0.0.0/0".parse().unwrap(),
        link,
        gateway: None,
        table: MAIN,
        metric: 0,
        protocol: 4,
    };
    System {
        links: (2..2 + count).map(link).collect(),
        routes: (2..2 + count).map(route).collect(),
        ..System::default()
    }
}

fn parsed(text: &str) -> Policy {
    policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap()
}

fn scope(policy: &Policy) -> Scope {
    Scope::of(policy, Path::new("gateway.toml"))
}
