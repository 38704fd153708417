//! `nft` accepts the rules that policies compile to.
//!
//! These tests need `nft` and a user namespace of their own, and fail with a message without them.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::ruleset::{Present, Ruleset};
use policy::{Source, gateway};
use serde_json::{Value, json};

#[test]
fn the_annotated_example_is_taken_again_and_again() {
    let plan = example().plan();
    let guard = Ruleset::guard(&example(), 1420);
    let everything =
        Present::from_listing(&listing_after(&[plan.ruleset.install(&Present::nothing())])).unwrap();

    let script = [
        guard.install(&Present::nothing()),
        guard.install(&Present::nothing()),
        plan.ruleset.install(&Present::nothing()),
        plan.ruleset.install(&everything),
        guard.install(&everything),
        plan.ruleset.replace(),
        Ruleset::teardown(),
        Ruleset::teardown(),
        plan.ruleset.install(&Present::nothing()),
    ];

    listing_after(&script);
}

#[test]
fn an_edge_of_a_pair_of_either_family_is_taken_and_so_is_its_guard() {
    for other in ["10.9.9.2", "fd09::2"] {
        let policy = pair(other);
        listing_after(&[
            Ruleset::guard(&policy, 1420).install(&Present::nothing()),
            policy.plan().ruleset.install(&Present::nothing()),
        ]);
    }
}

fn pair(other: &str) -> gateway::Policy {
    let other = other.parse().unwrap();
    gateway::Policy {
        standby: Some(gateway::Standby { address: "192.0.2.2".parse().unwrap(), other }),
        ..example()
    }
}

#[test]
fn generated_policies_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::env::var("POLICY_CASES").ok().and_then(|count| count.parse().ok());
    let soak = std::env::var_os("CAUSEWAY_SOAK").is_some_and(|value| value == "1");
    let count = count.unwrap_or(if soak { 30 * GENERATED } else { GENERATED });
    for batch in 0..count.div_ceil(BATCH) {
        let policies = (0..BATCH).map(|number| (number, generated(batch * BATCH + number)));
        let commands: Vec<Value> = policies.flat_map(|(number, policy)| in_table(number, &policy)).collect();
        let file = folder.path().join(format!("{batch}.json"));
        std::fs::write(file, json!({"nftables": commands}).to_string()).unwrap();
    }

    let refused = in_namespace(&format!(
        "cd {}\nfor file in *.json; do nft -c -j -f $file >&2 || echo $file; done\n",
        folder.path().display()
    ));

    assert_eq!(refused, "", "refused by nft -c");
}

/// Linux 6.12.115 and later take `byteorder` for one value alone; nft 1.0.6 writes longer and
/// shorter ones for some keys of several parts.
#[test]
fn no_expression_changes_the_byte_order_of_more_or_less_than_one_value() {
    let example = example();
    let policies = (0..50).map(generated).chain([example.clone(), pair("10.9.9.2"), pair("fd09::2")]);
    let mut rulesets: Vec<Value> = policies.map(|policy| policy.plan().ruleset.replace()).collect();
    rulesets.push(Ruleset::guard(&example, 1420).replace());

    let bytecode: String = rulesets.iter().map(bytecode_of).collect();

    assert!(bytecode.contains("lookup reg 1 set publish_tcp4"), "nft shows no bytecode:\n{bytecode}");
    let refused: BTreeSet<&str> = bytecode.lines().filter(|line| is_odd_conversion(line)).collect();
    assert_eq!(refused, BTreeSet::new());
}

#[test]
fn the_test_for_odd_conversions_knows_those_that_kernels_refuse() {
    let keys = [
        ("type inet_proto . inet_service; flags interval", "meta l4proto . th dport @s", true),
        (
            "type ipv4_addr . inet_proto . inet_service; flags interval",
            "ip saddr . meta l4proto . th dport @s",
            true,
        ),
        ("type mark . ipv4_addr; flags interval", "ct mark . ip saddr @s", false),
    ];
    for (declaration, lookup, is_refused) in keys {
        let text = format!("table inet t {{ set s {{ {declaration}; }}; chain c {{ {lookup} drop; }}; }}");
        let bytecode = in_namespace(&format!("nft --debug=netlink -c '{text}'\n"));
        assert_eq!(bytecode.lines().any(is_odd_conversion), is_refused, "{lookup}:\n{bytecode}");
    }
}

/// Whether a line of bytecode, as `[ byteorder reg 1 = hton(reg 1, 2, 1) ]`, has another size than
/// length.
fn is_odd_conversion(line: &str) -> bool {
    let Some((_, conversion)) = line.split_once("byteorder ") else { return false };
    let numbers = conversion.split_once('(').and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let numbers: Vec<&str> = numbers.split(',').map(str::trim).collect();
    numbers[1] != numbers[2]
}

fn bytecode_of(ruleset: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ruleset.json");
    std::fs::write(&file, ruleset.to_string()).unwrap();
    in_namespace(&format!("nft --debug=netlink -j -c -f {}\n", file.display()))
}

/// The commands of a policy in a table of its own, so that one call of nft takes many policies.
fn in_table(number: u64, policy: &gateway::Policy) -> Vec<Value> {
    let text = policy.plan().ruleset.install(&Present::nothing()).to_string();
    let moved: Value =
        serde_json::from_str(&text.replace("\"causeway\"", &format!("\"t{number}\""))).unwrap();
    moved["nftables"].as_array().unwrap().clone()
}

/// How many policies one call of nft checks.
const BATCH: u64 = 5;

/// How many generated policies nft must take, unless POLICY_CASES says otherwise; CAUSEWAY_SOAK=1
/// takes thirty times it.
const GENERATED: u64 = 300;

#[test]
fn every_name_that_may_be_written_is_one_that_nft_carries_unchanged() {
    let longest = "x".repeat(policy::Name::MAX);
    let names = ["--", "..", "__", "0a", "drop", "A.b-C_d", longest.as_str()];
    let mut text = format!("{HEAD}[lan]\nprefixes = [\"192.168.1.0/24\"]\n");
    for (number, name) in names.iter().enumerate() {
        let (port, flow) = (2_000 + number, private(name));
        text.push_str(&format!(
            "[[publish]]\nname = \"{name}\"\nlisten = \"{port}\"\ntarget = \"192.168.88.2:{port}\"\n\
             allow = [\"203.0.113.0/24\", \"@{name}\"]\nlimits = {{ new_per_source = \"9/second\", bandwidth = \"1mbit\" }}\n\
             [[list]]\nname = \"{name}\"\nfile = \"l\"\n\
             [[allow]]\nname = \"{flow}\"\nfrom = [\"peer:wroclaw\"]\nto = [\"self\"]\nprotocol = [\"icmp\"]\n"
        ));
    }
    let plan = parsed(&text).plan();

    let text = listing_after(&[plan.ruleset.install(&Present::nothing())]);
    let listing: Value = serde_json::from_str(&text).unwrap();
    let there: BTreeSet<&str> = listing["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|object| object.as_object()?.values().next()?["name"].as_str())
        .collect();

    let kinds = ["publish_in_", "publish_out_", "users_", "limit_", "shape_", "new4_", "list6_"];
    for name in names.map(private) {
        assert!(there.contains(format!("allow_in_{name}").as_str()), "allow_in_{name} is not there");
    }
    for (name, kind) in names.iter().flat_map(|name| kinds.map(|kind| (name, kind))) {
        assert!(there.contains(format!("{kind}{name}").as_str()), "{kind}{name} is not there");
    }
}

/// A name of the same length that begins with `p`: services and private flows share one kind of
/// name.
fn private(name: &str) -> String {
    format!("p{}", &name[1..])
}

#[test]
fn a_name_with_quotes_newlines_unicode_or_4_kilobytes_is_refused_wherever_one_appears() {
    let longest = "n".repeat(4_096);
    let hostile = [
        "",
        "a b",
        "a\"; drop",
        "'$(reboot)'",
        "a\nb",
        "a\r",
        "a\t",
        "a\0",
        "a;b",
        "a{b}",
        "a/../b",
        "ä",
        "а",
        "\u{202e}a",
        "a\u{200b}",
        "😀",
        "a*",
        longest.as_str(),
    ];
    let whole = format!("{HEAD}{SERVICES}");
    parsed(&whole);
    for (place, name) in NAMED.iter().flat_map(|place| hostile.map(|name| (place, name))) {
        assert_eq!(whole.matches(&format!("= \"{place}\"")).count(), 1, "{place}");
        let text = whole.replace(&format!("= \"{place}\""), &format!("= {}", toml::Value::from(name)));
        let source = Source { name: Path::new("gateway.toml"), text: &text };
        let errors = gateway::parse(&source).err().unwrap_or_else(|| panic!("{name:?} was taken in\n{text}"));

        let printed = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let harmless = |line: &String| line.len() < 500 && !line.contains(char::is_control);
        assert!(printed.iter().all(harmless), "{printed:?}");
    }
}

/// The names in `HEAD` and `SERVICES`: all that end up in rules, sets or commands.
const NAMED: [&str; 6] = ["cw7", "eth0", "wroclaw", "https", "nfs", "partners"];

const SERVICES: &str = r#"
[[publish]]
name = "https"
listen = "443"
target = "192.168.88.2:443"
[[allow]]
name = "nfs"
from = ["self"]
to = ["192.168.88.2"]
protocol = ["icmp"]
[[list]]
name = "partners"
file = "l"
"#;

#[test]
fn a_change_keeps_bans_meters_and_counters_and_leaves_nothing_behind() {
    let before = example().plan().ruleset;
    let after = gateway::Policy { publish: example().publish.split_off(1), ..example() }.plan().ruleset;
    let old = Present::from_listing(&listing_after(&[before.install(&Present::nothing())])).unwrap();
    let ban = json!({"nftables": [{"add": {"element": {
        "family": "inet", "table": "causeway", "name": "bans4",
        "elem": [{"elem": {"val": "203.0.113.66", "timeout": 3600}}],
    }}}]});
    let spent = json!({"nftables": [
        {"add": {"table": {"family": "inet", "name": "causeway"}}},
        {"add": {"counter": {"family": "inet", "table": "causeway", "name": "publish_in_mqtt",
            "packets": 7, "bytes": 700}}},
    ]});

    let text = listing_after(&[spent, before.install(&Present::nothing()), ban, after.install(&old)]);
    let fresh = Present::from_listing(&listing_after(&[after.install(&Present::nothing())])).unwrap();

    assert!(text.contains("203.0.113.66"), "the ban is gone");
    assert!(text.contains("\"packets\": 7, \"bytes\": 700"), "the counter began again");
    assert_eq!(Present::from_listing(&text).unwrap(), fresh, "something was left behind");
}

/// The sets, maps and rules whose keys begin with the protocol, as they were before there was one
/// set per protocol.
const BEFORE: &str = "table inet causeway {
  set wan_accept { type inet_proto . inet_service; flags interval; elements = { tcp . 22 } }
  set bans4 { type ipv4_addr; size 65535; flags timeout; elements = { 203.0.113.66 timeout 1h } }
  map publish4 { type inet_proto . inet_service : mark; flags interval; elements = { tcp . 443 : 0x43570001 } }
  map bound4 { type ipv4_addr . inet_proto . inet_service : mark; flags interval; }
  chain published {
    meta nfproto ipv4 ct mark set meta l4proto . th dport map @publish4
    ct mark set ip daddr . meta l4proto . th dport map @bound4
  }
  chain classify {
    type filter hook prerouting priority -150; policy accept;
    meta l4proto . th dport @wan_accept jump published
  }
}";

#[test]
fn a_table_with_keys_of_the_form_before_is_changed_in_one_transaction_that_keeps_bans() {
    let ruleset = example().plan().ruleset;
    let begin = format!("nft -f - <<'END'\n{BEFORE}\nEND\n");
    let old =
        Present::from_listing(&in_namespace(&format!("{begin}nft -j list table inet causeway\n"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("install.json");
    std::fs::write(&file, ruleset.install(&old).to_string()).unwrap();

    let script = format!("set -e\n{begin}nft -j -f {}\nnft -j list table inet causeway\n", file.display());
    let text = in_namespace(&script);

    assert_eq!(ruleset.absent_from(&text), Vec::<String>::new());
    assert!(text.contains("203.0.113.66"), "the ban is gone");
    assert!(!text.contains("wan_accept") && !text.contains("\"publish4\""), "{text}");
}

#[test]
fn a_thousand_services_are_one_lookup_and_are_installed_quickly() {
    let mut text = String::from(HEAD);
    for number in 0..1_000 {
        text.push_str(&format!(
            "[[publish]]\nname = \"s{number}\"\nlisten = \"{}\"\ntarget = \"192.168.88.2:{}\"\n",
            2_000 + number,
            2_000 + number
        ));
    }
    let mut random = arbitrary::Random::new(7);
    for number in 0..1_000 {
        let key: Vec<u8> = (0..4).flat_map(|_| random.next().to_le_bytes()).collect();
        text.push_str(&format!(
            "[[peer]]\nname = \"p{number}\"\npublic_key = \"{}\"\nallowed_ips = [\"172.{}.{}.0/24\"]\n",
            STANDARD.encode(key),
            16 + number / 256,
            number % 256
        ));
    }
    let started = Instant::now();
    let plan = parsed(&text).plan();
    let compiled = started.elapsed();

    let one = parsed(&text.split("[[publish]]").take(2).collect::<Vec<_>>().join("[[publish]]")).plan();
    let rules = |ruleset: &Ruleset| ruleset.lines().iter().filter(|line| !line.starts_with('@')).count();
    assert_eq!(rules(&plan.ruleset), rules(&one.ruleset), "services are elements, not rules");

    let started = Instant::now();
    listing_after(&[plan.ruleset.install(&Present::nothing())]);
    println!(
        "1,000 services and 1,000 peers: parsed and compiled in {compiled:?}, checked, installed and listed in {:?}",
        started.elapsed()
    );
    assert!(started.elapsed().as_secs() < 20);
}

const HEAD: &str = r#"
[interface]
name = "cw7"
address = ["10.77.88.1/30"]
private_key_file = "kyiv.key"
[wan]
interface = "eth0"
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]
"#;

fn generated(seed: u64) -> gateway::Policy {
    parsed(&arbitrary::gateway_text(seed))
}

fn parsed(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn example() -> gateway::Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    gateway::parse(&Source { name: &path, text: &text }).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Runs the transactions one after another in a namespace of its own, each first with `-c`, and
/// lists the table.
fn listing_after(transactions: &[Value]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut script = String::from("set -e\n");
    for (index, transaction) in transactions.iter().enumerate() {
        let file = folder.path().join(format!("{index}.json"));
        std::fs::write(&file, transaction.to_string()).unwrap();
        let file = file.display();
        script.push_str(&format!(
            "nft -c -j -f {file} || {{ echo 'transaction {index}' >&2; exit 1; }}\nnft -j -f {file}\n"
        ));
    }
    script.push_str("nft -j list table inet causeway\n");
    in_namespace(&script)
}

fn in_namespace(script: &str) -> String {
    // As root without a user namespace, since only then may nft enlarge its socket for large
    // transactions.
    let root = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    let user: &[&str] =
        if root.is_ok_and(|status| status.success()) { &[] } else { &["--user", "--map-root-user"] };
    let mut child = Command::new("unshare")
        .args(user)
        .args(["--net", "sh", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux) must be there");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft (package nftables) must be there and take the rules:\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}
