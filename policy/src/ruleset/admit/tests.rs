use std::path::Path;

use arbitrary::gateway_text;
use serde_json::json;

use super::super::{Present, Ruleset};
use super::*;
use crate::Source;
use crate::conditions::Conditions;
use crate::gateway::{Policy, parse};
use crate::system::{Link, LinkKind, LinkRoute, Neighbour, System};
use crate::trust::Pins;
use crate::uplinks::{MAX_UPLINKS, uplinks};

const EXAMPLE: &str = include_str!("../../../../configs/gateway.toml");
/// Sections that the example and the generated policies do not have.
const MORE: &str = r#"
[[publish]]
name = "range"
listen = "7000-7009"
target = "192.168.88.2:7100-7109"
limits = { new_per_source = "5/minute", flows_per_source = 3, bandwidth = "1mbit" }
"#;

#[test]
fn every_transaction_that_a_policy_makes_passes_unchanged() {
    for policy in policies() {
        let targets: BTreeSet<_> = policy.tunnel_prefixes().collect();
        for transaction in transactions(&policy) {
            let text = transaction.to_string();
            let admitted = admit(&text, &targets, &marks(&policy)).unwrap();
            assert!(admitted == text, "written again it differs");
        }
    }
}

#[test]
fn the_lists_name_nothing_that_no_policy_makes() {
    let mut seen = Seen::default();
    for policy in policies() {
        transactions(&policy).iter().for_each(|transaction| seen.look(transaction));
    }
    let kinds = statement::KINDS.iter().chain(&expression::KINDS);
    let missed: Vec<_> = kinds.filter(|kind| !seen.keys.contains(**kind)).collect();
    assert!(missed.is_empty(), "no policy makes {missed:?}");
    let bases: BTreeSet<_> = BASES.iter().map(|(kind, hook, at)| format!("{kind} {hook} {at}")).collect();
    assert_eq!(seen.bases, bases);
}

#[test]
fn a_ban_passes_and_one_that_never_ends_or_ends_before_it_begins_does_not() {
    let ban = |elem: Value| {
        let body = json!({"family": "inet", "table": "causeway", "name": "bans4", "elem": [elem]});
        admit(
            &json!({"nftables": [{"add": {"element": body}}]}).to_string(),
            &BTreeSet::new(),
            &BTreeSet::new(),
        )
    };
    assert!(ban(json!("203.0.113.10")).is_ok());
    assert!(ban(json!({"elem": {"val": "203.0.113.10", "timeout": 600}})).is_ok());
    assert!(ban(json!({"elem": {"val": "203.0.113.10", "timeout": 0}})).is_err());
    assert!(ban(json!({"elem": {"val": "203.0.113.10", "timeout": u64::MAX}})).is_err());
}

#[test]
fn packets_get_the_marks_of_uplinks_and_no_others() {
    let mark = |mark: u32| {
        let body =
            json!({"family": "inet", "table": "causeway", "name": "uplinks4", "elem": [["192.0.2.2", mark]]});
        let text = json!({"nftables": [{"add": {"element": body}}]}).to_string();
        admit(&text, &BTreeSet::new(), &BTreeSet::from([0x4358, 0x4359]))
    };
    assert!(mark(0x4358).is_ok() && mark(0x4359).is_ok());
    assert!(mark(0).is_err() && mark(0x4357).is_err() && mark(0xca6c).is_err());
}

#[test]
fn the_helper_takes_the_rule_that_opens_the_link_and_the_guard_has_none() {
    let policy = parse(&Source { name: Path::new("gateway.toml"), text: EXAMPLE }).unwrap();
    let open = |ruleset: &Ruleset| {
        let text = ruleset.install(&Present::nothing());
        let rules = text["nftables"].as_array().unwrap().iter().filter_map(|it| it.pointer("/add/rule"));
        let of_link = rules.filter(|rule| rule["chain"] == "link" && rule.to_string().contains("accept"));
        of_link.map(|rule| rule["expr"].clone()).collect::<Vec<_>>()
    };
    let rule = json!([
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "gw0"}},
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new", "established"]}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.77.88.1"}},
        {"accept": null},
    ]);
    let owned = Conditions { link: vec!["10.77.88.1:51899".parse().unwrap()], ..Conditions::default() };
    let ruleset = policy.plan_under(&owned).ruleset;
    assert_eq!(open(&ruleset), [rule]);
    let text = ruleset.install(&Present::nothing()).to_string();
    assert_eq!(admit(&text, &policy.tunnel_prefixes().collect(), &marks(&policy)), Ok(text));
    for other in ["192.168.1.2:51899", "10.77.88.1:51900", "[::]:51899", "0.0.0.0:51899"] {
        let conditions = Conditions { link: vec![other.parse().unwrap()], ..Conditions::default() };
        assert_eq!(open(&policy.plan_under(&conditions).ruleset), [Value::Null; 0], "{other}");
    }
    for closed in [policy.plan().ruleset, Ruleset::guard(&policy, 1420), Ruleset::minimal_guard(&policy)] {
        assert_eq!(open(&closed), [Value::Null; 0]);
    }
}

#[test]
fn what_the_edge_itself_sends_is_led_to_services_only_from_its_own_addresses() {
    let dnat = json!({"dnat": {"family": "ip", "addr": {"map": {"key": {"ct": {"key": "mark"}}, "data": "@target4"}}}});
    let rule = |statements: &[Value]| {
        let body = json!({"family": "inet", "table": "causeway", "chain": OWN_DSTNAT, "expr": statements});
        let text = json!({"nftables": [{"add": {"rule": body}}]}).to_string();
        admit(&text, &BTreeSet::new(), &BTreeSet::new())
    };
    let [stays, no_loopback] = to_own_address(Family::V4);
    let jump = json!({"jump": {"target": "dstnat"}});
    assert!(rule(&[stays.clone(), no_loopback.clone(), dnat.clone()]).is_ok());
    for statements in [
        vec![dnat.clone()],
        vec![stays.clone(), dnat.clone()],
        vec![no_loopback.clone(), dnat.clone()],
        vec![no_loopback.clone(), stays.clone(), dnat],
        vec![stays, no_loopback, jump.clone()],
        vec![jump],
    ] {
        assert!(rule(&statements).is_err(), "{statements:?}");
    }
    let base = |name: &str| {
        let chain = json!({"family": "inet", "table": "causeway", "name": name, "type": "nat", "hook": "output",
            "prio": -101, "policy": "accept"});
        admit(
            &json!({"nftables": [{"add": {"chain": chain}}]}).to_string(),
            &BTreeSet::new(),
            &BTreeSet::new(),
        )
    };
    assert!(base(OWN_DSTNAT).is_ok() && base("dstnat").is_err());
}

/// Statements of rules that no policy makes.
const STATEMENTS: &[&str] = &[
    r#"{"dup":{"addr":"192.0.2.1"}}"#,
    r#"{"fwd":{"dev":"eth0"}}"#,
    r#"{"queue":{"num":1}}"#,
    r#"{"tproxy":{"family":"ip","addr":"127.0.0.1","port":1}}"#,
    r#"{"log":{"prefix":"x"}}"#,
    r#"{"snat":{"addr":"192.0.2.1"}}"#,
    r#"{"redirect":{"port":22}}"#,
    r#"{"notrack":null}"#,
    r#"{"reject":null}"#,
    r#"{"xt":{"type":"target","name":"X"}}"#,
    r#"{"ct helper":"ftp"}"#,
    r#"{"flow":{"op":"add","flowtable":"@f"}}"#,
    r#"{"masquerade":{"port":1}}"#,
    r#"{"dnat":{"family":"ip","addr":"198.51.100.1"}}"#,
    r#"{"dnat":{"family":"ip","addr":{"map":{"key":{"ct":{"key":"mark"}},"data":"@port4"}}}}"#,
    r#"{"dnat":{"family":"ip","addr":{"map":{"key":{"ct":{"key":"mark"}},"data":{"set":[[1,"198.51.100.1"]]}}}}}"#,
    r#"{"dnat":{"addr":{"map":{"key":{"ct":{"key":"mark"}},"data":"@target4"}}}}"#,
    r#"{"mangle":{"key":{"meta":{"key":"mark"}},"value":1}}"#,
    r#"{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"map":{"key":{"ct":{"key":"mark"}},"data":"@uplinks4"}}}}"#,
    r#"{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"map":{"key":{"ct":{"key":"ip daddr","dir":"original"}},"data":"@x"}}}}"#,
    r#"{"mangle":{"key":{"meta":{"key":"priority"}},"value":{"map":{"key":{"ct":{"key":"mark"}},"data":"@uplinks4"}}}}"#,
    r#"{"match":{"op":"==","left":{"ct":{"key":"ip daddr","dir":"reply"}},"right":"192.0.2.1"}}"#,
    r#"{"match":{"op":"==","left":{"ct":{"key":"zone","dir":"original"}},"right":1}}"#,
    r#"{"match":{"op":"==","left":{"payload":{"protocol":"ether","field":"daddr"}},"right":"02:00:00:00:00:01"}}"#,
    r#"{"mangle":{"key":{"payload":{"protocol":"ip","field":"daddr"}},"value":"192.0.2.1"}}"#,
    r#"{"mangle":{"key":{"ct":{"key":"zone"}},"value":1}}"#,
    r#"{"match":{"op":"==","left":{"meta":{"key":"skuid"}},"right":0}}"#,
    r#"{"match":{"op":"==","left":{"payload":{"base":"ll","offset":0,"len":8}},"right":0}}"#,
    r#"{"match":{"op":"==","left":{"osf":{"key":"name"}},"right":"Linux"}}"#,
    r#"{"accept":null,"drop":null}"#,
    r#""accept""#,
];

/// Commands that no policy makes.
const COMMANDS: &[&str] = &[
    r#"{"metainfo":{"json_schema_version":1}}"#,
    r#"{"flush":{"ruleset":null}}"#,
    r#"{"list":{"ruleset":null}}"#,
    r#"{"reset":{"counters":null}}"#,
    r#"{"create":{"table":{"family":"inet","name":"causeway"}}}"#,
    r#"{"table":{"family":"inet","name":"causeway"}}"#,
    r#"{"add":{"table":{"family":"inet","name":"causeway","flags":["dormant"]}}}"#,
    r#"{"delete":{"table":{"family":"inet","name":"docker"}}}"#,
    r#"{"delete":{"table":{"family":"ip","name":"causeway"}}}"#,
    r#"{"add":{"rule":{"family":"ip","table":"filter","chain":"FORWARD","expr":[]}}}"#,
    r#"{"add":{"rule":{"family":"inet","table":"other","chain":"x","expr":[]}}}"#,
    r#"{"add":{"rule":{"family":"inet","table":"causeway","chain":"x","expr":[],"handle":1}}}"#,
    r#"{"add":{"chain":{"family":"inet","table":"causeway","name":"x","type":"nat","hook":"output","prio":-100,"policy":"accept"}}}"#,
    r#"{"add":{"chain":{"family":"inet","table":"causeway","name":"x","type":"filter","hook":"input","prio":-300,"policy":"accept"}}}"#,
    r#"{"add":{"chain":{"family":"inet","table":"causeway","name":"x","type":"filter","hook":"input","prio":0,"policy":"drop"}}}"#,
    r#"{"add":{"chain":{"family":"inet","table":"causeway","name":"x","type":"filter","hook":"ingress","prio":0,"policy":"accept","dev":"eth0"}}}"#,
    r#"{"add":{"flowtable":{"family":"inet","table":"causeway","name":"f","hook":"ingress","prio":0,"dev":"eth0"}}}"#,
    r#"{"add":{"ct timeout":{"family":"inet","table":"causeway","name":"t","protocol":"tcp","policy":{"established":1}}}}"#,
    r#"{"add":{"ct helper":{"family":"inet","table":"causeway","name":"h","type":"ftp","protocol":"tcp"}}}"#,
    r#"{"add":{"map":{"family":"inet","table":"causeway","name":"elsewhere","type":"mark","map":"ipv4_addr"}}}"#,
    r#"{"add":{"map":{"family":"inet","table":"causeway","name":"target4","type":"mark","map":"verdict"}}}"#,
    r#"{"add":{"map":{"family":"inet","table":"causeway","name":"target4","type":"mark","map":"ipv4_addr","elem":[[1,"198.51.100.1"]]}}}"#,
    r#"{"add":{"element":{"family":"inet","table":"causeway","name":"target4","elem":[[1,"198.51.100.1"]]}}}"#,
    r#"{"add":{"element":{"family":"inet","table":"causeway","name":"target4","elem":[[1,{"prefix":{"addr":"192.168.88.0","len":24}}]]}}}"#,
    r#"{"add":{"element":{"family":"inet","table":"causeway","name":"limits","elem":[[1,{"accept":null}]]}}}"#,
    r#"{"add":{"counter":{"family":"inet","table":"causeway","name":"x;y"}}}"#,
];

#[test]
fn what_the_gateway_never_says_is_refused() {
    let rule = |statement: &str| {
        format!(
            r#"{{"add":{{"rule":{{"family":"inet","table":"causeway","chain":"x","expr":[{statement}]}}}}}}"#
        )
    };
    let targets = BTreeSet::from(["192.168.88.0/24".parse().unwrap()]);
    let good = r#"{"add":{"element":{"family":"inet","table":"causeway","name":"target4","elem":[[1,"192.168.88.2"]]}}}"#;
    assert!(admit(&format!(r#"{{"nftables":[{good}]}}"#), &targets, &BTreeSet::new()).is_ok());
    let rules = STATEMENTS.iter().map(|statement| rule(statement));
    for command in rules.chain(COMMANDS.iter().map(|&command| command.to_owned())) {
        let transaction = format!(r#"{{"nftables":[{command}]}}"#);
        assert!(serde_json::from_str::<Value>(&transaction).is_ok(), "{command} is meant to be JSON");
        assert!(admit(&transaction, &targets, &BTreeSet::new()).is_err(), "{command}");
    }
}

#[test]
fn json_that_two_readers_may_take_differently_is_refused() {
    let deep = "[".repeat(40) + &"]".repeat(40);
    let long = format!(r#""{}""#, "a".repeat(300));
    for value in [
        "99999999999999999999999",
        "18446744073709551615",
        "9223372036854775808",
        "1.5",
        "1e3",
        "-0",
        r#""\u0000""#,
        r#""a\nb""#,
        r#""a b""#,
        r#""é""#,
        r#"";""#,
        r#""\"""#,
        &deep,
        &long,
        r#"{"a":1,"a":1}"#,
    ] {
        let text = format!(r#"{{"nftables":[{{"add":{{"counter":{value}}}}}]}}"#);
        assert!(strict::parse(&text).is_err(), "{value}");
    }
    assert!(strict::parse("{} {}").is_err() && strict::parse("").is_err());
    assert!(admit(r#"{"nftables":[],"nftables":[]}"#, &BTreeSet::new(), &BTreeSet::new()).is_err());
    assert!(admit(r#"{"nftables":[],"x":1}"#, &BTreeSet::new(), &BTreeSet::new()).is_err());
}

#[test]
fn a_text_made_to_be_read_twice_is_refused() {
    // A text that another parser refuses at the number, and that `nft` then reads in its own
    // language from byte 4096 on.
    let head = r#"{"nftables":[{"metainfo":{"a":99999999999999999999999,"x":""#;
    let pad = "A".repeat(4096 - head.len());
    let text = format!("{head}{pad};delete table inet docker;#\"}}}}]}}\n");
    assert!(serde_json::from_str::<Value>(&text).is_ok());
    assert!(admit(&text, &BTreeSet::new(), &BTreeSet::new()).is_err());
}

fn policies() -> impl Iterator<Item = Policy> {
    let more = format!("{EXAMPLE}\n{MORE}");
    let texts = (0..16).map(gateway_text).chain([EXAMPLE.to_owned(), more]);
    texts.map(|text| parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap())
}

/// The marks of a policy's uplinks.
fn marks(policy: &Policy) -> BTreeSet<u32> {
    (1..=u32::from(MAX_UPLINKS)).map(|number| policy.kernel.fwmark + number).collect()
}

/// A machine with a LAN, containers and uplinks, one of which is the LAN's as well where the policy
/// says so.
fn conditions(policy: &Policy) -> Conditions {
    let system = machine();
    let pins = Pins::new(policy, &system, &[]);
    let uplinks = uplinks(policy, &system, &[]);
    let own = policy.interface.address.iter().map(|own| (own.ip(), policy.link.port).into());
    Conditions {
        trust: pins.trust(policy, &system),
        uplinks,
        link: own.collect(),
        pairing: Some(IpAddr::from([10, 77, 88, 9])),
        ..Conditions::default()
    }
}

/// The uplink `eth0` with a known next hop, the LAN's `eth1`, and `docker0` without a container.
fn machine() -> System {
    let links = [
        (1, "lo", LinkKind::Loopback, "127.0.0.1/8"),
        (2, "eth0", LinkKind::Other, "192.0.2.2/24"),
        (3, "eth1", LinkKind::Other, "192.168.1.2/24"),
        (4, "docker0", LinkKind::Bridge, "172.17.0.1/16"),
    ];
    let link = |(index, name, kind, address): (u32, &str, LinkKind, &str)| Link {
        index,
        name: name.to_owned(),
        kind,
        master: None,
        addresses: vec![address.parse().unwrap()],
    };
    let hop = IpAddr::from([192, 0, 2, 1]);
    let destination = "0.0.0.0/0".parse().unwrap();
    System {
        links: links.map(link).to_vec(),
        routes: vec![LinkRoute {
            destination,
            link: 2,
            gateway: Some(hop),
            table: 254,
            metric: 0,
            protocol: 3,
        }],
        neighbours: vec![Neighbour { link: 2, address: hop, mac: [2, 0, 0, 0, 0, 2] }],
        ..System::default()
    }
}

fn transactions(policy: &Policy) -> Vec<Value> {
    let plan = policy.plan_under(&conditions(policy)).ruleset;
    let guard = Ruleset::guard(policy, 1420);
    let example = parse(&Source { name: Path::new("gateway.toml"), text: EXAMPLE }).unwrap();
    // A listing of another policy's table, as far as `Present` reads it.
    let before = example.plan().ruleset.install(&Present::nothing());
    let listed =
        before["nftables"].as_array().unwrap().iter().filter_map(|command| command.get("add").cloned());
    let present = Present::of(&json!({"nftables": listed.collect::<Vec<_>>()}));
    vec![
        plan.install(&Present::nothing()),
        plan.install(&present),
        policy.plan().ruleset.install(&Present::nothing()),
        plan.replace(),
        guard.replace(),
        guard.install(&present),
        Ruleset::minimal_guard(policy).replace(),
        Ruleset::no_forwarding().replace(),
        Ruleset::teardown(),
    ]
}

#[derive(Default)]
struct Seen {
    keys: BTreeSet<String>,
    bases: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, value: &Value) {
        if let Some(object) = value.as_object() {
            if let (Some(kind), Some(hook)) = (object.get("type"), object.get("hook")) {
                let word = |value: &Value| value.as_str().unwrap().to_owned();
                self.bases.insert(format!("{} {} {}", word(kind), word(hook), object["prio"]));
            }
            self.keys.extend(object.keys().cloned());
            object.values().for_each(|value| self.look(value));
        }
        value.as_array().into_iter().flatten().for_each(|value| self.look(value));
    }
}
