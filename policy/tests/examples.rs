//! The annotated examples are valid, and show the defaults.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::path::{Path, PathBuf};

use policy::{FileLocation, Source, forwarder, gateway};

#[test]
fn the_annotated_gateway_configuration_is_valid() {
    let policy = gateway(&read("gateway.toml"));

    assert_eq!(policy.warnings, []);
    assert_eq!(policy.peers[0].probe, Some([10, 77, 88, 2].into()));
    assert_eq!(policy.publish[0].targets[0].peer.as_str(), "wroclaw");
    assert_eq!(
        policy.interface.private_key_file.location,
        FileLocation::Path(PathBuf::from("/etc/causeway/keys/kyiv.key"))
    );
}

#[test]
fn the_annotated_forwarder_configuration_is_valid() {
    let policy = forwarder(&read("forwarder.toml"));

    assert_eq!(policy.warnings, []);
    assert_eq!(policy.peers[0].probe, Some([10, 77, 88, 1].into()));
}

#[test]
fn every_default_that_the_gateway_example_names_is_the_default() {
    let full = gateway(&read("gateway.toml"));
    let short = gateway(&only_required(&read("gateway.toml"), &["interface", "wan", "peer"]));

    assert_eq!(full.interface, short.interface);
    assert_eq!(full.control, short.control);
    assert_eq!(full.link, short.link);
    assert_eq!(full.state_directory, short.state_directory);
    assert_eq!(full.log, short.log);
    assert_eq!(full.offload, short.offload);
    assert_eq!(full.kernel, short.kernel);
    assert_eq!(full.container_interfaces, short.container_interfaces);
    assert_eq!(full.watch, short.watch);
}

#[test]
fn every_default_that_the_forwarder_example_names_is_the_default() {
    let full = forwarder(&read("forwarder.toml"));
    let short = forwarder(&only_required(&read("forwarder.toml"), &["interface", "peer"]));

    assert_eq!(full.interface, short.interface);
    assert_eq!(full.peers[0].keepalive, short.peers[0].keepalive);
    assert_eq!(full.peers[0].allowed_ips, short.peers[0].allowed_ips);
    assert_eq!(full.limits, short.limits);
    assert_eq!(full.link, short.link);
    assert_eq!(full.state_directory, short.state_directory);
    assert_eq!(full.log, short.log);
    assert_eq!(full.offload, short.offload);
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn gateway(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("/etc/causeway/gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    let source = Source { name: Path::new("/etc/causeway/forwarder.toml"), text };
    forwarder::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The lines that are marked as required, in the sections that a minimal file has.
fn only_required(text: &str, sections: &[&str]) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            let title = line.split('#').next().unwrap().trim().trim_matches(['[', ']']);
            inside = sections.contains(&title);
            if inside {
                kept.push_str(line);
                kept.push('\n');
            }
        } else if inside && line.contains("# required") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}
