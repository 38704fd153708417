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

#[test]
fn a_dotenv_is_read_as_compose_reads_it_and_its_values_come_out_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "example.com");
    let compose = "services:\n  web:\n    image: x\n    environment: { A: \"${AAA}\", C: \"${CCC}\" }\n    ports: [\"127.0.0.1:${WEB_PORT:-8080}:80\"]\n";
    tree.write("kyiv/web.yaml", compose);
    tree.write("kyiv/.env", "\u{feff}AAA=\"quoted\"\r\nCCC=three # comment\r\nWEB_PORT=9090\r\n");
    let said = alone(&tree, "kyiv", Some(&bin), &["adopt"]).expect(0);
    assert!(
        said.out.contains("web: read from kyiv/web.yaml, kyiv/.env\nweb: compose config: identical"),
        "{}",
        said.out
    );
    alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(0);
    let env = tree.read("kyiv/.stack/services/web/compose.env");
    assert!(env.contains("AAA=\"quoted\"\nCCC=\"three\"\n") && env.contains("WEB_PORT=\"9090\""), "{env}");
    // The files of stackctl win over it, and adopt names what that changes.
    tree.write("kyiv/.env.user", "DOMAIN=example.com\nCCC=$AAA\n");
    let said = alone(&tree, "kyiv", Some(&bin), &["adopt"]).expect(10);
    assert!(
        said.out.contains("services.web.environment.C: 6 characters today, 4 by stackctl"),
        "{}",
        said.out
    );
}

#[test]
fn a_variable_without_value_and_default_is_refused_with_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "example.com");
    tree.edit(
        "kyiv/monitoring.yaml",
        "ports:",
        "labels: [\"a=${NOT_THERE}\", \"b=${DEFAULT:-x}\"]\n    ports:",
    );
    let said = alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(4);
    let line = "kyiv/monitoring.yaml:3:17: NOT_THERE has no value and no default";
    assert!(said.err.contains(line), "{}", said.err);
    assert!(!said.err.contains("DEFAULT has no value"), "{}", said.err);
    tree.edit("kyiv/monitoring.yaml", "${NOT_THERE}", "${NOT_THERE:-}");
    alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(0);
}

#[test]
fn a_placeholder_in_a_file_that_only_compose_reads_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "example.com");
    tree.write("kyiv/mail.yaml", "include: [inc/part.yaml]\nservices: {}\n");
    tree.write(
        "kyiv/inc/part.yaml",
        "services: { part: { image: x, environment: { D: \"{{DOMAIN}} {{OWN}}\" } } }\n",
    );
    let said = alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(4);
    assert!(
        said.err.contains("mail: {{DOMAIN}} is left in a file that Compose reads besides"),
        "{}",
        said.err
    );
    assert!(!said.err.contains("{{OWN}}"), "{}", said.err);
    tree.edit("kyiv/inc/part.yaml", "{{DOMAIN}}", "${DOMAIN}");
    alone(&tree, "kyiv", Some(&bin), &["setup"]).expect(0);
}

#[test]
fn a_dotenv_of_a_folder_names_its_files_project_and_profiles() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tree, bin) = old_tree(dir.path(), "example.com");
    tree.write("kyiv/photos/compose.yaml", "services: { a: { image: x } }\n");
    tree.write("kyiv/photos/prod.yaml", "services: { b: { image: x }, c: { image: x, profiles: [more] } }\n");
    tree.write(
        "kyiv/photos/.env",
        "COMPOSE_FILE=compose.yaml:prod.yaml\nCOMPOSE_PROJECT_NAME=immich\nCOMPOSE_PROFILES=more\n",
    );
    let said = alone(&tree, "kyiv", Some(&bin), &["photos", "print-command", "--json"]).expect(0).json();
    let command = said["commands"][0]["command"].as_str().expect("text");
    assert!(command.contains("--project-name immich") && command.contains("photos/prod.yaml"), "{command}");
    alone(&tree, "kyiv", Some(&bin), &["photos", "setup"]).expect(0);
    let labels = tree.read("kyiv/.stack/services/photos/labels.yaml");
    for container in ["\"a\"", "\"b\"", "\"c\""] {
        assert!(labels.contains(container), "{container}: {labels}");
    }
}

/// Files that people have, each with two variables that Compose is asked for.
const DOTENVS: [&str; 38] = [
    "T1=a$\n",
    "T1=$1\n",
    "T1=a$$b\n",
    "T1=\"a\\$b\"\n",
    "T1='a$b'\n",
    "T1=x # c\nT2=x#c\n",
    "T1=#c\nT2= #c\n",
    "T1=\"a # b\" # c\nT2=1\n",
    "T1=\"a\" b\nT2=1\n",
    "T1=\"a\nb\"\nT2='c\nd'\n",
    "T1=\"a\\nb\\tc\\x\\r\\\\\"\n",
    "\u{feff}T1=bom\n",
    "T1=a\r\nT2=b\r\n",
    "T1=\"a\"\r\nT2='b'\r\n",
    "T1: yaml\nT2:\n",
    "export T1=e\nexport  T2=\"e\"\n",
    "T1\nT2=1\n",
    "T1=${T2:-d${Q:-e}}\n",
    "T2=z\nT1=${T2:+alt}-${T2}-$T2\n",
    "T1=${Q:?no such}\n",
    "T1=${Q?no}\n",
    "T1=${Q}x$Q\n",
    "T1=a\tb\t#c\n",
    "T1=  a  \nT2 = b\n",
    "T1=\"open\n",
    "T1='it\\'s'\nT2=\"a\\\"b\"\n",
    "T1=${T2\n",
    "T1=${}\n",
    "A B=1\nT1=x\n",
    "A-B=1\nT1=x\n",
    "T1=${PWD}\n",
    "T2=\nT1=${T2-d}${T2:-e}${T2+f}\n",
    "T1=1\nT1=2\n",
    "T1=p$T2q-$T2\nT2=5\n",
    "T1=a'b'\nT2=\"$$x\"\n",
    "T1=\"\\\\$T2\"\nT2=x\n",
    "T1=\n\n# c\n  T2=x",
    "T1=\"${Q:-a b}\"\nT2=${Q:-\"q\"}\n",
];

#[test]
fn every_form_of_a_dotenv_has_the_value_that_compose_itself_gives_it() {
    let plugin = packages("docker").join("usr/libexec/docker/cli-plugins/docker-compose");
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().canonicalize().expect("there");
    let file = "services: { p: { image: x, environment: { T1: \"${T1-unset}\", T2: \"${T2-unset}\" } } }\n";
    std::fs::write(dir.join("compose.yaml"), file).expect("written");
    for text in DOTENVS {
        std::fs::write(dir.join(".env"), text).expect("written");
        let output = std::process::Command::new(&plugin)
            .args(["--project-name", "x", "config", "--format", "json"])
            .env_clear()
            .env("PWD", &dir)
            .current_dir(&dir)
            .output()
            .expect("compose runs");
        let theirs = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok().map(|model| {
            let value = |name: &str| {
                model["services"]["p"]["environment"][name].as_str().expect("text").replace("$$", "$")
            };
            [value("T1"), value("T2")]
        });
        let outer = |name: &str| (name == "PWD").then(|| dir.display().to_string());
        let ours = stackctl::dotenv::parse(text, &outer).ok().map(|settings| {
            let value = |name: &str| {
                let last = settings.iter().rev().find(|setting| setting.name == name);
                last.map_or_else(|| "unset".to_owned(), |setting| setting.value.clone())
            };
            [value("T1"), value("T2")]
        });
        assert_eq!(ours, theirs, "{text:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
