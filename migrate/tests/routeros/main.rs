//! Exports of routers as people have them, and what becomes of each.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod mutation;
mod packets;
mod reference;
mod variants;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use arbitrary::Random;
use migrate::import::{self, Exports, FindingKind, Import, ImportError};
use policy::{Source, forwarder, gateway};

/// `table.txt` has what is public, what is private, and which rules are refused and why, for each
/// pair of files; `UPDATE=1` writes it again, and the difference is reviewed like code.
#[test]
fn each_pair_of_exports_becomes_what_the_table_says() {
    let mut table = String::new();
    for name in names() {
        let _ = writeln!(table, "{name}");
        match imported(&name) {
            Err(error) => {
                let _ = writeln!(table, "  refused whole: {error}");
            }
            Ok(import) => describe(&import, &mut table),
        }
    }
    let path = folder().join("table.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), table);
}

#[test]
fn what_the_result_lets_in_both_routers_let_in() {
    let mut total = 0;
    for name in names() {
        let (Some(edge), Ok(import)) = (text(&name, "edge"), imported(&name)) else { continue };
        if name.contains("wg-quick") {
            continue;
        }
        let origin = text(&name, "origin");
        total += case(&name, &edge, origin.as_deref().map(String::as_str), &import)
            .try_packets(1_500, &mut Random::new(15));
    }
    assert!(total > 500, "only {total} packets were let in, so little was compared");
}

#[test]
fn every_word_of_a_carried_rule_or_of_its_route_decides_about_the_result_or_the_verdict() {
    let mut count = 0;
    let mut idle = Vec::new();
    for name in names() {
        let (edge, origin) = (text(&name, "edge"), text(&name, "origin"));
        let both = [edge, origin].map(|text| text.map(|text| mutation::joined(&text)));
        let Ok(import) = import_texts(both[0].as_deref(), both[1].as_deref()) else { continue };
        let before = mutation::said(&import);
        for (side, file) in [(0, "edge.rsc"), (1, "origin.rsc")] {
            let Some(text) = &both[side] else { continue };
            let mut lines = mutation::carried(&import, file, text);
            if side == 0 {
                lines.extend(mutation::routes(&import, text));
            }
            for mutant in mutation::mutants(text, &lines) {
                count += 1;
                let mut changed = both.clone();
                changed[side] = Some(mutant.text);
                let after = import_texts(changed[0].as_deref(), changed[1].as_deref());
                if after.is_ok_and(|import| mutation::said(&import) == before) {
                    idle.push(format!("{name} {file} {}", mutant.what));
                }
            }
        }
    }
    assert!(count > 300, "only {count} changes were tried");
    assert_eq!(idle, Vec::<String>::new(), "{} of {count} changes change nothing", idle.len());
}

#[test]
fn a_result_that_lets_in_more_is_noticed() {
    let name = "02-office-only";
    let (edge, origin) = (text(name, "edge").unwrap(), text(name, "origin").unwrap());
    let import = imported(name).unwrap();
    let mut case = case(name, &edge, Some(&origin), &import);
    for publish in &mut case.gateway.publish {
        publish.allow = policy::AllowList::Any;
    }
    let tried = std::panic::catch_unwind(|| case.try_packets(1_500, &mut Random::new(15)));
    let message = tried.unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("is let in, and the routers refused it"), "{message}");
}

fn case<'c>(name: &'c str, edge: &str, origin: Option<&str>, import: &Import) -> packets::Case<'c> {
    let (mut gateway, mut forwarder) = (gateway(&import.gateway), forwarder(&import.forwarder));
    for list in gateway.lists.iter_mut().chain(&mut forwarder.lists) {
        let file = import.lists.iter().find(|file| file.name == format!("lists/{}.list", list.name)).unwrap();
        list.load(&Source { name: Path::new(&file.name), text: &file.text }).unwrap();
    }
    let (edge, origin) = (reference::Router::read(edge), origin.map(reference::Router::read));
    packets::Case { name, edge, origin, gateway, forwarder }
}

fn describe(import: &Import, table: &mut String) {
    let gateway = gateway(&import.gateway);
    let forwarder = forwarder(&import.forwarder);
    for finding in import.findings.iter().filter(|finding| finding.kind == FindingKind::Public) {
        let _ = writeln!(table, "  public: {}", finding.text);
    }
    for list in &import.lists {
        let _ = writeln!(table, "  list: {} has {} prefixes", list.name, list.text.lines().count());
    }
    for allow in &gateway.allow {
        let text = format!("{:?} → {:?} {:?} {:?}", allow.from, allow.to, allow.service, allow.source);
        let _ = writeln!(table, "  private: {} {}", allow.name, text);
    }
    for service in &forwarder.services {
        let upstreams: Vec<String> = service.upstreams.iter().map(ToString::to_string).collect();
        let to = service.addresses.first().map_or_else(|| "*".to_owned(), |address| address.ip().to_string());
        let (peers, allow) = (&service.peers, &service.allow);
        let _ = writeln!(
            table,
            "  service: {} {to} {} → {} of {peers:?} for {allow:?}",
            service.name,
            service.ports,
            upstreams.join(", ")
        );
    }
    for reach in &forwarder.reach {
        let _ = writeln!(table, "  reach: {} {} → {}", reach.name, reach.listen, reach.target);
    }
    for finding in &import.findings {
        if finding.kind == FindingKind::NoCounterpart {
            let _ = writeln!(table, "  {finding}");
        }
    }
}

/// The names of all pairs: those of files, and the variants of one.
fn names() -> Vec<String> {
    let variants = variants::VARIANTS.iter().map(|variant| variant.name.to_owned());
    files().into_iter().chain(variants).collect()
}

/// The names of all pairs of files.
fn files() -> BTreeSet<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name());
    let files = files.filter_map(|file| file.into_string().ok());
    let pairs = files.filter_map(|file| {
        Some(
            file.rsplit_once('.')?
                .0
                .rsplit_once('-')
                .filter(|(_, side)| ["edge", "origin"].contains(side))?
                .0
                .to_owned(),
        )
    });
    pairs.collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routeros/exports")
}

fn imported(name: &str) -> Result<Import, ImportError> {
    let (edge, origin) = (text(name, "edge"), text(name, "origin"));
    import_texts(edge.as_deref().map(String::as_str), origin.as_deref().map(String::as_str))
}

fn text(name: &str, side: &str) -> Option<zeroize::Zeroizing<String>> {
    if let Some(variant) = variants::VARIANTS.iter().find(|variant| variant.name == name) {
        return Some(if side == "edge" { variant.edge() } else { variant.origin() }.into());
    }
    let path = |kind: &str| folder().join(format!("{name}-{side}.{kind}"));
    let file = [path("rsc"), path("conf")].into_iter().find(|path| path.exists())?;
    let bytes = std::fs::read(&file).ok()?;
    Some(import::decode(&file, &bytes).unwrap_or_else(|error| panic!("{error}")))
}

fn import_texts(edge: Option<&str>, origin: Option<&str>) -> Result<Import, ImportError> {
    let edge = edge.map(|text| Source { name: Path::new("edge.rsc"), text });
    let origin = origin.map(|text| Source { name: Path::new("origin.rsc"), text });
    let exports = match (&edge, &origin) {
        (Some(edge), Some(origin)) => Exports::Both { edge, origin },
        (Some(edge), None) => Exports::Edge(edge),
        (None, Some(origin)) => Exports::Origin(origin),
        (None, None) => panic!("there is no file"),
    };
    import::mikrotik(&exports, &|_| None)
}

fn gateway(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    let source = Source { name: Path::new("forwarder.toml"), text };
    forwarder::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}
