//! `adopt` on a tree that the shell scripts kept: proof without change, through real Compose (no engine is needed).

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::path::{Path, PathBuf};

use support::{Tree, alone, executable, packages};

const BASE: &str = "services:\n  grafana:\n    image: grafana/grafana:11.4.0\n    environment:\n      - PASSWORD={{GRAFANA_PASSWORD}}\n      - ROOT=${DOMAIN}\n    volumes: [\"${PWD}/monitoring/grafana.ini:/etc/grafana.ini\"]\n";

#[test]
fn a_tree_that_comes_out_the_same_is_adopted_without_a_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "example.com");
    let before = tree.fingerprint();
    let said = alone(&tree, "kyiv", Some(&bin), &["adopt"]).expect(0);
    assert!(said.out.contains("monitoring: monitoring/grafana.ini: identical"), "{}", said.out);
    assert!(said.out.contains("monitoring: compose config: identical"), "{}", said.out);
    let first = tree.read("stack.toml");
    assert!(
        first.contains("[secrets.monitoring]\nGRAFANA_PASSWORD = { kind = \"password\", length = 24 }"),
        "{first}"
    );
    let mut after = tree.fingerprint();
    after.remove(&tree.root.join("stack.toml"));
    assert!(after == before, "nothing but stack.toml may come");
    alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(0);
    assert_eq!(tree.read("kyiv/.env.generated"), "GRAFANA_PASSWORD=abcDEFghi123456789012345\n");
}

#[test]
fn what_comes_out_otherwise_is_shown_with_secrets_masked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "a$b.example.com");
    let said = alone(&tree, "kyiv", Some(&bin), &["adopt"]).expect(10);
    assert!(said.out.contains("monitoring: compose config: differs"), "{}", said.out);
    assert!(said.out.contains("ROOT"), "{}", said.out);
    assert!(!said.out.contains("abcDEFghi123456789012345"), "{}", said.out);
}

#[test]
fn a_required_variable_that_is_empty_is_refused_with_its_message() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "");
    tree.edit("_base/monitoring.yaml", "${DOMAIN}", "${DOMAIN:?set it in .env.user}");
    let before = tree.read("kyiv/monitoring/grafana.ini");
    let said = alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(4);
    assert!(said.err.contains("DOMAIN") && said.err.contains("set it in .env.user"), "{}", said.err);
    assert_eq!(tree.read("kyiv/monitoring/grafana.ini"), before);
}

fn old_tree(dir: &Path, domain: &str) -> (Tree, PathBuf) {
    let root = dir.canonicalize().expect("there").join("tree");
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("made");
    let plugin = packages("docker").join("usr/libexec/docker/cli-plugins/docker-compose");
    // `docker compose` as the plugin alone answers it.
    executable(&bin.join("docker"), &format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", plugin.display()));
    let tree = Tree::of(
        &root,
        &[
            ("_base/monitoring.yaml", BASE),
            ("kyiv/monitoring.yaml", "services:\n  grafana:\n    ports: [\"3000:3000\"]\n"),
            ("kyiv/monitoring/grafana.ini.tmpl", "password = {{GRAFANA_PASSWORD}}\n"),
            ("kyiv/monitoring/grafana.ini", "password = abcDEFghi123456789012345\n"),
            ("kyiv/.env.generated", "GRAFANA_PASSWORD=abcDEFghi123456789012345\n"),
            ("kyiv/.env.user", &format!("DOMAIN={domain}\n")),
        ],
    );
    (tree, bin)
}
