//! Other products' configurations, imported.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::path::{Path, PathBuf};

use arbitrary::Random;
use migrate::import::{self, Exports, FindingKind, Import, ImportError, WgQuickOptions};
use policy::{PublicKey, Source, forwarder, gateway};

#[test]
fn two_routers_become_the_two_configurations_that_were_written_down() {
    let import = routers();

    assert_same("mikrotik-gateway.toml", &import.gateway);
    assert_same("mikrotik-forwarder.toml", &import.forwarder);
    assert_same("mikrotik-findings.txt", &printed(&import));
}

#[test]
fn both_ends_of_a_wg_quick_tunnel_become_the_configurations_that_were_written_down() {
    for name in ["kyiv", "wroclaw"] {
        let import = wg_quick(&format!("{name}.conf"));

        assert_same(&format!("wg-quick-{name}-gateway.toml"), &import.gateway);
        assert_same(&format!("wg-quick-{name}-forwarder.toml"), &import.forwarder);
        assert_same(&format!("wg-quick-{name}-findings.txt"), &printed(&import));
    }
}

fn routers() -> Import {
    mikrotik(&read("KYIV.rsc"), &read("WROCLAW.rsc")).unwrap_or_else(|error| panic!("{error}"))
}

fn mikrotik(edge: &str, origin: &str) -> Result<Import, ImportError> {
    let edge = Source { name: Path::new("KYIV.rsc"), text: edge };
    let origin = Source { name: Path::new("WROCLAW.rsc"), text: origin };
    import::mikrotik(&Exports::Both { edge: &edge, origin: &origin }, &|_| None)
}

fn wg_quick(name: &str) -> Import {
    import::wg_quick(
        &Source { name: Path::new(name), text: &read(name) },
        &WgQuickOptions::default(),
        &|_| own_key(),
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Replaces the caller's X25519.
fn own_key() -> Option<PublicKey> {
    PublicKey::new([7; 32])
}

fn printed(import: &Import) -> String {
    import.findings.iter().map(|finding| format!("{finding}\n")).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// `UPDATE=1` writes the file again; the difference is then reviewed like code.
fn assert_same(name: &str, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(folder().join(name), text).unwrap();
    }
    assert_eq!(read(name), text, "{name}");
}

#[test]
fn every_rule_of_both_routers_is_accounted_for_by_its_line() {
    let import = routers();
    for name in ["KYIV.rsc", "WROCLAW.rsc"] {
        for (line, menu) in rules(&read(name)) {
            let found = import.findings.iter().any(|finding| finding.at == Some((name.to_owned(), line)));
            assert!(found, "{name}:{line}: no finding for this command of {menu}");
        }
    }
}

#[test]
fn a_rule_with_a_condition_that_has_no_counterpart_is_not_carried() {
    let import = routers();

    assert!(!import.gateway.contains("631"), "a rule for the night became a rule for all day");
    let at_night = import.findings.iter().find(|finding| finding.text.contains("time=22h-6h")).unwrap();
    assert_eq!(at_night.kind, FindingKind::NoCounterpart);
}

#[test]
fn the_second_edge_keeps_its_own_tunnel_and_its_allow_list() {
    let policy = forwarder(&routers().forwarder);

    let oracle = policy.peers.iter().find(|peer| peer.name.as_str() == "oracle").unwrap();
    assert_eq!(oracle.address, ["10.88.99.2/30".parse().unwrap()]);
    let https = policy.services.iter().find(|service| service.name.as_str() == "https-oracle").unwrap();
    assert!(https.allow.admits("104.16.0.1".parse().unwrap(), |_| &[]));
    assert!(!https.allow.admits("203.0.113.10".parse().unwrap(), |_| &[]));
}

#[test]
fn keys_that_an_export_holds_go_to_files_and_into_no_text() {
    let key = "8GboYh0YF3q/hJhoPFoL3HM/ObgOuC8YI6UXWsgWL2M=";
    let edge = read("KYIV.rsc")
        .replace("name=wg-wroclaw\n", &format!("name=wg-wroclaw private-key=\"{key}\"\n"))
        .replace("comment=Wroclaw", &format!("comment=Wroclaw preshared-key=\"{key}\""));
    let import = mikrotik(&edge, &read("WROCLAW.rsc")).unwrap();

    let files: Vec<&str> = import.keys.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(files, ["kyiv.key", "wroclaw.psk"]);
    assert!(import.keys.iter().all(|file| file.text.trim() == key));
    assert!(import.gateway.contains("preshared_key_file = \"wroclaw.psk\""));
    assert!(
        ![import.gateway.as_str(), &import.forwarder, &printed(&import)]
            .iter()
            .any(|text| text.contains(key))
    );
}

#[test]
fn lists_are_files_that_the_edge_reads() {
    let import = routers();
    let list = import.lists.iter().find(|list| list.name == "lists/partners.list").unwrap();

    let source = Source { name: Path::new(&list.name), text: &list.text };
    assert_eq!(policy::sections::parse_list(&source).unwrap().len(), 2);
}

#[test]
fn exports_without_a_tunnel_between_them_are_refused() {
    for (edge, origin) in [("", ""), ("hello", "/ip address\nadd address=1.2.3.4/24"), ("<html>", "<html>")] {
        assert!(matches!(mikrotik(edge, origin), Err(ImportError::NoTunnel { .. })), "{edge:?}");
    }
    let text = "[Peer]\nPublicKey = a\n";
    let refused =
        import::wg_quick(&Source { name: Path::new("wg0.conf"), text }, &WgQuickOptions::default(), &|_| {
            None
        })
        .map(drop);
    assert!(matches!(refused, Err(ImportError::NotWgQuick { .. })));
}

#[test]
fn a_text_above_the_limit_is_refused() {
    let large = "#".repeat(import::MAX_BYTES + 1);
    assert!(matches!(mikrotik(&large, ""), Err(ImportError::TooLarge { .. })));
}

#[test]
fn no_text_makes_an_import_panic_and_what_it_writes_always_parses() {
    let mut random = Random::new(2026);
    let (edge, origin) = (read("KYIV.rsc"), read("WROCLAW.rsc"));
    let quick = read("kyiv.conf");
    let mut imported = 0;
    for round in 0..250 {
        let (edge, origin) = (mutilated(&edge, &mut random), mutilated(&origin, &mut random));
        match mikrotik(&edge, &origin) {
            Ok(import) => {
                gateway(&import.gateway);
                forwarder(&import.forwarder);
                imported += 1;
            }
            Err(error) => println!("{error}"),
        }
        let text = mutilated(&quick, &mut random);
        let derive = |_: &str| own_key().filter(|_| round % 2 == 0);
        if let Ok(import) = import::wg_quick(
            &Source { name: Path::new("wg0.conf"), text: &text },
            &WgQuickOptions::default(),
            &derive,
        ) {
            gateway(&import.gateway);
            forwarder(&import.forwarder);
        }
    }
    let both = |end: &str| {
        let path = format!("tests/wg-quick-both/origin-filters-{end}.conf");
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    };
    let (near, far) = (both("edge"), both("origin"));
    for _ in 0..150 {
        let (near, far) = (mutilated(&near, &mut random), mutilated(&far, &mut random));
        let source = |text| Source { name: Path::new("wg0.conf"), text };
        let options = WgQuickOptions::default();
        if let Ok(import) = import::wg_quick_both(&source(&near), &source(&far), &options, &|_| None) {
            gateway(&import.gateway);
            forwarder(&import.forwarder);
        }
    }
    // A torn rule refuses the whole export.
    assert!(imported > 30, "only {imported} of the mutilated exports still held a tunnel");
}

/// A text with some words and signs changed, some lines gone, doubled or swapped.
fn mutilated(text: &str, random: &mut Random) -> String {
    const WORDS: [&str; 24] = [
        "0.0.0.0/0",
        "::/0",
        "fd00::1/64",
        "192.168.88.2",
        "192.168.1.0/24",
        "10.77.88.2/32",
        "65535",
        "1-65535",
        "0",
        "\\",
        "\"",
        "[",
        "]",
        "=",
        "!",
        "yes",
        "tcp",
        "udp",
        "icmp",
        "wg-kyiv",
        "wg-wroclaw",
        "\u{1f980}",
        "99999999999999999999",
        "",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(6) {
        let at = usize::try_from(random.below(lines.len() as u64)).unwrap();
        match random.below(5) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines.swap(at, 0),
            3 => {
                let kept = usize::try_from(random.below(60)).unwrap();
                lines[at] = lines[at].chars().take(kept).collect();
            }
            _ => {
                let words: Vec<&str> = lines[at].split(['=', ' ', ',']).collect();
                let old = random.pick(&words).copied().unwrap_or_default().to_owned();
                let new = random.pick(&WORDS).copied().unwrap_or_default();
                lines[at] = lines[at].replacen(&old, new, 1);
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

/// The first line of every command in a menu that must be accounted for, by the plain look of the
/// text.
fn rules(text: &str) -> Vec<(u32, String)> {
    let (mut menu, mut rules, mut goes_on) = (String::new(), Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('/') {
            menu = line.to_owned();
        } else if !goes_on && line.starts_with("add") {
            let watched = ["/ip firewall", "/ip route", "/interface wireguard", "/routing"];
            if watched.iter().any(|start| menu.starts_with(start)) {
                rules.push((number, menu.clone()));
            }
        }
        goes_on = line.ends_with('\\');
    }
    assert!(rules.len() > 20);
    rules
}

fn gateway(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    let source = Source { name: Path::new("forwarder.toml"), text };
    forwarder::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

#[test]
fn exports_in_the_wrong_order_are_refused_where_every_sign_says_so() {
    let (edge, origin) =
        (read("KYIV.rsc").replace("name=peer1 persistent-keepalive=25s", "name=peer1"), read("WROCLAW.rsc"));
    assert!(mikrotik(&edge, &origin).is_ok());

    let Err(ImportError::Ambiguous { at, what }) = mikrotik(&origin, &edge) else {
        panic!("the roles were swapped")
    };
    assert_eq!(at, "KYIV.rsc");
    assert!(what.contains("give the edge's export first: WROCLAW.rsc KYIV.rsc"), "{what}");
}

#[test]
fn chains_that_jump_again_and_again_end_in_time() {
    let mut rules = String::from("/ip firewall filter\n");
    for level in 0..14 {
        let chain = if level == 0 { "forward".to_owned() } else { format!("c{level}") };
        rules.push_str(&format!("add action=jump chain={chain} jump-target=c{}\n", level + 1).repeat(4));
    }
    let edge = format!("{}\n{rules}", read("KYIV.rsc"));
    let started = std::time::Instant::now();
    let import = mikrotik(&edge, &read("WROCLAW.rsc")).unwrap();

    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(import.gateway.contains("[interface]"));
}

#[test]
fn a_long_list_of_destinations_is_read_in_time() {
    let mut rules = String::from("/ip firewall address-list\n");
    for number in 0..100_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        rules.push_str(&format!("add address={}.{b}.{c}.7 list=many\n", 11 + a * 2));
    }
    rules.push_str("/ip firewall raw\nadd action=drop chain=prerouting dst-address-list=many\n");
    let edge = format!("{}\n{rules}", read("KYIV.rsc"));
    let started = std::time::Instant::now();
    assert!(mikrotik(&edge, &read("WROCLAW.rsc")).is_ok());

    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}
